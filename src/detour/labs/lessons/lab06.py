# %% [markdown]
# # Lab 6. Attach
#
# **What you will see.** An adapter stands beside layers in every part of the UNet. You count where its parameters
# are, attach one and see that the picture has not changed by a single bit, and then find out what `rank` and `alpha`
# do to how loud it speaks, and what happens when a tool loses `alpha` on the way.
#
# You need to know what a linear layer is. Lab 1 counted layers by name; here they are attached.

# %%
BASE = "pocket"  # the one line to change, e.g. to "stable-diffusion-v1-5/stable-diffusion-v1-5"
SEED = 6  # of the adapter's start, of the random factors and of the picture

import tempfile
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

from detour.adapter_files import read_adapter
from detour.adapter_files.writing import write_adapter
from detour.adapters.adapter import Adapter
from detour.adapters.arithmetic import lora_parameters, stabilised_alpha
from detour.adapters.attach import attach_adapter, attach_new
from detour.adapters.blocks import block_of
from detour.adapters.delta import largest_relative_difference
from detour.adapters.gradient_proof import hash_base
from detour.adapters.targets import adaptable_layers, select
from detour.bases.base import open_base
from detour.bases.hardware import pick_device, set_threads
from detour.evaluation.pixels import max_abs_diff, mean_abs_diff
from detour.generation.engine import PictureEngine, PictureRequest
from detour.generation.grids import grid
from detour.labs import check, compare_with, predict, show
from detour.specs import PictureSpec

set_threads(1)
DEVICE = pick_device()
base = open_base(BASE)
RANK = 4

# %% [markdown]
# ## Reason: down, middle, up
#
# The UNet shrinks the latents step by step (`down_blocks`), thinks at the smallest size (`mid_block`) and grows them
# again (`up_blocks`). Layers get wider as the latents get smaller. A block on the way up has one more pair of layers
# than its partner on the way down, because it also reads what that one kept for it.
#
# A rank `r` adapter beside a layer of `in → out` has `r · (in + out)` parameters: `down` is `r × in`, `up` is `out ×
# r`. (That both the UNet's sides and the factors are called down and up is bad luck.)
#
# **Your turn.** Count the parameters of a rank-4 adapter beside all attention layers (`"attn"`), by side.

# %% [markdown]
# **Predict** (`by_side`). Which side of the UNet holds most of an adapter's parameters: down, middle or up?

# %%
predict("by_side", "the middle, where the layers are widest")

# %%
layers = select(adaptable_layers(base.meta_network()), "attn")
print(f"{len(layers)} layers, the first is {layers[0].path}")
# BEGIN SOLUTION
# Side ("down", "mid", "up") → parameters; lora_parameters(layer, RANK) counts one layer, layer.path names it.
# PLACEHOLDER: by_side = {"down": None, "mid": None, "up": None}
by_side = dict.fromkeys(("down", "mid", "up"), 0)
for layer in layers:
    side = block_of(f"unet.{layer.path}").partition(".")[0]
    by_side[side] += lora_parameters(layer, RANK)
# END SOLUTION

check(6, "by_side", {"base": BASE, "rank": RANK, "by_side": by_side})

# %%
blocks = {}
for layer in layers:
    name = block_of(f"unet.{layer.path}")
    blocks[name] = blocks.get(name, 0) + lora_parameters(layer, RANK)
figure, axis = plt.subplots(figsize=(6, 2.6), layout="constrained")
axis.bar(list(blocks), list(blocks.values()))
axis.set_xlabel("block, in the order of the latents")
axis.set_ylabel(f"parameters at rank {RANK}")
show(
    figure,
    alt="Adapter parameters by block: " + ", ".join(f"{name} {count:,}" for name, count in blocks.items()),
)
compare_with(
    "by_side", ", ".join(f"{side} {count / sum(by_side.values()):.0%}" for side, count in by_side.items())
)

