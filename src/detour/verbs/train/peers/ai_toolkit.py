"""Settings of ai-toolkit: a YAML file with one process."""

from collections.abc import Mapping
from typing import Any

from detour.errors import ConfigError
from detour.verbs.train.peers.fates import Fate, Outcome, Rule, as_is, nothing, read_as, renamed, settle

OPTIMIZERS = {
    "adamw": "adamw",
    "adamw8bit": "adamw8bit",
    "prodigy": "prodigy",
    "adafactor": "adafactor",
    "lion": "lion",
}
PRECISIONS = {"fp32": "fp32", "float32": "fp32", "bf16": "bf16", "fp16": "fp16", "float16": "fp16"}

SILENT = (
    "type", "training_folder", "performance_log_every", "device", "save.dtype", "save.save_every",
    "save.max_step_saves_to_keep", "save.push_to_hub", "datasets.0.caption_ext", "datasets.0.cache_latents_to_disk",
    "model.is_flux", "model.is_v3", "model.arch", "train.noise_scheduler", "train.disable_sampling", "sample.seed",
    "sample.walk_seed", "sample.sampler", "sample.width", "sample.height", "train.skip_first_sample",
)  # fmt: skip


def translate(given: Mapping[str, Any]) -> tuple[dict[str, Any], list[Fate]]:
    """Settings of ours for those of an ai-toolkit file.

    Raises:
        ConfigError: no process in it, or a value that is not of its kind.
    """
    config = given.get("config", given)
    processes = config.get("process") if isinstance(config, Mapping) else None
    if not isinstance(processes, list) or not processes or not isinstance(processes[0], Mapping):
        raise ConfigError("no config.process with one entry in it, which ai-toolkit's files have.")
    flat = _flat(processes[0])
    if isinstance(config.get("name"), str):
        flat = {"name": config["name"], **flat}
    return settle(flat, RULES, silent=SILENT)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        elif key == "datasets" and isinstance(value, list) and value and isinstance(value[0], Mapping):
            flat |= _flat(value[0], f"{prefix}{key}.0.")
        else:
            flat[prefix + key] = value
    return flat


def _resolution(value: Any, _: Mapping[str, Any]) -> Outcome:
    sides = [read_as(int, side) for side in value] if isinstance(value, list) else [read_as(int, value)]
    words = "the largest of several; each picture is trained at one size here" if len(sides) > 1 else ""
    return Outcome({"data.resolution": max(sides)}, words)


def _times(value: Any, _: Mapping[str, Any]) -> Outcome:
    choices: Mapping[str, Mapping[str, Any]] = {
        "sigmoid": {"train.loss.timesteps": "logit_normal", "train.loss.shift": 1.0},
        "linear": {"train.loss.timesteps": "uniform", "train.loss.shift": 1.0},
        "flux_shift": {"train.loss.timesteps": "uniform"},
        "shift": {"train.loss.timesteps": "uniform"},
    }
    return Outcome(
        choices.get(str(value), {}), "the shift is the base's own" if "shift" in str(value) else ""
    )


def _network(value: Any, _: Mapping[str, Any]) -> Outcome:
    kind = {"lora": "lora", "dora": "dora", "lokr": "lokr", "loha": "loha"}.get(str(value).lower())
    return Outcome({"adapter.method": kind} if kind else {})


def _text_too(value: Any, given: Mapping[str, Any]) -> Outcome:
    rank = read_as(int, given.get("network.linear", 16)) if read_as(bool, value) else 0
    return Outcome({"adapter.text_encoder.rank": rank})


def _ema(value: Any, given: Mapping[str, Any]) -> Outcome:
    on = read_as(bool, given.get("train.ema_config.use_ema", True))
    return Outcome({"train.ema": read_as(float, value) if on else 0.0})


RULES: Mapping[str, Rule] = {
    "name": as_is("name"),
    "trigger_word": as_is("data.trigger"),
    "network.type": _network,
    "network.linear": as_is("adapter.rank", int),
    "network.linear_alpha": as_is("adapter.alpha", float),
    "network.conv": nothing("data of transformers pass through no convolution but the first"),
    "network.conv_alpha": nothing(),
    "datasets.0.folder_path": as_is("data.source"),
    "datasets.0.caption_dropout_rate": as_is("train.loss.caption_dropout", float),
    "datasets.0.shuffle_tokens": as_is("data.shuffle_tags", bool),
    "datasets.0.resolution": _resolution,
    "train.batch_size": as_is("train.batch", int),
    "train.steps": as_is("train.steps", int),
    "train.gradient_accumulation_steps": as_is("train.grad_accum", int),
    "train.gradient_accumulation": as_is("train.grad_accum", int),
    "train.train_unet": nothing("it always trains"),
    "train.train_text_encoder": _text_too,
    "train.gradient_checkpointing": as_is("train.gradient_checkpointing", bool),
    "train.optimizer": renamed("train.optim.name", OPTIMIZERS),
    "train.lr": as_is("train.optim.lr", float),
    "train.dtype": renamed("base.dtype", PRECISIONS, "of the frozen base; adapter weights are fp32 always"),
    "train.timestep_type": _times,
    "train.linear_timesteps": lambda value, _: Outcome(
        {"train.loss.timesteps": "uniform"} if read_as(bool, value) else {}
    ),
    "train.content_or_style": nothing("'goal' sets rank, rate and steps here, not the times"),
    "train.ema_config.use_ema": nothing("read with ema_decay"),
    "train.ema_config.ema_decay": _ema,
    "train.min_snr_gamma": nothing("on a rectified flow there is no SNR to balance"),
    "train.bypass_guidance_embedding": nothing("the guidance embedding is set to 1 in training"),
    "model.name_or_path": as_is("base.name"),
    "model.quantize": nothing("base.quantize int8 or nf4 are the nearest"),
    "model.low_vram": nothing("the text encoders leave memory before training, always"),
    "sample.sample_every": as_is("sample.every", int),
    "sample.prompts": lambda value, _: Outcome({"sample.prompts": tuple(str(one) for one in value)}),
    "sample.neg": nothing("samples are drawn without a negative prompt"),
    "sample.guidance_scale": as_is("sample.guidance_scale", float),
    "sample.sample_steps": as_is("sample.steps", int),
}
