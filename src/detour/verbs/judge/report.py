"""The page of an evaluation: its figures with the pictures they were measured on, and the facts of the run."""

from collections.abc import Sequence
from pathlib import Path

from detour.evaluation.copies import CopyFigures
from detour.evaluation.evaluation import Evaluation
from detour.evaluation.pixels import Pictures
from detour.evaluation.proof import read_proof
from detour.evaluation.report import CopyShown, EvaluationStory, Pair, RunStory, write_report
from detour.verbs.judge.finished_run import shown_facts
from detour.verbs.judge.judging import Judged
from detour.verbs.judge.material import EvaluationMaterial
from detour.verbs.judge.side_pictures import Drawn, requests_of

MAX_UNRELATED = 8
"""Largest number of pairs of unrelated prompts on the page."""


def write_evaluation_report(
    path: Path, judged: Judged, evaluation: Evaluation, *, references: Pictures | None
) -> None:
    """Write ``report.html`` with the evaluation, and with the figures of the run's proof where it has one.

    Args:
        path: of the page.
        judged: with all pictures.
        evaluation: figures and verdict.
        references: that must not be reproduced, where some were named.

    Raises:
        RunError: ``proof.json`` is there and damaged.
        StorageError: disk full or folder not writable.
    """
    run, material, drawn, pairs = judged.subject.run, judged.material, judged.drawn, judged.pairs
    training = None if material.training is None else material.training.train
    new = [(pair.prompt, pair.adapter) for pair in pairs]
    proof = run.folder / "proof.json"
    story = RunStory(
        spec=run.spec,
        name=str(run.spec.name),
        base_identity=judged.subject.base.identity,
        family=judged.subject.base.family,
        proof=read_proof(proof) if proof.exists() else None,
        metrics=run.metrics,
        held_out_pairs=pairs,
        class_pairs=judged.class_pairs,
        settings_known=run.is_run,
        facts=shown_facts(run),
        evaluation=EvaluationStory(
            evaluation=evaluation,
            unrelated_pairs=_unrelated(material, drawn, seeds=evaluation.seeds),
            copies=_shown(evaluation.copies, new, training),
            recited=_shown(
                evaluation.recited, _of_set("recited", material.recited, drawn, evaluation.seeds), training
            ),
            reproduced=_shown(evaluation.reproduced, new, references),
        ),
    )
    write_report(path, story)


def _unrelated(material: EvaluationMaterial, drawn: Drawn, *, seeds: int) -> list[Pair]:
    """Pairs of pictures of unrelated prompts at their first seed, with the trigger where there is one."""
    sets = ("unrelated", "unrelated_with_trigger")[: len(material.unrelated)]
    if not sets:
        return []
    prompts, pictures = material.unrelated[-1].prompts, drawn.pictures[sets[-1]]
    requests = requests_of(prompts, 0)
    return [
        Pair(
            prompt=prompt,
            seed=requests[i].seed,
            base=pictures["base"][i * seeds],
            adapter=pictures["adapter"][i * seeds],
        )
        for i, prompt in enumerate(prompts[:MAX_UNRELATED])
    ]


PromptPicture = tuple[str, Pictures]
"""A prompt, and the picture that the adapter drew for it: uint8 (H, W, 3)."""


def _of_set(name: str, prompts: Sequence[str], drawn: Drawn, seeds: int) -> list[PromptPicture]:
    """Pictures of one set of prompts in prompt-major order."""
    pictures = drawn.pictures[name]["adapter"] if prompts else ()
    return [(prompts[i // seeds], picture) for i, picture in enumerate(pictures)]


def _shown(
    figures: CopyFigures | None, drawn_new: Sequence[PromptPicture], originals: Pictures | None
) -> list[CopyShown]:
    """Pairs of drawn pictures and nearest training pictures; indices are those of ``drawn_new``, prompt-major."""
    if figures is None or originals is None:
        return []
    return [
        CopyShown(
            prompt=drawn_new[one.picture][0],
            drawn=drawn_new[one.picture][1],
            original=originals[one.original],
            distance=one.distance,
            threshold=figures.scale.threshold,
        )
        for one in figures.pairs
    ]
