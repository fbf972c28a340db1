"""Measures what an adapter changes in pictures of unrelated prompts."""

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from detour.errors import ShapeMismatch
from detour.evaluation.change import Change
from detour.evaluation.compared import Compared, Part, Side
from detour.evaluation.diversity import distances_within, pixels_within
from detour.evaluation.pixels import Pictures, thumbnails
from detour.evaluation.prompt_keeping import Hits, PromptPart, measure_prompt_keeping


class Moved(Part):
    """Distance of pictures to the base's of the same prompt and seed."""

    adapter: float
    rate_zero: float | None = None
    """Distance with an adapter trained at rate 0, which is zero apart from rounding."""
    shuffled: float | None = None
    no_prior: float | None = None
    other_seeds: float | None
    """How far the base's own pictures of one prompt lie apart when only the seed is another: the control. ``None``:
    one seed a prompt has no other."""

    @property
    def share(self) -> float | None:
        """Distance with the adapter; 1 is the distance of the base's own pictures with another seed."""
        return self.adapter / self.other_seeds if self.other_seeds else None


class Drift(Part):
    """Figures of one set of unrelated prompts, either with the trigger in them or without."""

    prompts: int
    seeds: int
    judge: Moved
    """One minus the cosine of the judge's features, 0 to 2."""
    pixels: Moved
    """Mean absolute difference of 16-pixel thumbnails, in steps of 255."""
    clip_score: Compared
    """Mean cosine of picture and prompt, times 100, as in prompt keeping."""
    clip_change: Change
    parts: dict[str, PromptPart] | None
    """Figures of object, colour and place, where these are known."""


def measure_drift(
    pictures: Mapping[Side, Pictures],
    picture_features: Mapping[Side, Tensor],
    prompt_features: Tensor,
    *,
    seeds: int,
    hits: Mapping[Side, Hits] | None = None,
) -> Drift:
    """Compare every side with the base on unrelated prompts.

    Args:
        pictures: side → uint8 (prompts × seeds, H, W, 3), prompt-major; adapter and base at least.
        picture_features: side → (prompts × seeds, D) their features, rows of length one.
        prompt_features: (prompts, D) features of the prompts, without the trigger.
        seeds: pictures of each prompt; with two or more there is a control.
        hits: side → whether each part of the prompt is shown, where that is known.

    Raises:
        ShapeMismatch: the sides do not pair up.
    """
    if len({*map(len, pictures.values()), *map(len, picture_features.values())}) != 1:
        raise ShapeMismatch("the sides have not the same number of pictures, so their drift cannot be told.")
    others = [side for side in picture_features if side != "base"]
    judge = {
        side: float(
            (1 - (picture_features[side].double() * picture_features["base"].double()).sum(-1))
            .clamp_min(0)
            .mean()
        )
        for side in others
    }
    small = {side: thumbnails(rows) for side, rows in pictures.items()}
    pixels = {side: float(np.abs(small[side] - small["base"]).mean()) for side in others}
    again: tuple[float | None, float | None] = (None, None)
    if seeds > 1:
        again = (
            float(distances_within(picture_features["base"], seeds=seeds).mean()),
            float(pixels_within(pictures["base"], seeds=seeds).mean()),
        )
    kept = measure_prompt_keeping(picture_features, prompt_features, seeds=seeds, hits=hits)
    return Drift(
        prompts=kept.prompts,
        seeds=seeds,
        judge=Moved(**judge, other_seeds=again[0]),
        pixels=Moved(**pixels, other_seeds=again[1]),
        clip_score=kept.clip_score,
        clip_change=kept.clip_change,
        parts=kept.parts,
    )
