"""Every ``"auto"`` becomes a value, once, against the base and the data; and a sentence says which and why."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from detour.bases.names import NO_T5, split_name
from detour.data.captions import one_line, with_trigger
from detour.data.holdout import automatic_holdout
from detour.diffusion.process import RectifiedFlow
from detour.errors import ConfigError
from detour.specs import RunSpec
from detour.specs.resolved import ResolvedRun
from detour.specs.sources import parse, set_dotted
from detour.training.combinations import (
    notes_on_compiling,
    notes_on_objective,
    refuse_objective,
    refuse_optimizer,
    refuse_quantized,
)
from detour.training.goals import CAPTION_DROPOUT, GoalDefaults, defaults_for
from detour.training.methods import check_method, method_defaults, method_notes, notes_on_names
from detour.training.optimizers import OPTIMIZERS, default_d0, default_rate
from detour.training.rates import schedule_doubt, schedule_fault

if TYPE_CHECKING:
    from detour.adapters.targets import AdaptableLayer
    from detour.bases.base import Base


@dataclass(frozen=True)
class Resolved:
    """A run without any ``"auto"``, and what to tell the user about it."""

    spec: ResolvedRun
    notes: tuple[str, ...]


def resolve(spec: RunSpec, base: "Base", captions: Sequence[str], *, name: str, device: str) -> Resolved:
    """Fill in every ``"auto"``.

    Args:
        spec: as the user gave it.
        base: what is trained on.
        captions: of all usable pictures, trigger included.
        name: of the run.
        device: what ``auto`` means here.

    Returns:
        A spec in which no value is ``"auto"``; resolving it again changes nothing.

    Raises:
        ConfigError: a value that the base or the device cannot take.
    """
    defaults = defaults_for(base, spec.goal)
    values: dict[str, Any] = spec.model_dump(by_alias=True)
    by_goal = {
        "adapter.rank": defaults.rank,
        **method_defaults(
            spec,
            lr=defaults.lr,
            rank=defaults.rank if spec.adapter.rank == "auto" else spec.adapter.rank,
            targets=defaults.targets,
        ),
        "train.steps": defaults.steps,
        "train.batch": defaults.batch,
        "train.loss.caption_dropout": CAPTION_DROPOUT[spec.goal],
    }
    adamw_rate = by_goal["train.optim.lr"]
    by_goal["train.optim.lr"] = default_rate(spec.train.optim.name, adamw_rate)
    if spec.train.optim.d0 is None:
        values["train"]["optim"]["d0"] = default_d0(spec.train.optim.name, adamw_rate)
    taken = {key: value for key, value in by_goal.items() if _fill(values, key, value)}
    _fill(values, "name", name)
    steps = int(_get(values, "train.steps"))
    plain = {
        "base.device": device,
        "base.dtype": "fp32" if spec.adapter.method == "full" else training_dtype(device),
        "data.resolution": base.native_size_px,
        "data.holdout": automatic_holdout(len(captions)),
        "adapter.alpha": float(_get(values, "adapter.rank")),
        "adapter.text_encoder.alpha": float(max(spec.adapter.text_encoder.rank, 1)),
        "train.loss.timesteps": "logit_normal" if base.is_flow else "uniform",
        "train.loss.shift": own_shift(base, values["data"]["resolution"]),
        "train.threads": torch.get_num_threads(),
        "train.optim.beta2": OPTIMIZERS[spec.train.optim.name].beta2,
        "train.schedule.kind": OPTIMIZERS[spec.train.optim.name].schedule,
        "train.schedule.warmup": round(0.05 * steps),
        "prior.use": bool(spec.prior.class_prompts),
        "prior.guidance_scale": float(base.recommended_guidance),
        "distill.guidance_scale": float(base.recommended_guidance),
        "sample.every": 0 if spec.adapter.method == "reference" else math.ceil(steps / 4),
        "sample.guidance_scale": float(base.recommended_guidance),
        "validate.every": math.ceil(steps / 10),
        "validate.ship": "lowest_loss" if spec.validate_.patience else "last",
        "checkpoint.every": math.ceil(steps / 4),
        "evaluate.dtype": "fp32",
    }
    for key, value in plain.items():
        _fill(values, key, value)
    if not _get(values, "sample.prompts"):
        set_dotted(values, "sample.prompts", spread(captions, spec.sample.count))
    resolved = parse(ResolvedRun, values)
    _check(resolved, base)
    _check_best(resolved)
    _check_schedule(resolved)
    return Resolved(resolved, tuple(_sentences(resolved, taken, defaults, base)))


def training_dtype(device: str) -> str:
    """Precision of the frozen base: bf16 where the device computes it natively; else fp16 on cuda and fp32 on others.

    One step of the embedded base is 1.4 times as fast in bf16 on a core with AVX512-BF16; processors without it
    emulate it, which is slower than fp32.
    """
    if device.startswith("cuda"):
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if device == "cpu" and hasattr(torch.cpu, "get_capabilities"):  # torch 2.11 and later
        can = torch.cpu.get_capabilities()
        return "bf16" if can.get("avx512_bf16") or can.get("amx_bf16") else "fp32"
    return "fp32"


def own_shift(base: "Base", resolution_px: int | str) -> float:
    """Shift of the base's times at a size; 1 where the process has none.

    Args:
        base: whose process.
        resolution_px: side of the pictures; ``"auto"`` is the base's own.
    """
    process = base.process(None if isinstance(resolution_px, str) else resolution_px)
    return process.shift if isinstance(process, RectifiedFlow) else 1.0


def spread(captions: Sequence[str], count: int) -> tuple[str, ...]:
    """``count`` different captions, evenly spread over the data."""
    distinct = list(dict.fromkeys(captions))
    count = min(count, len(distinct))
    return tuple(distinct[i * len(distinct) // count] for i in range(count))


def check_rank(
    rank: int,
    targets: str,
    layers: "Sequence[AdaptableLayer]",
    *,
    key: str = "adapter.rank",
    flag: str = "--rank",
) -> list[str]:
    """A sentence when the rank is larger than some layers can use.

    Args:
        rank: of the adapter.
        targets: that chose the layers.
        layers: that get it.
        key: of the setting.
        flag: that sets it.

    Raises:
        ConfigError: it is larger than every layer can use.
    """
    from detour.adapters.arithmetic import usable_rank

    narrow = [layer for layer in layers if usable_rank(layer) < rank]
    if not narrow:
        return []
    if len(narrow) == len(layers):
        most = max(usable_rank(layer) for layer in layers)
        raise ConfigError(
            f"{key} is {rank}, but no layer of '{targets}' can use more than {most}. Set {flag} {most} or less."
        )
    named = ", ".join(f"{layer.path} ({usable_rank(layer)})" for layer in narrow[:6])
    more = f" and {len(narrow) - 6} more" if len(narrow) > 6 else ""
    return [
        f"Rank {rank} is larger than some layers can use, which costs bytes and gains nothing: {named}{more}."
    ]


def changed_keys(before: RunSpec, after: RunSpec) -> list[str]:
    """Dotted keys in which two specs differ, with both values: ``train.steps (200 → 300)``."""
    old, new = flat_values(before.model_dump(by_alias=True)), flat_values(after.model_dump(by_alias=True))
    return [f"{key} ({old.get(key)} → {new.get(key)})" for key in old | new if old.get(key) != new.get(key)]


def _check(spec: ResolvedRun, base: "Base") -> None:
    check_method(spec, base)
    size, factor = spec.data.resolution, base.drawing_step_px
    if size % factor:
        near = max(factor, round(size / factor) * factor)
        raise ConfigError(
            f"data.resolution is {size}, but base '{base.name}' needs a multiple of {factor}. Set --resolution {near}."
        )
    base.refuse_side(size)
    refuse_objective(spec, base)
    refuse_optimizer(spec)
    refuse_quantized(spec)
    if any(re.search(r"\s{2,}|[\n\r]", trigger) for trigger in spec.data.triggers()):
        raise ConfigError(
            "data.trigger has line breaks or double spaces in it. Use one word or a short phrase."
        )
    _check_prior(spec)


def _check_prior(spec: ResolvedRun) -> None:
    prompts, trigger = spec.prior.class_prompts, one_line(spec.data.trigger)
    if not spec.prior.use:
        return
    if not prompts:
        raise ConfigError(
            "prior.use is on, but no class is named. Add --class-prompt, e.g. --class-prompt 'a robot'."
        )
    if any(not one_line(prompt) for prompt in prompts):
        raise ConfigError("prior.class_prompts has an empty one. Name the class, e.g. 'a robot'.")
    own = next((prompt for prompt in prompts if trigger and with_trigger(prompt, trigger) == prompt), None)
    if own is not None:
        raise ConfigError(
            f"class prompt '{own}' has the trigger '{trigger}' in it: the class would be the subject. "
            "Name the class without it."
        )


def schedule_of(spec: RunSpec) -> dict[str, Any]:
    """Arguments of :func:`detour.training.rates.schedule_fault` for a resolved run."""
    schedule = spec.train.schedule
    return {
        "kind": schedule.kind,
        "warmup": int(schedule.warmup),
        "steps": spec.train.steps,
        "cycles": schedule.cycles,
    }


def _check_schedule(spec: ResolvedRun) -> None:
    fault = schedule_fault(**schedule_of(spec))
    if fault:
        raise ConfigError(
            f"train.schedule does not fit the run: {fault}. Set train.schedule.warmup or train.schedule.cycles lower, "
            "or train.steps higher."
        )


def _check_best(spec: ResolvedRun) -> None:
    """Whether there is something to choose from, and by, where not simply the last weights are shipped.

    Raises:
        ConfigError: nothing is validated, or nothing is kept.
    """
    validate, holdout = spec.validate_, spec.data.holdout
    if validate.ship == "best_proof":
        _check_best_proof(spec)
    if not (validate.patience or validate.ship == "lowest_loss") or (validate.every and holdout):
        return
    asked = f"patience is {validate.patience}" if validate.patience else f"ship is {validate.ship}"
    raise ConfigError(
        f"validate.{asked}, but nothing is validated: validate.every is {validate.every} and data.holdout "
        f"{holdout:g}. Set data.holdout (0.125 keeps one picture in eight out), or leave both settings out."
    )


def _check_best_proof(spec: RunSpec) -> None:
    lacking = None
    if spec.adapter.method == "full":
        lacking = "checkpoints of a fully trained base keep no adapter. Set it to lowest_loss"
    elif not spec.checkpoint.every:
        lacking = "checkpoint.every is 0, so there is nothing to choose from. Set checkpoint.every"
    elif not (spec.evaluate.prompts or spec.evaluate.num_prompts):
        lacking = "no new prompts are drawn. Set evaluate.num_prompts"
    if lacking is not None:
        raise ConfigError(f"validate.ship is best_proof, but {lacking}.")


def _sentences(
    spec: ResolvedRun, taken: Mapping[str, Any], defaults: GoalDefaults, base: "Base"
) -> list[str]:
    notes = []
    if taken:
        listed = ", ".join(
            f"{key.rsplit('.', 1)[-1]} {value:g}"
            if isinstance(value, float)
            else f"{key.rsplit('.', 1)[-1]} {value}"
            for key, value in taken.items()
        )
        notes.append(f"Goal '{spec.goal}' sets {listed}: {defaults.why}.")
    facts = OPTIMIZERS[spec.train.optim.name]
    if "train.optim.lr" in taken and facts.why:
        notes.append(f"Rate {spec.train.optim.lr:g} for {facts.title}: {facts.why}.")
    if spec.goal == "subject" and not spec.prior.use:
        notes.append(
            "Nothing keeps the subject's class as it is: name it with --class-prompt, e.g. 'a robot'."
            if not spec.prior.class_prompts
            else "Prior preservation is off: other pictures of the class will drift towards the subject."
        )
    if base.family.t5_part is not None and base.family.t5_part not in base.text_parts:
        notes.append(
            f"T5 is left out, as '{NO_T5}' asks: zeros take the place of its states, in training as in drawing."
            if split_name(base.name)[1]
            else "The base has no T5, and its network reads nothing in the place of T5's states."
            if base.zero_states == 0
            else "The base has no T5: the places of its states are zeros, in training as in drawing."
        )
    notes += [*notes_on_objective(spec, base), *notes_on_compiling(spec)]
    doubt = schedule_doubt(**schedule_of(spec))
    if doubt:
        notes.append(f"{doubt[:1].upper()}{doubt[1:]}.")
    if spec.train.optim.lr == 0:
        notes.append("train.optim.lr is 0, so nothing will be learned.")
    return [*notes, *method_notes(spec.adapter), *notes_on_names(spec.adapter, base)]


def _get(values: Mapping[str, Any], key: str) -> Any:
    for part in key.split("."):
        values = values[part]
    return values


def _fill(values: dict[str, Any], key: str, value: Any) -> bool:
    """Set ``key`` if it is ``"auto"``; whether it was."""
    if _get(values, key) != "auto":
        return False
    set_dotted(values, key, value)
    return True


def flat_values(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested settings: dotted key → value, tables in a list by their place.

    Args:
        values: as ``model_dump(by_alias=True)`` or a TOML file gives them.
        prefix: put before every key.
    """
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flat_values(value, f"{prefix}{key}.")
        elif isinstance(value, tuple | list) and value and all(isinstance(inner, Mapping) for inner in value):
            for place, inner in enumerate(value):
                flat |= flat_values(inner, f"{prefix}{key}.{place}.")
        else:
            flat[prefix + key] = value
    return flat
