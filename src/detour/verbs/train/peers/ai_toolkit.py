"""Settings of ai-toolkit: a YAML file with one process.

Source of names and defaults: ``toolkit/config_modules.py`` of ostris/ai-toolkit, and ``BaseSDTrainProcess.py`` for what
the kinds of timesteps mean.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from detour.errors import ConfigError
from detour.verbs.train.peers.fates import (
    Fate,
    Outcome,
    Rule,
    as_is,
    nothing,
    read_as,
    renamed,
    settle,
    shown_settings,
)

OPTIMIZERS = {
    "adamw": "adamw",
    "adamw8bit": "adamw8bit",
    "prodigy": "prodigy",
    "adafactor": "adafactor",
    "lion": "lion",
}
EMA_DECAY = 0.999
PRECISIONS = {"fp32": "fp32", "float32": "fp32", "bf16": "bf16", "fp16": "fp16", "float16": "fp16"}

SCHEDULES = {
    "constant": "constant",
    "cosine": "cosine",
    "linear": "linear",
    "cosine_with_restarts": "cosine_restarts",
}

SILENT = (
    "type", "training_folder", "performance_log_every", "device", "save.dtype", "save.save_every",
    "save.max_step_saves_to_keep", "save.push_to_hub", "save.hf_repo_id", "save.hf_private", "save.save_format",
    "logging.log_every", "logging.verbose", "logging.use_wandb", "logging.project_name", "logging.run_name",
    "datasets.0.type", "datasets.0.caption_ext", "datasets.0.caption_type", "datasets.0.cache_latents",
    "datasets.0.cache_latents_to_disk", "datasets.0.cache_text_embeddings", "datasets.0.num_workers",
    "datasets.0.prefetch_factor", "model.is_flux", "model.is_v3", "model.arch", "train.noise_scheduler",
    "train.disable_sampling", "train.skip_first_sample", "train.force_first_sample", "train.cache_text_embeddings",
    "train.unload_text_encoder", "train.xformers", "train.sdp", "sample.seed", "sample.walk_seed", "sample.sampler",
    "sample.width", "sample.height", "sample.format",
)  # fmt: skip
"""Keys that say where things go, how much is kept in memory, and how much is said; none changes what is learned."""


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
    folders = processes[0].get("datasets")
    if isinstance(folders, list) and len(folders) > 1:
        raise ConfigError(
            f"{len(folders)} datasets: one folder is read here. Leave one, or name all of them as data.folders in a "
            "file for --config."
        )
    if isinstance(config.get("name"), str):
        flat = {"name": config["name"], **flat}
    settings, fates = settle(flat, RULES, silent=SILENT)
    for key, value, words in _not_named(flat):
        outcome = RULES[key](value, flat)
        settings |= outcome.settings
        fates.append(Fate(key=key, value="(not named)", became=shown_settings(outcome), words=words))
    if "network.type" in flat and _is_transformer(flat):
        settings["adapter.targets"] = "kohya"
        words = "ai-toolkit adapts every Linear of the transformer's blocks; here attention alone by default"
        fates.append(
            Fate(key="network.layers", value="(not named)", became="adapter.targets = kohya", words=words)
        )
    return settings, fates


def _is_transformer(flat: Mapping[str, Any]) -> bool:
    return bool(flat.get("model.is_flux") or flat.get("model.is_v3")) or str(flat.get("model.arch")) in (
        "flux",
        "sd3",
    )


def _not_named(flat: Mapping[str, Any]) -> Iterator[tuple[str, Any, str]]:
    """Keys that a file leaves out and whose default is another one than ours: (key, default, why it matters)."""
    if "network.type" in flat and not {"network.alpha", "network.linear_alpha"} & flat.keys():
        words = "ai-toolkit's default is 1, which divides the change by the rank; here it equals the rank"
        yield "network.alpha", 1.0, words
    flow = flat.get("train.noise_scheduler") == "flowmatch"
    if (
        flow
        and not {"train.timestep_type", "train.linear_timesteps", "train.linear_timesteps2"} & flat.keys()
    ):
        yield "train.timestep_type", "sigmoid", "ai-toolkit's default"


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
        "weighted": {"train.loss.timesteps": "uniform", "train.loss.shift": 1.0},
        "flux_shift": {"train.loss.timesteps": "uniform"},
        "shift": {"train.loss.timesteps": "uniform"},
    }
    words = {"flux_shift": "the shift is the base's own", "shift": "the shift is the base's own"}
    words |= {"weighted": "its weights of the loss have no counterpart"}
    if str(value) not in choices:
        return Outcome({}, f"known here are {', '.join(choices)}")
    return Outcome(choices[str(value)], words.get(str(value), ""))


def _linear(value: Any, _: Mapping[str, Any]) -> Outcome:
    if not read_as(bool, value):
        return Outcome({}, "off, as here")
    settings = {"train.loss.timesteps": "uniform", "train.loss.shift": 1.0}
    return Outcome(settings, "its bell of loss weights has no counterpart")


def _network(value: Any, _: Mapping[str, Any]) -> Outcome:
    kind = {"lora": "lora", "dora": "dora", "lokr": "lokr", "loha": "loha"}.get(str(value).lower())
    return Outcome({"adapter.method": kind} if kind else {})


def _text_too(value: Any, given: Mapping[str, Any]) -> Outcome:
    theirs = given.get("network.rank", given.get("network.linear", 16))
    rank = read_as(int, theirs) if read_as(bool, value) else 0
    return Outcome({"adapter.text_encoder.rank": rank})


def _use_ema(value: Any, given: Mapping[str, Any]) -> Outcome:
    if not read_as(bool, value):
        return Outcome({"train.ema": 0.0})
    if "train.ema_config.ema_decay" in given:
        return Outcome({}, "read with ema_decay")
    return Outcome({"train.ema": EMA_DECAY}, "ai-toolkit's default")


def _ema(value: Any, given: Mapping[str, Any]) -> Outcome:
    if not read_as(bool, given.get("train.ema_config.use_ema", False)):
        return Outcome({}, "without use_ema nothing is averaged")
    return Outcome({"train.ema": read_as(float, value)})


def _factor(value: Any, _: Mapping[str, Any]) -> Outcome:
    return Outcome({"adapter.lokr_factor": max(0, read_as(int, value))}, "0: the most even split")


def _alpha_mask(value: Any, _: Mapping[str, Any]) -> Outcome:
    return Outcome({"data.mask": "alpha" if read_as(bool, value) else "off"})


def _crop(value: Any, _: Mapping[str, Any]) -> Outcome:
    return Outcome({"data.crop": "random" if read_as(bool, value) else "center"})


RULES: Mapping[str, Rule] = {
    "name": as_is("name"),
    "trigger_word": as_is("data.trigger"),
    "network.type": _network,
    "network.linear": as_is("adapter.rank", int),
    "network.linear_alpha": as_is("adapter.alpha", float),
    "network.rank": as_is("adapter.rank", int),
    "network.alpha": as_is("adapter.alpha", float),
    "network.dropout": as_is("adapter.dropout", float),
    "network.lokr_factor": _factor,
    "network.lokr_full_rank": nothing("a rank as large as the layer is adapter.rank here"),
    "network.transformer_only": nothing("adapter.targets says which layers"),
    "network.pretrained_lora_path": as_is("adapter.from_file"),
    "network.conv": nothing("data of transformers pass through no convolution but the first"),
    "network.conv_alpha": nothing(),
    "datasets.0.folder_path": as_is("data.source"),
    "datasets.0.caption_dropout_rate": as_is("train.loss.caption_dropout", float),
    "datasets.0.shuffle_tokens": as_is("data.shuffle_tags", bool),
    "datasets.0.keep_tokens": as_is("data.keep_tags", int),
    "datasets.0.default_caption": nothing(
        "data.caption is for every picture, not only for those without a text"
    ),
    "datasets.0.trigger_word": as_is("data.trigger"),
    "datasets.0.flip_x": as_is("data.flip", bool),
    "datasets.0.flip_y": nothing("pictures are not turned upside down"),
    "datasets.0.buckets": as_is("data.buckets", bool),
    "datasets.0.random_crop": _crop,
    "datasets.0.alpha_mask": _alpha_mask,
    "datasets.0.mask_path": nothing("masks stand beside the pictures here, with data.mask = file"),
    "datasets.0.mask_min_value": as_is("data.mask_floor", float),
    "datasets.0.num_repeats": nothing("with one folder only the order of epochs changes"),
    "datasets.0.is_reg": nothing("class pictures are a folder of role 'class'"),
    "datasets.0.token_dropout_rate": nothing("whole captions are dropped, with train.loss.caption_dropout"),
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
    "train.unet_lr": as_is("train.optim.lr", float),
    "train.optimizer_params.weight_decay": as_is("train.optim.weight_decay", float),
    "train.optimizer_params.eps": as_is("train.optim.eps", float),
    "train.lr_scheduler": renamed("train.schedule.kind", SCHEDULES),
    "train.max_grad_norm": as_is("train.max_grad_norm", float),
    "train.noise_offset": as_is("train.loss.noise_offset", float),
    "train.prompt_dropout_prob": as_is("train.loss.caption_dropout", float),
    "train.snr_gamma": nothing("on a rectified flow there is no SNR to balance"),
    "train.reg_weight": as_is("prior.weight", float),
    "train.dtype": renamed("base.dtype", PRECISIONS, "of the frozen base; adapter weights are fp32 always"),
    "train.timestep_type": _times,
    "train.linear_timesteps": _linear,
    "train.linear_timesteps2": _linear,
    "train.content_or_style": nothing("'goal' sets rank, rate and steps here, not the times"),
    "train.ema_config.use_ema": _use_ema,
    "train.ema_config.ema_decay": _ema,
    "train.min_snr_gamma": nothing("on a rectified flow there is no SNR to balance"),
    "train.bypass_guidance_embedding": nothing("the guidance embedding is set to 1 in training"),
    "model.name_or_path": as_is("base.name"),
    "model.quantize_te": nothing("the text encoders leave memory before training, always"),
    "model.qtype": nothing("base.quantize int8 or nf4 are the nearest"),
    "model.quantize": nothing("base.quantize int8 or nf4 are the nearest"),
    "model.low_vram": nothing("the text encoders leave memory before training, always"),
    "sample.sample_every": as_is("sample.every", int),
    "sample.prompts": lambda value, _: Outcome({"sample.prompts": tuple(str(one) for one in value)}),
    "sample.neg": nothing("samples are drawn without a negative prompt"),
    "sample.guidance_scale": as_is("sample.guidance_scale", float),
    "sample.sample_steps": as_is("sample.steps", int),
}
