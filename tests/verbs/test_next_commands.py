"""The command after a verdict repeats the run that was judged, with one thing changed."""

import itertools
import shlex
from pathlib import Path
from typing import get_args

import pytest
from click.testing import CliRunner

from detour.cli.main import cli
from detour.evaluation.next_steps import Doubts, VerdictWord, next_step
from detour.specs import RunSpec, load_run_spec, save_run_spec
from detour.verbs.judge.finished_run import SETTINGS, FinishedRun
from detour.verbs.judge.judging import facts_for_commands

FLAGS = {
    "name": "fog", "base.name": "models/base", "data.source": "photos", "adapter.rank": 3, "adapter.targets": "attn",
    "data.trigger": "sks", "train.steps": 40, "train.batch": 2, "train.optim.lr": 3e-3,
    "prior.class_prompts": ["a robot"],
}  # fmt: skip


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FinishedRun:
    """A run on a base that is no default, with no setting as it is by default."""
    for name in ("photos", "models/base", "runs/fog"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "fog"
    save_run_spec(folder / SETTINGS, load_run_spec(flags=FLAGS))
    return FinishedRun(
        folder=folder,
        spec=load_run_spec(config=folder / SETTINGS),
        adapter_file=folder / "fog.safetensors",
        state={},
        gradients=None,
        metrics=[],
    )


@pytest.mark.parametrize("verdict", get_args(VerdictWord))
def test_a_command_to_train_again_has_every_setting_of_the_run_but_the_one_it_names(
    run: FinishedRun, verdict: VerdictWord, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = facts_for_commands(run, ["a sks robot in fog"])
    program, command, *words = shlex.split(
        next_step(verdict, facts, Doubts(data=False, judge=False, prompts=9))
    )
    assert program == "detour"
    if command != "train":
        given = dict(itertools.pairwise(words))
        assert given.get("--base") == ("models/base" if command == "generate" else None)
        return
    asked: list[RunSpec] = []

    def remember(spec: RunSpec, **_: object) -> None:
        asked.append(spec)
        raise SystemExit

    monkeypatch.setattr("detour.verbs.train.run.train_adapter", remember)
    CliRunner().invoke(cli, [command, *words], catch_exceptions=False)
    before, [after] = run.spec.model_dump(mode="json"), asked
    changed = {
        f"{part}.{key}"
        for part, values in after.model_dump(mode="json").items()
        for key, value in (values.items() if isinstance(values, dict) else [("", values)])
        if (before[part][key] if key else before[part]) != value
    }
    assert (
        changed
        == {
            "no_effect": {"train.optim"},
            "collapsed": {"train.optim"},
            "copies": {"train.steps"},
            "forgot_prompts": {"train.steps"},
            "overfit": {"validate_.ship"},
            "class_drifted": {"train.steps"},  # it has class pictures already
        }[verdict]
    )
