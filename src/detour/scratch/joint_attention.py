"""How words and picture read each other in SD 3 and Flux: one attention over both, with weights of its own for each.

In a UNet the picture asks the words and the words ask nobody. Here both are rows of one sequence: every place asks all
places and all words, and so does every word. Only the projections differ, so each stream keeps its own language.
"""

import math

import torch
from torch import Tensor, nn


class JointAttention(nn.Module):
    """Multi-head attention of two streams with the parameter names that SD 3's files use.

    Each of the eight linear layers is a place for an adapter: those of the picture are ``to_q``, ``to_k``, ``to_v`` and
    ``to_out.0``, those of the text ``add_q_proj``, ``add_k_proj``, ``add_v_proj`` and ``to_add_out``. In the last block
    nothing reads what the text becomes, so that its queries are never used: ``add_q_proj`` is dead there.

    Source: Esser et al. 2024, arXiv:2403.03206, section 4; norms of queries and keys: SD 3.5.
    """

    def __init__(self, width: int, *, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width) for _ in range(3))
        self.add_q_proj, self.add_k_proj, self.add_v_proj = (nn.Linear(width, width) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(width, width)])
        self.to_add_out = nn.Linear(width, width)
        self.norm_q, self.norm_k = (nn.RMSNorm(width // heads, eps=1e-6) for _ in range(2))
        self.norm_added_q, self.norm_added_k = (nn.RMSNorm(width // heads, eps=1e-6) for _ in range(2))

    def forward(self, picture: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """What each place and each word takes from all of them.

        Args:
            picture: (N, places, width); a picture of 1024 px has 4,096 places of 2×2 latents.
            text: (N, words, width).

        Returns:
            (N, places, width) and (N, words, width).
        """
        # Norms bring each head's queries and keys to a root mean square of one: large ones would drown the others.
        q = [
            self.norm_q(self._split(self.to_q(picture))),
            self.norm_added_q(self._split(self.add_q_proj(text))),
        ]
        k = [
            self.norm_k(self._split(self.to_k(picture))),
            self.norm_added_k(self._split(self.add_k_proj(text))),
        ]
        v = [self._split(self.to_v(picture)), self._split(self.add_v_proj(text))]
        mixed = self._mixed(torch.cat(q, 2), torch.cat(k, 2), torch.cat(v, 2))
        places = picture.shape[1]
        return self.to_out[0](mixed[:, :places]), self.to_add_out(mixed[:, places:])

    def _mixed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(N, heads, L, width / heads) each → (N, L, width): every row takes from every row."""
        weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(dim=-1)
        return (weights @ v).transpose(1, 2).flatten(2)

    def _split(self, vectors: Tensor) -> Tensor:
        """(N, L, width) → (N, heads, L, width / heads)."""
        return vectors.unflatten(-1, (self.heads, -1)).transpose(1, 2)
