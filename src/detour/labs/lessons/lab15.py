# %% [markdown]
# # Lab 15. Production settings
#
# **What you will see.** A service promises a picture within so many seconds. You measure what each setting does to that
# time, to memory and to the picture, one setting at a time: steps, half precision, sampler, slicing, batching. At the
# end you read from your own table which settings to serve, and see what is predicted for Stable Diffusion 1.5 and SDXL.
#
# You need to know what a sampler's step is (lab 10). Nobody judges the pictures here: a picture is held beside that of
# a long walk from the same noise.

# %%
BASE = "pocket"  # the one line to change, e.g. to "stable-diffusion-v1-5/stable-diffusion-v1-5"
SEED = 15  # of the first picture; the others follow
BUDGET_S = None  # seconds that a picture may take; None: 60 % of what the settings take that you begin with

import math
import statistics
import time

import matplotlib.pyplot as plt
import numpy as np
import torch

from detour.bases.base import open_base
from detour.bases.hardware import pick_device, set_threads
from detour.generation.engine import PictureEngine, PictureRequest
from detour.generation.grids import grid
from detour.generation.schedulers import pick_sampler
from detour.labs import check, compare_with, predict, show
from detour.specs import PictureSpec
from detour.training.footprint import proving_footprint

set_threads(1)
DEVICE = pick_device()
HALF = torch.float16 if DEVICE == "cuda" else torch.bfloat16
base = open_base(BASE)
requests = [PictureRequest(prompt="a red cup in the mountains", seed=SEED + index) for index in range(8)]
# One thread on a CPU: seconds of the core, which other work on the machine hardly changes. Else the clock on the wall.
clock = time.process_time if DEVICE == "cpu" else time.perf_counter


def draw(engine, chosen, **settings):
    """(uint8 pictures, seconds) of some requests, all of them in one batch."""
    began = clock()
    pictures = engine.draw(chosen, PictureSpec(**settings), batch=len(chosen)).pictures
    return pictures, clock() - began


def moved(pictures, others):
    """Mean absolute difference of 255."""
    return float(np.abs(pictures.astype(int) - others).mean())


engine = PictureEngine.load(base, device=DEVICE)
warm_up = draw(engine, requests[:1], steps=1)  # the first drawing of a process is slower and not measured

# %% [markdown]
# ## Measure: how long a request takes
#
# Eight requests one after the other, with two steps each. What is promised is seldom the mean: it is the time within
# which nearly all are done, such as 95 of 100.
#
# ## Do: the time within which a share is done

# %% [markdown]
# **Predict** (`within_s`). Twenty requests took 1, 2, 3, … 20 seconds. Within how many seconds were 95 % of them done?

# %%
predict("within_s", "10.5, the mean")

# %%


def within_s(seconds, share):
    """The smallest measured time within which at least ``share`` (above 0, up to 1) of the requests were done."""
    # BEGIN SOLUTION
    # Sort the times. How many of the requests have to be done, rounded up? The time of that one, counted from 1.
    # PLACEHOLDER: return None
    return sorted(seconds)[math.ceil(share * len(seconds)) - 1]
    # END SOLUTION


check(15, "within_s", within_s)
compare_with("within_s", f"{within_s([float(one) for one in range(1, 21)], 0.95):g} s")

# %%
drawn = [draw(engine, [request], steps=2) for request in requests]
times = [seconds for _, seconds in drawn]
print(", ".join(f"{share:.0%} within {within_s(times, share):.2f} s" for share in (0.5, 0.75, 1.0)))

# %% [markdown]
# ## Do: what a step costs, and what costs the same whatever the number of steps
#
# Text encoders and VAE run once a picture, the network once a step. So the time of a picture is a straight line over
# the number of steps: a fixed part, and so much for each step. (numpy's `polyfit` finds the line that comes closest
# to some points; of its numbers the slope comes first.)

# %% [markdown]
# **Predict** (`line`). A picture of 4 steps takes 1.0 s, one of 8 steps 1.6 s. How long does one of 16 take: 2.8, 3.2
# or 4.0 s?

# %%
predict("line", "3.2 s: twice the steps, twice the time")

# %%


def line(steps, seconds):
    """(fixed, each): seconds of a picture that do not depend on the steps, and seconds of each step."""
    # BEGIN SOLUTION
    # Fit a straight line to the points, and return its value at no steps and its slope.
    # PLACEHOLDER: return None, None
    each, fixed = np.polyfit(steps, seconds, 1)
    return fixed, each
    # END SOLUTION


check(15, "line", line)
example = line([4, 8], [1.0, 1.6])
compare_with("line", f"{example[0] + 16 * example[1]:.1f} s")

# %% [markdown]
# Yours: 2, 4 and 8 steps make the line, and 16 steps, with which you begin, show whether it holds.

