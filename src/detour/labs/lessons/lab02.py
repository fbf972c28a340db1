# %% [markdown]
# # Lab 2. One training step by hand
#
# **What you will see.** One picture becomes latents, gets noise, is shown to the UNet; the answer becomes a loss, and
# the loss becomes gradients. You predict the shape of everything before you see it, write the two lines that are most
# often wrong, find out why half of an adapter has no gradient at first, and put the same step for a language model
# beside it.
#
# You need to have seen `loss.backward()` before.

# %%
BASE = "pocket"  # the one line to change, e.g. to "stable-diffusion-v1-5/stable-diffusion-v1-5"
SEED = 0  # of the picture, the noises, the timestep and the adapter's start

import re

import matplotlib.pyplot as plt
import torch

from detour.adapters.attach import attach_new
from detour.adapters.targets import adaptable_layers, select
from detour.bases.base import open_base
from detour.bases.denoiser import make_denoiser
from detour.bases.hardware import pick_device
from detour.bases.latents import to_pixels
from detour.diffusion.randomness import noise_for
from detour.diffusion.schedule import alphas_cumprod
from detour.labs import check, compare_with, predict, show
from detour.verbs.explain.example import open_example

DEVICE = pick_device()
opened = open_base(BASE)
example = open_example(None, None, size_px=opened.native_size_px, seed=SEED)
pixels = to_pixels(example.picture[None]).to(DEVICE)  # from -1 to 1
show(
    example.picture,
    alt="The one picture of this lab: a scene of simple shapes in a comic style with thick outlines.",
)
print(f"'{example.caption}'")

# %% [markdown]
# ## Do: the shapes
#
# The batch is one picture. What you need: pictures have 3 channels; the VAE shrinks each side by `latent_factor` and
# has `latent_channels` channels; a prompt has `text_length` tokens (77 on Stable Diffusion 1.5), each a vector of
# `cross_attention_width` numbers; the UNet's answer has the shape of what it was asked.

# %% [markdown]
# **Predict** (`shapes`). How many times fewer numbers are the latents than the pixels?

# %%
predict("shapes", "eight times, for the VAE shrinks by eight")

# %%
print(f"picture side {opened.native_size_px}, latent factor {opened.latent_factor}")
print(f"latent channels {opened.latent_channels}, text width {opened.cross_attention_width}", end=", ")
print(f"text length {opened.text_length}")
# BEGIN SOLUTION
# Four tuples of ints: the shapes of pixels, latents, text states and the UNet's prediction, the batch first.
# PLACEHOLDER: shapes = {"pixels": None, "latents": None, "text": None, "prediction": None}
side = opened.native_size_px // opened.latent_factor
shapes = {
    "pixels": (1, 3, opened.native_size_px, opened.native_size_px),
    "latents": (1, opened.latent_channels, side, side),
    "text": (1, opened.text_length, opened.cross_attention_width),
    "prediction": (1, opened.latent_channels, side, side),
}
# END SOLUTION
check(2, "shapes", {"base": BASE, "shapes": shapes})
compare_with(
    "shapes", f"{torch.Size(shapes['pixels']).numel() / torch.Size(shapes['latents']).numel():g} times fewer"
)

# %% [markdown]
# ## Reason: from the picture to latents
#
# The UNet never sees pixels. The VAE's encoder gives a normal distribution for each picture; one draws from it, and
# multiplies by the VAE's `scaling_factor`, so that latents have a variance near one. Training code that skips the VAE,
# or the factor, runs without any error and trains on something that the UNet has never seen.
#
# ## Do: encode
#
# `vae.encode(pixels).latent_dist` has `.mean` and `.std`; `vae.config.scaling_factor` is the factor. `noise` is
# standard normal, with the shape of the mean.

# %% [markdown]
# **Predict** (`to_latents`). The scaling factor is there to bring the variance of latents near one. Is it between 0.9
# and 1.1 for this one picture?

# %%
predict("to_latents", "yes, exactly one")


# %%
def to_latents(vae, pixels, noise):
    """One draw of the latents of a picture, in the UNet's scale."""
    # BEGIN SOLUTION
    # Draw mean + std · noise from the VAE's distribution, and scale it.
    # PLACEHOLDER: return None
    distribution = vae.encode(pixels).latent_dist
    return (distribution.mean + distribution.std * noise) * vae.config.scaling_factor
    # END SOLUTION


check(2, "to_latents", to_latents)

