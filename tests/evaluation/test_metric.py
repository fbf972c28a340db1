import numpy as np
import torch

from detour.evaluation.metric import Measured, all_metrics
from detour.evaluation.metrics import own_prompt
from tests.evaluation.looks import looks


def measured(adapter: torch.Tensor, base: torch.Tensor, *, seeds: int = 1) -> Measured:
    blank = np.zeros((len(base), 2, 2, 3), np.uint8)
    return Measured(
        pictures={"base": blank, "adapter": blank},
        picture_features={"base": base, "adapter": adapter},
        texts=base[::seeds],
        own=None,
        seeds=seeds,
    )


def test_every_file_of_the_folder_is_a_metric_that_says_what_it_is() -> None:
    found = all_metrics()
    assert "own_prompt" in [one.name for one in found]
    for one in found:
        assert one.text
        assert one.controls
        assert one.name in one.note


def test_pictures_that_a_style_moved_together_still_lie_next_to_their_own_prompts() -> None:
    base = looks(8, 0)
    moved = torch.nn.functional.normalize(base + 3 * looks(1, 1), dim=-1)
    kept = own_prompt.measure(measured(moved, base))
    assert kept is not None
    assert (kept.adapter, kept.base) == (1.0, 1.0)


def test_pictures_of_other_prompts_lie_next_to_those() -> None:
    base = looks(8, 0)
    shifted = own_prompt.measure(measured(base.roll(2, 0), base, seeds=2))
    assert shifted is not None
    assert (shifted.adapter, shifted.base) == (0.0, 1.0)
    assert own_prompt.measure(measured(base[:1], base[:1])) is None
