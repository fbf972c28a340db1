"""Measures whether an adapter's pictures match the base's of the same prompts, which needs no reading of words."""

from detour.evaluation.compared import Compared
from detour.evaluation.metric import Measured, Metric
from detour.evaluation.reading import centred


def measure(given: Measured) -> Compared | None:
    """Share of each side's pictures whose nearest picture of the base has the same prompt and seed.

    Features are taken less the mean of the side's other pictures, for a style moves all of its pictures the same way.
    """
    base = centred(given.picture_features["base"].double().numpy())
    if len(base) < 2:
        return None
    shares = {}
    for side, picture_features in given.picture_features.items():
        nearest = (centred(picture_features.double().numpy()) @ base.T).argmax(1)
        prompts = range(len(nearest))
        shares[side] = sum(nearest[i] // given.seeds == i // given.seeds for i in prompts) / len(nearest)
    return Compared.of(shares)


METRIC = Metric(
    name="own_prompt",
    text="share of the pictures whose nearest picture of the base's is one of their own prompt: 0 to 1",
    unit="",
    better="higher",
    controls={
        "rate 0": "1, for nothing moved",
        "shuffled captions": "an adapter that learned to ignore prompts",
    },
    measure=measure,
    form=".0%",
)
