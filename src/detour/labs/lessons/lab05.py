# %% [markdown]
# # Lab 5. Baseline
#
# **What you will see.** Before anything can be said about an adapter, the base alone must be understood: which parts
# it has, what each makes of a prompt, and what it takes for the same seed to give the same picture twice. You write
# the two functions in which most homemade pipelines go wrong, the start noise and the way back to pixels, and measure
# what each mistake costs.
#
# Seeds: `SEED` is that of the first picture, picture i uses `SEED + i`. Nothing else is random.

# %%
BASE = "pocket"  # the one line to change, e.g. to "stable-diffusion-v1-5/stable-diffusion-v1-5"
SEED = 5  # of the first picture

# %%
import numpy as np
import torch

from detour.bases.base import open_base
from detour.bases.hardware import pick_device, set_threads
from detour.evaluation.pixels import max_abs_diff, mean_abs_diff
from detour.generation.engine import PictureEngine, PictureRequest
from detour.generation.grids import grid
from detour.generation.schedulers import make_scheduler
from detour.labs import check, compare_with, predict, show
from detour.specs import PictureSpec

set_threads(1)
torch.set_grad_enabled(False)
DEVICE = pick_device()

base = open_base(BASE)
PROMPT = "a red house in the desert"
STEPS = 10

# %% [markdown]
# ## The parts
#
# A latent diffusion model is three models and a schedule. The text encoder turns words into states, the UNet turns
# noise and states into less noise, the VAE turns what is left into pixels. Their settings are enough to count them:
# the *meta* device makes every shape and allocates nothing.
#
# **Your turn.** Count the parameters of each part.

# %% [markdown]
# **Predict** (`parameters`). Which part has most of the parameters, text encoder, UNet or VAE, and what share?

# %%
predict("parameters", "the UNet, nearly all of it")

# %%
from detour.bases.parts import empty_part

parts = {
    "text_encoder": base.meta_text()["text_encoder"],
    "unet": base.meta_network(),
    "vae": empty_part("vae", base.config("vae")),
}
parameters = {}
# BEGIN SOLUTION
# part → number of parameters, an int
# PLACEHOLDER: parameters = {"text_encoder": 0, "unet": 0, "vae": 0}
parameters = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
# END SOLUTION

check(5, "parameters", {"parts": parts, "parameters": parameters})

# %%
total = sum(parameters.values())
for name, number in parameters.items():
    print(f"{name:14}{number:>14,}{number / total:>8.1%}")
largest = max(parameters, key=parameters.get)
compare_with("parameters", f"{largest}, {parameters[largest] / total:.0%} of {total:,}")

# %% [markdown]
# ## Shapes
#
# **Your turn.** What does the UNet read for one picture at the base's own size? Give the shape of the latents
# (channels, height, width) and of the text states (tokens, width), and how many times fewer numbers the latents are
# than the RGB picture. `base.latent_factor` is how many pixels one latent is wide; every prompt becomes as many
# tokens as the text encoder reads at most, `base.config("text_encoder")["max_position_embeddings"]`.

# %% [markdown]
# **Predict** (`shapes`). The UNet works on how many times fewer numbers than the picture has?

# %%
predict("shapes", "eight times fewer, for the VAE shrinks by eight")

# %%
size_px = base.native_size_px
latent_shape = text_shape = compression = None
# BEGIN SOLUTION
# two tuples and a number
# PLACEHOLDER: latent_shape, text_shape, compression = None, None, None
side = size_px // base.latent_factor
latent_shape = (base.latent_channels, side, side)
text_shape = (base.config("text_encoder")["max_position_embeddings"], base.cross_attention_width)
compression = 3 * size_px * size_px / np.prod(latent_shape)
# END SOLUTION

check(
    5, "shapes",
    {"base": base, "latent_shape": latent_shape, "text_shape": text_shape, "compression": compression},
)  # fmt: skip
compare_with(
    "shapes",
    f"{compression:g} times fewer: a side is {base.latent_factor} times shorter, {latent_shape[0]} channels "
    "in place of 3",
)

# %% [markdown]
# ## The start noise
#
# All that makes one picture of a prompt different from another is the noise that it starts from. So that a seed *is*
# a picture, its noise must depend on the seed and on nothing else: not on the other pictures of the batch, not on
# what was drawn before, not on the machine. Hence one generator for each picture, on the CPU, whatever device draws.
#
# **Your turn.** Write it without touching the global generator (`torch.manual_seed`): other code draws from that one
# too.

