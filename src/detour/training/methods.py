"""What each method is trained with, and what it cannot be combined with."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detour.adapter_methods import FROM_BASE, facts_of
from detour.bases.image_encoder import own_image_encoder, read_encoder_config
from detour.errors import ConfigError
from detour.specs import AdapterSpec, RunSpec
from detour.specs.resolved import ResolvedAdapter
from detour.training.optimizers import OPTIMIZERS

if TYPE_CHECKING:
    from detour.adapters.targets import AdaptableLayer
    from detour.bases.base import Base


def method_name(spec: AdapterSpec) -> str:
    """What people call it: the method, or the start where that makes it another one."""
    return spec.init if spec.init in FROM_BASE else spec.method


def has_up(spec: AdapterSpec) -> bool:
    """Whether its layers have ``down`` and ``up``."""
    return facts_of(spec.method).has_up


def is_plain(spec: AdapterSpec) -> bool:
    """Plain LoRA from a random start: what PEFT's own layer and the fused path train."""
    return method_name(spec) == "lora"


def method_defaults(spec: RunSpec, *, lr: float, rank: int, targets: str) -> dict[str, Any]:
    """Rate and targets that suit the method, from those that suit plain LoRA.

    rsLoRA's scale is √rank times as large, so that a step at 1/√rank of the rate moves the weights as far. With LoRA+
    the two rates have plain LoRA's rate as their geometric mean.
    """
    name = method_name(spec.adapter)
    if name == "full":
        targets = "all"
    elif name == "reference":
        targets = "cross-attn"
    elif name in FROM_BASE and targets == "all":
        targets = "linear"
    rate = FROM_BASE[name] if name in FROM_BASE else facts_of(name).rate
    factor = rate / math.sqrt(spec.train.optim.up_rate)
    if spec.adapter.rslora:
        factor /= math.sqrt(rank)
    if OPTIMIZERS[spec.train.optim.name].sets_rate:
        factor = 1.0
    return {"train.optim.lr": lr * factor, "adapter.targets": targets}


def notes_on_names(spec: AdapterSpec, base: "Base") -> list[str]:
    """How the file of a transformer's adapter names its layers, where not as kohya does."""
    if facts_of(spec.method).joins or base.family.has_unet:
        return []
    return [
        f"The file names the layers as SimpleTuner and ComfyUI do (lycoris_…): {method_name(spec)} of q, k and v "
        "cannot be joined to the one matrix that they are in the original code."
    ]


def method_notes(spec: AdapterSpec) -> list[str]:
    """What a run says about its method."""
    if is_plain(spec):
        return []
    if spec.method == "full":
        return [
            "Full fine-tuning, for comparison: the base's own weights are trained and saved whole, no adapter comes "
            "out. Weights, gradients and two moments take 16 bytes a parameter; rank and alpha mean nothing here."
        ]
    if spec.method == "reference":
        return [
            "An IP-Adapter of the plain kind: 4 tokens of each picture's embedding, read by a second pair of keys and "
            "values beside every cross-attention. Rank, alpha and targets mean nothing here."
        ]
    return [f"Method {method_name(spec)} trains on its own layers; the fused path is for plain LoRA alone."]


def check_method(spec: RunSpec, base: "Base") -> None:
    """Refuse what a method cannot do.

    Raises:
        ConfigError: names the setting and what to set instead.
    """
    adapter, name = spec.adapter, method_name(spec.adapter)
    if adapter.method == "full":
        _check_full(spec, base)
    if adapter.method == "reference":
        _check_reference(spec, base)
    elif adapter.image_encoder:
        raise ConfigError("adapter.image_encoder is for --method reference. Leave it out.")
    if adapter.formats and adapter.method == "full":
        raise ConfigError(
            "adapter.formats: --method full leaves a base and no adapter file. Leave --format out."
        )
    if "diffusers" in adapter.formats and not facts_of(adapter.method).in_diffusers:
        raise ConfigError(
            f"adapter.formats has diffusers, whose format cannot hold {name}. Leave --format diffusers out; peft can."
        )
    if adapter.init in FROM_BASE and adapter.method != "lora":
        raise ConfigError(
            f"adapter.init is {adapter.init}, which is a start of plain LoRA; {adapter.method} has its own. "
            "Set adapter.method to lora or adapter.init to kaiming."
        )
    if adapter.dropout and not is_plain(adapter):
        raise ConfigError(
            f"adapter.dropout is {adapter.dropout:g}, which is for plain LoRA: with {name} the base's own answer "
            "would be dropped too, or there is no input to drop. Set adapter.dropout to 0."
        )
    if adapter.rslora and not has_up(adapter):
        raise ConfigError(
            f"adapter.rslora is for a product of two factors, and {name} is none. Set adapter.alpha instead."
        )
    if spec.train.optim.up_rate != 1.0 and not has_up(adapter):
        raise ConfigError(
            f"train.optim.up_rate is {spec.train.optim.up_rate:g}, but {name} has no 'up' factor. Set it to 1."
        )
    if adapter.init == "gaussian" and not has_up(adapter):
        raise ConfigError(
            f"adapter.init is gaussian, but {name} has a start of its own. Leave adapter.init out."
        )
    if adapter.lokr_factor and adapter.method != "lokr":
        raise ConfigError(f"adapter.lokr_factor is {adapter.lokr_factor}, but this is {name}. Set it to 0.")


