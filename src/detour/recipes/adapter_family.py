"""Which family an adapter belongs to, told from the adapter alone."""

import re
from dataclasses import dataclass

from detour.adapter_files.fitting import cross_attention_width
from detour.adapters.adapter import Adapter
from detour.bases.families import FAMILIES, Family
from detour.errors import ConfigError, nearest

_WIDTHS = {768: "sd1", 1024: "sd2", 2048: "sdxl"}
_MARKS = (("xl", "sdxl"), ("v2", "sd2"), ("v1", "sd1"))
_SAYS_SO = ("modelspec.architecture", "ss_base_model_version")
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
        ConfigError: ``named`` is no family.
    """
    if named is not None:
        if named not in FAMILIES:
            known = ", ".join(FAMILIES)
            raise ConfigError(
                f"family '{named}' is not known.{nearest(named, list(FAMILIES))} Known: {known}."
            )
        return FamilyGuess(family=FAMILIES[named], why="named by you")
    said = adapter.metadata.get("detour.family")
    if said is not None and said in FAMILIES:
        return FamilyGuess(family=FAMILIES[said], why="detour.family in its metadata")
    for key in _SAYS_SO:
        text = adapter.metadata.get(key, "").lower()
        name = next((family for mark, family in _MARKS if mark in text), None)
        if name is not None and text.startswith(("stable-diffusion", "sd")):
            return FamilyGuess(family=FAMILIES[name], why=f"{key} in its metadata is '{text[:60]}'")
    if "text_encoder_2" in adapter.parts:
        return FamilyGuess(family=FAMILIES["sdxl"], why="it has a second text encoder")
    width = cross_attention_width(adapter)
    if width in _WIDTHS:
        return FamilyGuess(family=FAMILIES[_WIDTHS[width]], why=f"its cross-attention width is {width}")
    if any(_DEEP.search(key) for key in adapter.layers):
        return FamilyGuess(family=FAMILIES["sdxl"], why="it has several transformer blocks in one attention")
    why = "nothing in it tells SD 1 from SD 2, which have the same names"
    return FamilyGuess(family=FAMILIES["sd1"], why=why)
