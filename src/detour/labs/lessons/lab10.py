# %% [markdown]
# # Lab 10. Samplers
#
# **What you will see.** One trained UNet, five ways to walk from noise to a picture. You write the step of one of
# them and get diffusers' own pictures, see which of the thousand timesteps of training a walk of few steps stops at,
# and then measure: time, score and distance to a long walk, for 5, 10 and 25 steps. At the end you have a function
# that picks the sampler for a latency budget.
#
# Lab 9 is the way into noise; this one is the way back. You need to know what `ᾱ` is.

# %%
BASE = "pocket"  # the one line to change, e.g. to "stable-diffusion-v1-5/stable-diffusion-v1-5"
SEED = 10  # of the start noise and of the study; DDPM's fresh noise comes from each picture's own generator

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image

from detour.bases.base import open_base
from detour.bases.hardware import pick_device, set_threads
from detour.bases.latents import decode_latents
from detour.diffusion.schedule import alphas_cumprod
from detour.evaluation.judge import judge_of
from detour.generation.engine import PictureEngine, PictureRequest
from detour.generation.grids import grid
from detour.labs import check, compare_with, predict, show
from detour.scratch.spacing import timesteps
from detour.specs import PictureSpec
from detour.specs.studies import StudySpec
from detour.verbs.studies.schedulers import study_schedulers
from detour.verbs.studies.studio import Studio

set_threads(1)
torch.set_grad_enabled(False)
DEVICE = pick_device()
base = open_base(BASE)
PROMPT = "an orange cup in the mountains"

# %% [markdown]
# ## Reason: where to stop
#
# The UNet was trained at a thousand timesteps; a walk of twenty steps stops at twenty of them. Stable Diffusion's own
# spacing is called *leading*: multiples of the stride, from the last one down, each raised by an offset of 1. With
# ten steps the stride is 100, and the stops are 901, 801, … 1.
#
# **Your turn.** Note where that starts: at 901 and not at 999, although the start noise is that of 999.

# %% [markdown]
# **Predict** (`leading`). The start noise is that of timestep 999. At which timestep does a walk of two steps with
# leading spacing begin?

# %%
predict("leading", "at 999, where else")


# %%
def leading(steps, offset=1, trained=1000):
    """Timesteps at which a walk stops, falling, (steps,) int64."""
    # BEGIN SOLUTION
    # Return multiples of the stride, falling, each raised by the offset.
    # PLACEHOLDER: return None
    stride = trained // steps
    return torch.arange(steps - 1, -1, -1) * stride + offset
    # END SOLUTION


check(10, "leading", leading)
compare_with("leading", f"at {int(leading(2)[0])}; a walk of ten steps at {int(leading(10)[0])}")

# %%
for steps in (2, 5, 10, 20, 50):
    first = {
        spacing: int(timesteps(steps, spacing=spacing, offset=1)[0]) for spacing in ("leading", "linspace")
    }
    first["trailing"] = int(timesteps(steps, spacing="trailing")[0])
    print(f"{steps:>3} steps begin at " + ", ".join(f"{name} {stop}" for name, stop in first.items()))

# %% [markdown]
# ## Reason: a step
#
# The UNet names the noise in the picture. Take it out and you have a *guess* of the clean picture:
#
# `guess = (x − √(1 − ᾱ) · ε) / √ᾱ`
#
# Far from the end that guess is mush: an average of all pictures which this noise could hide. DDIM therefore puts the
# *same* noise back, only less of it, as much as belongs to the next stop. DDPM instead goes a part of the way and
# adds *fresh* noise. DPM++ and PNDM remember earlier answers and take the curve with them.
#
# **Your turn.** One DDIM step from the stop with `alpha` to the next one with `alpha_next` (which is larger:
# cleaner).

# %% [markdown]
# **Predict** (`ddim_step`). If the UNet named the noise without any error, how far from the clean picture would a
# single step to the end land?

# %%
predict("ddim_step", "far: one step is not enough")


