"""What ``/metrics`` counts of drawing, against what was asked; and that ``detour cost`` reads it."""

import pytest

from detour.verbs.cost.measured_work import parse_metrics, work_of
from detour.verbs.cost.unit_costs import costs_of
from tests.serving.conftest import Served, eventually


def test_rows_padding_and_work_are_those_of_the_jobs(served: Served) -> None:
    before = parse_metrics(served.http.get("/metrics").text, where="before")
    body = {"prompts": ["a red house", "a blue house", "a cat"], "steps": 4, "seed": 1, "guidance_scale": 4.0}
    with served.service._engine.paused():  # type: ignore[union-attr]
        made = served.job({**body, "adapters": [{"name": "style"}]})
        eventually(lambda: served.service._engine._scheduler.num_waiting == 3)  # type: ignore[union-attr]
    served.done(made["id"])
    work = work_of(parse_metrics(served.http.get("/metrics").text, where="after"), before)
    # Three guided pictures: six rows of eight, in four passes, all with one adapter.
    assert work.units["denoiser"] == 4 * 6
    assert work.units["padding"] == 4 * 2
    assert {key: one.num for key, one in work.passes.items()} == {(8, "1"): 4}
    assert work.units["decode"] == 3
    assert work.units["text"] == 4  # the unconditional one is shared
    assert work.units["adapters"] <= 1  # prepared once, and not again where an earlier job has had it
    assert work.units["write"] == 3
    assert work.units["other"] == 12
    assert work.finished["done"] == work.accepted == 3
    assert work.accepted_work == work.drawn_work == 24
    assert sum(work.seconds.values()) > 0
    assert work.seconds["padding"] == pytest.approx(work.seconds["denoiser"] / 3)
    assert 0 < work.busy_s <= sum(work.seconds.values()) * 1.001
    assert costs_of(work).waste == 1
    spent = costs_of(work).seconds_of_picture(steps=4, rows=2, area=1.0)
    assert 3 * spent == pytest.approx(sum(work.seconds.values()), rel=1e-6)


def test_rows_of_a_picture_under_way_are_not_lost(served: Served) -> None:
    before = parse_metrics(served.http.get("/metrics").text, where="before")
    served.done(served.job({"prompts": ["a cat"], "steps": 2, "seed": 1})["id"])
    opened = served.job({"prompts": ["a red house"], "steps": 150, "seed": 1})
    while served.http.get(f"/v1/jobs/{opened['id']}").json()["pictures"][0]["step"] in (None, 0):
        pass
    with served.service._engine.paused():  # type: ignore[union-attr]
        work = work_of(parse_metrics(served.http.get("/metrics").text, where="now"), before)
    served.http.delete(f"/v1/jobs/{opened['id']}")
    assert work.under_way >= 2
    assert work.drawn_work == work.accepted_work == 4


def test_a_cancelled_job_costs_rows_that_no_accepted_picture_has(served: Served) -> None:
    before = parse_metrics(served.http.get("/metrics").text, where="before")
    lost = served.job({"prompts": ["a red house"], "steps": 150, "seed": 1})
    while served.http.get(f"/v1/jobs/{lost['id']}").json()["pictures"][0]["step"] in (None, 0):
        pass
    served.http.delete(f"/v1/jobs/{lost['id']}")
    served.done(served.job({"prompts": ["a cat"], "steps": 2, "seed": 1})["id"])
    work = work_of(parse_metrics(served.http.get("/metrics").text, where="after"), before)
    assert work.accepted_work == 4
    assert work.drawn_work >= 6
    assert costs_of(work).waste == work.drawn_work / 4
