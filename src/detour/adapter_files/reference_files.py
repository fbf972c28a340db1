"""IP-Adapter files: read as strictly as adapters are, and written so that diffusers loads them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from detour.adapter_files.container import encode, read_header
from detour.adapter_files.limits import DEFAULT_LIMITS, Limits
from detour.adapter_files.pickled import is_pickle_name, read_tensors
from detour.adapters.reference_kinds import HEAD_WIDTH, ReferenceFacts, facts_of_shapes, is_reference_file
from detour.adapters.reference_rows import cross_attentions
from detour.bases.base import Base
from detour.errors import AdapterError
from detour.files import sha256_of, write_bytes

_RENAMED: Mapping[str, tuple[tuple[str, str], ...]] = {
    "plain": ((r"^proj\.", "image_embeds."),),
    "full": ((r"^proj\.0\.", "ff.net.0.proj."), (r"^proj\.2\.", "ff.net.2."), (r"^proj\.3\.", "norm.")),
    "plus": (
        (r"^(layers\.\d+)\.0\.norm1\.", r"\1.ln0."),
        (r"^(layers\.\d+)\.0\.norm2\.", r"\1.ln1."),
        (r"^(layers\.\d+)\.0\.to_out\.", r"\1.attn.to_out.0."),
        (r"^(layers\.\d+)\.0\.to_", r"\1.attn.to_"),
        (r"^(layers\.\d+)\.1\.0\.", r"\1.ff.0."),
        (r"^(layers\.\d+)\.1\.1\.", r"\1.ff.1.net.0.proj."),
        (r"^(layers\.\d+)\.1\.3\.", r"\1.ff.1.net.2."),
    ),
}
"""Kind → name in the file to name in diffusers' module; keys and values of Plus are one matrix in the file."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ReferenceAdapter:
    """An IP-Adapter as it was read.

    Attributes:
        facts: kind, image encoder, family and sizes.
        projection: makes tokens of what the image encoder gives: (N, width) or (N, patches, width) → (N, tokens, text
            width); float32, frozen.
        keys: (hidden, text width) float32 of each cross-attention layer, in the order of ``unet.attn_processors``.
        values: as ``keys``.
        sha256: of the file; empty for one that was made here.
        metadata: of the file.
    """

    facts: ReferenceFacts
    projection: nn.Module
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    sha256: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)


def read_reference_adapter(
    path: Path, *, allow_pickle: bool = False, limits: Limits = DEFAULT_LIMITS
) -> ReferenceAdapter:
    """Read an IP-Adapter of kind plain, Plus or Full.

    Args:
        path: ``.safetensors``; with ``allow_pickle`` also ``.bin`` and the like, tensors alone.
        allow_pickle: read pickles.
        limits: sizes above which a file is refused.

    Raises:
        AdapterError: missing, a pickle, too large, broken, not finite, a FaceID, or no IP-Adapter.
    """
    tensors, metadata = read_tensors(path, limits, finite=True, allow_pickle=allow_pickle)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    facts = facts_of_shapes(shapes, where=str(path))
    numbers = range(1, 2 * facts.num_layers, 2)
    return ReferenceAdapter(
        facts=facts,
        projection=_projection(facts, tensors, where=str(path)),
        keys=tuple(tensors[f"ip_adapter.{number}.to_k_ip.weight"].float() for number in numbers),
        values=tuple(tensors[f"ip_adapter.{number}.to_v_ip.weight"].float() for number in numbers),
        sha256=sha256_of(path),
        metadata=metadata,
    )


def read_reference_facts(path: Path, *, allow_pickle: bool = False) -> tuple[ReferenceFacts, str]:
    """Kind, image encoder and family, and the SHA-256; of safetensors from the header alone.

    Raises:
        AdapterError: as :func:`read_reference_adapter`.
    """
    if allow_pickle and is_pickle_name(path):
        whole = read_reference_adapter(path, allow_pickle=True)
        return whole.facts, whole.sha256
    regions, _ = read_header(path, DEFAULT_LIMITS)
    shapes = {name: region.shape for name, region in regions.items()}
    return facts_of_shapes(shapes, where=str(path)), sha256_of(path)


def holds_reference(path: Path, *, allow_pickle: bool = False) -> bool:
    """Whether a file is an IP-Adapter, by the names of its tensors.

    Args:
        path: a file; a folder is none.
        allow_pickle: look into pickles too, which are none otherwise.

    Raises:
        AdapterError: the file is broken or beyond the limits.
    """
    if path.is_dir() or (is_pickle_name(path) and not allow_pickle):
        return False
    if is_pickle_name(path):
        return is_reference_file(read_tensors(path, DEFAULT_LIMITS, finite=False, allow_pickle=True)[0])
    return is_reference_file(read_header(path, DEFAULT_LIMITS)[0])


