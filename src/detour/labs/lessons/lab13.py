# %% [markdown]
# # Lab 13. Reference and subject
#
# **What you will see.** Two ways to keep a character from picture to picture. You build what shows a network a picture
# beside the prompt (IP-Adapter): its tokens, its second attention, and what each row of guidance is shown. Strength 0
# is the base to the byte. Then a character that the base has never seen is asked for in six places, with the same seed
# alone, with a reference, with a subject adapter of your own, and with both; a judge says what was kept.
#
# You need to know where cross-attention is (lab 1) and what guidance does (lab 12).

# %%
BASE = "pocket"  # the one line to change, e.g. to "stable-diffusion-v1-5/stable-diffusion-v1-5"
REFERENCE = None  # an IP-Adapter file; None takes the base's own, or an untrained one where there is none
SEED = 13  # of the photos, of the training and of all pictures
STEPS = 50 if BASE == "pocket" else 400  # of the subject adapter

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from detour.adapter_files.reference_files import read_reference_adapter, write_reference_adapter
from detour.adapters.reference_weights import attach_reference
from detour.bases.base import open_base
from detour.bases.hardware import pick_device
from detour.bases.image_encoder import load_image_encoder, own_image_encoder
from detour.evaluation.judge import Judge, PromptFacts, judge_folder, judge_of
from detour.files import sha256_of
from detour.generation.engine import PictureEngine, PictureRequest
from detour.generation.grids import grid
from detour.generation.references import ReferenceInUse, ReferenceTool
from detour.generation.requests import AdapterInUse
from detour.labs import check, compare_with, predict, show
from detour.pocket.world import HOUSE, VOCABULARY, compose_scene, place_phrase, plain_prompt, render
from detour.specs import (
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
from detour.verbs.datasets.practice_subject import WorldSubject, draw_subject_pictures
from detour.verbs.train.run import train_adapter

work = Path("lab13")  # photos and runs; delete it when you are done
torch.set_num_threads(1)
DEVICE = pick_device()
base = open_base(BASE)

# %% [markdown]
# ## Do: a picture as a few words
#
# An image encoder turns a picture into one vector, its *embedding*. Cross-attention reads sequences of text states. So
# a linear layer makes a vector out of the embedding that is cut into a few *tokens* as wide as a text state, and every
# token is normalised by itself: mean 0, variance 1 (`functional.layer_norm`).

# %% [markdown]
# **Predict** (`picture_tokens`). SD 1.5's encoder gives 1,024 numbers, a text state has 768, and there are 4 tokens.
# How many numbers does the projection learn, against 22 million in the whole IP-Adapter?

# %%
predict("picture_tokens", "four times 768")

# %%


def picture_tokens(embeddings, weight, bias, num_tokens):
    """Tokens of pictures: (N, num_tokens, width).

    ``embeddings`` is (N, E), ``weight`` (num_tokens · width, E), ``bias`` (num_tokens · width,).
    """
    # BEGIN SOLUTION
    # A linear layer, then the shape, then normalise over the width alone.
    # PLACEHOLDER: return None
    tokens = functional.linear(embeddings, weight, bias).reshape(len(embeddings), num_tokens, -1)
    return functional.layer_norm(tokens, tokens.shape[-1:])
    # END SOLUTION


check(13, "picture_tokens", picture_tokens)
compare_with(
    "picture_tokens", f"{1024 * 4 * 768 + 4 * 768 + 2 * 768:,}: most of the rest are keys and values"
)

# %% [markdown]
# ## Do: a second attention beside the first
#
# One could append the tokens to the text's. But then they share one softmax, and a picture can only be louder where the
# text becomes quieter. IP-Adapter gives the picture keys and values of its own and *adds* what comes out:
#
# `Attn(q, K, V) + s · Attn(q, K′, V′)`, where `Attn(q, K, V) = softmax(q · Kᵀ / √d) · V`
#
# The base's weights stay as they are.

# %% [markdown]
# **Predict** (`decoupled`). With the tokens appended to the text, what would strength 0 have to mean? And here?

# %%
predict("decoupled", "the same in both: the picture has no effect")

# %%


def decoupled(queries, keys, values, picture_keys, picture_values, strength):
    """What cross-attention gives with a picture beside the text: (L, d).

    ``queries`` is (L, d), ``keys`` and ``values`` are (T, d) of the text, the picture's (P, d); ``strength`` is a
    number.
    """
    # BEGIN SOLUTION
    # Two attentions with a softmax each; functional.scaled_dot_product_attention makes one.
    # PLACEHOLDER: return None
    attend = functional.scaled_dot_product_attention
    of_text = attend(queries[None], keys[None], values[None])
    of_picture = attend(queries[None], picture_keys[None], picture_values[None])
    return (of_text + strength * of_picture).squeeze(0)
    # END SOLUTION


check(13, "decoupled", decoupled)
queries, keys, values, picture_keys, picture_values = torch.randn(
    5, 4, 16, generator=torch.Generator().manual_seed(SEED)
)
apart = decoupled(queries, keys, values, picture_keys, picture_values, 0.0)
together = functional.scaled_dot_product_attention(
    queries[None], torch.cat([keys, picture_keys])[None], torch.cat([values, 0 * picture_values])[None]
)
moved = float((together[0] - apart).norm() / apart.norm())
compare_with(
    "decoupled",
    f"appended, with values of 0, the picture still changes what is read of the text by {moved:.0%}; here 0 times "
    "anything is added",
)

# %% [markdown]
# ## Do: what each row of guidance is shown
#
# Guidance asks the network twice, without the prompt and with it, and goes from the first answer past the second. What
# both rows are shown cancels out of that direction. So the rows without the prompt are shown *no* picture, which is
# an embedding of zeros. (The Plus kind, which reads patches, takes what the encoder gives for an input of zeros.)

# %% [markdown]
# **Predict** (`shown_rows`). Somebody shows the picture to both rows. At guidance 7.5, is the reference stronger or
# weaker than it should be?

# %%
predict("shown_rows", "stronger: it is there twice")

# %%


def shown_rows(embeddings):
    """Embeddings of a guided batch: (2N, E) from (N, E), the N rows without a prompt first."""
    # BEGIN SOLUTION
    # torch.cat of nothing and of the embeddings.
    # PLACEHOLDER: return None
    return torch.cat([torch.zeros_like(embeddings), embeddings])
    # END SOLUTION


check(13, "shown_rows", shown_rows)
seen = torch.tensor([[2.0]])
stronger = [7.5 * float(rows[1] - rows[0]) for rows in (shown_rows(seen), torch.cat([seen, seen]))]
compare_with(
    "shown_rows",
    f"weaker: guidance multiplies what differs between the rows, here {stronger[0]:.0f} of an embedding of 2, and "
    f"{stronger[1]:.0f} where both rows are shown it",
)

# %% [markdown]
# ## Measure: strength 0
#
# The engine does all this for a whole UNet. An IP-Adapter that was never trained will do to see what strength 0 is.

# %%
named_judge = judge_of(base.folder)
# A judge is a CLIP model: where the base has no image encoder of its own, the judge's picture tower serves.
encoder_folder = own_image_encoder(base.folder) or judge_folder(named_judge)
own = sorted((base.folder / "reference").glob("*.safetensors"))
IS_TRAINED = REFERENCE is not None or bool(own)
encoder = load_image_encoder(encoder_folder, device=DEVICE)
work.mkdir(exist_ok=True)
if IS_TRAINED:
    file = Path(REFERENCE) if REFERENCE is not None else own[0]
else:
    file = work / "untrained.safetensors"
    fresh = attach_reference(base.load_network(), "unet", encoder_width=encoder.width(pooled=True), seed=SEED)
    write_reference_adapter(file, fresh.tensors(), {"format": "pt"})
tool = ReferenceTool(read_reference_adapter(file), encoder)
print(f"{file.name}: {tool.adapter.facts.words}, {'trained' if IS_TRAINED else 'NOT trained'}")

character = WorldSubject(kind="octopus", colour="purple", words="a sks cat")
photos = work / "photos"
draw_subject_pictures(photos, character, count=12, seed=SEED)
photo = np.asarray(Image.open(photos / "00.png").convert("RGB"))


def reference(strength):
    """The first photo as the reference of a request."""
    return ReferenceInUse(tool=tool, picture=photo, sha256=sha256_of(photos / "00.png"), strength=strength)


engine = PictureEngine(
    base,
    unet=base.load_network(device=DEVICE),
    vae=base.load_vae(device=DEVICE),
    text=base.load_text(device=DEVICE),
    device=DEVICE,
)
HOW = PictureSpec(steps=8)
plain = PictureRequest(prompt="a purple cat in the city", seed=SEED, how=HOW)
strengths = (0.0, 0.5, 1.0)
first, *others = engine.draw(
    [
        plain,
        *(
            PictureRequest(prompt=plain.prompt, seed=SEED, how=HOW, references=(reference(s),))
            for s in strengths
        ),
    ]
).pictures
moved = [float(np.abs(other.astype(int) - first.astype(int)).mean()) for other in others]
for strength, by in zip(strengths, moved, strict=True):
    print(f"strength {strength}: {by:.2f} of 255 from the base")
assert moved[0] == 0, "strength 0 has to be the base to the byte"

# %% [markdown]
# ## Do: what it is to keep a character
#
# A picture keeps the character if it looks like it *and* shows the place that was asked for. A copy of a photo looks
# like it, in the wrong place; a picture of the place with somebody else in it is no better.

# %% [markdown]
# **Predict** (`kept`). Four ways to draw a purple octopus, of a kind that the base has never seen: the same seed and
# "a purple cat" as the nearest words; the same with a photo as reference; an adapter trained on twelve photos; that
# adapter with a photo. Which keeps it in the most places?

# %%
predict("kept", "the reference: it sees the character in every picture")

# %%


def kept(likenesses, in_place, least):
    """Share of the pictures that keep the character.

    ``likenesses`` are numbers, ``in_place`` says of each picture whether it shows the place, and a picture is like the
    character from ``least`` on.
    """
    # BEGIN SOLUTION
    # Ask both of the same picture, then count.
    # PLACEHOLDER: return None
    both = [like >= least and place for like, place in zip(likenesses, in_place, strict=True)]
    return sum(both) / len(both)
    # END SOLUTION


check(13, "kept", kept)

# %% [markdown]
# ## Measure: one character, six places, four ways
#
# A small subject run on the twelve photos, without class pictures to be quick (`docs/subjects.md` says what they are
# for). The judge compares with true pictures of the octopus that nobody was trained on.

# %%
spec = RunSpec(
    name="character",
    goal="subject",
    seed=SEED,
    base=BaseSpec(name=BASE),
    data=DataSpec(source=str(photos), holdout=0.0),
    train=TrainSpec(steps=STEPS, batch=2, optim=OptimSpec(lr=4e-3 if BASE == "pocket" else "auto")),
    sample=SampleSpec(every=0),
    validate=ValidateSpec(every=0),
    checkpoint=CheckpointSpec(every=0),
)
trained = train_adapter(spec, runs=work / "runs", force=True, prove=False)
chosen = choose_adapter(str(trained.adapter_file), base)
subject = (AdapterInUse(adapter=chosen.adapter, sha256=chosen.use.sha256),)
print(f"subject adapter: {trained.seconds:.0f} s of training")

# %%
shown = (reference(0.6),)
ways = {
    "same seed": ("a purple cat", (), ()),
    "reference": ("a purple cat", (), shown),
    "subject adapter": (character.words, subject, ()),
    "both": (character.words, subject, shown),
}
drawn = {
    name: engine.draw(
        [
            PictureRequest(
                prompt=f"{words} {place_phrase(place)}",
                seed=SEED,
                how=HOW,
                adapters=adapters,
                references=references,
            )
            for place in VOCABULARY.places
        ]
    ).pictures
    for name, (words, adapters, references) in ways.items()
}
true = np.stack(
    [
        render(compose_scene(seed=9000 + i, things=[(character.kind, character.colour)], place=place), HOUSE)
        for place in VOCABULARY.places
        for i in range(2)
    ]
)
judge = Judge.load(named_judge)
centre = functional.normalize(judge.picture_features(true).mean(0), dim=0)
facts = [PromptFacts(object="cat", colour=character.colour, place=place) for place in VOCABULARY.places]
places = {"place": VOCABULARY.places}
of_true = judge.picture_features(true) @ centre
least = float(
    of_true.min()
)  # a picture is like the character that is no stranger than the strangest true one
table = {}
print(f"{'':18}{'likeness':>10}{'in place':>10}{'kept':>7}   (true pictures: {float(of_true.mean()):.2f})")
for name, pictures in drawn.items():
    likenesses = (judge.picture_features(pictures) @ centre).tolist()
    in_place = judge.prompt_hits(
        pictures, facts, places, lambda one: plain_prompt(one.object, one.colour, one.place)
    )["place"]
    table[name] = (float(np.mean(likenesses)), float(np.mean(in_place)), kept(likenesses, in_place, least))
    print(f"{name:18}{table[name][0]:>10.2f}{table[name][1]:>10.0%}{table[name][2]:>7.0%}")
size = (
    drawn["same seed"].shape[2],
    drawn["same seed"].shape[1],
)  # true pictures are 128 px; the base may draw others
seen = np.stack([np.asarray(Image.fromarray(one).resize(size)) for one in true[::2]])
show(
    grid(
        np.concatenate([*drawn.values(), seen]),
        len(VOCABULARY.places),
        row_labels=[*drawn, "true pictures"],
        column_labels=list(VOCABULARY.places),
    ),
    alt="A purple octopus asked for in six places: "
    + "; ".join(f"{name}, likeness {row[0]:.2f}, kept in {row[2]:.0%}" for name, row in table.items())
    + "; below them true pictures of it",
)
compare_with("kept", ", ".join(f"{name}: {row[2]:.0%}" for name, row in table.items()))

# %% [markdown]
# Six pictures are few, and the limit is strict, the strangest of twelve true pictures: look at the rows as well.
# `python -m benchmarks.characters` draws ten scenes for each of several characters.
#
# The words "a purple cat" and a fixed seed give much the same cat in each place, because its words were the nearest and
# its noise the same; a character of the world it is not. A reference can only bring what base and encoder have learned
# to tell apart, and an octopus they have never met; where it says NOT trained above, it brings nothing of the photo.
# Colours, things the base knows and styles are what references are for. What is new to the base has to be learned: that
# takes photos and minutes once, and then works without a photo.

# %% [markdown]
# ## Reflect
#
# <details><summary>Why does a reference also bring its place, and what can be done?</summary>
#
# The embedding is of the whole picture, and in training the picture to be drawn *was* the reference. Lower the
# strength, show it in a part of the steps or of the blocks (`--reference-steps`, `--reference-blocks`), or cut the
# photo to the character.
#
# </details>
#
# <details><summary>What does each way cost?</summary>
#
# A seed costs nothing. A reference needs one photo, one pass of an image encoder, and a second small attention beside
# each cross-attention. A subject adapter needs several photos and minutes of training once, and is a file of a few MB.
#
# </details>
#
# <details><summary>Two requests with other references are drawn in one batch. What can go wrong?</summary>
#
# One row's picture is shown to another row. Every row has its own keys and values here, and a picture has the same
# bytes whatever is drawn beside it: `tests/generation/test_references.py` holds that.
#
# </details>

# %%
check.finish(13)
