"""Measures on a base how two adapters interfere: how each moves its predictions, and how both do."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict

from detour.bases.base import open_base
from detour.bases.hardware import drawing_dtype, pick_device
from detour.generation.engine import PictureEngine, PictureRequest
from detour.generation.pushes import PushPair, compare_pushes, predictions, record_latents
from detour.verbs.chosen_adapters import choose_adapter, in_use

PROMPTS = (
    "a red house in the desert",
    "a blue cat in the city",
    "a yellow boat on the beach",
    "a green flower in the meadow",
)
"""Plain things that every base can draw; triggers of the adapters are put before them."""

FIRST_SEED = 500

TOGETHER, AGAINST = 0.4, -0.1
"""Agreement from which on two adapters push together, and below which against each other; ``docs/interference.md``
has the figures behind them."""

TOO_LOUD = 1.35
"""Ratio to the stronger one's push above which prompts suffered more often than not."""

MeasuredVerdict = Literal["apart", "together", "against"]


class MeasuredPair(BaseModel):
    """How two adapters move the base's noise predictions; see ``detour.generation.pushes.PushPair``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    first: str
    second: str
    agreement: float
    louder: float
    kept_first: float
    kept_second: float
    verdict: MeasuredVerdict
    suggestion: str


def measure_overlap(
    loras: Sequence[str], *, base: str, prompts: Sequence[str] = PROMPTS, allow_pickle: bool = False
) -> tuple[MeasuredPair, ...]:
    """Compare every pair of adapters by what they do to a base's predictions at a few fixed latents.

    A dozen denoising steps of the plain base, then three forward passes for each adapter and each pair. What an adapter
    does to the text encoder is left out.

    Args:
        loras: ``FILE`` or ``FILE:weight`` each, two or more.
        base: what they were made for.
        prompts: drawn by the plain base; triggers are put before them.
        allow_pickle: read pickled adapters too.

    Raises:
        BaseError: no such base, or it cannot be loaded.
        AdapterError: an adapter is broken or made for another base.
    """
    opened = open_base(base)
    opened.require_weights()
    chosen = [choose_adapter(text, opened, allow_pickle=allow_pickle) for text in loras]
    device = pick_device("auto")
    engine = PictureEngine.load(opened, device=device, dtype=drawing_dtype("auto", device))
    triggers = [one.adapter.metadata.get("modelspec.trigger_phrase", "") for one in chosen]
    before = "".join(f"{trigger}, " for trigger in dict.fromkeys(triggers) if trigger)
    requests = [
        PictureRequest(prompt=before + prompt, seed=FIRST_SEED + index)
        for index, prompt in enumerate(prompts)
    ]
    latents = record_latents(engine, requests)
    plain = predictions(engine, latents)
    adapters = in_use(chosen)

    def push(*active: int) -> torch.Tensor:
        return predictions(engine, latents, [adapters[index] for index in active]) - plain

    alone = [push(index) for index in range(len(chosen))]
    return tuple(
        _pair(
            compare_pushes(alone[a], alone[b], push(a, b)),
            (chosen[a].use.name, chosen[b].use.name),
            (chosen[a].use.weight, chosen[b].use.weight),
        )
        for a, b in itertools.combinations(range(len(chosen)), 2)
    )


def measured_verdict(agreement: float) -> MeasuredVerdict:
    """The word for an agreement."""
    if agreement >= TOGETHER:
        return "together"
    return "against" if agreement <= AGAINST else "apart"


def _pair(found: PushPair, names: tuple[str, str], weights: tuple[float, float]) -> MeasuredPair:
    return MeasuredPair(
        first=names[0],
        second=names[1],
        agreement=found.agreement,
        louder=found.louder,
        kept_first=found.kept_first,
        kept_second=found.kept_second,
        verdict=measured_verdict(found.agreement),
        suggestion=_suggestion(found, names, weights),
    )


def _suggestion(found: PushPair, names: tuple[str, str], weights: tuple[float, float]) -> str:
    verdict = measured_verdict(found.agreement)
    if verdict == "against":
        least = 0 if found.kept_first < found.kept_second else 1
        return (
            f"they undo each other, {names[least]} keeps {min(found.kept_first, found.kept_second):.0%} of its effect: "
            "choose one, or give it most of the weight."
        )
    if found.louder >= TOO_LOUD:
        lower = " and ".join(
            f"{name} at {weight / found.louder:.2g}" for name, weight in zip(names, weights, strict=True)
        )
        return f"together they push {found.louder:.1f} times as hard as the stronger one: try {lower}."
    return "they leave each other's effect as it is: compose them as they are."
