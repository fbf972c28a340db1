"""What an adapter file says about itself.

No timestamps, no paths, no captions but the tag table: same run, same bytes.
"""

import base64
import io
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from detour.adapters.adapter import Adapter
from detour.adapters.layers import DoraLayer
from detour.bases.embedded import EMBEDDED, embedded_of_identity
from detour.bases.families import Family
from detour.bases.names import split_name
from detour.specs import RunSpec, to_toml

THUMBNAIL_PX = 256
MODELSPEC_VERSION = "1.0.1"
IMPLEMENTATION = "diffusers"
ZERO_TERMINAL_SNR = "ss_zero_terminal_snr"
"""Metadata key, as sd-scripts writes it: "True" where the adapter was trained to pure noise at the last timestep."""


FEW_STEPS = "detour.few_steps"
"""Metadata key of files that were distilled here: ``lcm-4-steps``."""


def kohya_metadata(
    adapter: Adapter,
    *,
    family: Family,
    identity: str,
    title: str,
    resolution_px: int,
    run: RunSpec | None = None,
    tags: Mapping[str, Mapping[str, int]] | None = None,
    num_examples: int | None = None,
    prediction_type: str = "epsilon",
    thumbnail: NDArray[np.uint8] | None = None,
) -> dict[str, str]:
    """Metadata that web UIs and sites read, and the run that made the file.

    Args:
        adapter: for ranks and alphas.
        family: of the base.
        identity: of the base, the same on every machine.
        title: name shown to people.
        resolution_px: side of the training pictures.
        run: resolved settings; written without the place of the data and without captions.
        tags: frequency of the captions' tags by folder, as kohya writes it; None leaves the table out.
        num_examples: training pictures.
        prediction_type: "epsilon" or "v_prediction".
        thumbnail: (H, W, 3) uint8, shown by model browsers; scaled to 256 px.

    Returns:
        Strings only, as safetensors wants them.
    """
    metadata = network_metadata(adapter, family)
    metadata |= _modelspec(family, identity, title, resolution_px, prediction_type)
    metadata |= {
        "ss_base_model_version": identity
        if embedded_of_identity(identity) is not None
        else family.kohya_version,
        "ss_sd_model_name": identity,
        "ss_v2": str(family.name == "sd2"),
        "ss_output_name": title,
        "ss_resolution": f"({resolution_px}, {resolution_px})",
        "detour.base": identity,
        "detour.family": family.name,
    }
    if num_examples is not None:
        metadata["ss_num_train_images"] = str(num_examples)
    if tags is not None:
        metadata["ss_tag_frequency"] = json.dumps(tags, ensure_ascii=False)
    if run is not None:
        metadata |= _run_metadata(run)
        metadata["detour.config"] = to_toml(shareable(run, identity))
    if thumbnail is not None:
        metadata["modelspec.thumbnail"] = thumbnail_url(thumbnail)
    return metadata


def network_metadata(adapter: Adapter, family: Family) -> dict[str, str]:
    """Module, rank and alpha as kohya and LyCORIS write them; "Dynamic" where layers differ."""
    alphas = sorted({layer.alpha for layer in adapter.layers.values()})
    convolutions = {layer.rank for layer in adapter.layers.values() if layer.kernel != (1, 1)}
    arguments = {"conv_dim": str(next(iter(convolutions)))} if len(convolutions) == 1 else {}
    is_plain = set(adapter.kinds) == {"lora"}
    if not is_plain:
        changes = Counter(
            layer.change.kind if isinstance(layer, DoraLayer) else layer.kind
            for layer in adapter.layers.values()
        )
        algorithm = max(changes, key=lambda kind: (changes[kind], kind))
        arguments["algo"] = "locon" if algorithm == "lora" else algorithm
    if "dora" in adapter.kinds:
        arguments |= {"dora_wd": "True", "wd_on_output": "True"}
    module = f"networks.lora_{family.name}" if family.name in ("flux", "sd3") else "networks.lora"
    return {
        "ss_network_module": module if is_plain else "lycoris.kohya",
        "ss_network_dim": str(adapter.ranks[0]) if len(adapter.ranks) == 1 else "Dynamic",
        "ss_network_alpha": str(alphas[0]) if len(alphas) == 1 else "Dynamic",
        "ss_network_args": json.dumps(arguments),
    }


