"""What an IP-Adapter file is, told from the names and shapes of its tensors alone.

An IP-Adapter (Ye et al. 2023, arXiv:2308.06721) shows a network a picture: a projection turns what an image encoder
makes of it into a few tokens, and every cross-attention has a second pair of keys and values that read them.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from detour.errors import AdapterError
from detour.printing import printable

ReferenceKind = Literal["plain", "plus", "full"]
"""Projection: of the pooled embedding, a resampler over the last hidden states but one, or one token each of those."""

HEAD_WIDTH = 64
"""Width of an attention head of a Plus file's resampler; the file does not say it, and all tools take this."""

_LAYER = re.compile(r"ip_adapter\.(\d+)\.to_([kv])_ip\.weight")
_FACE = re.compile(r"image_proj\.(perceiver_resampler|norm|proj\.[02])\.|ip_adapter\.\d+\.to_\w+_lora\.")
_BY_TEXT_WIDTH = {768: "sd1", 1024: "sd2", 2048: "sdxl"}
_ENCODERS: Mapping[tuple[bool, int], str] = {
    (True, 1024): "ViT-H",
    (True, 1280): "ViT-bigG",
    (False, 1280): "ViT-H",
    (False, 1664): "ViT-bigG",
}
"""(pooled embedding or hidden states, width of what the projection reads) → published image encoder."""

_NAMES: Mapping[ReferenceKind, re.Pattern[str]] = {
    "plain": re.compile(r"(proj|norm)\.(weight|bias)"),
    "full": re.compile(r"proj\.[023]\.(weight|bias)"),
    "plus": re.compile(
        r"latents|(proj_in|proj_out|norm_out)\.(weight|bias)|layers\.\d+\.(0\.norm[12]\.(weight|bias)"
        r"|0\.to_(q|kv|out)\.weight|1\.0\.(weight|bias)|1\.[13]\.weight)"
    ),
}
"""Kind → names of its projection, behind ``image_proj.``; any other name is refused."""

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class ReferenceFacts:
    """What the shapes of an IP-Adapter say.

    Attributes:
        kind: of its projection.
        encoder: the published image encoder whose width it reads, "ViT-H" or "ViT-bigG"; empty for another one.
        encoder_width: width of the pooled embedding (plain) or of the hidden states (Plus, Full).
        text_width: width of the tokens, which is that of the base's text states.
        family: of bases with text states of that width: sd1, sd2 or sdxl; empty for another width.
        num_tokens: tokens a picture; 0 where the encoder decides it (Full: one a patch, and one for the whole).
        num_layers: cross-attention layers with a second pair of keys and values.
        num_parameters: of all tensors.
    """

    kind: ReferenceKind
    encoder: str
    encoder_width: int
    text_width: int
    family: str
    num_tokens: int
    num_layers: int
    num_parameters: int

    @property
    def reads_pooled(self) -> bool:
        """Whether the projection reads the pooled embedding; the others read the last hidden states but one."""
        return self.kind == "plain"

    @property
    def words(self) -> str:
        """Kind, family and image encoder, in words."""
        where = self.family or f"bases with text states of width {self.text_width}"
        return f"{self.kind}, for {where}, reads {self.encoder_words}"

    @property
    def encoder_words(self) -> str:
        """The image encoder that it needs, in words."""
        what = "embedding" if self.reads_pooled else "hidden states"
        return f"{self.encoder or 'an image encoder'} ({what} of width {self.encoder_width})"


def is_reference_file(names: Iterable[str]) -> bool:
    """Whether tensors with these names are an IP-Adapter's."""
    return any(name.startswith(("image_proj.", "ip_adapter.")) for name in names)


