# %% [markdown]
# # Lab 1. Where the detours go
#
# **What you will see.** A diffusion model's UNet has a few hundred layers. An adapter stands beside some of them. You
# find the cross-attention layers by name, work out what a rank costs, check a figure that is copied all over the web,
# and draw the UNet with its frozen and adapted parts. Almost all of it works from settings alone: Stable Diffusion
# 1.5 is counted without downloading it.
#
# You need to know what a linear layer is.

# %%
BASE = "pocket"  # the one line to change, e.g. to "stable-diffusion-v1-5/stable-diffusion-v1-5"
SEED = 0  # of the fresh adapter that is written to a file at the end; nothing else is random here

import tempfile
from pathlib import Path

import torch
from PIL import Image

from detour.adapter_files.writing import write_adapter
from detour.adapters.attach import attach_new
from detour.adapters.targets import adaptable_layers, select
from detour.bases.base import open_base
from detour.labs import check, compare_with, predict, show
from detour.verbs.explain.inspection import inspect_base, plot_unet

# %% [markdown]
# ## Reason: two kinds of attention
#
# A transformer block of the UNet has two attention layers. In `attn1` the places of the picture look at each other
# (self-attention). In `attn2` they look at the words of the prompt (cross-attention). Both have the same four
# projections: `to_q`, `to_k`, `to_v` and `to_out.0`. Here is one such block, as the model names it.
#
# A flow-matching transformer (`pocket-flow`, Stable Diffusion 3) has no cross-attention: picture and words are in one
# joint attention, to which the words have projections of their own: `add_q_proj`, `add_k_proj`, `add_v_proj` and
# `to_add_out`. Where `BASE` is one of those, collect these.

# %%
opened = open_base(BASE)
network = opened.meta_network()  # shapes without numbers: the "meta" device takes no memory
layers = adaptable_layers(network)
TEXT = "text-attn" if opened.is_flow else "cross-attn"  # what such layers are called as targets
block = "transformer_blocks.0." if opened.is_flow else "down_blocks.1.attentions.0.transformer_blocks.0."
print(f"{len(layers)} layers of {opened.identity} could take an adapter. Those of one transformer block:")
for layer in layers:
    if layer.path.startswith(block):
        print(f"  {layer.path:60} {layer.in_features:4} -> {layer.out_features}")

# %% [markdown]
# The widths tell the two apart as well: `attn2.to_k` and `attn2.to_v` read the text, which has a width of its own;
# everything in `attn1` has the width of the picture.
#
# ## Do: find the cross-attention
#
# Collect the names of all four cross-attention projections, in all blocks. (On a transformer: those of the words.)

# %% [markdown]
# **Predict** (`cross_attention`). What share of all layers that could take an adapter reads the text (four
# projections in every `attn2`)?

# %%
predict("cross_attention", "half of them")

# %%
# BEGIN SOLUTION
# A list of the paths of all cross-attention projections; each layer has a .path.
# PLACEHOLDER: names = None
ends = ("attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0")
if opened.is_flow:
    ends = ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
names = [layer.path for layer in layers if layer.path.endswith(ends)]
# END SOLUTION
check(1, "cross_attention", {"base": BASE, "names": names})
compare_with("cross_attention", f"{len(names)} of {len(layers)} layers, {len(names) / len(layers):.0%}")

# %% [markdown]
# ## Do: what a rank costs
#
# Beside a frozen weight `W` of shape (out, in) stand two thin matrices: `down` of shape (rank, in) and `up` of shape
# (out, rank). How many parameters is that?

# %% [markdown]
# **Predict** (`lora_parameters`). A layer has 320 × 320 weights. How many per cent of that does a detour of rank 4
# add?

# %%
predict("lora_parameters", "1 %, for 4 is about a hundredth of 320")


# %%
def lora_parameters(in_features, out_features, rank):
    """Parameters of the detour beside one linear layer."""
    # BEGIN SOLUTION
    # Count the numbers in both matrices.
    # PLACEHOLDER: return None
    return rank * in_features + out_features * rank
    # END SOLUTION


