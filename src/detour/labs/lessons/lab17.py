# %% [markdown]
# # Lab 17. Cost
#
# **What you will see.** What a picture costs that somebody can use. You measure how long a picture takes on your own
# machine, let a judge throw away what misses its prompt, and see what rejects do to the bill. At the end you know from
# how many pictures on a training of your own pays.
#
# Every price below is an assumption: write your own. Every second is measured here. You need to know what a sampler's
# step is (lab 10).

# %%
BASE = "pocket"  # the one line to change, e.g. to "stable-diffusion-v1-5/stable-diffusion-v1-5"
SEED = 17  # of the first picture, of the prompts and of the adapter's start

import statistics
import time

import matplotlib.pyplot as plt
import numpy as np
import torch

from detour.adapters.attach import attach_new
from detour.adapters.targets import adaptable_layers, select
from detour.bases.base import open_base
from detour.bases.hardware import pick_device, set_threads
from detour.evaluation.judge import Judge, judge_of
from detour.generation.engine import PictureEngine, PictureRequest
from detour.generation.grids import grid
from detour.labs import check, compare_with, predict, show
from detour.pocket.world import held_out_prompts, plain_prompt
from detour.specs import PictureSpec

set_threads(1)
DEVICE = pick_device()
base = open_base(BASE)

MACHINE_AN_HOUR = 0.60  # assumed: what the machine costs, in any currency
REVIEW_A_PICTURE = 0.002  # assumed: what it costs that somebody looks at one picture
BOUGHT = 0.01  # assumed: what an accepted picture costs that is bought elsewhere
BUSY = 0.25  # assumed: share of the time in which somebody wants a picture; the machine is paid all the time

# %% [markdown]
# ## Measure: seconds a picture
#
# The first drawing of a process is slower: memory is taken, kernels are chosen. And a computer that does other things
# gives single times that are far off. So one draws several times, leaves the first out, and takes the *median*.
#
# ## Do: from times to seconds a picture

# %% [markdown]
# **Predict** (`seconds_a_picture`). Four batches took 9, 2, 2 and 6 seconds; each had 4 pictures. What is a picture's
# time: 0.5, 0.8 or 1.2 seconds?

# %%
predict("seconds_a_picture", "1.2: all of the time over all of the pictures")

# %%


def seconds_a_picture(seconds, pictures):
    """Seconds of one picture, from the times of several equal batches of ``pictures`` each, in the order drawn."""
    # BEGIN SOLUTION
    # Leave the first time out, take the median of the others, and share it among the pictures of a batch.
    # PLACEHOLDER: return None
    return statistics.median(seconds[1:]) / pictures
    # END SOLUTION


check(17, "seconds_a_picture", seconds_a_picture)
compare_with("seconds_a_picture", f"{seconds_a_picture([9.0, 2.0, 2.0, 6.0], 4):g} s")

# %% [markdown]
# Now yours, for walks of 1, 2, 4 and 8 steps, two pictures a batch.

# %%
STEPS = (1, 2, 4, 8)
asked = held_out_prompts(6, seed=SEED)
prompts = [one.prompt for one in asked]
engine = PictureEngine(
    base,
    unet=base.load_network(device=DEVICE),
    vae=base.load_vae(device=DEVICE),
    text=base.load_text(device=DEVICE),
    device=DEVICE,
)
requests = [PictureRequest(prompt=prompt, seed=SEED + index) for index, prompt in enumerate(prompts)]
drawn, measured = {}, {}
for steps in STEPS:
    times, pictures = [], []
    for first in (0, 0, 2, 4):  # the first batch twice: once to warm up
        began = time.perf_counter()
        made = engine.draw(requests[first : first + 2], PictureSpec(steps=steps)).pictures
        times.append(time.perf_counter() - began)
        pictures.append(made)
    drawn[steps] = np.concatenate(pictures[1:])
    measured[steps] = seconds_a_picture(times, 2)
    print(f"{steps:>3} steps: {measured[steps]:.3f} s a picture")

# %% [markdown]
# ## Do: what a drawn picture costs
#
# A machine that is rented by the hour is paid while it waits, too. If it draws in a quarter of the time, every second
# of drawing has to pay for three of waiting.

# %% [markdown]
# **Predict** (`cost_drawn`). A picture takes 6 seconds on a machine of 0.60 an hour. What does it cost when the
# machine is always busy, and when it is busy a quarter of the time?

# %%
predict("cost_drawn", "0.001 both times: it is paid by the second")

# %%


def cost_drawn(seconds, machine_an_hour, busy):
    """What one drawn picture costs; ``busy`` is the share of the paid time in which the machine draws."""
    # BEGIN SOLUTION
    # The price of a second, the seconds of a picture, and the waiting that has to be paid beside it.
    # PLACEHOLDER: return None
    return seconds * machine_an_hour / 3600 / busy
    # END SOLUTION


