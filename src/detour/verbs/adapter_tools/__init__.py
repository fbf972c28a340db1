"""Adapter files: what is in one, and conversion, merging, composition, resizing and extraction."""

from typing import TYPE_CHECKING

from detour.lazy import exports_on_demand

if TYPE_CHECKING:
    from detour.verbs.adapter_tools.composition import compose_adapters as compose_adapters
    from detour.verbs.adapter_tools.contents import show_adapter as show_adapter
    from detour.verbs.adapter_tools.conversion import convert_adapter as convert_adapter
    from detour.verbs.adapter_tools.extraction import extract_adapter as extract_adapter
    from detour.verbs.adapter_tools.merging import merge_adapters as merge_adapters
    from detour.verbs.adapter_tools.resizing import resize_adapter as resize_adapter

__getattr__, __dir__ = exports_on_demand(
    __name__,
    {
        "show_adapter": (f"{__name__}.contents", "show_adapter"),
        "convert_adapter": (f"{__name__}.conversion", "convert_adapter"),
        "merge_adapters": (f"{__name__}.merging", "merge_adapters"),
        "compose_adapters": (f"{__name__}.composition", "compose_adapters"),
        "resize_adapter": (f"{__name__}.resizing", "resize_adapter"),
        "extract_adapter": (f"{__name__}.extraction", "extract_adapter"),
    },
)
