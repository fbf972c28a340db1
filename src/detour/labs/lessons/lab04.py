# %% [markdown]
# # Lab 4. Compose
#
# **What you will see.** You train two small adapters, put them beside the same base at several weights, predict how
# they get along from their files alone, and hold the prediction against pictures. You also write the sum of two
# adapters as one, exactly, and see why averaging their factors is something else.
#
# Lab 1 says what a rank is, lab 3 how a style is trained.

# %%
BASE = "pocket"  # the one line to change, e.g. to "stable-diffusion-v1-5/stable-diffusion-v1-5"
SEED = 0  # of the pictures' scenes, of the first run and of the first drawn picture; the second run has the next one
STYLES = ("blueprint", "comic")  # styles of the world that pocket has never seen
STEPS = 20 if BASE == "pocket" else 300
RATE = 1.2e-2 if BASE == "pocket" else "auto"
BATCH = 2

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

from detour.adapter_files.reading import read_adapter
from detour.bases.base import open_base
from detour.bases.hardware import drawing_dtype, pick_device
from detour.evaluation.distance import style_distance
from detour.evaluation.judge import Judge, judge_of
from detour.generation.engine import PictureEngine, PictureRequest
from detour.generation.grids import grid
from detour.labs import check, compare_with, predict, show
from detour.pocket.world import NAMED_STYLES, held_out_prompts, render
from detour.specs import (
    AdapterSpec,
    BaseSpec,
    CheckpointSpec,
    DataSpec,
    LossSpec,
    OptimSpec,
    PictureSpec,
    RunSpec,
    SampleSpec,
    TrainSpec,
    ValidateSpec,
)
from detour.verbs.adapter_tools.composition import compose_adapters
from detour.verbs.chosen_adapters import attach_chosen, choose_adapter
from detour.verbs.train.demo import draw_training_pictures
from detour.verbs.train.run import train_adapter

work = Path("lab04")  # data and runs; delete it when you are done
torch.set_num_threads(1)

# %% [markdown]
# ## Reason: what a sum of adapters is
#
# At weights `a` and `b` a layer computes `W x + a·s₁·up₁(down₁ x) + b·s₂·up₂(down₂ x)`. The change of the weight is a
# sum of two products. It can be written as *one* pair of factors: put the two `down`s on top of each other, and the two
# `up`s side by side. The weights have to go in exactly once.
#
# ## Do: one pair of factors from two

# %% [markdown]
# **Predict** (`stack_factors`). Somebody averages the factors of two adapters instead of adding their changes. By
# what share of the change is that off, for random factors of rank 4?

# %%
predict("stack_factors", "by a little, both are averages")


# %%
def stack_factors(down1, up1, scale1, down2, up2, scale2):
    """(down, up) whose product ``up @ down`` is ``scale1 · up1 @ down1 + scale2 · up2 @ down2``."""
    # BEGIN SOLUTION
    # Stack the downs, and the ups, and put each scale into one of the two.
    # PLACEHOLDER: return None, None
    return torch.cat([down1, down2]), torch.cat([scale1 * up1, scale2 * up2], dim=1)
    # END SOLUTION


check(4, "stack_factors", stack_factors)
generator = torch.Generator().manual_seed(SEED)
shapes = ((4, 64), (64, 4), (4, 64), (64, 4))
down1, up1, down2, up2 = (torch.randn(shape, generator=generator) for shape in shapes)
exact = up1 @ down1 + up2 @ down2
averaged = 2 * ((up1 + up2) / 2) @ ((down1 + down2) / 2)
compare_with("stack_factors", f"{float((averaged - exact).norm() / exact.norm()):.0%} of the change")

# %% [markdown]
# Both adapters have rank 4. Which rank has their exact sum?

# %% [markdown]
# **Predict** (`rank_of_sum`). Two adapters of rank 4 become one file that is their exact sum. Is it smaller than both
# files together, as large, or larger?

# %%
predict("rank_of_sum", "smaller: they share the base")

# %%
# BEGIN SOLUTION
# An int.
# PLACEHOLDER: rank_of_sum = None
rank_of_sum = 8
# END SOLUTION
check(4, "rank_of_sum", rank_of_sum)

# %% [markdown]
# ## Do: train two adapters, and write their sum


# %%
def train(style, seed):
    """A small run on twelve pictures of a style."""
    data = work / style
    draw_training_pictures(data, style_name=style, count=12, seed=SEED)
    spec = RunSpec(
        name=style,
        seed=seed,  # of the adapter's start too: two adapters that start alike seem to share more than they do
        base=BaseSpec(name=BASE),
        data=DataSpec(source=str(data)),
        adapter=AdapterSpec(rank=4),
        train=TrainSpec(
            steps=STEPS, batch=BATCH, optim=OptimSpec(lr=RATE), loss=LossSpec(caption_dropout=0.0)
        ),
        sample=SampleSpec(every=0),
        validate=ValidateSpec(every=0),
        checkpoint=CheckpointSpec(every=0),
    )
    return train_adapter(spec, runs=work / "runs", force=True, prove=False).adapter_file


