"""Memory that a lab needs on a GPU with Stable Diffusion 1.5 or what it names, predicted as ``detour plan`` does."""

from functools import cache
from typing import Any

from pydantic import BaseModel, ConfigDict

from detour.labs.index import Lab
from detour.specs.sources import load_run_spec
from detour.training.footprint import CUDA_CONTEXT_BYTES
from detour.verbs.train.memory_plan import CARDS, MemoryPlan, plan_memory

SHAPES = "sd15"
CARD = next(card for card in CARDS if not card.bf16)


class CardNeed(BaseModel):
    """Predicted memory of one lab on a card without bf16."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    card: str
    bytes: int
    words: str


def card_need(lab: Lab) -> CardNeed | None:
    """Memory of a lab on a 16 GB card without bf16; ``None`` where it reads settings alone.

    Drawing is counted with the text encoders in memory beside UNet and VAE, as the labs hold them. A lab that trains
    takes the larger of both.
    """
    if lab.work == "settings":
        return None
    plan = _plan(tuple(sorted(lab.settings.items())))
    # What a CPU's allocator keeps aside is no GPU's need.
    totals = {stage.stage: stage.total - stage.parts.get("allocator", 0) for stage in plan.stages}
    needed = totals["drawing samples"] + totals["encoding captions"]
    if lab.work == "training":
        needed = max(needed, totals["training"])
    words = f"{lab.work} in {plan.settings['dtype']}"
    if "base.name" in lab.settings:
        words += f" on {lab.settings['base.name']}"
    return CardNeed(card=CARD.name, bytes=needed + CUDA_CONTEXT_BYTES, words=words)


@cache
def _plan(settings: tuple[tuple[str, Any], ...]) -> MemoryPlan:
    flags = {"base.name": SHAPES, "base.dtype": "fp32", "data.source": "pictures", **dict(settings)}
    return plan_memory(load_run_spec(flags=flags), cards=[CARD])
