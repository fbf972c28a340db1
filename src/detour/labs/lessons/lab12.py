# %% [markdown]
# # Lab 12. Classifier-free guidance
#
# **What you will see.** A model that keeps a prompt loosely keeps it well when it is asked twice, with the prompt and
# without it, and the difference is exaggerated. You write that step, put it into a sampling loop of twelve lines and
# get the picture that diffusers' own pipeline draws. Then you see what makes the second question possible (captions
# left out in training), and what each guidance scale from 1 to 20 gives and costs.
#
# Seeds: `SEED` draws the start noise, the pictures of the measurements and the captions that are left out.

# %%
BASE = "pocket"  # the one line to change, e.g. to "stable-diffusion-v1-5/stable-diffusion-v1-5"
SEED = 12

# %%
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image

from detour.bases.base import open_base
from detour.bases.hardware import pick_device, set_threads
from detour.bases.latents import decode_latents, encode_pictures, to_pixels
from detour.diffusion.randomness import chance_for
from detour.diffusion.schedule import add_noise, alphas_cumprod
from detour.evaluation.judge import judge_of
from detour.generation.grids import grid
from detour.generation.schedulers import make_scheduler
from detour.labs import check, compare_with, predict, show
from detour.specs import PictureSpec
from detour.specs.studies import StudySpec
from detour.verbs.studies.guidance import study_guidance

set_threads(1)  # sums are split by the number of threads: another count rounds differently
torch.set_grad_enabled(False)
DEVICE = pick_device()

base = open_base(BASE)
PROMPTS = ["a red house in the desert", "a blue boat on the beach"]

# %% [markdown]
# ## The step
#
# The UNet answers with the noise that it sees in the latents. Asked with the prompt it gives `ε(x, text)`, asked
# without it `ε(x, ∅)`. The difference is what the prompt adds. Guidance takes it several times:
#
# `ε(x, ∅) + s · (ε(x, text) − ε(x, ∅))`
#
# At `s = 1` this is the plain answer to the prompt, at `s = 0` the answer without it. The paper counts from there
# (its `w` is `s − 1`; Ho and Salimans 2022, equation 6), and half of the copies on the web mix the two up.
#
# **Your turn.** Write the step. Both questions go through the UNet in **one** batch: twice the pictures in one pass
# cost less than two passes.

# %% [markdown]
# **Predict** (`guided_prediction`). Without the prompt the UNet answers 0.2, with it 0.5. What is the guided answer
# at scale 3: between the two, or beyond?

# %%
predict("guided_prediction", "between: it is a mixture")


# %%
def guided_prediction(unet, latents, timestep, text, no_text, scale):
    """Guide unet(latents, timestep, text), which gives noise; latents (N, C, h, w), text and no_text (N, L, D)."""
    # BEGIN SOLUTION
    # ask for both halves in one pass, and combine them
    # PLACEHOLDER: return unet(latents, timestep, text)
    both = unet(torch.cat([latents, latents]), timestep, torch.cat([no_text, text]))
    without, with_prompt = both.chunk(2)
    return without + scale * (with_prompt - without)
    # END SOLUTION


check(12, "guided_prediction", guided_prediction)
answered = guided_prediction(
    lambda latents, _timestep, states: states.mean(dim=(1, 2)).view(-1, 1, 1, 1).expand_as(latents),
    torch.zeros(1, 4, 2, 2), torch.tensor(500), torch.full((1, 3, 4), 0.5), torch.full((1, 3, 4), 0.2), 3.0,
)  # fmt: skip
compare_with("guided_prediction", f"{float(answered.mean()):.2f}")

# %% [markdown]
# ## What stands for "no prompt"
#
# Not nothing: the UNet was trained with *some* states where the caption was left out, and it knows only those. Stable
# Diffusion 1.x and `pocket` encode the empty prompt; SDXL's base takes zeros. Zeros in a model of the first kind are
# a question that it was never asked.
#
# **Your turn.** Give the states that stand for no prompt, one for each of `num` pictures.
# `text_stage.encode(prompts)` returns an object with `.states` of shape (N, 77, D).

# %% [markdown]
# **Predict** (`no_prompt`). What does the model draw for the empty prompt: grey noise, or a picture?

# %%
predict("no_prompt", "grey noise: it was told nothing")

# %%
text_stage = base.load_text(device=DEVICE)


