"""Drawing: pictures with and without adapters, and grids of two adapters or of strengths."""

from typing import TYPE_CHECKING

from detour.lazy import exports_on_demand

if TYPE_CHECKING:
    from detour.verbs.draw.grid import draw_grid as draw_grid
    from detour.verbs.draw.interpolation import interpolate_pictures as interpolate_pictures
    from detour.verbs.draw.pictures import generate_pictures as generate_pictures
    from detour.verbs.draw.provenance import show_picture as show_picture
    from detour.verbs.draw.provenance import verify_picture as verify_picture
    from detour.verbs.draw.strengths import draw_strengths as draw_strengths

__getattr__, __dir__ = exports_on_demand(
    __name__,
    {
        "generate_pictures": (f"{__name__}.pictures", "generate_pictures"),
        "interpolate_pictures": (f"{__name__}.interpolation", "interpolate_pictures"),
        "draw_grid": (f"{__name__}.grid", "draw_grid"),
        "show_picture": (f"{__name__}.provenance", "show_picture"),
        "verify_picture": (f"{__name__}.provenance", "verify_picture"),
        "draw_strengths": (f"{__name__}.strengths", "draw_strengths"),
    },
)
