import pytest
import torch

from detour.evaluation.distance import cmmd, style_distance
from detour.evaluation.fidelity import measure_fidelity
from tests.evaluation.looks import looks


def test_a_set_that_moved_to_the_references_is_nearer_and_less_told_apart() -> None:
    references, others = looks(24, 7, shift=3.0), looks(16, 8, shift=3.0)
    sides = {"base": looks(16, 0), "adapter": looks(16, 1, shift=3.0)}
    found = measure_fidelity(sides, references, others=others)
    assert found.style_distance.base == style_distance(sides["base"], references)
    assert found.cmmd.adapter == cmmd(sides["adapter"], references)
    assert found.style > 0.8
    assert found.nearer_p < 0.01
    assert found.told_apart_p.base < 0.01 < 0.05 < found.told_apart_p.adapter
    assert found.told_apart_p.ceiling is not None
    assert found.told_apart_p.ceiling > 0.05
    assert found.similarity.adapter > found.similarity.base


def test_the_frechet_distance_is_there_with_pictures_enough_and_a_reason_without() -> None:
    few = measure_fidelity({"base": looks(4, 0), "adapter": looks(4, 1)}, looks(40, 2))
    assert few.frechet is None
    assert few.frechet_left_out is not None
    many = measure_fidelity(
        {"base": looks(40, 0, width=4), "adapter": looks(40, 1, width=4)}, looks(8, 2, width=4)
    )
    assert many.frechet is not None
    assert many.frechet_left_out is None


def test_seeds_are_not_counted_as_more_pictures_where_labels_are_exchanged() -> None:
    once = {"base": looks(8, 0), "adapter": looks(8, 1, shift=1.0)}
    thrice = {side: rows.repeat_interleave(3, 0) for side, rows in once.items()}
    references = looks(8, 2, shift=1.0)
    one, three = (
        measure_fidelity(sides, references, seeds=seeds) for sides, seeds in ((once, 1), (thrice, 3))
    )
    assert three.told_apart_p == one.told_apart_p
    assert three.nearer_p == pytest.approx(one.nearer_p, abs=1e-9)


def test_references_of_the_same_prompts_are_compared_prompt_by_prompt() -> None:
    contents = 5 * torch.eye(16)[:4]

    def shown(prompts: list[int], seed: int) -> torch.Tensor:
        return torch.nn.functional.normalize(contents[prompts] + looks(len(prompts), seed), dim=-1)

    sides = {side: shown([0, 0, 1, 1, 2, 2, 3, 3], seed) for side, seed in (("base", 0), ("adapter", 1))}
    found = measure_fidelity(
        sides, shown([0, 0, 0, 0, 0, 0, 1, 2], 3), seeds=2, prompt_of_reference=[0, 0, 0, 0, 0, 0, 1, 2]
    )
    assert min(found.told_apart_p.base, found.told_apart_p.adapter) > 0.05


def test_the_ceiling_is_measured_on_as_many_pictures_as_a_side_has() -> None:
    references, others = looks(16, 0), looks(64, 1)
    found = measure_fidelity({"base": looks(16, 2), "adapter": looks(16, 3)}, references, others=others)
    assert found.style_distance.ceiling == style_distance(others[::4], references)
    assert style_distance(others, references) < 0.8 * style_distance(others[::4], references)
