# %% [markdown]
# # Lab 19. Where along the schedule
#
# **What you will see.** A picture is drawn out of noise in steps, and an adapter stands beside the network in all of
# them. In which of them does it act? You train a small one and measure how far it moves the network's answers at five
# noise levels, in two units that say different things. Then you switch it on in a third of the steps alone, and off in
# a third alone, and look at the pictures, which decide.
#
# You need to know what `ᾱ` is (lab 9), what a sampler's step is (lab 10) and how a style is trained (lab 3).

# %%
BASE = "pocket"  # the one line to change, e.g. to "stable-diffusion-v1-5/stable-diffusion-v1-5"
SEED = 19  # of the training pictures, the run, the prompts and the first drawn picture
STEPS = 24 if BASE == "pocket" else 300
RATE = 1.2e-2 if BASE == "pocket" else "auto"

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

from detour.bases.base import open_base
from detour.bases.hardware import pick_device, set_threads
from detour.bases.latents import encode_pictures, to_pixels
from detour.evaluation.judge import Judge, judge_of
from detour.generation.engine import PictureEngine, PictureRequest
from detour.generation.grids import grid
from detour.generation.requests import AdapterInUse
from detour.labs import check, compare_with, predict, show
from detour.pocket.world import HOUSE, held_out_prompts, render
from detour.specs import (
    AdapterSpec,
    BaseSpec,
    CheckpointSpec,
    DataSpec,
    OptimSpec,
    PictureSpec,
    RunSpec,
    SampleSpec,
    TrainSpec,
    ValidateSpec,
)
from detour.verbs.chosen_adapters import choose_adapter
from detour.verbs.train.demo import draw_training_pictures
from detour.verbs.train.run import train_adapter

work = Path("lab19")  # data and run; delete it when you are done
set_threads(1)
DEVICE = pick_device()
base = open_base(BASE)

# %% [markdown]
# ## Do: how far an answer moves
#
# The network is shown the same noisy latents with the adapter and without. How far its answer moves is said as a share
# of the answer itself: the length of the difference over the length of the answer without the adapter.

# %% [markdown]
# **Predict** (`relative_move`). At which noise level does the adapter move the predicted noise most, as a share of it:
# where there is little noise, in the middle, or where there is hardly anything else?

# %%
predict("relative_move", "where there is hardly anything else: everything is decided there")


# %%
def relative_move(with_it, without):
    """Length of the move over the length of ``without``, one number a row, (N,); both are (N, C, h, w)."""
    # BEGIN SOLUTION
    # One length for each row, over all of its numbers.
    # PLACEHOLDER: return None
    moved = (with_it - without).flatten(1).norm(dim=1)
    return moved / without.flatten(1).norm(dim=1)
    # END SOLUTION


check(19, "relative_move", relative_move)

# %% [markdown]
# ## Reason: the same move, in the clean picture
#
# Noisy latents are `a · x₀ + b · ε`, where `a` is the share of the picture and `b` that of the noise (`√ᾱ` and
# `√(1 − ᾱ)` in Stable Diffusion, `1 − σ` and `σ` in a flow). Who names the noise has named the picture too:
#
# `x₀ = (noisy − b · ε) / a`
#
# The noisy latents are the same with the adapter and without. So if the named noise moves by `Δε`, the clean picture
# that it stands for moves as well.
#
# **Your turn.** By how much?

# %% [markdown]
# **Predict** (`clean_move`). And the clean picture that the answer stands for: at which noise level does it move most?

# %%
predict("clean_move", "at the same one, it is the same answer")


# %%
def clean_move(noise_move, a, b):
    """Move of the clean latents where the predicted noise of the same noisy latents moves by ``noise_move``.

    All are tensors: ``noise_move`` (N, C, h, w), ``a`` and ``b`` (N, 1, 1, 1).
    """
    # BEGIN SOLUTION
    # Subtract x₀ without the adapter from x₀ with it: the noisy latents cancel out.
    # PLACEHOLDER: return None
    return -b / a * noise_move
    # END SOLUTION


check(19, "clean_move", clean_move)

# %% [markdown]
# ## An adapter, and its moves
#
# Twelve pictures in stained glass, a few steps. A style shows best where it acts: it has lead lines, which are details,
# and dark colours, which are not.

