# %% [markdown]
# # Lab 14. Fast drawing
#
# **What you will see.** What four steps cost. You write the function that a distilled model learns, the guided step
# that it learns from, and the times at which it is drawn. Then you draw the same prompts in twenty steps and in four,
# with the sampler of distilled files and without, and a judge says what was kept.
#
# You need to know what a sampler's step is (lab 10) and what guidance does (lab 12).

# %%
BASE = "pocket"  # the one line to change, e.g. to "stable-diffusion-v1-5/stable-diffusion-v1-5"
DISTILLED = (
    None  # a file for few steps: what `detour distill pocket` leaves, or a published LCM-LoRA of your base
)
SEED = 14  # of the prompts and of the first picture

import time

import matplotlib.pyplot as plt
import numpy as np
import torch

from detour.bases.base import open_base
from detour.bases.hardware import pick_device, set_threads
from detour.evaluation.judge import Judge, PromptFacts, judge_of
from detour.generation.engine import PictureEngine, PictureRequest
from detour.generation.grids import grid
from detour.generation.requests import AdapterInUse
from detour.labs import check, compare_with, predict, show
from detour.pocket.world import VOCABULARY, held_out_prompts, plain_prompt
from detour.specs import PictureSpec
from detour.verbs.chosen_adapters import choose_adapter

set_threads(1)
DEVICE = pick_device()
base = open_base(BASE)

# %% [markdown]
# ## Do: the function that is learned
#
# From noisy latents at any time a *consistency function* says where the whole way would end. It is a mixture of the
# noisy latents `x` and of the clean latents `x₀` that the network sees in them:
#
# `f(x, t) = c_skip(t) · x + c_out(t) · x₀`
#
# At time 0 nothing is left to do, so `f(x, 0)` has to be `x`, whatever the network says. Published files take, with
# `s = 10 · t`,
#
# `c_skip(t) = 0.25 / (s² + 0.25)`
#
# `c_out(t) = s / √(s² + 0.25)`

# %% [markdown]
# **Predict** (`shares`). How large are the two at time 0, and how large at time 20 of 1,000?

# %%
predict("shares", "1 and 0 at time 0; about 0.98 and 0.02 at 20")

# %%


def shares(t):
    """``(c_skip, c_out)`` at timestep ``t``, two numbers."""
    # BEGIN SOLUTION
    # First s = 10 t. The square root belongs to c_out alone.
    # PLACEHOLDER: return None, None
    s = 10 * t
    return 0.25 / (s**2 + 0.25), s / (s**2 + 0.25) ** 0.5
    # END SOLUTION


check(14, "shares", shares)
compare_with("shares", "; ".join(f"{shares(t)[0]:.6f} and {shares(t)[1]:.6f} at {t}" for t in (0, 20)))

# %% [markdown]
# The boundary matters at the last moment only: a moment earlier the answer is the network's.
#
# ## Do: a guided step of the base
#
# What is learned is agreement: the answer at a time is to be the answer a little later, where *later* is one step of
# the base that is being distilled, with guidance. That step asks the base twice. Its guided noise is
#
# `ε = ε_none + g · (ε_text − ε_none)`
#
# Out of it come the clean latents
#
# `x₀ = (x − √(1 − ᾱ_t) · ε) / √ᾱ_t`
#
# and the two are mixed again at the later time `s`, which is DDIM without fresh noise:
#
# `√ᾱ_s · x₀ + √(1 − ᾱ_s) · ε`

# %% [markdown]
# **Predict** (`guided_step`). A distilled file is drawn without guidance, one pass a step in place of two. Where did
# the guidance go?

# %%
predict("guided_step", "it is lost: that is the price of few steps")

# %%


