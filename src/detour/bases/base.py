"""A base model: where it is, what it is, and its parts one at a time.

Nothing is loaded when a base is opened. Each ``load_…`` reads one part, so that a caller can use it and let
it go before the next one comes in.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from detour.adapters.adapter import DENOISERS
from detour.bases import parts, single_file
from detour.bases.embedded import EMBEDDED, EmbeddedBase
from detour.bases.families import FAMILIES, Family, dead_at_size, dead_in_text, dead_in_transformer, family_of
from detour.bases.hub import fetch
from detour.bases.names import HUB_ID, NO_T5, SHAPES_ONLY, no_such_base, split_name
from detour.bases.safety import SafetyChecker, load_safety_checker
from detour.bases.text import JointText, TextStage
from detour.diffusion.process import Process, process_of
from detour.errors import BaseError, ConfigError
from detour.files import remembered_sha256, sha256_of

CONFIGS = Path(__file__).parent / "configs"

CHECKPOINTS = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")


@dataclass(frozen=True, kw_only=True)
class Base:
    """A frozen model beside which adapters are trained and with which pictures are drawn.

    Attributes:
        name: as the user wrote it.
        family: the facts of its architecture.
        folder: settings (and tokenizer) in diffusers layout.
        weights: the folder or file that holds the weights; ``None`` for the names that are settings alone.
        identity: the same on every machine; goes into adapter files.
        revision: commit of a hub model.
        configs: part → settings.
        embedded: which of the package's own bases it is, whose drawn world is known; ``None`` for all others.
        zero_states: number of zero states that stand for an absent T5; ``None``: as many as its tokens are.
    """

    name: str
    family: Family
    folder: Path
    weights: Path | None
    identity: str
    revision: str | None
    configs: Mapping[str, Mapping[str, Any]]
    embedded: EmbeddedBase | None = None
    zero_states: int | None = None

    def config(self, part: str) -> dict[str, Any]:
        """Settings of one part: the network's, ``vae``, ``text_encoder``, ``text_encoder_2`` or ``scheduler``."""
        if part not in self.configs:
            raise BaseError(f"base '{self.name}' has no part '{part}'; it has {', '.join(self.configs)}.")
        return dict(self.configs[part])

    @property
    def network_config(self) -> dict[str, Any]:
        """Settings of the denoising network."""
        return self.config(self.family.network_part)

    def process(self, size_px: int | None = None) -> Process:
        """What relates clean latents, noise and time on this base.

        Args:
            size_px: side of the pictures, for a shift that moves with it (Flux-dev); ``None``: the base's own size.

        Raises:
            BaseError: the schedule is of a kind that is not known.
        """
        side = size_px or self.native_size_px
        return process_of(self.scheduler_config(), num_patches=self.num_patches(side, side))

    def num_patches(self, width_px: int, height_px: int) -> int:
        """Patches of 2×2 latents in a picture, which is what a transformer's shift is measured in."""
        patch_px = 2 * self.latent_factor
        return (width_px // patch_px) * (height_px // patch_px)

    @property
    def is_flow(self) -> bool:
        """Whether the base was trained as a rectified flow."""
        return str(self.scheduler_config().get("_class_name", "")).startswith("FlowMatch")

    @property
    def embeds_guidance(self) -> bool:
        """Whether the network is told a guidance scale (Flux-dev), so that guidance takes no second prediction."""
        return bool(self.network_config.get("guidance_embeds"))

    @property
    def latent_factor(self) -> int:
        """Pixels a latent position, along one side."""
        return int(2 ** (len(self.config("vae")["block_out_channels"]) - 1))

    @property
    def bucket_step_px(self) -> int:
        """What sides of pictures are multiples of, so that the UNet halves their latents without a remainder.

        ``latent_factor · 2^(levels − 1)``: 64 for SD 1 and 2. SDXL, which needs 32, was trained on multiples of 64
        (arXiv:2307.01952, appendix I).
        """
        if self.family.network_part == "transformer":
            needed = self.latent_factor * 2  # patches of 2 latents
        else:
            needed = self.latent_factor * 2 ** (len(self.network_config["block_out_channels"]) - 1)
        return 64 if self.native_size_px >= 512 and 64 % needed == 0 else int(needed)

    @property
    def drawing_step_px(self) -> int:
        """What sides of drawn pictures are multiples of: a latent position, or a patch of a transformer."""
        return self.latent_factor * (2 if self.family.network_part == "transformer" else 1)

    @property
    def largest_side_px(self) -> int | None:
        """Pixels that the network's table of positions reaches (SD 3); ``None`` where positions have no table."""
        reach, patch = (self.network_config.get(key) for key in ("pos_embed_max_size", "patch_size"))
        return int(reach) * int(patch) * self.latent_factor if reach and patch else None

    def refuse_side(self, side_px: int) -> None:
        """Refuse pictures that the network has no positions for.

        Raises:
            ConfigError: a side is longer than :attr:`largest_side_px`.
        """
        reach = self.largest_side_px
        if reach is not None and side_px > reach:
            raise ConfigError(
                f"pictures of {side_px} px: the position table of base '{self.name}' ends at {reach} px a side. "
                "Choose a smaller size."
            )

    @property
    def latent_channels(self) -> int:
        """Number of channels of the latents."""
        return int(self.config("vae").get("latent_channels", 4))

    @property
    def native_size_px(self) -> int:
        """Side of the pictures that it was trained for; Flux's network does not say it, and its VAE does."""
        if self.family.network_part == "transformer" and not self.network_config.get("sample_size"):
            return int(self.config("vae").get("sample_size") or self.family.native_size_px)
        size = self.network_config.get("sample_size") or self.family.native_size_px // self.latent_factor
        return int(max(size) if isinstance(size, list | tuple) else size) * self.latent_factor

    @property
    def cross_attention_width(self) -> int:
        """Width of the text states that its network reads."""
        config = self.network_config
        return int(config.get("joint_attention_dim") or config["cross_attention_dim"])

    @property
    def joint_text(self) -> JointText | None:
        """How states of CLIP and T5 are joined; ``None`` for families that join along the features."""
        if self.family.t5_part is None:
            return None
        short = self.family.network == "FluxTransformer2DModel" and not self.network_config.get(
            "guidance_embeds"
        )
        num_tokens = 256 if short else self.family.t5_tokens  # Flux-schnell reads half of what dev does
        if self.zero_states is not None and self.family.t5_part not in self.text_parts:
            num_tokens = self.zero_states
        return JointText(width=self.cross_attention_width, num_tokens=num_tokens)

    @property
    def text_length(self) -> int:
        """Positions of the text states that the network reads for a short prompt: CLIP's, T5's, or both (SD 3)."""
        joint = self.joint_text
        clip = [self.clip_tokens(part) for part in self.family.state_parts if part != self.family.t5_part]
        return min(clip, default=0) + (joint.num_tokens if joint is not None else 0)

    def clip_tokens(self, part: str) -> int:
        """Tokens of a prompt that a CLIP text encoder reads, marks of beginning and end included: 77, or fewer."""
        positions = int(self.config(part).get("max_position_embeddings", 77))
        file = self.folder / part.replace("text_encoder", "tokenizer") / "tokenizer_config.json"
        known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        return min(positions, int(known.get("model_max_length", positions)))

    @property
    def text_parts(self) -> tuple[str, ...]:
        """Folders of the text encoders that this base has; SD 3 may come without T5."""
        return tuple(part for part in self.family.text_parts if part in self.configs)

    @property
    def recommended_guidance(self) -> float:
        """Classifier-free guidance: measured for this base where it says so, else the family's."""
        measured = self.folder / "measured.json"
        if measured.is_file():
            value = json.loads(measured.read_text(encoding="utf-8")).get("recommended_guidance")
            if isinstance(value, int | float):
                return float(value)
        if self.family.name == "flux" and not self.embeds_guidance:
            return 1.0  # schnell is distilled: it is drawn with without any guidance
        return self.family.recommended_guidance

    def dead_by_structure(self, size_px: int | None = None) -> tuple[str, ...]:
        """Patterns of layer keys that can get no gradient when pictures of ``size_px`` are trained on."""
        latent_size = (size_px or self.native_size_px) // self.latent_factor
        dead = dead_in_text(self.family, self.configs)
        if self.family.network_part == "transformer":
            return (*dead, *dead_in_transformer(self.network_config))
        return (*dead, *dead_at_size(self.network_config, latent_size))

    def scheduler_config(self) -> dict[str, Any]:
        """The noise schedule's settings as diffusers writes them."""
        return self.config("scheduler")

    def with_zero_terminal_snr(self) -> Base:
        """Copy the base with a schedule that ends in pure noise, drawn from its very last timestep."""
        rescaled = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
        return replace(self, configs={**self.configs, "scheduler": {**self.scheduler_config(), **rescaled}})

    def without_t5(self) -> Base:
        """Copy the base without its T5; zeros take the place of its states, as in diffusers' pipeline without one.

        Raises:
            ConfigError: the family needs its T5, or has none.
        """
        if not self.family.t5_optional:
            why = "has no T5" if self.family.t5_part is None else "reads T5's states alone"
            raise ConfigError(
                f"base '{self.name}' ({self.family.title}) {why}, so '{NO_T5}' leaves nothing out. Name it without."
            )
        return replace(
            self, configs={part: facts for part, facts in self.configs.items() if part != self.family.t5_part}
        )

    @property
    def loaded_parts(self) -> tuple[str, ...]:
        """Folders of the parts that have weights: network, VAE and text encoders."""
        return (self.family.network_part, "vae", *self.text_parts)

    def require_weights(self) -> None:
        """Raise now if a part cannot be loaded later.

        Raises:
            BaseError: says where weights are expected.
        """
        if self.weights is None:
            raise BaseError(
                f"base '{self.name}' is settings alone: it can be inspected, but its weights are not here. "
                f"Pass a diffusers folder, a single .safetensors checkpoint or a hub id with --base, e.g. "
                f"{self.family.hub_id}."
            )
        if self.weights.is_dir():
            for part in self.loaded_parts:
                parts.weight_variant(self.weights / part)

    def weights_sha256(self) -> str:
        """Hex SHA-256 over the weight files of all parts: another base, or one that was edited, has another.

        Raises:
            BaseError: there are none, or they cannot be read.
        """
        self.require_weights()
        assert self.weights is not None
        if self.weights.is_file():
            files = single_file.files_of(self.weights, self.family.name, self.loaded_parts)
            if len(files) == 1:
                return remembered_sha256(self.weights)
            return hashlib.sha256("".join(map(remembered_sha256, files)).encode()).hexdigest()
        digest = hashlib.sha256()
        for part in self.loaded_parts:
            for file in parts.weight_files(self.weights / part):
                digest.update(f"{part}/{file.name}:{remembered_sha256(file)}\n".encode())
        return digest.hexdigest()

    def content_sha256(self) -> str:
        """Hex SHA-256 over weights, settings and tokenizers: what pictures depend on, whatever the base is called.

        Raises:
            BaseError: there are no weights, or they cannot be read.
        """
        configs = json.dumps(
            {part: dict(facts) for part, facts in self.configs.items()}, sort_keys=True, default=str
        )
        digest = hashlib.sha256(f"{self.weights_sha256()}\n{configs}\n".encode())
        if self.zero_states is not None:
            digest.update(f"{self.zero_states} zero states\n".encode())
        for part in self.family.text_parts:
            folder = self.folder / part.replace("text_encoder", "tokenizer")
            for file in sorted(folder.iterdir()) if folder.is_dir() else ():
                if file.is_file():
                    digest.update(f"{folder.name}/{file.name}:{sha256_of(file)}\n".encode())
        return digest.hexdigest()

    def meta_network(self) -> nn.Module:
        """Denoising network with its shapes on the meta device: no weights needed, no memory used."""
        return parts.empty_part(self.family.network_part, self.network_config)

    def meta_text(self) -> dict[str, nn.Module]:
        """The text encoders' shapes on the meta device, by part."""
        return {part: parts.empty_part(part, self.config(part)) for part in self.text_parts}

    def load_network(self, dtype: torch.dtype = torch.float32, device: str = "cpu") -> nn.Module:
        """Load the denoising network, frozen and in evaluation mode."""
        return self._load(self.family.network_part, dtype, device)

    def load_part(self, part: str, dtype: torch.dtype = torch.float32, device: str = "cpu") -> nn.Module:
        """Load one of :attr:`loaded_parts` by its folder's name, frozen."""
        return self.load_vae(dtype, device) if part == "vae" else self._load(part, dtype, device)

    def load_vae(self, dtype: torch.dtype = torch.float32, device: str = "cpu") -> nn.Module:
        """The picture autoencoder, frozen. Where the family's overflows in fp16 (SDXL), it stays in fp32 there."""
        overflows = self.family.vae_overflows_in_fp16 and dtype == torch.float16
        return self._load("vae", torch.float32 if overflows else dtype, device)

    def load_tokenizers(self) -> dict[str, Any]:
        """The tokenizers, by text part."""
        return {
            part: parts.load_tokenizer(
                self.folder, part, pad_token=self.pad_token(part), is_t5=part == self.family.t5_part
            )
            for part in self.text_parts
        }

    def load_text(
        self, dtype: torch.dtype = torch.float32, device: str = "cpu", *, t5_dtype: torch.dtype | None = None
    ) -> TextStage:
        """Load tokenizers and text encoders, frozen; T5 in ``t5_dtype`` where one is given."""
        self.require_weights()
        tokenizers = self.load_tokenizers()
        kinds = {self.family.t5_part: t5_dtype or dtype}
        models = {part: self._load(part, kinds.get(part, dtype), device) for part in self.text_parts}
        for part, tokenizer in tokenizers.items():
            width = int(self.config(part)["vocab_size"])
            if (
                len(tokenizer) > width and part != self.family.t5_part
            ):  # T5's has sentinels that its states lack
                raise BaseError(
                    f"base '{self.name}': its tokenizer has {len(tokenizer):,} tokens, its {part} {width:,}. "
                    f"Put the tokenizer that belongs to it into {part.replace('text_encoder', 'tokenizer')}/."
                )
        return TextStage(self.family, tokenizers, models, joint=self.joint_text)

    def pad_token(self, part: str) -> str:
        """What stands behind a prompt's end: "!" (token 0) for open_clip's text encoders, the end itself for CLIP's."""
        open_clip = (part == "text_encoder_2" and part != self.family.t5_part) or self.family.name == "sd2"
        return "!" if open_clip else "<|endoftext|>"

    def load_safety_checker(self, device: str = "cpu") -> SafetyChecker | None:
        """The base's own picture checker, or ``None`` where it has none."""
        if self.weights is None or not self.weights.is_dir():
            return None
        return load_safety_checker(self.weights, device)

    def _load(self, part: str, dtype: torch.dtype, device: str) -> nn.Module:
        self.require_weights()
        assert self.weights is not None
        if self.weights.is_file():
            tensors = single_file.read_part(self.weights, self.family.name, part, self.config(part), dtype)
            return parts.fill(part, self.config(part), tensors, device)
        return parts.load_from_folder(self.weights, part, dtype, device)


def open_base(name: str, *, revision: str | None = None, weights: bool = True) -> Base:
    """Find a base by name; nothing is loaded yet.

    Args:
        name: ``pocket`` or ``pocket-flow``; a name of :data:`SHAPES_ONLY` (settings alone); a diffusers folder; a
            single ``.safetensors`` checkpoint; or a hub id ``owner/name``. ``:no-t5`` behind it leaves the T5 of an
            SD 3 base out.
        revision: branch, tag or commit of a hub id.
        weights: whether the weights of a hub id are fetched too; settings alone are enough to inspect it.

    Raises:
        BaseError: not there, lacks a part, or of a family that is not known.
        ConfigError: the T5 is to be left out of a base that needs it or has none.
    """
    place, mark = split_name(name)
    found = _open(place, revision, weights=weights, t5=not mark)
    return replace(found.without_t5(), name=name) if mark else found


def _open(name: str, revision: str | None, *, weights: bool, t5: bool) -> Base:
    path = Path(name).expanduser()
    is_hub_id = bool(HUB_ID.match(name)) and not path.exists() and path.suffix not in CHECKPOINTS
    if revision is not None and not is_hub_id:
        raise BaseError(
            f"base '{name}' is not on the hub, so it has no revision '{revision}'. Drop --revision."
        )
    if name in EMBEDDED:
        embedded = EMBEDDED[name]
        if not (embedded.folder / "model_index.json").is_file():
            raise BaseError(
                f"base '{name}': its weights are missing from this installation ({embedded.folder}). "
                "Install detour again from a release; a checkout has them under src/detour/pocket."
            )
        return replace(_from_folder(name, embedded.folder, embedded.identity, None), embedded=embedded)
    if name in SHAPES_ONLY:
        identity, family = SHAPES_ONLY[name]
        configs = _read_configs(CONFIGS / name, FAMILIES[family])
        return Base(
            name=name,
            family=FAMILIES[family],
            folder=CONFIGS / name,
            weights=None,
            identity=identity,
            revision=None,
            configs=configs,
        )
    if path.is_dir():
        return _from_folder(name, path, _identity_of(path), None)
    if path.is_file():
        return _from_file(name, path)
    if is_hub_id:
        folder, commit = fetch(name, revision, weights=weights, t5=t5)
        return _from_folder(name, folder, name.rpartition("/")[2], commit)
    raise no_such_base(name)


def _from_folder(name: str, folder: Path, identity: str, revision: str | None) -> Base:
    network = next((part for part in reversed(DENOISERS) if (folder / part).is_dir()), DENOISERS[0])
    if not (folder / "model_index.json").is_file() and not (folder / network).is_dir():
        places = " or ".join(f"{part}/" for part in DENOISERS)
        raise BaseError(
            f"{name}: not a diffusers folder (no model_index.json, no {places}). Pass the folder that "
            "holds the network, vae, text_encoder, tokenizer and scheduler."
        )
    family = family_of(parts.read_config(folder, network), where=name)
    configs = _read_configs(folder, family)
    if not (folder / "tokenizer").is_dir():
        raise BaseError(f"{name}: the base lacks tokenizer/ (vocab.json and merges.txt).")
    return Base(
        name=name,
        family=family,
        folder=folder,
        weights=folder,
        identity=identity,
        revision=revision,
        configs=configs,
        zero_states=parts.zero_states(folder),
    )


def _read_configs(folder: Path, family: Family) -> dict[str, Mapping[str, Any]]:
    absent = {family.t5_part} if family.t5_optional and not (folder / str(family.t5_part)).is_dir() else set()
    names = [part for part in (family.network_part, "vae", *family.text_parts) if part not in absent]
    return {part: parts.read_config(folder, part) for part in (*names, "scheduler")}


def _from_file(name: str, path: Path) -> Base:
    if path.suffix != ".safetensors":
        raise BaseError(
            f"{name}: only .safetensors checkpoints are read; pickles ({path.suffix or 'this file'}) can run "
            "code when they are opened. Convert it first."
        )
    family, folder, configs = single_file.open_checkpoint(path, CONFIGS)
    family_of(
        configs[FAMILIES[family].network_part], where=name
    )  # refuses variants that text-to-image adapters do not fit
    return Base(
        name=name,
        family=FAMILIES[family],
        folder=folder,
        weights=path,
        identity=_clean(path.stem),
        revision=None,
        configs=configs,
    )


def _identity_of(folder: Path) -> str:
    """The folder's own name; ``models--owner--name/snapshots/<commit>`` of the hub's cache gives ``name``."""
    cached = re.search(r"models--.+?--(.+?)/snapshots/", folder.absolute().as_posix() + "/")
    return _clean(cached.group(1) if cached else folder.absolute().name)


def _clean(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name).strip("-") or "base"
