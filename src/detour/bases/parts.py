"""The parts of a base as modules: frozen, in evaluation mode, from a diffusers folder or a single file."""

import json
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from detour.adapters.adapter import DENOISERS
from detour.bases.families import NETWORKS, network_class
from detour.bases.quiet import quiet_libraries
from detour.errors import BaseError

CLIP_MERGES = Path(__file__).parent / "configs" / "clip_merges.txt"

ZERO_STATES = "_zero_states"
"""Key of ``model_index.json``: number of zero states in the place of an absent T5."""


def zero_states(folder: Path) -> int | None:
    """Number of zero states that a folder wants in the place of an absent T5.

    ``StableDiffusion3Pipeline`` takes it as ``max_sequence_length`` with every call and stores it nowhere, so it
    stands in ``model_index.json`` under a key that diffusers leaves alone.

    Raises:
        BaseError: the file is no JSON object, or the number is none.
    """
    file = folder / "model_index.json"
    if not file.is_file():
        return None
    try:
        value = json.loads(file.read_text(encoding="utf-8")).get(ZERO_STATES)
    except (OSError, ValueError, AttributeError) as error:
        raise BaseError(f"{file}: not readable as a JSON object ({error}). Fetch the base again.") from error
    if value is not None and not (isinstance(value, int) and 0 <= value <= 512):
        raise BaseError(
            f"{file}: {ZERO_STATES} is {value!r}. Write a whole number from 0 to 512, or remove it."
        )
    return value


def read_config(folder: Path, part: str) -> dict[str, Any]:
    """``folder/part/config.json``; the scheduler's file has a name of its own.

    Raises:
        BaseError: the part or its settings are missing or unreadable.
    """
    path = folder / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BaseError(
            f"{folder.name}: the base lacks {part}/{path.name}. A base folder holds unet, vae, text_encoder, "
            "tokenizer and scheduler, as diffusers saves them."
        ) from error
    except (OSError, ValueError) as error:
        raise BaseError(f"{path}: settings of the base are not readable ({error}).") from error
    if not isinstance(config, dict):
        raise BaseError(f"{path}: settings of the base are not a JSON object.")
    return config


def model_class(part: str, config: Mapping[str, Any]) -> Any:
    """The class of a part, imported when it is asked for: diffusers and transformers take seconds."""
    if part in DENOISERS:
        kind = network_class(config)
        if kind not in NETWORKS:
            raise BaseError(f"{part}/config.json: a {kind} is none of {', '.join(NETWORKS)}.")
        return getattr(import_module(NETWORKS[kind].network_module), kind)
    if part == "vae":
        from diffusers import AutoencoderKL

        return AutoencoderKL
    if config.get("model_type") == "t5":
        from transformers import T5EncoderModel

        return T5EncoderModel
    if part == "text_encoder_2" or "CLIPTextModelWithProjection" in config.get("architectures", ()):
        from transformers import CLIPTextModelWithProjection

        return CLIPTextModelWithProjection
    from transformers import CLIPTextModel

    return CLIPTextModel


def empty_part(part: str, config: Mapping[str, Any], device: str = "meta") -> nn.Module:
    """The part with its shapes and no weights; on the meta device it costs no memory.

    Raises:
        BaseError: the settings do not make a model.
    """
    with quiet_libraries(), torch.device(device):
        try:
            if part.startswith("text_encoder"):
                from transformers import CLIPTextConfig, T5Config

                made: Any = T5Config if config.get("model_type") == "t5" else CLIPTextConfig
                return freeze(model_class(part, config)(made(**dict(config))))
            return freeze(model_class(part, config).from_config(dict(config)))
        except (TypeError, ValueError, KeyError, NotImplementedError) as error:
            raise BaseError(f"{part}/config.json: these settings make no {part} ({error}).") from error


def load_from_folder(folder: Path, part: str, dtype: torch.dtype, device: str) -> nn.Module:
    """Read one part of a diffusers folder.

    Raises:
        BaseError: weights missing, in pickle form only, damaged, or of other shapes than the settings say.
    """
    variant = weight_variant(folder / part)
    cls = model_class(part, read_config(folder, part))
    # transformers 5 takes the dtype of the config when none is named; diffusers takes float32.
    dtype_key = "dtype" if part.startswith("text_encoder") else "torch_dtype"
    options = {dtype_key: dtype, "use_safetensors": True, "local_files_only": True}
    if variant:
        options["variant"] = variant
    with quiet_libraries():
        try:
            model: nn.Module = cls.from_pretrained(folder / part, **options)
        except (
            Exception
        ) as error:  # the libraries raise some ten kinds; each means that this part is not usable
            raise BaseError(
                f"{folder.name}/{part}: weights cannot be loaded ({_first_line(error)})."
            ) from error
    return freeze(aligned(model.to(device)))