# %%
START = 16  # steps
OWN = pick_sampler("auto", base.scheduler_config())
measured, shown = {2: statistics.median(times)}, {2: np.concatenate([one for one, _ in drawn[:2]])}
for steps in (4, 8, START):
    pairs = [draw(engine, [request], steps=steps) for request in requests[:2]]
    shown[steps] = np.concatenate([pictures for pictures, _ in pairs])
    measured[steps] = min(seconds for _, seconds in pairs)
fixed, each = line([2, 4, 8], [measured[steps] for steps in (2, 4, 8)])
print(f"{fixed:.2f} s whatever the steps, {each:.3f} s for each step")
print(f"{START} steps: {fixed + START * each:.2f} s by the line, {measured[START]:.2f} s measured")
budget_s = BUDGET_S if BUDGET_S is not None else 0.6 * measured[START]
print(f"the budget is {budget_s:.2f} s a picture")

# %% [markdown]
# ## Do: steps within a budget

# %% [markdown]
# **Predict** (`steps_within`). Of the 2.0 seconds of a budget, 0.5 are fixed, and a step takes 0.2. How many whole
# steps are there time for?

# %%
predict("steps_within", "10: 2 over 0.2")

# %%


def steps_within(budget_s, fixed, each):
    """The largest whole number of steps that is done within the budget; 0 where not even one is."""
    # BEGIN SOLUTION
    # Take the fixed part away first. Whole steps only, and never less than none.
    # PLACEHOLDER: return None
    return max(0, math.floor((budget_s - fixed) / each))
    # END SOLUTION


check(15, "steps_within", steps_within)
compare_with(
    "steps_within",
    f"{steps_within(2.0, 0.5, 0.2)} steps; of your own budget {steps_within(budget_s, fixed, each)}",
)

# %% [markdown]
# ## Do: is it free?
#
# Some settings make a picture worse and quicker: they are a trade. Others are *free*: nothing gets worse, something
# gets better, and the picture stays the same up to rounding. Free ones are switched on before anything is traded.

# %% [markdown]
# **Predict** (`is_free`). Half precision (two bytes a weight in place of four) on this machine: does a picture take
# half as long, as long, or longer?

# %%
predict("is_free", "half as long: half of the bytes")

# %%


def is_free(before, after, floor):
    """Whether a change of settings costs nothing; True or False.

    ``before`` and ``after`` are dictionaries with ``seconds`` and ``bytes``, ``after`` also with ``moved``: how far the
    pictures moved. Free is what makes neither larger and one of them smaller, and moves no further than ``floor``.
    """
    # BEGIN SOLUTION
    # Three conditions: nothing is worse, something is better, the pictures are the same up to the floor.
    # PLACEHOLDER: return None
    worse = after["seconds"] > before["seconds"] or after["bytes"] > before["bytes"]
    better = after["seconds"] < before["seconds"] or after["bytes"] < before["bytes"]
    return better and not worse and after["moved"] <= floor
    # END SOLUTION


check(15, "is_free", is_free)

# %% [markdown]
# The floor: two pictures drawn in one batch and each on its own are the same but for rounding. What half precision
# moves is held against that and against what another seed moves. Not every processor computes in half precision: one
# that does not converts every number there and back.


# %%
def weights_of(engine):
    """Bytes of the network's weights."""
    return sum(one.numel() * one.element_size() for one in engine.unet.parameters())


together, two_s = draw(engine, requests[:2], steps=2)
floor = max(moved(together, shown[2]), 0.5)  # at least half a step of 255
another_seed = moved(shown[2][:1], shown[2][1:])
halved = PictureEngine.load(base, device=DEVICE, dtype="fp16" if HALF is torch.float16 else "bf16")
if DEVICE != "cpu":
    draw(halved, requests[:1], steps=1)
in_half, half_s = draw(halved, requests[:1], steps=2)
before = {"seconds": measured[2], "bytes": weights_of(engine)}
after = {"seconds": half_s, "bytes": weights_of(halved), "moved": moved(in_half, shown[2][:1])}
del halved
for name, one in (("float32", before), (str(HALF).removeprefix("torch."), after)):
    print(
        f"{name:9} {one['seconds']:6.2f} s a picture of 2 steps, {one['bytes'] / 2**20:5.1f} MiB of weights"
    )
print(f"moved by {after['moved']:.2f} of 255; floor {floor:.2f}, another seed {another_seed:.1f}")
compare_with(
    "is_free",
    f"{after['seconds'] / before['seconds']:.2f} times as long, {after['bytes'] / before['bytes']:.2f} of the bytes; "
    f"free: {is_free(before, after, floor)}",
)

# %% [markdown]
# ## Do: slicing
#
# The VAE turns the latents of a batch into pixels. At full size its tensors are far larger than anything in the
# network. *Slicing* decodes the pictures of a batch one after the other.