def facts_of_shapes(shapes: Shapes, *, where: str) -> ReferenceFacts:
    """Tell kind, image encoder and family of an IP-Adapter.

    Args:
        shapes: name → shape of every tensor.
        where: the file, for messages.

    Raises:
        AdapterError: no IP-Adapter, one for faces, or one that lacks tensors or holds others.
    """
    if not is_reference_file(shapes):
        raise AdapterError(
            f"{where}: no IP-Adapter, which has tensors named image_proj.… and ip_adapter.…. Name such a file."
        )
    empty = next((name for name, shape in shapes.items() if 0 in shape), None)
    if empty is not None:
        raise AdapterError(f"{where}: '{printable(empty, longest=80)}' is empty. Fetch the file again.")
    kind = _kind(shapes, where)
    projection = {
        name.removeprefix("image_proj."): shape
        for name, shape in shapes.items()
        if name.startswith("image_proj.")
    }
    layers = _layers(shapes, where)
    text_width = next(iter(layers.values()))[1]
    encoder_width, num_tokens = _widths(kind, projection, text_width, where)
    strange = [name for name in projection if not _NAMES[kind].fullmatch(name)]
    if strange:
        raise AdapterError(
            f"{where}: a projection of kind {kind} has no '{printable(sorted(strange)[0], longest=80)}'. "
            "Fetch the file again."
        )
    return ReferenceFacts(
        kind=kind,
        encoder=_ENCODERS.get((kind == "plain", encoder_width), ""),
        encoder_width=encoder_width,
        text_width=text_width,
        family=_BY_TEXT_WIDTH.get(text_width, ""),
        num_tokens=num_tokens,
        num_layers=len(layers) // 2,
        num_parameters=sum(_count(shape) for shape in shapes.values()),
    )


def _kind(shapes: Shapes, where: str) -> ReferenceKind:
    if "image_proj.proj.weight" in shapes:
        return "plain"
    if "image_proj.proj.3.weight" in shapes:
        return "full"
    if "image_proj.latents" in shapes:
        return "plus"
    if any(_FACE.match(name) for name in shapes):
        raise AdapterError(
            f"{where}: an IP-Adapter of kind FaceID, which reads embeddings of insightface, a face model whose "
            "licence allows research alone. It is not supported: use a plain, Plus or Full file."
        )
    raise AdapterError(f"{where}: an IP-Adapter without a projection that is known. Fetch the file again.")


def _layers(shapes: Shapes, where: str) -> dict[tuple[int, str], tuple[int, ...]]:
    """(number, "k" or "v") → shape, in order; numbers are 1, 3, 5, … of ``unet.attn_processors``."""
    found: dict[tuple[int, str], tuple[int, ...]] = {}
    for name, shape in shapes.items():
        if name.startswith("image_proj."):
            continue
        match = _LAYER.fullmatch(name)
        if match is None or len(shape) != 2:
            face = " It is of kind FaceID, which is not supported." if _FACE.match(name) else ""
            shown = printable(name, longest=80)
            raise AdapterError(f"{where}: '{shown}' is no key or value of an IP-Adapter.{face}")
        found[int(match[1]), match[2]] = shape
    numbers = sorted({number for number, _ in found})
    complete = len(found) == 2 * len(numbers) and numbers == list(range(1, 2 * len(numbers), 2))
    if not numbers or not complete:
        raise AdapterError(
            f"{where}: keys and values are numbered {', '.join(map(str, numbers[:6])) or 'nothing'} …; expected 1, 3, "
            "5 and so on, each with both. Fetch the file again."
        )
    ordered = dict(sorted(found.items()))
    width = ordered[1, "k"][1]
    for (number, side), shape in ordered.items():
        if shape[1] != width or shape != ordered[number, "k"]:
            raise AdapterError(f"{where}: ip_adapter.{number}.to_{side}_ip has the shape {shape}.")
    return ordered


def _widths(kind: ReferenceKind, projection: Shapes, text_width: int, where: str) -> tuple[int, int]:
    """Width of what the projection reads, and tokens a picture."""
    try:
        if kind == "plain":
            rows, encoder_width = projection["proj.weight"]
            num_tokens, rest = divmod(rows, text_width)
            fits = not rest and num_tokens > 0 and projection["norm.weight"] == (text_width,)
        elif kind == "full":
            encoder_width, num_tokens = projection["proj.0.weight"][1], 0
            fits = projection["proj.3.weight"] == (text_width,)
        else:
            encoder_width, num_tokens = projection["proj_in.weight"][1], projection["latents"][1]
            heads = projection["layers.0.0.to_q.weight"][0] % HEAD_WIDTH
            depths = {int(name.split(".")[1]) for name in projection if re.match(r"layers\.\d+\.", name)}
            fits = projection["proj_out.weight"][0] == text_width and not heads
            fits = fits and depths == set(range(len(depths)))
    except (KeyError, ValueError, IndexError) as error:
        raise AdapterError(
            f"{where}: the projection of kind {kind} lacks {error} or has it in another shape. Fetch the file again."
        ) from error
    if not fits:
        raise AdapterError(
            f"{where}: the projection does not give tokens of width {text_width}, which keys and values read. "
            "Fetch the file again."
        )
    return encoder_width, num_tokens


def _count(shape: tuple[int, ...]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total
