# %% [markdown]
# # Lab 18. The same on a flow model
#
# **What you will see.** SD 3 and Flux are rectified flows. You write what differs from the bases of labs 1 to 12: how
# picture and noise are mixed, what the network is asked for, where a walk stops, and how it steps; your pieces draw the
# engine's own picture. Then you look for the layers that read the text, count an adapter, and find that all proofs are
# the same as ever.
#
# You need to know the forward process (lab 9), a sampler's step (lab 10) and what an adapter is (lab 6).

# %%
BASE = "pocket-flow"  # the one line to change, e.g. to "stabilityai/stable-diffusion-3.5-medium"
SEED = 18  # of the picture, of all noise and of the adapter's start

import itertools

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F

from detour.adapters.attach import attach_adapter, attach_new
from detour.adapters.delta import merge_into
from detour.adapters.targets import adaptable_layers, select
from detour.bases.base import open_base
from detour.bases.denoiser import make_denoiser
from detour.bases.hardware import pick_device, set_threads
from detour.bases.latents import decode_latents, encode_pictures, to_pixels
from detour.diffusion.randomness import noise_for
from detour.evaluation.pixels import max_abs_diff, mean_abs_diff
from detour.generation.engine import PictureEngine, PictureRequest
from detour.generation.grids import grid
from detour.generation.schedulers import start_sampler
from detour.labs import check, compare_with, predict, show
from detour.pocket.world import HOUSE, caption, render, training_example
from detour.specs import PictureSpec

set_threads(1)
DEVICE = pick_device()
base = open_base(BASE)
SIZE = base.native_size_px

# %% [markdown]
# ## The process
#
# Lab 9's process weighs picture and noise by `√ᾱ` and `√(1 − ᾱ)`, whose *squares* sum to one. A rectified flow goes
# along a straight line from the picture to the noise. Its time is the noise level `σ` itself, any number from 0 (the
# picture) to 1 (noise alone), in place of one of a thousand timesteps.
#
# ## Do: mix

# %% [markdown]
# **Predict** (`flow_mix`). Picture and noise both have variance 1. What is the variance of the mixture half way, at
# `σ = 0.5`?

# %%
predict("flow_mix", "1, as it was in lab 9")

# %%


def flow_mix(clean, noise, sigma):
    """Noisy latents (N, C, h, w) on the straight line from clean (σ = 0) to noise (σ = 1); sigma is (N,)."""
    # BEGIN SOLUTION
    # Give sigma the shape (N, 1, 1, 1). The shares of clean latents and noise sum to one.
    # PLACEHOLDER: return None
    level = sigma.view(-1, 1, 1, 1)
    return (1 - level) * clean + level * noise
    # END SOLUTION


check(18, "flow_mix", flow_mix)
generator = torch.Generator().manual_seed(SEED)
one, other = (torch.randn(1, 1, 200, 200, generator=generator) for _ in range(2))
half_way = flow_mix(one, other, torch.tensor([0.5]))
compare_with(
    "flow_mix",
    f"{float(half_way.var()):.2f} in 40,000 numbers; by the formula 0.5² + 0.5² = {0.5**2 + 0.5**2}",
)

# %% [markdown]
# ## Do: what the network is asked for
#
# A point that moves along the line in the direction of growing `σ` has a velocity: what `flow_mix` changes by when `σ`
# grows by one. That is the network's target, in place of the noise.

# %% [markdown]
# **Predict** (`flow_target`). Does the target of one picture and one noise depend on `σ`?

# %%
predict("flow_target", "yes, there is more noise at 0.9")

# %%


def flow_target(clean, noise):
    """The velocity along the line, with the shape of both."""
    # BEGIN SOLUTION
    # How does (1 − σ) · clean + σ · noise change with σ?
    # PLACEHOLDER: return None
    return noise - clean
    # END SOLUTION


check(18, "flow_target", flow_target)
slopes = [
    float(
        (
            flow_mix(one, other, torch.tensor([level + 0.01])) - flow_mix(one, other, torch.tensor([level]))
        ).mean()
        / 0.01
    )
    for level in (0.1, 0.9)
]
compare_with(
    "flow_target",
    f"the mean moves by {slopes[0]:.4f} a unit of σ at 0.1 and by {slopes[1]:.4f} at 0.9; your target's mean is "
    f"{float(flow_target(one, other).mean()):.4f}",
)

# %% [markdown]
# ## Measure: where the network errs
#
# One picture of the base's world, noise levels from clean to noisy, four noises each: how far is the network's velocity
# from the target? An error `e` of the velocity is one of `(1 − σ) e` in the noise and of `σ e` in the picture, so the
# same answers have three curves. Which of them is trained on decides which levels count.

