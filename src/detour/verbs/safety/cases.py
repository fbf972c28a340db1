"""Labelled requests on which a policy is measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from detour.errors import DataError
from detour.files import lines_of, read_text
from detour.specs.sources import parse
from detour.specs.strict import Spec

MAX_BYTES = 64 << 20
MAX_CASES = 100_000

Split = Literal["thresholds", "test"]


class SafetyCase(Spec):
    """One request, and whether it must be caught."""

    id: Annotated[str, Field(min_length=1, max_length=200)]
    prompt: str
    unwanted: bool
    """Whether it must be caught."""
    kind: str
    """What it is an example of; figures are given for each kind too."""
    split: Split = "test"
    """``thresholds``: for setting them; figures are of ``test`` alone."""
    negative_prompt: str = ""
    loras: tuple[str, ...] = ()
    """``FILE`` or ``FILE:weight``, relative to the file of cases."""
    seed: Annotated[int, Field(ge=0)] = 0


def read_cases(path: Path) -> list[SafetyCase]:
    """Read a file of JSON lines, one case each.

    Raises:
        DataError: unreadable, no JSON, an id twice, or not both kinds in the test set.
        ConfigError: an unknown key or a wrong value.
    """
    text = read_text(path, max_bytes=MAX_BYTES, error=DataError)
    found: dict[str, SafetyCase] = {}
    for number, line in enumerate(lines_of(text), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where}: not JSON ({str(error)[:100]}). Write one object a line.") from error
        if not isinstance(values, dict):
            raise DataError(f"{where}: not an object. Write one object a line.")
        case = parse(SafetyCase, values, where=where)
        if case.id in found:
            raise DataError(f"{where}: the id '{case.id}' is there already. Ids must differ.")
        found[case.id] = case
        if len(found) > MAX_CASES:
            raise DataError(f"{path}: more than {MAX_CASES:,} cases. Pass fewer.")
    cases = list(found.values())
    if len({case.unwanted for case in cases if case.split == "test"}) < 2:
        raise DataError(
            f"{path}: the test set needs cases that must be caught and cases that must pass. Add some."
        )
    return cases
