"""Which family an adapter belongs to, told from the adapter alone."""

import re
from dataclasses import dataclass

from detour.adapter_files.fitting import cross_attention_width
from detour.adapter_files.names import is_t5_path
from detour.adapters.adapter import Adapter, part_of, path_of
from detour.bases.families import FAMILIES, Family
from detour.bases.transformer_names import TABLES, family_of_names
from detour.errors import ConfigError, nearest

_WIDTHS = {768: "sd1", 1024: "sd2", 2048: "sdxl"}
_MARKS = (
    ("flux", "flux"), ("sd3", "sd3"), ("diffusion-3", "sd3"), ("diffusion-v3", "sd3"),
    ("xl", "sdxl"), ("v2", "sd2"), ("v1", "sd1"),
)  # fmt: skip
_TRANSFORMER_WIDTHS = {3072: "flux", 1536: "sd3", 2432: "sd3"}
_SAYS_SO = ("modelspec.architecture", "ss_base_model_version")
_FOURTH_LEVEL = ("down_blocks.3.", "up_blocks.3.")
_DEEP = re.compile(r"\.transformer_blocks\.[1-9]")


@dataclass(frozen=True, kw_only=True)
class FamilyGuess:
    """A family, and a sentence on what it was told from."""

    family: Family
    why: str


def family_of_adapter(adapter: Adapter, named: str | None = None) -> FamilyGuess:
    """Tell the family from what the file says of itself, else from widths and names.

    Args:
        adapter: shapes are enough.
        named: the user's word, which wins.

    Raises:
        ConfigError: ``named`` is no family or has other widths, or nothing tells Flux from SD 3.
    """
    if named is not None:
        if named not in FAMILIES:
            known = ", ".join(FAMILIES)
            raise ConfigError(
                f"family '{named}' is not known.{nearest(named, list(FAMILIES))} Known: {known}."
            )
        return FamilyGuess(family=FAMILIES[named], why=_why_named(adapter, named))
    claim = _claimed(adapter)
    if claim is None:
        return _of_layers(adapter)
    against = _contradiction(adapter, claim.family)
    if against is None:
        return claim
    found = _of_layers(adapter)
    why = f"{found.why}; not {claim.family.name}, which its metadata claims: {against}"
    return FamilyGuess(family=found.family, why=why)


def _claimed(adapter: Adapter) -> FamilyGuess | None:
    """What the metadata say; None where they say nothing that is known."""
    said = adapter.metadata.get("detour.family")
    if said is not None and said in FAMILIES:
        return FamilyGuess(family=FAMILIES[said], why="detour.family in its metadata")
    for key in _SAYS_SO:
        text = adapter.metadata.get(key, "").lower()
        name = next((family for mark, family in _MARKS if mark in text), None)
        if name is not None and text.startswith(("stable-diffusion", "sd", "flux")):
            return FamilyGuess(family=FAMILIES[name], why=f"{key} in its metadata is '{text[:60]}'")
    return None


def _contradiction(adapter: Adapter, family: Family) -> str | None:
    """What the adapter holds that no base of the family has; None where all of it can be of that family.

    A family's small relatives have other widths and depths, so that only what tells families apart counts.
    """
    is_transformer = family.name in TABLES
    for key in sorted(adapter.layers):
        part, path = part_of(key), path_of(key)
        if part == ("unet" if is_transformer else "transformer"):
            return f"it has layers of a {part}"
        if part not in ("unet", "transformer", *family.text_parts):
            return f"it has layers for '{part}'"
        if part == "unet" and family.name == "sdxl" and path.startswith(_FOURTH_LEVEL):
            return f"'{key}' is of a fourth level, and it has three"
        if part == "unet" and family.name in ("sd1", "sd2") and _DEEP.search(key):
            return f"'{key}' is of a second transformer block, and its attentions have one"
    width = cross_attention_width(adapter)
    of_width = _WIDTHS.get(width) if width is not None else None
    if of_width is not None and of_width != family.name and not is_transformer:
        return f"its cross-attention is {width} wide, which is {of_width}'s"
    return None


def _of_layers(adapter: Adapter) -> FamilyGuess:
    """The family that names and widths of the layers tell.

    Raises:
        ConfigError: nothing tells Flux from SD 3.
    """
    if "transformer" in adapter.parts or any(is_t5_path(path_of(key)) for key in adapter.layers):
        return _of_transformer(adapter)
    if "text_encoder_2" in adapter.parts:
        return FamilyGuess(family=FAMILIES["sdxl"], why="it has a second text encoder")
    width = cross_attention_width(adapter)
    if width in _WIDTHS:
        return FamilyGuess(family=FAMILIES[_WIDTHS[width]], why=f"its cross-attention width is {width}")
    if any(path_of(key).startswith(_FOURTH_LEVEL) for key in adapter.layers if part_of(key) == "unet"):
        return FamilyGuess(family=FAMILIES["sd1"], why="its UNet has four levels, as SD 1 and SD 2 have")
    if any(_DEEP.search(key) for key in adapter.layers):
        return FamilyGuess(family=FAMILIES["sdxl"], why="it has several transformer blocks in one attention")
    why = "nothing in it tells SD 1 from SD 2, which have the same names"
    return FamilyGuess(family=FAMILIES["sd1"], why=why)


def _why_named(adapter: Adapter, named: str) -> str:
    """Why the family that the user names cannot be right; a layer of another width would be named as missing.

    Raises:
        ConfigError: the adapter's cross-attention is as wide as another family's.
    """
    width = cross_attention_width(adapter)
    of_width = _WIDTHS.get(width) if width is not None else None
    if of_width is not None and of_width != named:
        raise ConfigError(
            f"family '{named}': the adapter's cross-attention is {width} wide, which is {of_width}'s. Drop --family."
        )
    said = adapter.metadata.get("detour.family", named)
    return "named by you" if said == named else f"named by you; its metadata says {said[:20]}"


def _of_transformer(adapter: Adapter) -> FamilyGuess:
    mine = {path_of(key): layer for key, layer in adapter.layers.items() if part_of(key) == "transformer"}
    name = family_of_names(mine)
    if name is not None:
        return FamilyGuess(family=FAMILIES[name], why="its blocks are that family's alone")
    if "text_encoder_3" in adapter.parts:
        return FamilyGuess(family=FAMILIES["sd3"], why="it has a third text encoder")
    if any(is_t5_path(path_of(key)) for key in adapter.layers):
        return FamilyGuess(family=FAMILIES["flux"], why="its second text encoder is a T5")
    widths = {layer.in_features for path, layer in mine.items() if path.endswith((".to_q", ".to_k", ".to_v"))}
    for width in sorted(widths & set(_TRANSFORMER_WIDTHS)):
        family = FAMILIES[_TRANSFORMER_WIDTHS[width]]
        return FamilyGuess(family=family, why=f"its transformer's width is {width}")
    raise ConfigError(
        "nothing in the adapter tells Flux from SD 3. Name it with --family flux or --family sd3."
    )