# %%
example = training_example(SEED, 0)
picture, words = render(example.scene, HOUSE, size_px=SIZE), caption(example.scene, HOUSE, seed=SEED)
network, vae = base.load_network(device=DEVICE), base.load_vae(device=DEVICE)
text_stage = base.load_text(device=DEVICE)
denoiser = make_denoiser(base, network, device=DEVICE, dtype=torch.float32)
clean = encode_pictures(vae, to_pixels(picture[None]))[0].to(DEVICE)
levels = torch.linspace(0.05, 0.95, 7)
noises = torch.stack([noise_for(SEED, 0, index, clean.shape[1:]) for index in range(4)]).to(DEVICE)
texts = text_stage.encode([words] * 4)
errors = []
with torch.no_grad():
    for level in levels:
        sigmas = level.expand(4).to(DEVICE)
        answers = denoiser.predict(flow_mix(clean.expand(4, -1, -1, -1), noises, sigmas), sigmas, texts)
        errors.append(float(F.mse_loss(answers, flow_target(clean.expand(4, -1, -1, -1), noises))))
velocity_errors = np.array(errors)
noise_errors, picture_errors = (velocity_errors * share.numpy() ** 2 for share in (1 - levels, levels))
curves = {
    "of the velocity": velocity_errors,
    "of the noise, times (1 − σ)²": noise_errors,
    "of the picture, times σ²": picture_errors,
}
figure, axis = plt.subplots(figsize=(6, 3), layout="constrained")
for name, values in curves.items():
    axis.plot(levels.numpy(), values, marker="o", label=name)
axis.set_xlabel("noise level σ")
axis.set_ylabel("mean squared error")
axis.legend(fontsize=8)
show(
    figure,
    alt="Error of the velocity over the noise level: "
    + ", ".join(f"{value:.2f} at {level:.2f}" for level, value in zip(levels, errors, strict=True))
    + f"; that of the noise falls from {noise_errors[0]:.2f} to {noise_errors[-1]:.3f}, that of the picture is "
    f"{picture_errors[0]:.3f} at the clean and {picture_errors[-1]:.2f} at the noisy end",
)

# %% [markdown]
# ## Do: the shift
#
# A large picture needs more noise until nothing can be seen in it: neighbouring pixels say the same thing, and noise
# averages out over them. So bases move all levels towards noise, by `s σ / (1 + (s − 1) σ)` with a shift `s`: 1 leaves
# them, SD 3 takes 3 at 1024 px. Training draws its levels so, and drawing stops at such ones. The network itself takes
# the time `1000 σ`.

# %% [markdown]
# **Predict** (`shifted`). Half way, at 0.5: which level is it with a shift of 3?

# %%
predict("shifted", "1.5, cut to 1")

# %%


def shifted(sigma, shift):
    """The noise level (a number from 0 to 1) that is moved towards noise; 0 and 1 stay."""
    # BEGIN SOLUTION
    # The formula above.
    # PLACEHOLDER: return None
    return shift * sigma / (1 + (shift - 1) * sigma)
    # END SOLUTION


check(18, "shifted", shifted)
compare_with("shifted", f"{shifted(0.5, 3.0):g}; this base has a shift of {base.process().shift:g}")

# %% [markdown]
# ## Do: a step
#
# Drawing starts in pure noise, at `σ = 1`, and follows the velocity back: Euler's method, a straight step to the next,
# lower level. If the velocity were exact, a single step would do. The network answers the mean over all pictures that
# the noise could hide, so the road bends, and one takes several.

# %% [markdown]
# **Predict** (`euler_step`). From `σ = 1` to `σ = 0.75`: which share of the velocity is taken, and with which sign?

# %%
predict("euler_step", "three quarters, plus")

# %%


def euler_step(noisy, velocity, sigma, sigma_next):
    """The latents at the next noise level, which is lower."""
    # BEGIN SOLUTION
    # Move along the velocity by the difference of the two levels; mind its sign.
    # PLACEHOLDER: return None
    return noisy + (sigma_next - sigma) * velocity
    # END SOLUTION


check(18, "euler_step", euler_step)
moved_by = float(euler_step(torch.tensor(0.0), torch.tensor(1.0), 1.0, 0.75))
compare_with("euler_step", f"{moved_by:+g} times the velocity")

# %% [markdown]
# Your step makes a sampler: at the levels of the base's own pipeline, without guidance, against the engine.

# %% [markdown]
# **Predict** (`same_as_engine`). Ten steps from the same noise: how far is your picture from the engine's, of 255?

# %%
predict("same_as_engine", "a little: the engine must have more to it")

