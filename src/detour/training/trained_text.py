"""Text encoders that train beside the UNet: they stay loaded, run in every step, and hand gradients on."""

from collections.abc import Sequence

import torch

from detour.bases.text import Conditioning, TextStage


class TrainedText:
    """A :class:`detour.training.cache.TextSource` that asks the encoders anew each time.

    For finished pictures it reads like the stage itself.
    """

    def __init__(self, stage: TextStage) -> None:
        self.stage = stage

    def conditioning(self, captions: Sequence[str | None]) -> Conditioning:
        """States of the captions in order, with a graph; ``None`` is the family's unconditional text.

        Where that is the empty prompt, it is encoded with the adapter as it stands and hands gradients on like any
        other caption; where it is zeros, nothing flows. Each distinct caption is encoded once.
        """
        texts = ["" if caption is None else caption for caption in captions]
        distinct = list(dict.fromkeys(texts))
        first = next(next(iter(self.stage.models.values())).parameters())
        with torch.autocast(first.device.type, first.dtype, enabled=first.dtype != torch.float32):
            states = self.stage.encode_together(distinct)
        picked = states.select([distinct.index(text) for text in texts])
        if self.stage.family.uncond == "zeros" and None in captions:
            return _emptied(picked, [caption is None for caption in captions])
        return picked

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Encode prompts with the encoders in training, as :meth:`TextStage.encode` does."""
        return self.stage.encode(prompts)

    def unconditional(self, num: int) -> Conditioning:
        """Encode the unconditional text, as :meth:`TextStage.unconditional` does."""
        return self.stage.unconditional(num)


def _emptied(states: Conditioning, empty: Sequence[bool]) -> Conditioning:
    """Zeros in the rows that are marked."""
    kept = (~torch.tensor(list(empty), device=states.states.device)).to(states.states.dtype)
    pooled = None if states.pooled is None else states.pooled * kept[:, None]
    return Conditioning(states.states * kept[:, None, None], pooled)