def _check_reference(spec: RunSpec, base: "Base") -> None:
    if not base.family.has_unet:
        raise ConfigError(
            f"--method reference is for UNets, and the network of base '{base.name}' is a transformer. Use a base of "
            "Stable Diffusion 1.5 or XL."
        )
    without = {
        "adapter.formats": bool(spec.adapter.formats),
        "adapter.text_encoder.rank": bool(spec.adapter.text_encoder.rank),
        "adapter.tokens.words": bool(spec.adapter.tokens.words),
        "base.quantize": spec.base.quantize != "none",
        "train.gradient_checkpointing": spec.train.gradient_checkpointing,
        "validate.ship = best_proof": spec.validate_.ship == "best_proof",
        "sample.every": bool(spec.sample.every),
    }
    taken = next((setting for setting, used in without.items() if used), None)
    if taken is not None:
        raise ConfigError(f"{taken} has no meaning with --method reference. Leave it out.")
    reference_encoder(spec, base)


def reference_encoder(spec: RunSpec, base: "Base") -> Path:
    """The folder of the image encoder that an IP-Adapter in training reads.

    Raises:
        ConfigError: none was named, and the base has none.
        BaseError: the one that was named cannot be read.
    """
    if spec.adapter.image_encoder:
        folder = Path(spec.adapter.image_encoder).expanduser()
        read_encoder_config(folder)
        return folder
    own = own_image_encoder(base.folder)
    if own is None:
        raise ConfigError(
            f"--method reference reads an image encoder, and base '{base.name}' has none of its own. Name its folder "
            "with --set adapter.image_encoder=FOLDER (a CLIPVisionModelWithProjection in transformers layout)."
        )
    return own


def _check_full(spec: RunSpec, base: "Base") -> None:
    if spec.base.dtype != "fp32":
        raise ConfigError(
            f"base.dtype is {spec.base.dtype}, but --method full trains the base's own weights, whose updates would "
            "vanish in it. Set --dtype fp32."
        )
    if spec.adapter.tokens.words:
        raise ConfigError(
            "adapter.tokens.words go into an adapter file, and --method full makes none. Leave --new-word out."
        )
    if spec.adapter.text_encoder.rank:
        raise ConfigError(
            "adapter.text_encoder.rank is for adapters beside text encoders, and --method full has none. Set it to 0."
        )
    if base.weights is not None and base.weights.is_file():
        raise ConfigError(
            f"--method full saves the base as a diffusers folder, but '{base.name}' is a single file. "
            "Name a base that is a folder."
        )


def check_layers(spec: ResolvedAdapter, layers: "Sequence[AdaptableLayer]") -> None:
    """Refuse layers that the method cannot adapt.

    Raises:
        ConfigError: PiSSA or OLoRA on convolutions, or at a rank that a layer does not have.
    """
    if spec.init not in FROM_BASE:
        return
    convolutions = [layer.path for layer in layers if layer.kind == "conv"]
    if convolutions:
        raise ConfigError(
            f"adapter.init {spec.init} starts from factors of Linear layers, but '{spec.targets}' has "
            f"{len(convolutions)} convolutions ({convolutions[0]}). Set --targets linear or attn."
        )
    narrow = min(layers, key=lambda layer: min(layer.in_features, layer.out_features))
    most = min(narrow.in_features, narrow.out_features)
    if spec.rank > most:
        raise ConfigError(
            f"adapter.rank is {spec.rank}, but {spec.init} can take only {most} directions from {narrow.path}. "
            f"Set --rank {most} or less."
        )
