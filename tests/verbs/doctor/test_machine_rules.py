import tomllib
from pathlib import Path

import pytest

from detour.verbs.doctor.machine import gather_machine, locked_versions, needed_versions
from detour.verbs.doctor.machine_rules import FLOORS, MachineFacts, examine_machine, version_of

ROOT = Path(__file__).parents[3]
GIB = 1 << 30


def rules(**values: object) -> set[str]:
    facts = {
        "installed": {},
        "disk_free_bytes": 99 * GIB,
        "memory_free_bytes": 9 * GIB,
        "threads": 2,
        "cores": 2,
    }
    return {finding.rule for finding in examine_machine(MachineFacts(**{**facts, **values}))}


@pytest.mark.parametrize(
    ("rule", "fires", "silent"),
    [
        ("version-with-holes", {"installed": {"torch": "2.9.1"}}, {"installed": {"torch": "2.10.0+cpu"}}),
        ("version-with-holes", {"installed": {"transformers": "5.4"}}, {"installed": {"transformers": "5.23.0"}}),
        ("version-with-holes", {"installed": {"starlette": "1.5"}}, {"installed": {"starlette": None}}),
        (
            "package-missing",
            {"installed": {"peft": None}, "needed": {"peft": "0.21"}},
            {"installed": {"starlette": None}, "needed": {"peft": "0.21"}},
        ),
        (
            "version-too-old",
            {"installed": {"peft": "0.20"}, "needed": {"peft": "0.21"}},
            {"installed": {"peft": "0.21.0"}, "needed": {"peft": "0.21"}},
        ),
        (
            "version-off-the-lock",
            {"installed": {"peft": "0.22"}, "locked": {"peft": "0.21.2"}},
            {"installed": {"peft": "0.21.2+local"}, "locked": {"peft": "0.21.2"}},
        ),
        ("torchvision-mismatched", {"torchvision_breaks": True}, {}),
        ("disk-short", {"disk_free_bytes": 4 * GIB}, {"disk_free_bytes": 5 * GIB}),
        ("ram-short", {"memory_free_bytes": 1 * GIB}, {"memory_free_bytes": 2 * GIB}),
        ("ram-short", {"memory_free_bytes": 1}, {"memory_free_bytes": 0}),
        ("threads-over-cores", {"threads": 3}, {"threads": 2}),
        ("one-thread", {"threads": 1}, {"threads": 1, "device": "cuda"}),
        ("one-thread", {"threads": 1}, {"threads": 1, "cores": 1}),
    ],
)  # fmt: skip
def test_a_rule_fires_and_is_silent(rule: str, fires: dict[str, object], silent: dict[str, object]) -> None:
    assert rule in rules(**fires)
    assert rule not in rules(**silent)


def test_versions_are_compared_as_numbers() -> None:
    assert version_of("2.13.0+cpu") == version_of("2.13") == (2, 13)
    assert version_of("2.9") < version_of("2.10rc1") == (2, 10)
    assert version_of("unknown") == ()


def test_what_the_project_asks_for_is_not_below_a_known_hole() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = dict(line.split(">=") for line in project["dependencies"])
    for name, floor in FLOORS.items():
        if name in asked:
            assert version_of(asked[name]) >= version_of(floor), name
    locked = locked_versions(ROOT / "requirements.lock")
    assert {name for name in asked if version_of(locked[name.lower()]) < version_of(asked[name])} == set()


def test_this_machine_can_be_looked_at() -> None:
    machine = gather_machine()
    assert machine.installed["torch"]
    assert needed_versions()["torch"]
    assert "datasets" not in needed_versions()  # of an extra
    assert machine.ram_free_bytes > 0
    assert machine.facts().threads == machine.threads
