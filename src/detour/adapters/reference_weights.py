"""An IP-Adapter in training: a projection, and a second pair of keys and values beside each cross-attention.

Source: Ye et al. 2023, arXiv:2308.06721, section 3.2; keys and values start as the base's own, as in the authors' code.
"""

import contextlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from detour.adapters.adapter import Adapter
from detour.adapters.attach import Attached
from detour.adapters.reference_rows import adding, attend, by_heads, cross_attentions
from detour.errors import AdapterError

NUM_TOKENS = 4
"""Tokens a picture of the plain kind; diffusers' loader (0.42) takes no other number."""


class ReferenceWeights(Attached):
    """Trains the weights of an IP-Adapter behind the interface of an attached adapter.

    Attributes:
        projection: embedding of a picture → tokens.
    """

    starts_silent = False

    def __init__(self, network: nn.Module, part: str, projection: nn.Module) -> None:
        """Freeze the network and put keys and values beside each of its cross-attentions."""
        super().__init__(
            "reference", [], [(parameter, parameter.requires_grad) for parameter in network.parameters()]
        )
        for parameter in network.parameters():
            parameter.requires_grad_(False)
        self.projection = projection
        self._part = part
        self._tokens: Tensor | None = None
        self._stack = contextlib.ExitStack()
        self._pairs: dict[str, tuple[nn.Parameter, nn.Parameter]] = {}
        for path, module in cross_attentions(network).items():
            attention: Any = module
            key, value = (
                nn.Parameter(layer.weight.detach().float().clone())
                for layer in (attention.to_k, attention.to_v)
            )
            self._pairs[path] = (key, value)
            self._stack.enter_context(adding(module, self._adder(path, attention.heads)))

    def _adder(self, path: str, heads: int) -> Any:
        def add(queries: Tensor, mixed: Tensor) -> Tensor:
            tokens = self._tokens
            if tokens is None:
                return mixed
            key, value = (by_heads(functional.linear(tokens, one), heads) for one in self._pairs[path])
            return mixed + attend(queries, key.to(queries.dtype), value.to(queries.dtype), heads)

        return add

    @contextlib.contextmanager
    def showing(self, embeddings: Tensor) -> Iterator[None]:
        """Show each row of the forward passes inside the block a picture; outside the network is the base.

        Args:
            embeddings: (N, width) float32 of the rows' pictures, on the network's device; zero shows none.
        """
        self._tokens = self.projection(embeddings)
        try:
            yield
        finally:
            self._tokens = None

    @property
    def named_factors(self) -> dict[tuple[str, str], nn.Parameter]:
        """(key, "weight", "bias", "to_k_ip" or "to_v_ip") → the live parameter."""
        found = {
            (f"{self._part}.image_proj.{name.rpartition('.')[0]}", name.rpartition(".")[2]): parameter
            for name, parameter in self.projection.named_parameters()
        }
        for path, (key, value) in self._pairs.items():
            found[f"{self._part}.{path}", "to_k_ip"] = key
            found[f"{self._part}.{path}", "to_v_ip"] = value
        return found

    def tensors(self) -> dict[str, Tensor]:
        """A copy of everything under the names of IP-Adapter files, float32 on the CPU."""
        found = {
            f"image_proj.{name.replace('image_embeds', 'proj')}": parameter
            for name, parameter in self.projection.named_parameters()
        }
        for index, (key, value) in enumerate(self._pairs.values()):
            found[f"ip_adapter.{2 * index + 1}.to_k_ip.weight"] = key
            found[f"ip_adapter.{2 * index + 1}.to_v_ip.weight"] = value
        # Parameters are views of the optimizer's buffer.
        return {name: parameter.detach().cpu().float().clone() for name, parameter in found.items()}

    @torch.no_grad()
    def load_weights(
        self, projection: Mapping[str, Tensor], keys: Sequence[Tensor], values: Sequence[Tensor]
    ) -> None:
        """Put the weights of an IP-Adapter into those that are trained, in place.

        Args:
            projection: state of diffusers' ``ImageProjection``.
            keys: (hidden, text width) of each cross-attention, in the order of IP-Adapter files.
            values: as ``keys``.

        Raises:
            AdapterError: other shapes, or another number of cross-attentions.
        """
        names = [name for name, _ in self.projection.named_parameters()]
        trained = [*self.projection.parameters(), *itertools.chain.from_iterable(self._pairs.values())]
        given = [projection[name] for name in names if name in projection]
        given += itertools.chain.from_iterable(zip(keys, values, strict=True))
        if [parameter.shape for parameter in trained] != [tensor.shape for tensor in given]:
            raise AdapterError(
                "its projection, keys or values have other shapes than those that are trained."
            )
        for parameter, tensor in zip(trained, given, strict=True):
            parameter.copy_(tensor)

    def to_adapter(self, metadata: Mapping[str, str] | None = None) -> Adapter:  # noqa: ARG002
        """Never: it changes no layer of the base.

        Raises:
            AdapterError: always.
        """
        raise AdapterError("an IP-Adapter has no layers beside the base's. Use the file that it wrote.")

    @contextlib.contextmanager
    def disabled(self) -> Iterator[None]:
        """Show no picture inside the block: the network is the base."""
        before, self._tokens = self._tokens, None
        try:
            yield
        finally:
            self._tokens = before

    def detach(self) -> None:
        """Take it away; the network is the base again."""
        self._stack.close()
        for parameter, requires_grad in self._frozen:
            parameter.requires_grad_(requires_grad)


def attach_reference(network: nn.Module, part: str, *, encoder_width: int, seed: int) -> ReferenceWeights:
    """Put a fresh IP-Adapter of the plain kind beside a UNet.

    Args:
        network: a diffusers UNet, whose keys and values are no fewer than 16 bits.
        part: "unet".
        encoder_width: of the image encoder's embeddings.
        seed: of the projection's start; nothing else is random.

    Raises:
        AdapterError: the network has no cross-attention.
    """
    from diffusers.models.embeddings import ImageProjection

    places = cross_attentions(network)
    if not places:
        raise AdapterError(
            "the network has no cross-attention, which an IP-Adapter stands beside. Use a UNet."
        )
    first: Any = next(iter(places.values()))
    device, width = first.to_k.weight.device, int(first.to_k.weight.shape[1])
    with torch.random.fork_rng(devices=[]):
        projection: Any = ImageProjection(
            image_embed_dim=encoder_width, cross_attention_dim=width, num_image_text_embeds=NUM_TOKENS
        )
    bound = 1 / math.sqrt(encoder_width)
    generator = torch.Generator().manual_seed(seed)
    for parameter in projection.image_embeds.parameters():
        start = torch.rand(parameter.shape, generator=generator)
        parameter.data.copy_((2 * start - 1) * bound)
    return ReferenceWeights(network, part, projection.to(device, torch.float32))
