"""Writes ``report.html``: the proof of one run for people, in one file."""

import base64
import functools
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detour.bases.families import Family
from detour.errors import RunError
from detour.evaluation.answer_page import answer_rows, marked, subject_rows
from detour.evaluation.answers import Answers
from detour.evaluation.evaluation import Evaluation
from detour.evaluation.evaluation_page import (
    checkpoint_charts,
    fidelity_chart,
    prompts_chart,
    tables_of,
    tiles_of,
)
from detour.evaluation.pixels import Pictures
from detour.evaluation.plots import Curve, Role, bar_chart, line_chart, smoothed
from detour.evaluation.proof import HeldOutFigures, PromptAccuracy, Proof
from detour.evaluation.settings import setting_rows
from detour.evaluation.verdict import HEADLINES
from detour.files import write_text
from detour.specs import RunSpec
from detour.step_log import read_step_log

if TYPE_CHECKING:
    from jinja2 import Template
    from jinja2.runtime import Context

PICTURE_FORMS = ((320, 90), (320, 75), (240, 75), (160, 70), (96, 60))
"""Longest side in pixels and JPEG quality, from the best form to the smallest."""

PICTURES_BYTES = 3_400_000
"""Limit of all pictures together, so that the page stays below 5 MB in base64."""

MAX_PAIRS = 24
"""Largest number of pairs of each kind on the page."""

MAX_COPIES, MAX_NEAREST = 8, 4
"""Number of pictures beside their nearest originals, with copies and without any."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Pictures of one prompt and seed without and with the adapter.

    Attributes:
        prompt: what both were asked for.
        seed: of both.
        base: uint8 (H, W, 3).
        adapter: uint8, same shape.
        truth: a true picture of the prompt in the style, where one is known.
        nearest: of the user's own pictures, the one that is nearest to the adapter's; ``None`` where there are none.
    """

    prompt: str
    seed: int
    base: Pictures
    adapter: Pictures
    truth: Pictures | None = None
    nearest: Pictures | None = None


@dataclass(frozen=True, kw_only=True)
class CopyShown:
    """A picture of a new prompt beside its nearest training picture.

    Attributes:
        prompt: what was asked for.
        drawn: uint8 (H, W, 3).
        original: uint8 (H', W', 3).
        distance: of the two.
        threshold: below which it is a copy.
    """

    prompt: str
    drawn: Pictures
    original: Pictures
    distance: float
    threshold: float

    @property
    def copied(self) -> bool:
        """Whether the picture is a copy."""
        return self.distance < self.threshold


@dataclass(frozen=True, kw_only=True)
class EvaluationStory:
    """Content of the page of an evaluation beyond its figures.

    Attributes:
        evaluation: figures and verdict.
        unrelated_pairs: pairs of prompts that training has nothing to do with.
        copies: the nearest training pictures, the nearest first.
        recited: the same, drawn for training captions.
        reproduced: the same of pictures that must not be reproduced.
    """

    evaluation: Evaluation
    unrelated_pairs: Sequence[Pair] = ()
    copies: Sequence[CopyShown] = ()
    recited: Sequence[CopyShown] = ()
    reproduced: Sequence[CopyShown] = ()


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """Curves of ``metrics.jsonl`` as (step, value) pairs.

    Attributes:
        loss: of each step.
        validation: loss on pictures kept out.
        exists: whether there is a log.
        problem: a sentence on lines that could not be read; empty without any.
    """

    loss: Sequence[tuple[float, float]] = ()
    validation: Sequence[tuple[float, float]] = ()
    exists: bool = False
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class RunStory:
    """Content of the report and the model card.

    Attributes:
        spec: the resolved run.
        name: of the run.
        base_identity: of the base, without a path.
        family: of the base.
        proof: figures and verdict; ``None`` where an adapter was evaluated and not proved.
        evaluation: the thorough judgement, where there is one; then its verdict is the page's.
        metrics: curves.
        proof_pairs: pairs of the picture proof, from prompts of the training data.
        held_out_pairs: pairs of prompts that training never saw.
        class_pairs: pairs of the same prompts without the subject's word; none for a style.
        settings_known: whether ``spec`` is a run's; an adapter file says little of how it was trained.
        facts: what else is known of the run (seconds, threads, versions), shown as it is.
    """

    spec: RunSpec
    name: str
    base_identity: str
    family: Family
    proof: Proof | None
    metrics: Metrics
    evaluation: EvaluationStory | None = None
    settings_known: bool = True
    proof_pairs: Sequence[Pair] = ()
    held_out_pairs: Sequence[Pair] = ()
    class_pairs: Sequence[Pair] = ()
    facts: Mapping[str, Any]


