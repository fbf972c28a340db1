"""How words and picture reach each other in Stable Diffusion 3: they sit in one row, and all ask all.

A UNet's picture asks the words (``attn2``) and the words never change. Here both have layers of their own up to the
queries, keys and values, then attend together, then part again: so the words are read anew in every block, in view of
the picture. The last block has no use for its words and drops them after attention.
"""

import math

import torch
from torch import Tensor, nn


class RootMeanSquareNorm(nn.Module):
    """Gives every vector of a head the length √d and then scales its elements, so that no product grows too large.

    Source: Zhang and Sennrich 2019, arXiv:1910.07467, equation 4; on queries and keys Esser et al. 2024, section 5.3.2.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, vectors: Tensor) -> Tensor:
        """(…, width) → same shape."""
        return vectors * (vectors.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * self.weight


class JointAttention(nn.Module):
    """Multi-head joint attention with the parameter names that Stable Diffusion 3.5 files use.

    ``to_q``, ``to_k``, ``to_v`` and ``to_out.0`` belong to the picture, ``add_q_proj``, ``add_k_proj``, ``add_v_proj``
    and ``to_add_out`` to the words: eight places for an adapter. In the last block there is no ``to_add_out``, and
    since nobody reads what the words asked for, an adapter on its ``add_q_proj`` never learns.

    Source: Esser et al. 2024, arXiv:2403.03206, figure 2.
    """

    def __init__(self, width: int, *, heads: int, is_last: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(width, width)])
        self.add_q_proj, self.add_k_proj, self.add_v_proj = (nn.Linear(width, width) for _ in range(3))
        self.to_add_out = None if is_last else nn.Linear(width, width)
        self.norm_q, self.norm_k = (RootMeanSquareNorm(width // heads) for _ in range(2))
        self.norm_added_q, self.norm_added_k = (RootMeanSquareNorm(width // heads) for _ in range(2))

    def forward(self, picture: Tensor, words: Tensor) -> tuple[Tensor, Tensor | None]:
        """What picture and words take from each other.

        Args:
            picture: (N, patches, width); a latent of 128 × 128 has 4,096 patches of 2 × 2.
            words: (N, words, width), after the text was brought to the picture's width.

        Returns:
            (N, patches, width), and (N, words, width) except in the last block.
        """
        q = self.norm_q(self._split(self.to_q(picture)))
        k = self.norm_k(self._split(self.to_k(picture)))
        v = self._split(self.to_v(picture))
        # One row: the words' vectors stand behind the picture's.
        q = torch.cat([q, self.norm_added_q(self._split(self.add_q_proj(words)))], dim=2)
        k = torch.cat([k, self.norm_added_k(self._split(self.add_k_proj(words)))], dim=2)
        v = torch.cat([v, self._split(self.add_v_proj(words))], dim=2)
        weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(dim=-1)
        mixed = (weights @ v).transpose(1, 2).flatten(2)
        seen, said = mixed.split([picture.shape[1], words.shape[1]], dim=1)
        return self.to_out[0](seen), None if self.to_add_out is None else self.to_add_out(said)

    def _split(self, vectors: Tensor) -> Tensor:
        """(N, L, width) → (N, heads, L, width / heads): each head looks at its own part of the width."""
        return vectors.unflatten(-1, (self.heads, -1)).transpose(1, 2)
