# %% [markdown]
# # Lab 8. Did it move the pixels?
#
# **What you will see.** An adapter that was trained in half a minute, and every question that one has to ask before
# saying that it works: did pictures move, by more than rounding; where to; at what price? Then five adapters of which
# four do nothing at all. You write the function that finds out why. At the end the sound one is saved, read back,
# swapped in and merged, and must draw the same picture each time.
#
# You need to know what an adapter is (lab 6). Training is lab 3's subject; here it is only material.

# %%
BASE = "pocket"  # the one line to change, e.g. to "stable-diffusion-v1-5/stable-diffusion-v1-5"
SEED = 8  # of the pictures, the training and the prompts; picture i is drawn with SEED + i


import contextlib
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from detour.adapter_files import read_adapter
from detour.adapter_files.writing import write_adapter
from detour.adapters.attach import attach_adapter
from detour.adapters.delta import merge_into
from detour.bases.base import open_base
from detour.bases.hardware import pick_device, set_threads
from detour.evaluation.distance import style_distance
from detour.evaluation.judge import Judge, judge_of
from detour.evaluation.pixels import diversity, max_abs_diff
from detour.evaluation.thresholds import EFFECT_MIN_DIFF, EFFECT_OVER_NOISE
from detour.generation.engine import PictureEngine, PictureRequest
from detour.generation.grids import grid
from detour.labs import check, compare_with, predict, show
from detour.labs.patients import ward
from detour.pocket.world import HOUSE, NAMED_STYLES, caption, held_out_prompts, render, training_example
from detour.specs import PictureSpec

set_threads(1)
DEVICE = pick_device()
base = open_base(BASE)
STYLE = NAMED_STYLES["stained glass"]

# %% [markdown]
# ## A measure
#
# An adapter is trained below. First the measure that it is looked at with: how far apart are two sets of pictures?

# %% [markdown]
# **Predict** (`mean_abs_diff`). The adapter will learn for less than half a minute. How far does it move pictures of
# new prompts, of 255 on average?

# %%
predict("mean_abs_diff", "by 5: one hardly sees it")

# %% [markdown]
# **Your turn.** The mean absolute difference over all pixels and channels, in steps of 255. The pictures are `uint8`:
# think of what `3 − 5` is in bytes. (Numbers are checked to a thousandth of the right value.)


# %%
def mean_abs_diff(first, second):
    """Mean absolute difference of two sets of pictures, uint8 (N, H, W, 3) each; a float."""
    # BEGIN SOLUTION
    # Return the mean of the absolute differences, computed in a type that has room for them.
    # PLACEHOLDER: return None
    return float(np.abs(first.astype(np.int16) - second.astype(np.int16)).mean())
    # END SOLUTION


check(8, "mean_abs_diff", mean_abs_diff)

# %% [markdown]
# ## An adapter
#
# Twelve pictures in stained glass, which the base has never seen, 30 steps. This is what `detour train` does, without
# checkpoints, samples and proof; the lines are those of its parts.

# %%
from detour.bases.denoiser import make_denoiser
from detour.specs import AdapterSpec, BaseSpec, DataSpec, OptimSpec, RunSpec, TrainSpec
from detour.training.assembly import attach_trainable, choose_targets, make_loss, make_state
from detour.training.cache import TrainingData, cache_latents, cache_text
from detour.training.loop import fit
from detour.training.resolving import resolve

SIZE = base.native_size_px
examples = [training_example(SEED, index) for index in range(12)]
pictures = np.stack([render(one.scene, STYLE, size_px=SIZE) for one in examples])
captions = [caption(one.scene, HOUSE, seed=index) for index, one in enumerate(examples)]
vae, text_stage = base.load_vae(device=DEVICE), base.load_text(device=DEVICE)

