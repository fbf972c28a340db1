"""What counts as a fault under overload, and that the pool of the long load is the same in every run."""

from typing import Any

import pytest
from benchmarks.serve_correctness import NUM_REQUESTS, pool_of
from benchmarks.serve_load import Outcome
from benchmarks.serve_overload import QUEUE_S, SLACK, judged


def outcome(**values: Any) -> Outcome:
    found = Outcome(
        accepted={"a": 0.0}, finished={"a": 5.0}, states={"done": 1}, statuses={202: 1, 429: 9}, seconds=10.0
    )
    for name, value in values.items():
        setattr(found, name, value)
    return found


def test_a_server_that_refuses_the_rest_and_keeps_its_memory_has_no_problem() -> None:
    assert judged(outcome(), [100, 101, 100, 101], 10)["problems"] == []


@pytest.mark.parametrize(
    ("values", "memory", "says"),
    [
        ({"statuses": {202: 1, 429: 8, 500: 1}}, [1, 1], "1 answers 500"),
        ({"states": {"failed": 1}}, [1, 1], "of 1 accepted jobs"),
        ({"finished": {"a": SLACK * QUEUE_S + 1}}, [1, 1], "p95"),
        ({}, [100, 100, 100, 120], "memory grew by 1.20"),
        ({"statuses": {202: 1}}, [1, 1], "not overloaded"),
    ],
)
def test_each_fault_is_named(values: dict[str, Any], memory: list[int], says: str) -> None:
    (problem,) = judged(outcome(**values), memory, 10)["problems"]
    assert says in problem


def test_the_pool_is_the_same_in_every_run_and_no_two_requests_are_equal() -> None:
    names = [f"a{index}" for index in range(32)]
    pool = pool_of(names, steps=2)
    assert pool == pool_of(names, steps=2)
    assert len({str(body) for body in pool}) == NUM_REQUESTS
    assert {len(body["adapters"]) for body in pool} == {0, 1, 2}
