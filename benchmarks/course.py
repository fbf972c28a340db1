"""``python -m benchmarks.course``: measure the figure blocks of the course again and hold them against their pages.

A block stands in a page between ``<!-- figures NAME -->`` and ``<!-- end -->``. Each number in it has to be as it is
measured, within its column's tolerance. ``--write`` puts the new figures, the date and the machine in its place.
Threads and dtype are pinned: one thread, fp32. Blocks about the demo train it for themselves, once a call.
"""

import argparse
import datetime
import json
import math
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

COURSE = Path(__file__).parents[1] / "docs" / "course"
DEMO = Path("build/course/demo")
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:e-?\d+)?")
Rows = list[list[str]]


@dataclass(frozen=True, kw_only=True)
class Block:
    """Figures that a page quotes.

    Attributes:
        page: of the course.
        head: of its columns.
        within: largest difference of a number in each column; 0 must be equal, ``None`` is no figure.
        measure: gives the rows.
        trains: whether the demo's adapter is needed.
        relative: ``within`` is a share of what was measured.
    """

    page: str
    head: Sequence[str]
    within: Sequence[float | None]
    measure: Callable[[], Rows]
    trains: bool = False
    relative: bool = False


def presets() -> Rows:
    """Layers and parameters at rank 4 of each preset, counted on shapes."""
    from detour.adapters.arithmetic import count
    from detour.adapters.targets import adaptable_layers, select
    from detour.bases.base import open_base

    what = {
        "cross-attn": "the four of `attn2`",
        "self-attn": "the four of `attn1`",
        "attn": "both",
        "kohya": "`attn`, the projections in and out, feed-forward",
        "conv": "3 × 3 convolutions",
        "all": "every linear layer and convolution",
    }
    networks = [
        adaptable_layers(open_base(name, weights=False).meta_network()) for name in ("sd15", "pocket")
    ]
    rows = []
    for preset, words in what.items():
        chosen = [select(layers, preset) for layers in networks]
        rows.append([f"`{preset}`", words, *(f"{len(layers)}, {count(layers, 4):,}" for layers in chosen)])
    return rows


def schedules() -> Rows:
    """What is left of a picture after the last timestep, and where noise outweighs it."""
    from detour.diffusion.schedule import alphas_cumprod, snr
    from detour.verbs.explain.forward_figure import OTHERS

    rows = []
    for name, config in OTHERS.items():
        alphas = alphas_cumprod(config)
        first = int((snr(alphas) < 1).nonzero()[0])
        rows.append(
            [
                name,
                f"{float(alphas[-1]):.5f}",
                f"{float(alphas[-1].sqrt()):.1%}".replace("%", " %"),
                str(first),
            ]
        )
    return rows


def by_hand() -> Rows:
    """One pixel through four steps of the forward process, and the single noise of the jump that lands there."""
    import torch

    from detour.scratch.forward_process import joined_noise, step_by_step

    clean, noises, betas = (
        torch.tensor(values, dtype=torch.float64)
        for values in (0.8, (0.5, -1.0, 0.3, -0.2), (0.1, 0.2, 0.3, 0.4))
    )
    alphas = torch.cumprod(1 - betas, 0)
    rows = []
    for index, noisy in enumerate(step_by_step(clean, list(noises), betas)):
        joined = joined_noise(list(noises[: index + 1]), alphas[: index + 1])
        left = alphas[index].sqrt() * clean
        numbers = (betas[index], noises[index], alphas[index], left, noisy, joined)
        rows.append([str(index + 1), *(f"{float(one):.4g}" for one in numbers)])
    return rows


FAMILY = {
    "sd15": ("Stable Diffusion 1.5", "UNet", "noise"),
    "sd21": ("Stable Diffusion 2.1", "UNet", "velocity of the diffusion"),
    "sdxl": ("SDXL", "UNet", "noise"),
    "sd35-medium": ("Stable Diffusion 3.5 medium", "transformer", "velocity of the flow"),
    "flux-dev": ("Flux dev", "transformer", "velocity of the flow"),
}
"""Settings without weights that the package knows, in the order of their years, and what each network answers."""


