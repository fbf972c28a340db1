"""Asks a judge, before anything is trained, whether captions fit their pictures better than each other's."""

from collections.abc import Sequence

import numpy as np

from detour.bases.base import Base
from detour.data.finding import Finding
from detour.data.findings import Goal
from detour.data.folder import Dataset
from detour.data.transform import to_square
from detour.evaluation import limits
from detour.evaluation.competence import Competence, competence_of_captions
from detour.evaluation.feature_cache import FeatureCache
from detour.evaluation.judge import Judge
from detour.evaluation.judge_choice import open_judge
from detour.evaluation.prompts import without_trigger
from detour.evaluation.reading import caption_margins, centred

MOST_PICTURES = 64
"""Largest number of pictures that the judge looks at, evenly spread over the data set."""


def caption_findings(
    dataset: Dataset, base: Base, *, goal: Goal, triggers: Sequence[str], judge: str | None, device: str
) -> tuple[Finding, ...]:
    """A warning where pictures and captions agree no more than chance would, as far as a judge is here to tell.

    The judge is never fetched for this. Nothing is said where it cannot be tested: fewer than eight captioned pictures,
    or captions that are all the same, which has a warning of its own.

    Args:
        dataset: of the run; class pictures are not looked at.
        base: whose own judge is taken where none is named.
        goal: of the run; captions of one subject may differ in little, so that it is a note there.
        triggers: words that no judge knows, which are left out of the captions.
        judge: hub id or folder; ``None`` takes the base's own, or the default one where it was fetched before.
        device: where the judge runs.

    Raises:
        BaseError: the judge is there and cannot be opened.
        DataError: a picture cannot be read.
    """
    captioned = [one for one in dataset.examples if one.caption]
    apart = max(1.0, len(captioned) / MOST_PICTURES)
    examples = [captioned[int(i * apart)] for i in range(min(len(captioned), MOST_PICTURES))]
    captions = [without_trigger(one.caption, ", ".join(triggers)) for one in examples]
    if len(examples) < limits.COMPETENCE_PICTURES_MIN or len(set(captions)) < 2:
        return ()
    found, _ = open_judge(judge, base, device=device, cache=FeatureCache(on_disk=False), fetch=False)
    if found is None:
        return ()
    side = base.native_size_px
    pictures = np.stack([to_square(one.open(), side) for one in examples])
    fit = _fit(found, pictures, captions)
    if fit.p_value is None or fit.shown:
        return ()
    return (
        Finding(
            severity="note" if goal == "subject" else "warning",
            kind="unrelated",
            cause=f"captions and pictures agree no more than chance would (p = {fit.p_value:.2f} over {fit.pictures} "
            "pictures): wrong captions, or a judge that cannot read this style",
            fix="look at the captions beside their pictures first; if they are right, the verdict will not be able to "
            "tell whether prompts are still followed",
        ),
    )


def _fit(judge: Judge, pictures: np.ndarray, captions: Sequence[str]) -> Competence:
    seen = judge.picture_features(pictures).double().numpy()
    said = judge.text_features(captions).double().numpy()
    return competence_of_captions(caption_margins(centred(seen), centred(said), scale=judge.scale))