# %% [markdown]
# **Predict** (`start_noise`). Seeds that are neighbours, such as 5 and 6: how alike are their noises (correlation; 1
# is the same)?

# %%
predict("start_noise", "a little, they are neighbours")


# %%
def start_noise(seeds, shape):
    """Draw start noise from a standard normal law, (len(seeds), *shape); row i depends on seeds[i] alone."""
    # BEGIN SOLUTION
    # a generator for each seed
    # PLACEHOLDER: torch.manual_seed(seeds[0])
    # PLACEHOLDER: return torch.randn(len(seeds), *shape)
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    # END SOLUTION


check(5, "start_noise", start_noise)
pair = start_noise([SEED, SEED + 1], latent_shape).flatten(1)
alike = float(torch.corrcoef(pair)[0, 1])
compare_with(
    "start_noise", f"correlation {alike:+.3f}, where chance alone brings about ±{pair.shape[1] ** -0.5:.3f}"
)

# %% [markdown]
# ## The way back to pixels
#
# The UNet sees latents that were multiplied by the VAE's `scaling_factor`; the decoder wants them without. What it
# returns lies in [−1, 1] and a little beyond.
#
# **Your turn.** Latents to bytes. `vae.decode(latents).sample` is (N, 3, H, W).

# %% [markdown]
# **Predict** (`decode`). Somebody forgets to divide by SD 1.5's scaling factor, 0.18215. How far is the picture off,
# of 255 on average?

# %%
predict("decode", "a little darker, by 5")


