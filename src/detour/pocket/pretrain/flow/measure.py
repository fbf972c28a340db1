"""Measures pocket-flow: ``python -m detour.pocket.pretrain.flow.measure``.

The same as for pocket: how well the VAE gives back pictures it never saw, how surely the judge reads true
renders, what it reads in pictures generated for combinations that were never shown, and how long a picture
takes on one core. Pictures are drawn without zero states in T5's place; a quarter of them also with the 256
that the pipeline appends by default.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusion3Pipeline

from detour.evaluation.judge import Judge
from detour.pocket.pretrain.flow.__main__ import PACKAGE
from detour.pocket.pretrain.flow.card import model_card
from detour.pocket.pretrain.flow.parts import T5_TOKENS
from detour.pocket.pretrain.measuring import (
    PROMPT_SEED,
    WORDS,
    arguments_of,
    facts_of,
    generate,
    measure,
    phrase,
    seconds_a_picture,
    show,
)
from detour.pocket.world import held_out_prompts


class Drawing:
    """The base as diffusers opens it, in float32 and without T5, drawing with one number of zero states."""

    def __init__(self, folder: Path, *, num_t5: int) -> None:
        self._pipeline = StableDiffusion3Pipeline.from_pretrained(
            folder, text_encoder_3=None, tokenizer_3=None, torch_dtype=torch.float32
        )
        self._pipeline.set_progress_bar_config(disable=True)
        self._num_t5 = num_t5
        self.vae: AutoencoderKL = self._pipeline.vae

    def __call__(self, prompt: list[str], **settings: Any) -> Any:
        """Draw pictures as the diffusers pipeline returns them."""
        return self._pipeline(prompt, max_sequence_length=self._num_t5, **settings)


def measure_flow(folder: Path, **chosen: Any) -> dict[str, Any]:
    """Measure everything that ``measured.json`` holds: pocket's figures, and those at the pipeline's default length.

    Args:
        folder: the base.
        chosen: what :func:`detour.pocket.pretrain.measuring.measure` takes.
    """
    figures = measure(folder, pipeline=Drawing(folder, num_t5=0), **chosen)
    few, guidance = max(1, chosen["count"] // 4), figures["recommended_guidance"]
    asked, default = held_out_prompts(few, seed=PROMPT_SEED), Drawing(folder, num_t5=T5_TOKENS)
    pictures = generate(default, [p.prompt for p in asked], guidance_scale=guidance)
    judge = Judge.load(folder / "judge")
    read = judge.prompt_accuracy(pictures, [facts_of(p) for p in asked], WORDS, phrase)
    seconds = seconds_a_picture(default, guidance_scale=guidance)
    return {**figures, "with_t5_zeros": {"pictures": few, "seconds_a_picture": seconds, **read}}


def main() -> None:
    """Reads the command line, measures, prints, and writes ``measured.json`` and the card."""
    arguments = arguments_of(
        prog="python -m detour.pocket.pretrain.flow.measure",
        description=__doc__,
        base=PACKAGE / "weights_flow",
    )
    figures = measure_flow(
        arguments.base,
        count=arguments.count,
        true_count=arguments.true_count,
        guidance_scales=arguments.guidance,
        sheet_path=arguments.sheet,
    )
    show(figures, arguments, model_card)


if __name__ == "__main__":
    main()
