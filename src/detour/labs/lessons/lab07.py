# %% [markdown]
# # Lab 7. Overfit in thirty seconds
#
# **What you will see.** Ten steps on one picture, which answer one question: is everything connected? Then the same
# training goes on, and everything that is measured on the training prompt gets better and better, while on other
# prompts it first gets better and then worse than without any training. You will know which of the two to look at,
# and where to stop.
#
# You need to know what a training loss is. Lab 11 takes the loop itself apart.

# %%
BASE = "pocket"  # the one line to change, e.g. to "stable-diffusion-v1-5/stable-diffusion-v1-5"
SEED = (
    7  # of the picture, the adapter's start, the training noise (by step and sample) and the drawn pictures
)

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F

from detour.adapters.attach import attach_new
from detour.adapters.targets import adaptable_layers, select
from detour.bases.base import open_base
from detour.bases.hardware import pick_device, set_threads
from detour.bases.latents import encode_pictures, to_pixels
from detour.diffusion.randomness import noise_for, timestep_for
from detour.diffusion.schedule import add_noise, alphas_cumprod
from detour.evaluation.pixels import mean_abs_diff
from detour.generation.engine import PictureEngine, PictureRequest
from detour.generation.grids import grid
from detour.labs import check, compare_with, predict, show
from detour.pocket.world import HOUSE, NAMED_STYLES, caption, held_out_prompts, render, training_example
from detour.specs import PictureSpec
from detour.verbs.explain.example import open_example
from detour.verbs.explain.overfitting import overfit_one

set_threads(1)
DEVICE = pick_device()
base = open_base(BASE)

# %% [markdown]
# **Predict** (`learns`). After ten steps on one picture, by how much has its loss fallen?

# %%
predict("learns", "by half")

# %% [markdown]
# ## What would show that everything is connected?
#
# A loss is asked before the first step and after the last, and a picture is drawn without the adapter and with it.
#
# **Your turn.** Decide from the two measurements whether an installation learns. Both are needed: a loss can fall
# while the adapter is not used in drawing, and a picture can move while nothing is learned. The floor is what
# rounding alone moves (0 in float32 on a CPU); more than 0.5 of 255 above it is a difference.


# %%
def learns(losses, mean_abs_diff, floor):
    """Whether an installation learns; losses from before the first step to after the last, on the same questions."""
    # BEGIN SOLUTION
    # The loss must have fallen from its first to its last value, and the picture moved by 0.5 above the floor.
    # PLACEHOLDER: return None
    return losses[-1] < losses[0] and mean_abs_diff - floor > 0.5
    # END SOLUTION


check(7, "learns", learns)

# %% [markdown]
# ## Ten steps
#
# `detour overfit` is this recipe. It trains on one picture, on purpose at fixed timesteps with fixed noise, so that
# the ten losses are answers to one question and can be compared.

# %%
result = overfit_one(base=BASE, seed=SEED)
print(f"'{result.caption}'")
print(" ".join(f"{loss:.3f}" for loss in result.losses))
print(result.sentence)

# %% [markdown]
# ### The same ten steps written by hand
#
# No recipe: the picture's latents, three fixed timesteps, one noise for each, AdamW, ten times. Eleven lines that you
# could type into an empty notebook.

# %%
by_hand = open_example(None, None, size_px=base.native_size_px, seed=SEED)
hand_vae, hand_text, hand_unet = (
    base.load_vae(device=DEVICE), base.load_text(device=DEVICE), base.load_network(device=DEVICE),
)  # fmt: skip
hand_alphas = alphas_cumprod(base.scheduler_config()).to(DEVICE)
clean = encode_pictures(hand_vae, to_pixels(by_hand.picture[None]))[0].expand(3, -1, -1, -1)
hand_words = hand_text.encode([by_hand.caption]).states.expand(3, -1, -1)
when = torch.tensor([150, 450, 750], device=DEVICE)
hand_noise = torch.stack([noise_for(SEED, 0, index, clean.shape[1:]) for index in range(3)]).to(DEVICE)
hand = attach_new(hand_unet, "unet", select(adaptable_layers(hand_unet), "attn"), rank=4, alpha=4, seed=SEED)
hand_optimizer, hand_losses = torch.optim.AdamW(hand.parameters(), lr=2e-3), []
for _ in range(10):
    noisy = add_noise(clean, hand_noise, when, hand_alphas)
    answer = hand_unet(noisy, when, encoder_hidden_states=hand_words, return_dict=False)[0]
    hand_loss = F.mse_loss(answer, hand_noise)
    hand_loss.backward()
    hand_optimizer.step()
    hand_optimizer.zero_grad()
    hand_losses.append(float(hand_loss.detach()))
