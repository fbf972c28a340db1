"""``python -m benchmarks.verdicts``: five kinds on the embedded world; ``--make``, ``--exam``: planted cases."""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from benchmarks.verdicts import embedded

if TYPE_CHECKING:
    from benchmarks.verdicts.scoring import Line

WORK = Path("verdict-runs")
PLANTED = WORK / "planted"


def seeds_of(text: str) -> range:
    """Seeds that ``3`` or ``0-9`` names."""
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


def make(given: argparse.Namespace) -> None:
    """Make planted cases one after the other; what is there is left alone."""
    from benchmarks.verdicts.material import Maker, all_cases

    maker = Maker(given.work)
    cases = [*all_cases(tuning=True, seeds=given.seeds), *all_cases(tuning=False, seeds=given.seeds)]
    if given.only:
        named = {one.name: one for one in cases}
        cases = [named[name] for name in given.only.split(",")]
    elif given.half != "both":
        cases = [one for one in cases if one.tuning == (given.half == "tuning")]
    for number, case in enumerate(cases, start=1):
        try:
            facts = maker.make(case)
        except (
            Exception
        ) as error:  # a case that cannot be made must not stop the others; it is said and tried again
            print(
                json.dumps({"failed": case.name, "why": f"{type(error).__name__}: {error}"[:300]}), flush=True
            )
            continue
        if facts is not None:
            line = {key: facts[key] for key in ("case", "training_s", "all_s", "diverged")}
            print(
                json.dumps({"at": time.strftime("%H:%M:%S"), "number": f"{number}/{len(cases)}", **line}),
                flush=True,
            )


def examine(given: argparse.Namespace) -> None:
    """Print the table of truth × verdict of what is kept, with the vocabulary hidden unless it is asked for."""
    from benchmarks.verdicts.drawn import score_drawn
    from benchmarks.verdicts.scoring import FeatureReader, case_report, score

    for tuning in (True, False):
        if given.half not in ("both", "tuning" if tuning else "test"):
            continue
        reader = FeatureReader(given.work, given.spoiled)
        how = {"tuning": tuning, "vocabulary": given.vocabulary, "spoiled": given.spoiled}
        if given.drawn:
            lines = score_drawn(given.work, reader, **how)
        else:
            lines = score(given.work, reader, seeds=given.seeds, **how)
        if given.lines:
            print("\n".join(json.dumps(case_report(line)) for line in lines))
        half = "tuning" if tuning else "test"
        known = "embedded vocabulary" if given.vocabulary else "captions alone"
        what = "sides drawn by code" if given.drawn else "trained runs"
        print_counts(f"{what}, {half} half, {known}, {given.spoiled or 'whole'} judge", lines)


def print_counts(what: str, lines: "Sequence[Line]") -> None:
    """Print truth × verdict of some runs, and how many are wrong or abstained."""
    from benchmarks.verdicts.scoring import summary, table

    print(f"\n{what}, {len(lines)} runs\n")
    print("\n".join(["" if not lines else table(lines), "", *summary(lines)]))


def keep_record(given: argparse.Namespace) -> None:
    """Judge what is kept, with and without the base's words, add it to the record and print the record's tables."""
    from benchmarks.verdicts.material import all_cases
    from benchmarks.verdicts.record import changes, judged, read_record, rules_digest, write_record
    from benchmarks.verdicts.scoring import FeatureReader, score

    before, reader = read_record(given.record), FeatureReader(given.work)
    rows = dict(before)
    for tuning in (True, False):
        alone, known = (
            score(given.work, reader, tuning=tuning, vocabulary=words, seeds=given.seeds)
            for words in (False, True)
        )
        rows |= judged(alone, known, date=time.strftime("%Y-%m-%d"))
    write_record(given.record, rows)
    print("\n".join(changes(before, rows)))
    rules = rules_digest()
    counted = {name: row for name, row in rows.items() if row.rules == rules}
    if len(counted) < len(rows):
        print(f"{len(rows) - len(counted)} runs of other rules are left out of the tables")
    for half in ("test", "tuning"):
        cases = all_cases(tuning=half == "tuning", seeds=sorted({row.seed for row in counted.values()}))
        for vocabulary in (False, True):
            lines = [counted[one.name].line(vocabulary=vocabulary) for one in cases if one.name in counted]
            known_words = "embedded vocabulary" if vocabulary else "captions alone"
            print_counts(f"trained runs on record, {half} half, {known_words}", lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.verdicts", description=__doc__)
    parser.add_argument("--make", action="store_true", help="make planted cases")
    parser.add_argument("--exam", action="store_true", help="score the cases that are there")
    parser.add_argument(
        "--drawn", action="store_true", help="with --exam: sides drawn by code in place of trained runs"
    )
    parser.add_argument("--lines", action="store_true", help="with --exam: print each case")
    parser.add_argument(
        "--vocabulary", action="store_true", help="with --exam: let the judge know the base's words"
    )
    parser.add_argument("--spoiled", choices=("", "noise", "random weights", "permuted texts"), default="")
    parser.add_argument(
        "--record", type=Path, help="with --exam: add trained runs to this file and count all that is in it"
    )
    parser.add_argument("--half", choices=("tuning", "test", "both"), default="both")
    parser.add_argument("--only", default="", help="these cases alone, in this order, by name")
    parser.add_argument("--kinds", default=",".join(embedded.KINDS), help="without --make and --exam")
    parser.add_argument("--judge-only", action="store_true", help="judge what was made, make nothing")
    parser.add_argument("--seeds", help="3 or 0-9; with --make 0 by default, with --exam 0-1, else 0-9")
    parser.add_argument("--work", type=Path)
    given = parser.parse_args()
    planted = given.make or given.exam
    given.work = given.work or (PLANTED if planted else WORK)
    given.seeds = seeds_of(given.seeds or ("0" if given.make else "0-1" if given.exam else "0-9"))
    torch.set_num_threads(1)
    if given.make:
        make(given)
    elif given.exam and given.record:
        keep_record(given)
    elif given.exam:
        examine(given)
    else:
        embedded.measure(
            given.work, kinds=given.kinds.split(","), seeds=given.seeds, judge_only=given.judge_only
        )


if __name__ == "__main__":
    main()
