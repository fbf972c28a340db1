"""detour: LoRA fine-tuning of text-to-image diffusion models that proves its own claims.

``import detour`` loads no torch: every function is imported when it is first asked for. Each verb takes a frozen
description (or plain arguments), returns a result, and prints nothing; docs/api.md lists them with examples.
"""

import warnings
from typing import TYPE_CHECKING

from detour.lazy import exports_on_demand

if TYPE_CHECKING:
    from detour.bases.base import open_base as open_base
    from detour.errors import DetourError as DetourError
    from detour.generation.engine import open_engine as open_engine
    from detour.generation.requests import AdapterFile as AdapterFile
    from detour.generation.requests import AdapterInUse as AdapterInUse
    from detour.generation.requests import PictureRequest as PictureRequest
    from detour.specs import DataSpec as DataSpec
    from detour.specs import GenerateSpec as GenerateSpec
    from detour.specs import PictureSpec as PictureSpec
    from detour.specs import RunSpec as RunSpec
    from detour.specs import load_run_spec as load_run_spec
    from detour.specs.evaluation import EvaluationSpec as EvaluationSpec
    from detour.specs.generation import InterpolateSpec as InterpolateSpec
    from detour.specs.studies import AxisSpec as AxisSpec
    from detour.specs.studies import CompareSpec as CompareSpec
    from detour.specs.studies import StudySpec as StudySpec
    from detour.verbs.adapter_tools import compose_adapters as compose
    from detour.verbs.adapter_tools import convert_adapter as convert
    from detour.verbs.adapter_tools import extract_adapter as extract
    from detour.verbs.adapter_tools import merge_adapters as merge
    from detour.verbs.adapter_tools import resize_adapter as resize
    from detour.verbs.adapter_tools import show_adapter as show
    from detour.verbs.cost import estimate_cost as estimate_cost
    from detour.verbs.datasets import caption_pictures as caption
    from detour.verbs.datasets import check_data as check_data
    from detour.verbs.datasets import draw_subject_pictures as draw_subject
    from detour.verbs.doctor import examine as doctor
    from detour.verbs.draw import draw_grid as grid
    from detour.verbs.draw import draw_strengths as grid_of_strengths
    from detour.verbs.draw import generate_pictures as generate
    from detour.verbs.draw import interpolate_pictures as interpolate
    from detour.verbs.draw import show_picture as show_picture
    from detour.verbs.draw import verify_picture as verify_picture
    from detour.verbs.explain import inspect_base as inspect
    from detour.verbs.explain import overfit_one as overfit
    from detour.verbs.explain import step_once as step
    from detour.verbs.explain import trace_forward as forward
    from detour.verbs.judge import evaluate_adapter as evaluate
    from detour.verbs.judge import evaluate_checkpoints as evaluate_checkpoints
    from detour.verbs.judge import prove_adapter as prove
    from detour.verbs.judge import prove_run as prove_run
    from detour.verbs.safety import check_safety_log as check_safety_log
    from detour.verbs.safety import measure_policy as measure_policy
    from detour.verbs.safety import train_prompt_classifier as train_prompt_classifier
    from detour.verbs.studies import compare_runs as compare
    from detour.verbs.studies import study_blocks as study_blocks
    from detour.verbs.studies import study_guidance as study_guidance
    from detour.verbs.studies import study_schedulers as study_schedulers
    from detour.verbs.studies import study_timesteps as study_timesteps
    from detour.verbs.train import distill_base as distill
    from detour.verbs.train import list_runs as runs
    from detour.verbs.train import plan_memory as plan
    from detour.verbs.train import push_run as push
    from detour.verbs.train import run_demo as demo
    from detour.verbs.train import train_adapter as train

__version__ = "0.1.0"