def no_prompt(text_stage, num):
    """Text states of ``num`` rows without a prompt, (num, 77, D)."""
    # BEGIN SOLUTION
    # the states that this family was trained with where captions were left out
    # PLACEHOLDER: return torch.zeros_like(text_stage.encode(["?"] * num).states)
    return text_stage.encode([""] * num).states
    # END SOLUTION


check(12, "no_prompt", no_prompt)

# %%
text = text_stage.encode(PROMPTS).states
no_text = no_prompt(text_stage, len(PROMPTS))

# %% [markdown]
# ## A sampling loop of your own
#
# Everything else is lab 10's: start from noise, ask, take a step. The loop below uses diffusers' DDIM and your two
# functions.

# %%
unet, vae = base.load_network(device=DEVICE), base.load_vae(device=DEVICE)
STEPS = 12


def ask(latents, timestep, states):
    """Ask the UNet for the noise in latents at a timestep."""
    return unet(latents, timestep, encoder_hidden_states=states, return_dict=False)[0]


def start_noise(seeds):
    """One generator for each picture, so that a seed means the same picture in any batch."""
    side = base.native_size_px // base.latent_factor
    shape = (1, base.latent_channels, side, side)
    noises = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.cat(noises).to(DEVICE)


def draw(text, no_text, scale, seeds, steps=STEPS):
    """Draw uint8 pictures, one for each seed."""
    scheduler = make_scheduler("ddim", base.scheduler_config())
    scheduler.set_timesteps(steps)
    latents = start_noise(seeds) * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        model_input = scheduler.scale_model_input(latents, timestep)
        prediction = guided_prediction(ask, model_input, timestep, text, no_text, scale)
        latents = scheduler.step(prediction, timestep, latents, return_dict=False)[0]
    return decode_latents(vae, latents)


SEEDS = [SEED, SEED + 1]
mine = draw(text, no_text, 3.0, SEEDS)

# %% [markdown]
# **Predict** (`same_as_pipeline`). Your loop of twelve lines against diffusers' own pipeline, same seeds: how far
# apart are the pictures, of 255?

# %%
predict("same_as_pipeline", "a few steps, there must be tricks in it")

# %% [markdown]
# Now the pipeline that everybody uses, with the same seeds, steps and scale. It is diffusers' own code from the start
# noise to the pixels.

# %%
from detour.bases.quiet import quiet_libraries

with quiet_libraries():
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(base.weights, safety_checker=None).to(DEVICE)
    pipeline.scheduler = make_scheduler("ddim", base.scheduler_config())
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        PROMPTS,
        num_inference_steps=STEPS,
        guidance_scale=3.0,
        generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
        output_type="np",
    ).images
theirs = (theirs * 255).round().astype(np.uint8)
del pipeline

check(12, "same_as_pipeline", {"mine": mine, "theirs": theirs})
compare_with("same_as_pipeline", f"{int(np.abs(mine.astype(int) - theirs).max())} of 255 at most")

# %% [markdown]
# ## What the two questions are about
#
# Four pictures of the first prompt from the same noise: `s = 0` (the prompt is not heard), `s = 1`, `s = 3`, and `s =
# 3` with zeros in place of the empty prompt.

# %%
one, nothing = text[:1], no_text[:1]
rows = {
    "s = 0: no prompt": draw(one, nothing, 0.0, SEEDS[:1]),
    "s = 1: prompt as it is": draw(one, nothing, 1.0, SEEDS[:1]),
    "s = 3": draw(one, nothing, 3.0, SEEDS[:1]),
    "s = 3, zeros as no prompt": draw(one, torch.zeros_like(nothing), 3.0, SEEDS[:1]),
}
show(
    grid(np.concatenate(list(rows.values())), 4, column_labels=list(rows)),
    alt="Four pictures from one start noise: without the prompt, with it at scale 1, at 3, and at 3 with zeros "
    "in place of the empty prompt",
)
apart = np.abs(rows["s = 3"].astype(int) - rows["s = 3, zeros as no prompt"]).mean()
print(f"zeros instead of the empty prompt move the picture by {apart:.1f} of 255 on average")
nobody_asked = rows["s = 0: no prompt"][0].astype(float)
rough = np.abs(np.diff(nobody_asked, axis=1)).mean()
as_noise = 2 / np.pi**0.5 * nobody_asked.std()  # of independent normal numbers with the same spread
compare_with(
    "no_prompt",
    f"neighbouring pixels differ by {rough:.1f} of 255; in noise of the same spread they would by {as_noise:.1f}, "
    f"so it is {'a picture' if rough < as_noise / 2 else 'noise'}",
)