# %%
def ddim_step(noisy, noise_pred, alpha, alpha_next):
    """Make one DDIM step to the next stop; alpha and alpha_next are scalar tensors, ᾱ at both stops."""
    # BEGIN SOLUTION
    # Guess the clean latents, then put the same noise back, as much as belongs to alpha_next.
    # PLACEHOLDER: return None
    guess = (noisy - (1 - alpha).sqrt() * noise_pred) / alpha.sqrt()
    return alpha_next.sqrt() * guess + (1 - alpha_next).sqrt() * noise_pred
    # END SOLUTION


check(10, "ddim_step", ddim_step)
generator = torch.Generator().manual_seed(SEED)
clean, noise = (torch.randn(4, 8, 8, generator=generator) for _ in range(2))
alpha = torch.tensor(0.0047)
noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
landed = ddim_step(noisy, noise, alpha, torch.tensor(1.0))
compare_with(
    "ddim_step",
    f"{float((landed - clean).abs().max()):.1e} at most; with the noise off by 1 %, "
    f"{float((ddim_step(noisy, 1.01 * noise, alpha, torch.tensor(1.0)) - clean).abs().max()):.2f}",
)

# %% [markdown]
# Your two functions make a sampler. Behind the last stop there is no noise left to belong to; SD's configs then take
# ᾱ of timestep 0 (`set_alpha_to_one = false`).

# %% [markdown]
# **Predict** (`same_as_ddim`). Your two functions against diffusers' DDIM, ten steps from the same noise: how far
# apart are the pictures, of 255?

# %%
predict("same_as_ddim", "a little: theirs must have more to it")

# %%
unet, vae = base.load_network(device=DEVICE), base.load_vae(device=DEVICE)
text_stage = base.load_text(device=DEVICE)
text = text_stage.encode([PROMPT]).states
alphas = alphas_cumprod(base.scheduler_config()).to(DEVICE)


def draw(steps, seed):
    """Draw one picture without guidance, uint8 (1, H, W, 3)."""
    side = base.native_size_px // base.latent_factor
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(1, base.latent_channels, side, side, generator=generator).to(DEVICE)
    stops = leading(steps).to(DEVICE)
    for stop in stops:
        noise_pred = unet(latents, stop, encoder_hidden_states=text, return_dict=False)[0]
        following = stop - 1000 // steps
        alpha_next = alphas[following] if following >= 0 else alphas[0]
        latents = ddim_step(latents, noise_pred, alphas[stop], alpha_next)
    return decode_latents(vae, latents)


engine = PictureEngine(base, unet=unet, vae=vae, text=text_stage, device=DEVICE)


def draw_with(sampler, steps, seed=SEED):
    how = PictureSpec(steps=steps, scheduler=sampler, guidance_scale=1.0)
    return engine.draw([PictureRequest(prompt=PROMPT, seed=seed)], how).pictures


mine, theirs = draw(10, SEED), draw_with("ddim", 10)
check(10, "same_as_ddim", {"mine": mine, "theirs": theirs})
compare_with("same_as_ddim", f"{int(np.abs(mine.astype(int) - theirs).max())} of 255 at most")

# %% [markdown]
# ## What a walk looks like
#
# Ten steps of DDIM and of DDPM from the same noise, and where each was after two, four, … of them (the latents
# decoded as they are, noise and all).

# %%
rows, labels = [], []
for sampler in ("ddim", "ddpm"):
    how = PictureSpec(steps=10, scheduler=sampler, guidance_scale=1.0)
    drawn = engine.draw([PictureRequest(prompt=PROMPT, seed=SEED)], how, trace=5)
    rows.append(np.concatenate([moment.pictures for moment in drawn.trace]))
    labels.append(f"{sampler}: {PROMPT}")
columns = [f"after {moment.step}" for moment in drawn.trace]
show(
    grid(np.concatenate(rows), 5, row_labels=labels, column_labels=columns),
    alt="DDIM and DDPM after 2, 4, 6, 8 and 10 of ten steps: from noise to two different pictures of the same prompt",
)
another = [draw_with("dpm++", 10, seed) for seed in (SEED, SEED + 1)]

