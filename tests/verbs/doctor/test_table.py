from collections import Counter
from pathlib import Path

import pytest

from detour.verbs.doctor.finding import Finding, gravest_first
from detour.verbs.doctor.table import RULES, TITLES, with_table


def test_the_page_lists_the_rules_as_they_are() -> None:
    page = (Path(__file__).parents[3] / "docs" / "doctor.md").read_text()
    assert page == with_table(page), "docs/doctor.md is stale: run `make docs`"


def test_every_rule_has_a_name_of_its_own_a_cause_and_a_fix() -> None:
    assert Counter(rule.name for rule in RULES).most_common(1)[0][1] == 1
    for rule in RULES:
        assert rule.subject in TITLES
        assert rule.cause.endswith("."), rule.name
        assert rule.fix.endswith((".", "….")), rule.name


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_every_rule_has_a_test_where_it_fires(rule: object) -> None:
    tests = "".join(path.read_text() for path in Path(__file__).parent.parent.rglob("test_*.py"))
    assert f'"{rule.name}"' in tests  # type: ignore[attr-defined]


def test_the_gravest_come_first_and_each_once() -> None:
    def one(rule: str, severity: str) -> Finding:
        return Finding(rule=rule, severity=severity, what="x", where="x", cause="x", fix="x")

    found = [one("a", "note"), one("b", "error"), one("c", "warning"), one("b", "error"), one("d", "error")]
    assert [finding.rule for finding in gravest_first(found)] == ["b", "d", "c", "a"]