# %%
STEPS = 10
engine = PictureEngine(base, unet=network, vae=vae, text=text_stage, device=DEVICE)
own_levels = start_sampler("euler", base, steps=STEPS, width_px=SIZE, height_px=SIZE).sigmas.tolist()
even = [shifted(1 - step / STEPS, base.process().shift) for step in range(STEPS + 1)]
print("its levels:  " + " ".join(f"{level:.3f}" for level in own_levels))
print("even ones:   " + " ".join(f"{level:.3f}" for level in even))


@torch.no_grad()
def draw(prompt, seed, levels):
    """Draw one picture without guidance, uint8 (1, H, W, 3)."""
    side = SIZE // base.latent_factor
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(1, base.latent_channels, side, side, generator=generator).to(DEVICE)
    text = text_stage.encode([prompt])
    for sigma, sigma_next in itertools.pairwise(levels):
        velocity = denoiser.predict(latents, torch.tensor([sigma], device=DEVICE), text).float()
        latents = euler_step(latents, velocity, sigma, sigma_next)
    return decode_latents(vae, latents)


how = PictureSpec(steps=STEPS, scheduler="euler", guidance_scale=1.0)
mine = draw(words, SEED, own_levels)
theirs = engine.draw([PictureRequest(prompt=words, seed=SEED)], how).pictures
check(18, "same_as_engine", {"mine": mine, "theirs": theirs})
compare_with("same_as_engine", f"{max_abs_diff(mine, theirs)} of 255 at most")

# %%
counts = (1, 2, 4, 10)
walks = [
    draw(
        words, SEED, start_sampler("euler", base, steps=count, width_px=SIZE, height_px=SIZE).sigmas.tolist()
    )
    for count in counts
]
guided = engine.draw(
    [PictureRequest(prompt=words, seed=SEED)], PictureSpec(steps=STEPS, scheduler="euler")
).pictures
distances = [mean_abs_diff(one, walks[-1]) for one in walks]
show(
    grid(
        np.concatenate([*walks, guided]),
        len(counts) + 1,
        column_labels=[*(f"{count} steps" for count in counts), f"{STEPS} steps, guided"],
    ),
    alt="One prompt in 1, 2, 4 and 10 steps, and with guidance; mean distance to ten steps, of 255: "
    + ", ".join(f"{value:.1f} at {count}" for count, value in zip(counts, distances, strict=True)),
)

# %% [markdown]
# ## Do: which layers read the text?
#
# A UNet reads the prompt in its cross-attention, `attn2`, with keys and values of the text. A transformer of SD 3 has
# no such layers: picture and text stand in one row of tokens that all attend to each other, and each side has
# projections of its own: `to_q`, `to_k`, `to_v`, `to_out.0` for the picture, `add_q_proj`, `add_k_proj`, `add_v_proj`,
# `to_add_out` for the text.

# %% [markdown]
# **Predict** (`text_side`). Every block has four layers of attention on each side. Are there as many of the text as of
# the picture?

# %%
predict("text_side", "yes, four and four")

# %%


def text_side(path):
    """Whether a layer of attention, such as ``transformer_blocks.0.attn.to_q``, is one of the text; True or False."""
    # BEGIN SOLUTION
    # The four names of the text have something in common that the others lack.
    # PLACEHOLDER: return None
    return "add_" in path
    # END SOLUTION


check(18, "text_side", text_side)
attention = select(adaptable_layers(network), "attn")
of_text = [layer for layer in attention if text_side(layer.path)]
compare_with(
    "text_side",
    f"{len(of_text)} of the text, {len(attention) - len(of_text)} of the picture; the last of the text is "
    f"{of_text[-1].path.split('.', 1)[1] if of_text else 'none'}",
)

# %% [markdown]
# In the last block the text has no way out: nothing after it reads the text, so `to_add_out` is missing there.
#
# ## Do: count the adapter
#
# What an adapter is has not changed: two matrices beside a Linear layer, `rank × in` and `out × rank`.

# %% [markdown]
# **Predict** (`adapter_parameters`). Rank 4 on all attention: how many parameters, beside the network's own?

# %%
predict("adapter_parameters", "10 % of the network")

# %%


def adapter_parameters(layers, rank):
    """Number of parameters of a LoRA beside layers that have ``in_features`` and ``out_features``."""
    # BEGIN SOLUTION
    # Both matrices of every layer.
    # PLACEHOLDER: return None
    return sum(rank * (layer.in_features + layer.out_features) for layer in layers)
    # END SOLUTION