def family() -> Rows:
    """Size of each network, and what an adapter beside all of its attention adds, counted on shapes."""
    from detour.adapters.arithmetic import count
    from detour.adapters.targets import adaptable_layers, select
    from detour.bases.base import open_base

    rows = []
    for name, (title, kind, answer) in FAMILY.items():
        network = open_base(name, weights=False).meta_network()
        chosen = select(adaptable_layers(network), "attn")
        whole = sum(parameter.numel() for parameter in network.parameters())
        parts = (title, kind, answer, f"{whole:,}", str(len(chosen)), f"{count(chosen, 4):,}")
        rows.append([*parts, f"{100 * count(chosen, 4) / whole:.3f} %"])
    return rows


def accepted_cost() -> Rows:
    """What an accepted picture costs at three busy shares and three shares of acceptance."""
    seconds, machine_an_hour, review = 3.0, 1.0, 0.01
    rows = []
    for busy in (0.1, 0.5, 1.0):
        drawn = seconds * machine_an_hour / 3600 / busy
        costs = [f"{(drawn + review) / accepted:.4f}" for accepted in (0.25, 0.5, 0.9)]
        rows.append([f"{100 * busy:.0f} %", f"{drawn:.5f}", *costs])
    return rows


def eta() -> Rows:
    """How much of the old noise and of fresh noise a step has at several eta, from ᾱ = 0.3 to ᾱ = 0.6."""
    alpha, following = 0.3, 0.6
    rows = []
    for value in (0.0, 0.5, 1.0):
        fresh = value * ((1 - following) / (1 - alpha) * (1 - alpha / following)) ** 0.5
        old = (1 - following - fresh**2) ** 0.5
        rows.append([f"{value:g}", f"{old:.3f}", f"{fresh:.3f}", f"{old**2 + fresh**2:.3f}"])
    return rows


@cache
def demo() -> Path:
    """The run folder of ``detour demo``'s training, made anew with one thread in fp32, without sheets and proof."""

    from detour.verbs.judge.held_out_material import write_world_style
    from detour.verbs.train.demo import DEMOS, NUM_PICTURES, demo_spec, draw_training_pictures
    from detour.verbs.train.run import train_adapter

    style = DEMOS["pocket"].style
    draw_training_pictures(DEMO / "data", style_name=style, count=NUM_PICTURES, seed=0, as_asked=True)
    write_world_style(DEMO, style)
    spec = demo_spec(DEMO, seed=0)
    pinned = {
        "base": spec.base.model_copy(update={"dtype": "fp32"}),
        "train": spec.train.model_copy(update={"threads": 1}),
        "sample": spec.sample.model_copy(update={"every": 0}),
    }
    train_adapter(spec.model_copy(update=pinned), runs=DEMO.parent, force=True, prove=False)
    return DEMO


