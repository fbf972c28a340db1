"""The families of base models that are known, and the facts in which they differ."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from detour.errors import BaseError

FamilyName = Literal["sd1", "sd2", "sdxl", "sd3", "flux"]

UNET = "UNet2DConditionModel"
"""Class of the network in diffusers that three families share; their settings tell them apart."""

SD3_HIGHEST_RATE = 4e-5
"""Rate of AdamW above which trainers of SD 3.5 report that pictures fall apart; docs/families.md names where."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """What all models of one architecture have in common.

    Attributes:
        name: as the rest of the code calls it.
        title: as a person calls it.
        text_parts: folders of the text encoders, in the order in which their states are joined.
        native_size_px: side of the picture that the family's own release was trained for; a model's own size
            comes from its UNet's config.
        uncond: what guidance steers away from: the states of an empty prompt (SD 1 and 2), or zeros (SDXL
            base).
        text_states: the layer that conditions the UNet: the last one behind the final norm, or the last but
            one.
        kohya_text_prefixes: text part → the prefix of its keys in kohya files.
        modelspec_architecture: ModelSpec 1.0.1 name of the base.
        kohya_version: ``ss_base_model_version`` of the family.
        recommended_guidance: classifier-free guidance when the base names none of its own.
        hub_id: where the family's usual model is published.
        pooled_parts: text parts whose pooled state the network reads, joined in this order.
        state_parts: text parts whose states the network reads.
        t5_part: the text part that is a T5; a base may lack it where ``t5_optional``.
        t5_tokens: number of tokens that it reads.
        reads_sizes: whether the UNet reads original size, crop corner and target size beside a pooled text state.
        vae_overflows_in_fp16: whether the VAE has to stay in float32 there.
        network: class of the denoising network.
        network_module: module that the class is imported from.
        network_part: folder of the network; layer keys of adapters begin with it.
        even_levels: whether the family's own pipeline hands Euler evenly spread noise levels; the sampler of SD 3
            ends closer to 0.
        highest_rate: rate of AdamW above which trainers of the family report that pictures can fall apart; ``None``:
            nothing of the kind is reported.
        kohya_in_diffusers: whether diffusers (0.42.1) reads kohya files of the family; of SD 3 it finds no layer in
            them and says nothing (diffusers#9291).
        in_a1111: whether AUTOMATIC1111 draws with adapters of the family; Forge does with those of every family.
    """

    name: FamilyName
    title: str
    text_parts: tuple[str, ...]
    native_size_px: int
    uncond: Literal["empty_prompt", "zeros"]
    text_states: Literal["last", "penultimate"]
    kohya_text_prefixes: Mapping[str, str]
    modelspec_architecture: str
    kohya_version: str
    recommended_guidance: float
    hub_id: str
    pooled_parts: tuple[str, ...] = ()
    state_parts: tuple[str, ...] = ("text_encoder",)
    t5_part: str | None = None
    t5_optional: bool = False
    t5_tokens: int = 0
    reads_sizes: bool = False
    vae_overflows_in_fp16: bool = False
    network: str = UNET
    network_module: str = "diffusers"
    network_part: str = "unet"
    even_levels: bool = False
    highest_rate: float | None = None
    kohya_in_diffusers: bool = True
    in_a1111: bool = True

    @property
    def has_unet(self) -> bool:
        """Whether the denoising network is a UNet; otherwise it is a transformer."""
        return self.network == UNET


FAMILIES: Mapping[str, Family] = {
    "sd1": Family(
        name="sd1",
        title="Stable Diffusion 1.x",
        text_parts=("text_encoder",),
        native_size_px=512,
        uncond="empty_prompt",
        text_states="last",
        kohya_text_prefixes={"text_encoder": "lora_te"},
        modelspec_architecture="stable-diffusion-v1",
        kohya_version="sd_v1",
        recommended_guidance=7.5,
        hub_id="stable-diffusion-v1-5/stable-diffusion-v1-5",
    ),
    "sd2": Family(
        name="sd2",
        title="Stable Diffusion 2.x",
        text_parts=("text_encoder",),
        native_size_px=768,
        uncond="empty_prompt",
        text_states="last",
        kohya_text_prefixes={"text_encoder": "lora_te"},
        modelspec_architecture="stable-diffusion-v2-768-v",
        kohya_version="sd_v2_768_v",
        recommended_guidance=7.5,
        hub_id="stabilityai/stable-diffusion-2-1",
    ),
    "sdxl": Family(
        name="sdxl",
        title="Stable Diffusion XL",
        text_parts=("text_encoder", "text_encoder_2"),
        native_size_px=1024,
        uncond="zeros",
        text_states="penultimate",
        kohya_text_prefixes={"text_encoder": "lora_te1", "text_encoder_2": "lora_te2"},
        modelspec_architecture="stable-diffusion-xl-v1-base",
        kohya_version="sdxl_base_v1-0",
        recommended_guidance=5.0,
        hub_id="stabilityai/stable-diffusion-xl-base-1.0",
        pooled_parts=("text_encoder_2",),
        state_parts=("text_encoder", "text_encoder_2"),
        reads_sizes=True,
        vae_overflows_in_fp16=True,
    ),
    "sd3": Family(
        name="sd3",
        title="Stable Diffusion 3",
        text_parts=("text_encoder", "text_encoder_2", "text_encoder_3"),
        native_size_px=1024,
        uncond="empty_prompt",
        text_states="penultimate",
        kohya_text_prefixes={
            "text_encoder": "lora_te1",
            "text_encoder_2": "lora_te2",
            "text_encoder_3": "lora_te3",
        },
        modelspec_architecture="stable-diffusion-3",
        kohya_version="sd3",
        recommended_guidance=4.5,
        hub_id="stabilityai/stable-diffusion-3.5-medium",
        pooled_parts=("text_encoder", "text_encoder_2"),
        state_parts=("text_encoder", "text_encoder_2", "text_encoder_3"),
        t5_part="text_encoder_3",
        t5_optional=True,
        t5_tokens=256,
        network="SD3Transformer2DModel",
        network_part="transformer",
        highest_rate=SD3_HIGHEST_RATE,
        kohya_in_diffusers=False,
        in_a1111=False,
    ),
    "flux": Family(
        name="flux",
        title="Flux",
        text_parts=("text_encoder", "text_encoder_2"),
        native_size_px=1024,
        uncond="empty_prompt",
        text_states="last",
        kohya_text_prefixes={"text_encoder": "lora_te1", "text_encoder_2": "lora_te3"},  # as for SD 3's T5
        modelspec_architecture="flux-1-dev",
        kohya_version="flux1",
        recommended_guidance=3.5,
        hub_id="black-forest-labs/FLUX.1-dev",
        pooled_parts=("text_encoder",),
        state_parts=("text_encoder_2",),
        t5_part="text_encoder_2",
        t5_tokens=512,
        network="FluxTransformer2DModel",
        network_part="transformer",
        even_levels=True,
        in_a1111=False,
    ),
}

NETWORKS: Mapping[str, Family] = {family.network: family for family in reversed(list(FAMILIES.values()))}
"""Class of a denoising network → the family that has it; for the class that several share, the first of them."""


def network_title(kind: str) -> str:
    """What a person calls a denoising network of a class: UNet or transformer."""
    return "UNet" if kind == UNET else "transformer"


def network_class(network_config: Mapping[str, Any]) -> str:
    """Name of the network's class in its settings; a UNet that was saved by Flax is the same network."""
    return str(network_config.get("_class_name", UNET)).removeprefix("Flax")


def family_of(network_config: Mapping[str, Any], *, where: str) -> Family:
    """Tell the family from the network's settings.

    Args:
        network_config: ``unet/config.json`` or ``transformer/config.json``.
        where: named in the error.

    Raises:
        BaseError: another architecture, or a variant that text-to-image adapters do not fit (inpainting and
            the like).
    """
    kind = network_class(network_config)
    if kind != UNET and kind in NETWORKS:
        return NETWORKS[kind]
    unet_config = network_config
    if kind != UNET:
        raise BaseError(f"{where}: its denoiser is a {kind}; the families known are {_titles()}.")
    channels = unet_config.get("in_channels", 4)
    if channels != 4:
        raise BaseError(
            f"{where}: its UNet takes {channels} channels (an inpainting, depth or refining variant); "
            "text-to-image bases take 4. Choose the text-to-image model that it was made from."
        )
    if unet_config.get("addition_embed_type") == "text_time":
        return FAMILIES["sdxl"]
    if (
        unet_config.get("addition_embed_type") is not None
        or unet_config.get("encoder_hid_dim_type") is not None
    ):
        raise BaseError(f"{where}: its UNet has extra conditioning; the families known are {_titles()}.")
    return FAMILIES["sd2"] if unet_config.get("use_linear_projection") else FAMILIES["sd1"]


def dead_in_text(family: Family, configs: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """Layer keys of the text encoders that nothing reads.

    Where the UNet reads the last but one layer (SDXL), the last one's output is read of the second encoder alone,
    which is pooled. A projection behind an encoder whose pooled state is not read is dead as well.

    Args:
        family: whose text states are read how.
        configs: part → settings.

    Returns:
        Regular expressions that match whole keys.
    """
    dead = []
    for part in family.text_parts:
        if part in family.pooled_parts or part == family.t5_part or part not in configs:
            continue
        if "CLIPTextModelWithProjection" in configs[part].get("architectures", ()):
            dead.append(rf"{part}\.text_projection")
        if family.text_states == "penultimate":
            last = int(configs[part]["num_hidden_layers"]) - 1
            dead.append(rf"{part}\.encoder\.layers\.{last}\..*")
    return tuple(dead)


def dead_in_transformer(network_config: Mapping[str, Any]) -> tuple[str, ...]:
    """Layer keys of a transformer that nothing reads.

    The last block of SD 3 throws the text's side of its attention away, so that the text's queries, and the norm behind
    them, are never used.

    Args:
        network_config: ``transformer/config.json``.

    Returns:
        Regular expressions that match whole keys.
    """
    if network_config.get("_class_name") != "SD3Transformer2DModel":
        return ()
    last = int(network_config["num_layers"]) - 1
    return (rf"transformer\.transformer_blocks\.{last}\.attn\.(add_q_proj|norm_added_q)",)


def dead_at_size(unet_config: Mapping[str, Any], latent_size: int) -> tuple[str, ...]:
    """Layer keys that get no gradient because their feature map has one position.

    Self-attention over a single key has a constant softmax, so ``to_q`` and ``to_k`` get rounding noise alone
    (1e-10 against a median of 3e-2, diffusers 0.42.1).

    Args:
        unet_config: ``unet/config.json``.
        latent_size: the shorter side of the latents; 8 for 64 px.

    Returns:
        Regular expressions that match whole keys such as ``unet.mid_block.….attn1.to_q``.
    """
    levels = len(unet_config["block_out_channels"])
    dead = []
    for level in range(levels):
        if -(-latent_size // 2**level) > 1:  # stride-2 convolutions round up
            continue
        blocks = [f"down_blocks.{level}", f"up_blocks.{levels - 1 - level}"]
        blocks += ["mid_block"] if level == levels - 1 else []
        dead += [rf"unet\.{block.replace('.', chr(92) + '.')}\..*attn1\.to_[qk]" for block in blocks]
    return tuple(dead)


def _titles() -> str:
    return ", ".join(family.title for family in FAMILIES.values())