# %% [markdown]
# ## Between DDIM and DDPM
#
# The two are the ends of one scale, `eta` (arXiv:2010.02502, equation 16): at 0 a step puts the same noise back, at 1
# as much fresh noise as DDPM does. `detour generate --scheduler ddim --eta 0.5` draws what lies between.

# %% [markdown]
# **Predict** (`eta`). How far does `eta` = 0.5 move the picture from that of `eta` = 0, as a share of what `eta` = 1
# does?

# %%
predict("eta", "half as far")

# %%
by_eta = {}
for eta in (0.0, 0.25, 0.5, 0.75, 1.0):
    how = PictureSpec(steps=10, scheduler="ddim", guidance_scale=1.0, eta=eta)
    by_eta[eta] = engine.draw([PictureRequest(prompt=PROMPT, seed=SEED)], how).pictures
far = {eta: float(np.abs(some.astype(int) - by_eta[0.0]).mean()) for eta, some in by_eta.items()}
show(
    grid(
        np.concatenate(list(by_eta.values())), len(by_eta), column_labels=[f"eta {eta:g}" for eta in by_eta]
    ),
    alt="One prompt and start noise with eta from 0 to 1; mean distance to the first picture, of 255: "
    + ", ".join(f"{value:.1f} at {eta:g}" for eta, value in far.items()),
)
compare_with("eta", ", ".join(f"{value / far[1.0]:.0%} at eta {eta:g}" for eta, value in far.items()))

# %% [markdown]
# **Predict** (`sweet_spot`). How many steps does the quickest of DDPM, DDIM, PNDM, Euler and DPM++ need until more of
# them change little?
#
# **Predict** (`ddpm`). The paper's DDPM walks a thousand steps. What does it draw in ten: noise, mush, or a picture
# that keeps the prompt?
#
# **Predict** (`cost`). Which of the five costs the most time a step?

# %%
predict("sweet_spot", "50, the default everywhere")
predict("ddpm", "noise: it needs hundreds of steps")
predict("cost", "DPM++, it is of second order")

# %% [markdown]
# ## Measure
#
# Five samplers at 5, 10 and 25 steps, the same prompt and noise, each held beside a walk of 60 steps of DPM++.
# *Distance* is one minus the cosine of the judge's features: 0 is the same picture, and the last line says how far
# another seed's picture is. Without guidance, which would double the time and change nothing about the steps.
#
# One picture says little about scores. The same study with 16 pairs stands in docs/studies.md, and
# `detour schedulers` makes it on your own base.

# %%
STEPS = (5, 10, 25)
spec = StudySpec(
    base=BASE, judge=str(judge_of(base.folder)), prompts=(PROMPT,), seeds=1, first_seed=SEED,
    picture=PictureSpec(guidance_scale=1.0),
)  # fmt: skip
with tempfile.TemporaryDirectory() as folder:
    study = study_schedulers(spec, out=Path(folder) / "samplers", steps=STEPS, reference_steps=60)
    sheet = Image.open(study.folder / "sheet.png").convert("RGB")
show(
    sheet,
    alt="One prompt with five samplers at 5, 10 and 25 steps and the reference: DDPM's pictures are others",
)

# %%
rows = [
    {
        "sampler": row.settings["sampler"],
        "steps": row.settings["steps"],
        "seconds": row.figures["seconds"].mean,
        "clip": row.figures["clip"].mean,
        "distance": row.figures["judge_distance"].mean,
    }
    for row in study.table.rows
    if row.variant != study.table.reference
]
print(f"{'sampler':9}{'steps':>6}{'seconds':>10}{'CLIP score':>12}{'distance':>10}")
for row in rows:
    print(
        f"{row['sampler']:9}{row['steps']:>6}{row['seconds']:>10.2f}{row['clip']:>12.3f}{row['distance']:>10.4f}"
    )