def weight_variant(folder: Path) -> str | None:
    """Which safetensors of a part to read: the plain ones, else the half precision ones.

    Raises:
        BaseError: there are none.
    """
    names = [path.name for path in folder.glob("*.safetensors")]
    plain = [name for name in names if ".fp16" not in name and ".non_ema" not in name and ".bf16" not in name]
    if plain:
        return None
    if any(".fp16" in name for name in names):
        return "fp16"
    if list(folder.glob("*.bin")) or list(folder.glob("*.ckpt")):
        raise BaseError(
            f"{folder.parent.name}/{folder.name}: weights are there as pickle only, which can run code when "
            "it is opened. Convert them to safetensors first."
        )
    raise BaseError(
        f"{folder.parent.name}/{folder.name}: settings are there but no weights (*.safetensors). Inspecting "
        "works; training and drawing need the weights in this folder."
    )


def weight_files(folder: Path) -> list[Path]:
    """The safetensors of a part that are read, by name.

    Raises:
        BaseError: there are none.
    """
    variant = weight_variant(folder)
    others = (".fp16", ".non_ema", ".bf16")
    return sorted(
        path
        for path in folder.glob("*.safetensors")
        if (f".{variant}" in path.name if variant else not any(mark in path.name for mark in others))
    )


def fill(model_part: str, config: Mapping[str, Any], tensors: Mapping[str, Tensor], device: str) -> nn.Module:
    """A part made of tensors under its own names; all of them must be there."""
    model = empty_part(model_part, config)
    model.load_state_dict(dict(tensors), strict=True, assign=True)
    _refill_buffers(model, config, model_part)
    return freeze(aligned(model.to(device)))


def _refill_buffers(model: nn.Module, config: Mapping[str, Any], part: str) -> None:
    """Buffers that no file holds (position ids) come from a model made on the CPU, layer by layer."""
    for name, buffer in model.named_buffers():
        if buffer.is_meta:
            if not name.endswith("position_ids"):
                raise BaseError(f"{part}: buffer '{name}' is in no file and cannot be made.")
            owner = model.get_submodule(name.rpartition(".")[0])
            positions = torch.arange(int(config["max_position_embeddings"])).expand((1, -1))
            owner.register_buffer("position_ids", positions, persistent=False)


def load_tokenizer(folder: Path, part: str, *, pad_token: str = "<|endoftext|>", is_t5: bool = False) -> Any:
    """The tokenizer of a text part; without files of its own, CLIP's published one with that padding.

    Args:
        folder: of the base.
        part: whose tokenizer.
        pad_token: of CLIP's published one.
        is_t5: whether the part is a T5, whose tokenizer has to be there.

    Raises:
        BaseError: the folder's tokenizer is not readable, or T5's is missing.
    """
    from transformers import AutoTokenizer, CLIPTokenizer

    place = folder / part.replace("text_encoder", "tokenizer")
    with quiet_libraries():
        if not place.is_dir() and is_t5:
            raise BaseError(f"{folder.name}: the base lacks {place.name}/, the tokenizer of its T5.")
        if not place.is_dir():
            return clip_tokenizer(pad_token=pad_token)
        try:
            kind: Any = AutoTokenizer if is_t5 else CLIPTokenizer
            return kind.from_pretrained(place, local_files_only=True)
        except Exception as error:  # a damaged JSON, merges that do not fit: many kinds, one meaning
            raise BaseError(f"{folder.name}/{place.name}: not readable ({_first_line(error)}).") from error


def clip_tokenizer(*, pad_token: str = "<|endoftext|>") -> Any:
    """CLIP's tokenizer, from its merges: bytes, bytes that end a word, merges, start and end."""
    from transformers import CLIPTokenizer

    merges = CLIP_MERGES.read_text(encoding="utf-8").strip().split("\n")[1:]
    signs = byte_signs()
    words = [*signs, *(sign + "</w>" for sign in signs), *(merge.replace(" ", "") for merge in merges)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={word: index for index, word in enumerate(words)},
        merges=[tuple(merge.split(" ")) for merge in merges],
        pad_token=pad_token,
        model_max_length=77,
    )


@cache
def _shipped_tokenizer() -> Any:
    return clip_tokenizer()


def num_clip_tokens(text: str) -> int:
    """Tokens of a text for CLIP, as SD 1, SD 2 and SDXL read it, without the marks of beginning and end."""
    return len(_shipped_tokenizer()(text, add_special_tokens=False, verbose=False).input_ids)


def byte_signs() -> list[str]:
    """The 256 printable signs that byte-level BPE writes for bytes, in the order of CLIP's vocabulary."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(256 - len(printable))]


def aligned(model: nn.Module) -> nn.Module:
    """Give every tensor on the CPU memory of its own, at a multiple of 64 bytes.

    Tensors mapped from a file start where the file has them, and the kernels of the CPU sum in another order
    at another alignment (torch 2.13): the same weights from two files gave pictures and gradients that
    differed in the last bit.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.device.type == "cpu" and tensor.data_ptr() % 64:
            tensor.data = tensor.data.clone()
    return model


def freeze(model: nn.Module) -> nn.Module:
    """Put a model into evaluation mode and switch its gradients off."""
    return model.eval().requires_grad_(False)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