# %% [markdown]
# **Predict** (`activation_bytes`). A tensor of 256 channels at 1024 × 1024, four bytes a number, a batch of four. How
# many gigabytes is it, and how many with slicing?

# %%
predict("activation_bytes", "1, and a little less with slicing")

# %%


def activation_bytes(batch, channels, side_px, each, sliced):
    """Bytes of one tensor of the VAE for square pictures; ``each`` number has so many bytes.

    With ``sliced`` one picture of the batch is in memory at a time.
    """
    # BEGIN SOLUTION
    # Numbers of one picture, times its bytes, times the pictures that are in memory at once.
    # PLACEHOLDER: return None
    pictures = 1 if sliced else batch
    return pictures * channels * side_px * side_px * each
    # END SOLUTION


check(15, "activation_bytes", activation_bytes)
compare_with(
    "activation_bytes",
    " and ".join(f"{activation_bytes(4, 256, 1024, 4, sliced) / 1e9:.1f} GB" for sliced in (False, True)),
)

# %% [markdown]
# Measured: the largest tensor that any part of the VAE gives back, and the time, for a batch of four.

# %%
largest = [0]


def watch(_module, _inputs, output):
    """Keep the bytes of the largest output."""
    if isinstance(output, torch.Tensor):
        largest[0] = max(largest[0], output.numel() * output.element_size())


side = base.native_size_px // base.latent_factor
latents = torch.randn(4, base.latent_channels, side, side, generator=torch.Generator().manual_seed(SEED))
hooks = [module.register_forward_hook(watch) for module in engine.vae.modules()]
for name, switch in (("whole", engine.vae.disable_slicing), ("sliced", engine.vae.enable_slicing)):
    switch()
    largest[0], began = 0, clock()
    with torch.no_grad():
        pixels = engine.vae.decode(latents.to(DEVICE), return_dict=False)[0]
    kept = pixels if name == "whole" else kept
    print(f"{name:7} largest tensor {largest[0] / 2**20:6.1f} MiB, {clock() - began:.2f} s")
for hook in hooks:
    hook.remove()
engine.vae.disable_slicing()
print(f"the pictures differ by {float((pixels - kept).abs().max()) * 127.5:.3f} of 255 at most")

# %% [markdown]
# ## Do: batching
#
# Drawing several pictures in one pass makes each cheaper. But all of them are done when the batch is done: who asked
# for one waits for four.

# %% [markdown]
# **Predict** (`batch_for`). Batches of 1, 2 and 4 take 1, 1.5 and 2.4 seconds, and the budget is 2 seconds. Which batch
# should a service use?

# %%
predict("batch_for", "4: it is 0.6 seconds a picture")

# %%


def batch_for(rows, budget_s):
    """The batch with the most pictures a second among those that are done within the budget; ``None`` where none is.

    ``rows`` is a list of dictionaries with ``batch`` (pictures) and ``seconds`` (of the whole batch).
    """
    # BEGIN SOLUTION
    # First who may take part, then who draws the most in a second.
    # PLACEHOLDER: return None
    fitting = [row for row in rows if row["seconds"] <= budget_s]
    if not fitting:
        return None
    return max(fitting, key=lambda row: row["batch"] / row["seconds"])["batch"]
    # END SOLUTION


check(15, "batch_for", batch_for)
rows = [{"batch": 1, "seconds": measured[2]}, {"batch": 2, "seconds": two_s}]
rows.append({"batch": 4, "seconds": draw(engine, requests[:4], steps=2)[1]})
for row in rows:
    print(
        f"batch {row['batch']}: {row['seconds']:.2f} s, {row['batch'] / row['seconds']:.2f} pictures a second"
    )
stated = [{"batch": 1, "seconds": 1.0}, {"batch": 2, "seconds": 1.5}, {"batch": 4, "seconds": 2.4}]
compare_with(
    "batch_for",
    f"{batch_for(stated, 2.0)}; of your own, with two steps a picture, {batch_for(rows, budget_s)}",
)

# %% [markdown]
# ## Choose
#
# All that is left are steps and sampler, and they are a trade. Each row below says how long a picture takes and how
# far it is from the walk of 16 steps that you began with, on average over two seeds.

# %% [markdown]
# **Predict** (`choice`). Which of the settings comes nearest to the long walk within the budget?

# %%
predict("choice", "dpm++ with 2 steps: quick is what counts")

# %%
table = [
    {
        "settings": f"{OWN}, {steps} steps",
        "seconds": measured[steps],
        "distance": moved(shown[steps], shown[START]),
    }
    for steps in (2, 4, 8)
]
panels = [shown[2], shown[4], shown[8]]
for sampler in ("dpm++",) if base.is_flow else ("euler", "ddim"):  # a flow's own sampler is euler
    pictures, seconds = draw(engine, requests[:2], steps=8, scheduler=sampler)
    table.append(
        {"settings": f"{sampler}, 8 steps", "seconds": measured[8], "distance": moved(pictures, shown[START])}
    )
    panels.append(pictures)