# %%
draw_training_pictures(work / "glass", style_name="stained glass", count=12, seed=SEED)
spec = RunSpec(
    name="glass", seed=SEED, base=BaseSpec(name=BASE), data=DataSpec(source=str(work / "glass")),
    adapter=AdapterSpec(rank=4), train=TrainSpec(steps=STEPS, batch=3, optim=OptimSpec(lr=RATE)),
    sample=SampleSpec(every=0), validate=ValidateSpec(every=0), checkpoint=CheckpointSpec(every=0),
)  # fmt: skip
file = train_adapter(spec, runs=work / "runs", force=True, prove=False).adapter_file
chosen = choose_adapter(str(file), base)
used = (AdapterInUse(adapter=chosen.adapter, sha256=chosen.use.sha256),)
print(f"{file.name}: {chosen.adapter.num_parameters:,} parameters")

# %%
scenes = held_out_prompts(4, seed=SEED)
prompts = [scene.prompt for scene in scenes]
engine = PictureEngine(
    base,
    unet=base.load_network(device=DEVICE),
    vae=base.load_vae(device=DEVICE),
    text=base.load_text(device=DEVICE),
    device=DEVICE,
)
true = np.stack([render(scene.scene, HOUSE, size_px=base.native_size_px) for scene in scenes])
clean = encode_pictures(engine.vae, to_pixels(true))[0].cpu()
noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(SEED))
texts = engine.encode(prompts)
process = base.process()
levels, of_noise, of_picture = process.spread(5), [], []
for level in levels:
    times = process.times([level] * len(clean))
    noisy = process.mix(clean, noise, times)
    without, with_it = (
        process.convert(
            engine.predict(noisy, level, texts, adapters=adapters).cpu(), noisy, times,
            source=process.predicts, wanted="noise",
        )
        for adapters in ((), used)
    )  # fmt: skip
    a, b = process.coefficients(times, noisy)
    of_noise.append(float(relative_move(with_it, without).mean()))
    of_picture.append(float(relative_move(clean + clean_move(with_it - without, a, b), clean).mean()))
shares = [float(process.to("cpu").coefficients(process.times([one]), clean[:1])[1]) for one in levels]
figure, axis = plt.subplots(figsize=(6, 2.8), layout="constrained")
axis.plot(shares, of_noise, "o-", label="of the predicted noise")
axis.plot(shares, of_picture, "s--", label="of the clean picture it stands for")
axis.set_xlabel("share of the noise, b")
axis.set_ylabel("moved by")
axis.legend(fontsize=8)
show(
    figure,
    alt="How far the adapter moves the answer, over the share of the noise: "
    + "; ".join(
        f"at {one:.2f} the noise by {first:.0%}, the picture by {second:.0%}"
        for one, first, second in zip(shares, of_noise, of_picture, strict=True)
    ),
)


def most_at(moves):
    """Where a move is largest, and how large it is there and at both ends, as text."""
    most = int(np.argmax(moves))
    return (
        f"most where the share of the noise is {shares[most]:.2f}: by {moves[most]:.0%}; at the clean end by "
        f"{moves[0]:.0%}, at the noisy end by {moves[-1]:.0%}"
    )


compare_with("relative_move", f"of the predicted noise, {most_at(of_noise)}")
compare_with("clean_move", f"of the clean picture, {most_at(of_picture)}")

# %% [markdown]
# Two units, two answers, and both are right: `b / a` grows with the noise, so a small move of the noise is a large move
# of the picture there. Neither says what is seen at the end. A move early on can be undone by later steps, and one in
# the last steps cannot change what was laid out long before.
#
# ## Do: on in a third of the steps
#
# So switch the adapter on and off along the steps. `PictureRequest(step_weights=…)` takes pairs of the share of the
# steps that are done and the strength from there on, as `detour generate --lora-steps 0=1,0.67=0` does.

# %% [markdown]
# **Predict** (`strength_at`). On in one third of the steps alone: which third brings a picture nearest to the one with
# the adapter on throughout, the early (noisy), the middle or the late one?

# %%
predict("strength_at", "the late one: a style is made of details")