first, second = (train(style, SEED + index) for index, style in enumerate(STYLES))
print(
    f"{first.name}: {first.stat().st_size / 1024:.0f} KiB, {second.name}: {second.stat().st_size / 1024:.0f} KiB"
)

# %%
both = compose_adapters([f"{first}:0.8", f"{second}:0.3"], out=work / "both.safetensors", force=True)
together = first.stat().st_size + second.stat().st_size
compare_with(
    "rank_of_sum",
    f"{both.written.path.stat().st_size / together:.2f} times both together; ranks {both.written.ranks}",
)
print(f"largest relative difference to the exact sum, read back: {both.written.largest_difference:.1e}")

one, two = read_adapter(first), read_adapter(second)
key = next(name for name, layer in one.layers.items() if layer.down.ndim == 2)  # a linear layer
a, b = one.layers[key], two.layers[key]
exact = a.scale * (a.up @ a.down) + b.scale * (b.up @ b.down)
averaged = 2 * a.scale * ((a.up + b.up) / 2) @ ((a.down + b.down) / 2)
off = float((averaged - exact).norm() / exact.norm())
print(f"averaging factors instead of adding changes is off by {off:.0%} of the change in {key}")

# %% [markdown]
# ## Do: predict from the base's answers
#
# Two adapters get in each other's way where they move the UNet's predictions in the same or in opposite directions. Let
# `p₁` and `p₂` be these moves: the UNet's answer with an adapter, less its answer without. Their *agreement* is the
# cosine of the two: 1 the same direction, 0 unrelated, −1 opposite.

# %% [markdown]
# **Predict** (`agreement`). Both styles were trained to change *everything* about how a picture looks. Do they move
# the UNet's answers in the same direction (cosine near 1), against each other (near −1), or neither?

# %%
predict("agreement", "against each other, they are different styles")


# %%
def agreement(move1, move2):
    """Cosine of two moves, tensors of one shape; a float."""
    # BEGIN SOLUTION
    # Return the cosine over all numbers of both.
    # PLACEHOLDER: return None
    return float((move1 * move2).sum() / (move1.norm() * move2.norm()))
    # END SOLUTION


check(4, "agreement", agreement)

# %%
predicted = compose_adapters([str(first), str(second)], out=None, base=BASE)
[pair], [measured] = predicted.pairs, predicted.measured
print(f"from the factors alone: {pair.verdict}, interference {pair.interference:.1f} times chance")
print(f"  {pair.suggestion}")
compare_with(
    "agreement",
    f"cosine {measured.agreement:.2f} on the base ({measured.verdict}); together {measured.louder:.2f} times as loud",
)
print(
    f"  kept of {measured.first}: {measured.kept_first:.0%}, of {measured.second}: {measured.kept_second:.0%}"
)
print(f"  {measured.suggestion}")

# %% [markdown]
# **Predict** (`louder`). With both at weight 1, and with both at 0.5: do pictures move further than with the stronger
# adapter alone?

# %%
predict("louder", "at 1 yes, at 0.5 no")

# %% [markdown]
# ## See it
#
# Every column has the same prompts and seeds; only the weights differ.

# %%
asked = held_out_prompts(3, seed=SEED)
requests = [PictureRequest(prompt=one.prompt, seed=SEED + index) for index, one in enumerate(asked)]
columns = [(0, 0), (1, 0), (0, 1), (1, 1), (0.5, 0.5), (0.8, 0.3)]

opened = open_base(BASE)
device = pick_device()
engine = PictureEngine.load(opened, device=device, dtype=drawing_dtype("auto", device))
attached = attach_chosen(
    {"unet": engine.unet}, [choose_adapter(str(path), opened) for path in (first, second)]
)
drawn = {}
for weights in columns:
    for adapter, weight in zip(attached, weights, strict=True):
        adapter.set_weight(weight)
    spec = PictureSpec(steps=4 if BASE == "pocket" else 25)
    drawn[weights] = engine.draw(requests, spec, batch=len(requests)).pictures
del engine, attached

heads = ["base", STYLES[0], STYLES[1], *(f"{a:g} and {b:g}" for a, b in columns[3:])]
cells = np.stack([drawn[weights][row] for row in range(len(requests)) for weights in columns])
show(
    grid(cells, len(columns), column_labels=heads, row_labels=[one.prompt for one in asked]),
    alt="A grid of three prompts by six columns: the base, each of the two styles alone, and both together at weights "
    "1 and 1, 0.5 and 0.5, 0.8 and 0.3.",
)

