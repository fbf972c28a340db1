# %% [markdown]
# # Lab 9. Noise and back
#
# **What you will see.** A picture drowns in noise, once in a thousand small steps and once in a single jump, and both
# land on the same numbers. You work one pixel by hand, write the jump and the way back yourself, see what the noise
# does to the variance, and what happens when the schedule is larger than the one that the base was trained on.
#
# You need to know what a tensor is. You need not know anything about diffusion.

# %%
BASE = "pocket"  # the one line to change, e.g. to "stable-diffusion-v1-5/stable-diffusion-v1-5"
SEED = 0  # of the picture, of all noise and of the variance measurement

import matplotlib.pyplot as plt
import numpy as np
import torch

from detour.bases.base import open_base
from detour.diffusion.randomness import noise_for
from detour.diffusion.schedule import alphas_cumprod, snr
from detour.generation.grids import grid
from detour.labs import check, compare_with, predict, show
from detour.scratch.forward_process import betas_of, step_by_step
from detour.verbs.explain.forward_trace import schedule_config, trace_forward

# %% [markdown]
# ## Reason: one pixel by hand
#
# One step of the forward process keeps a part of what is there and adds a part of fresh noise:
#
# `x₁ = √(1 − β₁) · x₀ + √β₁ · ε₁`
#
# The squares of the two factors sum to one. That is the whole trick: it keeps the variance in check. After two steps,
# what is left of the picture is `√ᾱ₂ · x₀` with `ᾱ₂ = (1 − β₁)(1 − β₂)`, and everything else is noise. Sums of
# independent normal numbers are normal, so the two noises act as a single one, `ε`:
#
# `x₂ = √ᾱ₂ · x₀ + √(1 − ᾱ₂) · ε`
#
# Take a pixel `x₀ = 0.8`, `β₁ = 0.1`, `β₂ = 0.2`, and the noises `ε₁ = 0.5` and `ε₂ = −1`. Compute by hand (or with
# Python as a calculator): `x₁`, `x₂`, `ᾱ₂`, and the single noise `ε` with which one jump lands on the same `x₂`.

# %% [markdown]
# **Predict** (`one_pixel`). After two such steps, with `β₁ = 0.1` and `β₂ = 0.2`, how much of the pixel's amplitude
# is left?

# %%
predict("one_pixel", "70 %: what 0.1 and 0.2 take away")

# %%
# BEGIN SOLUTION
# Fill in four numbers: x₁, x₂, ᾱ₂ and the one noise that gives the same x₂.
# PLACEHOLDER: one_pixel = {"x1": None, "x2": None, "alpha_bar": None, "noise": None}
x1 = 0.9**0.5 * 0.8 + 0.1**0.5 * 0.5
x2 = 0.8**0.5 * x1 + 0.2**0.5 * -1
alpha_bar = 0.9 * 0.8
one_pixel = {
    "x1": x1,
    "x2": x2,
    "alpha_bar": alpha_bar,
    "noise": (x2 - alpha_bar**0.5 * 0.8) / (1 - alpha_bar) ** 0.5,
}
# END SOLUTION
check(9, "one_pixel", one_pixel)
compare_with(
    "one_pixel",
    f"{float(one_pixel['alpha_bar']) ** 0.5:.0%} of the amplitude, {float(one_pixel['alpha_bar']):.0%} of the variance",
)

# %% [markdown]
# ## Do: the jump
#
# Now for whole tensors. Training never walks a thousand steps: it jumps to a random one. Write that jump.

# %% [markdown]
# **Predict** (`jump`). A walk of many steps, and one jump with the noise that they add up to: how far apart do they
# land?

# %%
predict("jump", "a little, errors add up")


# %%
def jump(clean, noise, alpha_bar):
    """The noisy tensor at a timestep; ``alpha_bar`` is a scalar tensor."""
    # BEGIN SOLUTION
    # Return √ᾱ · clean + √(1 − ᾱ) · noise.
    # PLACEHOLDER: return None
    return alpha_bar.sqrt() * clean + (1 - alpha_bar).sqrt() * noise
    # END SOLUTION


check(9, "jump", jump)

# %% [markdown]
# On a real picture: its latents (what the VAE makes of it) are walked through every step with fresh noise each, and
# jumped with the one noise that those add up to. `trace_forward` is the recipe behind `detour forward`.

# %%
opened = open_base(BASE)
trace = trace_forward(base=BASE, levels=8, seed=SEED)
print(f"{trace.picture}: '{trace.caption}'")
compare_with("jump", f"by {trace.largest_difference:.1e} at most, over all levels")

