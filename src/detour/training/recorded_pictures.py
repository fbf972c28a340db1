"""What a run remembers of its pictures, so that nobody later takes others for those that were trained on."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from detour.data.finding import Finding, counted, some
from detour.data.folder import Dataset, Example
from detour.data.holdout import split_holdout
from detour.errors import RunError
from detour.files import write_json
from detour.training.checkpoints import FOLDER

PICTURES = Path(FOLDER) / "pictures.json"
FINDINGS = "findings.json"
FACTS = 5
"""Number of facts of each picture, in this order: content, caption, repeats, weight, mask; its part
follows (not in older runs)."""
TRAINED, HELD_OUT, CLASS = "train", "held_out", "class"


@dataclass(frozen=True)
class RunPictures:
    """A run's pictures as they are found later.

    Attributes:
        train: that were trained on and are still the same.
        held_out: that were kept out and are still the same.
        train_captions: of all that were trained on, those that are gone or changed included.
        held_out_captions: of all that were kept out.
        notes: what is not the same any more.
    """

    train: tuple[Example, ...]
    held_out: tuple[Example, ...]
    train_captions: tuple[str, ...]
    held_out_captions: tuple[str, ...]
    notes: tuple[str, ...] = ()


def remember_pictures(run_folder: Path, dataset: Dataset, *, holdout: float, seed: int) -> None:
    """Write down each picture's content, caption and part, so that a change can be named later."""
    _, kept_out = split_holdout(dataset, holdout, seed)
    held_out = {example.name for example in kept_out.examples}
    parts = {example.name: HELD_OUT if example.name in held_out else TRAINED for example in dataset.examples}
    parts |= dict.fromkeys((example.name for example in dataset.class_examples), CLASS)
    write_json(
        run_folder / PICTURES, {name: [*facts, parts[name]] for name, facts in facts_of(dataset).items()}
    )


def write_findings(run_folder: Path, findings: Sequence[Finding]) -> None:
    """Write down what was wrong with the pictures and captions, for the verdict to cite."""
    write_json(run_folder / FINDINGS, [finding.model_dump(mode="json") for finding in findings])


def read_findings(run_folder: Path) -> tuple[Finding, ...]:
    """What was wrong with the pictures and captions; nothing where the run did not write it down.

    Raises:
        RunError: the file is not what a run writes.
    """
    path = run_folder / FINDINGS
    if not path.exists():
        return ()
    try:
        return tuple(Finding.model_validate(one) for one in json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise RunError(f"{path}: not what a run writes ({type(error).__name__}). Delete it.") from error


def facts_of(dataset: Dataset) -> dict[str, list[Any]]:
    """Name → content, caption, repeats, weight and mask of every picture."""
    return {
        e.name: [e.sha256, e.caption, e.repeats, e.weight, e.mask_sha256]
        for e in (*dataset.examples, *dataset.class_examples)
    }


def read_recorded(run_folder: Path) -> dict[str, list[Any]] | None:
    """What :func:`remember_pictures` wrote; ``None`` where it is not there or cannot be read."""
    try:
        values = json.loads((run_folder / PICTURES).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    whole = isinstance(values, dict) and all(
        isinstance(one, list) and len(one) >= FACTS and isinstance(one[0], str) and isinstance(one[1], str)
        for one in values.values()
    )
    return values if whole else None


def changes(recorded: Mapping[str, Sequence[Any]], dataset: Dataset) -> list[str]:
    """``a.png (changed)``, ``b.png (gone)``, ``c.png (new)``: pictures, captions, repeats, weights and masks."""
    now = facts_of(dataset)
    before = {name: list(facts[:FACTS]) for name, facts in recorded.items()}
    return [
        f"{name} ({'new' if name not in before else 'gone' if name not in now else 'changed'})"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]


def as_trained_on(
    dataset: Dataset, recorded: Mapping[str, Sequence[Any]] | None, *, holdout: float, seed: int
) -> RunPictures:
    """The pictures of a run among those that are in its folder now.

    Args:
        dataset: what is there now.
        recorded: what the run remembers; ``None``: everything that is there is taken for the run's.
        holdout: share that the run kept out.
        seed: of the run.
    """
    if recorded is None:
        train, held_out = split_holdout(dataset, holdout, seed)
        return RunPictures(
            train.examples,
            held_out.examples,
            *(tuple(e.caption for e in part.examples) for part in (train, held_out)),
        )
    parts = _parts(recorded, dataset, holdout, seed)
    same = [
        replace(example, caption=str(recorded[example.name][1]))
        for example in dataset.examples
        if example.name in recorded and recorded[example.name][0] == example.sha256
    ]
    captions = {
        part: tuple(str(facts[1]) for name, facts in recorded.items() if parts[name] == part)
        for part in (TRAINED, HELD_OUT)
    }
    return RunPictures(
        train=tuple(example for example in same if parts[example.name] == TRAINED),
        held_out=tuple(example for example in same if parts[example.name] == HELD_OUT),
        train_captions=captions[TRAINED],
        held_out_captions=captions[HELD_OUT],
        notes=_in_words(dataset, recorded, parts),
    )


def _parts(
    recorded: Mapping[str, Sequence[Any]], dataset: Dataset, holdout: float, seed: int
) -> dict[str, str]:
    """Name → part. Runs before 0.2 did not write it down: the split is a function of names, contents and seed."""
    if all(len(facts) > FACTS for facts in recorded.values()):
        return {name: str(facts[FACTS]) for name, facts in recorded.items()}
    of_class = {example.name for example in dataset.class_examples}
    examples = tuple(
        Example(name, None, "", str(facts[0])) for name, facts in recorded.items() if name not in of_class
    )
    _, kept_out = split_holdout(Dataset(examples), holdout, seed)
    held_out = {example.name for example in kept_out.examples}
    return {
        name: CLASS if name in of_class else HELD_OUT if name in held_out else TRAINED for name in recorded
    }


def _in_words(
    dataset: Dataset, recorded: Mapping[str, Sequence[Any]], parts: Mapping[str, str]
) -> tuple[str, ...]:
    now = {example.name: example.sha256 for example in dataset.examples}
    before = {name: str(facts[0]) for name, facts in recorded.items() if parts[name] != CLASS}
    others = [
        f"{name} ({'new' if name not in before else 'gone' if name not in now else 'changed'})"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]
    return (left_out(others),) if others else ()


def left_out(others: list[str]) -> str:
    """A sentence on pictures that are not those of the run; each is a name with what became of it in brackets."""
    return (
        f"{counted(len(others), 'picture')} in the folder "
        f"{'is' if len(others) == 1 else 'are'} not what the run was trained on and left out: {some(others)}."
    )
