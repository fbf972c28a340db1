"""The forward process as one picture: noise comes, noise goes, and two curves that say how much of it there is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from detour.diffusion.schedule import alphas_cumprod
from detour.errors import ConfigError
from detour.files import write_with
from detour.verbs.explain.forward_result import FLOW, ForwardTrace

INK, QUIET, SHOWN, OTHER = "#1f2933", "#52606d", "#d9480f", "#9fb3c8"

OTHERS: Mapping[str, Mapping[str, Any]] = {
    "scaled linear (Stable Diffusion)": {
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
    },
    "linear (DDPM)": {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
}
"""Schedules to compare the signal-to-noise curve with."""


def plot_forward(trace: ForwardTrace, path: Path) -> Path:
    """Write the trace as PNG; same trace, same picture.

    Args:
        trace: from :func:`detour.verbs.explain.forward_trace.trace_forward`; one read back from JSON has no pictures.
        path: ends in ``.png``.

    Raises:
        ConfigError: the trace has no pictures.
        StorageError: disk full or not writable.
    """
    from matplotlib.figure import Figure

    if not trace.pictures:
        raise ConfigError("this trace was read from JSON and has no pictures. Trace the picture again.")
    width = max(11.0, 1.3 * len(trace.levels) + 1.0)
    figure = Figure(figsize=(width, 7.6), dpi=110, facecolor="white", layout="constrained")
    figure.suptitle(
        f"{trace.picture} on the schedule {trace.schedule} of {trace.base}", color=INK, fontsize=14
    )
    parts: Any = figure.subfigures(2, 1, height_ratios=[1, 1])
    _rows(parts[0].subplots(2, len(trace.levels)), trace)
    left, right = parts[1].subplots(1, 2)
    _variance(left, trace)
    _signal(right, trace)

    def save(temporary: Path) -> None:
        figure.savefig(temporary, format="png", metadata={"Software": None})

    write_with(path, save)
    return path


def _rows(panels: Any, trace: ForwardTrace) -> None:
    for index, level in enumerate(trace.levels):
        forward, back = panels[0][index], panels[1][index]
        forward.imshow(trace.pictures["forward"][index])
        share = f"σ = {level.timestep / trace.num_timesteps:.2g}"
        if trace.schedule != FLOW:
            share = f"ᾱ = {level.alpha_cumprod:.2g}"
        forward.set_title(f"t = {level.timestep}\n{share}", fontsize=10, color=INK)
        if level.way_back:
            back.imshow(trace.pictures[f"back_{index}"])
        else:
            back.text(
                0.5, 0.5, "noisier than\nthe base\nwas trained on", ha="center", va="center", color=QUIET,
                fontsize=8, transform=back.transAxes,
            )  # fmt: skip
        for axes in (forward, back):
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
    panels[0][0].set_ylabel("noise comes →", color=INK, fontsize=11)
    panels[1][0].set_ylabel("← the way back", color=INK, fontsize=11)


def _variance(axes: Any, trace: ForwardTrace) -> None:
    alphas = np.array(trace.alphas)
    steps = np.arange(len(alphas))
    expected = alphas * trace.clean_variance + np.array(trace.noises)
    formula = "(1 − σ)²·Var(x₀) + σ²" if trace.schedule == FLOW else "ᾱ·Var(x₀) + 1 − ᾱ"
    axes.plot(steps, expected, color=SHOWN, label=f"{formula}, Var(x₀) = {trace.clean_variance:.2f}")
    axes.plot(
        [level.timestep for level in trace.levels],
        [level.variance for level in trace.levels],
        "o", color=INK, label="measured",
    )  # fmt: skip
    axes.axhline(1.0, color=OTHER, linestyle=":", label="one: what noise alone has")
    axes.margins(y=0.12)
    _dress(axes, "timestep", "variance of the noisy latents")
    axes.set_title("One jump and a thousand steps " + agreement(trace), color=INK, fontsize=11, loc="left")
    axes.legend(frameon=False, fontsize=9)


def agreement(trace: ForwardTrace) -> str:
    """How far the walk and the jump end apart, in words."""
    return f"differ by at most {trace.largest_difference:.1e}"


def _signal(axes: Any, trace: ForwardTrace) -> None:
    for style, (name, config) in zip(("--", ":", "-."), OTHERS.items(), strict=True):
        curve = alphas_cumprod({**config, "num_train_timesteps": trace.num_timesteps}).double().numpy()
        axes.plot(curve / (1 - curve), color=OTHER, linestyle=style, label=name)
    alphas = np.array(trace.alphas)
    ratio = alphas / np.array(trace.noises)
    axes.plot(np.where(ratio > 0, ratio, np.nan), color=SHOWN, label="this one")
    axes.axhline(1.0, color=QUIET, linewidth=0.7)
    axes.set_yscale("log")
    axes.set_ylim(1e-5, 1e5)
    _dress(
        axes,
        "timestep",
        f"signal-to-noise ratio {'(1 − σ)² / σ²' if trace.schedule == FLOW else 'ᾱ / (1 − ᾱ)'}",
    )
    axes.set_title(
        f"At the end {trace.alphas[-1]:.2g} of the picture's variance is left",
        color=INK,
        fontsize=11,
        loc="left",
    )
    axes.legend(frameon=False, fontsize=9)


def _dress(axes: Any, x_label: str, y_label: str) -> None:
    axes.set_xlabel(x_label, color=QUIET)
    axes.set_ylabel(y_label, color=QUIET)
    axes.spines[["top", "right"]].set_visible(False)
