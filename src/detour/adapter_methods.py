"""The one table of methods: what stands beside a layer, and what follows for rates, files, cards and commands."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from detour.errors import ConfigError, nearest

AdapterMethod = Literal["lora", "dora", "loha", "lokr"]
"""What an adapted layer is."""
Method = Literal["lora", "dora", "loha", "lokr", "full", "reference"]
"""What a run trains; ``full`` is the base's own weights, ``reference`` an IP-Adapter."""
Start = Literal["gaussian", "kaiming", "pissa", "olora"]
"""How the factors of plain LoRA begin."""


@dataclass(frozen=True, kw_only=True)
class MethodFacts:
    """What follows from a method.

    Attributes:
        title: as people write it; what a card calls the product.
        rate: multiple of the rate that suits plain LoRA from a random start.
        has_up: whether its layers are a product of ``down`` and ``up``, so that both can have rates and scales.
        joins: whether layers can be joined where the original code of a transformer has q, k and v in one matrix.
        in_diffusers: whether the diffusers format can hold it.
        kohya_in_diffusers: what diffusers' loader (0.42) does with its kohya file.
        in_interfaces: whether AUTOMATIC1111, ComfyUI and sd-scripts draw with the file as detour does.
    """

    title: str
    rate: float
    has_up: bool
    joins: bool
    in_diffusers: bool
    kohya_in_diffusers: Literal["reads", "drops magnitudes", "refuses"]
    in_interfaces: bool


METHODS: Mapping[str, MethodFacts] = {
    "lora": MethodFacts(
        title="LoRA",
        rate=1.0,
        has_up=True,
        joins=True,
        in_diffusers=True,
        kohya_in_diffusers="reads",
        in_interfaces=True,
    ),
    "dora": MethodFacts(
        title="DoRA",
        rate=1.0,
        has_up=True,
        joins=False,
        in_diffusers=True,
        kohya_in_diffusers="drops magnitudes",
        in_interfaces=False,
    ),
    "loha": MethodFacts(
        title="LoHa",
        rate=0.5,
        has_up=False,
        joins=True,
        in_diffusers=False,
        kohya_in_diffusers="refuses",
        in_interfaces=True,
    ),
    "lokr": MethodFacts(
        title="LoKr",
        rate=1.0,
        has_up=False,
        joins=False,
        in_diffusers=False,
        kohya_in_diffusers="refuses",
        in_interfaces=True,
    ),
    "full": MethodFacts(
        title="Full fine-tuning",
        rate=0.05,
        has_up=False,
        joins=True,
        in_diffusers=False,
        kohya_in_diffusers="refuses",
        in_interfaces=False,
    ),
    "reference": MethodFacts(
        title="IP-Adapter",
        rate=1.0,
        has_up=False,
        joins=False,
        in_diffusers=False,
        kohya_in_diffusers="refuses",
        in_interfaces=True,
    ),
}
"""Name in ``adapter.method`` → what follows from it."""

FROM_BASE: Mapping[str, float] = {"pissa": 0.25, "olora": 0.25}
"""Starts that are factors of the base's own weight → multiple of the rate for plain LoRA from a random start."""

METHOD_SETTINGS: Mapping[str, str] = {
    **{start: f"adapter.init={start}" for start in FROM_BASE},
    "gaussian": "adapter.init=gaussian",
    "rslora": "adapter.rslora=true",
    "lora+": "train.optim.up_rate=16",
    "loraplus": "train.optim.up_rate=16",
    "locon": "adapter.targets=all",
}
"""What is called a method elsewhere and is a setting of plain LoRA here."""


def facts_of(method: str) -> MethodFacts:
    """Look a method up.

    Raises:
        ConfigError: there is no such method.
    """
    if method not in METHODS:
        raise ConfigError(
            f"there is no method '{method}'.{nearest(method, list(METHODS))} Choose one of {', '.join(METHODS)}."
        )
    return METHODS[method]
