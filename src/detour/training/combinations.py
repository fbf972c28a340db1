"""Combinations of settings: those known not to work are refused with reason and mend, doubtful ones get a note."""

from typing import TYPE_CHECKING

from detour.errors import ConfigError
from detour.specs import RunSpec

if TYPE_CHECKING:
    from detour.bases.base import Base


def refuse_objective(spec: RunSpec, base: "Base") -> None:
    """Zero terminal SNR on a base that predicts anything but velocity.

    Raises:
        ConfigError: in one line.
    """
    predicts = str(base.scheduler_config().get("prediction_type", "epsilon"))
    if spec.train.loss.zero_terminal_snr and predicts != "v_prediction":
        raise ConfigError(
            f"train.loss.zero_terminal_snr needs a base that predicts velocity, but '{base.name}' predicts {predicts}: "
            "in pure noise the noise is the input, so that there is nothing to learn. Leave it out, or choose a "
            "v-prediction base."
        )


def notes_on_objective(spec: RunSpec) -> list[str]:
    """What the user should know about the loss that was chosen."""
    loss = spec.train.loss
    if loss.zero_terminal_snr and loss.weighting != "uniform":
        return [
            f"train.loss.weighting '{loss.weighting}' counts the last timestep, which is pure noise, as nothing."
        ]
    return []