def read_metrics(path: Path) -> Metrics:
    """Read the curves of ``metrics.jsonl``; damaged lines are left out and reported, a missing file has no curves.

    Raises:
        RunError: it is there and cannot be read.
    """
    try:
        log = read_step_log(path)
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror}). Restore it, or delete it.") from error
    curves = {
        key: [
            (float(line["step"]), float(line[key]))
            for line in log.lines
            if key in line and math.isfinite(line[key])
        ]
        for key in ("loss", "val_loss")
    }
    return Metrics(
        loss=curves["loss"], validation=curves["val_loss"], exists=log.exists, problem=log.problem(path)
    )


def write_report(path: Path, story: RunStory) -> None:
    """Write the report page.

    Args:
        path: ``report.html``.
        story: of the run; captions in it are untrusted and escaped.

    Raises:
        StorageError: disk full or folder not writable.
    """
    write_text(path, render_report(story))


@functools.cache
def _template() -> "Template":
    """Template of the page; compiling it takes a fifth of a second, so a process does it once."""
    from jinja2 import Environment, PackageLoader, StrictUndefined, pass_context

    environment = Environment(
        loader=PackageLoader("detour.evaluation", "pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )

    @pass_context
    def uri_of(context: "Context", picture: Pictures) -> str:
        return data_uri(picture, max_bytes=context["picture_bytes"])

    environment.filters["picture"] = uri_of
    return environment.get_template("report.html")


def render_report(story: RunStory) -> str:
    """Make the HTML of the page, without scripts or network access, with style and pictures inline."""
    groups = _pair_groups(story)
    shown = 4 * sum(len(group["pairs"]) for group in groups)
    if story.evaluation:
        evaluation = story.evaluation
        shown += 2 * (len(evaluation.copies) + len(evaluation.recited) + len(evaluation.reproduced))
    judged = story.evaluation.evaluation if story.evaluation else story.proof
    assert judged is not None, "a page tells of a proof or of an evaluation"
    return _template().render(
        picture_bytes=PICTURES_BYTES // max(shown, 1),
        story=story,
        proof=story.proof,
        verdict=judged.verdict,
        reasons=judged.reasons,
        headline=judged.headline or HEADLINES[judged.verdict],
        next_step=judged.next_step,
        read=answer_rows(judged.answers),
        subject=subject_rows(judged.answers),
        loss_chart=_markup(loss_chart(story.metrics)),
        groups=groups,
        settings=setting_rows(story.spec, base_identity=story.base_identity) if story.settings_known else (),
        **(_evaluated(story.evaluation) if story.evaluation else _proved(story.proof)),
    )


def _proved(proof: Proof | None) -> dict[str, Any]:
    """Section with the scores of the quick proof."""
    assert proof is not None
    held_out = proof.held_out
    prompts = f"{held_out.prompts} prompts, {held_out.seeds} seed{'' if held_out.seeds == 1 else 's'} each."
    charts = [style_chart(held_out), accuracy_chart(held_out, proof.answers)]
    return {
        "evaluation": None,
        "tiles": (),
        "copy_groups": (),
        "marks": (),
        "checkpoints": None,
        "checkpoint_charts": (),
        "score_charts": [_markup(chart) for chart in charts if chart],
        "score_note": f"{prompts} Beside them stands what true pictures of the style score.",
        "tables": (),
    }


def _evaluated(story: EvaluationStory) -> dict[str, Any]:
    """Section with the scores of the thorough evaluation, which include those of the proof."""
    evaluation = story.evaluation
    checkpoints = evaluation.checkpoints
    groups = [
        ("Nearest training pictures", "training picture", "a new prompt", story.copies),
        ("Learned by heart?", "training picture", "a training caption", story.recited),
        ("Nearest pictures that must not be reproduced", "reference", "a new prompt", story.reproduced),
    ]
    charts = [fidelity_chart(evaluation), prompts_chart(evaluation)]
    return {
        "evaluation": evaluation,
        "tiles": tiles_of(evaluation),
        "copy_groups": [
            {
                "title": title,
                "other": other,
                "asked": asked,
                "pairs": pairs[: MAX_COPIES if any(pair.copied for pair in pairs) else MAX_NEAREST],
                "copied": any(pair.copied for pair in pairs),
            }
            for title, other, asked, pairs in groups
            if pairs
        ],
        "marks": evaluation.marks.sentences(),
        "checkpoints": checkpoints,
        "checkpoint_charts": [_markup(chart) for chart in checkpoint_charts(checkpoints)]
        if checkpoints
        else (),
        "score_charts": [_markup(chart) for chart in charts if chart],
        "score_note": f"{evaluation.prompts_from} {evaluation.seeds} seeds each, the same on every side.",
        "tables": tables_of(evaluation),
    }


def loss_chart(metrics: Metrics) -> str:
    """Chart of the training loss, raw and smoothed, and of the held-out loss."""
    values = [value for _, value in metrics.loss]
    smooth = [(step, value) for (step, _), value in zip(metrics.loss, smoothed(values), strict=True)]
    few = len(metrics.validation) <= 40
    curves = [
        Curve(name="training, each step", role="raw", points=metrics.loss),
        Curve(name="training, smoothed", role="adapter", points=smooth),
        Curve(name="pictures kept out", role="validation", points=metrics.validation, dots=few),
    ]
    return line_chart(
        curves,
        title="Loss over the training steps",
        x_label="training step",
        y_label="loss (mean squared error)",
    )


def style_chart(held_out: HeldOutFigures) -> str:
    """Chart of the distance to the style: base, adapter and ceiling."""
    distance = held_out.style_distance
    if distance is None:
        return ""
    bars: list[tuple[Role, str, float]] = [
        ("base", "base", distance.base),
        ("adapter", "adapter", distance.adapter),
        ("ceiling", "true pictures", distance.ceiling),
    ]
    return bar_chart(
        [("style", bars)],
        title="Distance to the style",
        x_label="distance to the style (squared MMD; shorter is nearer)",
        percent=False,
    )


def accuracy_chart(held_out: HeldOutFigures, answers: Answers | None = None) -> str:
    """Chart of the prompt accuracy by part: base, adapter and ceiling; parts that the judge cannot read say so."""
    accuracy = held_out.prompt_accuracy
    if accuracy is None:
        return ""
    sides: tuple[tuple[Role, str, PromptAccuracy | None], ...] = (
        ("base", "base", accuracy.base),
        ("adapter", "adapter", accuracy.adapter),
        ("ceiling", "true pictures", accuracy.ceiling),
    )
    rows = [
        (
            marked(part, answers).replace(" ", "\n", 1),
            [(role, name, getattr(side, part)) for role, name, side in sides if side is not None],
        )
        for part in type(accuracy.base).model_fields
    ]
    return bar_chart(
        rows,
        title="Prompt accuracy by part of the prompt",
        x_label="share of pictures that show what was asked for",
        percent=True,
    )


def data_uri(picture: Pictures, *, max_bytes: int) -> str:
    """JPEG data URI of uint8 (H, W, 3) in the best of :data:`PICTURE_FORMS` that fits ``max_bytes``."""
    from PIL import Image

    for side_px, quality in PICTURE_FORMS:
        image = Image.fromarray(picture)
        image.thumbnail((side_px, side_px))
        stream = io.BytesIO()
        # Full colour resolution: halved, as is JPEG's default, thin coloured outlines lose their colour.
        image.save(stream, "JPEG", quality=quality, subsampling=0)
        if stream.tell() <= max_bytes:
            break
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def _pair_groups(story: RunStory) -> list[dict[str, Any]]:
    unrelated = story.evaluation.unrelated_pairs if story.evaluation else ()
    groups = [
        ("New prompts", "Prompts that training never saw.", story.held_out_pairs),
        (
            "The class alone",
            "The same prompts without the subject's word: what became of everything else of its class.",
            story.class_pairs,
        ),
        ("Unrelated prompts", "What training has nothing to do with.", unrelated),
        ("Prompts of the training data", "The pairs of the picture proof.", story.proof_pairs),
    ]
    return [
        {"title": title, "note": note, "pairs": pairs[:MAX_PAIRS], "left_out": max(0, len(pairs) - MAX_PAIRS)}
        for title, note, pairs in groups
        if pairs
    ]


def _markup(svg: str) -> Any:
    from markupsafe import Markup

    return Markup(svg)  # made by plots.py, which escapes its texts
