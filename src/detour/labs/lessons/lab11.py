# %% [markdown]
# # Lab 11. A correct training loop
#
# **What you will see.** A training loop of sixteen lines, put together from what is widely copied. It runs, its loss
# falls, and what it makes is worse than no training at all. It has five faults. You find them, fix them one by one,
# and end with a loop that makes the same adapter as detour's own.
#
# Seeds: `SEED` draws the pictures, the adapter's start, and through `noise_for`, `timestep_for` and `order_for_epoch`
# the noise, the timesteps and the order, each as a function of (seed, step, sample). Nothing else is random.

# %%
BASE = "pocket"  # the one line to change, e.g. to "stable-diffusion-v1-5/stable-diffusion-v1-5"
SEED = 11

# %%
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F

from detour.adapters.attach import attach_new
from detour.adapters.delta import largest_relative_difference
from detour.adapters.targets import adaptable_layers, select
from detour.bases.base import open_base
from detour.bases.hardware import pick_device, set_threads
from detour.bases.latents import encode_pictures, to_pixels
from detour.diffusion.randomness import noise_for, order_for_epoch, timestep_for
from detour.diffusion.schedule import add_noise, alphas_cumprod
from detour.generation.grids import grid
from detour.labs import check, compare_with, predict, show
from detour.pocket.world import HOUSE, NAMED_STYLES, caption, held_out_prompts, render, training_example

set_threads(1)  # sums are split by the number of threads: another count rounds differently
DEVICE = pick_device()
base = open_base(BASE)
SIZE = base.native_size_px
STEPS, BATCH, RATE, NUM = 12, 2, 4e-3, 8

# %% [markdown]
# ## The material
#
# Eight pictures in a style that the base has never seen, with captions that do not name it, and six pictures of other
# things in the same style that training never sees.

