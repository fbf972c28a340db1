"""Reference pictures in A1111's interface: units of its ControlNet extension whose module is an IP-Adapter."""

from __future__ import annotations

from typing import Any

from detour.serving.refusals import BadRequest
from detour.serving.sent_pictures import from_base64

FIELD = "alwayson_scripts"
CHANGES_NOTHING: dict[str, tuple[Any, ...]] = {
    "guidance_start": (0, None),
    "guidance_end": (1, None),
    "mask": ("", None),
    "mask_image": ("", None),
    "effective_region_mask": ("", None),
    "advanced_weighting": ("", None, []),
}
"""Field of a unit → values with which the unit is drawn here; others would change the picture and are refused."""


def references_of(scripts: Any) -> tuple[tuple[bytes, float], ...]:
    """Read (content of a picture's file, strength) of each enabled IP-Adapter unit.

    Args:
        scripts: the field ``alwayson_scripts``.

    Raises:
        BadRequest: another script or module, a field that is not supported, or what is no base64.

    Source of the fields: github.com/Mikubill/sd-webui-controlnet, wiki page "API".
    """
    if not scripts:
        return ()
    if not isinstance(scripts, dict) or {str(name).lower() for name in scripts} - {"controlnet"}:
        raise BadRequest(
            f"{FIELD}: only 'controlnet' with IP-Adapter units is supported. Leave the others out.",
            param=FIELD,
        )
    (script,) = scripts.values()
    units = script.get("args") if isinstance(script, dict) else None
    if not isinstance(units, list) or not all(isinstance(unit, dict) for unit in units):
        raise BadRequest(f"{FIELD}: expected {{'controlnet': {{'args': [unit, ...]}}}}.", param=FIELD)
    return tuple(_reference(unit) for unit in units if unit.get("enabled", True) is not False)


def _reference(unit: dict[str, Any]) -> tuple[bytes, float]:
    module, image = str(unit.get("module", "none")), unit.get("image") or unit.get("input_image")
    if not module.lower().replace("_", "-").startswith("ip-adapter"):
        raise BadRequest(
            f"{FIELD}: module '{module[:40]}' is not supported; units of 'ip-adapter' are.", param=FIELD
        )
    for name, values in CHANGES_NOTHING.items():
        if unit.get(name) not in values:
            raise BadRequest(f"{FIELD}: the field '{name}' is not supported. Leave it out.", param=FIELD)
    if isinstance(image, dict):
        image = image.get("image")
    if not isinstance(image, str):
        raise BadRequest(f"{FIELD}: a unit has no image. Add one, or leave the unit out.", param=FIELD)
    weight = unit.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float):
        raise BadRequest(f"{FIELD}: the weight of a unit is not a number.", param=FIELD)
    return from_base64(image, FIELD), float(weight)