# %%
vae = opened.load_vae(device=DEVICE)
with torch.no_grad():
    draw = noise_for(SEED, 0, 0, shapes["latents"], purpose="latent").to(DEVICE)
    latents = to_latents(vae, pixels, draw)
    # The VAE of a later base moves the mean as well.
    latents = latents - (vae.config.shift_factor or 0) * vae.config.scaling_factor
del vae  # the training step does not need it any more
text_stage = opened.load_text(device=DEVICE)
text = text_stage.encode([example.caption]).to(DEVICE)
del text_stage
print(f"pixels {tuple(pixels.shape)}, latents {tuple(latents.shape)}, text {tuple(text.states.shape)}")
spread = float(latents.var())
inside = "inside" if 0.9 < spread < 1.1 else "outside"
compare_with("to_latents", f"variance {spread:.2f}, {inside} that range; mean {latents.mean():.2f}")

# %% [markdown]
# ## Do: the loss
#
# The UNet is shown noisy latents and asked for the noise. The loss is the mean squared difference.
# `predict_noise(noisy, timestep)` asks the UNet; `alphas[timestep]` is `ᾱ`. (A flow-matching base is asked for a
# velocity; below, its answer is turned into the noise that it means, so that the loss is the same one.)

# %% [markdown]
# **Predict** (`diffusion_loss`). The same picture, the same weights, no training in between: how much does the loss
# differ between a little noise (timestep 50) and a lot (timestep 950)?

# %%
predict("diffusion_loss", "not much: it is the same picture")


# %%
def diffusion_loss(predict_noise, latents, noise, timestep, alphas):
    """The loss of one training step, a scalar."""
    # BEGIN SOLUTION
    # Make noisy latents, ask for the noise, and compare it with the true noise.
    # PLACEHOLDER: return None
    noisy = alphas[timestep].sqrt() * latents + (1 - alphas[timestep]).sqrt() * noise
    return (predict_noise(noisy, timestep) - noise).square().mean()
    # END SOLUTION


check(2, "diffusion_loss", diffusion_loss)

# %%
unet = opened.load_network(device=DEVICE)
levels = torch.arange(1000, device=DEVICE) / 1000  # σ of a rectified flow
if opened.is_flow:
    alphas = (1 - levels).square() / ((1 - levels).square() + levels.square())
else:
    alphas = alphas_cumprod(opened.scheduler_config()).to(DEVICE)
noise = noise_for(SEED, 0, 0, tuple(latents.shape)).to(DEVICE)


def predict_noise(noisy, timestep):
    if opened.is_flow:
        return noise_of_flow(noisy, levels[timestep])
    return unet(noisy, torch.tensor([timestep], device=DEVICE), encoder_hidden_states=text.states).sample


def noise_of_flow(noisy, level):
    """A flow sees (1 − σ) x + σ ε and answers ε − x: the same question in other units."""
    shown = noisy * ((1 - level) ** 2 + level**2).sqrt()  # the squares of its two weights do not sum to one
    velocity = denoiser.predict(shown, level[None], text)
    return shown + (1 - level) * velocity


denoiser = make_denoiser(opened, unet, device=DEVICE, dtype=torch.float32)


stops = [50, 200, 350, 500, 650, 800, 950]
with torch.no_grad():
    losses = [float(diffusion_loss(predict_noise, latents, noise, stop, alphas)) for stop in stops]
figure, axes = plt.subplots(figsize=(6, 3))
axes.plot(stops, losses, "o-")
axes.set_xlabel("timestep")
axes.set_ylabel("loss, same picture and weights")
axes.set_ylim(bottom=0)
show(
    figure,
    alt="The loss over the timestep: "
    + ", ".join(f"{loss:.3f} at {stop}" for stop, loss in zip(stops, losses, strict=True)),
)
compare_with(
    "diffusion_loss",
    f"{losses[0]:.3f} at timestep 50, {losses[-1]:.3f} at 950: {losses[0] / losses[-1]:.0f} times",
)

# %% [markdown]
# Little noise is hard to tell from picture, much noise is easy. Training draws a new timestep at every step, so the
# training loss jumps up and down by such factors, whatever is learned. "The loss should fall" can be asked only of
# *fixed* timesteps with fixed noise, on pictures that are not trained on. Lab 3 does.
#
# ## Do: the gradients
#
# Now the adapter: rank 4 beside every attention layer. `down` starts at random and `up` at zero. One backward pass; the
# update waits.

