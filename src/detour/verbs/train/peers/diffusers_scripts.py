"""Settings of diffusers' DreamBooth and LoRA scripts: their command line, in a file."""

import shlex
from collections.abc import Mapping
from typing import Any

from detour.errors import ConfigError
from detour.verbs.train.peers.fates import Fate, Outcome, Rule, as_is, nothing, read_as, renamed, settle
from detour.verbs.train.peers.kohya import PRECISIONS, SCHEDULES

SILENT = (
    "output_dir", "logging_dir", "report_to", "push_to_hub", "hub_model_id", "hub_token", "checkpointing_steps",
    "checkpoints_total_limit", "dataloader_num_workers", "cache_dir", "cache_latents",
    "enable_xformers_memory_efficient_attention",
    "allow_tf32", "num_validation_images",
)  # fmt: skip


def translate(text: str) -> tuple[dict[str, Any], list[Fate]]:
    """Settings of ours for a command line such as ``accelerate launch train_dreambooth_lora_flux.py --rank=16``.

    Raises:
        ConfigError: not a command line with ``--`` options, or a value that is not of its kind.
    """
    given = _options(text)
    settings, fates = settle(given, RULES, silent=SILENT)
    if (
        "sd3" in text
        and read_as(bool, given.get("precondition_outputs", 1))
        and "precondition_outputs" not in given
    ):
        fates.append(
            Fate(key="precondition_outputs", value="(not named: 1)", became="", words=PRECONDITIONED)
        )
    if "flux" in text and "guidance_scale" not in given:
        fates.append(
            Fate(key="guidance_scale", value="(not named: 3.5)", became="",
                 words="the guidance embedding of Flux-dev is 3.5 in that script's training, and 1 here")
        )  # fmt: skip
    if "flux" in text and "lora_layers" not in given:
        settings["adapter.targets"] = FLUX_LAYERS
        words = "the script adapts attention and feed-forward; here attention alone by default"
        fates.append(
            Fate(
                key="lora_layers", value="(not named)", became=f"adapter.targets = {FLUX_LAYERS}", words=words
            )
        )
    return settings, fates


FLUX_LAYERS = "attn,ff.net.0.proj,ff.net.2,ff_context.net.0.proj,ff_context.net.2"
"""Layers that diffusers' Flux script adapts by default, as ``adapter.targets`` names them."""

PRECONDITIONED = (
    "it fits the clean latents, which weighs the velocity's error by σ²; here it is the raw velocity"
)


def _options(text: str) -> dict[str, Any]:
    try:
        words = shlex.split(text.replace("\\\n", " "), comments=True)
    except ValueError as error:
        raise ConfigError(f"not a command line ({error}).") from error
    found: dict[str, Any] = {}
    script = next((at for at, word in enumerate(words) if word.endswith(".py")), -1)
    words = words[script + 1 :]
    for at, word in enumerate(words):
        if not word.startswith("--"):
            continue
        key, equals, value = word.removeprefix("--").partition("=")
        follows = words[at + 1] if at + 1 < len(words) else "--"
        found[key] = value if equals else True if follows.startswith("--") else follows
    if not found:
        raise ConfigError("no --options in it. Put the script's command line into the file.")
    return found


def _mean(value: Any, _: Mapping[str, Any]) -> Outcome:
    mean = -read_as(float, value)
    return Outcome(
        {"train.loss.logit_mean": mean + 0.0},
        "the other way round: diffusers' scripts count timesteps downwards, so that above 0 shows less noise there",
    )


def _scheme(value: Any, _: Mapping[str, Any]) -> Outcome:
    name = str(value)
    if name in ("logit_normal", "mode"):
        return Outcome({"train.loss.timesteps": name, "train.loss.weighting": "uniform"})
    if name in ("sigma_sqrt", "cosmap"):
        return Outcome({"train.loss.timesteps": "uniform", "train.loss.weighting": name})
    return Outcome(
        {"train.loss.timesteps": "uniform", "train.loss.weighting": "uniform"} if name == "none" else {}
    )


def _text_too(value: Any, given: Mapping[str, Any]) -> Outcome:
    return Outcome(
        {"adapter.text_encoder.rank": read_as(int, given.get("rank", 4)) if read_as(bool, value) else 0},
        "CLIP's text encoders alone",
    )


def _class(value: Any, _: Mapping[str, Any]) -> Outcome:
    return Outcome({"prior.class_prompts": (str(value),)})


RULES: Mapping[str, Rule] = {
    "pretrained_model_name_or_path": as_is("base.name"),
    "revision": as_is("base.revision"),
    "instance_data_dir": as_is("data.source"),
    "dataset_name": lambda value, _: Outcome({"data.source": f"hub:{value}"}),
    "instance_prompt": as_is("data.caption", words="of the pictures that have no .txt beside them"),
    "with_prior_preservation": as_is("prior.use", bool),
    "class_prompt": _class,
    "num_class_images": as_is("prior.pictures", int),
    "prior_loss_weight": as_is("prior.weight", float),
    "seed": as_is("seed", int),
    "resolution": as_is("data.resolution", int),
    "random_flip": as_is("data.flip", bool),
    "rank": as_is("adapter.rank", int),
    "lora_alpha": as_is("adapter.alpha", float),
    "lora_dropout": as_is("adapter.dropout", float),
    "use_dora": lambda value, _: Outcome({"adapter.method": "dora"} if read_as(bool, value) else {}),
    "lora_layers": as_is("adapter.targets"),
    "train_text_encoder": _text_too,
    "train_batch_size": as_is("train.batch", int),
    "gradient_accumulation_steps": as_is("train.grad_accum", int),
    "gradient_checkpointing": as_is("train.gradient_checkpointing", bool),
    "max_train_steps": as_is("train.steps", int),
    "num_train_epochs": nothing("name train.steps: epochs × pictures / batch"),
    "learning_rate": as_is("train.optim.lr", float),
    "optimizer": renamed("train.optim.name", {"adamw": "adamw", "prodigy": "prodigy"}),
    "use_8bit_adam": lambda value, _: Outcome(
        {"train.optim.name": "adamw8bit"} if read_as(bool, value) else {}
    ),
    "lr_scheduler": renamed("train.schedule.kind", SCHEDULES),
    "lr_warmup_steps": as_is("train.schedule.warmup", int),
    "max_grad_norm": as_is("train.max_grad_norm", float),
    "mixed_precision": renamed(
        "base.dtype", PRECISIONS, "of the frozen base; adapter weights are fp32 always"
    ),
    "snr_gamma": lambda value, _: Outcome(
        {"train.loss.weighting": "min_snr", "train.loss.snr_gamma": read_as(float, value)}
    ),
    "noise_offset": as_is("train.loss.noise_offset", float, "on a rectified flow it is refused"),
    "weighting_scheme": _scheme,
    "logit_mean": _mean,
    "logit_std": as_is("train.loss.logit_std", float),
    "mode_scale": as_is("train.loss.mode_scale", float),
    "precondition_outputs": lambda value, _: Outcome(
        {}, PRECONDITIONED if read_as(bool, value) else "as here"
    ),
    "guidance_scale": nothing("the guidance embedding is set to 1 in training"),
    "max_sequence_length": nothing("T5 reads as many tokens as in drawing"),
    "validation_prompt": lambda value, _: Outcome({"sample.prompts": (str(value),)}),
    "validation_epochs": nothing("sample.every counts steps"),
}
