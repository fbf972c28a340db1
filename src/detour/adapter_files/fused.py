"""Layers that stand for several at once, taken apart and put together so that every change stays what it is.

Kohya's and ComfyUI's files have one LoRA for q, k and v of Flux and SD 3. Its rows are theirs one after the other:
taken apart, the parts share ``down`` and cut ``up``. Put together, parts with factors of their own stand in blocks
on the diagonal of ``up``, so that ranks add up; parts that share theirs are the one layer again that they were.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from detour.adapters.layers import DoraLayer, Layer, LoraLayer
from detour.adapters.lycoris_layers import LohaLayer, LokrLayer
from detour.bases.transformer_names import (
    OriginalPlace,
    TransformerFamily,
    halves_change_places,
    pieces_of_original,
    place_of,
)
from detour.errors import AdapterError, ShapeMismatch

Rows = tuple[int, int]
"""(first, count) of a layer's outputs."""


def split_layer(name: str, layer: Layer) -> dict[str, Layer]:
    """A layer of the original code as the layers of diffusers: path → layer.

    A part that changes nothing is left out where another one changes something: it came from putting layers
    together of which this one was not there.

    Args:
        name: original name.
        layer: its change, with the rows of all parts.

    Raises:
        AdapterError: its size is not that of its parts, or it cannot be cut there.
    """
    paths = pieces_of_original(name)
    if paths is None:
        raise AdapterError(f"'{name}' is no layer of Flux or SD 3.")
    if len(paths) == 1:
        return {paths[0]: _reordered(name, layer)}
    made: dict[str, Layer] = {}
    first = 0
    sizes = piece_sizes(len(paths), layer.in_features, layer.out_features)
    for path, size in zip(paths, sizes, strict=True):
        made[path] = without_idle_ranks(select_rows(layer, [(first, size)]))
        first += size
    changed = {path: one for path, one in made.items() if not _is_nothing(one)}
    return changed or made


def join_layers(layers: Mapping[str, Layer], family: TransformerFamily) -> dict[str, Layer]:
    """The layers of a diffusers transformer as those of the original code: original name → layer.

    Args:
        layers: diffusers path → layer.
        family: whose names.

    Raises:
        AdapterError: a path that the family has not, or layers that do not go together.
    """
    places: dict[str, OriginalPlace] = {}
    for path in layers:
        place = place_of(family, path)
        if place is None:
            raise AdapterError(
                f"'transformer.{path}' is no layer of this family. Save it as diffusers or peft instead."
            )
        places[place.name] = place
    return {name: _joined(place, layers) for name, place in places.items()}


def _joined(place: OriginalPlace, layers: Mapping[str, Layer]) -> Layer:
    if len(place.paths) == 1:
        return _reordered(place.name, layers[place.paths[0]])
    parts = [layers.get(path) for path in place.paths]
    try:
        return stack_rows(parts, _sizes_of(parts))
    except AdapterError as error:
        raise AdapterError(f"'transformer.{place.paths[0]}' and its neighbours: {error}") from error


def _sizes_of(parts: Sequence[Layer | None]) -> list[int]:
    """Outputs of each part; those of a part that is not there follow from the inputs."""
    there = [part for part in parts if part is not None]
    width = there[0].in_features
    usual = piece_sizes(len(parts), width, 3 * width if len(parts) == 3 else 7 * width)
    sizes = [size if part is None else part.out_features for part, size in zip(parts, usual, strict=True)]
    if any(part.in_features != width for part in there):
        raise ShapeMismatch("they read different widths, so they are not parts of one layer.")
    piece_sizes(len(parts), width, sum(sizes))
    return sizes


def piece_sizes(count: int, in_features: int, out_features: int) -> list[int]:
    """Rows of q, k and v, each as wide as the input, and of what is left for the MLP.

    Raises:
        ShapeMismatch: the outputs are not of that number.
    """
    rest = out_features - 3 * in_features
    if (count == 3 and rest != 0) or (count == 4 and rest <= 0):
        raise ShapeMismatch(f"a fused layer of {in_features} inputs cannot have {out_features} outputs.")
    return [in_features] * 3 + ([rest] if count == 4 else [])


def _reordered(name: str, layer: Layer) -> Layer:
    if not halves_change_places(name, layer.in_features, layer.out_features):
        return layer
    if layer.out_features % 2:
        raise ShapeMismatch(f"'{name}' has {layer.out_features} outputs, which are no two halves.")
    half = layer.out_features // 2
    return select_rows(layer, [(half, half), (0, half)])


