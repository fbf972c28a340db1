"""One training step as a picture: from the photograph to the gradients, left to right, top to bottom."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from detour.errors import ConfigError
from detour.files import write_with

if TYPE_CHECKING:
    from detour.verbs.explain.slow_step import GradientGroup, StepTrace

INK, QUIET, ADAPTED = "#1f2933", "#52606d", "#d9480f"


def plot_step(trace: "StepTrace", path: Path) -> Path:
    """Write the step as PNG; same trace, same picture.

    Args:
        trace: from :func:`detour.verbs.explain.slow_step.step_once`; one read back from JSON has no pictures.
        path: ends in ``.png``.

    Raises:
        ConfigError: the trace has no pictures.
        StorageError: disk full or not writable.
    """
    from matplotlib.figure import Figure

    if not trace.pictures:
        raise ConfigError("this trace was read from JSON and has no pictures. Run the step again to plot it.")
    figure = Figure(figsize=(13, 9), dpi=110, facecolor="white", layout="constrained")
    figure.suptitle(
        f"One training step on “{_short(trace.caption, 90)}”, timestep {trace.timestep} of {trace.base}",
        color=INK,
        fontsize=14,
    )
    rows: Any = figure.subfigures(2, 1, height_ratios=[2, 1])
    panels: Any = rows[0].subplots(2, 4)
    _pictures(panels[0], trace)
    _maps(panels[1], trace)
    bars: Any = rows[1].subplots(1, 1)
    _gradients(bars, trace.gradients, trace.grad_norm)

    def save(temporary: Path) -> None:
        figure.savefig(temporary, format="png", metadata={"Software": None})

    write_with(path, save)
    return path


def _pictures(row: Any, trace: "StepTrace") -> None:
    titles = {
        "pixels": "1  the picture",
        "latents": "2  what the VAE keeps of it",
        "noisy_latents": f"3  with noise ({trace.signal_share:.0%} is left)",
        "guess": "4  what the UNet sees under it",
    }
    for axes, (name, title) in zip(row, titles.items(), strict=True):
        axes.imshow(trace.pictures[name])
        axes.set_title(title, fontsize=11, color=INK)
        axes.axis("off")


def _maps(row: Any, trace: "StepTrace") -> None:
    latents, target, prediction = (
        trace.pictures[f"{name}_map"][0] for name in ("latents", "target", "prediction")
    )
    limit = float(np.abs(target).max())
    shown = (
        (latents, "5  latents, first channel"),
        (target, "6  target, first channel"),
        (prediction, "7  the UNet's prediction"),
        (prediction - target, f"8  7 − 6; mean square: {trace.loss:.4f}"),
    )
    for axes, (values, title) in zip(row, shown, strict=True):
        image = axes.imshow(values, cmap="RdBu", vmin=-limit, vmax=limit)
        axes.set_title(title, fontsize=11, color=INK)
        axes.axis("off")
        axes.figure.colorbar(image, ax=axes, shrink=0.8)


def _gradients(axes: Any, groups: "tuple[GradientGroup, ...]", grad_norm: float) -> None:
    places = np.arange(len(groups))
    axes.bar(places - 0.2, [g.up_grad_norm for g in groups], 0.38, color=ADAPTED, label="up: gradient")
    axes.bar(
        places + 0.2,
        [g.down_grad_norm for g in groups],
        0.38,
        color="white",
        edgecolor=ADAPTED,
        hatch="//",
        label="down: gradient (zero in the first step, because up is zero)",
    )
    axes.set_xticks(places, [f"{g.block}\n{g.layers} layers" for g in groups], fontsize=9, color=INK)
    axes.set_ylabel("gradient norm", color=QUIET)
    axes.set_title(
        f"9  gradients of the adapter, {grad_norm:.3g} in all; the frozen base gets none and keeps its bytes",
        fontsize=11,
        color=INK,
        loc="left",
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=10)


def _short(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"