spec = RunSpec(
    name="lab-8", seed=SEED, base=BaseSpec(name=BASE, device=DEVICE, dtype="fp32"), data=DataSpec(flip=False),
    adapter=AdapterSpec(rank=4, targets="all"), train=TrainSpec(steps=30, batch=2, optim=OptimSpec(lr=1.2e-2)),
)  # fmt: skip
spec = resolve(spec, base, captions, name="lab-8", device=DEVICE).spec
data = TrainingData(
    cache_latents(vae, list(pictures), flip=False),
    cache_text(text_stage, captions),
    tuple(captions),
    tuple(range(12)),
)
unet = base.load_network(device=DEVICE)
denoiser = make_denoiser(base, unet, device=DEVICE, dtype=torch.float32, autocast=True)
attached = attach_trainable(denoiser, choose_targets(unet, base, spec).layers, spec)
fit(make_state(attached, spec), make_loss(denoiser, data, spec), [], steps=30)
trained = attached.to_adapter()
attached.detach()
del denoiser, attached, data
print(f"{len(trained.layers)} layers, {trained.num_parameters:,} parameters")

# %% [markdown]
# ## Moved by how much?
#
# Prompts that training never saw, drawn without the adapter, with it at weight 0, and with it.

# %%
unet = base.load_network(device=DEVICE)  # a fresh one: training prepares a UNet for its own passes
engine = PictureEngine(base, unet=unet, vae=vae, text=text_stage, device=DEVICE)
scenes = held_out_prompts(6, seed=SEED)
prompts = [scene.prompt for scene in scenes]
how = PictureSpec(steps=4)


@contextlib.contextmanager
def beside(adapter, weight=1.0):
    """Put the adapter beside the UNet inside the block; afterwards it is gone, whatever happened."""
    standing = attach_adapter({"unet": unet}, adapter, weight)
    try:
        yield standing
    finally:
        standing.detach()


def draw(which=slice(None), engine=engine):
    requests = [PictureRequest(prompt=prompt, seed=SEED + index) for index, prompt in enumerate(prompts)]
    return engine.draw(requests[which], how).pictures


without = draw()
with beside(trained, 0.0) as standing:
    switched_off = draw()
    standing.set_weight(1.0)
    with_adapter = draw()
moved, floor = mean_abs_diff(without, with_adapter), mean_abs_diff(without, switched_off)
show(
    grid(
        np.concatenate([without[:4], with_adapter[:4]]), 4,
        row_labels=["without", "with the adapter, 30 steps"], column_labels=prompts[:4],
    ),
    alt=f"Four prompts without the adapter and, below, with it: {moved:.0f} of 255 apart on average. On pocket they "
    "turn murky and patchy, without clear leads; the heart and the flower stay, the butterfly and the fish come apart",
)  # fmt: skip

# %%
compare_with("mean_abs_diff", f"{moved:.2f} of 255; the floor, weight 0 against no adapter, is {floor:.2f}")

# %% [markdown]
# On one CPU in float32 adding nothing changes nothing. Half precision is another matter. Give the
# adapter a ten-thousandth of its strength, which nobody could see, in both precisions.

# %% [markdown]
# **Predict** (`has_effect`). An adapter is switched on at a ten-thousandth of its strength. How far do pictures move,
# of 255, in float32 and in bfloat16?

# %%
predict("has_effect", "not at all in both")

# %%
request, faint = [PictureRequest(prompt=prompts[0], seed=SEED)], {}
for dtype, kind in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
    drawer = PictureEngine(
        base, unet=base.load_network(kind, DEVICE), vae=vae, text=text_stage, device=DEVICE, dtype=dtype
    )
    nothing = drawer.draw(request, how).pictures
    attach_adapter({"unet": drawer.unet}, trained, 1e-4)
    faint[dtype] = mean_abs_diff(nothing, drawer.draw(request, how).pictures)
    del drawer
print(", ".join(f"{distance:.4f} of 255 in {dtype}" for dtype, distance in faint.items()))

# %% [markdown]
# A bfloat16 number has eight bits of precision (seven are stored, one is implied). A change too small to see moves some
# numbers to the neighbouring one, and from there the walk goes its own way. So compare in float32, as detour's proof
# does, or above a floor that was measured.

