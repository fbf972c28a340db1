import torch

from detour.training.loss_scale import LossScale


def test_scale_moves_as_torchs_own_does() -> None:
    reference = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=3)
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=0.0)
    mine = LossScale(scale=1024.0, interval=3)
    for finite in [1, 1, 0, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1, 1, 1]:
        reference.scale(torch.zeros(()))  # it makes its state when first asked
        weight.grad = torch.full((1,), 1.0 if finite else float("inf"))
        reference.step(optimizer)
        reference.update()
        mine.succeeded() if finite else mine.overflowed()
        assert mine.scale == reference.get_scale()
    assert mine.repeated == 3


def test_state_put_back_is_the_same() -> None:
    scale = LossScale(scale=512.0, interval=4)
    for _ in range(3):
        scale.succeeded()
    scale.overflowed()
    scale.succeeded()
    again = LossScale(interval=4)
    again.load(scale.tensor())
    assert again == scale


def test_below_one_it_is_hopeless() -> None:
    scale = LossScale(scale=2.0)
    scale.overflowed()
    assert not scale.hopeless
    scale.overflowed()
    assert scale.hopeless