# %% [markdown]
# ## A claim to check
#
# "Stable Diffusion has cross-attention only at the resolutions 16² and 32²." It is copied from one page to the next.
# SD 1.5's settings come with detour, without weights. Its latents are 64 wide at 512 px and halve from one level to
# the next: `down_blocks.0` sees 64, `.1` sees 32, and so on; `up_blocks` go the other way, from 8.
#
# **Your turn.** At which sizes does SD 1.5 ask the text? The cross-attention layers are those with `attn2` in their
# path.

# %% [markdown]
# **Predict** (`sizes`). At how many sizes of latents does SD 1.5 ask the text?

# %%
predict("sizes", "two, as one reads everywhere")

# %%
sd15 = adaptable_layers(open_base("sd15", weights=False).meta_network())
print(sorted({block_of(f"unet.{layer.path}") for layer in select(sd15, "cross-attn")}))
sizes = None
# BEGIN SOLUTION
# A set of sides of latents, e.g. {16, 32}, read from the blocks that were printed.
# PLACEHOLDER: sizes = None
width_of = {"down.0": 64, "down.1": 32, "down.2": 16, "mid": 8, "up.1": 16, "up.2": 32, "up.3": 64}
sizes = {width_of[block_of(f"unet.{layer.path}")] for layer in select(sd15, "cross-attn")}
# END SOLUTION

check(6, "sizes", sizes)
compare_with("sizes", f"{len(sizes)}: {', '.join(f'{side}²' for side in sorted(sizes))}")

# %% [markdown]
# **Predict** (`share`). An adapter was just attached, with random numbers in half of its weights. How far do pictures
# move, and what share of all parameters can be trained?

# %%
predict("share", "a little, it is random; one per cent")

# %% [markdown]
# ## Do: attach
#
# `attach_new` freezes the base and puts a fresh adapter beside the layers. PEFT does the forward pass.

# %%
unet = base.load_network(device=DEVICE)
before = hash_base(unet)
request = [PictureRequest(prompt="a red house in the desert", seed=SEED)]
how = PictureSpec(steps=8)
engine = PictureEngine(
    base, unet=unet, vae=base.load_vae(device=DEVICE), text=base.load_text(device=DEVICE), device=DEVICE
)
plain = engine.draw(request, how).pictures

attached = attach_new(unet, "unet", layers, rank=RANK, alpha=RANK, seed=SEED)
fresh = engine.draw(request, how).pictures
down, up = next(iter(attached.factors.values()))
print(f"down: {down.abs().mean():.3f} on average, up: {up.abs().mean():.3f}")

# %% [markdown]
# **Your turn.** What share of all parameters is trainable now? Take it from the UNet as it stands:
# `unet.parameters()` gives those of base and adapter, and `requires_grad` tells them apart.

# %%
share = None
# BEGIN SOLUTION
# Trainable parameters over all parameters, between 0 and 1.
# PLACEHOLDER: share = None
trainable = sum(p.numel() for p in unet.parameters() if p.requires_grad)
share = trainable / sum(p.numel() for p in unet.parameters())
# END SOLUTION

check(6, "share", {"unet": unet, "share": share})
compare_with(
    "share",
    f"moved by {max_abs_diff(plain, fresh)} of 255 at most, with numbers up to {up.abs().max():g} in `up`; "
    f"{share:.2%} trainable here, {797_184 / 860_318_148:.4%} on SD 1.5",
)

# %% [markdown]
# ## Reason: the scale
#
# The adapter's part of the output is multiplied by `alpha / rank`:
#
# `h = W x + (alpha / rank) · up(down(x))`
#
# So `alpha` is how loud the whole adapter speaks, and dividing by the rank is meant to let you change the rank
# without having to find a new learning rate. A file's `alpha` is a part of what was learned: the factors were trained
# *with* it.
#
# **Your turn.** The scale, and the change of weight that it gives.

