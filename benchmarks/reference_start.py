"""First weights of an IP-Adapter for the embedded base, without a step of training: two least-squares problems.

Tokens of a picture are the text states of the words that describe it, as far as they are linear in its embedding. Keys
are the base's own. Values of each head are those with which a text that says the place alone, and the picture, give
what the base's attention gives for the text that says everything.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from detour.adapter_files.reference_files import write_reference_adapter
from detour.adapters.reference_rows import attend, by_heads, cross_attentions
from detour.bases.base import Base
from detour.bases.denoiser import make_denoiser
from detour.bases.image_encoder import ImageEncoder
from detour.bases.latents import encode_pictures, to_pixels
from detour.pocket.world import place_phrase, style_words
from detour.pocket.world.stream import Example

SAID = (0, 2, 3, 24)
"""Positions of ``a red house, thick outlines, …`` whose states tokens begin as: the start, colour, object, padding.

The start of a text is where attention goes that finds nothing: the second attention has to have such a place too.
Padding comes after everything, so that its state is of the whole caption, with all words of the style.
"""
VALUES_OF = 128
"""Pictures that the values are fitted to; each gives a sample at every position of every attention."""
BATCH = 8
RIDGE = 1e-2
"""Of the mean square of the inputs."""


def everything(example: Example, *, place: bool) -> str:
    """A caption that says colour, object, all words of the style, and the place where asked for."""
    (thing,) = example.scene.things
    subject = f"a {thing.colour} {thing.kind}"
    subject = f"{subject} {place_phrase(example.scene.place)}" if place else subject
    return ", ".join([subject, *style_words(example.style)])


def solve(square: Tensor, product: Tensor) -> Tensor:
    """Ridge regression from its normal equations: (in, in), (in, out) → (in, out)."""
    ridge = RIDGE * square.diagonal().mean() * torch.eye(len(square))
    return torch.linalg.solve(square + ridge, product)


@dataclass
class Head:
    """Normal equations of the values of all heads of one cross-attention.

    Attributes:
        square: (heads, text width, text width).
        product: (heads, text width, head width).
        wanted: sum of squares of what is wanted.
    """

    square: Tensor | None = None
    product: Tensor | None = None
    wanted: float = 0.0

    def add(self, inputs: Tensor, wanted: Tensor) -> None:
        """Add samples: (N, heads, L, text width) and (N, heads, L, head width)."""
        x, y = (each.transpose(0, 1).flatten(1, 2) for each in (inputs, wanted))
        square, product = x.transpose(1, 2) @ x, x.transpose(1, 2) @ y
        self.square = square if self.square is None else self.square + square
        self.product = product if self.product is None else self.product + product
        self.wanted += float(y.square().sum())

    def values(self) -> tuple[Tensor, float]:
        """(heads · head width, text width), and the share of what is wanted that they explain."""
        assert self.square is not None
        assert self.product is not None
        solved = torch.stack([solve(a, b) for a, b in zip(self.square, self.product, strict=True)])
        left = self.wanted - 2 * (solved * self.product).sum() + (solved * (self.square @ solved)).sum()
        return solved.transpose(1, 2).flatten(0, 1).contiguous(), 1 - float(left) / self.wanted


@dataclass
class Recorded:
    """What one forward pass left of each cross-attention: queries, and mixed values before the output projection."""

    queries: dict[str, Tensor] = field(default_factory=dict)
    mixed: dict[str, Tensor] = field(default_factory=dict)

    def watch(self, attentions: dict[str, nn.Module]) -> list[Any]:
        """Record every forward pass; the handles end it."""
        handles = []
        for path, module in attentions.items():
            attention: Any = module
            handles.append(
                attention.to_q.register_forward_hook(
                    lambda _, __, out, path=path: self.queries.update({path: out})
                )
            )
            handles.append(
                attention.to_out[0].register_forward_pre_hook(
                    lambda _, given, path=path: self.mixed.update({path: given[0]})
                )
            )
        return handles


def project(embeddings: Tensor, states: Tensor) -> dict[str, Tensor]:
    """Weights of a projection from embeddings (N, E) to states (N, tokens, width), normalised as they are."""
    inputs = torch.cat([embeddings - embeddings.mean(0), torch.ones(len(embeddings), 1)], dim=1)
    solved = solve(inputs.T @ inputs, inputs.T @ states.flatten(1))
    made = (inputs @ solved).view_as(states)
    normed = nn.functional.layer_norm(made, states.shape[-1:])
    gain = (normed * states).sum((0, 1)) / normed.square().sum((0, 1))
    spread = (states - states.mean(0)).square().sum()
    print(
        f"tokens: {1 - float((made - states).square().sum() / spread):.1%} of the states explained",
        flush=True,
    )
    return {
        "proj.weight": solved[:-1].T.contiguous(),
        "proj.bias": solved[-1] - embeddings.mean(0) @ solved[:-1],
        "norm.weight": gain,
        "norm.bias": (states - gain * normed).mean((0, 1)),
    }


def _read(attention: Any, queries: Tensor, tokens: Tensor) -> Tensor:
    """Mean of the tokens (N, T, width) by the weight that each query gives them: (N, heads, L, width)."""
    keys = by_heads(attention.to_k(tokens), attention.heads)
    scores = by_heads(queries, attention.heads) @ keys.transpose(2, 3) / keys.shape[-1] ** 0.5
    return scores.softmax(-1) @ tokens[:, None]


@torch.no_grad()
def write_first_weights(
    file: Path, base: Base, encoder: ImageEncoder, shown: Sequence[tuple[Example, np.ndarray]], *, seed: int
) -> Path:
    """Write an IP-Adapter to start at; a file that is there stays.

    Args:
        file: ends in ``.safetensors``.
        base: the embedded one.
        encoder: of pictures.
        shown: examples of one thing, and their pictures, uint8 (H, W, 3).
        seed: of noise and times.
    """
    if file.is_file():
        return file
    text, vae, network = base.load_text(), base.load_vae(), base.load_network()
    denoiser = make_denoiser(base, network, device="cpu", dtype=torch.float32)
    pictures = np.stack([picture for _, picture in shown])
    embeddings = torch.cat([encoder.with_none(one, pooled=True)[1:] for one in pictures])
    states = torch.stack(
        [text.encode([everything(one, place=False)]).states[0, list(SAID)] for one, _ in shown]
    )
    # No picture is an embedding of zeros: all of its tokens are the start of a text, and nothing is to be added for it.
    zeros = torch.zeros(max(len(shown) // 8, 1), embeddings.shape[1])
    nothing = states[:1, :1].expand(len(zeros), len(SAID), -1)
    projection = project(torch.cat([embeddings, zeros]), torch.cat([states, nothing]))
    embeddings = torch.cat([embeddings, zeros[:BATCH]])
    tokens = nn.functional.linear(embeddings, projection["proj.weight"], projection["proj.bias"])
    tokens = nn.functional.layer_norm(
        tokens.unflatten(-1, (len(SAID), -1)),
        states.shape[-1:],
        projection["norm.weight"],
        projection["norm.bias"],
    )
    attentions, recorded = cross_attentions(network), Recorded()
    heads = {path: Head() for path in attentions}
    handles = recorded.watch(attentions)
    generator = torch.Generator().manual_seed(seed)
    for start in range(0, min(len(shown), VALUES_OF) - BATCH + 1, BATCH):
        rows = slice(start, start + BATCH)
        means, _ = encode_pictures(vae, to_pixels(pictures[rows]))
        noise = torch.randn(means.shape, generator=generator)
        times = torch.randint(250, 1000, (BATCH,), generator=generator)
        full = text.encode([everything(one, place=True) for one, _ in shown[rows]])
        little = text.encode([place_phrase(one.scene.place) for one, _ in shown[rows]])
        denoiser.predict(denoiser.process.mix(means, noise, times), times, full)
        for path, module in attentions.items():
            attention: Any = module
            queries = recorded.queries[path]
            of_little = attend(
                queries,
                by_heads(attention.to_k(little.states), attention.heads),
                by_heads(attention.to_v(little.states), attention.heads),
                attention.heads,
            )
            wanted = by_heads(recorded.mixed[path] - of_little, attention.heads)
            heads[path].add(_read(attention, queries, tokens[rows]), wanted)
            heads[path].add(_read(attention, queries[:1], tokens[-1:]), 0 * wanted[:1])
    for handle in handles:
        handle.remove()
    tensors = {f"image_proj.{name}": tensor for name, tensor in projection.items()}
    for number, (path, module) in enumerate(attentions.items()):
        attention = module
        values, explained = heads[path].values()
        print(f"{path}: {explained:.1%} of the difference explained", flush=True)
        tensors[f"ip_adapter.{2 * number + 1}.to_k_ip.weight"] = attention.to_k.weight.detach().clone()
        tensors[f"ip_adapter.{2 * number + 1}.to_v_ip.weight"] = values
    return write_reference_adapter(file, tensors, {"format": "pt", "detour.kind": "ip-adapter"})