# %% [markdown]
# ## Dropout: where the second answer comes from
#
# A model that always saw a caption has never answered without one. So training leaves the caption out now and then,
# in one step of ten for Stable Diffusion, and puts the empty prompt in its place.
#
# **Your turn.** `chance_for(SEED, step, index, purpose="caption")` gives a number in [0, 1) that depends on nothing
# but its arguments (so a run that was interrupted draws the same again). Return the captions of one step.

# %% [markdown]
# **Predict** (`shown_captions`). True pictures with noise: at which noise level does the right caption help the model
# most to find that noise, at timestep 200, 500 or 800?

# %%
predict("shown_captions", "at 200, where details are")


# %%
def shown_captions(captions, step, share):
    """The captions of one training step, each left out with chance `share`."""
    # BEGIN SOLUTION
    # put the empty prompt in place of a caption, each picture for itself
    # PLACEHOLDER: return list(captions)
    return [
        "" if chance_for(SEED, step, index, purpose="caption") < share else caption
        for index, caption in enumerate(captions)
    ]
    # END SOLUTION


check(12, "shown_captions", shown_captions)

# %% [markdown]
# Does it matter to the model what it is told? Take true pictures, add the same noise, and ask with the right caption,
# with none, and with that of another picture.

# %%
from detour.pocket.world import HOUSE, held_out_prompts, render

NUM, AT = 8, (200, 500, 800)
scenes = held_out_prompts(NUM, seed=SEED)
pictures = np.stack([render(scene.scene, HOUSE, size_px=base.native_size_px) for scene in scenes])
latents = encode_pictures(vae, to_pixels(pictures))[0]
captions = [scene.prompt for scene in scenes]
states = {
    "right caption": text_stage.encode(captions).states,
    "no caption": no_prompt(text_stage, NUM),
    "another one's": text_stage.encode(captions[1:] + captions[:1]).states,
}
alphas = alphas_cumprod(base.scheduler_config()).to(DEVICE)
errors = {name: [] for name in states}
for timestep in AT:
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(SEED + timestep)).to(DEVICE)
    when = torch.full((NUM,), timestep, device=DEVICE)
    noisy = add_noise(latents, noise, when, alphas)
    for name, some in states.items():
        errors[name].append(float((ask(noisy, when, some) - noise).square().mean()))

print(f"{'error of the predicted noise':30}" + "".join(f"t = {t:<8}" for t in AT))
for name, values in errors.items():
    print(f"{name:30}" + "".join(f"{value:<12.4f}" for value in values))
saved = [
    without - right for without, right in zip(errors["no caption"], errors["right caption"], strict=True)
]
most, least = (choose(range(len(AT)), key=lambda index: saved[index]) for choose in (max, min))
compare_with(
    "shown_captions",
    f"it lowers the error most at t = {AT[most]}, by {saved[most]:.4f}, least at t = {AT[least]}, {saved[least]:.4f}; "
    "as a share of the error without a caption by "
    + ", ".join(f"{one / whole:.0%}" for one, whole in zip(saved, errors["no caption"], strict=True)),
)

# %% [markdown]
# Read from the last line at which noise level the caption saves most. Without a caption the model still predicts well,
# because it was trained to; these differences are all that guidance has to work with.

# %% [markdown]
# **Predict** (`read_the_table`). At which of the scales 1, 3, 7.5, 12 and 20 are prompts kept best?
#
# **Predict** (`too much`). What goes wrong first when the scale is too high?

# %%
predict("read_the_table", "7.5, as everybody uses it")
predict("too much", "the objects get lost")

# %% [markdown]
# ## What each scale gives and costs
#
# The same held-out prompts and seeds at every scale; the judge (a CLIP model) says how well the prompt is kept.
# Beside it: the share of channel values at an end of the scale (clipped: a channel at 0 or 255) and the error of the
# VAE's round trip, which grows with artefacts. True pictures stand in the last row where the base has a world to draw
# them. The command for your own base is `detour guidance --scales 1,3,7.5,12,20`.

