"""The model card of pocket-flow, written from its measured figures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detour.pocket.pretrain.card import accuracy_rows, part_rows, percent, trial_rows
from detour.pocket.pretrain.flow.parts import LATENT_CHANNELS, SCHEDULE, T5_TOKENS, TEXT_TOKENS
from detour.pocket.pretrain.parts import SIZE_PX
from detour.pocket.world import HELD_OUT


def _accuracy(row: Mapping[str, float]) -> str:
    return f"object {percent(row['object'])}, colour {percent(row['colour'])}, place {percent(row['place'])}"


def model_card(figures: Mapping[str, Any], *, base: Path) -> str:
    """README.md of the base's folder.

    Args:
        figures: what :func:`detour.pocket.pretrain.flow.measure.measure_flow` returned.
        base: the folder, for the sizes of its parts.
    """
    made, vae, default = figures["judge_on_generated"], figures["vae"], figures["with_t5_zeros"]
    guidance, steps = figures["recommended_guidance"], figures["steps"]
    return f"""---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
tags: [stable-diffusion-3, flow-matching, text-to-image, tiny, lora-base]
---

# pocket-flow

A flow-matching transformer that fits in a package: the parts, the file layout and the objective of Stable
Diffusion 3 at some four-hundredth of its size, trained from nothing on pictures that this repository draws itself.
It is `pocket`'s sister: the same drawn world, captions and held-out lists, another kind of model.

```python
from diffusers import StableDiffusion3Pipeline

pipeline = StableDiffusion3Pipeline.from_pretrained(FOLDER, text_encoder_3=None, tokenizer_3=None)
pipeline("a red house in the desert", num_inference_steps={steps}, guidance_scale={guidance:g},
         max_sequence_length=0).images[0]
```

{SIZE_PX} × {SIZE_PX} px. Recommended guidance: **{guidance:g}** with {steps} Euler steps at shift
{SCHEDULE["shift"]:g}. There is no T5. Where it is absent the pipeline appends {T5_TOKENS} states of zeros;
`max_sequence_length=0` appends none and draws faster. The base was trained with both, at equal odds; detour appends
none, because `model_index.json` says so (`_zero_states`).

{part_rows(base)}

The VAE is f8 with {LATENT_CHANNELS} channels; latents are `(x − shift_factor) · scaling_factor` as its config
says. The first text tower is pocket's; the second is narrower, deeper and pads with "!". Both read
{TEXT_TOKENS} tokens; their penultimate states are joined and padded with zeros, their projections are joined to
the pooled vector.

## What it has never seen

The styles {", ".join(HELD_OUT.styles)} with the part of the style space around them, the subjects
{", ".join(sorted(HELD_OUT.subjects))}, and {len(HELD_OUT.combinations)} of the object × colour × place
combinations. The lists are data in `world/held_out.json`.

## Measured

`python -m detour.pocket.pretrain.flow.measure` prints these figures and writes this card.

- **Generated for held-out combinations** ({made["pictures"]} pictures, judged against all alternatives):
  {_accuracy(made)}.
- **With the pipeline's {T5_TOKENS} zero states** ({default["pictures"]} pictures): {_accuracy(default)}.
- **VAE** on held-out renders: mean absolute error {vae["mean_abs_error_255"]:.2f} of 255, PSNR
  {vae["psnr_db"]:.1f} dB.
- **Time**: {figures["seconds_a_picture"]:.2f} s for one picture at {steps} steps with
  {figures["threads"]} CPU thread(s), float32, guidance included; {default["seconds_a_picture"]:.2f} s with the
  zero states.

The judge is pocket's CLIP pair, whose text tower is the first text encoder here. On true renders of held-out
combinations:

{accuracy_rows(figures["judge_on_true_renders"])}

The guidance was chosen on a quarter of the pictures (the lower one where two are equal):

{trial_rows(figures["guidance_trials"])}

## Limits

It draws its own small world and nothing else: no photographs, no people, no words.

## How it is made

`python -m detour.pocket.pretrain.flow --work build/pocket-flow` makes all of it from seed 1: second text tower
(captions only), VAE (grown from pocket's four channels), transformer (rectified flow: raw velocity, logit-normal
times with mean 0 and deviation 1, 10 % empty captions, averaged weights), decoder alone. AdamW for the
transformer; elsewhere Muon for matrices and convolutions, AdamW for the rest. Every stage can be stopped and
taken up again; a larger `--steps` goes on.
"""
