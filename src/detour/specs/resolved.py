"""Settings in which nothing is ``"auto"``: what training works with, and what ``resolved.toml`` holds.

Each class narrows the fields of the spec that it inherits from, in the same order, so both are written alike.
"""

from typing import Literal

from pydantic import Field

from detour.specs.data import DataSpec
from detour.specs.generation import PictureSpec, SchedulerName, SizePx
from detour.specs.run import (
    AdapterSpec,
    BaseSpec,
    CheckpointSpec,
    Device,
    DistillSpec,
    Dtype,
    EvaluateSpec,
    LossSpec,
    OptimSpec,
    PriorSpec,
    RunSpec,
    SampleSpec,
    ScheduleSpec,
    TextEncoderSpec,
    TrainSpec,
    ValidateSpec,
)
from detour.specs.strict import Count, NonNegative, Positive, PositiveInt, Share


class ResolvedPicture(PictureSpec):
    """How pictures are drawn with one base."""

    guidance_scale: NonNegative
    width_px: SizePx
    height_px: SizePx
    scheduler: SchedulerName
    eta: NonNegative


class ResolvedBase(BaseSpec):
    """The frozen model, on a known device in a known precision."""

    device: Device
    dtype: Dtype


class ResolvedData(DataSpec):
    """Pictures and captions, at a known size."""

    resolution: PositiveInt
    holdout: Share


class ResolvedPrior(PriorSpec):
    """Prior preservation, on or off."""

    use: bool
    guidance_scale: NonNegative


class ResolvedTextEncoder(TextEncoderSpec):
    """Adapters beside the text encoders' layers, with a known scale."""

    alpha: Positive


class ResolvedAdapter(AdapterSpec):
    """The adapter, with a known rank, scale and choice of layers."""

    rank: PositiveInt
    alpha: Positive
    targets: str
    text_encoder: ResolvedTextEncoder


class ResolvedOptim(OptimSpec):
    """The optimizer, with a known rate."""

    lr: NonNegative
    beta2: Share


class ResolvedSchedule(ScheduleSpec):
    """Learning rate over the run, of a known shape."""

    kind: Literal["constant", "cosine", "linear", "cosine_restarts"]
    warmup: Count


class ResolvedLoss(LossSpec):
    """The denoising objective, with a known law of timesteps."""

    timesteps: Literal["uniform", "logit_normal", "mode"]
    shift: Positive
    caption_dropout: Share


class ResolvedTrain(TrainSpec):
    """Length and step of the run as numbers."""

    steps: PositiveInt
    batch: PositiveInt
    threads: PositiveInt
    optim: ResolvedOptim
    schedule: ResolvedSchedule
    loss: ResolvedLoss


class ResolvedDistill(DistillSpec):
    """Latent consistency distillation from a known guidance."""

    guidance_scale: NonNegative


class ResolvedSample(SampleSpec):
    """Pictures during training, at known steps."""

    every: Count
    guidance_scale: NonNegative


class ResolvedValidate(ValidateSpec):
    """Validation on pictures kept out, at known steps."""

    every: Count
    ship: Literal["last", "lowest_loss", "best_proof"]


class ResolvedCheckpoint(CheckpointSpec):
    """Checkpoints that are written at known steps."""

    every: Count


class ResolvedEvaluate(EvaluateSpec):
    """Proof and held-out evaluation in a known precision."""

    dtype: Dtype


class ResolvedRun(RunSpec):
    """Everything that a training run needs, without any ``"auto"``; made by ``detour.training.resolving.resolve``."""

    name: str
    base: ResolvedBase
    data: ResolvedData
    prior: ResolvedPrior
    adapter: ResolvedAdapter
    train: ResolvedTrain
    distill: ResolvedDistill
    sample: ResolvedSample
    validate_: ResolvedValidate = Field(alias="validate")
    checkpoint: ResolvedCheckpoint
    evaluate: ResolvedEvaluate
