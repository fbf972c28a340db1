"""Opens the judge of a base: the one that was named, the base's own, or the default one where it can be had."""

from detour.bases.base import Base
from detour.errors import BaseError
from detour.evaluation.feature_cache import FeatureCache
from detour.evaluation.judge import DEFAULT_JUDGE, Judge, judge_of


def open_judge(
    name: str | None, base: Base, *, device: str, cache: FeatureCache, fetch: bool = True
) -> tuple[Judge | None, str]:
    """Load the judge that scores the pictures, or say why there is none.

    Args:
        name: hub id or folder; ``None``: the base's own, else the default one where it can be had.
        base: whose pictures are judged.
        device: where the judge runs.
        cache: of its features.
        fetch: whether the default one may be fetched from the hub; else it is taken where it was fetched before.

    Raises:
        BaseError: the one that was named, or the base's own, cannot be opened.
    """
    chosen = name or judge_of(base.folder)
    if name is None and chosen == DEFAULT_JUDGE and not fetch and not _fetched_before():
        return None, "There is no judge for this base: new prompts are drawn, not scored."
    try:
        return Judge.load(chosen, device=device, cache=cache), ""
    except BaseError as error:
        if name is not None or not fetch:
            raise
        return None, f"Nobody scored the pictures: {error}"


def can_be_judged(name: str | None, base: Base) -> bool:
    """Whether somebody on this machine can score the base's pictures."""
    return name is not None or judge_of(base.folder) != DEFAULT_JUDGE or _fetched_before()


def _fetched_before() -> bool:
    """Whether the default judge is in the local cache of the hub."""
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(DEFAULT_JUDGE, "config.json"), str)
