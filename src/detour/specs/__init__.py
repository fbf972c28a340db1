"""Frozen, strict settings. A part takes its own spec; only a verb sees the whole run."""

from detour.specs.data import DataSpec, FolderSpec
from detour.specs.generation import GenerateSpec, PictureSpec
from detour.specs.run import (
    AdapterSpec,
    BaseSpec,
    CheckpointSpec,
    EvaluateSpec,
    LossSpec,
    OptimSpec,
    PriorSpec,
    RunSpec,
    SampleSpec,
    ScheduleSpec,
    TextEncoderSpec,
    TokensSpec,
    TrainSpec,
    ValidateSpec,
)
from detour.specs.sources import load_run_spec, parse_assignments, save_run_spec, to_toml

__all__ = [
    "AdapterSpec",
    "BaseSpec",
    "CheckpointSpec",
    "DataSpec",
    "EvaluateSpec",
    "FolderSpec",
    "GenerateSpec",
    "LossSpec",
    "OptimSpec",
    "PictureSpec",
    "PriorSpec",
    "RunSpec",
    "SampleSpec",
    "ScheduleSpec",
    "TextEncoderSpec",
    "TokensSpec",
    "TrainSpec",
    "ValidateSpec",
    "load_run_spec",
    "parse_assignments",
    "save_run_spec",
    "to_toml",
]