# %% [markdown]
# **Predict** (`gradients`). An adapter has a `down` and an `up` in every layer. After the very first backward pass,
# which share of its tensors has a gradient that is not zero?

# %%
predict("gradients", "all of them, they are all trained")

# %%
if "attached" in globals():  # this cell ran before: begin with the base again
    attached.detach()
part = opened.family.network_part
dead = opened.dead_by_structure()  # layers that no gradient reaches: one on Stable Diffusion 3, none on 1.5
chosen = [
    layer
    for layer in select(adaptable_layers(unet), "attn")
    if not any(re.fullmatch(pattern, f"{part}.{layer.path}") for pattern in dead)
]
attached = attach_new(unet, part, chosen, rank=4, alpha=4.0, seed=SEED)
own = {id(parameter) for parameter in attached.parameters()}
base_tensors = [parameter for parameter in unet.parameters() if id(parameter) not in own]

loss = diffusion_loss(predict_noise, latents, noise, 500, alphas)
loss.backward()

# BEGIN SOLUTION
# Count: base tensors with a gradient; `down`s and `up`s whose gradient is not all zero.
# PLACEHOLDER: with_gradient = {"base": None, "down": None, "up": None}
with_gradient = {
    "base": sum(parameter.grad is not None for parameter in base_tensors),
    "down": sum(bool(down.grad.abs().max() > 0) for down, _ in attached.factors.values()),
    "up": sum(bool(up.grad.abs().max() > 0) for _, up in attached.factors.values()),
}
# END SOLUTION
check(2, "gradients", {"base": BASE, "counts": with_gradient})
num = 2 * len(attached.factors)
compare_with("gradients", f"{with_gradient['down'] + with_gradient['up']} of {num} tensors")

# %% [markdown]
# ## Reason: why half of them are zero
#
# One adapted layer computes `h = W x + s · up (down x)`. Say that the loss tells the layer `g = ∂loss/∂h`. Then
#
# `∂loss/∂up = s · g (down x)ᵀ`  and  `∂loss/∂down = s · upᵀ g xᵀ`
#
# The second one is multiplied by `up`. Write both for a whole batch: `x` is (N, in), `g` is (N, out), `down` is
# (rank, in), `up` is (out, rank).

# %% [markdown]
# **Predict** (`hand_gradients`). After one small update of `up`, how many of the `down`s will have a gradient?

# %%
predict("hand_gradients", "a few")


# %%
def hand_gradients(x, g, down, up, scale):
    """Gradients of down and up, as a pair."""
    # BEGIN SOLUTION
    # Return (gradient of down, gradient of up), each with the shape of its factor.
    # PLACEHOLDER: return None, None
    return scale * up.T @ g.T @ x, scale * g.T @ (x @ down.T)
    # END SOLUTION


check(2, "hand_gradients", hand_gradients)

# %% [markdown]
# With `up = 0` the gradient of `down` is zero by arithmetic. It is not a bug, and an alarm that demands gradients
# everywhere at the first step is wrong. After one update `up` has moved, and both learn:

# %%
for parameter in attached.parameters():
    parameter.grad = None
loss = diffusion_loss(predict_noise, latents, noise, 500, alphas)
loss.backward()
with torch.no_grad():
    for _, up in attached.factors.values():
        up -= 1e-3 * up.grad.sign()  # one small step downhill, as AdamW's first step is
for parameter in attached.parameters():
    parameter.grad = None
second = diffusion_loss(predict_noise, latents, noise, 500, alphas)
second.backward()
alive = sum(bool(down.grad.abs().max() > 0) for down, _ in attached.factors.values())
print(f"the same loss: {loss.item():.4f} before, {second.item():.4f} after one step")
touched = sum(one.grad is not None for one in base_tensors)
compare_with(
    "hand_gradients", f"{alive} of {len(attached.factors)} downs, and {touched} of the base's tensors"
)

# %% [markdown]
# **Predict** (`same`). The same data a second time, with nothing learned in between: does the loss of a language
# model change, and that of a diffusion model?

# %%
predict("same", "both stay as they are")

# %% [markdown]
# ## A language model beside it, line by line
#
# The same step twice: left a language model, right the UNet. The language model is tiny and random, because what counts
# here is the step and not the words. What differs between the two is one function, `loss_of`; everything else is the
# same code.

# %%
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(SEED)  # weights of the tiny model
config = LlamaConfig(
    vocab_size=256, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4
)
llm = LlamaForCausalLM(config).to(DEVICE)
tokens = torch.tensor([list(example.caption.encode())], device=DEVICE)


