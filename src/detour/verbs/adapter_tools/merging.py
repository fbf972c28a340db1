"""Adapters into a base's own weights: a base that draws as base and adapters did, proved by weights and pictures."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict

from detour.bases.base import Base, open_base
from detour.bases.folder import write_folder
from detour.bases.parts import read_config
from detour.bases.single_file import SHIPPED
from detour.bases.single_file_writing import write_single_file
from detour.errors import ConfigError, ProofFailed
from detour.evaluation.pixels import Pictures, max_abs_diff, mean_abs_diff
from detour.evaluation.thresholds import EFFECT_MIN_DIFF, EFFECT_OVER_NOISE, SAME_PICTURE_MAX_DIFF
from detour.files import write_json
from detour.generation.engine import AdapterInUse, PictureEngine, PictureRequest
from detour.specs.generation import PictureSpec
from detour.verbs.adapter_tools.merged_weights import (
    Checked,
    Pieces,
    check_checkpoint,
    check_folder,
    merge_checkpoint,
    merge_folder,
    pieces_by_layer,
)
from detour.verbs.chosen_adapters import ChosenAdapter, base_for, choose_adapter
from detour.verbs.progress import Progress, ProgressFn, silent
from detour.verbs.staging import refuse_taken, refuse_unwritable, staged

PROOF_STEPS = 10
"""Denoising steps of the proof's pictures: enough for a difference to show."""

FIRST_SEED = 100


