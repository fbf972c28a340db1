"""With which code a command ends: whoever starts it from a script reads nothing else."""

import io
import sys
from typing import Any

import click
import pytest

from detour import errors
from detour.cli import main
from detour.verbs.doctor.examination import Examination
from detour.verbs.doctor.finding import Finding
from detour.verbs.doctor.machine import gather_machine

CODES = {
    "DetourError": 1,
    "ConfigError": 2,
    "DataError": 3,
    "BaseError": 4,
    "AdapterError": 5,
    "ShapeMismatch": 5,
    "TrainingDiverged": 6,
    "GradientProofFailed": 7,
    "ProofFailed": 8,
    "RunError": 9,
    "StorageError": 10,
    "MissingExtra": 11,
    "ProcessLost": 12,
    "HubError": 13,
    "RequirementNotMet": 14,
    "TaskOpen": 16,
    "Unwell": 17,
    "Withheld": 19,
    "Interrupted": 130,
    "Terminated": 143,
}
"""Scripts rely on these: an error may come and bring a number of its own, and none may move."""


def code_of(
    monkeypatch: pytest.MonkeyPatch, *, raises: BaseException | None = None, returns: Any = None
) -> Any:
    """The code with which the program ends when its command does that."""

    @click.command("x")
    def command() -> Any:
        if raises is not None:
            raise raises
        return returns

    monkeypatch.setattr(main.LazyGroup, "get_command", lambda self, ctx, name: command)
    monkeypatch.setattr(sys, "stderr", io.StringIO())  # a broken pipe closes it
    with pytest.raises(SystemExit) as stop:
        main.run(["demo"])
    return stop.value.code


@pytest.mark.parametrize(("name", "code"), CODES.items())
def test_every_expected_error_has_the_code_that_scripts_know(
    name: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert code_of(monkeypatch, raises=getattr(errors, name)("words")) == code


def test_no_error_is_left_out_of_the_table() -> None:
    found = {name for name, kind in vars(errors).items() if isinstance(kind, type)}
    assert found >= set(CODES)
    taken = {getattr(errors, name).exit_code for name in found - set(CODES)}
    assert not taken & (set(CODES.values()) - {1})


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), click.Abort()])
def test_ctrl_c_ends_as_shells_expect_it(stop: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    assert code_of(monkeypatch, raises=stop) == 130


def test_a_finished_command_ends_with_zero_and_one_that_names_a_code_with_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert code_of(monkeypatch) == 0
    assert code_of(monkeypatch, returns="a result is no code") == 0
    assert code_of(monkeypatch, returns=12) == 12  # of the processes that a run was shared by
    assert code_of(monkeypatch, raises=click.exceptions.Exit(3)) == 3
    assert code_of(monkeypatch, raises=click.UsageError("no such option")) == 2


@pytest.mark.parametrize(
    ("severities", "code"), [((), 0), (("note", "warning"), 0), (("warning", "error"), 17)]
)
@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_the_doctor_fails_when_something_serious_was_found_and_only_then(
    severities: tuple[Any, ...], code: int, flags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = dict.fromkeys((field.alias or name for name, field in Finding.model_fields.items()), "w")
    findings = tuple(Finding(**{**given, "severity": severity}) for severity in severities)
    found = Examination(subject="", base=None, machine=gather_machine(), findings=findings)
    monkeypatch.setattr("detour.verbs.doctor.examination.examine", lambda *args, **kwargs: found)
    with pytest.raises(SystemExit) as stop:
        main.run(["doctor", *flags])
    assert stop.value.code == code
