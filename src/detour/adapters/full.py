"""A model's own weights in training, for comparison with adapters beside them."""

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from detour.adapters.adapter import Adapter
from detour.adapters.attach import Attached
from detour.adapters.targets import adaptable_layers
from detour.errors import AdapterError

if TYPE_CHECKING:
    from detour.adapters.targets import AdaptableLayer


class FullWeights(Attached):
    """Trains a model's own weights behind the interface of an attached adapter; no adapter comes out of it.

    Attributes:
        model: whose weights are trained.
    """

    starts_silent = False

    def __init__(self, model: nn.Module, part: str, names: Sequence[str]) -> None:
        """Make the tensors of ``names`` trainable, in place, and freeze all others."""
        super().__init__(
            "full", [], [(parameter, parameter.requires_grad) for parameter in model.parameters()]
        )
        self.model = model
        parameters = dict(model.named_parameters())
        self._trained = {name: parameters[name] for name in names}
        self._part = part
        for name, parameter in parameters.items():
            parameter.requires_grad_(name in self._trained)

    @property
    def named_factors(self) -> dict[tuple[str, str], nn.Parameter]:
        """(layer key, "weight" or "bias") → the live parameter."""
        return {
            (f"{self._part}.{name.rpartition('.')[0]}", name.rpartition(".")[2]): parameter
            for name, parameter in self._trained.items()
        }

    @property
    def changed_tensors(self) -> frozenset[str]:
        """Names in the model's ``state_dict`` of what is trained."""
        return frozenset(self._trained)

    def to_adapter(self, metadata: Mapping[str, str] | None = None) -> Adapter:  # noqa: ARG002
        """Never: a change of all weights is no adapter.

        Raises:
            AdapterError: always.
        """
        raise AdapterError(
            "full fine-tuning leaves whole weights, not an adapter. Use the folder that it wrote."
        )

    @contextlib.contextmanager
    def disabled(self) -> Iterator[None]:
        """Never: the weights as they were are not kept.

        Raises:
            AdapterError: always.
        """
        raise AdapterError("fully fine-tuned weights cannot be switched off. Load the base again.")
        yield

    def detach(self) -> None:
        """Freeze the weights again; they stay as they were trained."""
        for parameter, requires_grad in self._frozen:
            parameter.requires_grad_(requires_grad)


def attach_full(
    model: nn.Module,
    part: str,
    layers: "Sequence[AdaptableLayer]",
    *,
    with_others: bool,
    dead: "Sequence[str]" = (),
) -> FullWeights:
    """Make a model's own weights trainable.

    Args:
        model: float32.
        part: "unet".
        layers: whose weights and biases are trained.
        with_others: train also what no adapter stands beside, such as norms.
        dead: regular expressions of whole keys that nothing reads; they are not among the others.

    Raises:
        AdapterError: the weights are not float32, in which updates at usual rates would vanish.
    """
    if any(parameter.dtype != torch.float32 for parameter in model.parameters()):
        raise AdapterError("full fine-tuning needs the weights in float32. Set --dtype fp32.")
    chosen = {layer.path for layer in layers}
    adaptable = {layer.path for layer in adaptable_layers(model)}
    names = [
        name
        for name, _ in model.named_parameters()
        if (path := name.rpartition(".")[0]) in chosen
        or (
            with_others
            and path not in adaptable
            and not any(re.fullmatch(pattern, f"{part}.{path}") for pattern in dead)
        )
    ]
    return FullWeights(model, part, names)
