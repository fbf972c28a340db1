"""Where an adapter's layers sit in a model."""

from collections.abc import Mapping

from torch import nn

from detour.adapters.adapter import Layer, part_of, path_of
from detour.errors import AdapterError, ShapeMismatch, nearest

LEGACY_TEXT_PREFIX = "text_model."
"""transformers before version 5 kept CLIP's layers under this name; adapters are keyed without it."""


def find_path(model: nn.Module, path: str) -> str | None:
    """The path under which ``model`` has the layer, with or without the old text prefix; or None."""
    for candidate in (path, LEGACY_TEXT_PREFIX + path):
        try:
            model.get_submodule(candidate)
        except AttributeError:
            continue
        return candidate
    return None


def find_layer(model_parts: Mapping[str, nn.Module], key: str, layer: Layer) -> nn.Linear | nn.Conv2d:
    """The plain Linear or Conv2d that ``key`` names, checked against the factors' shapes.

    Raises:
        AdapterError: the part is not given, or the model has no such layer.
        ShapeMismatch: the layer has other widths than the factors.
    """
    part, path = part_of(key), path_of(key)
    if part not in model_parts:
        raise AdapterError(
            f"the adapter has layers for '{part}', which was not loaded (parts here: {_list(model_parts)})."
        )
    found = find_path(model_parts[part], path)
    if found is None:
        known = [
            name
            for name, module in model_parts[part].named_modules()
            if isinstance(module, nn.Linear | nn.Conv2d)
        ]
        raise AdapterError(
            f"the base's {part} has no layer '{path}'.{nearest(path, known)} Choose the base it was made for."
        )
    module = model_parts[part].get_submodule(found)
    module = getattr(module, "base_layer", module)  # under PEFT's wrapper when an adapter is attached already
    if not isinstance(module, nn.Linear | nn.Conv2d):
        raise AdapterError(
            f"'{key}' is a {type(module).__name__} in this base; adapters sit on Linear and Conv2d layers."
        )
    _check_shapes(key, module, layer)
    return module


def _check_shapes(key: str, module: nn.Linear | nn.Conv2d, layer: Layer) -> None:
    if isinstance(module, nn.Linear):
        widths: tuple[int, ...] = (module.in_features, module.out_features, 1, 1)
    else:
        widths = (module.in_channels // module.groups, module.out_channels, *module.kernel_size)
    found = (layer.in_features, layer.out_features, *layer.kernel)
    if not layer.knows_kernel:  # the file holds in · kh · kw as one size
        widths = (widths[0] * widths[2] * widths[3], widths[1], 1, 1)
    if widths != found:
        raise ShapeMismatch(
            f"'{key}' maps {found[0]} to {found[1]} features (kernel {found[2]}×{found[3]}) in the adapter, "
            f"{widths[0]} to {widths[1]} (kernel {widths[2]}×{widths[3]}) in the base. "
            "Choose the base it was made for."
        )


def _list(parts: Mapping[str, nn.Module]) -> str:
    return ", ".join(parts) or "none"