# %% [markdown]
# How far did each column move the pictures from the base's, on the 0–255 scale?

# %%
moved = {
    weights: float(np.abs(pictures.astype(float) - drawn[0, 0].astype(float)).mean())
    for weights, pictures in drawn.items()
}
for weights, distance in moved.items():
    print(f"{weights}: {distance:.1f}")
# BEGIN SOLUTION
# The weight pairs with both adapters that move the pictures more than the stronger adapter does alone.
# PLACEHOLDER: louder = None
stronger = max(moved[1, 0], moved[0, 1])
louder = [weights for weights in columns[3:] if moved[weights] > stronger]
# END SOLUTION
check(4, "louder", {"moved": moved, "pairs": louder})
compare_with(
    "louder",
    f"{moved[1, 1]:.1f} of 255 at 1 and 1, {moved[0.5, 0.5]:.1f} at 0.5 and 0.5; "
    f"alone {moved[1, 0]:.1f} and {moved[0, 1]:.1f}",
)

# %% [markdown]
# **Predict** (`seen`). With both at weight 1, which style will the pictures be nearer to? With both at 0.5, is each
# style half as strong?

# %%
predict("seen", "a mixture of both; yes, half of each")

# %% [markdown]
# And how far is each column from each style, for a judge who compares sets of pictures? 0 is "cannot be told apart".
# The first column, the base, is what every other has to be compared with: it may be near to a style by itself.

# %%
judge = Judge.load(judge_of(opened.folder))
side = drawn[0, 0].shape[1]
far = {}
for style in STYLES:
    true = np.stack([render(one.scene, NAMED_STYLES[style], size_px=side) for one in asked])
    goal = judge.picture_features(true)
    far[style] = {
        weights: style_distance(judge.picture_features(some), goal) for weights, some in drawn.items()
    }
del judge
figure, axes = plt.subplots(figsize=(8.5, 3.2))
places = np.arange(len(columns))
for index, (style, distances) in enumerate(far.items()):
    axes.bar(places + 0.4 * index - 0.2, distances.values(), 0.4, label=style, hatch="" if index else "///")
axes.set_xticks(places, heads)
axes.set_xlabel("weights")
axes.set_ylabel("distance to the style")
axes.legend()
show(
    figure, alt="Bars: for the base and for each pair of weights, how far the pictures are from either style."
)
for style, distances in far.items():
    print(
        f"{style:10}",
        "  ".join(f"{head}: {value:.2f}" for head, value in zip(heads, distances.values(), strict=True)),
    )

# %% [markdown]
# ## Write down what you see
#
# Look at the grid again, and at the figures. Write one sentence each: what happens at (1, 1), what lower weights save,
# and whether the prediction was right. There were two predictions, from the factors alone and from the base's answers;
# did both hold? Empty text does not count, and nobody grades what you say.

# %%
# BEGIN SOLUTION
# Three sentences of your own.
# PLACEHOLDER: seen = {"at 1 and 1": "", "lower weights": "", "the prediction": ""}
seen = {
    "at 1 and 1": "The blueprint wins; the comic's black outlines break up into blots, two scenes are hard to see.",
    "lower weights": "At 0.5 and 0.5 the scenes are clear again, in the blueprint's dull colours, both styles weak.",
    "the prediction": "The base's answers said that they leave each other alone; at 1 and 1 the pictures disagree.",
}
# END SOLUTION
check(4, "seen", seen)
said = [
    f"at {pair[0]:g} and {pair[1]:g} the pictures are {distances[pair]:.2f} from {style} (base {distances[0, 0]:.2f}, "
    f"that style alone {distances[(1, 0) if style == STYLES[0] else (0, 1)]:.2f})"
    for pair in ((1, 1), (0.5, 0.5))
    for style, distances in far.items()
]
compare_with("seen", "; ".join(said))

# %% [markdown]
# ## Reflect
#
# <details><summary>Is half the weight half the style?</summary>
#
# The change of the weights is halved exactly. The pictures are not: sampling is many steps of a nonlinear network.
# Compare the columns of both styles alone with 0.5 and 0.5.
#
# </details>
#
# <details><summary>Two adapters of different subjects, or a style and a subject: what would you expect?</summary>
#
# Less trouble than with two styles, because a subject acts where its word is, and a style everywhere. Predict it with
# `detour compose A B --base BASE` before you draw; `docs/interference.md` says how far such predictions can be trusted.
#
# </details>
#
# <details><summary>Why not average the factors? It gives a file of the same size.</summary>
#
# Because `(up₁ + up₂)(down₁ + down₂)` has cross terms `up₁ down₂` and `up₂ down₁` that mean nothing: `down₁` reads
# directions that `up₂` was never trained to answer. You measured how far that is from the sum.
#
# </details>

# %%
check.finish(4)