def require_fit(facts: ReferenceFacts, base: Base, *, where: str) -> None:
    """Raise unless a base has the cross-attention layers that an IP-Adapter stands beside.

    Args:
        facts: of the file.
        base: its settings are enough.
        where: the file, for the message.

    Raises:
        AdapterError: a transformer, text states of another width, or another number of layers.
    """
    if base.family.network_part != "unet":
        raise AdapterError(
            f"{where}: an IP-Adapter for UNets, and the network of base '{base.name}' is a transformer. Use a base of "
            "Stable Diffusion 1.5 or XL."
        )
    width = base.cross_attention_width
    if facts.text_width != width:
        raise AdapterError(
            f"{where}: made for {facts.family or 'bases'} with text states of width {facts.text_width}, and base "
            f"'{base.name}' has {width}. Use an IP-Adapter of its family."
        )
    num = len(cross_attentions(base.meta_network()))
    if facts.num_layers != num:
        raise AdapterError(
            f"{where}: keys and values for {facts.num_layers} cross-attention layers, and base '{base.name}' has "
            f"{num}. Use an IP-Adapter of its family."
        )


def write_reference_adapter(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Path:
    """Write the tensors of an IP-Adapter under the names of its authors' files, atomically.

    Args:
        path: ends in ``.safetensors``.
        tensors: ``image_proj.…`` and ``ip_adapter.N.to_k_ip.weight`` → float32 or float16.
        metadata: of the header.

    Raises:
        AdapterError: no IP-Adapter that could be read again, or a number that is not finite.
        StorageError: disk full, not writable.
    """
    facts_of_shapes({name: tuple(tensor.shape) for name, tensor in tensors.items()}, where=path.name)
    write_bytes(path, encode(tensors, metadata))
    return path


def _projection(facts: ReferenceFacts, tensors: Mapping[str, Tensor], *, where: str) -> nn.Module:
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if not name.startswith("image_proj."):
            continue
        renamed = name.removeprefix("image_proj.")
        for pattern, to in _RENAMED[facts.kind]:
            renamed, done = re.subn(pattern, to, renamed)
            if done:
                break
        if ".attn.to_kv." in renamed:
            key, value = tensor.float().chunk(2, dim=0)
            found[renamed.replace("to_kv", "to_k")] = key.contiguous()
            found[renamed.replace("to_kv", "to_v")] = value.contiguous()
        else:
            found[renamed] = tensor.float()
    try:
        with torch.device("meta"):  # whatever sizes a file claims: memory is taken for tensors that are there
            module = new_projection(facts, found)
        module.load_state_dict(found, strict=True, assign=True)
    except (RuntimeError, KeyError) as error:
        message = " ".join(str(error).split())[:200]
        raise AdapterError(f"{where}: its projection has other tensors than its kind ({message}).") from error
    return module.eval().requires_grad_(False)


def new_projection(facts: ReferenceFacts, tensors: Mapping[str, Tensor]) -> nn.Module:
    """The projection of a kind as diffusers has it, with weights of its own start.

    Args:
        facts: kind and widths.
        tensors: under diffusers' names; of Plus, their shapes say depth, heads and widths.
    """
    from diffusers.models import embeddings

    sizes: dict[str, Any]
    made: nn.Module
    if facts.kind == "plain":
        sizes = {"image_embed_dim": facts.encoder_width, "num_image_text_embeds": facts.num_tokens}
        made = embeddings.ImageProjection(cross_attention_dim=facts.text_width, **sizes)
        return made
    if facts.kind == "full":
        made = embeddings.IPAdapterFullImageProjection(
            image_embed_dim=facts.encoder_width, cross_attention_dim=facts.text_width
        )
        return made
    inner = tensors["proj_in.weight"].shape[0]
    sizes = {
        "embed_dims": facts.encoder_width,
        "output_dims": facts.text_width,
        "hidden_dims": inner,
        "depth": 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("layers.")),
        "dim_head": HEAD_WIDTH,
        "heads": tensors["layers.0.attn.to_q.weight"].shape[0] // HEAD_WIDTH,
        "num_queries": facts.num_tokens,
        "ffn_ratio": tensors["layers.0.ff.1.net.0.proj.weight"].shape[0] / inner,
    }
    made = embeddings.IPAdapterPlusImageProjection(**sizes)
    return made