VERBS = {
    "train": ("detour.verbs.train", "train_adapter"),
    "distill": ("detour.verbs.train", "distill_base"),
    "demo": ("detour.verbs.train", "run_demo"),
    "plan": ("detour.verbs.train", "plan_memory"),
    "runs": ("detour.verbs.train", "list_runs"),
    "push": ("detour.verbs.train", "push_run"),
    "generate": ("detour.verbs.draw", "generate_pictures"),
    "show_picture": ("detour.verbs.draw", "show_picture"),
    "verify_picture": ("detour.verbs.draw", "verify_picture"),
    "grid": ("detour.verbs.draw", "draw_grid"),
    "grid_of_strengths": ("detour.verbs.draw", "draw_strengths"),
    "interpolate": ("detour.verbs.draw", "interpolate_pictures"),
    "evaluate": ("detour.verbs.judge", "evaluate_adapter"),
    "evaluate_checkpoints": ("detour.verbs.judge", "evaluate_checkpoints"),
    "prove": ("detour.verbs.judge", "prove_adapter"),
    "prove_run": ("detour.verbs.judge", "prove_run"),
    "show": ("detour.verbs.adapter_tools", "show_adapter"),
    "convert": ("detour.verbs.adapter_tools", "convert_adapter"),
    "merge": ("detour.verbs.adapter_tools", "merge_adapters"),
    "compose": ("detour.verbs.adapter_tools", "compose_adapters"),
    "resize": ("detour.verbs.adapter_tools", "resize_adapter"),
    "extract": ("detour.verbs.adapter_tools", "extract_adapter"),
    "check_data": ("detour.verbs.datasets", "check_data"),
    "caption": ("detour.verbs.datasets", "caption_pictures"),
    "draw_subject": ("detour.verbs.datasets", "draw_subject_pictures"),
    "inspect": ("detour.verbs.explain", "inspect_base"),
    "step": ("detour.verbs.explain", "step_once"),
    "forward": ("detour.verbs.explain", "trace_forward"),
    "overfit": ("detour.verbs.explain", "overfit_one"),
    "doctor": ("detour.verbs.doctor", "examine"),
    "check_safety_log": ("detour.verbs.safety", "check_safety_log"),
    "estimate_cost": ("detour.verbs.cost", "estimate_cost"),
    "measure_policy": ("detour.verbs.safety", "measure_policy"),
    "train_prompt_classifier": ("detour.verbs.safety", "train_prompt_classifier"),
    "compare": ("detour.verbs.studies", "compare_runs"),
    "study_schedulers": ("detour.verbs.studies", "study_schedulers"),
    "study_guidance": ("detour.verbs.studies", "study_guidance"),
    "study_timesteps": ("detour.verbs.studies", "study_timesteps"),
    "study_blocks": ("detour.verbs.studies", "study_blocks"),
}
"""Verb as it is called (``detour.train``) → (package that exports it, name there)."""

TYPES = {
    "open_base": ("detour.bases.base", "open_base"),
    "open_engine": ("detour.generation.engine", "open_engine"),
    "PictureRequest": ("detour.generation.requests", "PictureRequest"),
    "AdapterFile": ("detour.generation.requests", "AdapterFile"),
    "AdapterInUse": ("detour.generation.requests", "AdapterInUse"),
    "DetourError": ("detour.errors", "DetourError"),
    "RunSpec": ("detour.specs", "RunSpec"),
    "load_run_spec": ("detour.specs", "load_run_spec"),
    "DataSpec": ("detour.specs", "DataSpec"),
    "PictureSpec": ("detour.specs", "PictureSpec"),
    "GenerateSpec": ("detour.specs", "GenerateSpec"),
    "InterpolateSpec": ("detour.specs.generation", "InterpolateSpec"),
    "EvaluationSpec": ("detour.specs.evaluation", "EvaluationSpec"),
    "CompareSpec": ("detour.specs.studies", "CompareSpec"),
    "AxisSpec": ("detour.specs.studies", "AxisSpec"),
    "StudySpec": ("detour.specs.studies", "StudySpec"),
    "WorldSubject": ("detour.verbs.datasets.practice_subject", "WorldSubject"),
    "AskedPicture": ("detour.verbs.doctor.examination", "AskedPicture"),
}
"""What else this package exports: descriptions that verbs take, and the open base and engine."""

__getattr__, __dir__ = exports_on_demand(__name__, {**VERBS, **TYPES})

# tqdm asks for ipywidgets when it is imported in a notebook; without them its bars are plain text, which is fine.
warnings.filterwarnings("ignore", message="IProgress not found")
