"""Settings of kohya's sd-scripts: the TOML of ``--config_file``.

Source of what they mean: ``library/flux_train_utils.py`` and ``sd3_train_utils.py`` of kohya-ss/sd-scripts, whose
Flux and SD 3 trainers draw their times by different rules, and ``networks/lora_flux.py`` for the layers.
"""

from collections.abc import Iterator, Mapping
from typing import Any

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
    "adamw": "adamw", "adamw8bit": "adamw8bit", "lion": "lion", "prodigy": "prodigy", "adafactor": "adafactor",
    "adamwschedulefree": "schedule_free",
}  # fmt: skip
SCHEDULES = {
    "constant": "constant", "constant_with_warmup": "constant", "cosine": "cosine", "linear": "linear",
    "cosine_with_restarts": "cosine_restarts",
}  # fmt: skip
PRECISIONS = {"no": "fp32", "fp16": "fp16", "bf16": "bf16"}

SILENT = (
    "output_dir", "logging_dir", "log_with", "save_every_n_epochs", "save_every_n_steps", "save_model_as",
    "save_precision", "log_prefix", "max_data_loader_n_workers", "persistent_data_loader_workers", "cache_latents",
    "cache_latents_to_disk", "cache_text_encoder_outputs", "cache_text_encoder_outputs_to_disk", "caption_extension",
    "sdpa", "xformers", "training_comment", "wandb_run_name", "vae_batch_size", "lowram", "highvram",
)  # fmt: skip
"""Where things are written, what is logged, and what is always so here (caches, efficient attention)."""


def translate(given: Mapping[str, Any]) -> tuple[dict[str, Any], list[Fate]]:
    """Settings of ours for those of a kohya file, sections or none.

    Raises:
        ConfigError: a value that is not of its kind.
    """
    flat: dict[str, Any] = {}
    for key, value in given.items():
        flat |= value if isinstance(value, Mapping) else {key: value}
    settings, fates = settle(flat, RULES, silent=SILENT)
    for key, value, words in _not_named(flat):
        outcome = RULES[key](value, flat)
        settings |= outcome.settings
        fates.append(Fate(key=key, value="(not named)", became=shown_settings(outcome), words=words))
    if str(flat.get("network_module", "")).startswith("networks.lora") and "adapter.targets" not in settings:
        settings["adapter.targets"] = "kohya"
        words = (
            "sd-scripts adapts every Linear of the blocks, modulations too; here attention alone by default"
        )
        fates.append(Fate(key="layers", value="(not named)", became="adapter.targets = kohya", words=words))
    if "train_batch_size" not in flat:
        settings.setdefault("train.batch", 1)
    return settings, fates


def _resolution(value: Any, _: Mapping[str, Any]) -> Outcome:
    sides = [read_as(int, side) for side in str(value).split(",")]
    words = "the first side; other shapes take data.buckets" if len(set(sides)) > 1 else ""
    return Outcome({"data.resolution": sides[0]}, words)


def _module(value: Any, given: Mapping[str, Any]) -> Outcome:
    if str(value) != "lycoris.kohya":
        return Outcome({"adapter.method": "lora"})
    arguments = [str(one) for one in given.get("network_args", ())]
    algo = next((one.partition("=")[2] for one in arguments if one.startswith("algo=")), "lora")
    method = {"lora": "lora", "locon": "lora", "loha": "loha", "lokr": "lokr"}.get(algo.lower())
    return Outcome({"adapter.method": method} if method else {}, f"algo {algo}")


def _text_rate(value: Any, given: Mapping[str, Any]) -> Outcome:
    rate = read_as(float, value[0] if isinstance(value, list) else value)
    own = read_as(float, given.get("unet_lr") or given.get("learning_rate") or 1e-4)
    return Outcome(
        {"adapter.text_encoder.rate": rate / own} if rate and own else {}, "as a multiple of the rate"
    )


def _text_too(value: Any, given: Mapping[str, Any]) -> Outcome:
    if read_as(bool, value):
        return Outcome({"adapter.text_encoder.rank": 0})
    rank = read_as(int, given.get("network_dim", 4))
    return Outcome({"adapter.text_encoder.rank": rank, "adapter.text_encoder.targets": "kohya"})


def is_flux(given: Mapping[str, Any]) -> bool:
    """Whether a file is for sd-scripts' Flux trainer, whose times follow other rules than its SD 3 trainer's."""
    if "network_module" in given and str(given["network_module"]).startswith("networks.lora_"):
        return str(given["network_module"]) == "networks.lora_flux"
    return any(key in given for key in ("timestep_sampling", "discrete_flow_shift", "model_prediction_type"))


def _draws(given: Mapping[str, Any]) -> str:
    """How sd-scripts' Flux trainer draws its times; ``sigma`` is its default, and the only one that reads a scheme."""
    return str(given.get("timestep_sampling", "sigma"))


