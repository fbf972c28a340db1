"""Predicts the memory of every stage of a run before anything is downloaded or trained, and what to change."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict
from torch import nn

from detour.bases.base import Base, open_base
from detour.bases.hardware import pick_device, torch_dtype
from detour.bases.quantize import saved_bytes
from detour.errors import ConfigError
from detour.specs import RunSpec
from detour.specs.resolved import ResolvedRun
from detour.specs.sources import with_changes
from detour.training.footprint import (
    CUDA_CONTEXT_BYTES,
    Footprint,
    drawing_footprint,
    encoding_footprint,
    process_bytes,
    text_footprint,
    training_footprint,
)
from detour.training.methods import is_plain
from detour.training.resolving import resolve
from detour.verbs.progress import Progress, ProgressFn, silent
from detour.verbs.train.proof_memory import USABLE, proof_footprint
from detour.verbs.train.samples import BATCH as SAMPLE_BATCH

GIB = 2**30


class StageMemory(BaseModel):
    """One stage of the run at its peak, bytes by part."""

    model_config = ConfigDict(frozen=True)

    stage: str
    parts: Mapping[str, int]
    total: int


class CardAdvice(BaseModel):
    """What to change so that the run fits into a memory."""

    model_config = ConfigDict(frozen=True)

    card: str
    memory_bytes: int
    fits: bool
    """Whether some proposal fits."""
    settings: Mapping[str, Any]
    """``--set`` keys and values that differ from what was asked for."""
    peak_bytes: int
    """With those settings, everything that the process holds included."""
    words: str


class MemoryPlan(BaseModel):
    """Predicted memory of a run."""

    model_config = ConfigDict(frozen=True)

    base: str
    settings: Mapping[str, Any]
    stages: tuple[StageMemory, ...]
    process_bytes: int
    """Interpreter and libraries on a CPU, measured in this process."""
    peak_stage: str
    peak_bytes: int
    cards: tuple[CardAdvice, ...]
    notes: tuple[str, ...]

    def to_json(self) -> str:
        """Write everything as indented JSON."""
        return self.model_dump_json(indent=2)


@dataclass(frozen=True)
class Card:
    """A memory to fit into.

    Attributes:
        name: as a person calls it.
        memory_bytes: all of it.
        bf16: whether it computes bf16 natively.
    """

    name: str
    memory_bytes: int
    bf16: bool = True


CARDS: Sequence[Card] = (
    Card("8 GB", 8 * GIB),
    Card("12 GB", 12 * GIB),
    Card("16 GB", 16 * GIB),
    Card("T4, 16 GB, no bf16", 15 * GIB, bf16=False),
    Card("24 GB", 24 * GIB),
)

PROPOSALS: Sequence[tuple[Mapping[str, Any], str]] = (
    ({}, "the same result in smaller micro-batches"),
    (
        {"train.gradient_checkpointing": True},
        "the same result, activations computed twice: a step takes about a third longer",
    ),
    (
        {"train.gradient_checkpointing": True, "base.quantize": "nf4"},
        "the frozen base in 4 bits, which moves its predictions a little",
    ),
)
"""What to change, in this order: what leaves the result as it is comes first."""


STAGES = 5
"""Encoding, text, training, sample pictures, proof."""


def plan_memory(spec: RunSpec, *, cards: Sequence[Card] = CARDS, progress: ProgressFn = silent) -> MemoryPlan:
    """Predict the memory of a run and propose settings for each card.

    Args:
        spec: the run; its data need not exist. Names that are settings alone (``sd15``, ``sdxl``) do.
        cards: what to propose settings for.
        progress: told of every stage and card.

    Raises:
        BaseError, ConfigError: the base is not there, or a setting does not fit it.
    """
    if spec.adapter.method == "reference":
        raise ConfigError("the memory of --method reference is not predicted yet. Plan another method.")
    base = open_base(spec.base.name, revision=spec.base.revision, weights=False)
    resolved = resolve(spec, base, ("a picture",) * 8, name="plan", device=pick_device(spec.base.device))
    total = STAGES + len(cards)

    def tell(done: int) -> None:
        progress(Progress(stage="predicting memory", done=done, total=total))

    stages = []
    encoding = encoding_footprint(base, resolved.spec)
    for footprint in _stages(base, resolved.spec, encoding):
        stages.append(footprint)
        tell(len(stages))
    trainer, advice = _Trainer(base, resolved.spec, encoding), []
    for card in cards:
        advice.append(_advice(trainer, card))
        tell(STAGES + len(advice))
    process = process_bytes() if resolved.spec.base.device == "cpu" else CUDA_CONTEXT_BYTES
    peak = max(stages, key=lambda stage: stage.total)
    return MemoryPlan(
        base=base.identity,
        settings=_shown(resolved.spec),
        stages=tuple(_stage(stage) for stage in stages),
        process_bytes=process,
        peak_stage=peak.stage,
        peak_bytes=peak.total + process,
        cards=tuple(advice),
        notes=resolved.notes,
    )


class _Trainer:
    """Bytes of the training stage under changed settings, from one run without storage a kind of pass.

    Activations are taken as proportional to the micro-batch.
    """

    def __init__(self, base: Base, spec: ResolvedRun, encoding: Footprint) -> None:
        self.spec, self._encoding = spec, encoding
        self._base = base
        self._passes: dict[tuple[int, bool], Footprint] = {}
        self._proofs: dict[str, int] = {}

    def bytes_at(self, changes: Mapping[str, Any]) -> int:
        """Predict the bytes of one training step, all parts together."""
        changed = with_changes(self.spec, changes)
        parts = dict(self._pass_of(changed).parts)
        if changed.base.quantize != "none":
            dtype = torch_dtype(changed.base.dtype)
            parts["weights"] -= saved_bytes(self._meta_network, changed.base.quantize, dtype)
        parts["activations"] *= changed.train.batch
        return sum(parts.values())

    @functools.cached_property
    def _meta_network(self) -> nn.Module:
        return self._base.meta_network()

    def encoding_bytes(self, card: Card) -> int:
        """Predict the bytes of encoding pictures, then captions; T5 is in bf16 where the card has it."""
        text = text_footprint(self._base, t5_bits=16 if card.bf16 else 32).total
        return max(self._encoding_pictures, text) + CUDA_CONTEXT_BYTES

    def words_on_encoding(self, card: Card) -> str:
        """Which of the two stages takes the memory, and what makes it smaller."""
        takes = f"take {self.encoding_bytes(card) / GIB:.1f} GiB"
        if self._encoding_pictures + CUDA_CONTEXT_BYTES == self.encoding_bytes(card):
            return f"pictures at this --resolution {takes} to encode"
        return f"text encoders {takes}"

    @property
    def _encoding_pictures(self) -> int:
        return self._encoding.total

    def words_on_proof(self, card: Card, half: str) -> str:
        """How the proof at the end of the run is drawn where fp32 does not fit; nothing where it does."""
        asked = self.spec.evaluate.dtype
        for dtype in ("fp32", half) if asked in ("auto", "fp32") else (asked,):
            if dtype not in self._proofs:
                self._proofs[dtype] = proof_footprint(self._base, self.spec, dtype).total + CUDA_CONTEXT_BYTES
            if self._proofs[dtype] <= USABLE * card.memory_bytes:
                return "" if dtype == "fp32" else f"; the proof in {dtype}"
        return f"; the proof takes {self._proofs[dtype] / GIB:.1f} GiB: prove it on a larger card"

    def _pass_of(self, spec: ResolvedRun) -> Footprint:
        """Predict the memory of one sample; fp16 and bf16 take the same bytes, as do those on a quantised base."""
        width = torch_dtype(spec.base.dtype).itemsize
        key = (width, spec.train.gradient_checkpointing)
        if key not in self._passes:
            plain = {"train.batch": 1, "train.grad_accum": 1, "base.quantize": "none"}
            dtype = {"base.dtype": "bf16"} if width == 2 else {}
            self._passes[key] = training_footprint(self._base, with_changes(spec, plain | dtype))
        return self._passes[key]


def _stages(base: Base, spec: ResolvedRun, encoding: Footprint) -> Iterator[Footprint]:
    """What each stage of a run takes, in their order; the training step takes the longest to find out."""
    on_cpu = spec.base.device == "cpu"
    for stage in (encoding, text_footprint(base, t5_bits=32 if on_cpu else 16)):
        yield stage.on_cpu() if on_cpu else stage
    training = training_footprint(base, spec)
    yield training.on_cpu() if on_cpu else training
    if spec.sample.every:
        drawing = drawing_footprint(base, spec, training, pictures=SAMPLE_BATCH)
        yield drawing.on_cpu() if on_cpu else drawing
    proof = proof_footprint(base, spec, spec.evaluate.dtype)
    yield proof.on_cpu() if on_cpu else proof


def _stage(footprint: Footprint) -> StageMemory:
    return StageMemory(stage=footprint.stage, parts=dict(footprint.parts), total=footprint.total)


def _advice(trainer: _Trainer, card: Card) -> CardAdvice:
    """The first proposal that fits, those that leave the result as it is before those that do not."""
    spec = trainer.spec
    encoding = trainer.encoding_bytes(card)
    if encoding > card.memory_bytes:
        return CardAdvice(
            card=card.name,
            memory_bytes=card.memory_bytes,
            fits=False,
            settings={},
            peak_bytes=encoding,
            words=f"does not fit: the {trainer.words_on_encoding(card)} before training",
        )
    asked = spec.train.batch
    whole = asked * spec.train.grad_accum
    smallest = 0
    whole_base = spec.adapter.method == "full"  # trains in fp32 alone
    dtype = "fp32" if whole_base else "bf16" if card.bf16 else "fp16"
    for changes, why in PROPOSALS:
        if "base.quantize" in changes and not is_plain(spec.adapter):
            continue
        for batch in (size for size in range(asked, 0, -1) if whole % size == 0):
            settings = {
                "base.dtype": dtype,
                "train.batch": batch,
                "train.grad_accum": whole // batch,
                **changes,
            }
            needed = trainer.bytes_at(settings) + CUDA_CONTEXT_BYTES
            smallest = min(smallest or needed, needed)
            if needed <= card.memory_bytes:
                return CardAdvice(
                    card=card.name,
                    memory_bytes=card.memory_bytes,
                    fits=True,
                    settings={k: v for k, v in settings.items() if with_changes(spec, {k: v}) != spec},
                    peak_bytes=needed,
                    words=("as asked" if batch == asked and not changes else why)
                    + trainer.words_on_proof(card, dtype),
                )
    return CardAdvice(
        card=card.name,
        memory_bytes=card.memory_bytes,
        fits=False,
        settings={},
        peak_bytes=smallest,
        words="does not fit: train at a lower --resolution, or choose a smaller base",
    )


def _shown(spec: ResolvedRun) -> dict[str, Any]:
    """The settings on which memory depends."""
    return {
        "resolution": spec.data.resolution,
        "batch": spec.train.batch,
        "dtype": spec.base.dtype,
        "device": spec.base.device,
        "rank": spec.adapter.rank,
        "targets": spec.adapter.targets,
        "method": spec.adapter.method,
        "quantize": spec.base.quantize,
        "gradient_checkpointing": spec.train.gradient_checkpointing,
    }