seeds = moved(shown[START][:1], shown[START][1:])
show(
    grid(
        np.concatenate([*panels, shown[START]]),
        2,
        row_labels=[*(row["settings"] for row in table), f"{OWN}, {START} steps"],
        column_labels=[f"seed {request.seed}" for request in requests[:2]],
    ),
    alt="Two seeds in rows of settings; mean distance to the long walk, of 255: "
    + ", ".join(f"{row['distance']:.1f} with {row['settings']}" for row in table),
)
print(
    f"{'settings':18}{'seconds':>9}{'distance':>10}   budget {budget_s:.2f} s; another seed is {seeds:.1f} away"
)
for row in table:
    print(f"{row['settings']:18}{row['seconds']:>9.2f}{row['distance']:>10.2f}")

# %% [markdown]
# **Your turn.** Read the table: the name of the settings to serve.

# %%
choice = None
# BEGIN SOLUTION
# The text in the first column of the row that is nearest among those within the budget.
# PLACEHOLDER: choice = None
choice = min((row for row in table if row["seconds"] <= budget_s), key=lambda row: row["distance"])[
    "settings"
]
# END SOLUTION
check(15, "choice", {"table": table, "budget_s": budget_s, "choice": choice})
chosen = next(row for row in table if row["settings"] == choice)
compare_with(
    "choice",
    f"{choice}: {chosen['seconds']:.2f} s in place of {measured[START]:.2f} s, {chosen['distance']:.1f} of 255 from "
    f"the long walk (another seed {seeds:.1f})",
)

# %% [markdown]
# ## Plan: the same for real bases
#
# Seconds do not carry over: a card computes in half precision, this processor may not. Bytes do. What drawing takes on
# a base can be predicted from its settings alone, without its weights; your function says how large the VAE's largest
# tensor is. Nothing of this was measured. The activations are those of detour, which slices by itself: large
# pictures it decodes one at a time. (SDXL's VAE stays in float32: its numbers are too large for float16.)

# %%
planned = []
for name, dtype, side_px, pictures in (
    ("sd15", torch.float32, 512, 1),
    ("sd15", torch.float16, 512, 1),
    ("sd15", torch.float16, 512, 4),
    ("sdxl", torch.float16, 1024, 4),
):
    real = open_base(name, weights=False)
    number = 4 if real.family.vae_overflows_in_fp16 else dtype.itemsize
    parts = proving_footprint(real, side_px=side_px, dtype=dtype, pictures=pictures).parts
    tensors = [activation_bytes(pictures, 256, side_px, number, sliced) / 2**30 for sliced in (False, True)]
    label = f"{name}, {str(dtype).removeprefix('torch.')}, batch {pictures}"
    planned.append((label, sum(parts.values()) / 2**30, parts["activations"] / 2**30, *tensors))
print(f"{'GiB, predicted':25}{'together':>9}{'activations':>13}{'largest tensor':>16}{'sliced':>8}")
for label, memory, activations, whole, sliced in planned:
    print(f"{label:25}{memory:>9.1f}{activations:>13.2f}{whole:>16.2f}{sliced:>8.2f}")
figure, axis = plt.subplots(figsize=(6, 2.6), layout="constrained")
places = np.arange(len(planned))
axis.barh(places, [one[1] - one[2] for one in planned], label="weights")
axis.barh(places, [one[2] for one in planned], left=[one[1] - one[2] for one in planned], label="activations")
axis.set_yticks(places, [one[0] for one in planned], fontsize=8)
axis.invert_yaxis()
axis.set_xlabel("GiB, predicted")
axis.legend(fontsize=8)
show(
    figure,
    alt="Predicted memory of drawing as bars: " + ", ".join(f"{one[0]}: {one[1]:.1f} GiB" for one in planned),
)

# %% [markdown]
# ## Reflect
#
# <details><summary>In which order would you try the settings on a base of your own?</summary>
#
# First what is free, measured by `is_free`: half precision on a card that computes in it, slicing where memory is
# short. Then what is a trade, steps and sampler, within the budget. Batching last: it needs enough requests at a time.
#
# </details>
#
# <details><summary>The budget is that of one picture. Why does a full queue break it all the same?</summary>
#
# Who waits behind three others waits for their time, too. A promise about the whole wait has to count the queue: see
# `docs/serving.md`, and measure the time from the request on.
#
# </details>
#
# <details><summary>A colleague measures half precision with the same card and gets "no difference in quality". What do
# you ask?</summary>
#
# How far the pictures moved beside the floor and beside another seed, on how many prompts, and whether the adapters
# that you serve were among them.
#
# </details>

# %%
check.finish(15)