def shareable(run: RunSpec, identity: str) -> RunSpec:
    """The run without the user's own places and captions, which ``resolved.toml`` keeps."""

    def shared(source: str) -> str:
        return source if source.startswith("hub:") else ""

    folders = [
        folder.model_copy(update={"source": shared(folder.source), "caption": None})
        for folder in run.data.folders
    ]
    data = {"source": shared(run.data.source), "caption": None, "folders": tuple(folders), "cache_folder": ""}
    name, mark = split_name(run.base.name)
    local = name not in EMBEDDED and (Path(name).exists() or Path(name).is_absolute())
    return run.model_copy(
        update={
            "base": run.base.model_copy(update={"name": (identity if local else name) + mark}),
            "adapter": run.adapter.model_copy(
                update={
                    "from_file": Path(run.adapter.from_file).name,
                    "image_encoder": Path(run.adapter.image_encoder).name,
                }
            ),
            "data": run.data.model_copy(update=data),
            "prior": run.prior.model_copy(update={"folder": ""}),
            "sample": run.sample.model_copy(update={"prompts": ()}),
        }
    )


def thumbnail_url(picture: NDArray[np.uint8]) -> str:
    """(H, W, 3) uint8 → a 256 px JPEG as a data URL."""
    image = Image.fromarray(picture).convert("RGB")
    image.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def _modelspec(
    family: Family, identity: str, title: str, resolution_px: int, prediction_type: str
) -> dict[str, str]:
    architecture = identity if embedded_of_identity(identity) is not None else family.modelspec_architecture
    return {
        "modelspec.sai_model_spec": MODELSPEC_VERSION,
        "modelspec.architecture": f"{architecture}/lora",
        "modelspec.implementation": IMPLEMENTATION,
        "modelspec.title": title,
        "modelspec.resolution": f"{resolution_px}x{resolution_px}",
        "modelspec.prediction_type": "v" if prediction_type == "v_prediction" else prediction_type,
    }


def _run_metadata(run: RunSpec) -> dict[str, str]:
    train, values = run.train, dict[str, Any]()
    values |= {
        "ss_seed": run.seed,
        "ss_steps": train.steps,
        "ss_max_train_steps": train.steps,
        "ss_total_batch_size": train.batch,
        "ss_gradient_accumulation_steps": train.grad_accum,
        "ss_max_grad_norm": train.max_grad_norm,
        "ss_learning_rate": train.optim.lr,
        "ss_unet_lr": train.optim.lr,
        "ss_optimizer": f"{train.optim.name}(weight_decay={train.optim.weight_decay:g})",
        "ss_lr_scheduler": train.schedule.kind,
        "ss_lr_warmup_steps": train.schedule.warmup,
        "ss_min_snr_gamma": train.loss.snr_gamma if train.loss.weighting == "min_snr" else None,
        "ss_debiased_estimation": train.loss.weighting == "debiased",
        "ss_loss_type": {"mse": "l2"}.get(train.loss.distance, train.loss.distance),
        "ss_huber_c": train.loss.huber_c if train.loss.distance == "huber" else None,
        "ss_huber_schedule": train.loss.huber_schedule if train.loss.distance == "huber" else None,
        "ss_noise_offset": train.loss.noise_offset or None,
        "ss_ip_noise_gamma": train.loss.input_perturbation or None,
        ZERO_TERMINAL_SNR: train.loss.zero_terminal_snr,
        "ss_caption_dropout_rate": train.loss.caption_dropout,
        "ss_shuffle_caption": run.data.shuffle_tags,
        "ss_keep_tokens": run.data.keep_tags if run.data.shuffle_tags else None,
        "ss_flip_aug": run.data.flip,
        "ss_random_crop": run.data.crop == "random",
        "ss_enable_bucket": run.data.buckets,
        "ss_bucket_no_upscale": not run.data.upscale if run.data.buckets else None,
        "ss_prior_loss_weight": run.prior.weight if run.prior.use is True else None,
        "ss_network_dropout": run.adapter.dropout or None,
        "ss_mixed_precision": {"fp32": "no"}.get(run.base.dtype, run.base.dtype),
    }
    metadata = {key: str(value) for key, value in values.items()}
    if run.distill.steps:
        metadata[FEW_STEPS] = f"lcm-{run.distill.steps}-steps"
    if run.adapter.rslora:
        metadata["detour.rslora"] = "folded into alpha"
    if run.adapter.init in ("pissa", "olora"):
        metadata["detour.init"] = (
            f"{run.adapter.init}, as the difference from its start: twice the trained rank"
        )
    if trigger := ", ".join(run.called_by()):
        metadata["modelspec.trigger_phrase"] = trigger
        metadata["modelspec.usage_hint"] = f"Trigger: {trigger}"
    return metadata
