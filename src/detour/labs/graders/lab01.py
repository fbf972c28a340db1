"""Grades of lab 1, where the detours go."""

from collections.abc import Mapping
from functools import cache
from typing import Any

from detour.adapters.arithmetic import count, file_bytes
from detour.adapters.targets import AdaptableLayer, adaptable_layers, select
from detour.bases.base import open_base
from detour.labs.comparing import Mistake, compare
from detour.labs.grading import Grade, Grader, near, right, wrong

RANKS = (4, 8, 16)
SHARE_TOLERANCE = 2e-5
"""Tolerance in per cent, as the task states it; the share of the base alone is 9e-5 away."""

COPIED = 1_476_608
"""Figure that many sites quote for rank 4 beside all attention of SD 1.5, and that is wrong."""


@cache
def _layers(base: str) -> tuple[AdaptableLayer, ...]:
    return tuple(adaptable_layers(open_base(base, weights=False).meta_network()))


def _cross(base: str) -> list[AdaptableLayer]:
    """Projections that read the text: cross-attention, or the words' part of a transformer's joint attention."""
    return select(_layers(base), "text-attn" if open_base(base, weights=False).is_flow else "cross-attn")


def cross_attention(answer: Mapping[str, Any]) -> Grade:
    """Names of the projections in ``attn2``."""
    listed = list(answer["names"])
    given = set(listed)
    if len(listed) > len(given):
        twice = next(name for name in listed if listed.count(name) > 1)
        return wrong(
            f"{len(listed) - len(given)} of your {len(listed)} names are there more than once, e.g. {twice}.",
            why="whoever sums over the list counts such a layer twice.",
            hint="go over the layers once, and ask both questions of each.",
        )
    true = {layer.path for layer in _cross(answer["base"])}
    if given == true:
        blocks = len({name.partition(".attn")[0] for name in true})
        least = (
            "four in each"
            if len(true) == 4 * blocks
            else "four in each but the last, whose words go no further,"
        )
        return right(f"{len(true)} layers, {least} of {blocks} transformer blocks.")
    if any(".attn1." in name for name in given):
        return wrong(
            f"{sum('.attn1.' in name for name in given)} of your {len(given)} layers are self-attention.",
            why="attn1 and attn2 name their projections alike; only attn2 reads the text.",
            hint="ask for '.attn2.' in the path as well.",
        )
    left_out = sorted(true - given)
    if left_out and all(name.endswith("to_add_out") for name in left_out):
        return wrong(
            f"the {len(left_out)} output projections of the words are missing.",
            why="what was gathered is projected once more, by to_add_out; it is a layer like the others.",
            hint="ask for paths that end in to_add_out as well.",
        )
    if left_out and all(name.endswith("to_out.0") for name in left_out):
        return wrong(
            f"the {len(left_out)} output projections are missing.",
            why="what was gathered from the words is projected once more, by to_out.0; it is a layer like the others.",
            hint="to_out is a list whose first entry is the layer: its path ends in to_out.0.",
        )
    if left_out:
        return wrong(
            f"{len(left_out)} layers are missing, e.g. {left_out[0]}.",
            why="every transformer block of the whole network has them.",
            hint="go over all layers and ask for the names that the first cell shows.",
        )
    return wrong(
        f"{len(given - true)} of your names are no cross-attention projections, e.g. {min(given - true)}.",
        why="norms and feed-forward layers stand beside attention, and containers hold layers; neither counts.",
        hint="keep paths that end in the four names of the projections that read the text.",
    )


