"""Cosines in the judge's features: of pictures with their prompts, and with pictures of the same subject."""

from torch import Tensor

from detour.errors import ShapeMismatch

CLIP_SCORE_SCALE = 100.0
"""The scale of torchmetrics and most papers. (Hessel et al. 2021, arXiv:2104.08718, multiply by 2.5 instead.)"""


def clip_scores(looks: Tensor, wishes: Tensor, *, seeds: int = 1) -> Tensor:
    """How well each picture fits its prompt: 100 times the cosine.

    Args:
        looks: (prompts × seeds, D) features of the pictures, prompt-major, length one.
        wishes: (prompts, D) features of the prompts, length one.
        seeds: pictures of each prompt.

    Returns:
        (prompts × seeds,), -100 to 100. Real CLIP models give 20 to 35 to pictures that fit well.

    Raises:
        ShapeMismatch: not ``seeds`` pictures a prompt, or other widths.
    """
    if len(looks) != len(wishes) * seeds or looks.shape[1:] != wishes.shape[1:]:
        raise ShapeMismatch(
            f"pictures of shape {tuple(looks.shape)} and prompts of shape {tuple(wishes.shape)} do not go together "
            f"with {seeds} seeds a prompt."
        )
    return CLIP_SCORE_SCALE * (looks * wishes.repeat_interleave(seeds, dim=0)).sum(-1)


def picture_similarity(looks: Tensor, references: Tensor) -> float:
    """Mean cosine over all pairs of a generated and a reference picture: CLIP-I, for subjects.

    It says little without a control: pictures of another individual of the same class have a high one too.

    Args:
        looks: (N, D) features of length one.
        references: (M, D), same space.

    Raises:
        ShapeMismatch: the widths differ or a set is empty.

    Source: Ruiz et al. 2022, arXiv:2208.12242, section 4.1.
    """
    if looks.shape[1:] != references.shape[1:] or not len(looks) or not len(references):
        raise ShapeMismatch(
            f"feature sets of shapes {tuple(looks.shape)} and {tuple(references.shape)} cannot be compared."
        )
    return float(looks.double().mean(0) @ references.double().mean(0))


def similarity_among(references: Tensor) -> float | None:
    """Mean cosine of different pictures of one set: as like as the subject is to itself; ``None`` for fewer than two.

    Args:
        references: (M, D) features of length one.
    """
    count = len(references)
    if count < 2:
        return None
    wide = references.double()
    return float((wide.sum(0).square().sum() - wide.square().sum()) / (count * (count - 1)))