# %% [markdown]
# **Your turn.** When has an adapter an effect? detour asks for two things: more than `EFFECT_MIN_DIFF` (0.5 of 255),
# and more than `EFFECT_OVER_NOISE` (3) times the floor that was measured in the same way.


# %%
def has_effect(moved, floor):
    """Whether an adapter that moved pictures by ``moved`` has an effect; True or False."""
    # BEGIN SOLUTION
    # Both conditions.
    # PLACEHOLDER: return None
    return moved > EFFECT_MIN_DIFF and moved > EFFECT_OVER_NOISE * floor
    # END SOLUTION


check(8, "has_effect", has_effect)
compare_with(
    "has_effect",
    f"{faint['fp32']:.4f} in fp32 and {faint['bf16']:.4f} in bf16; by your rule an effect: "
    f"{has_effect(faint['fp32'], 0.0)} and {has_effect(faint['bf16'], 0.0)}, at full strength "
    f"{has_effect(moved, floor)}",
)

# %% [markdown]
# ## Moved where to?
#
# A difference says that something happened, not what. Noise moves pixels too. The judge, a CLIP model, looks at
# pictures and prompts with two encoders that meet in one space; its features have length one, so a product of two is
# their cosine.
#
# **Your turn.** The CLIP score of each picture with its own prompt.

# %% [markdown]
# **Predict** (`clip_scores`). The adapter learns a style. What becomes of the prompts: kept better, as well, or
# worse?

# %%
predict("clip_scores", "as well: the captions were true")


# %%
def clip_scores(picture_features, text_features):
    """Cosine of each picture with its own prompt, (N,); both are (N, D) with rows of length one."""
    # BEGIN SOLUTION
    # Return one cosine for each picture.
    # PLACEHOLDER: return None
    return (picture_features * text_features).sum(dim=1)
    # END SOLUTION


check(8, "clip_scores", clip_scores)

# %% [markdown]
# The table also has the distance to a reference set (true pictures of the style, of other scenes: 0 would be alike;
# lab 3 says more about it), and the diversity: how different pictures of different prompts are from each other. An
# adapter that draws one and the same picture for everything has moved the pixels as well. That is a collapse, and
# only this line shows it.

# %%
judge = Judge.load(judge_of(base.folder))
references = np.stack(
    [render(training_example(SEED + 1, index).scene, STYLE, size_px=SIZE) for index in range(24)]
)
style = judge.picture_features(references)
prompt_features = judge.text_features(prompts)
table = {}
for name, some in (
    ("without", without),
    ("with", with_adapter),
    ("collapsed", with_adapter[:1].repeat(6, axis=0)),
):
    looks = judge.picture_features(some)
    table[name] = {
        "CLIP score": float(clip_scores(looks, prompt_features).mean()),
        "distance to the style": style_distance(looks, style),
        "diversity": diversity(some),
    }
print(f"{'':12}" + "".join(f"{name:>24}" for name in table["with"]))
for name, row in table.items():
    print(f"{name:12}" + "".join(f"{value:>24.3f}" for value in row.values()))
change = table["with"]["CLIP score"] - table["without"]["CLIP score"]
compare_with(
    "clip_scores",
    f"CLIP score {change:+.3f}, distance to the style {table['without']['distance to the style']:.3f} → "
    f"{table['with']['distance to the style']:.3f}",
)

# %% [markdown]
# Six prompts are few: `detour prove` asks for more, tells differences from chance, and writes the verdict.
#
# ## Why does my LoRA not change the output?
#
# Five adapters on the ward. A common loader has taken in each of them without a complaint. One is sound.

# %% [markdown]
# **Predict** (`diagnose`). What is the most frequent cause, do you think, why an adapter changes nothing?

# %%
predict("diagnose", "too few steps")

