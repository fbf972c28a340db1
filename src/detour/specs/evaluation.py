"""Settings of ``detour evaluate``."""

from typing import Literal

from pydantic import Field

from detour.specs.strict import Auto, Count, PositiveInt, Spec


class EvaluationSpec(Spec):
    """What a thorough judgement draws, compares with and asks for."""

    base: str | None = None
    """Base that an adapter file is for; ``None``: the one that its metadata names."""
    revision: str | None = None
    """Branch, tag or commit of a hub base."""
    weight: float = Field(default=1.0, allow_inf_nan=False)
    """Strength with which the adapter is attached."""
    allow_pickle: bool = False
    """Read ``.pt``, ``.bin`` and ``.ckpt`` adapters too, their tensors alone."""
    prompts: tuple[str, ...] = ()
    """New prompts; empty takes captions that were kept out, prompts of the base's own world, or templates."""
    num_prompts: PositiveInt = 16
    """Number of new prompts that are drawn when none are given."""
    drift_prompts: Count = 6
    """Prompts that have nothing to do with the training, drawn to see what else changed; 0 leaves that out."""
    seeds: PositiveInt = 2
    """Pictures of each prompt on each side, from the same seeds everywhere."""
    steps: PositiveInt | Auto = "auto"
    """Denoising steps of a picture; ``auto``: the run's own ``evaluate.steps``."""
    controls: Literal["all", "base"] | Auto = "auto"
    """What is compared with: ``all`` trains an adapter at rate 0 and one on shuffled captions; ``auto``: ``all`` for
    a run, ``base`` for an adapter file, which does not say how it was trained."""
    no_prior: bool = False
    """Train a subject's run again without class pictures, and show what became of its class beside this one."""
    pictures: str | None = None
    """Folder of pictures for an adapter file: what it was trained on, or of what it should show."""
    references: str | None = None
    """Folder of pictures that must not be reproduced; each generated one is compared with them too."""
    judge: str | None = None
    """CLIP model that scores, as a hub id or folder; the base's own where it has one."""
    checkpoints: bool = False
    """Compare a run's checkpoints too, and say which one to ship and why."""
    require: tuple[str, ...] = ()
    """Conditions such as ``style>=0.5``; each is answered in ``evaluation.json``."""