print("by hand: " + " ".join(f"{value:.3f}" for value in hand_losses))
print("recipe:  " + " ".join(f"{value:.3f}" for value in result.losses[:10]))

# %% [markdown]
# What do ten steps prove? That data, VAE, text, UNet, adapter, gradients, optimizer and drawing are connected.
# **Mechanics, not quality**: a model can always learn one picture by heart.

# %%
losses = (result.loss_before, result.loss_after)
print(f"by your rule this installation learns: {learns(losses, result.mean_abs_diff, 0.0)}")
compare_with(
    "learns",
    f"by {1 - result.loss_after / result.loss_before:.0%} in the recipe, {1 - hand_losses[-1] / hand_losses[0]:.0%} in "
    f"nine of its steps by hand; the picture moved by {result.mean_abs_diff:.1f} of 255",
)

# %% [markdown]
# ## Reason: one question, asked again
#
# A training loss jumps about because each step asks another question: at a timestep near 0 the noise is hardly to be
# seen and the loss is large, at 900 there is little else and it is small. To compare two moments of a run, ask the
# same questions at both: fixed timesteps, spread over the schedule, with fixed noise.
#
# **Your turn.** Make those questions.

# %% [markdown]
# **Predict** (`questions`). The same weights asked twice, with newly drawn timesteps and noise: how far apart are the
# two losses?

# %%
predict("questions", "hardly, the weights are the same")


# %%
def questions(num, shape):
    """Timesteps (num,) of 0 to 999 and noise (num, *shape), the same at every call."""
    # BEGIN SOLUTION
    # Spread the timesteps evenly, and draw the noise from a generator with a fixed seed.
    # PLACEHOLDER: return torch.randint(0, 1000, (num,)), torch.randn(num, *shape)
    timesteps = torch.linspace(100, 900, num).long()
    return timesteps, torch.randn(num, *shape, generator=torch.Generator().manual_seed(SEED))
    # END SOLUTION


check(7, "questions", questions)

# %% [markdown]
# ## Going on
#
# One picture in a style that the base has never seen, its caption without a word about the style, 45 steps at a high
# rate. Beside it six pictures that are kept out: other things, same style.

# %%
STYLE = NAMED_STYLES["comic"]
example = training_example(SEED, 1)
words = caption(example.scene, HOUSE, seed=0)
size = base.native_size_px
picture = render(example.scene, STYLE, size_px=size)[None]
kept_out = held_out_prompts(6, seed=SEED)
kept_out_pictures = np.stack([render(one.scene, STYLE, size_px=size) for one in kept_out])
print(f"trained on: '{words}'")

# %% [markdown]
# **Your turn.** Some prompts to draw with later, to see whether the style was learned. Which of them tell anything
# beyond what was learned by heart?

# %% [markdown]
# **Predict** (`telling`). After 45 steps, which pictures will have moved further: that of the training prompt, or
# those of other prompts?

# %%
predict("telling", "that of the training prompt, the others hardly")

# %%
CANDIDATES = (
    words,
    f"a picture of {words}",
    words.split(" in the ")[0],
    "a red house in the desert",
    "a green car in the forest",
)
print("\n".join(CANDIDATES))
telling = None
# BEGIN SOLUTION
# A set of those prompts.
# PLACEHOLDER: telling = None
telling = {"a red house in the desert", "a green car in the forest"}
# END SOLUTION

check(7, "telling", {"caption": words, "candidates": CANDIDATES, "chosen": telling})

