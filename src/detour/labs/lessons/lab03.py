# %% [markdown]
# # Lab 3. Train a style
#
# **What you will see.** Sixteen pictures in one style become an adapter file of about a megabyte. You tell noise
# from learning in the loss, draw prompts that training never saw, with and without the adapter at the same seeds, and
# compare rank 4 with rank 8 in the only way that means something: against the difference that a mere change of the
# seed makes.
#
# Lab 1 says what a rank costs, lab 2 what one step does.

# %%
BASE = "pocket"  # the one line to change, e.g. to "stable-diffusion-v1-5/stable-diffusion-v1-5"
SEED = 0  # of the pictures' scenes, of the first two runs and of the first drawn picture
STYLE = "blueprint"  # one of the world's styles that the package's own bases have never seen
BATCH = 2

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from detour.bases.base import open_base
from detour.evaluation.distance import style_distance
from detour.evaluation.judge import Judge, judge_of
from detour.generation.grids import grid
from detour.labs import check, compare_with, predict, show
from detour.pocket.world import NAMED_STYLES, held_out_prompts, render
from detour.specs import (
    AdapterSpec,
    BaseSpec,
    CheckpointSpec,
    DataSpec,
    GenerateSpec,
    LossSpec,
    OptimSpec,
    PictureSpec,
    RunSpec,
    SampleSpec,
    TrainSpec,
    ValidateSpec,
)
from detour.verbs.draw.pictures import generate_pictures
from detour.verbs.train.demo import draw_training_pictures
from detour.verbs.train.run import train_adapter

work = Path("lab03")  # data and runs; delete it when you are done
SMALL = open_base(BASE).embedded is not None  # one of the package's own
STEPS = 24 if SMALL else 400  # a few hundred on a real base
RATE = "auto"  # what suits a style on this base; high on a small one

# %% [markdown]
# ## The pictures
#
# Each has a caption that says *what* is shown and nothing of how. So the adapter has to carry the style whatever is
# asked; with "in blueprint style" in every caption these words would share the work.

# %%
data = work / "pictures"
draw_training_pictures(data, style_name=STYLE, count=16, seed=SEED)
files = sorted(data.glob("*.png"))
captions = [file.with_suffix(".txt").read_text(encoding="utf-8").strip() for file in files]
few = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files[:6]])
show(
    grid(few, 6, column_labels=captions[:6]),
    alt="Six training pictures: white outlines on blue paper with a grid, as in a technical drawing.",
)

# %% [markdown]
# ## Reason: a loss that jumps
#
# Every step draws other timesteps, so the training loss jumps: lab 2 measured a factor of a hundred between timesteps.
# You will want it smoothed: the mean of the last `window` values at each step; at the start, of as many as there are.

# %% [markdown]
# **Predict** (`smoothed`). A loss jumps between 0 and 1 from step to step. Smoothed over 4 steps, how far does it
# still jump?

# %%
predict("smoothed", "a quarter as far")


# %%
def smoothed(values, window):
    """Running mean, as long as ``values``."""
    # BEGIN SOLUTION
    # Return a list of means over the last `window` values.
    # PLACEHOLDER: return None
    return [float(np.mean(values[max(0, end - window) : end])) for end in range(1, len(values) + 1)]
    # END SOLUTION


check(3, "smoothed", smoothed)
wave = smoothed([0.0, 1.0] * 6, 4)
compare_with("smoothed", f"once the window is full, from {min(wave[4:]):g} to {max(wave[4:]):g}")

# %% [markdown]
# **Predict** (`fell_by`). By what share does the training loss fall from the first ten steps to the last ten, and the
# loss on pictures that are kept out, at fixed timesteps?

# %%
predict("fell_by", "both to a tenth")

# %% [markdown]
# ## Do: train
#
# `train_adapter` is what `detour train` calls. The proof at its end is left out here; lab 8 is about that. On `pocket`
# two dozen steps at a high rate go a part of the way to the style, so that the lab takes about a minute; raise `STEPS`
# to see how much nearer it comes.


# %%
def train(rank, seed, validate=0):
    """A run with the given rank and seed; everything else alike."""
    spec = RunSpec(
        name=f"rank{rank}-seed{seed}",
        seed=seed,
        base=BaseSpec(name=BASE),
        data=DataSpec(source=str(data)),
        adapter=AdapterSpec(rank=rank),
        train=TrainSpec(
            steps=STEPS, batch=BATCH, optim=OptimSpec(lr=RATE), loss=LossSpec(caption_dropout=0.0)
        ),
        sample=SampleSpec(every=0),
        validate=ValidateSpec(every=validate),
        checkpoint=CheckpointSpec(every=0),
    )
    return train_adapter(spec, runs=work / "runs", force=True, prove=False)