[other_seed] = Studio.open(spec).distances(*another)["judge_distance"]
print(f"{'another seed of dpm++':37}{other_seed:>10.4f}")

figure, axis = plt.subplots(figsize=(6, 3), layout="constrained")
for sampler in dict.fromkeys(row["sampler"] for row in rows):
    points = [(row["seconds"], row["distance"]) for row in rows if row["sampler"] == sampler]
    axis.plot(*zip(*points, strict=True), marker="o", label=sampler)
axis.axhline(other_seed, linestyle="--", color="grey", label="another seed")
axis.set_xlabel("seconds a picture")
axis.set_ylabel("distance to the reference")
axis.set_yscale("log")
axis.legend(fontsize=8)
show(
    figure,
    alt="Distance to the reference over seconds a picture for five samplers; a dashed line shows another seed's",
)

# %% [markdown]
# ## The sweet spot
#
# A service has so many seconds for a picture. Within them the best is what comes nearest to the long walk; more steps
# than that cost time that nobody sees.
#
# **Your turn.** `rows` is a list as above. Return the sampler and the steps of the row to use, or `None` when nothing
# fits.


# %%
def sweet_spot(rows, budget_s):
    """Sampler and steps of the row nearest to the reference among those within the budget."""
    # BEGIN SOLUTION
    # Keep the rows that fit, then take the one with the smallest distance.
    # PLACEHOLDER: return None
    fitting = [row for row in rows if row["seconds"] <= budget_s]
    if not fitting:
        return None
    best = min(fitting, key=lambda row: row["distance"])
    return best["sampler"], best["steps"]
    # END SOLUTION


check(10, "sweet_spot", sweet_spot)

# %%
cost = {}
for row in rows:
    cost.setdefault(row["sampler"], []).append(1000 * row["seconds"] / row["steps"])
ten = np.mean([row["seconds"] for row in rows if row["steps"] == 10])
for budget in (0.7 * ten, 1.3 * ten, 3.5 * ten):
    print(f"within {budget:.2f} s a picture: {sweet_spot(rows, budget)}")
near = [row for row in rows if row["distance"] < other_seed / 10]
quickest = min(near, key=lambda row: (row["steps"], row["distance"]))
compare_with(
    "sweet_spot",
    f"{quickest['sampler']} is ten times nearer than another seed with {quickest['steps']} steps",
)
ddpm = next(row for row in rows if row["sampler"] == "ddpm" and row["steps"] == 10)
long_walk = next(row for row in rows if row["sampler"] == "dpm++" and row["steps"] == 25)
compare_with(
    "ddpm",
    f"CLIP score {ddpm['clip']:.3f} (DPM++ in 25 steps {long_walk['clip']:.3f}), {ddpm['distance']:.3f} from the "
    f"reference (another seed {other_seed:.3f})",
)
compare_with("cost", ", ".join(f"{name} {np.mean(all_ms):.0f} ms" for name, all_ms in cost.items()))

# %% [markdown]
# ## Reflect
#
# <details><summary>DDPM's pictures keep the prompt. Why does its distance not fall with more steps?</summary>
#
# It adds fresh noise at each stop, so its walk ends at another picture of the same prompt, whatever the number of
# steps. It is not worse; it cannot be compared seed by seed, and nobody gets "the same picture, only better" from it.
#
# </details>
#
# <details><summary>All samplers cost about the same a step. What is the time spent on?</summary>
#
# On the UNet's answer. A sampler's own arithmetic is a few additions on a small tensor. DPM++ of second order keeps
# its last answer instead of asking twice. (PNDM asks once more in all than it has steps.)
#
# </details>
#
# <details><summary>At two or three steps DDIM and PNDM give grey pictures here, DPM++ and Euler do not. Why?</summary>
#
# Look at where they begin. With leading spacing, two steps begin at 501: the UNet is told that the picture is half
# done, while it looks at pure noise. `trailing` and `linspace` begin at 999.
#
# </details>

# %%
check.finish(10)
