"""Notes on a drawing call: long or weighted prompts, settings of guidance without effect, and the safety checker."""

from __future__ import annotations

from collections.abc import Sequence

from detour.bases.base import Base
from detour.bases.words import WordVectors
from detour.generation.engine import Drawn, PictureEngine
from detour.generation.prompts import PromptReader, read_weights, reads_weights
from detour.specs.generation import GenerateSpec

NO_CHECKER = "has no safety checker"
"""Part of a note by which the command line knows it again."""


def _notes_on_prompts(engine: PictureEngine, spec: GenerateSpec, words: WordVectors) -> list[str]:
    """Sentences on prompts that are longer than the text encoder reads, or that have weights it does not read."""
    prompts = tuple(dict.fromkeys((*spec.prompts, spec.picture.negative_prompt)))
    if reads_weights(engine.base):
        reader = PromptReader(engine.text.knowing(words))
        windows = {prompt: reader.num_windows(prompt) for prompt in prompts}
        return [
            f"'{prompt[:60]}…' is longer than the text encoder reads at once (75 tokens); it was read in {num} windows."
            for prompt, num in windows.items()
            if num > 1
        ]
    title = engine.base.family.title
    notes = [
        f"'{prompt[:60]}…' is longer than a text encoder of {title} reads, which saw its beginning alone."
        for prompt in engine.text.too_long(prompts)
    ]
    if any(span.weight != 1 for prompt in prompts for span in read_weights(prompt)):
        notes.append(f"{title} reads no weights in prompts: brackets were read as they stand.")
    return notes


def _notes_on_guidance(base: Base, spec: GenerateSpec) -> list[str]:
    """Sentences on settings of guidance that have no effect on this base."""
    how = spec.picture
    if not base.embeds_guidance:
        scale = base.recommended_guidance if how.guidance_scale == "auto" else how.guidance_scale
        notes = []
        if how.true_guidance_scale != 1:
            notes.append(
                f"true_guidance_scale has no effect: base '{spec.base}' is told no guidance scale, and guidance_scale "
                "is its classifier-free guidance."
            )
        if how.negative_prompt and scale <= 1:
            notes.append(
                f"the negative prompt has no effect: guidance is {scale:g}. Raise --guidance above 1."
            )
        return notes
    if how.negative_prompt and how.true_guidance_scale <= 1:
        return [
            f"the negative prompt has no effect: base '{spec.base}' is told its guidance scale and makes one "
            "prediction. Pass --true-guidance above 1, which doubles the cost."
        ]
    return []


def notes_on_call(
    engine: PictureEngine, spec: GenerateSpec, batches: Sequence[Drawn], words: WordVectors
) -> tuple[str, ...]:
    """Collect the notes of a finished drawing call.

    Args:
        engine: that drew.
        spec: what was asked.
        batches: everything that was drawn with the adapters.
        words: new words of the adapters.
    """
    notes = [*_notes_on_prompts(engine, spec, words), *_notes_on_guidance(engine.base, spec)]
    if batches and batches[0].safety == "absent":
        notes.append(f"base '{spec.base}' {NO_CHECKER}; the pictures were not checked.")
    refused = sum(sum(drawn.nsfw or ()) for drawn in batches)
    if refused:
        notes.append(f"the base's safety checker refused {refused} of the pictures; they are black.")
    return tuple(notes)
