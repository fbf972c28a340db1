"""Cosines in the judge's features: of pictures and their prompts, and of pictures of the same subject."""

from torch import Tensor

from detour.errors import ShapeMismatch

CLIP_SCORE_SCALE = 100.0
"""Factor of cosines in torchmetrics and most papers; Hessel et al. 2021, arXiv:2104.08718, multiply by 2.5."""


def clip_scores(picture_features: Tensor, prompt_features: Tensor, *, seeds: int = 1) -> Tensor:
    """CLIP score of each picture and its prompt: 100 times the cosine.

    Args:
        picture_features: (prompts × seeds, D) features of the pictures, prompt-major, length one.
        prompt_features: (prompts, D) features of the prompts, length one.
        seeds: pictures of each prompt.

    Returns:
        (prompts × seeds,), -100 to 100. Real CLIP models give 20 to 35 to pictures that fit well.

    Raises:
        ShapeMismatch: not ``seeds`` pictures a prompt, or other widths.
    """
    if (
        len(picture_features) != len(prompt_features) * seeds
        or picture_features.shape[1:] != prompt_features.shape[1:]
    ):
        raise ShapeMismatch(
            f"pictures of shape {tuple(picture_features.shape)} and prompts of shape {tuple(prompt_features.shape)} "
            f"do not go together at {seeds} seeds a prompt."
        )
    return CLIP_SCORE_SCALE * (picture_features * prompt_features.repeat_interleave(seeds, dim=0)).sum(-1)


def picture_similarity(picture_features: Tensor, references: Tensor) -> float:
    """Mean cosine over all pairs of a generated and a reference picture: CLIP-I, for subjects.

    It says little without a control: pictures of another individual of the same class have a high one too.

    Args:
        picture_features: (N, D) features of length one.
        references: (M, D), same space.

    Raises:
        ShapeMismatch: the widths differ or a set is empty.

    Source: Ruiz et al. 2022, arXiv:2208.12242, section 4.1.
    """
    if picture_features.shape[1:] != references.shape[1:] or not len(picture_features) or not len(references):
        raise ShapeMismatch(
            f"feature sets of shapes {tuple(picture_features.shape)} and {tuple(references.shape)} cannot be compared."
        )
    return float(picture_features.double().mean(0) @ references.double().mean(0))