# %%
def decode(vae, latents):
    """Decode latents (N, 4, h, w), as the UNet leaves them, into pictures, uint8 (N, H, W, 3)."""
    # BEGIN SOLUTION
    # undo the scale, decode, bring [-1, 1] to 0 … 255, round
    # PLACEHOLDER: return None
    pixels = vae.decode(latents / vae.config.scaling_factor).sample
    unit = (pixels / 2 + 0.5).clamp(0, 1)
    return (unit * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    # END SOLUTION


check(5, "decode", decode)

# %% [markdown]
# **Predict** (`same_as_engine`). Your loop of ten lines against detour's engine, same seeds: how far apart are the
# pictures, of 255?

# %%
predict("same_as_engine", "a few steps, there must be tricks in it")

# %% [markdown]
# ## Draw
#
# The whole of text-to-image, with your two functions. `init_noise_sigma` is how large the sampler wants its start
# noise; it is 1 for DDIM and more for others, as you will see.

# %%
text_stage = base.load_text(device=DEVICE)
text = text_stage.encode([PROMPT, ""]).states
del text_stage  # loaded, used, freed: half a gigabyte on SD 1.5
unet, vae = base.load_network(device=DEVICE), base.load_vae(device=DEVICE)


def draw(seeds, *, sampler="dpm++", noise_scale=None, guidance=2.0, decoder=decode):
    """Draw uint8 pictures of PROMPT."""
    scheduler = make_scheduler(sampler, base.scheduler_config())
    scheduler.set_timesteps(STEPS)
    scale = scheduler.init_noise_sigma if noise_scale is None else noise_scale
    latents = start_noise(seeds, latent_shape).to(DEVICE) * scale
    states = torch.cat([text[1:].expand(len(seeds), -1, -1), text[:1].expand(len(seeds), -1, -1)])
    for timestep in scheduler.timesteps:
        both = scheduler.scale_model_input(torch.cat([latents, latents]), timestep)
        without, with_prompt = unet(both, timestep, encoder_hidden_states=states, return_dict=False)[0].chunk(
            2
        )
        prediction = without + guidance * (with_prompt - without)
        latents = scheduler.step(prediction, timestep, latents, return_dict=False)[0]
    return decoder(vae, latents)


seeds = [SEED + index for index in range(3)]
pictures = draw(seeds)
engine = PictureEngine(base, unet=unet, vae=vae, text=base.load_text(device=DEVICE), device=DEVICE)
theirs = engine.draw(
    [PictureRequest(prompt=PROMPT, seed=seed) for seed in seeds], PictureSpec(steps=STEPS, guidance_scale=2.0)
).pictures
del engine
show(
    grid(pictures, 3, column_labels=[f"seed {seed}" for seed in seeds]),
    alt=f"Three pictures of '{PROMPT}' from three seeds",
)
check(5, "same_as_engine", {"mine": pictures, "theirs": theirs})
compare_with(
    "same_as_engine",
    f"{max_abs_diff(pictures, theirs)} of 255 at most, {mean_abs_diff(pictures, theirs):.4f} on average",
)

# %% [markdown]
# **Predict** (`determinism`). Does a seed give the same bytes when two other pictures are drawn beside it? And on two
# CPU threads in place of one?

# %%
predict("determinism", "yes, bit for bit in both")

# %% [markdown]
# ## What determinism needs
#
# The first seed again, under conditions that should not matter.


# %%
def against(name, others):
    worst, mean = max_abs_diff(pictures[:1], others[:1]), mean_abs_diff(pictures[:1], others[:1])
    print(f"{name:42} largest difference {worst:>3} of 255, mean {mean:.4f}")
    return worst


same = against("again", draw(seeds))
alone = against("alone instead of beside two others", draw(seeds[:1]))
set_threads(2)
threads = against("two CPU threads instead of one", draw(seeds))
set_threads(1)
another = against("another seed", draw([SEED + 1]))

# %% [markdown]
# The same program on the same machine gives the same bytes. Another batch size or another number of threads sums
# in another order, rounds otherwise, and may move a value by a step: the same picture, not always the same file. So
# whoever promises bytes has to record both, as detour does in each picture's metadata.
#
# **Your turn.** Put the conditions where they belong: which of them must be the same for the same *bytes*, and which
# for the same *picture* (apart from rounding)?

# %%
CONDITIONS = ("seed", "prompt", "steps", "sampler", "batch size", "CPU threads", "time of day", "file name")
for_bytes = for_picture = None
# BEGIN SOLUTION
# two sets of CONDITIONS
# PLACEHOLDER: for_bytes, for_picture = None, None
for_picture = {"seed", "prompt", "steps", "sampler"}
for_bytes = for_picture | {"batch size", "CPU threads"}
# END SOLUTION

check(5, "determinism", {"for_bytes": for_bytes, "for_picture": for_picture})
compare_with(
    "determinism",
    f"of 255 at most: again {same}, alone or beside two others {alone}, two threads {threads}, another seed {another}",
)

# %% [markdown]
# ## Two mistakes that one sees everywhere
#
# `vae.decode(latents)` without the scaling factor, and start noise that is not multiplied by `init_noise_sigma`. Both
# can be silent. `pocket`'s factor is 1, so nothing happens there; SD 1.5's is 0.18215, and what leaving it out does
# is shown below by decoding latents of that size. Most samplers start from noise of size 1; Euler does not.

# %%
SD15_FACTOR = 0.18215


def decode_unscaled(vae, latents):
    """Decode latents that were multiplied by SD 1.5's factor, as where nobody divides by it."""
    return decode(vae, latents * SD15_FACTOR)


euler = make_scheduler("euler", base.scheduler_config())
euler.set_timesteps(STEPS)
sigma = float(euler.init_noise_sigma)
shown = {
    "as it should be": pictures[:1],
    "latents not divided by 0.18215": draw(seeds[:1], decoder=decode_unscaled),
    "Euler": draw(seeds[:1], sampler="euler"),
    f"Euler, noise of size 1 instead of {sigma:.1f}": draw(seeds[:1], sampler="euler", noise_scale=1.0),
}
good, pale, with_euler, starved = shown.values()
show(
    grid(np.concatenate(list(shown.values())), 4, column_labels=list(shown)),
    alt="The picture as it should be, without the scaling factor, with Euler, and with Euler from too little noise",
)
compare_with(
    "decode", f"{mean_abs_diff(good, pale):.1f} of 255 on average, {max_abs_diff(good, pale)} at most"
)
print(
    f"Euler wants noise of size {sigma:.1f}; with 1 its picture is {mean_abs_diff(with_euler, starved):.1f} away"
)

# %% [markdown]
# ## Reflect
#
# 1. Why is the noise drawn on the CPU even when a GPU draws the picture?
# 2. You compare pictures with and without an adapter. Which of the conditions above have to be equal on both sides?
# 3. The text encoder was freed before the UNet was loaded. What must be kept of it?
#
# <details><summary>Answers</summary>
#
# 1. A GPU's generator gives other numbers than a CPU's, and two kinds of GPU may differ. A seed that means one
#    picture everywhere has to be drawn in one place.
# 2. All of them, batch and threads too: otherwise a part of what you measure is rounding. Lab 8 measures that floor.
# 3. The states of the prompt and of the empty prompt: a few hundred kilobytes.
# </details>

# %%
check.finish(5)