# %% [markdown]
# **Predict** (`scale`). A file of rank 8 with alpha 16, used at weight 0.5: what is its part of the output multiplied
# by?

# %%
predict("scale", "eight: 0.5 times 16")


# %%
def scale(rank, alpha):
    """Factor that the adapter's part of the output is multiplied by."""
    # BEGIN SOLUTION
    # Return the scale of plain LoRA.
    # PLACEHOLDER: return None
    return alpha / rank
    # END SOLUTION


check(6, "scale", scale)
compare_with("scale", f"{0.5 * scale(8, 16):g}")

# %% [markdown]
# **Predict** (`delta_w`). You double the rank and leave `alpha` alone. Does the adapter speak louder, as loud, or
# more softly?

# %%
predict("delta_w", "louder: there is more of it")


# %%
def delta_w(down, up, alpha):
    """Change of the weight, (out, in); down is (rank, in), up is (out, rank)."""
    # BEGIN SOLUTION
    # Return the dense change; the rank is in the shape of down.
    # PLACEHOLDER: return None
    return scale(down.shape[0], alpha) * (up @ down)
    # END SOLUTION


check(6, "delta_w", delta_w)

# %% [markdown]
# ## Measure: louder and softer
#
# To hear anything, `up` must not be zero. We fill it with small random numbers (a seed, no training: this is about
# loudness and not about what is said) and turn `alpha` up.

# %%
attached.detach()
attached = attach_new(unet, "unet", layers, rank=RANK, alpha=RANK, seed=SEED)  # the same start again
generator = torch.Generator().manual_seed(SEED)
with torch.no_grad():
    for _, up in attached.factors.values():
        up.copy_(0.1 * torch.randn(up.shape, generator=generator))
noisy = attached.to_adapter()
attached.detach()


def with_alpha(adapter, alpha):
    return Adapter({key: replace(layer, alpha=float(alpha)) for key, layer in adapter.layers.items()})


moved, pictures = {}, [plain]
for alpha in (1, 2, 4, 8, 16):
    standing = attach_adapter({"unet": unet}, with_alpha(noisy, alpha))
    picture = engine.draw(request, how).pictures
    moved[alpha] = mean_abs_diff(plain, picture)
    pictures.append(picture)
    standing.detach()
show(
    grid(
        np.concatenate(pictures),
        6,
        column_labels=["without", *(f"alpha {a}, scale {a / RANK:g}" for a in moved)],
    ),
    alt="The picture without an adapter, and with random factors at alpha 1 to 16: the larger, the further away",
)
for alpha, distance in moved.items():
    print(f"alpha {alpha:>2}, scale {scale(RANK, alpha):<5g} moves the picture by {distance:5.2f} of 255")

# %% [markdown]
# Now the rank, with factors of the same spread each time: how large is `ΔW`? Three rules for `alpha`: left at 4;
# equal to the rank, as many tools do; and `alpha / √rank` as a scale (rank-stabilised LoRA, arXiv:2312.03732).

# %%
print(f"{'rank':>5}{'alpha = 4':>14}{'alpha = rank':>14}{'alpha / √rank':>15}    (size of ΔW, at rank 4: 1)")
size_of = {}
for rank in (1, 4, 8, 16, 64):
    generator = torch.Generator().manual_seed(SEED)
    down, up = (torch.randn(shape, generator=generator) for shape in ((rank, 256), (256, rank)))
    alphas = {"fixed": 4, "rank": rank, "stabilised": stabilised_alpha(4, rank)}
    size_of[rank] = {name: float(delta_w(down, up, alpha).norm()) for name, alpha in alphas.items()}
for sizes_at in size_of.values():
    sizes_at["stabilised"] /= 2  # at rank 4 its scale is 4 / √4 = 2, and the columns are to start alike
for rank, found in size_of.items():
    print(f"{rank:>5}" + "".join(f"{value / size_of[4]['fixed']:>14.2f}" for value in found.values()))