check(17, "cost_drawn", cost_drawn)
compare_with("cost_drawn", f"{cost_drawn(6.0, 0.60, 1.0):.4f} and {cost_drawn(6.0, 0.60, 0.25):.4f}")

# %% [markdown]
# ## Do: what an accepted picture costs
#
# Somebody looks at every picture and keeps a share of them. What was thrown away was drawn and looked at as well.

# %% [markdown]
# **Predict** (`cost_accepted`). Half of the pictures are thrown away. Does an accepted one cost half as much again, or
# twice as much?

# %%
predict("cost_accepted", "half as much again: the other half was good")

# %%


def cost_accepted(drawn, review, accepted):
    """What one accepted picture costs.

    ``drawn`` and ``review`` are paid for every picture, ``accepted`` is the share that is kept. With a share of 0 there
    is no accepted picture, and its cost is ``float("inf")``.
    """
    # BEGIN SOLUTION
    # Share what is paid for every picture among those that are kept; nothing kept costs float("inf").
    # PLACEHOLDER: return None
    return (drawn + review) / accepted if accepted else float("inf")
    # END SOLUTION


check(17, "cost_accepted", cost_accepted)
compare_with(
    "cost_accepted",
    f"{cost_accepted(1.0, 0.0, 0.5) / cost_accepted(1.0, 0.0, 1.0):g} times as much as where all are kept",
)

# %% [markdown]
# ## Measure: who is accepted
#
# The judge, a CLIP model, accepts a picture if its own prompt fits better than the same prompt with another thing, with
# another colour and with another place. (A person would be stricter.) Then your three functions make a table.

# %% [markdown]
# **Predict** (`cheapest`). At how many of 1, 2, 4 and 8 steps does an accepted picture cost least?

# %%
predict("cheapest", "1: fewest steps, least money")

# %%
judge = Judge.load(judge_of(base.folder))
changed = []  # of each prompt: another thing, another colour, another place
for one, other in zip(asked, asked[1:] + asked[:1], strict=True):
    variants = [
        plain_prompt(other.object, one.colour, one.place),
        plain_prompt(one.object, other.colour, one.place),
        plain_prompt(one.object, one.colour, other.place),
    ]
    changed.append([text for text in variants if text != one.prompt])
own = judge.text_features(prompts)
table = []
for steps in STEPS:
    looks = judge.picture_features(drawn[steps])
    kept = [
        bool(look @ mine > (judge.text_features(variants) @ look).max())
        for look, mine, variants in zip(looks, own, changed, strict=True)
    ]
    accepted = sum(kept) / len(kept)
    once = cost_drawn(measured[steps], MACHINE_AN_HOUR, BUSY)
    table.append(
        {
            "steps": steps,
            "accepted": accepted,
            "drawn": once,
            "cost": cost_accepted(once, REVIEW_A_PICTURE, accepted),
        }
    )
show(
    grid(
        np.concatenate([drawn[steps] for steps in STEPS]),
        len(prompts),
        row_labels=[f"{row['steps']} steps, accepted {row['accepted']:.0%}" for row in table],
        column_labels=prompts,
    ),
    alt="Six prompts in rows of 1, 2, 4 and 8 steps; accepted by the judge: "
    + ", ".join(f"{row['accepted']:.0%} at {row['steps']}" for row in table),
)
print(f"{'steps':>6}{'drawn':>12}{'accepted':>10}{'an accepted one':>17}")
for row in table:
    print(f"{row['steps']:>6}{row['drawn']:>12.6f}{row['accepted']:>10.0%}{row['cost']:>17.6f}")

# %% [markdown]
# **Your turn.** Read the table: the number of steps at which an accepted picture costs least.


# %%
cheapest = None
# BEGIN SOLUTION
# A number of steps out of the table.
# PLACEHOLDER: cheapest = None
cheapest = min(table, key=lambda row: row["cost"])["steps"]
# END SOLUTION
check(17, "cheapest", {"table": table, "cheapest": cheapest})
compare_with(
    "cheapest",
    f"{cheapest} steps; cheapest to draw {min(table, key=lambda row: row['drawn'])['steps']}. An accepted one: "
    + ", ".join(f"{row['cost']:.4f} at {row['steps']}" for row in table),
)

# %% [markdown]
# Six pictures are few: 5 accepted of 6 may stand for any share between 44 and 97 % (Wilson's interval at 95 %). Before
# money depends on it, draw a hundred.
#
# ## Do: when does a training of your own pay?
#
# A training is paid once. After it every picture costs you less, or not. From how many pictures on is the whole bill
# smaller than buying?

# %% [markdown]
# **Predict** (`break_even`). A training cost 3, an accepted picture of your own 0.004, a bought one 0.01. From how many
# pictures on are you cheaper?

