import math
from typing import get_args

import numpy as np
import pytest

from detour.data.finding import Finding as DataFlaw
from detour.data.finding import Kind
from detour.specs import RunSpec
from detour.specs.sources import parse
from detour.verbs.doctor.run_rules import DATA_WHYS, RunFacts, examine_run

NOISE = np.random.default_rng(0).gamma(
    2.0, 0.06, 200
)  # the loss of single timesteps: mean 0.12, as wide as it is


def spec_of(**sections: object) -> RunSpec:
    return parse(RunSpec, {"data": {"source": "photos"}, **sections})


def found(**values: object) -> dict[str, str]:
    facts = {"where": "runs/x", "spec": spec_of(), "native_size_px": 512}
    return {one.rule: one.severity for one in examine_run(RunFacts(**{**facts, **values}))}


@pytest.mark.parametrize(
    ("rule", "fires", "silent"),
    [
        ("rate-diverged", {"state": "diverged"}, {"state": "finished"}),
        ("rate-diverged", {"losses": [0.1, math.nan]}, {"losses": [0.1, 0.1]}),
        ("rate-diverged", {"losses": [0.14, 0.19, 0.4, 0.8, *[1.0] * 36]}, {"losses": list(NOISE)}),
        ("rate-diverged", {"losses": [0.1] * 25 + [0.3] * 25}, {"losses": [0.1] * 24 + [0.3] * 25}),
        ("rate-diverged", {"losses": [0.1] * 25 + [0.3] * 25}, {"losses": [0.3] * 25 + [0.1] * 25}),
        ("rate-diverged", {"losses": [*NOISE, *(2 * NOISE)]}, {"losses": [*NOISE, *(1.2 * NOISE)]}),
        (
            "rate-diverged",  # 1.4 times as high on average, by one step in ten that scatters
            {"losses": [0.1] * 80 + [0.14] * 20},
            {"losses": [0.1] * 80 + ([0.05] * 9 + [0.95]) * 2},
        ),
        (
            "rate-diverged",
            {"losses": [1.0] * 10},
            {"losses": [1.0] * 10, "spec": spec_of(train={"loss": {"distance": "huber"}})},
        ),
        ("rate-diverged", {"validation": [0.2, 0.26]}, {"validation": [0.2, 0.25]}),
        ("schedule-unfit", {"schedule_fault": "the warm-up takes 9 steps and the run has 6"}, {}),
        ("log-damaged", {"log_problem": "metrics.jsonl: 1 line is damaged."}, {}),
        ("rate-diverged", {"losses": [1.7] * 10, "own_shift": 3.0}, {"losses": [1.0] * 10, "own_shift": 3.0}),
        (
            "flow-rate-high",
            {"highest_rate": 4e-5, "spec": spec_of(base={"name": "x"}, train={"optim": {"lr": 1e-4}})},
            {"highest_rate": None, "spec": spec_of(base={"name": "x"}, train={"optim": {"lr": 1e-4}})},
        ),
        (
            "flow-rate-high",
            {"highest_rate": 4e-5, "spec": spec_of(base={"name": "x"}, train={"optim": {"lr": 4.1e-5}})},
            {"highest_rate": 4e-5, "spec": spec_of(base={"name": "x"}, train={"optim": {"lr": 4e-5}})},
        ),
        (
            "shift-far",
            {"own_shift": 3.16, "spec": spec_of(train={"loss": {"shift": 1.0}})},
            {"own_shift": 3.16, "spec": spec_of(train={"loss": {"shift": 1.6}})},
        ),
        (
            "shift-far",
            {"own_shift": 1.0, "spec": spec_of(train={"loss": {"shift": 2.1}})},
            {"own_shift": 0.0, "spec": spec_of(train={"loss": {"shift": 2.1}})},
        ),
        ("run-not-finished", {"state": "died"}, {"state": "running"}),
        ("run-not-finished", {"state": "failed", "error": "disk full"}, {}),
        ("verdict-bad", {"verdict": "collapsed"}, {"verdict": "learned"}),
        ("verdict-bad", {"verdict": "copies"}, {"verdict": "inconclusive"}),
        ("validation-rises", {"validation": [0.3, 0.2, 0.23]}, {"validation": [0.3, 0.2, 0.215]}),
        (
            "validation-rises",
            {"validation": [0.3, 0.2, 0.23]},
            {"validation": [0.3, 0.2, 0.23], "spec": spec_of(validate={"ship": "lowest_loss"})},
        ),
        (
            "validation-rises",
            {"validation": [0.3, 0.2, 0.23]},
            {"validation": [0.3, 0.2, 0.23], "spec": spec_of(validate={"patience": 2})},
        ),
        (
            "rate-zero",
            {"spec": spec_of(train={"optim": {"lr": 0.0}})},
            {"spec": spec_of(train={"optim": {"lr": 1e-4}})},
        ),
        (
            "rate-unusual",
            {"spec": spec_of(base={"name": "sdxl"}, train={"optim": {"lr": 0.02}})},
            {"spec": spec_of(base={"name": "pocket"}, train={"optim": {"lr": 0.02}})},
        ),
        (
            "resolution-far",
            {"spec": spec_of(data={"source": "photos", "resolution": 1024})},
            {"spec": spec_of(data={"source": "photos", "resolution": 768})},
        ),
        (
            "fp32-training-on-gpu",
            {"spec": spec_of(base={"device": "cuda", "dtype": "fp32"})},
            {"spec": spec_of(base={"device": "cpu", "dtype": "fp32"})},
        ),
        (
            "alpha-high",
            {"spec": spec_of(adapter={"rank": 4, "alpha": 17})},
            {"spec": spec_of(adapter={"rank": 4, "alpha": 16})},
        ),
        (
            "alpha-high",
            {"spec": spec_of(adapter={"rank": 16, "alpha": 20, "rslora": True})},
            {"spec": spec_of(adapter={"rank": 16, "alpha": 20})},
        ),
        ("memory-short", {"peak_bytes": 9, "free_bytes": 8}, {"peak_bytes": 9, "free_bytes": 0}),
        ("data-gone", {"flaws": None}, {"flaws": ()}),
    ],
)  # fmt: skip
def test_a_rule_fires_and_is_silent(rule: str, fires: dict[str, object], silent: dict[str, object]) -> None:
    assert rule in found(**fires)
    assert rule not in found(**silent)


def test_a_sound_run_has_nothing_wrong_with_it() -> None:
    assert found(losses=list(NOISE), validation=[0.21, 0.15, 0.148], verdict="learned") == {}


def test_flaws_of_the_data_come_with_a_reason() -> None:
    flaw = DataFlaw(
        severity="error", kind="no caption", cause="2 have none", fix="write some", pictures=("a.png",)
    )
    [finding] = examine_run(RunFacts(where="x", spec=spec_of(), native_size_px=512, flaws=(flaw,)))
    assert (finding.severity, finding.where, finding.fix) == ("error", "photos", "Write some.")
    assert finding.what == "2 have none (a.png)"
    assert finding.cause == DATA_WHYS["no caption"]


def test_every_kind_of_flaw_has_a_reason() -> None:
    assert set(get_args(Kind)) == set(DATA_WHYS)