class _Figures(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class MergedAdapter(_Figures):
    """One adapter that was merged."""

    name: str
    weight: float
    sha256: str


class PictureProof(_Figures):
    """Same seeds, fp32, everything else equal; on the 0-255 scale."""

    prompt: str
    pictures: int
    effect: float
    """Mean absolute difference between the base and the base with adapters."""
    merged_mean: float
    """Mean absolute difference between the merged base and the base with adapters."""
    merged_max: int
    """The largest difference of any channel of any pixel between those two."""


class MergeResult(_Figures):
    """What a merge made and proved."""

    path: Path
    kind: Literal["folder", "file"]
    base: str
    adapters: tuple[MergedAdapter, ...]
    merged: int
    """Weights that were changed."""
    untouched: int
    """Tensors that are those of the base to the bit."""
    dtypes: tuple[str, ...]
    """Precisions of the merged weights, which are the base's own."""
    largest_difference: float
    """Largest relative difference of a weight's change, after rounding to the base's precision."""
    at: str
    pictures: PictureProof | None
    words: tuple[str, ...] = ()
    """New words of the adapters: a base's weights have no place for their vectors, so they are not in it."""

    def to_json(self) -> str:
        """Write everything as indented JSON."""
        return self.model_dump_json(indent=2)


def merge_adapters(
    base: str,
    loras: Sequence[str],
    *,
    out: Path,
    revision: str | None = None,
    pictures: int = 2,
    prompt: str | None = None,
    allow_pickle: bool = False,
    force: bool = False,
    progress: ProgressFn = silent,
) -> MergeResult:
    """Write the base with the adapters in its weights.

    Args:
        base: name of a base with weights.
        loras: ``FILE`` or ``FILE:weight`` each; a negative weight takes one out again.
        out: a ``.safetensors`` file or a diffusers folder.
        revision: of a hub base.
        pictures: pictures of the proof on each side; 0 leaves the picture proof out.
        prompt: of those pictures; by default the adapters' triggers.
        allow_pickle: read ``.pt``, ``.bin`` and ``.ckpt`` adapters too, their tensors alone.
        force: overwrite existing output.
        progress: told what is being done.

    Raises:
        ConfigError: nothing to merge, ``out`` is taken or does not go with the base.
        AdapterError: an adapter is broken or made for another base.
        ProofFailed: weights or pictures are not what was asked for; there is no output.
    """
    if not loras:
        raise ConfigError("nothing to merge: name at least one adapter with --lora FILE[:WEIGHT].")
    refuse_taken(out, force=force)
    refuse_unwritable(out, as_folder=out.suffix != ".safetensors")
    opened = open_base(base, revision=revision)
    opened.require_weights()
    kind = _kind_of(opened, out)
    chosen = [choose_adapter(text, opened, allow_pickle=allow_pickle) for text in loras]
    opened = base_for(opened, chosen)
    pieces = pieces_by_layer(chosen)
    with staged(out, force=force) as place:
        progress(Progress(stage="merging", total=len(pieces)))
        checked = _write(opened, pieces, place)
        proof = _compare_pictures(opened, chosen, place, pictures, prompt, checked, progress)
    return MergeResult(
        path=out,
        kind=kind,
        base=opened.identity,
        adapters=tuple(
            MergedAdapter(name=one.use.name, weight=one.use.weight, sha256=one.use.sha256) for one in chosen
        ),
        merged=checked.merged,
        untouched=checked.untouched,
        dtypes=checked.dtypes,
        largest_difference=checked.largest_difference,
        at=checked.at,
        pictures=proof,
        words=tuple(word for one in chosen for word in one.adapter.words),
    )


def _kind_of(base: Base, out: Path) -> Literal["folder", "file"]:
    """Whether a file or a folder is written.

    Raises:
        ConfigError: a single file of a family of which none are written.
    """
    assert base.weights is not None
    if base.family.name not in SHIPPED and (out.suffix == ".safetensors" or base.weights.is_file()):
        raise ConfigError(
            f"{out}: bases of {base.family.title} are merged from a diffusers folder into a folder; no single files of "
            "them are written. Name folders."
        )
    if out.suffix == ".safetensors":
        return "file"
    return "folder"


def _write(base: Base, pieces: dict[str, Pieces], place: Path) -> Checked:
    assert base.weights is not None
    to_file = place.suffix == ".safetensors"
    if base.weights.is_file() and to_file:
        merge_checkpoint(base, pieces, place)
        return check_checkpoint(base, pieces, place)
    if base.weights.is_dir() and not to_file:
        return _merge_folder(base, pieces, place)
    with tempfile.TemporaryDirectory(prefix=".merging.", dir=place.parent.parent) as work:
        if to_file:
            folder = Path(work) / "merged"
            checked = _merge_folder(base, pieces, folder)
            merged = open_base(str(folder))
            write_single_file(merged, place)
            _require_same_parts(merged, open_base(str(place)))
            return checked
        unpacked = open_base(str(write_folder(base, Path(work) / "base")))
        _require_same_parts(unpacked, base)
        return _merge_folder(unpacked, pieces, place)


def _merge_folder(base: Base, pieces: dict[str, Pieces], place: Path) -> Checked:
    merge_folder(base, pieces, place)
    if base.scheduler_config() != read_config(base.folder, "scheduler"):  # see base_for
        write_json(place / "scheduler" / "scheduler_config.json", base.scheduler_config())
    return check_folder(base, pieces, place)


def _require_same_parts(folder: Base, file: Base) -> None:
    for part in folder.loaded_parts:
        first, second = (_state(base, part) for base in (folder, file))
        for name, tensor in first.items():
            if name not in second or not torch.equal(tensor, second[name]):
                raise ProofFailed(
                    f"the {part}'s '{name}' is another one in the other layout; nothing was written."
                )


def _state(base: Base, part: str) -> dict[str, torch.Tensor]:
    return dict(base.load_part(part).state_dict())


def _compare_pictures(
    base: Base,
    chosen: Sequence[ChosenAdapter],
    merged: Path,
    pictures: int,
    prompt: str | None,
    checked: Checked,
    progress: ProgressFn,
) -> PictureProof | None:
    """Draw the same requests with the base, with base and adapters, and with the merged base read back."""
    if pictures < 1:
        return None
    text = prompt if prompt is not None else _triggers(chosen)
    requests = [PictureRequest(prompt=text, seed=FIRST_SEED + index) for index in range(pictures)]

    def draw(engine: PictureEngine, done: int, adapters: Sequence[AdapterInUse] = ()) -> Pictures:
        progress(Progress(stage="drawing the proof", done=done * pictures, total=3 * pictures))
        how = PictureSpec(steps=PROOF_STEPS)
        drawn: Pictures = engine.draw(requests, how, adapters=adapters, batch=pictures).pictures
        return drawn

    engine = PictureEngine.load(base)
    plain = draw(engine, 0)
    # New words are not in the merged base.
    layers = [
        AdapterInUse(adapter=replace(one.adapter, words={}), weight=one.use.weight)
        for one in chosen
        if one.adapter.layers
    ]
    adapted = draw(engine, 1, layers)
    del engine
    joined = draw(PictureEngine.load(open_base(str(merged))), 2)
    proof = PictureProof(
        prompt=text,
        pictures=pictures,
        effect=mean_abs_diff(plain, adapted),
        merged_mean=mean_abs_diff(joined, adapted),
        merged_max=max_abs_diff(joined, adapted),
    )
    _judge(proof, np.all([dtype == "float32" for dtype in checked.dtypes]))
    return proof


def _judge(proof: PictureProof, exact: np.bool_) -> None:
    """One step of 255 in fp32; in half precision the base's own rounding moves more, but no effect's worth."""
    if exact and proof.merged_max > SAME_PICTURE_MAX_DIFF:
        raise ProofFailed(
            f"the merged base's pictures differ from the adapters' by up to {proof.merged_max} of 255 "
            f"(limit {SAME_PICTURE_MAX_DIFF}); nothing was written."
        )
    if proof.merged_mean > max(EFFECT_MIN_DIFF, proof.effect / EFFECT_OVER_NOISE):
        raise ProofFailed(
            f"the merged base's pictures differ from the adapters' by {proof.merged_mean:.2f} of 255 on average, "
            f"the adapters' own effect is {proof.effect:.2f}; nothing was written. Use a base in fp32."
        )


def _triggers(chosen: Sequence[ChosenAdapter]) -> str:
    triggers = (one.adapter.metadata.get("modelspec.trigger_phrase", "") for one in chosen)
    return ", ".join(dict.fromkeys(trigger for trigger in triggers if trigger))
