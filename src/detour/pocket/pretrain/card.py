"""The model card of the embedded base, written from its measured figures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open

from detour.pocket.pretrain.parts import SIZE_PX
from detour.pocket.world import HELD_OUT, VOCABULARY


def number_of_parameters(weights: Path) -> int:
    """Elements in a safetensors file, read from its header."""
    with safe_open(weights, framework="np") as file:
        shapes = [file.get_slice(key).get_shape() for key in file.keys()]  # noqa: SIM118
    total = 0
    for shape in shapes:
        elements = 1
        for length in shape:
            elements *= length
        total += elements
    return total


def percent(share: float) -> str:
    """A share as per cent with one decimal."""
    return f"{100 * share:.1f} %"


def accuracy_rows(table: Mapping[str, Mapping[str, float]]) -> str:
    """A table of the judge's accuracy on true renders, one row for each kind of style."""
    lines = ["| true renders in | object | colour | place |", "|---|---|---|---|"]
    for name, row in table.items():
        cells = " | ".join(percent(row[slot]) for slot in ("object", "colour", "place"))
        lines.append(f"| {name} | {cells} |")
    return "\n".join(lines)


def trial_rows(trials: Mapping[str, Mapping[str, float]]) -> str:
    """A table of the accuracy at each guidance scale that was tried; empty where none was."""
    lines = ["| guidance | object | colour | place |", "|---|---|---|---|"]
    for scale, row in trials.items():
        cells = " | ".join(percent(row[slot]) for slot in ("object", "colour", "place"))
        lines.append(f"| {scale} | {cells} |")
    return "\n".join(lines) if trials else ""


def part_rows(base: Path) -> str:
    """A table of the parts, their parameters and the size of their files."""
    lines = ["| part | parameters | file |", "|---|---|---|"]
    for weights in sorted(base.glob("*/*.safetensors")):
        mib = weights.stat().st_size / 2**20
        lines.append(f"| `{weights.parent.name}` | {number_of_parameters(weights):,} | {mib:.1f} MiB |")
    return "\n".join(lines)


def model_card(figures: Mapping[str, Any], *, base: Path) -> str:
    """README.md of the base's folder.

    Args:
        figures: what :func:`detour.pocket.pretrain.measuring.measure` returned.
        base: the folder, for the sizes of its parts.
    """
    made = figures["judge_on_generated"]
    vae = figures["vae"]
    return f"""---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
tags: [stable-diffusion, text-to-image, tiny, lora-base]
---

# pocket

A whole Stable Diffusion that fits in a package: the parts, the file layout and the schedule of SD 1.5 at an
eightieth of its size, trained from nothing on pictures that this repository draws itself. It exists so that
fine-tuning can be tried, tested and understood on a laptop, in minutes, without a download.

```python
from diffusers import StableDiffusionPipeline

pipeline = StableDiffusionPipeline.from_pretrained("src/detour/pocket/weights")
pipeline("a red house in the desert", num_inference_steps={figures["steps"]},
         guidance_scale={figures["recommended_guidance"]:g}).images[0]
```

{SIZE_PX} × {SIZE_PX} px. Recommended guidance: **{figures["recommended_guidance"]:g}** with
{figures["steps"]} steps of DPM++ 2M.

{part_rows(base)}

## What it knows

{len(VOCABULARY.objects)} objects ({", ".join(VOCABULARY.objects)}) in {len(VOCABULARY.colours)} colours
({", ".join(VOCABULARY.colours)}) and {len(VOCABULARY.places)} places ({", ".join(VOCABULARY.places)}), one or
two of them ({", ".join(VOCABULARY.relations)}), under several skies. A prompt without style words gives the
plain house style; words such as "thick outlines", "pastel colours" or "grainy" move through a style space.

## What it has never seen

The styles {", ".join(HELD_OUT.styles)} with the part of the style space around them, the subjects
{", ".join(sorted(HELD_OUT.subjects))}, and {len(HELD_OUT.combinations)} of the object × colour × place
combinations. The lists are data in `world/held_out.json`; a test proves that the training stream never draws
them. They are what adapters learn, and what held-out evaluation asks for. No such name or combination was in
its captions.

## Measured

`python -m detour.pocket.pretrain.measuring` prints these figures and writes this card.

- **Generated for held-out combinations** ({made["pictures"]} pictures, judged against all alternatives):
  object {percent(made["object"])}, colour {percent(made["colour"])}, place {percent(made["place"])}.
- **VAE** on held-out renders: mean absolute error {vae["mean_abs_error_255"]:.2f} of 255, PSNR
  {vae["psnr_db"]:.1f} dB.
- **Time**: {figures["seconds_a_picture"]:.2f} s for one picture at {figures["steps"]} steps with
  {figures["threads"]} CPU thread(s), float32, guidance included.

The judge (a CLIP pair whose text tower is the base's text encoder) on true renders of held-out combinations.
It has not seen the held-out styles either: their rows are the ceilings that falls are counted against.

{accuracy_rows(figures["judge_on_true_renders"])}

The guidance was chosen on a quarter of the pictures (the lower one where two are equal):

{trial_rows(figures["guidance_trials"])}

## Limits

It draws its own small world and nothing else: no photographs, no people, no words. Fine texture is lost in the
eight-fold VAE. Words that it does not know have states of their own (made-up words were put into a part of the
captions), so that a trigger word is free to be given a meaning.

## How it was made

`python -m detour.pocket.pretrain --work build/pocket` makes all of it from seed 1: tokenizer, pictures, text
tower (200 steps of 192 captions), CLIP pair (165 of 128), VAE (1,900 of 16 crops), UNet (1,980 of 64 latents:
noise prediction, min-SNR-5, 10 % empty captions, averaged weights), picture tower (1,500 of 64), decoder alone
(1,420 of 4 frames). Muon for matrices and convolutions, AdamW for the rest, bfloat16 autocast. It took two hours
on two shared CPU cores; the UNet and the decoder saw the first 10,240 pictures and their mirror images, the CLIP
pair 24,576, and stages were stopped and taken up again, so another run gives like figures and not these bytes.

## How to continue

```
python -m detour.pocket.pretrain --init shipped --work build/continued --steps 2000 \\
    --stage tokenizer --stage pictures --stage texts --stage latents --stage unet --stage assemble
python -m detour.pocket.pretrain.measuring
```

goes on from these weights with a fresh optimizer. Where the work folder of the first training is still there,
`--stage unet --steps N` with a larger N than before takes up its full state instead.
"""