def llm_loss(_step):
    """The next token is asked for, at every place of the text; nothing is drawn at random."""
    logits = llm(tokens[:, :-1]).logits
    return torch.nn.functional.cross_entropy(logits[0], tokens[0, 1:])


def unet_loss(step):
    """The noise is asked for; noise and timestep are drawn anew in every step."""
    drawn = noise_for(SEED, step, 1, tuple(latents.shape)).to(DEVICE)
    return diffusion_loss(predict_noise, latents, drawn, (50, 950)[step % 2], alphas)


def one_step(beside, loss_of):
    """Loss, backward, update, loss again: the same lines for both."""
    optimizer = torch.optim.AdamW(beside.parameters(), lr=1e-3)
    asked_twice = [float(loss_of(step).detach()) for step in (0, 1)]
    loss_of(0).backward()
    silent = sum(bool(down.grad.abs().max() == 0) for down, _ in beside.factors.values())
    optimizer.step()
    optimizer.zero_grad()
    after = float(loss_of(0).detach())
    return {
        "layers with an adapter": f"{len(beside.factors)}",
        "downs without a gradient": f"{silent}",
        "the loss, step 0": f"{asked_twice[0]:.4f}",
        "the loss, step 1, nothing learned": f"{asked_twice[1]:.4f}",
        "step 0 again after one update": f"{after:.4f}",
    }


attached.detach()
attached = attach_new(unet, part, chosen, rank=4, alpha=4.0, seed=SEED)
llm_layers = select(adaptable_layers(llm), "q_proj,v_proj")
beside = attach_new(llm, "text_encoder", llm_layers, rank=4, alpha=4.0, seed=SEED)
left, right = one_step(beside, llm_loss), one_step(attached, unet_loss)
print(f"{'':34}{'language model':>16}{'UNet':>12}")
for line in left:
    print(f"{line:34}{left[line]:>16}{right[line]:>12}")

# %% [markdown]
# | line | language model | diffusion |
# |---|---|---|
# | what goes in | `tokens[:, :-1]` | `√ᾱ · latents + √(1 − ᾱ) · noise`, the timestep, text states |
# | what comes out | `logits`, a number for each word of the vocabulary | `sample`, a number for each latent |
# | what it is held against | `tokens[:, 1:]` | `noise` |
# | loss | `cross_entropy(logits, tokens)` | `(sample − noise)².mean()` |
# | drawn anew at every step | the texts | the pictures, *and* timestep, noise, latent draw |
# | `loss.backward(); optimizer.step()` | the same | the same |
# | frozen beside the step | nothing else | VAE and text encoder, which can leave memory |
#
# Which of these are the same in both? Answer `True` for the same, `False` for different.

# %%
# BEGIN SOLUTION
# Replace each None by True or False.
# PLACEHOLDER: same = {
# PLACEHOLDER:     "form of the adapter": None,
# PLACEHOLDER:     "frozen base": None,
# PLACEHOLDER:     "down has no gradient at first": None,
# PLACEHOLDER:     "loss function": None,
# PLACEHOLDER:     "random numbers in every step": None,
# PLACEHOLDER: }
same = {
    "form of the adapter": True,
    "frozen base": True,
    "down has no gradient at first": True,
    "loss function": False,
    "random numbers in every step": False,
}
# END SOLUTION
check(2, "same", same)
compare_with(
    "same",
    f"language model {left['the loss, step 0']} and {left['the loss, step 1, nothing learned']}, UNet "
    f"{right['the loss, step 0']} and {right['the loss, step 1, nothing learned']}",
)

# %% [markdown]
# ## Reflect
#
# <details><summary>A colleague's loss is 0.9 in one step and 0.02 in the next. Is the training broken?</summary>
#
# Probably not. You measured such factors between timesteps with nothing learned in between. Look at a loss at fixed
# timesteps with fixed noise.
#
# </details>
#
# <details><summary>Why is `up` zero at the start, and not `down` too?</summary>
#
# One zero factor is enough for the adapted layer to start as the frozen one. With both at zero, both gradients would be
# zero for ever, as your formulas show.
#
# </details>
#
# <details><summary>Which of the three models needs to be in memory while training?</summary>
#
# The UNet alone. Latents and text states can be computed once and kept (their mean and std, so that the draw stays
# random); the official scripts compute them again at every step.
#
# </details>

# %%
check.finish(2)
