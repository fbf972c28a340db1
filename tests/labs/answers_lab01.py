"""Answers to lab 1; SD 1.5's figures stand in many papers and are the sums of its config's widths."""

from detour.adapters.targets import adaptable_layers
from detour.bases.base import open_base
from tests.labs.answers import AlsoRight, Answers

PATHS = [layer.path for layer in adaptable_layers(open_base("pocket").meta_network())]
CROSS = [path for path in PATHS if ".attn2.to_" in path]
SELF = [path for path in PATHS if ".attn1.to_" in path]
WIDTHS = {layer.path: layer for layer in adaptable_layers(open_base("pocket").meta_network())}


def costs(paths: list[str]) -> dict[int, int]:
    sizes = [WIDTHS[path] for path in paths]
    return {rank: sum(rank * (one.in_features + one.out_features) for one in sizes) for rank in (4, 8, 16)}


def square(paths: list[str]) -> dict[int, int]:
    return {rank: sum(rank * 2 * WIDTHS[path].out_features for path in paths) for rank in (4, 8, 16)}


ANSWERS: Answers = {
    "cross_attention": (
        {"base": "pocket", "names": CROSS},
        [
            ({"base": "pocket", "names": CROSS + SELF}, "self-attention"),
            ({"base": "pocket", "names": [p for p in CROSS if "to_out" not in p]}, "to_out.0"),
            ({"base": "pocket", "names": CROSS[4:]}, "are missing"),
            ({"base": "pocket", "names": [*CROSS, "conv_in"]}, "conv_in"),
            ({"base": "pocket", "names": CROSS + CROSS[:3]}, "more than once"),
        ],
    ),
    "lora_parameters": (
        lambda n_in, n_out, rank: rank * (n_in + n_out),
        [
            (lambda n_in, n_out, rank: n_in * n_out, "never stored"),
            (lambda n_in, n_out, rank: rank * n_in, "one of the two"),
            (lambda n_in, n_out, rank: 2 * rank * n_in, "equally large"),
            (lambda n_in, n_out, rank: rank * (n_in + n_out) + n_out, "no bias"),
        ],
    ),
    "adapter_parameters": (
        {"base": "pocket", "counts": costs(CROSS)},
        [
            ({"base": "pocket", "counts": square(CROSS)}, "square"),
            ({"base": "pocket", "counts": costs(CROSS + SELF)}, "self-attention"),
            ({"base": "pocket", "counts": dict.fromkeys((4, 8, 16), 7)}, "same count"),
            ({"base": "pocket", "counts": {4: costs(CROSS)[4]}}, "rank is missing"),
            ({"base": "pocket", "counts": costs(CROSS[1:])}, "sum over"),
        ],
    ),
    "bare_suffix": (
        {"bare": 96, "cross": 48},
        [
            ({"bare": 48, "cross": 48}, "two attentions"),
            ({"bare": 32, "cross": 16}, "to_q alone"),
            ({"bare": 96, "cross": 96}, "attn2."),
            ({"bare": 96, "cross": 7}, "counts of layers"),
            ({"bare": 96}, "missing"),
        ],
    ),
    "copied_figure": (
        {"parameters": 797_184, "percent": 0.09266},
        [
            ({"parameters": 1_476_608, "percent": 0.1718}, "you copied"),
            ({"parameters": 397_824, "percent": 0.0463}, "cross-attention alone"),
            ({"parameters": 597_504, "percent": 0.0695}, "output projections"),
            ({"parameters": 797_184, "percent": 0.000927}, "multiply by 100"),
            ({"parameters": 797_184, "percent": 0.1718}, "not the share"),
            ({"parameters": 797_184, "percent": 100 * 797_184 / 859_520_964}, "over the base alone"),
            ({"parameters": 797_184, "percent": 0.0927}, "too coarsely"),
            ({"parameters": 5, "percent": 1.0}, "sum of"),
        ],
    ),
    "file_bytes": (
        {"base": "pocket", "bytes": 2 * costs(CROSS)[4]},
        [
            ({"base": "pocket", "bytes": 4 * costs(CROSS)[4]}, "fp32"),
            ({"base": "pocket", "bytes": costs(CROSS)[4]}, "more than one byte"),
            ({"base": "pocket", "bytes": 1000}, "counts[4]"),
        ],
    ),
}

ALSO_RIGHT: AlsoRight = {
    "cross_attention": [
        {"base": "pocket", "names": set(CROSS)},
        {"base": "pocket", "names": tuple(reversed(CROSS))},
    ],
    "lora_parameters": [
        lambda n_in, n_out, rank: rank * n_in + n_out * rank,
        lambda n_in, n_out, rank: float((n_in + n_out) * rank),
        lambda n_in, n_out, rank: sum(a * b for a, b in ((rank, n_in), (n_out, rank))),
    ],
    "adapter_parameters": [{"base": "pocket", "counts": {**costs(CROSS), 32: 0}}],
    "bare_suffix": [{"bare": 96.0, "cross": 48}],
    "copied_figure": [
        {"parameters": 797_184, "percent": 100 * 797_184 / 860_318_148},
        {"parameters": 797_184, "percent": 0.0926616},
    ],
    "file_bytes": [{"base": "pocket", "bytes": costs(CROSS)[8]}],
}