def lora_parameters(answer: Any) -> Grade:
    """rank · (in + out), on widths as they occur and on the smallest."""
    return compare(
        answer,
        lambda n_in, n_out, rank: rank * (n_in + n_out),
        [(320, 768, 4), (768, 320, 16), (1280, 1280, 8), (5, 7, 3), (1, 1, 1), (640, 1, 2)],
        [
            Mistake(
                formula=lambda n_in, n_out, rank: n_in * n_out,
                what="you count as many as a dense change of the layer has.",
                why="the product up · down is never stored; only its two thin factors are.",
                hint="count the numbers in (rank, in) and in (out, rank), and add them.",
            ),
            Mistake(
                formula=lambda n_in, n_out, rank: rank * n_in * n_out,
                what="you multiply all three numbers.",
                why="the product up · down is never stored; only its two thin factors are.",
                hint="count the numbers in (rank, in) and in (out, rank), and add them.",
            ),
            Mistake(
                formula=lambda n_in, n_out, rank: rank * n_in,
                what="you count one of the two matrices, down.",
                why="down leads into the narrow place and up out of it; both are trained.",
                hint="add the other one, up: it is (out, rank).",
            ),
            Mistake(
                formula=lambda n_in, n_out, rank: rank * n_out,
                what="you count one of the two matrices, up.",
                why="down leads into the narrow place and up out of it; both are trained.",
                hint="add the other one, down: it is (rank, in).",
            ),
            Mistake(
                formula=lambda n_in, n_out, rank: 2 * rank * n_in,
                what="you take both matrices as equally large, with the width of the input.",
                why="down has the width of the input, up that of the output; attn2.to_k reads 768 and writes 320.",
                hint="use in_features for down and out_features for up.",
            ),
            Mistake(
                formula=lambda n_in, n_out, rank: 2 * rank * n_out,
                what="you take both matrices as equally large, with the width of the output.",
                why="down has the width of the input, up that of the output; attn2.to_k reads 768 and writes 320.",
                hint="use in_features for down and out_features for up.",
            ),
            Mistake(
                formula=lambda n_in, n_out, rank: n_in + n_out,
                what="the rank is missing.",
                why="both matrices have one row or column for each of the rank's directions.",
                hint="multiply by the rank.",
            ),
            Mistake(
                formula=lambda n_in, n_out, rank: rank * (n_in + n_out) + n_out,
                what="you count a bias too.",
                why="the adapter has no bias: where its input is zero it adds nothing.",
                hint="leave the bias out.",
            ),
        ],
        why="down has the shape (rank, in), up (out, rank).",
        hint="multiply out each shape, then add. There is no bias.",
        praise="Linear in the rank, and in the width, where the frozen weight is quadratic.",
    )


def adapter_parameters(answer: Mapping[str, Any]) -> Grade:
    """The whole adapter at three ranks."""
    layers, given = _cross(answer["base"]), answer["counts"]
    true = {rank: count(layers, rank) for rank in RANKS}
    if any(given.get(rank) is None for rank in RANKS):
        return wrong(
            f"a rank is missing: you have {sorted(given)}.",
            why="three ranks are compared.",
            hint="the keys are the numbers 4, 8 and 16.",
        )
    if all(given[rank] == true[rank] for rank in RANKS):
        return right("Twice the rank, twice the parameters.")
    if given[4] == sum(4 * 2 * layer.out_features for layer in layers):
        return wrong(
            f"at rank 4 you count {given[4]:,}, as if every layer were square.",
            why="attn2.to_k and attn2.to_v read the text, whose width is not the picture's.",
            hint="use each layer's own in_features and out_features.",
        )
    if given[4] == count(select(_layers(answer["base"]), "attn"), 4):
        return wrong(
            f"at rank 4 you count {given[4]:,}: that is with self-attention.",
            why="attn1 is counted too.",
            hint="sum over the names that you found, not over all layers.",
        )
    if len({given[rank] for rank in RANKS}) == 1:
        return wrong(
            "all three ranks have the same count.",
            why="both matrices grow with the rank.",
            hint="pass the rank of the dictionary's key into your function.",
        )
    return wrong(
        f"at rank 4 you count {given[4]:,}.",
        why="the adapter is the sum over all cross-attention projections, each with its own widths.",
        hint="sum lora_parameters(*widths[name], rank) over your names.",
    )


def bare_suffix(answer: Mapping[str, Any]) -> Grade:
    """Bare names against ``attn2`` alone, on SD 1.5."""
    layers = _layers("sd15")
    bare, cross = (
        len(select(layers, "to_q,to_k,to_v")),
        len(select(layers, "attn2.to_q,attn2.to_k,attn2.to_v")),
    )
    if (answer.get("bare"), answer.get("cross")) == (bare, cross):
        return right(
            f"Half of what the bare names match is self-attention: {bare} layers, {cross} of them cross."
        )
    if answer.get("bare") is None or answer.get("cross") is None:
        return wrong(
            "one of the two counts is missing.",
            why="the point is how far they differ.",
            hint="len(select(sd15, …)), once with bare names and once with attn2 before each.",
        )
    if answer["bare"] == cross:
        return wrong(
            f"you say that the bare names match {cross} layers.",
            why="that is 16 blocks times three names, which forgets that each block has two attentions.",
            hint="count them instead of reasoning: select(sd15, 'to_q,to_k,to_v').",
        )
    if answer["bare"] == len(select(layers, "to_q")):
        return wrong(
            f"{answer['bare']} is what to_q alone matches.",
            why="three names were asked for.",
            hint="separate the names by commas.",
        )
    if answer["cross"] == bare:
        return wrong(
            f"you say that {bare} of the layers are cross-attention.",
            why="that is all of them: an ending matches whatever stands before it.",
            hint="write attn2. before each of the three names.",
        )
    return wrong(
        f"{answer['bare']} and {answer['cross']} are not what select finds.",
        why="both are counts of layers of sd15.",
        hint="len(select(sd15, …)), once with bare names and once with attn2 before each.",
    )