check(1, "lora_parameters", lora_parameters)
compare_with(
    "lora_parameters",
    f"{lora_parameters(320, 320, 4):,} beside {320 * 320:,}, {lora_parameters(320, 320, 4) / 320**2:.1%}",
)

# %% [markdown]
# Now the whole adapter: beside all cross-attention projections that you found, at rank 4, 8 and 16.

# %% [markdown]
# **Predict** (`adapter_parameters`). How many times larger is the whole adapter at rank 16 than at rank 4?

# %%
predict("adapter_parameters", "16 times, for both matrices grow")

# %%
widths = {layer.path: (layer.in_features, layer.out_features) for layer in layers}
# BEGIN SOLUTION
# A dictionary {4: …, 8: …, 16: …} from rank to parameters of the whole adapter.
# PLACEHOLDER: counts = None
counts = {rank: sum(lora_parameters(*widths[name], rank) for name in names) for rank in (4, 8, 16)}
# END SOLUTION
check(1, "adapter_parameters", {"base": BASE, "counts": counts})
compare_with(
    "adapter_parameters", f"{counts[16] / counts[4]:g} times: {counts[4]:,} and {counts[16]:,} parameters"
)

# %%
inspection = inspect_base(BASE, targets=TEXT, ranks=(4, 8, 16))
for cost in inspection.costs[:3]:
    size = cost.file_bytes["fp16"] / 1024
    print(
        f"rank {cost.rank:2}: {cost.parameters:>9,} parameters, {cost.share:.2%} of all, {size:.0f} KiB in fp16"
    )

# %% [markdown]
# Parameters are linear in the rank: twice the rank is twice the file. They are *not* linear in the size of the base.
#
# ## Do: the suffix that matches too much
#
# Now Stable Diffusion 1.5, from its settings alone. `select(layers, "to_q,to_k,to_v")` gives the layers whose names end
# so; `select(layers, "attn2.to_q,attn2.to_k,attn2.to_v")` asks for one kind alone.

# %% [markdown]
# **Predict** (`bare_suffix`). Stable Diffusion 1.5 has 16 transformer blocks. Tutorials call `to_q`, `to_k`, `to_v`
# "the cross-attention layers". How many layers do these three names match?

# %%
predict("bare_suffix", "16 times 3, so 48")

# %%
sd15 = adaptable_layers(open_base("sd15", weights=False).meta_network())
# BEGIN SOLUTION
# How many layers of sd15 the bare names match, and how many of them are cross-attention.
# PLACEHOLDER: matched = {"bare": None, "cross": None}
matched = {
    "bare": len(select(sd15, "to_q,to_k,to_v")),
    "cross": len(select(sd15, "attn2.to_q,attn2.to_k,attn2.to_v")),
}
# END SOLUTION
check(1, "bare_suffix", matched)
compare_with("bare_suffix", f"{matched['bare']}, of which {matched['cross']} are cross-attention")

# %% [markdown]
# ## Do: a figure that is copied
#
# For Stable Diffusion 1.5, rank 4 and the four projections of *all* attention layers, one reads everywhere:
# "1,476,608 trainable parameters, 0.1718 %". Count them. The share is that of base and adapter together; the base's
# UNet has 859,520,964 parameters. Give it to five decimals of a per cent at least: 0.00002 off is still right.

# %% [markdown]
# **Predict** (`copied_figure`). A rank-4 adapter beside every attention layer of Stable Diffusion 1.5 (860 million
# parameters): what percentage of all parameters is it?

# %%
predict("copied_figure", "about one per cent")

# %%
# BEGIN SOLUTION
# Parameters at rank 4 of targets "attn", and their share of base and adapter together in percent.
# PLACEHOLDER: claim = {"parameters": None, "percent": None}
parameters = sum(lora_parameters(layer.in_features, layer.out_features, 4) for layer in select(sd15, "attn"))
claim = {"parameters": parameters, "percent": 100 * parameters / (859_520_964 + parameters)}
# END SOLUTION
check(1, "copied_figure", claim)
compare_with("copied_figure", f"{claim['percent']:.4f} %, {claim['parameters']:,} parameters")