steps = [f"t = {level.timestep}" for level in trace.levels]
show(
    grid(np.stack(list(trace.pictures["forward"])), len(steps), column_labels=steps),
    alt="Eight pictures from left to right: a scene that is covered by more and more noise until nothing is seen.",
)

# %% [markdown]
# ## Do: the variance
#
# "The noisy latents always have variance one" is often said. Is it true? The jump adds two independent parts, so their
# variances add up. Write the variance of the noisy latents as a function of `ᾱ` and of the picture's own variance.

# %% [markdown]
# **Predict** (`variance`). Somebody adds noise as `x + ε`, ten times in a row. What is the variance of the result, if
# the picture's own variance was 1?
#
# **Predict** (`last`). Stable Diffusion's schedule has 1000 steps. How much of the picture's variance is left after
# the last one: none at all, 0.5 %, 5 %?

# %%
predict("variance", "one, because the noise is normalised")
predict("last", "nothing: after a thousand steps there is only noise")


# %%
def expected_variance(alpha_bar, clean_variance):
    """Variance of the noisy latents."""
    # BEGIN SOLUTION
    # Return it: what is left of the picture's variance, plus that of the noise.
    # PLACEHOLDER: return None
    return alpha_bar * clean_variance + 1 - alpha_bar
    # END SOLUTION


check(9, "variance", expected_variance)

# %%
# A rectified flow weighs picture and noise by 1 − σ and σ, whose squares do not sum to one. Divided by their sum, its
# variances are those of the formula; on Stable Diffusion the sum is one.
kept, came = (torch.tensor(values, dtype=torch.float64) for values in (trace.alphas, trace.noises))
total = kept + came
alphas = kept / total
curve = expected_variance(alphas, trace.clean_variance)
figure, axes = plt.subplots(figsize=(7, 3.6))
axes.plot(curve, label=f"your formula, Var(x₀) = {trace.clean_variance:.2f}")
axes.plot(
    [level.timestep for level in trace.levels],
    [level.variance / float(total[level.timestep - opened.is_flow]) for level in trace.levels],
    "o",
    label="measured",
)
axes.axhline(1, linestyle=":", color="grey", label="one")
axes.set_xlabel("timestep")
axes.set_ylabel("variance of the noisy latents")
axes.legend()
show(
    figure,
    alt="Variance of the noisy latents over the timestep: it starts at the picture's own variance and reaches one only "
    "at the end; the measured points lie on the curve.",
)

# %% [markdown]
# The variance is one only where the picture's own variance is one, or where no picture is left. Now the way that is
# copied most often, and wrong: `x + ε`.

# %%
clean = torch.randn(4, 64, 64, generator=torch.Generator().manual_seed(SEED), dtype=torch.float64)
noises = [noise_for(SEED, step, 0, (4, 64, 64)).double() for step in range(10)]
added, walked = clean, clean
for noise in noises:
    added = added + noise
betas = betas_of(alphas)
walked = list(step_by_step(clean, noises, betas))[-1]
compare_with(
    "variance", f"{added.var():.1f} with x + ε, {walked.var():.2f} with the right step, after ten steps"
)
compare_with(
    "last", f"{trace.alphas[-1]:.4f} of the variance, so {trace.alphas[-1] ** 0.5:.1%} of the amplitude"
)

# %% [markdown]
# `x + ε` grows without bound: the UNet would be shown brighter and brighter inputs, and the jump's formula would not
# hold. And the last step is *not* pure noise: a few per cent of the amplitude survive, which is why bases with this
# schedule find it hard to draw very dark or very bright pictures. (A rectified flow does end in pure noise.)
#
# ## Do: the way back
#
# The UNet's guess is the noise. Solve the jump for the clean latents, given the noisy ones and the guessed noise.

# %% [markdown]
# **Predict** (`clean_guess`). At the last timestep the predicted noise is off by 0.01. By how much is the guess of
# the clean latents off?

# %%
predict("clean_guess", "by 0.01 as well")


# %%
def clean_guess(noisy, noise_pred, alpha_bar):
    """The clean latents, if the noise is as predicted."""
    # BEGIN SOLUTION
    # Return x₀ from x_t = √ᾱ · x₀ + √(1 − ᾱ) · ε.
    # PLACEHOLDER: return None
    return (noisy - (1 - alpha_bar).sqrt() * noise_pred) / alpha_bar.sqrt()
    # END SOLUTION


check(9, "clean_guess", clean_guess)
zero = torch.zeros(1)
off, half = (
    float((clean_guess(zero, zero + 0.01, one) - clean_guess(zero, zero, one)).abs())
    for one in alphas[
        [-2 if opened.is_flow else -1, 499]
    ].float()  # a flow ends in pure noise: the level before it
)
compare_with(
    "clean_guess", f"{off:.3f}, {off / 0.01:.1f} times as much; in the middle of the schedule {half:.3f}"
)

