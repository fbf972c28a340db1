"""Which lessons cannot run yet because the base that they open is not there."""

from functools import cache

from detour.bases.base import open_base
from detour.errors import BaseError
from detour.labs.index import Lab
from detour.labs.sources import base_of


def missing_base(lab: Lab) -> str:
    """Why a lesson's own base cannot be opened with its weights; empty where it can."""
    return _missing(base_of(lab))


@cache
def _missing(name: str) -> str:
    try:
        open_base(name).require_weights()
    except BaseError as error:
        return str(error)
    return ""