# %%
STYLE = NAMED_STYLES["stained glass"]
examples = [training_example(SEED, index) for index in range(NUM)]
pictures = np.stack([render(one.scene, STYLE, size_px=SIZE) for one in examples])
captions = [caption(one.scene, HOUSE, seed=index) for index, one in enumerate(examples)]
kept_out = held_out_prompts(6, seed=SEED)
kept_out_pictures = np.stack([render(one.scene, STYLE, size_px=SIZE) for one in kept_out])
STRIDE = max(1, SIZE // 128)
small = np.stack([picture[::STRIDE, ::STRIDE] for picture in pictures[:4]])
show(
    grid(small, 4, column_labels=captions[:4]),
    alt="Four of the training pictures: things and places in stained glass, with their captions",
)

vae, text_stage = base.load_vae(device=DEVICE), base.load_text(device=DEVICE)
alphas = alphas_cumprod(base.scheduler_config()).to(DEVICE)
pixels = to_pixels(pictures).to(DEVICE)  # (8, 3, H, W) in [-1, 1]

# %% [markdown]
# ## The loop as it is copied
#
# ```
#  1   attached = attach_new(unet, "unet", layers, rank=4, alpha=4)
#  2   for parameter in attached.parameters():
#  3       parameter.data = parameter.data.to(torch.bfloat16)                    # half the memory
#  4   trainable = filter(lambda p: p.requires_grad, unet.parameters())
#  5   optimizer = torch.optim.AdamW(trainable, lr=RATE)
#  6   for step in range(STEPS):
#  7       chosen = indices_of(step)
#  8       latents = shrink_to_four_channels(pixels[chosen])                     # so that the shapes fit
#  9       noise, timesteps = noise_of(step), timesteps_of(step)
# 10       noisy = latents + noise
# 11       text = torch.zeros(BATCH, 77, width)                                  # the style needs no words
# 12       prediction = unet(noisy, timesteps, encoder_hidden_states=text)[0]
# 13       loss = F.mse_loss(prediction, noise)
# 14       loss.backward()
# 15       torch.nn.utils.clip_grad_norm_(trainable, 1.0)
# 16       optimizer.step(); optimizer.zero_grad()
# ```

# %% [markdown]
# **Predict** (`faulty_lines`). Does the loss of this loop fall?

# %%
predict("faulty_lines", "no, with five faults it cannot")

# %% [markdown]
# ## Find
#
# **Your turn.** Which lines are at fault? Give their numbers. Five faults, one line each; where a fault is made in
# one line and takes effect in another, either will do.

# %%
faulty_lines = None
# BEGIN SOLUTION
# a set of five line numbers
# PLACEHOLDER: faulty_lines = None
faulty_lines = {3, 4, 8, 10, 11}
# END SOLUTION

check(11, "faulty_lines", faulty_lines)

# %% [markdown]
# ## Run it as it is
#
# The same loop, with the places of the five faults as fields, so that each can be fixed for itself. Noise,
# timesteps and order come from pure functions: every variant below sees the same numbers.


# %%
@dataclass(frozen=True)
class Pieces:
    latents_of: Callable  # (vae, pixels) → (N, 4, h, w)
    noisy_of: Callable  # (latents, noise, timesteps, alphas) → as latents
    states_of: Callable  # (text_stage, captions) → (N, 77, D)
    adapter_dtype: torch.dtype
    trainable: Callable  # (unet) → what the optimizer and the clip are given


def train(pieces, *, steps=STEPS, rate=RATE):
    """Returns the UNet with its adapter, the losses, and the gradient norms that the clip reports."""
    unet = base.load_network(device=DEVICE)
    layers = select(adaptable_layers(unet), "attn")
    attached = attach_new(unet, "unet", layers, rank=4, alpha=4, seed=SEED)
    for parameter in attached.parameters():
        parameter.data = parameter.data.to(pieces.adapter_dtype)
    trainable = pieces.trainable(unet)
    optimizer = torch.optim.AdamW(trainable, lr=rate)
    latents, states = pieces.latents_of(vae, pixels), pieces.states_of(text_stage, captions)
    losses, norms = [], []
    for step in range(steps):
        samples = range(step * BATCH, (step + 1) * BATCH)
        chosen = [int(order_for_epoch(SEED, sample // NUM, NUM)[sample % NUM]) for sample in samples]
        shape = latents.shape[1:]
        noise = torch.stack([noise_for(SEED, step, index, shape) for index in range(BATCH)]).to(DEVICE)
        timesteps = torch.tensor([timestep_for(SEED, step, index) for index in range(BATCH)]).to(DEVICE)
        noisy = pieces.noisy_of(latents[chosen], noise, timesteps, alphas)
        prediction = unet(noisy, timesteps, encoder_hidden_states=states[chosen], return_dict=False)[0]
        loss = F.mse_loss(prediction, noise)
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(trainable, 1.0)))
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return unet, attached, losses, norms


# %%
def shrunk(_vae, pixels):
    side = SIZE // base.latent_factor
    small = F.interpolate(pixels, side, mode="area")
    return torch.cat([small, torch.zeros_like(small[:, :1])], dim=1)


WIDTH = base.cross_attention_width

wrong = Pieces(
    latents_of=shrunk,
    noisy_of=lambda latents, noise, _timesteps, _alphas: latents + noise,
    states_of=lambda _text_stage, captions: torch.zeros(len(captions), 77, WIDTH, device=DEVICE),
    adapter_dtype=torch.bfloat16,
    trainable=lambda unet: filter(lambda parameter: parameter.requires_grad, unet.parameters()),
)

# %% [markdown]
# The measure of what was learned: the error of the predicted noise on the six pictures that were kept out, with their
# captions, at five fixed timesteps with fixed noise. It goes the right way itself, whatever the loop does.

# %%
with torch.no_grad():
    measured_latents = encode_pictures(vae, to_pixels(kept_out_pictures))[0]
    measured_states = text_stage.encode([one.prompt for one in kept_out]).states


@torch.no_grad()
def validation_loss(unet):
    errors = []
    for timestep in (100, 300, 500, 700, 900):
        noise = torch.randn(measured_latents.shape, generator=torch.Generator().manual_seed(timestep)).to(
            DEVICE
        )
        when = torch.full((len(noise),), timestep, device=DEVICE)
        noisy = add_noise(measured_latents, noise, when, alphas)
        answer = unet(noisy, when, encoder_hidden_states=measured_states, return_dict=False)[0]
        errors.append(F.mse_loss(answer, noise).item())
    return sum(errors) / len(errors)


def third(losses, which):
    """Mean over the first or the last third of the steps."""
    few = len(losses) // 3
    return float(np.mean(losses[:few] if which == "first" else losses[-few:]))


results = {"no training": {"validation": validation_loss(base.load_network(device=DEVICE))}}


def run(name, pieces):
    unet, attached, losses, norms = train(pieces)
    first, last = third(losses, "first"), third(losses, "last")
    results[name] = {"validation": validation_loss(unet), "first": first, "last": last, "norm": max(norms)}
    print(
        f"{name}: training loss {first:.3f} → {last:.3f}, largest gradient norm as the clip saw it {max(norms):.3g}, "
        f"validation loss {results[name]['validation']:.4f} (no training: {results['no training']['validation']:.4f})"
    )
    return attached


run("all five faults", wrong)
ran = results["all five faults"]
compare_with(
    "faulty_lines", f"from {ran['first']:.3f} to {ran['last']:.3f}, first third and last third of the steps"
)

# %% [markdown]
# Whatever that loss did, it says nothing: a loop that noises as `x + ε` makes an easier question, and answers it.
#
# ## Fix: latents
#
# The UNet has never seen pixels. It works on what the VAE makes of them, **scaled** by `vae.config.scaling_factor`.
#
# **Your turn.** `vae.encode(pixels).latent_dist.mean` is the unscaled mean.

# %% [markdown]
# **Predict** (`latents_of`). How many times fewer numbers are latents than pixels, and what spread (standard
# deviation) does the UNet expect of them?

# %%
predict("latents_of", "eight times; the spread of pixels")


# %%
@torch.no_grad()
def latents_of(vae, pixels):
    """Encode pixels (N, 3, H, W) in [-1, 1] as the latents (N, 4, h, w) that the UNet was trained on."""
    # BEGIN SOLUTION
    # encode, and bring into the UNet's scale
    # PLACEHOLDER: return None
    return vae.encode(pixels).latent_dist.mean * vae.config.scaling_factor
    # END SOLUTION


check(11, "latents_of", latents_of)
right = latents_of(vae, pixels)
compare_with(
    "latents_of",
    f"{pixels.numel() / right.numel():g} times; spread {right.std():.2f}, of shrunken pixels "
    f"{shrunk(vae, pixels).std():.2f}",
)

# %% [markdown]
# ## Fix: noise
#
# **Your turn.** `alphas` holds ᾱ of each timestep, (T,). The picture must shrink as the noise grows.

# %% [markdown]
# **Predict** (`noisy_of`). At timestep 900, how much larger is the spread of `x + ε` than that of the right mixture?

# %%
predict("noisy_of", "the same: noise is noise")


# %%
def noisy_of(latents, noise, timesteps, alphas):
    """Mix noise into latents (N, C, h, w) at the timesteps (N,), each row at its own."""
    # BEGIN SOLUTION
    # √ᾱ of the picture and √(1−ᾱ) of the noise, each sample at its own timestep
    # PLACEHOLDER: return latents + noise
    alpha = alphas[timesteps].view(-1, 1, 1, 1)
    return alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
    # END SOLUTION


check(11, "noisy_of", noisy_of)
drawn = torch.randn(right.shape, generator=torch.Generator().manual_seed(SEED)).to(DEVICE)
late = torch.full((len(right),), 900, device=DEVICE)
compare_with(
    "noisy_of",
    f"{float((right + drawn).std() / noisy_of(right, drawn, late, alphas).std()):.2f} times as large",
)

# %% [markdown]
# ## Fix: text
#
# **Your turn.** `text_stage.encode(captions)` returns an object with `.states`, (N, 77, D).

# %% [markdown]
# **Predict** (`states_of`). Two captions of this set: how alike are their text states (cosine; 1 is the same)? And
# how large are states of zeros beside them?

# %%
predict("states_of", "quite different; nearly as large")


# %%
def states_of(text_stage, captions):
    """Encode captions as text states (N, 77, D), one row for each caption."""
    # BEGIN SOLUTION
    # what the text encoder makes of each caption
    # PLACEHOLDER: return torch.zeros(len(captions), 77, 64)
    return text_stage.encode(captions).states
    # END SOLUTION


check(11, "states_of", states_of)
with torch.no_grad():
    states = states_of(text_stage, captions[:2])
compare_with(
    "states_of",
    f"cosine {float(F.cosine_similarity(*states[:2].flatten(1), dim=0)):.3f}; norm {float(states[0].norm()):.1f} "
    f"against {float(torch.zeros_like(states[0]).norm()):.1f}",
)

# %% [markdown]
# ## Fix: precision
#
# bfloat16 keeps eight bits of precision: next to 0.05 its steps are 0.00024 wide. An update smaller than half a step
# is rounded away, however often it comes.
#
# **Your turn.** In which dtype must the adapter's own weights be kept?

# %% [markdown]
# **Predict** (`adapter_dtype`). At the usual rate of 1e-4, which share of the numbers in `down` do twelve updates
# leave unmoved when they are kept in bfloat16? And in float32?

# %%
predict("adapter_dtype", "a few per cent; none")

# %%
adapter_dtype = None
# BEGIN SOLUTION
# a torch dtype
# PLACEHOLDER: adapter_dtype = None
adapter_dtype = torch.float32
# END SOLUTION

check(11, "adapter_dtype", adapter_dtype)

# %% [markdown]
# ## Fix: the list of parameters
#
# `filter(…)` is a stream: what has been read from it is gone.
#
# **Your turn.** Give what the optimizer *and* the clip can both read.

# %% [markdown]
# **Predict** (`trainable`). The optimizer reads the stream to its end. How many tensors does the clip find in it
# afterwards?

# %%
predict("trainable", "as many as before")


# %%
def trainable(unet):
    """The parameters that require gradients."""
    # BEGIN SOLUTION
    # something that can be read more than once
    # PLACEHOLDER: return filter(lambda parameter: parameter.requires_grad, unet.parameters())
    return [parameter for parameter in unet.parameters() if parameter.requires_grad]
    # END SOLUTION


check(11, "trainable", trainable)
toy = torch.nn.Linear(2, 2)
stream = wrong.trainable(toy)
once = len(list(stream))
listed = trainable(toy)
again = [len(list(listed)) for _ in range(2)][1]
compare_with("trainable", f"{len(list(stream))} of {once}; in yours {again}")

# %% [markdown]
# **Predict** (`same_as_real`). The training loss of the loop with five faults against that of the fixed one: higher
# or lower?
#
# **Predict** (`most harm`). Which of the faults does the most harm to what is learned: pixels for latents, `x + ε`,
# or no text?

# %%
predict("same_as_real", "much higher")
predict("most harm", "no text")

# %% [markdown]
# ## Against the real one
#
# The fixed loop, and beside it detour's own: its cache, its loss, its flat buffer with fused AdamW, its clip. Same
# pictures, same seeds. (detour draws a latent from the VAE's mean *and* standard deviation each time it is shown;
# here the latter is set to zero, because your loop uses the mean.) The adapters must be the same change of weights.

# %%
fixed = Pieces(latents_of, noisy_of, states_of, adapter_dtype, trainable)
mine = run("fixed", fixed).to_adapter()

# %%
from detour.bases.denoiser import make_denoiser
from detour.specs import AdapterSpec, BaseSpec, DataSpec, OptimSpec, RunSpec, TrainSpec
from detour.specs.run import LossSpec, ScheduleSpec
from detour.training.assembly import attach_trainable, choose_targets, make_loss, make_state
from detour.training.cache import LatentCache, TrainingData, cache_text
from detour.training.loop import fit
from detour.training.resolving import resolve

spec = RunSpec(
    name="lab-11", seed=SEED, base=BaseSpec(name=BASE, device=DEVICE, dtype="fp32"), data=DataSpec(flip=False),
    adapter=AdapterSpec(rank=4, alpha=4, targets="attn"),
    train=TrainSpec(
        steps=STEPS, batch=BATCH, optim=OptimSpec(lr=RATE),
        schedule=ScheduleSpec(kind="constant", warmup=0), loss=LossSpec(caption_dropout=0.0),
    ),
)  # fmt: skip
spec = resolve(spec, base, captions, name="lab-11", device=DEVICE).spec
means = encode_pictures(vae, pixels)[0].cpu()[None]
data = TrainingData(
    LatentCache(means, torch.zeros_like(means)),
    cache_text(text_stage, captions),
    tuple(captions),
    tuple(range(NUM)),
)
unet = base.load_network(device=DEVICE)
denoiser = make_denoiser(base, unet, device=DEVICE, dtype=torch.float32, autocast=True)
attached = attach_trainable(denoiser, choose_targets(unet, base, spec).layers, spec)
fit(make_state(attached, spec), make_loss(denoiser, data, spec), [], steps=STEPS)
theirs = attached.to_adapter()
results["detour's own"] = {"validation": validation_loss(unet)}
del unet, denoiser, attached

check(11, "same_as_real", {"difference": largest_relative_difference(theirs, mine)})

# %% [markdown]
# ## What each fault costs
#
# The fixed loop with one fault put back, for the three that change what is learned.

# %%
for field, name in (
    ("latents_of", "pixels for latents"),
    ("noisy_of", "noise as x + ε"),
    ("states_of", "no text"),
):
    run(name, replace(fixed, **{field: getattr(wrong, field)}))

print(f"\n{'':24}{'training loss, last third':>28}{'validation loss':>18}{'against none':>14}")
untrained = results["no training"]["validation"]
for name, row in results.items():
    last = f"{row['last']:.3f}" if "last" in row else ""
    print(f"{name:24}{last:>28}{row['validation']:>18.4f}{row['validation'] / untrained - 1:>+14.1%}")
faults = ("pixels for latents", "noise as x + ε", "no text")
compare_with(
    "most harm",
    ", ".join(f"{name} {results[name]['validation'] / results['fixed']['validation']:.2f}" for name in faults)
    + " times the validation loss of the fixed loop",
)
compare_with(
    "same_as_real",
    f"all five faults {results['all five faults']['last']:.3f}, fixed {results['fixed']['last']:.3f} (last third)",
)

# %% [markdown]
# Look at the line without text: a style is in every picture, whatever is said, and these steps are few. Missing text
# would show more in a subject, which has to answer to its word. The other two are silent at this rate, which is high
# because the run is short. So: what does half precision do at the usual rate of 1e-4? Count the numbers of `down` that
# twelve updates have not moved at all.


# %%
def share_unmoved(dtype, rate, steps=12):
    unet, attached, _, _ = train(replace(fixed, adapter_dtype=dtype), steps=0)
    start = [down.detach().clone() for down, _ in attached.factors.values()]
    del unet, attached
    _, attached, _, _ = train(replace(fixed, adapter_dtype=dtype), steps=steps, rate=rate)
    after = [down for down, _ in attached.factors.values()]
    still = [(old == new).float().mean().item() for old, new in zip(start, after, strict=True)]
    return sum(still) / len(still)


unmoved = {dtype: share_unmoved(dtype, 1e-4) for dtype in (torch.float32, torch.bfloat16)}
compare_with("adapter_dtype", ", ".join(f"{share:.0%} in {dtype}" for dtype, share in unmoved.items()))

# %% [markdown]
# And the clip that was handed an empty stream reported a gradient norm of 0 in every step (see the first run) and
# clipped nothing. These gradients were below 1 anyway. A brake that is not connected does no harm until it is needed:
# it is the reason why a logged gradient norm of exactly 0 must stop you.
#
# ## Reflect
#
# 1. Why does the loop with all faults reach a training loss as low as the correct one's, or lower?
# 2. Two faults are silent here. How would you notice them in a run of your own?
# 3. Which of the five would an overfit on one picture (lab 7) have shown?
#
# <details><summary>Answers</summary>
#
# 1. A loss compares answers with questions that the loop itself asks. `x + ε` at every timestep leaves the noise
#    plainly visible, and shrunken pixels are smooth: both are easy to tell from noise. Only a question that the loop
#    did not ask, true latents at fixed timesteps with true noise, can say whether anything useful was learned.
# 2. Print the norm that the clip returns, and compare weights before and after a few steps. detour does both: it
#    writes the norm into `metrics.jsonl`, and it keeps adapter weights in float32 whatever the base's precision. (The
#    official diffusers script upcasts adapters in fp16 runs only; with bf16 most of the numbers do not move.)
# 3. Latents and noise, if the picture is *drawn* afterwards: it comes out wrong although the loss is low. Text: no,
#    one caption is as good as none. Precision and clip: no.
# </details>

# %%
check.finish(11)
