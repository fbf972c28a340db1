"""The pictures of every side of the proof, from one fresh base: plain, switched off, adapted, merged."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from detour.evaluation.pixels import Pictures
from detour.evaluation.proof_pictures import ProofRequest, draw_proof_pictures
from detour.specs import RunSpec

if TYPE_CHECKING:
    from torch import nn

    from detour.adapters.adapter import Adapter
    from detour.generation.engine import AdapterInUse, PictureEngine


@dataclass(frozen=True, kw_only=True)
class Sides:
    """uint8 (N, H, W, 3) each; the first four of the proof requests, the last two of the held-out ones."""

    base: Pictures
    switched_off: Pictures
    adapter: Pictures
    merged: Pictures
    held_out_base: Pictures
    held_out_adapter: Pictures
    layers_matched: int


def draw_sides(
    engine: "PictureEngine",
    adapter: "Adapter",
    *,
    proof: Sequence[ProofRequest],
    held_out: Sequence[ProofRequest],
    spec: RunSpec,
    weight: float = 1.0,
    on_pictures: Callable[[int, int], None] | None = None,
) -> Sides:
    """Draw all sides with the same prompts, seeds, sizes, steps and batches.

    Args:
        engine: a fresh base in fp32; as before when this returns.
        adapter: read back from the saved file.
        proof: at least one request.
        held_out: may be empty.
        spec: the run.
        weight: with which the adapter is attached and merged.
        on_pictures: told (pictures done, pictures in all) after each batch.

    Returns:
        the pictures; where the base has none of the adapter's layers, every side is the base's.

    Raises:
        AdapterError: the base has some of the adapter's layers and lacks others, or they have other widths.
    """
    from detour.adapters.delta import merge_into
    from detour.generation.requests import AdapterInUse

    models = engine.models
    matched = layers_in(models, adapter)
    total = (4 * len(proof) + 2 * len(held_out)) if matched else len(proof) + len(held_out)
    drawn = _drawing(engine, spec, total, on_pictures)
    base = drawn(proof)
    held_out_base = drawn(held_out) if held_out else base[:0]
    if not matched:
        return Sides(
            base=base, switched_off=base, adapter=base, merged=base,
            held_out_base=held_out_base, held_out_adapter=held_out_base, layers_matched=0,
        )  # fmt: skip
    switched_off = drawn(proof, AdapterInUse(adapter=replace(adapter, words={}), weight=0.0))
    used = AdapterInUse(adapter=adapter, weight=weight)
    adapted = drawn(proof, used)
    held_out_adapter = drawn(held_out, used) if held_out else base[:0]
    merge = merge_into(models, adapter, weight)
    try:
        # No weight of the base holds a new word.
        words = [AdapterInUse(adapter=replace(adapter, layers={}))] if adapter.words else []
        merged = drawn(proof, *words)
    finally:
        merge.undo()
    return Sides(
        base=base, switched_off=switched_off, adapter=adapted, merged=merged,
        held_out_base=held_out_base, held_out_adapter=held_out_adapter, layers_matched=matched,
    )  # fmt: skip


def draw_full_sides(
    engine: "PictureEngine",
    unet: "nn.Module",
    *,
    proof: Sequence[ProofRequest],
    held_out: Sequence[ProofRequest],
    spec: RunSpec,
    on_pictures: Callable[[int, int], None] | None = None,
) -> Sides:
    """The same where a UNet of the run's own takes the place of the base's: it is its own merge.

    Args:
        engine: a fresh base in fp32; as before when this returns.
        unet: read back from what the run wrote.
        proof: at least one request.
        held_out: may be empty.
        spec: the run.
        on_pictures: told (pictures done, pictures in all) after each batch.
    """
    total = 3 * len(proof) + 2 * len(held_out)
    drawn = _drawing(engine, spec, total, on_pictures)
    base, again = drawn(proof), drawn(proof)
    held_out_base = drawn(held_out) if held_out else base[:0]
    with_unet = _drawing(
        engine.with_unet(unet), spec, total, on_pictures, done=2 * len(proof) + len(held_out)
    )
    trained = with_unet(proof)
    held_out_trained = with_unet(held_out) if held_out else base[:0]
    return Sides(
        base=base, switched_off=again, adapter=trained, merged=trained,
        held_out_base=held_out_base, held_out_adapter=held_out_trained, layers_matched=1,
    )  # fmt: skip


def _drawing(
    engine: "PictureEngine",
    spec: RunSpec,
    total: int,
    on_pictures: Callable[[int, int], None] | None,
    *,
    done: int = 0,
) -> "Callable[..., Pictures]":
    """Draws requests with adapters, and counts the pictures over all calls."""

    def on_batch(count: int) -> None:
        nonlocal done
        done += count
        if on_pictures is not None:
            on_pictures(done, total)

    def draw(requests: Sequence[ProofRequest], *adapters: "AdapterInUse") -> Pictures:
        return draw_proof_pictures(engine, requests, spec, adapters=adapters, on_batch=on_batch)

    return draw


def layers_in(models: Mapping[str, "nn.Module"], adapter: "Adapter") -> int:
    """How many of the adapter's layers the models have, by name."""
    from detour.adapters.adapter import part_of, path_of
    from detour.adapters.places import find_path

    return sum(
        part_of(key) in models and find_path(models[part_of(key)], path_of(key)) is not None
        for key in adapter.layers
    )
