import pytest
import torch

from detour.generation.pushes import compare_pushes


def test_the_same_move_agrees_doubles_and_amplifies_both() -> None:
    move = torch.randn(3, 50, generator=torch.Generator().manual_seed(0)).double()
    found = compare_pushes(move, move, 2 * move)
    assert (found.agreement, found.louder) == pytest.approx((1.0, 2.0))
    assert (found.kept_first, found.kept_second) == pytest.approx((2.0, 2.0))


def test_unrelated_moves_that_add_up_leave_each_other_alone() -> None:
    first, second = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 4.0]])
    found = compare_pushes(first, second, first + second)
    assert (found.agreement, found.louder) == pytest.approx((0.0, 1.25))
    assert (found.kept_first, found.kept_second) == pytest.approx((1.0, 1.0))


def test_a_move_that_the_other_undoes_is_not_kept() -> None:
    first, second = torch.tensor([[1.0, 0.0]]), torch.tensor([[-1.0, 0.5]])
    found = compare_pushes(first, second, first + second)
    assert found.agreement < -0.8
    assert found.kept_first == pytest.approx(0.0)


def test_a_move_of_nothing_has_no_figures() -> None:
    none = torch.zeros(1, 4)
    assert compare_pushes(none, none, none).louder == 0.0