# %%
SCALES = (1.0, 3.0, 7.5, 12.0, 20.0)
own_prompts = () if BASE == "pocket" else tuple(PROMPTS)
spec = StudySpec(
    base=BASE, judge=str(judge_of(base.folder)), prompts=own_prompts, num_prompts=4, seeds=1, first_seed=SEED,
    picture=PictureSpec(steps=10),
)  # fmt: skip
with tempfile.TemporaryDirectory() as folder:
    study = study_guidance(spec, out=Path(folder) / "guidance", scales=SCALES)
    sheet = Image.open(study.folder / "sheet.png").convert("RGB")
show(
    sheet.resize((sheet.width * 3 // 4, sheet.height * 3 // 4)),
    alt="Prompts at guidance scales 1, 3, 7.5, 12 and 20, true pictures in the last column where there are some",
)

# %%
table = [
    {
        "scale": row.settings["scale"],
        **{name: row.figures[name].mean for name in ("clip", "clipped", "round_trip")},
    }
    for row in study.table.rows
]
print(f"{'scale':14}{'CLIP score':>12}{'clipped':>10}{'round trip':>12}")
for row in table:
    print(f"{row['scale']!s:14}{row['clip']:>12.3f}{row['clipped']:>10.1%}{row['round_trip']:>12.2f}")

drawn = [row for row in table if not isinstance(row["scale"], str)]
figure, axes = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
for axis, name, label in (
    (axes[0], "clip", "CLIP score (cosine)"),
    (axes[1], "clipped", "share of clipped values"),
):
    axis.plot([row["scale"] for row in drawn], [row[name] for row in drawn], marker="o")
    axis.set_xlabel("guidance scale")
    axis.set_ylabel(label)
show(figure, alt="CLIP score and share of clipped values over the guidance scale")

# %% [markdown]
# **Your turn.** Read the table. At which of the five scales are the prompts kept best by the CLIP score? And from which
# scale on is at least twice as much of the picture clipped as at scale 1 (`"never"`, if none)?

# %%
best_scale, clipped_from, plain = None, None, drawn[0]["clipped"]
# BEGIN SOLUTION
# two numbers out of the table
# PLACEHOLDER: best_scale, clipped_from = None, None
best_scale = max(drawn, key=lambda row: row["clip"])["scale"]
clipped_from = next((row["scale"] for row in drawn if row["clipped"] >= 2 * plain), "never")
# END SOLUTION

check(12, "read_the_table", {"table": table, "best_scale": best_scale, "clipped_from": clipped_from})

# %%
by_scale = {row["scale"]: row for row in drawn}
last = drawn[-1]
compare_with(
    "read_the_table",
    f"{best_scale:g}, with {by_scale[best_scale]['clip']:.3f}; {last['clip']:.3f} at {last['scale']:g}",
)
compare_with(
    "too much",
    f"clipped values: {plain:.1%} at scale {drawn[0]['scale']:g}, twice that from {clipped_from} on, "
    f"{last['clipped']:.1%} at {last['scale']:g}; CLIP score from scale {drawn[0]['scale']:g} to {last['scale']:g}: "
    f"{last['clip'] - drawn[0]['clip']:+.3f}",
)

# %% [markdown]
# ## Reflect
#
# 1. Guidance costs two answers a step. Where is it free?
# 2. Why does a high scale drive values to the ends, although every single answer is one that the model gives?
# 3. You train an adapter on captioned pictures and leave no caption out. What happens to guidance?
#
# <details><summary>Answers</summary>
#
# 1. At scale 1: the second answer cancels out, and tools leave it out. `PictureEngine` does, so pictures at scale 1
#    take about half the time.
# 2. The sum of the formula is no answer of the model: it lies beyond both, further out than any latent it was
#    trained on. The sampler takes it for noise, removes too much in one direction, and values pile up at the ends.
# 3. The adapter changes the answer with a caption and, through the same weights, the one without. But what it does
#    without a caption was never trained; the difference then holds the style's own share only by luck.
#    `caption_dropout` (0.1 by default for styles) keeps the second answer meaningful.
#
# *Not true:* "more guidance, more prompt": compare the first and the last scale of your table. Whether the scale with
# the highest score is better than its neighbours, four prompts do not tell: `detour guidance` draws more. *Not true
# either:* "7.5 is the right scale": it is the habit of SD 1.x.
# </details>

# %%
check.finish(12)