check(18, "adapter_parameters", adapter_parameters)
RANK = 4
own = sum(one.numel() for one in network.parameters())
fresh_one = attach_new(network, base.family.network_part, attention, rank=RANK, alpha=RANK, seed=SEED)
true_count = sum(one.numel() for one in fresh_one.parameters())
fresh_one.detach()
counted = adapter_parameters(attention, RANK)
compare_with(
    "adapter_parameters",
    f"{counted:,} counted, {true_count:,} attached: {counted / own:.1%} of {own:,}",
)

# %% [markdown]
# ## The same proofs
#
# Twenty steps on the one picture, at three fixed noise levels: mechanics, not quality (lab 7). Then what lab 8 asked:
# what must not move a picture does not, and what should does.

# %%
held = PictureRequest(prompt=caption(training_example(SEED, 5).scene, HOUSE, seed=SEED), seed=SEED)


def look():
    """The picture of a prompt that was not trained on, uint8 (1, H, W, 3)."""
    return engine.draw([held], how).pictures


sigmas = torch.tensor([0.25, 0.5, 0.75], device=DEVICE)
three = clean.expand(3, -1, -1, -1)
noisy, target = flow_mix(three, noises[:3], sigmas), flow_target(three, noises[:3])
texts = text_stage.encode([words] * 3)
attached = attach_new(network, base.family.network_part, attention, rank=RANK, alpha=RANK, seed=SEED)
try:
    fresh = look()  # nothing is learned yet
    optimizer, losses = torch.optim.AdamW(attached.parameters(), lr=4e-3), []
    for _ in range(20):
        loss = F.mse_loss(denoiser.predict(noisy, sigmas, texts).float(), target)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    trained = attached.to_adapter()
finally:
    attached.detach()
print("loss: " + " ".join(f"{value:.3f}" for value in losses[::4]) + f" … {losses[-1]:.3f}")

# %% [markdown]
# **Predict** (`must_be_zero`). A fresh adapter, one at weight 0, the merged model, the base after the adapter was taken
# out: which of them draw exactly the base's or the adapter's picture?

# %%
predict("must_be_zero", "all of them: on paper they are the same")

# %%
parts = {base.family.network_part: network}
plain = look()
standing = attach_adapter(parts, trained)
try:
    beside = look()
    standing.set_weight(0.0)
    silent = look()
finally:
    standing.detach()
merged = merge_into(parts, trained)
try:
    inside = look()
finally:
    merged.undo()
differences = {
    "fresh adapter": max_abs_diff(fresh, plain),
    "weight 0": max_abs_diff(silent, plain),
    "merged": max_abs_diff(inside, beside),
    "taken out again": max_abs_diff(look(), plain),
}
for name, difference in differences.items():
    print(f"{name:16} differs by {difference} of 255 at most")
show(
    grid(np.concatenate([plain, beside, inside]), 3, column_labels=["base", "adapter", "merged"]),
    alt="A prompt that was not trained on: base, with the adapter (moved by "
    f"{mean_abs_diff(plain, beside):.1f} of 255), and merged",
)

# %% [markdown]
# **Your turn.** Which of these differences may be 1 and which must be exactly 0? `differences` has four names.

# %%
must_be_zero = None
# BEGIN SOLUTION
# A set of names of `differences`: where the same numbers go through the same operations.
# PLACEHOLDER: must_be_zero = None
must_be_zero = {name for name in differences if name != "merged"}
# END SOLUTION
check(18, "must_be_zero", {"differences": differences, "must_be_zero": must_be_zero})
compare_with(
    "must_be_zero",
    "; ".join(f"{name} {value}" for name, value in differences.items())
    + f" of 255; the adapter moves the picture by {mean_abs_diff(plain, beside):.1f} on average, and the loss fell "
    f"from {losses[0]:.3f} to {losses[-1]:.3f}",
)

# %% [markdown]
# ## Reflect
#
# <details><summary>Somebody loads a LoRA of SD 1.5 into this base. What happens?</summary>
#
# No name fits: a transformer has no `down_blocks`. A loader that is silent about it changes nothing (lab 8); detour
# says which base the file was made for.
#
# </details>
#
# <details><summary>Why does the velocity's error vanish at neither end?</summary>
#
# Near `σ = 1` the network sees noise and has to name a picture; near `σ = 0` it sees a picture and has to name the
# noise. The velocity needs both. Look at which of the two other curves is large where.
#
# </details>
#
# <details><summary>What of a training script has to change for a flow?</summary>
#
# Four lines: how the time is drawn (with the shift), how noise is mixed in, the target, and what the network is handed
# as its time. Rank, alpha, captions, dropout, the optimizer and every proof stay.
#
# </details>

# %%
check.finish(18)
