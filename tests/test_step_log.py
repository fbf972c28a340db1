"""The log of steps: whatever stands in the file, the good lines come back and the bad ones are named."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detour.step_log import read_step_log

GOOD = [{"step": step, "loss": 0.5 / step, "lr": 1e-4} for step in range(1, 5)]


def written(path: Path, lines: list[bytes]) -> Path:
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


@pytest.mark.parametrize(
    "bad",
    [
        b'{"step": 3, "loss": \xff}',
        b'{"step": 3, "loss": "0.5"}',
        b'{"step": "3", "loss": 0.5}',
        b'{"step": true}',
        b'{"step": 3, "seconds": null}',
        b'{"step": 3, "loss": ' + b"9" * 400 + b"}",
        b"[3]",
        b'{"step": 3, "lo',
    ],
)
def test_a_damaged_line_is_named_and_the_others_are_kept(tmp_path: Path, bad: bytes) -> None:
    lines = [json.dumps(line).encode() for line in GOOD]
    log = read_step_log(written(tmp_path / "metrics.jsonl", [*lines[:2], bad, *lines[2:]]))
    assert list(log.lines) == GOOD
    assert list(log.damaged) == [3]
    assert "metrics.jsonl: 1 line is damaged and not counted (line 3)" in log.problem(
        tmp_path / "metrics.jsonl"
    )


def test_half_a_last_line_is_what_a_kill_leaves_and_no_damage(tmp_path: Path) -> None:
    path = written(tmp_path / "metrics.jsonl", [json.dumps(line).encode() for line in GOOD])
    path.write_bytes(path.read_bytes() + b'{"step": 5, "lo')
    log = read_step_log(path)
    assert (list(log.lines), list(log.damaged), log.problem(path)) == (GOOD, [], "")


def test_no_log_is_not_an_empty_one(tmp_path: Path) -> None:
    assert not read_step_log(tmp_path / "metrics.jsonl").exists
    (tmp_path / "metrics.jsonl").touch()
    assert read_step_log(tmp_path / "metrics.jsonl").exists


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(
        st.binary(max_size=30) | st.fixed_dictionaries({"step": JSON}, optional={"loss": JSON}), max_size=5
    )
)
def test_whatever_stands_in_it_is_read_without_an_error(
    tmp_path_factory: pytest.TempPathFactory, lines: list[Any]
) -> None:
    path = tmp_path_factory.mktemp("log") / "metrics.jsonl"
    texts = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    log = read_step_log(written(path, texts))
    assert all(type(line["step"]) is int for line in log.lines)
    assert all(isinstance(line.get("loss", 0.0), int | float) for line in log.lines)