def copied_figure(answer: Mapping[str, Any]) -> Grade:
    """797,184 and 0.0927 %."""
    layers = _layers("sd15")
    true, base = count(select(layers, "attn"), 4), 859_520_964
    parameters, percent = answer.get("parameters"), answer.get("percent")
    if parameters is None or percent is None:
        return wrong(
            "one of the two figures is missing.", why="count and share belong together.", hint="fill in both."
        )
    if parameters == COPIED:
        return wrong(
            "you copied the figure that was to be checked.",
            why=f"your own function gives {true:,} when it is summed over the layers.",
            hint="sum lora_parameters over select(sd15, 'attn').",
        )
    if parameters == count(select(layers, "cross-attn"), 4):
        return wrong(
            f"{parameters:,} is cross-attention alone.",
            why="the copied sentence speaks of all attention layers.",
            hint="use the targets 'attn'.",
        )
    if parameters == count(select(layers, "to_q,to_k,to_v"), 4):
        return wrong(
            f"{parameters:,} leaves the output projections out.",
            why="all four projections are adapted.",
            hint="use the targets 'attn', which has to_out.0 too.",
        )
    if parameters != true:
        return wrong(
            f"you count {parameters:,}.",
            why="it is the sum of rank · (in + out) over all attention projections of sd15.",
            hint="sum lora_parameters over select(sd15, 'attn') at rank 4.",
        )
    percent, share = float(percent), 100 * true / (base + true)
    if near(percent, share / 100, relative=1e-2):
        return wrong(
            f"{percent:.6f} is a share between 0 and 1.",
            why="percent was asked for.",
            hint="multiply by 100.",
        )
    if near(percent, share, relative=0.0, absolute=SHARE_TOLERANCE):
        return right(f"The copied figure is off by a factor of {COPIED / true:.2f}: count before you quote.")
    if near(percent, 100 * true / base, relative=0.0, absolute=SHARE_TOLERANCE):
        return wrong(
            f"{percent:.5f} % is the adapter over the base alone.",
            why="the share is that of the adapter in base and adapter together, and the adapter is "
            "a part of the whole.",
            hint="add the adapter's parameters to the base's below the fraction bar.",
        )
    if near(percent, share, relative=2e-3):
        return wrong(
            f"{percent} % is rounded too coarsely to tell.",
            why="base alone and base with adapter differ in the fifth decimal only.",
            hint="do not round; five decimals are asked for.",
        )
    return wrong(
        f"{percent:.4f} % is not the share.",
        why="the share is that of the adapter in base and adapter together.",
        hint="100 * parameters / (859_520_964 + parameters).",
    )


def size_on_disk(answer: Mapping[str, Any]) -> Grade:
    """Two bytes a parameter."""
    layers, given = _cross(answer["base"]), answer["bytes"]
    true = file_bytes(layers, 4, "fp16")
    if given == true:
        return right("Two bytes a parameter; nothing of the base is in the file.")
    if given == 2 * true:
        return wrong(
            f"{given:,} bytes are those of fp32.",
            why="a number in fp16 has 16 bits.",
            hint="16 bits are two bytes.",
        )
    if given == true // 2:
        return wrong(
            f"{given:,} is the number of parameters.",
            why="each of them takes more than one byte.",
            hint="16 bits are two bytes.",
        )
    return wrong(
        f"{given:,} bytes do not follow from the count at rank 4.",
        why="the factors are all that is stored, in fp16.",
        hint="start from counts[4].",
    )


TASKS: Mapping[str, Grader] = {
    "cross_attention": cross_attention,
    "lora_parameters": lora_parameters,
    "adapter_parameters": adapter_parameters,
    "bare_suffix": bare_suffix,
    "copied_figure": copied_figure,
    "file_bytes": size_on_disk,
}