def _sampling(value: Any, given: Mapping[str, Any]) -> Outcome:
    std = read_as(float, given.get("sigmoid_scale", 1.0))
    law = {"train.loss.timesteps": "logit_normal", "train.loss.logit_mean": 0.0, "train.loss.logit_std": std}
    shift = read_as(float, given.get("discrete_flow_shift", 3.0))
    scheme = str(given.get("weighting_scheme", "none"))
    choices: Mapping[str, Mapping[str, Any]] = {
        "uniform": {"train.loss.timesteps": "uniform", "train.loss.shift": 1.0},
        "sigma": {
            "train.loss.timesteps": scheme if scheme in ("logit_normal", "mode") else "uniform",
            "train.loss.shift": shift,
        },
        "sigmoid": {**law, "train.loss.shift": 1.0},
        "shift": {**law, "train.loss.shift": shift},
        "flux_shift": law,
    }
    words = "the shift moves with the resolution, as here by default" if value == "flux_shift" else ""
    return Outcome(choices.get(str(value), {}), words)


VELOCITY = "it fits the clean latents, which weighs the velocity's error by σ²; here it is the raw velocity"


def _prediction(value: Any, given: Mapping[str, Any]) -> Outcome:
    if value == "raw":
        return Outcome({"train.loss.weighting": "uniform"}, "the raw velocity, which is what is learned here")
    if value == "sigma_scaled":
        if str(given.get("weighting_scheme")) == "sigma_sqrt":
            equal = "with sigma_sqrt its σ² is divided out again: the raw velocity"
            return Outcome({"train.loss.weighting": "uniform"}, equal)
        return Outcome({}, VELOCITY)
    return Outcome({}, f"'{value}' changes what the loss compares; here it is always the raw velocity")


def _scheme(value: Any, given: Mapping[str, Any]) -> Outcome:
    name = str(value)
    if not is_flux(given):
        if name in ("sigma_sqrt", "cosmap"):
            return Outcome({"train.loss.weighting": name})
        if name in ("logit_normal", "mode"):
            return Outcome({"train.loss.timesteps": name})
        return Outcome({"train.loss.weighting": "uniform"} if name in ("none", "uniform") else {})
    if name in ("logit_normal", "mode"):
        if _draws(given) != "sigma":
            return Outcome({}, _unread(given))
        return Outcome({"train.loss.timesteps": name})
    if name in ("sigma_sqrt", "cosmap"):
        return Outcome({}, "read with model_prediction_type: a weight on the error of the clean latents")
    return Outcome({"train.loss.weighting": "uniform"} if name in ("none", "uniform") else {})


def _of_scheme(key: str, schemes: tuple[str, ...], words: str = "", *, turned: bool = False) -> Rule:
    """Rule for a number that sd-scripts' Flux trainer reads with some weighting schemes alone.

    Args:
        key: ours, dotted.
        schemes: that read it.
        words: said where it is read for SD 3.
        turned: whether the Flux trainer means the opposite sign.
    """

    def rule(value: Any, given: Mapping[str, Any]) -> Outcome:
        number = read_as(float, value)
        if not is_flux(given):
            return Outcome({key: number}, words)
        if _draws(given) != "sigma":
            return Outcome({}, _unread(given))
        if str(given.get("weighting_scheme", "none")) not in schemes:
            return Outcome({}, f"it is read with weighting_scheme = {schemes[0]} alone")
        if turned:
            return Outcome({key: 0.0 - number}, TURNED)
        return Outcome({key: number})

    return rule


TURNED = (
    "the other way round: the Flux trainer looks times up in a list that falls, so that above 0 shows less noise there "
    "(its SD 3 trainer does not)"
)


def _unread(given: Mapping[str, Any]) -> str:
    return f"without effect there: timestep_sampling = {_draws(given)} draws the times, and reads no scheme"


def _not_named(flat: Mapping[str, Any]) -> Iterator[tuple[str, Any, str]]:
    """Keys that a file leaves out and whose default is another one than ours: (key, default, why it matters)."""
    if "network_alpha" not in flat and "network_dim" in flat:
        yield (
            "network_alpha",
            1.0,
            "kohya's default is 1, which divides the change by the rank; here it equals the rank",
        )
    if not is_flux(flat):
        return
    if "timestep_sampling" not in flat:
        yield (
            "timestep_sampling",
            "sigma",
            "the Flux trainer's default, with discrete_flow_shift = 3 unless it is named",
        )
    if "model_prediction_type" not in flat:
        yield (
            "model_prediction_type",
            "sigma_scaled",
            f"the Flux trainer's default is sigma_scaled: {VELOCITY}",
        )
    if "guidance_scale" not in flat:
        yield (
            "guidance_scale",
            3.5,
            "the Flux trainer's default is 3.5; here it is 1, for which drawing was distilled",
        )