# %% [markdown]
# Another sentence that is copied: "SD 1.5 has cross-attention only at 16×16 and 32×32". The inspection knows the size
# of every block's feature map at 512 px:

# %%
whole = inspect_base("sd15", targets="cross-attn", ranks=(4,))
for block in whole.blocks:
    adapted = sum(group.adapted for group in block.groups)
    if adapted:
        print(f"{block.name:15} {block.side:2}×{block.side:<2}  {adapted:2} cross-attention projections")

# %% [markdown]
# It has them at 64×64, 32×32, 16×16 and, in the middle, at 8×8.
#
# ## Do: size on disk
#
# A file has two bytes a parameter in fp16, and a header. How many bytes do the factors of your rank-4 cross-attention
# adapter of this base take in fp16?

# %% [markdown]
# **Predict** (`file_bytes`). The file in fp16 beside the bytes of its factors alone: as large, a little larger, twice
# as large?

# %%
predict("file_bytes", "as large")

# %%
# BEGIN SOLUTION
# Bytes of the factors in fp16, an int.
# PLACEHOLDER: factor_bytes = None
factor_bytes = 2 * counts[4]
# END SOLUTION
check(1, "file_bytes", {"base": BASE, "bytes": factor_bytes})

# %%
real = opened.load_network(torch.float32)
part = opened.family.network_part
attached = attach_new(real, part, select(layers, TEXT), rank=4, alpha=4.0, seed=SEED)
with tempfile.TemporaryDirectory() as folder:
    path = write_adapter(
        Path(folder) / "fresh.safetensors", attached.to_adapter(), family=opened.family, dtype="fp16"
    )
    on_disk = path.stat().st_size
attached.detach()
del real, attached  # the only weights that this lab loads; they leave memory here
compare_with(
    "file_bytes",
    f"{on_disk:,} bytes on disk for {factor_bytes:,} of factors, {on_disk / factor_bytes:.2f} times as many",
)
zeros = ", and zeros: such a file has q, k and v as one layer" if opened.is_flow else ""
print(f"{on_disk - factor_bytes:,} bytes are names and metadata{zeros}")

# %% [markdown]
# ## The picture
#
# Grey is frozen. Hatched orange is where a detour stands. (A transformer is no U but a row of blocks of one size, so it
# gets a table.)

# %%
if opened.is_flow:
    for row in inspection.blocks:
        adapted = sum(group.adapted for group in row.groups)
        print(f"{row.name:22} {row.parameters:>11,} frozen, {adapted} layers adapted")
else:
    with tempfile.TemporaryDirectory() as folder:
        path = plot_unet(inspection, Path(folder) / "unet.png")
        show(
            Image.open(path),
            alt="The UNet drawn as a U: blocks go down on the left and up on the right. In each block most kinds of "
            "layers are grey and frozen; the cross-attention layers are hatched in orange and adapted.",
        )

# %% [markdown]
# ## Reflect
#
# <details><summary>Why do the bare names match twice as many layers as one thinks?</summary>
#
# Because `attn1` and `attn2` use the same names inside. A target list is a list of endings: `to_q` ends both
# `attn1.to_q` and `attn2.to_q`. That is not wrong to train, but it is another adapter, with other widths and twice the
# layers. Say `attn2.to_q` when you mean cross-attention.
#
# </details>
#
# <details><summary>On a small base the share is much higher than on Stable Diffusion. Why?</summary>
#
# A layer of width d has d² parameters and its detour 2·r·d. The ratio is 2·r/d: the wider the layers, the smaller the
# share. That is why figures such as "10,000 times fewer" (GPT-3) do not carry over to Stable Diffusion, where rank 4 on
# all attention is about 1,078 times fewer.
#
# </details>
#
# <details><summary>Does a larger share mean a better adapter?</summary>
#
# No. It means more that can be changed, for the better or the worse. Lab 3 compares two ranks by what they do to
# pictures.
#
# </details>

# %%
check.finish(1)