def guided_step(noisy, of_text, of_none, scale, alpha_t, alpha_s):
    """Latents after one guided DDIM step.

    ``noisy`` are latents where ᾱ is ``alpha_t``, ``of_text`` and ``of_none`` the two predictions of their noise, and
    ``alpha_s`` is ᾱ where the step ends. All are tensors, but for the number ``scale``.
    """
    # BEGIN SOLUTION
    # Guide the noise, take the clean latents out of it, and mix both at the end of the step.
    # PLACEHOLDER: return None
    noise = of_none + scale * (of_text - of_none)
    clean = (noisy - (1 - alpha_t).sqrt() * noise) / alpha_t.sqrt()
    return alpha_s.sqrt() * clean + (1 - alpha_s).sqrt() * noise
    # END SOLUTION


check(14, "guided_step", guided_step)
example = torch.randn(3, 4, generator=torch.Generator().manual_seed(SEED))
begin, end = torch.tensor(0.2), torch.tensor(0.3)
moved = [(guided_step(*example, scale, begin, end) - example[0]).abs().mean().item() for scale in (1.0, 4.0)]
compare_with(
    "guided_step",
    f"into what is learned from: this step moves by {moved[0]:.2f} at guidance 1 and by {moved[1]:.2f} at 4, and the "
    "adapter learns to agree with the second",
)

# %% [markdown]
# ## Do: the times of four steps
#
# A distilled model was taught at fifty times, 19, 39, … 999. Drawn in few steps it is asked at some of them, the
# noisiest one first: with `n` steps those at the places 0, `⌊50 / n⌋`, `⌊2 · 50 / n⌋` … of the list that begins with
# 999.

# %% [markdown]
# **Predict** (`drawing_times`). At which times is it asked in four steps, and is the last one near 0?

# %%
predict("drawing_times", "999, 666, 333, 0")

# %%