# %%
another = base.load_network(device=DEVICE)
patients = ward(unet, another, trained)
one = slice(0, 1)
plain = draw(one)  # by itself, as the others will be: the batch is part of the bytes
rows = []
for name, patient in patients.items():
    with patient.loaded() as message:
        picture = draw(one, engine.with_unet(patient.drawing))
    rows.append(picture)
    print(f"{name}: '{message}', moved by {mean_abs_diff(plain, picture):.2f} of 255")
show(
    grid(np.concatenate([plain, *rows]), 6, column_labels=["without", *patients]),
    alt="The picture without an adapter and with each of the five: four are the same as without",
)

# %% [markdown]
# **Your turn.** Write the examination. A patient has four things to look at:
#
# - `patient.adapter.layers`: key → layer. A key is `"unet."` and the name of a module; a layer has `.down`, `.up` and
#   `.alpha`;
# - `patient.weight`: with which it is attached;
# - `patient.adapted`: the UNet that it is put beside, whose `named_modules()` has the names;
# - `patient.drawing`: the UNet that draws.

# %%
CAUSES = ("weight is 0", "keys match nothing", "up is zero", "another model", "none")


def diagnose(patient):
    """Name the cause why a patient has no effect, one of CAUSES; "none" for a sound one."""
    # BEGIN SOLUTION
    # One question after the other; return "none" at the end.
    # PLACEHOLDER: return None
    if patient.weight == 0:
        return "weight is 0"
    names = {f"unet.{name}" for name, _ in patient.adapted.named_modules()}
    if not names & set(patient.adapter.layers):
        return "keys match nothing"
    if not any(layer.up.any() for layer in patient.adapter.layers.values()):
        return "up is zero"
    if patient.adapted is not patient.drawing:
        return "another model"
    return "none"
    # END SOLUTION


check(8, "diagnose", diagnose)
for name, patient in patients.items():
    print(f"{name}: {diagnose(patient)}")
causes = [diagnose(patient) for patient in patients.values()]
found = ", ".join(f"'{cause}' {causes.count(cause)} time(s)" for cause in CAUSES if cause in causes)
compare_with("diagnose", f"on this ward: {found}")

# %% [markdown]
# detour takes none of these in silence: a file whose keys match nothing is refused; a run whose `up` never moved,
# whose rate was 0 or whose file does not do what the trained model did gets the verdict `no_effect`, with its cause.
# And there is a fifth cause that does not switch an adapter off but turns it down: an `alpha` that was lost (lab 6).
#
# ## Save, reload
#
# What was proved on the adapter in memory says nothing about the file. So: write it, read it back, draw again.

# %%
with beside(trained):
    in_memory = draw(one)
with tempfile.TemporaryDirectory() as folder:
    file = write_adapter(Path(folder) / "glass.safetensors", trained, family=base.family)
    print(f"{file.stat().st_size / 2**20:.2f} MiB")
    reloaded = read_adapter(file)
differences = {}
with beside(reloaded):
    differences["reloaded"] = max_abs_diff(in_memory, draw(one))

# %% [markdown]
# ## Hot swap
#
# A server that changes adapters between two requests does not take one off and put another on: it copies the new
# numbers into the live parameters. Same modules, same memory; whatever holds on to them (an optimizer, a compiled
# graph, a second thread's view) still does.
#
# **Your turn.** `factors` is layer key → (down, up), the live parameters, which require no gradient here.

# %% [markdown]
# **Predict** (`hot_swap`). How long does such a swap take, beside taking one adapter off and putting another on?

# %%
predict("hot_swap", "as long, the numbers are the same")


# %%
def hot_swap(factors, adapter):
    """Copy the factors of adapter.layers[key] (with .down and .up) into the live ones, in place."""
    # BEGIN SOLUTION
    # For each key copy both factors into the memory that is there.
    # PLACEHOLDER: return None
    for key, (down, up) in factors.items():
        down.data.copy_(adapter.layers[key].down)
        up.data.copy_(adapter.layers[key].up)
    # END SOLUTION


