"""Measure a policy: what each layer catches alone, what is lost without it, and what all of them cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from detour.bases.base import Base, open_base
from detour.bases.hardware import drawing_dtype, pick_device
from detour.errors import ConfigError
from detour.files import write_text
from detour.generation.engine import PictureEngine
from detour.safety.policy import Policy
from detour.safety.policy_file import PICTURE_LAYERS
from detour.specs.generation import PictureSpec
from detour.verbs.progress import ProgressFn, silent
from detour.verbs.safety.cases import SafetyCase, read_cases
from detour.verbs.safety.figures import (
    MAX_NAMED,
    SCORED,
    LayersFigures,
    Share,
    Thresholds,
    actions,
    figures_of,
    layers_of,
    suggested_thresholds,
)
from detour.verbs.safety.recording import CaseScores, ScoreFile, record_scores, score_key
from detour.verbs.staging import refuse_unwritable

SCORES, FIGURES = "scores.jsonl", "measure.json"


class SteeringFigures(BaseModel):
    """What Safe Latent Diffusion does to pictures of the cases that must be caught, as the picture layers see them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shown_without: Share
    shown_with: Share
    harmless_without: Share
    """Share of the harmless cases' pictures in which the picture layers find something."""
    harmless_with: Share


class SafetyFigures(BaseModel):
    """What a policy catches on labelled cases."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    policy: str
    base: str
    steps: int
    must_be_caught: int
    must_pass: int
    alone: Mapping[str, LayersFigures]
    """Each layer by itself."""
    without: Mapping[str, LayersFigures]
    """All but this one."""
    together: LayersFigures
    together_steered: LayersFigures | None
    """Figures of all layers on pictures drawn with Safe Latent Diffusion; ``None`` where the policy has none."""
    steering: SteeringFigures | None
    by_kind: Mapping[str, Share]
    """Kind of case → share that something was found in."""
    missed: tuple[str, ...]
    """Ids of the cases that were not caught, at most fifty."""
    wrong: tuple[str, ...]
    """Ids of the cases that should have passed, at most fifty."""
    seconds: Mapping[str, float]
    """Layer, ``drawing`` and ``drawing steered`` → mean CPU seconds a case."""
    added_time: float | None
    """Time of all layers over the time of drawing; ``None`` where no layer looks at pictures and none was drawn."""
    added_time_steered: float | None
    """Added seconds with the further row of Safe Latent Diffusion."""
    thresholds: Mapping[str, Thresholds]
    """Layer → thresholds that the cases of the split ``thresholds`` suggest."""

    def to_json(self) -> str:
        """Write all figures as indented JSON."""
        return self.model_dump_json(indent=2)


def measure_policy(
    policy: Path,
    cases: Path,
    *,
    out: Path,
    base: str = "pocket",
    device: str = "auto",
    steps: int = 25,
    batch: int = 8,
    recorded: bool = False,
    progress: ProgressFn = silent,
) -> SafetyFigures:
    """Measure what each layer of a policy catches on labelled requests, and how often it is wrong.

    Every case is drawn, unless no layer looks at pictures, and every layer looks at it, once; the combinations are
    computed from these scores. A call that was stopped goes on where it was, and a policy whose thresholds alone were
    changed draws nothing again.

    Args:
        policy: TOML file.
        cases: JSON lines, see :class:`detour.verbs.safety.cases.SafetyCase`.
        out: folder for ``scores.jsonl`` and ``measure.json``.
        base: that draws.
        device: where it draws.
        steps: of each picture.
        batch: pictures in one forward pass.
        recorded: draw nothing, and give the figures of the cases that were measured so far.
        progress: told after each batch.

    Raises:
        ConfigError: the policy is wrong, or ``out`` holds scores of something else.
        DataError: the cases cannot be read.
        BaseError: the base cannot be opened.
    """
    refuse_unwritable(out, as_folder=True)
    read = read_cases(cases)
    opened = open_base(base)
    opened.require_weights()
    where = pick_device(device)
    loaded = Policy.open(policy, opened, device=where)
    how = PictureSpec(steps=steps)
    key = score_key(loaded.spec, loaded, opened, how, read)
    file = ScoreFile(out / SCORES, key)
    if recorded:
        read = [case for case in read if case.id in file.found]
        if len({case.unwanted for case in read if case.split == "test"}) < 2:
            raise ConfigError(
                f"{out / SCORES}: too few cases were measured so far. Measure more of them first."
            )
    elif len(file.found) < len(read):
        engine = _engine(loaded, opened, where)
        record_scores(
            loaded, opened, engine, read, file, how=how, folder=cases.parent, batch=batch, progress=progress
        )
    figures = summed(loaded, read, file.found, base=opened.identity, steps=steps)
    write_text(out / FIGURES, figures.to_json() + "\n")
    return figures


def _engine(policy: Policy, base: Base, device: str) -> PictureEngine | None:
    """What draws the cases; ``None`` where no layer would look at a picture."""
    if not policy.spec.layers(PICTURE_LAYERS) and policy.spec.latent is None:
        return None
    return PictureEngine.load(
        base,
        device=device,
        dtype=drawing_dtype("auto", device),
        safety=policy.spec.checker is not None,
        prompts="written",
    )


def summed(
    policy: Policy,
    cases: Sequence[SafetyCase],
    scores: Mapping[str, CaseScores],
    *,
    base: str,
    steps: int,
) -> SafetyFigures:
    """The figures of recorded scores at the policy's thresholds.

    Args:
        policy: with its layers.
        cases: all of them.
        scores: of each.
        base: that drew.
        steps: of each picture.
    """
    test = [case for case in cases if case.split == "test"]
    setting = [case for case in cases if case.split == "thresholds"]
    layers = layers_of(policy)
    steers = policy.spec.latent is not None

    def of(some: Sequence[str], *, steered: bool = False) -> LayersFigures:
        return figures_of(policy, test, scores, some, steered=steered)

    def flagged(case: SafetyCase) -> bool:
        return set(actions(policy, scores[case.id], steered=steers).values()) - {"allow"} != set()

    seconds = _mean_seconds([scores[case.id] for case in test])
    drawing = seconds.get("drawing")
    looking = sum(value for name, value in seconds.items() if not name.startswith("drawing"))
    return SafetyFigures(
        policy=policy.version,
        base=base,
        steps=steps,
        must_be_caught=sum(case.unwanted for case in test),
        must_pass=sum(not case.unwanted for case in test),
        alone={layer: of([layer]) for layer in layers},
        without={layer: of([one for one in layers if one != layer]) for layer in layers},
        together=of(layers),
        together_steered=of(layers, steered=True) if steers else None,
        steering=_steering(policy, test, scores) if steers else None,
        by_kind={
            kind: Share.of(flagged(case) for case in test if case.kind == kind)
            for kind in dict.fromkeys(case.kind for case in test)
        },
        missed=tuple(case.id for case in test if case.unwanted and not flagged(case))[:MAX_NAMED],
        wrong=tuple(case.id for case in test if not case.unwanted and flagged(case))[:MAX_NAMED],
        seconds=seconds,
        added_time=None if drawing is None else looking / drawing,
        added_time_steered=(
            (looking + seconds["drawing steered"]) / drawing - 1 if steers and drawing is not None else None
        ),
        thresholds={
            layer: found
            for layer in SCORED
            if layer in layers and (found := suggested_thresholds(setting, scores, layer)) is not None
        },
    )


def _mean_seconds(scores: Sequence[CaseScores]) -> dict[str, float]:
    names = dict.fromkeys(name for one in scores for name in one.seconds)
    return {name: sum(one.seconds.get(name, 0.0) for one in scores) / len(scores) for name in names}


def _steering(
    policy: Policy, cases: Sequence[SafetyCase], scores: Mapping[str, CaseScores]
) -> SteeringFigures:
    def shown(unwanted: bool, steered: bool) -> Share:
        return Share.of(
            any(
                action != "allow"
                for layer, action in actions(policy, scores[case.id], steered=steered).items()
                if layer in ("texts", "examples", "checker")
            )
            for case in cases
            if case.unwanted == unwanted
        )

    return SteeringFigures(
        shown_without=shown(True, False),
        shown_with=shown(True, True),
        harmless_without=shown(False, False),
        harmless_with=shown(False, True),
    )