def select_rows(layer: Layer, rows: Sequence[Rows]) -> Layer:
    """The layer that changes these outputs alone, in this order; exact.

    Raises:
        AdapterError: a LoKr whose first matrix cannot be cut there, or a LoHa in Tucker form.
    """
    if isinstance(layer, DoraLayer):
        return DoraLayer(change=select_rows(layer.change, rows), magnitude=_taken(layer.magnitude, rows))
    if isinstance(layer, LoraLayer):
        return replace(layer, up=_taken(layer.up, rows))
    if isinstance(layer, LohaLayer) and layer.t1 is None:
        return replace(layer, w1_a=_taken(layer.w1_a, rows), w2_a=_taken(layer.w2_a, rows))
    if isinstance(layer, LokrLayer):
        height = _second_rows(layer)
        if any(first % height or count % height for first, count in rows):
            raise AdapterError(
                f"is a LoKr whose second matrix has {height} rows, so that it cannot be cut between "
                f"its parts ({', '.join(str(count) for _, count in rows)} rows). Only kohya's format holds it."
            )
        return _with_first(layer, [(first // height, count // height) for first, count in rows])
    raise AdapterError(f"is a {layer.kind} that cannot be cut.")


def _taken(tensor: Tensor, rows: Sequence[Rows]) -> Tensor:
    pieces = [tensor[first : first + count] for first, count in rows]
    return pieces[0].contiguous() if len(pieces) == 1 else torch.cat(pieces)


def _second_rows(layer: LokrLayer) -> int:
    first = layer.w1 if layer.w1 is not None else layer.w1_a
    assert first is not None
    return layer.out_features // int(first.shape[0])


def _with_first(layer: LokrLayer, rows: Sequence[Rows]) -> LokrLayer:
    if layer.w1 is not None:
        return replace(layer, w1=_taken(layer.w1, rows))
    assert layer.w1_a is not None
    return replace(layer, w1_a=_taken(layer.w1_a, rows))


def without_idle_ranks(layer: Layer) -> Layer:
    """Remove rank directions that nothing is written from, without changing ΔW; at least one stays.

    Of layers put together on a diagonal, each part gets its own rank back.
    """
    if isinstance(layer, DoraLayer):
        return replace(layer, change=without_idle_ranks(layer.change))
    if isinstance(layer, LoraLayer) and not layer.up.is_meta:
        keep = _kept((layer.up != 0).any(0).flatten())
        if len(keep) < layer.rank:
            alpha = layer.alpha * len(keep) / layer.rank
            return LoraLayer(down=layer.down[keep], up=layer.up[:, keep], alpha=alpha)
    if isinstance(layer, LohaLayer) and layer.t1 is None and not layer.w1_a.is_meta:
        keep = _kept((layer.w1_a != 0).any(0) | (layer.w2_a != 0).any(0))
        if len(keep) < layer.rank:
            return LohaLayer(
                w1_a=layer.w1_a[:, keep], w1_b=layer.w1_b[keep],
                w2_a=layer.w2_a[:, keep], w2_b=layer.w2_b[keep],
                alpha=layer.alpha * len(keep) / layer.rank,
            )  # fmt: skip
    return layer


def _kept(used: Tensor) -> Tensor:
    found = used.nonzero().flatten()
    return found if len(found) else torch.zeros(1, dtype=torch.long)


def _is_nothing(layer: Layer) -> bool:
    """Whether the change is zero to the bit, told from the outer factor."""
    if isinstance(layer, DoraLayer):
        return False
    outer = {"lora": ("up",), "loha": ("w1_a",), "lokr": ("w1", "w1_a")}[layer.kind]
    return not any(
        layer.tensors[name].is_meta or bool(layer.tensors[name].any())
        for name in outer
        if name in layer.tensors
    )


def stack_rows(parts: Sequence[Layer | None], sizes: Sequence[int]) -> Layer:
    """One layer with the outputs of all parts, one after the other; exact.

    Args:
        parts: a part that is not there changes nothing.
        sizes: outputs of each.

    Raises:
        AdapterError: parts of several algorithms, a DoRA that is not whole, or LoKrs that share no second matrix.
    """
    there = [part for part in parts if part is not None]
    kinds = sorted({part.kind for part in there})
    if len(kinds) > 1:
        raise AdapterError(
            f"are {' and '.join(kinds)}, and one fused layer holds one of them. Save it as diffusers."
        )
    if kinds == ["dora"]:
        return _stacked_dora(parts, sizes)
    plain = [part for part in parts if isinstance(part, LoraLayer)]
    if len(plain) == len(there):
        return _stacked_lora([part if isinstance(part, LoraLayer) else None for part in parts], sizes)
    if kinds == ["loha"]:
        return _stacked_loha([part if isinstance(part, LohaLayer) else None for part in parts], sizes)
    if kinds != ["lokr"]:
        raise AdapterError(f"are {kinds[0]}, which is not known how to join. Save it as diffusers.")
    return _stacked_lokr([part if isinstance(part, LokrLayer) else None for part in parts], sizes)


def _stacked_dora(parts: Sequence[Layer | None], sizes: Sequence[int]) -> Layer:
    doras = [part for part in parts if isinstance(part, DoraLayer)]
    if len(doras) < len(parts):
        raise AdapterError(
            f"are DoRA in {len(doras)} of {len(parts)} parts; the others' magnitudes are the base's, which is not "
            "here. Save it as diffusers or peft."
        )
    change = stack_rows([dora.change for dora in doras], sizes)
    return DoraLayer(change=change, magnitude=torch.cat([dora.magnitude for dora in doras]))


def _stacked_lora(parts: Sequence[LoraLayer | None], sizes: Sequence[int]) -> LoraLayer:
    there = [part for part in parts if part is not None]
    first = there[0]
    if all(part.scale == first.scale and torch.equal(part.down, first.down) for part in there):
        ups = [
            _or_zeros(part.up if part else None, size, first.rank)
            for part, size in zip(parts, sizes, strict=True)
        ]
        return LoraLayer(down=first.down, up=torch.cat(ups), alpha=first.alpha)
    rank = sum(part.rank for part in there)
    factors, alpha = _common_scale([part.scale for part in there], rank)
    up = _diagonal(
        [None if part is None else part.up for part in parts],
        sizes, [part.rank for part in there], factors,
    )  # fmt: skip
    return LoraLayer(down=torch.cat([part.down for part in there]), up=up, alpha=alpha)


def _stacked_loha(parts: Sequence[LohaLayer | None], sizes: Sequence[int]) -> LohaLayer:
    there = [part for part in parts if part is not None]
    first = there[0]
    scales = [part.alpha / part.rank for part in there]
    if any(part.t1 is not None for part in there):
        raise AdapterError("are LoHa in Tucker form, which cannot be joined. Save it as peft.")
    shared = all(
        scale == scales[0] and torch.equal(part.w1_b, first.w1_b) and torch.equal(part.w2_b, first.w2_b)
        for part, scale in zip(there, scales, strict=True)
    )
    ones = [1.0] * len(there)
    if shared:
        outer = [
            torch.cat([
                _or_zeros(None if part is None else getattr(part, name), size, first.rank)
                for part, size in zip(parts, sizes, strict=True)
            ])
            for name in ("w1_a", "w2_a")
        ]  # fmt: skip
        return LohaLayer(w1_a=outer[0], w2_a=outer[1], w1_b=first.w1_b, w2_b=first.w2_b, alpha=first.alpha)
    ranks = [part.rank for part in there]
    factors, alpha = _common_scale(scales, sum(ranks))
    firsts = [None if part is None else part.w1_a for part in parts]
    seconds = [None if part is None else part.w2_a for part in parts]
    return LohaLayer(
        w1_a=_diagonal(firsts, sizes, ranks, factors),
        w2_a=_diagonal(seconds, sizes, ranks, ones),
        w1_b=torch.cat([part.w1_b for part in there]),
        w2_b=torch.cat([part.w2_b for part in there]),
        alpha=alpha,
    )


def _stacked_lokr(parts: Sequence[LokrLayer | None], sizes: Sequence[int]) -> LokrLayer:
    there = [part for part in parts if part is not None]
    first = there[0]
    height = _second_rows(first)
    same = all(
        part.alpha / part.rank == first.alpha / first.rank
        and _second(part).keys() == _second(first).keys()
        and all(torch.equal(tensor, _second(first)[name]) for name, tensor in _second(part).items())
        for part in there
    )
    if not same or any(size % height for size in sizes):
        raise AdapterError(
            "are LoKr of different second matrices, which cannot be joined exactly. Save it as peft."
        )
    name = "w1" if first.w1 is not None else "w1_a"
    if any(name not in part.tensors for part in there):
        raise AdapterError("are LoKr of different forms, which cannot be joined. Save it as peft.")
    width = int(first.tensors[name].shape[1])
    rows = torch.cat([
        _or_zeros(None if part is None else part.tensors[name], size // height, width)
        for part, size in zip(parts, sizes, strict=True)
    ])  # fmt: skip
    return replace(first, w1=rows) if name == "w1" else replace(first, w1_a=rows)


def _second(layer: LokrLayer) -> dict[str, Tensor]:
    """What parts of one LoKr share: everything but the outer side of the first matrix."""
    return {name: tensor for name, tensor in layer.tensors.items() if name not in ("w1", "w1_a")}


def _common_scale(scales: Sequence[float], rank: int) -> tuple[list[float], float]:
    """(factor of each part, alpha of all): the scale stays in alpha where it is the same for all parts."""
    if len(set(scales)) == 1:
        return [1.0] * len(scales), scales[0] * rank
    return list(scales), float(rank)


def _or_zeros(tensor: Tensor | None, rows: int, columns: int) -> Tensor:
    return torch.zeros(rows, columns) if tensor is None else tensor


def _diagonal(
    blocks: Sequence[Tensor | None], sizes: Sequence[int], ranks: Sequence[int], factors: Sequence[float]
) -> Tensor:
    """(sum of sizes, sum of ranks): each block in its own rows and columns, zeros elsewhere."""
    made = torch.zeros(sum(sizes), sum(ranks))
    row = column = 0
    scaled = iter(zip(ranks, factors, strict=True))
    for block, size in zip(blocks, sizes, strict=True):
        if block is not None:
            rank, factor = next(scaled)
            made[row : row + size, column : column + rank] = block * factor
            column += rank
        row += size
    return made
