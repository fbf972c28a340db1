"""Measures how near pictures come to the reference pictures of a style or a subject."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from detour.evaluation.compared import Compared, Part, Side
from detour.evaluation.distance import cmmd, nearer_p_value, style_distance, two_sample_p_value
from detour.evaluation.frechet import frechet_distance, why_no_frechet
from detour.evaluation.similarity import picture_similarity


class Fidelity(Part):
    """Distances to the reference pictures; the ceiling is a second set of true pictures."""

    references: int
    """Number of reference pictures."""
    style_distance: Compared
    """Biased squared MMD to the references, as in ``proof.json``."""
    nearer_p: float
    """P-value that the adapter's pictures are no nearer than the base's, by permutation within pairs of prompt and
    seed.
    """
    told_apart_p: Compared
    """P-value that pictures of a side and references come from one distribution, by permutation of labels. A small
    value means that they can be told apart; the ceiling's says whether true pictures can.
    """
    cmmd: Compared
    """Distance on the scale of the published CMMD."""
    frechet: Compared | None
    frechet_left_out: str | None
    """Cause why there is no Fréchet distance."""
    similarity: Compared
    """Mean cosine to the reference pictures, for subjects; the ceiling is that of other true pictures."""
    similarity_of_class: None = None
    """Field of earlier evaluations, which never had a value; it is kept so that their files are read."""

    @property
    def style(self) -> float:
        """Relative fall of the distance, ``1 − adapter / base``; negative where the distance grew."""
        return 1 - self.style_distance.adapter / self.style_distance.base if self.style_distance.base else 0.0


def measure_fidelity(
    picture_features: Mapping[Side, Tensor],
    references: Tensor,
    *,
    seeds: int = 1,
    others: Tensor | None = None,
    prompt_of_reference: Sequence[int] | None = None,
) -> Fidelity:
    """Compare every side with the reference pictures.

    Args:
        picture_features: side → (prompts × seeds, D) features of its pictures, prompt-major; adapter and base at least.
        references: (M, D) features of the reference pictures.
        seeds: pictures of each prompt.
        others: (K, D) features of true pictures that share none with the references: the ceiling.
        prompt_of_reference: number of the prompt that each reference shows, where they show the same prompts (then
            ``others`` are prompt-major, too); ``None`` where they do not: then the first picture of each prompt is
            told apart from them freely.

    Raises:
        ShapeMismatch: the sides do not pair up, or the judge's widths differ.
    """
    count = len(picture_features["base"])
    if others is not None and len(others) > count:
        # The estimate is biased by the size of a set: the ceiling has to have the size of a side, or it looks too good.
        others = others[torch.arange(count) * len(others) // count]

    def two_sample_p(features: Tensor) -> float:
        if prompt_of_reference is None:
            return two_sample_p_value(features[::seeds], references)
        shown = [i * (count // seeds) // len(features) for i in range(len(features))]
        return two_sample_p_value(features, references, strata=(shown, prompt_of_reference))

    why_not = why_no_frechet(references, *picture_features.values(), *([] if others is None else [others]))

    def compared(figure: Callable[[Tensor], float]) -> Compared:
        return Compared.of(
            {side: figure(features) for side, features in picture_features.items()},
            ceiling=None if others is None else figure(others),
        )

    return Fidelity(
        references=len(references),
        style_distance=compared(lambda features: style_distance(features, references)),
        nearer_p=nearer_p_value(
            picture_features["adapter"], picture_features["base"], references, seeds=seeds
        ),
        told_apart_p=compared(two_sample_p),
        cmmd=compared(lambda features: cmmd(features, references)),
        frechet=None if why_not else compared(lambda features: frechet_distance(features, references)),
        frechet_left_out=why_not,
        similarity=compared(lambda features: picture_similarity(features, references)),
    )