def _loss(value: Any, _: Mapping[str, Any]) -> Outcome:
    kind = {"l2": "mse", "huber": "huber", "smooth_l1": None}.get(str(value))
    return Outcome({"train.loss.distance": kind} if kind else {})


def _snr(value: Any, _: Mapping[str, Any]) -> Outcome:
    words = "on a rectified flow it is refused: there is no SNR to balance"
    gamma = read_as(float, value)
    return Outcome({"train.loss.weighting": "min_snr", "train.loss.snr_gamma": gamma} if gamma else {}, words)


def _warmup(value: Any, given: Mapping[str, Any]) -> Outcome:
    steps = read_as(float, value)
    if 0 < steps < 1:
        steps *= read_as(int, given.get("max_train_steps", 0))
    return Outcome({"train.schedule.warmup": int(steps)})


RULES: Mapping[str, Rule] = {
    "pretrained_model_name_or_path": as_is("base.name"),
    "train_data_dir": as_is(
        "data.source", words="point at the folder with the pictures, not at that of 'N_name' ones"
    ),
    "output_name": as_is("name"),
    "seed": as_is("seed", int),
    "resolution": _resolution,
    "enable_bucket": as_is("data.buckets", bool),
    "flip_aug": as_is("data.flip", bool),
    "shuffle_caption": as_is("data.shuffle_tags", bool),
    "keep_tokens": as_is("data.keep_tags", int),
    "caption_dropout_rate": as_is("train.loss.caption_dropout", float),
    "prior_loss_weight": as_is("prior.weight", float),
    "network_module": _module,
    "network_args": nothing("but for LyCORIS's algo"),
    "network_dim": as_is("adapter.rank", int),
    "network_alpha": as_is("adapter.alpha", float),
    "network_dropout": as_is("adapter.dropout", float),
    "network_train_unet_only": _text_too,
    "learning_rate": as_is("train.optim.lr", float),
    "unet_lr": as_is("train.optim.lr", float),
    "text_encoder_lr": _text_rate,
    "optimizer_type": renamed("train.optim.name", OPTIMIZERS),
    "lr_scheduler": renamed("train.schedule.kind", SCHEDULES),
    "lr_scheduler_num_cycles": as_is("train.schedule.cycles", int),
    "lr_warmup_steps": _warmup,
    "max_train_steps": as_is("train.steps", int),
    "max_train_epochs": nothing("name train.steps: epochs × pictures × repeats / batch"),
    "train_batch_size": as_is("train.batch", int),
    "gradient_accumulation_steps": as_is("train.grad_accum", int),
    "gradient_checkpointing": as_is("train.gradient_checkpointing", bool),
    "max_grad_norm": as_is("train.max_grad_norm", float),
    "mixed_precision": renamed(
        "base.dtype", PRECISIONS, "of the frozen base; adapter weights are fp32 always"
    ),
    "fp8_base": nothing("base.quantize int8 is the nearest"),
    "clip_skip": nothing("the layer that each family was trained with is read"),
    "max_token_length": nothing("captions are read to 75 tokens"),
    "v2": nothing("the base says so itself"),
    "v_parameterization": nothing("the base says so itself"),
    "min_snr_gamma": _snr,
    "debiased_estimation_loss": lambda value, _: Outcome(
        {"train.loss.weighting": "debiased"} if read_as(bool, value) else {}
    ),
    "noise_offset": as_is("train.loss.noise_offset", float, "on a rectified flow it is refused"),
    "ip_noise_gamma": as_is("train.loss.input_perturbation", float),
    "zero_terminal_snr": as_is("train.loss.zero_terminal_snr", bool),
    "loss_type": _loss,
    "huber_c": as_is("train.loss.huber_c", float),
    "huber_schedule": renamed("train.loss.huber_schedule", {"constant": "constant", "snr": "snr"}),
    "timestep_sampling": _sampling,
    "sigmoid_scale": nothing("read with timestep_sampling, as train.loss.logit_std"),
    "discrete_flow_shift": nothing("read with timestep_sampling, as train.loss.shift"),
    "training_shift": as_is("train.loss.shift", float),
    "model_prediction_type": _prediction,
    "weighting_scheme": _scheme,
    "logit_mean": _of_scheme(
        "train.loss.logit_mean", ("logit_normal",), "above 0 shows more noise, there and here", turned=True
    ),
    "logit_std": _of_scheme("train.loss.logit_std", ("logit_normal",)),
    "mode_scale": _of_scheme("train.loss.mode_scale", ("mode",)),
    "guidance_scale": nothing(
        "the guidance embedding is set to 1 in training, as for drawing it was distilled"
    ),
}