# %%
unet, vae, text_stage = (
    base.load_network(device=DEVICE),
    base.load_vae(device=DEVICE),
    base.load_text(device=DEVICE),
)
engine = PictureEngine(base, unet=unet, vae=vae, text=text_stage, device=DEVICE)
alphas = alphas_cumprod(base.scheduler_config()).to(DEVICE)
latents = encode_pictures(vae, to_pixels(picture))[0]
kept_out_latents = encode_pictures(vae, to_pixels(kept_out_pictures))[0]
states = text_stage.encode([words]).states
kept_out_states = text_stage.encode([one.prompt for one in kept_out]).states


@torch.no_grad()
def loss_of(asked, latents, states):
    """Mean loss over (timesteps, noises)."""
    losses = []
    for timestep, noise in zip(*asked, strict=True):
        when = timestep.expand(len(latents)).to(DEVICE)
        noise = noise.expand_as(latents).to(DEVICE)
        noisy = add_noise(latents, noise, when, alphas)
        answer = unet(noisy, when, encoder_hidden_states=states, return_dict=False)[0]
        losses.append(F.mse_loss(answer, noise).item())
    return sum(losses) / len(losses)


def loss_at_fixed_noise(latents, states):
    return loss_of(questions(3, latents.shape[1:]), latents, states)


drawn = []
for seed in (SEED, SEED + 1):
    generator = torch.Generator().manual_seed(seed)
    asked = (
        torch.randint(0, 1000, (3,), generator=generator),
        torch.randn(3, *latents.shape[1:], generator=generator),
    )
    drawn.append(loss_of(asked, latents, states))
again = [loss_at_fixed_noise(latents, states) for _ in range(2)]
compare_with(
    "questions",
    f"drawn anew {drawn[0]:.3f} and {drawn[1]:.3f}; at your fixed questions {again[0]:.3f} and {again[1]:.3f}",
)

PROMPTS = [words, *sorted(telling)]
how = PictureSpec(steps=8)
requests = [PictureRequest(prompt=prompt, seed=SEED + index) for index, prompt in enumerate(PROMPTS)]
before = engine.draw(requests, how).pictures

# %% [markdown]
# **Predict** (`stop_at`). After 45 steps, is the loss on pictures that were kept out lower than without training, the
# same, or higher? And which figure looks best, that of the training picture or that of the others?

# %%
predict("stop_at", "lower, it has learned something; both alike")

# %%
STEPS, BATCH, RATE = 45, 3, 1e-2
if "attached" in globals():  # this cell ran before: begin with the base again
    attached.detach()
layers = select(adaptable_layers(unet), "attn")
attached = attach_new(unet, "unet", layers, rank=4, alpha=4, seed=SEED)
optimizer = torch.optim.AdamW(attached.parameters(), lr=RATE)
curve = {"steps": [], "training picture": [], "kept out": []}
on_the_way = {0: before[:2]}
plain_losses = []


def measure(step):
    curve["steps"].append(step)
    curve["training picture"].append(loss_at_fixed_noise(latents, states))
    curve["kept out"].append(loss_at_fixed_noise(kept_out_latents, kept_out_states))


measure(0)
for step in range(STEPS):
    timesteps = torch.tensor([timestep_for(SEED, step, index) for index in range(BATCH)]).to(DEVICE)
    noise = torch.stack([noise_for(SEED, step, index, latents.shape[1:]) for index in range(BATCH)]).to(
        DEVICE
    )
    noisy = add_noise(latents.expand(BATCH, -1, -1, -1), noise, timesteps, alphas)
    answer = unet(noisy, timesteps, encoder_hidden_states=states.expand(BATCH, -1, -1), return_dict=False)[0]
    loss = F.mse_loss(answer, noise)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    plain_losses.append(loss.item())
    if (step + 1) % 5 == 0:
        measure(step + 1)
    if (step + 1) % 15 == 0:
        on_the_way[step + 1] = engine.draw(requests[:2], how).pictures

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
axes[0].plot(range(1, STEPS + 1), plain_losses)
axes[0].set_ylabel("training loss, random timesteps")
lowest_at = {}
for name in ("training picture", "kept out"):
    axes[1].plot(curve["steps"], curve[name], marker="o", label=name)
    lowest_at[name] = curve["steps"][int(np.argmin(curve[name]))]
