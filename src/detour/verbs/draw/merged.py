"""Adapters added to a private copy of the base's weights, where a caller asks for many pictures of the same ones."""

from collections.abc import Sequence
from dataclasses import replace

from detour.adapters.adapter import Adapter
from detour.adapters.delta import merge_into
from detour.errors import ConfigError
from detour.generation.engine import PictureEngine, PictureRequest


def merge_adapters_of(engine: PictureEngine, requests: Sequence[PictureRequest]) -> list[PictureRequest]:
    """Add the adapters of the requests to the engine's own weights, and leave them out of the requests.

    The engine must be the caller's alone: whatever it draws from now on has the adapters. A picture costs what the
    plain base's does, and its pixels differ from those of adapters beside the layers by rounding.

    Args:
        engine: in which nothing is drawn yet.
        requests: which all have the same adapters at the same strengths.

    Returns:
        The requests; of adapters with new words the words alone are left.

    Raises:
        ConfigError: the requests have different adapters, or strengths that change along the steps; a DoRA beside
            other adapters, whose change depends on which of them is added first.
        AdapterError: an adapter does not fit the base.
    """
    if not requests:
        return []
    used = requests[0].adapters
    if any(request.adapters != used or request.step_weights for request in requests):
        raise ConfigError("adapters are merged for pictures that all have the same ones at fixed strengths.")
    adapters = [one.adapter if isinstance(one.adapter, Adapter) else one.adapter.read() for one in used]
    if len(adapters) > 1 and any("dora" in adapter.kinds for adapter in adapters):
        raise ConfigError(
            "--merge: a DoRA's change depends on the weights that it is added to, and here other adapters are added "
            "too. Leave --merge out."
        )
    for one, adapter in zip(used, adapters, strict=True):
        merge_into(engine.models, adapter, one.weight)
    words = tuple(
        replace(one, adapter=Adapter({}, words=adapter.words), sha256="")
        for one, adapter in zip(used, adapters, strict=True)
        if adapter.words
    )
    return [replace(request, adapters=words) for request in requests]