# %%
predict("break_even", "300: 3 over 0.01")

# %%


def break_even(training, own, bought):
    """The smallest whole number of pictures for which the whole bill is no larger than that of buying.

    ``training`` is paid once, ``own`` or ``bought`` for each picture. ``None`` where a picture saves nothing.
    """
    # BEGIN SOLUTION
    # What is saved with every picture has to pay the training. Round up; None where nothing is saved.
    # PLACEHOLDER: return None
    saved = bought - own
    return int(np.ceil(training / saved)) if saved > 0 else None
    # END SOLUTION


check(17, "break_even", break_even)
compare_with("break_even", f"from {break_even(3.0, 0.004, 0.01)} pictures on")

# %% [markdown]
# And yours: a training of 500 steps, at the time that a step takes here: two pictures, forward, backward, update.

# %%
unet = base.load_network(device=DEVICE)
attached = attach_new(unet, "unet", select(adaptable_layers(unet), "attn"), rank=4, alpha=4, seed=SEED)
optimizer = torch.optim.AdamW(attached.parameters(), lr=1e-4)
side = base.native_size_px // base.latent_factor
noise = torch.randn(2, base.latent_channels, side, side, generator=torch.Generator().manual_seed(SEED)).to(
    DEVICE
)
states = engine.text.encode(prompts[:2]).states.to(DEVICE)
step_times = []
for _ in range(4):
    began = time.perf_counter()
    answer = unet(
        noise, torch.tensor([500, 500], device=DEVICE), encoder_hidden_states=states, return_dict=False
    )[0]
    (answer - noise).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
    step_times.append(time.perf_counter() - began)
attached.detach()
TRAINING_STEPS = 500
step_s = seconds_a_picture(step_times, 1)
training_cost = TRAINING_STEPS * step_s * MACHINE_AN_HOUR / 3600
best = min(table, key=lambda row: row["cost"])
mine = break_even(training_cost, best["cost"], BOUGHT)
print(
    f"a step takes {step_s:.2f} s, so {TRAINING_STEPS} of them cost {training_cost:.3f} at {MACHINE_AN_HOUR} an hour"
)
print(
    f"an accepted picture of your own costs {best['cost']:.4f}, a bought one {BOUGHT:g}; break-even: {mine}"
)

figure, axis = plt.subplots(figsize=(6, 3), layout="constrained")
counts = np.linspace(0, 2 * (mine or 1000), 50)
axis.plot(counts, counts * BOUGHT, label="bought")
axis.plot(counts, training_cost + counts * best["cost"], label="trained and drawn here")
axis.set_xlabel("accepted pictures")
axis.set_ylabel("the whole bill")
axis.legend()
show(
    figure,
    alt=f"Two lines over the number of accepted pictures: buying begins at 0 and rises by {BOUGHT:g} a picture, your "
    f"own begins at {training_cost:.3f} and rises by {best['cost']:.4f}.",
)

# %% [markdown]
# ## Do: choose for a month
#
# Options have a fixed price a month and a price for each accepted picture. Which is cheapest depends on how many are
# wanted.

# %% [markdown]
# **Predict** (`choose`). Buying costs 0.01 a picture and nothing a month, your own machine 40 a month and 0.002 a
# picture. Which of them is cheaper for 1,000 pictures a month, and which for 10,000?

# %%
predict("choose", "the machine both times: 0.002 is less than 0.01")

# %%


def choose(options, pictures):
    """Name of the option with the smallest bill; ``options`` is name → (fixed, each)."""
    # BEGIN SOLUTION
    # The bill of an option is its fixed price and that of all pictures together.
    # PLACEHOLDER: return None
    return min(options, key=lambda name: options[name][0] + pictures * options[name][1])
    # END SOLUTION


check(17, "choose", choose)
both = {"buying": (0.0, 0.01), "own machine": (40.0, 0.002)}
compare_with("choose", ", ".join(f"{count:,}: {choose(both, count)}" for count in (1_000, 10_000)))

# %% [markdown]
# ## Reflect
#
# <details><summary>Twice as many steps take twice as long. Does an accepted picture cost twice as much?</summary>
#
# Only where drawing is what one pays for. Review costs the same at any number of steps, and more steps may bring fewer
# rejects. With people in the loop the machine is soon the smaller part of the bill.
#
# </details>
#
# <details><summary>Somebody halves the price of a picture by a faster sampler. What should you ask?</summary>
#
# What became of the accepted share, measured on the same prompts, and how many pictures stand behind it.
#
# </details>
#
# <details><summary>Which assumption of this lab moves the result most?</summary>
#
# Try it: change one constant at the top at a time and run everything again. It is often `BUSY`: a machine that waits is
# the most expensive part of a small service.
#
# </details>

# %%
check.finish(17)