def drawing_times(steps):
    """The timesteps of a picture of ``steps`` steps, a list of whole numbers from 999 down."""
    # BEGIN SOLUTION
    # The list that begins with 999 goes down by 20. Which places of its fifty are taken?
    # PLACEHOLDER: return None
    return [999 - 20 * (50 * place // steps) for place in range(steps)]
    # END SOLUTION


check(14, "drawing_times", drawing_times)
compare_with("drawing_times", f"{drawing_times(4)}: the answer at the last one is the picture")

# %% [markdown]
# ## Measure: four steps
#
# Eight prompts, each in twenty guided steps, in four guided steps of the same sampler, and in four steps as a distilled
# file is drawn: LCM, without guidance, once with the plain base, and with your file if you named one. The judge, a CLIP
# model, reads object, colour and place.
#
# ## Do: what is kept
#
# What twenty steps got wrong, four cannot keep. So one asks only of those that twenty steps got right.

# %% [markdown]
# **Predict** (`kept`). Which share of the objects that twenty steps draw right do four guided steps of the same sampler
# draw right?

# %%
predict("kept", "a fifth: it is a fifth of the steps")

# %%


def kept(before, after):
    """Share of what was right ``before`` that is right ``after``; both are lists of True and False of equal length.

    Where nothing was right before, nothing can be kept: 0.
    """
    # BEGIN SOLUTION
    # Look at those places alone where before is True.
    # PLACEHOLDER: return None
    now = [late for early, late in zip(before, after, strict=True) if early]
    return sum(now) / len(now) if now else 0.0
    # END SOLUTION


check(14, "kept", kept)

# %%
asked = held_out_prompts(8, seed=SEED)
engine = PictureEngine(
    base,
    unet=base.load_network(device=DEVICE),
    vae=base.load_vae(device=DEVICE),
    text=base.load_text(device=DEVICE),
    device=DEVICE,
)
LCM = PictureSpec(steps=4, guidance_scale=1.0, scheduler="lcm")
ways = {
    "20 steps": (PictureSpec(steps=20), ()),
    "4 steps": (PictureSpec(steps=4), ()),
    "4 steps of LCM, plain base": (LCM, ()),
}
if DISTILLED is not None:
    chosen = choose_adapter(DISTILLED, base)
    use = AdapterInUse(adapter=chosen.adapter, sha256=chosen.use.sha256)
    ways["4 steps of LCM, distilled"] = (LCM, (use,))
drawn, seconds = {}, {}
for name, (how, adapters) in ways.items():
    requests = [
        PictureRequest(prompt=one.prompt, seed=SEED + place, how=how, adapters=adapters)
        for place, one in enumerate(asked)
    ]
    engine.draw(requests[:1])  # warm up
    began = time.perf_counter()
    drawn[name] = engine.draw(requests).pictures
    seconds[name] = (time.perf_counter() - began) / len(requests)

judge = Judge.load(judge_of(base.folder))
facts = [PromptFacts(object=one.object, colour=one.colour, place=one.place) for one in asked]
words = {"object": VOCABULARY.objects, "colour": VOCABULARY.colours, "place": VOCABULARY.places}
read = {
    name: judge.prompt_hits(
        pictures, facts, words, lambda fact: plain_prompt(fact.object, fact.colour, fact.place)
    )
    for name, pictures in drawn.items()
}
before = read["20 steps"]
table = {
    name: {"faster": seconds["20 steps"] / seconds[name]}
    | {slot: kept(before[slot], hits[slot]) for slot in words}
    for name, hits in read.items()
}
print(f"{'':28}{'seconds':>9}{'faster':>9}{'object':>9}{'colour':>9}{'place':>9}")
for name, row in table.items():
    print(
        f"{name:28}{seconds[name]:>9.3f}{row['faster']:>8.1f}×"
        + "".join(f"{row[slot]:>9.0%}" for slot in words)
    )
show(
    grid(
        np.concatenate(list(drawn.values())),
        len(asked),
        row_labels=list(drawn),
        column_labels=[one.prompt for one in asked],
    ),
    alt="Eight prompts in rows: "
    + "; ".join(f"{name}, {row['object']:.0%} of the objects kept" for name, row in table.items()),
)
compare_with(
    "kept",
    ", ".join(
        f"{name}: {row['object']:.0%} of the objects, {row['faster']:.1f} times as fast"
        for name, row in table.items()
        if name != "20 steps"
    ),
)

# %% [markdown]
# Eight pictures are few: 8 kept of 8 may stand for any share above 68 % (Wilson's interval at 95 %). `detour distill`
# compares a file with its base on as many prompts as you ask for.
#
# Look at the first two rows: in the embedded world, whose pictures are simple, four guided steps of a good sampler
# keep nearly all of it. A distilled file has to beat *them*, not the plain base under LCM, and what is left for it to
# save is the second pass of guidance. Ask the same of your own base before you look for a file.
#
# The last row shows what distillation is for. The first answer of the plain base, out of pure noise, is the mean of all
# pictures that fit the prompt, which is soft. New noise is put on it and it is asked again; each of the four answers is
# such a mean, the last one too. A distilled adapter was taught that its first answer is where the way ends.

# %%
figure, axis = plt.subplots(figsize=(6, 2.8), layout="constrained")
detail = {
    name: float(np.abs(np.diff(pictures.astype(np.float32), axis=2)).mean())
    for name, pictures in drawn.items()
}
axis.barh(list(detail), list(detail.values()))
axis.invert_yaxis()
axis.set_xlabel("mean difference of neighbouring pixels, of 255")
show(
    figure,
    alt="Bars of the mean difference of neighbouring pixels: "
    + ", ".join(f"{name} {value:.1f}" for name, value in detail.items()),
)

# %% [markdown]
# ## Reflect
#
# <details><summary>Why is a picture of four guided steps not five times as fast as one of twenty?</summary>
#
# The text encoder and the decoder run once for each picture, however many steps it has. Without guidance every step
# takes one pass in place of two: that is the other half of what distilled files save.
#
# </details>
#
# <details><summary>A style adapter was trained on the plain base. May one draw it with a distilled one?</summary>
#
# Yes, both stand beside the same layers, and their changes add up. But the style was learned for the answers of the
# plain base, and part of its effect is lost: measure how much, at several strengths.
#
# </details>
#
# <details><summary>Somebody draws an LCM file with guidance 7.5. What comes out?</summary>
#
# Burnt colours: the guidance is in the file already, and is put on twice.
#
# </details>

# %%
check.finish(14)