ratio = size_of[8]["fixed"] / size_of[4]["fixed"]
compare_with(
    "delta_w",
    f"{ratio:.2f} times as loud at rank 8 as at rank 4 with the same alpha, "
    f"{size_of[8]['rank'] / size_of[4]['rank']:.2f} times with alpha = rank",
)

# %% [markdown]
# With `alpha` fixed a larger rank speaks more softly (by `1/√rank`: the scale falls by the rank, the sum of that many
# random products grows by its root). With `alpha = rank` it speaks louder, by `√rank`. Rank-stabilised LoRA keeps it
# level. None of the three is wrong; but a comparison of ranks that does not say its `alpha` compares two things at
# once.
#
# ## Lost alpha
#
# diffusers' format has no place for `alpha` among its tensors. It stands in the file's metadata, when somebody writes
# it there; a reader that finds none takes `alpha = rank`, scale 1. Two adapters, each written and read back, and each
# read as if its `alpha` had been lost:

# %%
with tempfile.TemporaryDirectory() as folder:
    for rank, alpha in ((4, 16.0), (4, 1.0)):
        adapter = with_alpha(noisy, alpha)
        file = write_adapter(Path(folder) / f"alpha-{alpha:g}.safetensors", adapter, family=base.family)
        kept, lost = read_adapter(file), with_alpha(adapter, rank)
        print(
            f"rank {rank}, alpha {alpha:g}: read back, ΔW differs by {largest_relative_difference(adapter, kept):.1%}; "
            f"with alpha lost, by {largest_relative_difference(adapter, lost):.0%} of the whole change"
        )

# %% [markdown]
# **Your turn.** How large is the error when `alpha` is lost, as a share of the adapter's whole change? 0 is no error,
# 1 is as if the adapter had not been there.

# %% [markdown]
# **Predict** (`lost_alpha`). A file of rank 4 and alpha 1 is read as if alpha were 4. How wrong is the change, in
# shares of what it should be: a quarter, one, three?

# %%
predict("lost_alpha", "a quarter")


# %%
def lost_alpha(rank, alpha):
    """Relative error |ΔW as read − ΔW| / |ΔW| of a reader that takes alpha = rank."""
    # BEGIN SOLUTION
    # Return it from the two scales alone.
    # PLACEHOLDER: return None
    return abs(1 - scale(rank, alpha)) / scale(rank, alpha)
    # END SOLUTION


check(6, "lost_alpha", lost_alpha)
compare_with(
    "lost_alpha",
    f"{lost_alpha(4, 1):g} times the whole change; with rank 4 and alpha 16 it would be {lost_alpha(4, 16):g}",
)

# %% [markdown]
# ## Detach
#
# The base has been adapted, redirected and turned up. Is it still the base?

# %%
print("the base has the same bytes:", hash_base(unet) == before)
print("and draws the same picture:", max_abs_diff(plain, engine.draw(request, how).pictures) == 0)

# %% [markdown]
# ## Reflect
#
# <details><summary>The blocks mirror each other. Why does the up side hold more than the down side?</summary>
#
# On the way up each level has one more pair of layers (three instead of two in SD 1.5), because it reads what the way
# down kept for it. Which side *matters* more is another question: a study of the demo's style found that the widest
# blocks could be left out (`detour blocks`, docs/studies.md).
#
# </details>
#
# <details><summary>An adapter of rank 8 and alpha 16 is used at weight 0.5. What is the scale?</summary>
#
# `0.5 · 16 / 8 = 1`. The weight multiplies the scale; it does not replace `alpha`.
#
# </details>
#
# <details><summary>Rank 4, alpha 16 learned well at a rate of 1e-4. What must change with alpha 4?</summary>
#
# The scale falls from 4 to 1, so the same factors say a quarter. `up` must grow four times as far, and Adam moves it
# by about the rate a step: a larger rate, or more steps. Scale and rate are two handles on nearly the same thing.
#
# </details>

# %%
check.finish(6)
