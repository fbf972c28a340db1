"""How words reach the picture: every place of the picture asks all words, and mixes what they answer.

In self-attention (``attn1``) the places of the picture ask each other; in cross-attention (``attn2``) they ask the
text. The only difference is where the keys and values come from.
"""

import math

from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head attention with the parameter names that Stable Diffusion files use.

    Each of the four linear layers is a place for an adapter: ``to_q`` and ``to_out.0`` have the width of the picture,
    ``to_k`` and ``to_v`` read the width of the text. Only ``to_out.0`` has a bias.

    Source: Vaswani et al. 2017, arXiv:1706.03762, equation 1; in diffusion Rombach et al. 2022, arXiv:2112.10752.
    """

    def __init__(self, width: int, context_width: int, *, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context_width, width, bias=False)
        self.to_v = nn.Linear(context_width, width, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, picture: Tensor, context: Tensor | None = None) -> Tensor:
        """What each place takes from the words.

        Args:
            picture: (N, places, width); a latent of 64 × 64 has 4,096 places.
            context: (N, words, context_width), 77 words in SD; without it the picture asks itself.

        Returns:
            (N, places, width).
        """
        return self.to_out[0](self._mixed(picture, picture if context is None else context))

    def weights(self, picture: Tensor, context: Tensor) -> Tensor:
        """(N, heads, places, words): how much each place listens to each word; every row sums to one.

        Seen as a picture, one word's column says where in the picture the word went.
        """
        q, k = self._split(self.to_q(picture)), self._split(self.to_k(context))
        # Without the root, long vectors make large products, and softmax would hear one word alone.
        return (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(dim=-1)

    def _mixed(self, picture: Tensor, context: Tensor) -> Tensor:
        v = self._split(self.to_v(context))
        mixed = self.weights(picture, context) @ v
        return mixed.transpose(1, 2).flatten(2)

    def _split(self, vectors: Tensor) -> Tensor:
        """(N, L, width) → (N, heads, L, width / heads): each head looks at its own part of the width."""
        return vectors.unflatten(-1, (self.heads, -1)).transpose(1, 2)
