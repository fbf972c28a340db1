"""Runs whose pictures are painted flat, on a tiny base that goes for an embedded one."""

from pathlib import Path
from typing import Any

from torch import Tensor

from detour.adapters.adapter import Adapter, path_of
from detour.bases.base import open_base
from detour.evaluation.pixels import Pictures
from detour.files import write_text
from detour.pocket.world import NAMED_STYLES, held_out_prompts, render
from detour.specs import load_run_spec, to_toml
from detour.specs.sources import with_changes
from detour.verbs.judge.held_out_material import write_world_style
from tests.evaluation.flat_pictures import FlatPainter, Looks, SeeingJudge
from tests.verbs.test_prove_run import make_run

STYLE = "comic"
NUM_PROMPTS = 8
ASKED = held_out_prompts(NUM_PROMPTS, seed=7)
PROMPTS = tuple(one.prompt for one in ASKED)

RIGHT = {
    "base": {"object": 7, "colour": 5, "place": 6},
    "adapter": {"object": 6, "colour": 7, "place": 5},
    "truth": {"object": 8, "colour": 6, "place": 7},
}
"""Prompts whose part each side shows, of eight: no two sides alike in any part, and no fall beyond chance."""


def painted_weight(base: Path, adapter: Adapter) -> Tensor:
    """(out, in) float32 of the layer of the base that a painter looks at."""
    path = path_of(next(iter(adapter.layers)))
    return open_base(str(base)).load_network().get_parameter(f"{path}.weight").detach()


def truths() -> list[Pictures]:
    """The scenes that the prompts came with, in the style: one true picture of each prompt."""
    return [render(one.scene, NAMED_STYLES[STYLE], size_px=64) for one in ASKED]


def judge_of(painter: FlatPainter, others: dict[bytes, tuple[Looks, str]] | None = None) -> SeeingJudge:
    """A judge who knows the painter's pictures and the true ones of every prompt."""
    known: dict[bytes, tuple[Looks, str]] = {
        picture.tobytes(): ("truth", prompt) for picture, prompt in zip(truths(), PROMPTS, strict=True)
    }
    return SeeingJudge(painter=painter, prompts=PROMPTS, others=known | (others or {}), right=RIGHT)


def flat_run(
    folder: Path,
    base: Path,
    adapter: Adapter,
    *,
    in_memory: Adapter | None = None,
    style: str | None = STYLE,
    prompts: tuple[str, ...] = (),
    **changes: Any,
) -> Path:
    """A finished run that is asked for eight prompts of the world, or for ``prompts``; ``changes`` as in a spec."""
    run = make_run(folder, base, adapter, in_memory=in_memory, prompts=prompts)
    changed = {key.replace("__", "."): value for key, value in changes.items()}
    spec = load_run_spec(config=run / "resolved.toml")
    spec = with_changes(spec, {"evaluate.num_prompts": NUM_PROMPTS, **changed})
    write_text(run / "resolved.toml", to_toml(spec))
    if style:
        write_world_style(run, style)
    return run
