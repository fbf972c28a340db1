"""Finds why an adapter changes nothing, from its settings, its file and its pictures."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class AdapterState:
    """Facts about an adapter that are known when its pictures are compared.

    Attributes:
        learning_rate: peak rate of the run; ``None`` when the run's settings do not tell.
        weight: with which the adapter was attached.
        layers: names of the layers in the file.
        layers_matched: how many of them the base has.
        up_is_zero: every ``up`` factor in the file is zero.
        trained_diff: mean absolute difference of the trained model's pictures to the base's, steps of 255;
            ``None`` when the trained model's pictures were not kept.
        best_step: whose weights were kept for their validation loss; ``None`` where the last were.
        larger_steps: what makes steps of this optimizer larger.
        schedule_fault: what makes the schedule of the rate miss the run; empty where it fits.
    """

    learning_rate: float | None
    weight: float
    layers: Sequence[str]
    layers_matched: int
    up_is_zero: bool
    trained_diff: float | None
    best_step: int | None = None
    schedule_fault: str = ""
    larger_steps: str = "raise train.optim.lr"


def causes_of_no_effect(state: AdapterState, *, effect_min_diff: float) -> tuple[str, ...]:
    """Sentences that explain why nothing changed, the root cause first.

    Args:
        state: of an adapter without effect.
        effect_min_diff: what counts as an effect, steps of 255.

    Returns:
        one sentence or more; a last resort when nothing explains it.
    """
    found = []
    if state.weight == 0:
        found.append("The adapter was attached with weight 0, which switches it off: use a weight above 0.")
    if state.learning_rate == 0:
        found.append("The learning rate was 0, so nothing was trained: set train.optim.lr above 0.")
    if state.schedule_fault:
        found.append(f"The schedule does not fit the run: {state.schedule_fault}.")
    if state.best_step == 0:
        found.append(
            "No step lowered the validation loss, so the weights from before the first one were kept: set a lower "
            "train.optim.lr, or set validate.ship to last."
        )
    if state.layers_matched == 0:
        example = f", for example '{state.layers[0]}'" if state.layers else ""
        found.append(
            f"The keys matched nothing: the base has none of the file's {len(state.layers)} layers{example}; "
            "it was made for another base."
        )
    if state.up_is_zero:
        found.append(
            "Every up factor in the file is still zero, so the adapter adds nothing: it was never updated."
        )
    if state.trained_diff is not None and state.trained_diff > effect_min_diff:
        found.append(
            f"It was lost on reload: the trained model moved the pictures by {state.trained_diff:.2f} "
            "of 255, the file does not."
        )
    if not found:
        found.append(
            "The factors are not zero and the keys match, but the change is too small to see: "
            f"train longer or {state.larger_steps}."
        )
    return tuple(found)