axes[1].set_ylabel("loss at fixed noise")
axes[1].legend()
for axis in axes:
    axis.set_xlabel("steps")
show(
    figure,
    alt="Left the training loss, which jumps about; right the losses at fixed noise: "
    + "; ".join(
        f"{name} from {curve[name][0]:.3f} to {curve[name][-1]:.3f}, lowest after {lowest} steps"
        for name, lowest in lowest_at.items()
    ),
)
for step, seen, unseen in zip(*curve.values(), strict=True):
    print(f"after {step:>2} steps: training picture {seen:.4f}, kept out {unseen:.4f}")
change = {name: curve[name][-1] / curve[name][0] - 1 for name in ("training picture", "kept out")}

# %% [markdown]
# **Your turn.** After how many steps of this run would you have stopped?

# %%
stop_at = None
# BEGIN SOLUTION
# One of the numbers of steps above.
# PLACEHOLDER: stop_at = None
stop_at = curve["steps"][int(np.argmin(curve["kept out"]))]
# END SOLUTION

check(7, "stop_at", {"curve": curve, "stop_at": stop_at})
compare_with(
    "stop_at",
    f"against no training: kept out {change['kept out']:+.0%}, training picture {change['training picture']:+.0%}; "
    f"kept out is lowest after {stop_at} steps",
)

# %% [markdown]
# ## Look
#
# The training picture, and what is drawn without and with the adapter: first for the training prompt, then for the
# others.

# %%
over_steps = np.concatenate(list(on_the_way.values()))  # of each moment: training prompt, another prompt
target = [mean_abs_diff(picture, shot[:1]) for shot in on_the_way.values()]
show(
    grid(
        np.concatenate([over_steps[0::2], over_steps[1::2]]),
        len(on_the_way),
        row_labels=[f"training prompt: {PROMPTS[0]}", f"another: {PROMPTS[1]}"],
        column_labels=[f"after {step} steps" for step in on_the_way],
    ),
    alt="Overfitting over the steps. The training prompt's picture is away from the training picture by "
    + ", ".join(f"{far:.0f} of 255 after {step}" for step, far in zip(on_the_way, target, strict=True)),
)

# %%
after = engine.draw(requests, how).pictures
blank = np.full_like(picture, 255)
moved = [mean_abs_diff(before[i : i + 1], after[i : i + 1]) for i in range(len(PROMPTS))]
to_training = [mean_abs_diff(picture, one[None]) for one in (before[0], after[0])]
show(
    grid(
        np.concatenate([picture, before, blank, after]),
        1 + len(PROMPTS),
        row_labels=["the training picture, then pictures without the adapter", "with the adapter, 45 steps"],
        column_labels=["trained on", *PROMPTS],
    ),
    alt=f"The training picture, then {len(PROMPTS)} prompts without the adapter and below them with it. The training "
    f"prompt's picture is away from the training picture by {to_training[0]:.0f} of 255 without and "
    f"{to_training[1]:.0f} with it",
)
compare_with(
    "telling",
    f"training prompt {moved[0]:.1f} of 255, others "
    + ", ".join(f"{distance:.1f}" for distance in moved[1:]),
)
print(
    f"training prompt: {to_training[0]:.1f} of 255 from the training picture before, {to_training[1]:.1f} after"
)

# %% [markdown]
# ## Reflect
#
# <details><summary>Why is validating on the training prompt a trap?</summary>
#
# It asks for what was shown. The best answer to that is the picture itself, learned by heart, so the figure improves
# for as long as one trains, whatever becomes of everything else. Nothing in it can say "enough".
#
# </details>
#
# <details><summary>So what are ten steps on one picture good for?</summary>
#
# For finding out in half a minute that something is *not* connected: a rate of 0, an adapter that is not used, a
# dtype that swallows updates. What passes is not yet good. What fails will never be.
#
# </details>
#
# <details><summary>The left curve goes up and down by a factor of ten. Is the rate too high?</summary>
#
# It cannot be told from that curve: most of it is the luck of the timesteps. The right one, at fixed noise, can be
# read. detour's runs measure it on pictures that are kept out (`validate`), and `validate.keep_best` ships the
# weights of its lowest point.
#
# </details>

# %%
check.finish(7)