check(8, "hot_swap", hot_swap)

# %%
silent = patients["E"].adapter
with beside(reloaded) as standing:
    hot_swap(standing.factors, silent)
    differences["swapped out, against the base"] = max_abs_diff(plain, draw(one))
    began = time.perf_counter()
    hot_swap(standing.factors, reloaded)
    swap_ms = 1000 * (time.perf_counter() - began)
    differences["swapped out and in"] = max_abs_diff(in_memory, draw(one))
began = time.perf_counter()
attach_adapter({"unet": unet}, reloaded).detach()
off = differences["swapped out, against the base"]
attach_ms = 1000 * (time.perf_counter() - began)
compare_with(
    "hot_swap",
    f"{swap_ms:.1f} ms against {attach_ms:.0f} ms for attaching and detaching; swapped for an adapter that does "
    f"nothing, the picture is {off} of 255 from the base's, and it must be 0",
)

# %% [markdown]
# ## Merge
#
# The detour becomes part of the road: `W + scale · up @ down`. Afterwards nothing is left to compute beside it, and the
# adapter cannot be switched off, unless the weights were kept. What that is worth is measured.

# %% [markdown]
# **Predict** (`must_be_zero`). Reloaded, swapped out and in, merged, taken out again: which of them draw the same
# bytes? And how much faster than the adapter beside the base does the merged model draw?

# %%
predict("must_be_zero", "all but the file; twice as fast")

# %%


def seconds_a_picture():
    """Seconds of the quickest of two drawings of one picture."""
    times = []
    for _ in range(2):
        began = time.perf_counter()
        draw(one)
        times.append(time.perf_counter() - began)
    return min(times)


latency = {"base": seconds_a_picture()}
with beside(reloaded):
    latency["adapter beside it"] = seconds_a_picture()
merged = merge_into({"unet": unet}, reloaded)
try:
    differences["merged"] = max_abs_diff(in_memory, draw(one))
    latency["merged"] = seconds_a_picture()
finally:
    merged.undo()
differences["taken out again, against the base"] = max_abs_diff(plain, draw(one))
for name, difference in differences.items():
    print(f"{name:36} differs by {difference} of 255 at most")

# %% [markdown]
# **Your turn.** Which of these differences may be 1 and which must be exactly 0? `differences` has five names.

# %%
must_be_zero = None
# BEGIN SOLUTION
# A set of names of `differences`: where the same numbers go through the same operations.
# PLACEHOLDER: must_be_zero = None
must_be_zero = {name for name in differences if name != "merged"}
# END SOLUTION

check(8, "must_be_zero", {"differences": differences, "must_be_zero": must_be_zero})
compare_with(
    "must_be_zero",
    "; ".join(f"{name} {value}" for name, value in differences.items())
    + " of 255. A picture: "
    + ", ".join(f"{name} {1000 * value:.0f} ms" for name, value in latency.items()),
)

# %% [markdown]
# ## Reflect
#
# <details><summary>An adapter moves the pixels by 37 of 255. Did it learn the style?</summary>
#
# It did something. Noise would, and so would a collapse. Where the pictures moved to is said by the distance to the
# style, what was lost by CLIP score and accuracy on held-out prompts, and whether all prompts still differ by the
# diversity.
#
# </details>
#
# <details><summary>Why measure the floor when it is 0 anyway?</summary>
#
# It is 0 in float32 on one CPU with the same batch. In half precision, on GPUs whose kernels do not repeat, or with
# another batch size pictures move without any reason, and that can be more than what a weak adapter does.
#
# </details>
#
# <details><summary>Patient B is attached to a copy of the UNet. How does that happen to somebody?</summary>
#
# By loading the adapter into one pipeline and drawing with another, by moving a model to a device in a way that makes
# a copy, or by a compiled or merged model that was made before the adapter came. Everything that one prints about the
# adapter is right; only the drawing model does not know it.
#
# </details>

# %%
check.finish(8)