# %%
def strength_at(third, step, steps):
    """Strength of the adapter in a step: 1.0 in that third of the steps, 0.0 in the two others.

    ``third`` is "early", "middle" or "late". Steps are counted from 0, where there is noise alone. A step belongs to
    the third in which it begins: step 2 of 7 begins when 2/7 of the steps are done, which is in the first one.
    """
    # BEGIN SOLUTION
    # In which of the three thirds does the step begin? Compare its name with the one that is asked for.
    # PLACEHOLDER: return None
    return 1.0 if ("early", "middle", "late")[3 * step // steps] == third else 0.0
    # END SOLUTION


check(19, "strength_at", strength_at)

# %% [markdown]
# ## Do: how much of the move
#
# The judge, a CLIP model, turns each picture into features. From the base's picture to the one with the adapter is a
# *move*. A picture with the adapter on in a third has made a part of it: the part of its own move that lies along the
# full one. Over all pictures together that is
#
# `Σ (part − plain) · (full − plain) / Σ (full − plain)²`
#
# which is 0 where nothing happened, and 1 where everything did.

# %% [markdown]
# **Predict** (`share_of_move`). Early alone, middle alone, late alone: do the three shares add up to 100 %?

# %%
predict("share_of_move", "yes, each step does its part")


# %%
def share_of_move(part, plain, full):
    """Share of the move from ``plain`` to ``full`` that ``part`` has made; all are features (N, D). A float."""
    # BEGIN SOLUTION
    # The part's move times the full move, summed over everything, over the square of the full one.
    # PLACEHOLDER: return None
    whole = full - plain
    return float(((part - plain) * whole).sum() / whole.square().sum())
    # END SOLUTION


check(19, "share_of_move", share_of_move)

# %% [markdown]
# **Predict** (`missing`). And switched off in one third: where is most missing, and do the three missing shares add up
# to 100 %?

# %%
predict("missing", "without the late one; yes")

# %%
HOW = PictureSpec(steps=6 if BASE == "pocket" else 18)
THIRDS = ("early", "middle", "late")


def along(third, *, alone):
    """Pairs of (share of the steps done, strength): on in the third alone, or off in it alone."""
    on = [strength_at(third, step, HOW.steps) for step in range(HOW.steps)]
    return tuple((step / HOW.steps, one if alone else 1.0 - one) for step, one in enumerate(on))


def draw(step_weights=(), adapters=used):
    requests = [
        PictureRequest(prompt=prompt, seed=SEED + index, step_weights=step_weights)
        for index, prompt in enumerate(prompts)
    ]
    return engine.draw(requests, HOW, adapters=adapters, batch=len(requests)).pictures


drawn = {"base": draw(adapters=()), "all steps": draw()}
drawn |= {f"{third} alone": draw(along(third, alone=True)) for third in THIRDS}
drawn |= {f"without {third}": draw(along(third, alone=False)) for third in THIRDS}
cells = np.stack([pictures[row] for row in range(len(prompts)) for pictures in drawn.values()])
judge = Judge.load(judge_of(base.folder))
features = {name: judge.picture_features(pictures) for name, pictures in drawn.items()}
made = {name: share_of_move(some, features["base"], features["all steps"]) for name, some in features.items()}
show(
    grid(cells, len(drawn), row_labels=prompts, column_labels=list(drawn)),
    alt="Four prompts: the base, the adapter on in all steps, on in a third alone, and off in a third alone. Of the "
    "full move: " + ", ".join(f"{name} {share:.0%}" for name, share in made.items()),
)
alone = {third: made[f"{third} alone"] for third in THIRDS}
lost = {third: 1 - made[f"without {third}"] for third in THIRDS}
first, second = (", ".join(f"{third} {share:.0%}" for third, share in some.items()) for some in (alone, lost))
compare_with("strength_at", f"share of the full move, on in that third alone: {first}")
compare_with("share_of_move", f"together {sum(alone.values()):.0%}")
compare_with("missing", f"{second} of the move; together {sum(lost.values()):.0%}")

# %% [markdown]
# Look at the grid beside these figures: what does the early third bring, what the late one? Four pictures and one
# training are few. `detour timesteps FILE` does the same with as many prompts and seeds as you ask for, and says which
# differences are more than noise; what it said of another adapter stands in docs/studies.md.
#
# ## Reflect
#
# <details><summary>Why do the shares of the three thirds not add up to the whole?</summary>
#
# Each step begins where the one before it ended. With the adapter off early, the late steps are shown other latents
# than those which it would have made, and their move is another one. A sum would hold only for a sampler whose steps do
# not look at what they are given.
#
# </details>
#
# <details><summary>Somebody leaves the adapter out of the last third, to save time. What is saved, what lost?</summary>
#
# A few matrix products beside each layer in a third of the steps: measure it, it is little. What is lost is the share
# that you measured. There is a better reason to do it: where an adapter spoils the details, or is to set the
# composition alone.
#
# </details>
#
# <details><summary>A paper says that a style is made in the last steps. How would you check it on your base?</summary>
#
# With several adapters and prompts, and both ways round: on in a third alone, off in a third alone. One adapter of one
# style says something about that adapter.
#
# </details>

# %%
check.finish(19)