# %% [markdown]
# One such guess from pure noise would be mush: the average of all pictures that this noise could hide. A sampler goes a
# little way towards it, asks again, and so on. Below: the noisy row again, and the way back from its right end. It is
# read from right to left, and it starts with no more than what is left of the picture there.

# %%
back = [trace.pictures.get(f"back_{index}") for index in range(len(trace.levels))]
shown = [*trace.pictures["forward"], *back]
show(
    grid(
        np.stack(shown), len(steps), column_labels=steps,
        row_labels=["noise comes, left to right", "the way back, right to left"],
    ),
    alt="Two rows of eight pictures. Above, a scene drowns in noise. Below, from right to left, a scene of the same "
    "kind comes out of the noise again, though not the same picture.",
)  # fmt: skip

# %% [markdown]
# ## Do: a larger schedule
#
# Schedules differ in how fast the noise comes. Stable Diffusion's is *scaled linear*, `β` from 0.00085 to 0.012 (linear
# in `√β`). The DDPM paper's is linear from 0.0001 to 0.02, and is often copied as if it were Stable Diffusion's. Find,
# for both, the first timestep where noise outweighs picture: where the signal-to-noise ratio `ᾱ / (1 − ᾱ)` falls
# below 1.

# %% [markdown]
# **Predict** (`first_below`). The DDPM schedule is linear, Stable Diffusion's scaled linear. In which of the two does
# noise outweigh the picture earlier, and by how many timesteps?

# %%
predict("first_below", "in the same one, both have a thousand steps")

# %%
schedules = {
    "scaled_linear": alphas_cumprod(schedule_config(opened, "scaled_linear")),
    "linear": alphas_cumprod(schedule_config(opened, "linear")),
}
# BEGIN SOLUTION
# For each schedule the first timestep (an int) whose SNR is below 1; `snr(alphas)` gives the ratio at each.
# PLACEHOLDER: first_below = {"scaled_linear": None, "linear": None}
first_below = {name: int((snr(one) < 1).nonzero()[0]) for name, one in schedules.items()}
# END SOLUTION
check(9, "first_below", first_below)
compare_with("first_below", ", ".join(f"{name} from timestep {first}" for name, first in first_below.items()))

# %% [markdown]
# What if the base is drawn with a schedule that goes further than the one it knows? Here its own schedule is stretched:
# `β` up to 0.02. The noisiest levels were never seen in training, so the way back cannot start there; it starts where
# the base's knowledge ends.

# %%
if opened.is_flow:
    print(
        "a rectified flow has no betas to stretch: its straight line ends in pure noise, which it was trained on"
    )
else:
    larger = trace_forward(base=BASE, levels=8, seed=SEED, schedule="scaled_linear", beta_end=0.02)
    blank = np.full_like(larger.pictures["forward"][0], 255)
    back = [larger.pictures.get(f"back_{index}", blank) for index in range(len(larger.levels))]
    heads = [f"t = {level.timestep}, ᾱ = {level.alpha_cumprod:.2g}" for level in larger.levels]
    show(
        grid(np.stack([*larger.pictures["forward"], *back]), len(heads), column_labels=heads),
        alt="The same two rows on the larger schedule: noise covers the scene sooner, and the last columns of the way "
        "back are empty, because the base was never trained on so much noise.",
    )
    print(
        f"ᾱ at the end: {trace.alphas[-1]:.4f} on the base's own schedule, {larger.alphas[-1]:.5f} on the larger one"
    )
    known = sum(level.way_back for level in larger.levels)
    print(f"the base knows {known} of {len(larger.levels)} levels of the larger schedule")

# %% [markdown]
# ## Reflect
#
# Answer for yourself before you unfold.
#
# <details><summary>Why does training jump instead of walking?</summary>
#
# A walk to timestep 700 costs 700 noises and gives one sample; the jump costs one noise and gives a sample of the same
# distribution. You measured that both land on the same numbers when their noises match.
#
# </details>
#
# <details><summary>The last ᾱ of Stable Diffusion's schedule is about 0.0047. What does that do to pictures?</summary>
#
# Training always leaves a trace of the picture, most of all its mean brightness. Sampling starts from pure noise, whose
# mean is zero. So the base believes that every picture has a medium brightness. Noise offset and schedules with zero
# terminal SNR (arXiv:2305.08891) are the cure.
#
# </details>
#
# <details><summary>Where is the way back's picture not the one that we started from, and why?</summary>
#
# At the right end about a fifteenth of the amplitude is left. What is gone cannot be found again: the base fills it in
# with what it knows about the caption. Start the way back further left and the picture comes back truer.
#
# </details>

# %%
check.finish(9)