def demo_losses() -> Rows:
    """How the demo's losses went."""
    lines = [json.loads(line) for line in (demo() / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    kept_out = [(line["val_loss"], line["step"]) for line in lines if "val_loss" in line]
    rose = sum(later > earlier for earlier, later in pairwise(losses))
    return [
        ["steps in which the training loss rose", f"{rose} of {len(losses) - 1}"],
        [
            "training loss, first and last ten steps",
            f"{sum(losses[:10]) / 10:.3f} → {sum(losses[-10:]) / 10:.3f}",
        ],
        ["loss on pictures kept out", f"{kept_out[0][0]:.3f} → {kept_out[-1][0]:.3f}"],
        ["its lowest", f"{min(kept_out)[0]:.3f} at step {min(kept_out)[1]}"],
    ]


def demo_spectrum() -> Rows:
    """How the demo's change spreads over directions."""
    from detour.adapter_files import read_adapter
    from detour.adapters.analysis import singular_values
    from detour.verbs.adapter_tools.contents import AdapterReport, show_adapter

    file = demo() / "demo.safetensors"
    report = show_adapter(file, norms=True)
    assert isinstance(report, AdapterReport)
    blocks = [block for block in report.blocks if block.first_share is not None]
    shares = sorted((block.first_share or 0.0, block.block) for block in blocks)
    ranks = sorted(block.stable_rank or 0.0 for block in blocks)
    energies = [
        singular_values(layer).square() for layer in read_adapter(file).plain_layers(purpose="it").values()
    ]
    whole = sum(float(one.sum()) for one in energies)
    kept = [sum(float(one[:rank].sum()) for one in energies) / whole for rank in (1, 2)]
    return [
        ["share of the first direction, by block", f"{_percent(shares[0][0])} to {_percent(shares[-1][0])}"],
        ["stable rank, by block", f"{ranks[0]:.1f} to {ranks[-1]:.1f}"],
        ["energy kept at rank 1", _percent(kept[0])],
        ["energy kept at rank 2", _percent(kept[1])],
    ]


def demo_weights() -> Rows:
    """What the demo's adapter does at rising weights, on eight held-out prompts at two seeds."""
    import torch

    from benchmarks.doctor import _scores
    from detour.adapters.attach import attach_adapter
    from detour.specs.generation import PictureSpec
    from detour.specs.studies import StudySpec
    from detour.verbs.doctor.adapter_rules import change_shares
    from detour.verbs.studies.studio import Studio

    torch.set_num_threads(1)
    how = PictureSpec(steps=10)
    studio = Studio.open(StudySpec(lora=str(demo() / "demo.safetensors"), picture=how, device="cpu"))
    assert studio.adapter is not None
    share = change_shares(studio.adapter.adapter, studio.engine.models)["unet"]
    attached = attach_adapter(studio.engine.models, studio.adapter.adapter, 0.0, name="weights")
    rows = []
    for weight in (0.0, 0.5, 1.0, 1.5, 2.0, 3.0):
        attached.set_weight(weight)
        found = _scores(studio, how)
        rows.append(
            [f"{weight:g}", f"{weight * share:.2f}", f"{found['clip']:.3f}", f"{100 * found['object']:.0f} %"]
        )
    return rows


def demo_proof() -> Rows:
    """What the proof of the demo's run says."""
    from detour.evaluation.answer_page import answer_rows
    from detour.verbs.judge import prove_run

    proof = prove_run(demo())
    assert proof.answers is not None
    assert proof.answers.way is not None
    far, kept = proof.held_out.style_distance, proof.held_out.prompt_accuracy
    assert far is not None
    assert kept is not None
    way = proof.answers.way
    assert way.low is not None
    assert way.high is not None
    return [
        ["verdict", proof.verdict],
        [
            "of the way from the base's pictures to yours",
            f"{_percent(way.share)} ({_percent(way.low)} to {_percent(way.high)})",
        ],
        ["style distance, base → adapter", f"{far.base:.3f} → {far.adapter:.3f}"],
        ["style distance of true pictures", f"{far.ceiling:.3f}"],
        ["mean change of four pictures, of 255", f"{proof.pixels.mean_abs_diff:.1f}"],
        ["objects right, base → adapter", f"{_percent(kept.base.object)} → {_percent(kept.adapter.object)}"],
        *([f"{row.name}: answer", row.answer] for row in answer_rows(proof.answers)),
    ]


def quantised() -> Rows:
    """Memory of a network's weights in three precisions, counted on shapes."""
    from benchmarks.memory_savers import weights_at_true_shape

    rows = []
    for name, title in (("sd15", "SD 1.5"), ("sdxl", "SDXL"), ("flux-dev", "Flux dev")):
        _, share, sizes = weights_at_true_shape(name)
        rows.append([title, *(f"{size:.0f} MiB" for size in sizes.values()), _percent(share)])
    return rows


FLOW_SEEDS = 4
"""Pictures, each with noise of its own, over which an error is averaged."""


def flow_levels() -> Rows:
    """Error of the embedded flow base at five noise levels, in velocity and in clean latents, and their shares."""
    from statistics import NormalDist

    from detour.diffusion.process import shifted
    from detour.verbs.explain.slow_step import step_once

    def below(level: float, shift: float) -> float:
        share = 1 - shifted(1 - level, shift)  # the share whose shifted level it is
        return NormalDist().cdf(math.log(share / (1 - share))) if 0 < share < 1 else float(share >= 1)

    rows = []
    for level in (0.1, 0.3, 0.5, 0.7, 0.9):
        errors = [step_once(base="pocket-flow", timestep=level, seed=seed).loss for seed in range(FLOW_SEEDS)]
        error = sum(errors) / len(errors)
        met = [below(level + 0.1, shift) - below(level - 0.1, shift) for shift in (1.0, 3.0)]
        rows.append(
            [
                f"{level:g}",
                _percent(1 - level),
                f"{error:.2f}",
                f"{level**2 * error:.3f}",
                *map(_percent, met),
            ]
        )
    return rows


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def of_demo(page: str, head: str, measure: Callable[[], Rows], *, within: float) -> Block:
    """A block of two columns, a name and figures of the demo, each within a share of what was measured."""
    return Block(
        page=page, head=(head, ""), within=(None, within), measure=measure, trains=True, relative=True
    )


BLOCKS = {
    "presets": Block(
        page="02-where-it-goes.md",
        head=("preset", "what it matches", "SD 1.5: layers, parameters at rank 4", "`pocket`"),
        within=(None, None, 0, 0),
        measure=presets,
    ),
    "schedules": Block(
        page="09-misconceptions.md",
        head=("schedule", "last ᾱ", "of the amplitude", "noise outweighs picture from timestep"),
        within=(None, 0, 0, 0),
        measure=schedules,
    ),
    "by-hand": Block(
        page="02-where-it-goes.md",
        head=("step", "β", "noise", "ᾱ", "left of the picture, √ᾱ·0.8", "pixel", "one noise for the jump"),
        within=(0, 0, 0, 0, 0, 0, 0),
        measure=by_hand,
    ),
    "eta": Block(
        page="09-misconceptions.md",
        head=("eta", "of the old noise", "fresh noise", "variance of both"),
        within=(0, 0, 0, 0),
        measure=eta,
    ),
    "family": Block(
        page="12-family-tree.md",
        head=("base", "network", "answers", "parameters", "attention layers", "rank 4 adds", "share"),
        within=(None, None, None, 0, 0, 0, 0),
        measure=family,
    ),
    "accepted": Block(
        page="15-what-it-costs.md",
        head=("busy", "a drawn picture", "25 % accepted", "50 % accepted", "90 % accepted"),
        within=(0, 0, 0, 0, 0),
        measure=accepted_cost,
    ),
    "quantised": Block(
        page="06-qlora-and-dora.md",
        head=("network", "bf16", "int8", "nf4", "share of weights in such layers"),
        within=(None, 0, 0, 0, 0),
        measure=quantised,
    ),
    "flow-levels": Block(
        page="10-from-noise-to-velocity.md",
        head=(
            "σ", "of the picture", "error of the velocity", "the same in x₀", "drawn in training, shift 1", "shift 3"
        ),
        within=(0, 0, 0.05, 0.01, 0, 0),
        measure=flow_levels,
    ),
    "weights": Block(
        page="04-rank-and-alpha.md",
        head=("weight", "share", "CLIP score", "objects right"),
        within=(0, 0.02, 0.05, 13),
        measure=demo_weights,
        trains=True,
    ),
    "losses": of_demo("09-misconceptions.md", "in the demo", demo_losses, within=0.12),
    "proof": of_demo("07-reading-a-report.md", "the demo's proof", demo_proof, within=0.2),
    "spectrum": of_demo("01-what-lora-is.md", "the demo's change", demo_spectrum, within=0.1),
}  # fmt: skip


def text_of(name: str, page: str) -> str:
    """What stands between a block's marks.

    Raises:
        SystemExit: the page has no such block.
    """
    found = re.search(rf"<!-- figures {name} -->\n(.*?)<!-- end -->", page, re.DOTALL)
    if found is None:
        raise SystemExit(f"{BLOCKS[name].page}: no block '<!-- figures {name} -->' … '<!-- end -->'.")
    return found.group(1)


def rows_of(text: str) -> Rows:
    """Cells of a Markdown table, without its head."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def differences(block: Block, quoted: Rows, measured: Rows) -> list[str]:
    """What a page quotes otherwise than it was measured, beyond the tolerance; empty where it holds."""
    if [row[0].strip("`") for row in quoted] != [row[0].strip("`") for row in measured]:
        return ["the rows are others"]
    found = []
    for old, new in zip(quoted, measured, strict=True):
        for name, within, there, here in zip(block.head, block.within, old, new, strict=True):
            if within is None:
                continue
            pairs = list(zip(_numbers(there), _numbers(here), strict=False))
            off = any(abs(a - b) > (within * abs(b) if block.relative else within) for a, b in pairs)
            if off or _words(there) != _words(here):
                found.append(f"{new[0]}, {name or 'figure'}: the page says {there}, {here} was measured")
    return found


def _numbers(cell: str) -> list[float]:
    return [float(one.replace(",", "")) for one in NUMBER.findall(cell.replace("−", "-"))]


def _words(cell: str) -> str:
    """What a cell says besides its numbers, and how many of those it has."""
    return NUMBER.sub("#", cell.replace("−", "-"))


def as_text(block: Block, rows: Rows) -> str:
    """The block as it stands in a page: table, date, machine, tolerance."""
    lines = [" | ".join(block.head), "|".join(["---"] * len(block.head)), *(" | ".join(row) for row in rows)]
    wide = ["| " + lines[0] + " |", "|" + lines[1] + "|", *("| " + line + " |" for line in lines[2:])]
    allowed = [
        f"{name or 'figure'} {within:.0%}" if block.relative else f"{name or 'figure'} {within:g}"
        for name, within in zip(block.head, block.within, strict=True)
        if within
    ]
    holds = f"within {', '.join(allowed)}" if allowed else "to every digit"
    today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    note = f"*Measured by `make course` on {today}, {platform.machine()}, one thread, fp32; it has to hold {holds}.*"
    return "\n".join(wide) + "\n\n" + note + "\n"


def part_of_today(num_parts: int) -> int:
    """Which part a commit checks: another one after each commit."""
    commit = subprocess.run(
        ["git", "rev-list", "--count", "HEAD"], capture_output=True, text=True, check=True
    )
    return int(commit.stdout) % num_parts


def main(arguments: Sequence[str]) -> int:
    """Measure, compare, and rewrite where asked; 1 where a page does not hold."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("names", nargs="*", choices=[[], *BLOCKS], help="blocks; all of them without")
    parser.add_argument("--write", action="store_true", help="rewrite the blocks with what was measured")
    parser.add_argument("--part", action="store_true", help="one block, another one after each commit")
    given = parser.parse_args(arguments)
    names = given.names or list(BLOCKS)
    if given.part:
        names = [list(BLOCKS)[part_of_today(len(BLOCKS))]]
    wrong = 0
    for name in names:
        block, path = BLOCKS[name], COURSE / BLOCKS[name].page
        rows, page = block.measure(), path.read_text(encoding="utf-8")
        off = differences(block, rows_of(text_of(name, page)), rows)
        print(f"{path.name}, {name}: {'holds' if not off else f'{len(off)} figures do not hold'}", flush=True)
        for line in off:
            print(f"  {line}")
        wrong += len(off)
        if given.write:
            path.write_text(page.replace(text_of(name, page), as_text(block, rows)), encoding="utf-8")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