run = train(rank=4, seed=SEED, validate=STEPS // 3)
metrics = [json.loads(line) for line in (run.run_folder / "metrics.jsonl").read_text().splitlines()]
losses = [line["loss"] for line in metrics if "loss" in line]
validation = [(line["step"], line["val_loss"]) for line in metrics if "val_loss" in line]
size = run.adapter_file.stat().st_size
print(f"{run.steps} steps, {size / 1024:.0f} KiB on disk")

# %% [markdown]
# ## Do: read the loss
#
# The run kept some pictures out of training and measured the loss on them at fixed timesteps with fixed noise
# (`val_loss`). By what share did it fall, from before the first step to the last validation?

# %%
# BEGIN SOLUTION
# The share by which the validation loss fell: 0.25 if it went from 0.4 to 0.3.
# PLACEHOLDER: fell_by = None
fell_by = 1 - validation[-1][1] / validation[0][1]
# END SOLUTION
check(3, "fell_by", {"metrics": str(run.run_folder / "metrics.jsonl"), "share": fell_by})

# %%
figure, axes = plt.subplots(figsize=(7, 3.4))
axes.plot(range(1, len(losses) + 1), losses, color="lightgrey", label="training loss")
axes.plot(range(1, len(losses) + 1), smoothed(losses, 10), label="the same, mean of 10 steps")
axes.plot(*zip(*validation, strict=True), "o-", label="held-out pictures, fixed timesteps")
axes.set_xlabel("step")
axes.set_ylabel("loss")
axes.set_ylim(bottom=0)
axes.legend()
show(
    figure,
    alt="Three curves over the steps: the training loss, which jumps up and down; its running mean; and the loss on "
    f"held-out pictures at fixed timesteps, from {validation[0][1]:.3f} to {validation[-1][1]:.3f}.",
)
first, last = np.mean(losses[:10]), np.mean(losses[-10:])
compare_with(
    "fell_by",
    f"training loss {first:.3f} -> {last:.3f}; held-out {validation[0][1]:.3f} -> {validation[-1][1]:.3f}",
)
print(f"spread of the training loss from step to step: {np.std(np.diff(losses)):.3f}")

# %% [markdown]
# ## Do: choose prompts that were held out
#
# A picture for a training caption proves little: it may have been learned by heart. Below are prompts; some are
# captions of training pictures. Keep those that are not.

# %% [markdown]
# **Predict** (`held_out`). The training pictures are white lines on blue. Drawn for new prompts with the adapter,
# will the pictures be as blue as those?

# %%
predict("held_out", "yes, the style is simple")

# %%
asked = held_out_prompts(4, seed=SEED)  # combinations that the base itself has never seen
candidates = sorted([one.prompt for one in asked] + captions[:4])
# BEGIN SOLUTION
# The candidates that are no training captions, in the order given.
# PLACEHOLDER: prompts = None
prompts = [prompt for prompt in candidates if prompt not in captions]
# END SOLUTION
check(3, "held_out", {"data": str(data), "candidates": candidates, "prompts": prompts})

# %% [markdown]
# ## See it
#
# The same prompts and seeds, without the adapter, with it, and what the world itself draws in that style.

# %%
facts = {one.prompt: one for one in asked}


def drawn(*loras):
    """One picture of each prompt; the same seeds whatever the adapter."""
    spec = GenerateSpec(
        prompts=tuple(prompts), base=BASE, loras=tuple(loras), seed=SEED, batch=4,
        picture=PictureSpec(steps=5 if SMALL else 25),
    )  # fmt: skip
    made = generate_pictures(spec, out=work / "drawn", force=True)
    return np.stack([np.asarray(Image.open(one.path)) for one in made.files if one.kind == "picture"])


plain = drawn()
rank4 = drawn(str(run.adapter_file))
true = np.stack(
    [render(facts[prompt].scene, NAMED_STYLES[STYLE], size_px=plain.shape[1]) for prompt in prompts]
)


def mean_colour(pictures):
    """Red, green and blue on average, of 255."""
    return tuple(round(float(value)) for value in pictures.mean(axis=(0, 1, 2)))


rows = {"base": plain, "with the adapter, rank 4": rank4, f"the world's own {STYLE}": true}
colours = {name: mean_colour(pictures) for name, pictures in rows.items()}
show(
    grid(np.concatenate(list(rows.values())), len(prompts), column_labels=prompts, row_labels=list(rows)),
    alt="Three rows of pictures of the same prompts. Mean colour as red, green, blue: "
    + "; ".join(f"{name} {colour}" for name, colour in colours.items()),
)
compare_with(
    "held_out", "; ".join(f"{name}: {colour}" for name, colour in colours.items()) + " (red, green, blue)"
)

# %% [markdown]
# ## Do: a number for it
#
# A judge (a small CLIP model) turns every picture into a vector. `style_distance` compares two *sets* of pictures; 0 is
# "cannot be told apart". A distance by itself says nothing: it has to stand beside the base's. Write the share of the
# way to the style that the adapter went: 0 where it is as far as the base, 1 where it has arrived.

# %% [markdown]
# **Predict** (`style_share`). How much of the way to the style is done after so short a training: a fifth, half,
# nearly all?

# %%
predict("style_share", "nearly all")


# %%
def style_share(base_distance, adapter_distance):
    """How much of the way to the style is done."""
    # BEGIN SOLUTION
    # Return the share, from the two distances to true pictures of the style.
    # PLACEHOLDER: return None
    return 1 - adapter_distance / base_distance
    # END SOLUTION


check(3, "style_share", style_share)

# %%
judge = Judge.load(judge_of(open_base(BASE).folder))
goal = judge.picture_features(true)


def distance(pictures):
    return style_distance(judge.picture_features(pictures), goal)


# The ceiling: what two sets of true pictures of the style, of other scenes, are from each other.
others = held_out_prompts(len(prompts), seed=SEED + 1)
other_true = np.stack([render(one.scene, NAMED_STYLES[STYLE], size_px=plain.shape[1]) for one in others])
far = {"base": distance(plain), "rank 4": distance(rank4), "other true pictures": distance(other_true)}
print("distance to the style: " + ", ".join(f"{name} {value:.3f}" for name, value in far.items()))
compare_with(
    "style_share",
    f"{style_share(far['base'], far['rank 4']):.0%}; true pictures of other scenes would have done "
    f"{style_share(far['base'], far['other true pictures']):.0%}",
)

# %% [markdown]
# **Predict** (`beyond_noise`). Rank 8 has twice the parameters of rank 4. How much nearer to the style does it come:
# twice, a little, not at all?

# %%
predict("beyond_noise", "a little nearer")

# %% [markdown]
# ## Do: rank 4 against rank 8
#
# One run of each is not a comparison: with another seed both come out differently. So train rank 4 once more with
# another seed. Only if rank 8 differs from rank 4 by more than rank 4 differs from itself is there anything to say.


# %%
def beyond_noise(first, first_again, second):
    """Whether ``second`` differs from both runs of the first by more than these differ from each other."""
    # BEGIN SOLUTION
    # Compare the distance of `second` to the nearer of the two with the distance between the two.
    # PLACEHOLDER: return None
    noise = abs(first - first_again)
    return min(abs(second - first), abs(second - first_again)) > noise
    # END SOLUTION


check(3, "beyond_noise", beyond_noise)

# %%
again = train(rank=4, seed=SEED + 1)
wide = train(rank=8, seed=SEED)
others = {"rank 4, other seed": drawn(str(again.adapter_file)), "rank 8": drawn(str(wide.adapter_file))}
base_distance = distance(plain)
shares = {"rank 4": style_share(base_distance, distance(rank4))}
shares |= {name: style_share(base_distance, distance(pictures)) for name, pictures in others.items()}
for name, share in shares.items():
    print(f"{name:20} {share:.0%} of the way")
finding = beyond_noise(*shares.values())
compare_with(
    "beyond_noise",
    f"rank 8 {shares['rank 8']:.0%} of the way, rank 4 {shares['rank 4']:.0%} and, with another seed, "
    f"{shares['rank 4, other seed']:.0%}: {'more' if finding else 'no more'} than a change of the seed",
)
print(f"files: rank 4 {size / 1024:.0f} KiB, rank 8 {wide.adapter_file.stat().st_size / 1024:.0f} KiB")
show(
    grid(
        np.concatenate([rank4, *others.values()]), len(prompts), column_labels=prompts, row_labels=list(shares),
    ),
    alt="Three rows of pictures of the same prompts: "
    + ", ".join(f"{name} ({share:.0%} of the way to the style)" for name, share in shares.items()),
)  # fmt: skip

# %% [markdown]
# Two seeds are the least with which anything can be said, and four prompts are few. `docs/studies.md` has the same
# question with more of both.
#
# ## Reflect
#
# <details><summary>Which of the three curves would you show somebody who asks whether training works?</summary>
#
# The one of held-out pictures at fixed timesteps. The training loss mixes what was learned with the luck of the
# timesteps. And neither replaces looking at held-out prompts.
#
# </details>
#
# <details><summary>Why is the same seed used with and without the adapter?</summary>
#
# The seed fixes the start noise. With the same noise, prompt and settings, what differs is the adapter's doing.
#
# </details>
#
# <details><summary>The adapter also changes what is drawn, not only how. Where would you look for that?</summary>
#
# Ask the judge whether object, colour and place are still those of the prompt, with and without the adapter:
# `detour prove` and `detour evaluate` do. A style that is learned at the price of the prompts is not learned well.
#
# </details>

# %%
check.finish(3)
