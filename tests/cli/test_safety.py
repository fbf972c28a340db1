"""``detour safety``: what a policy does is shown, and wrong ones end with one line and their exit code."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.safety.policies import RULES, TERMS, TEXTS, write_policy

from detour.cli.safety import command
from detour.errors import ConfigError


def test_show_names_every_layer_and_the_version(tmp_path: Path) -> None:
    path = write_policy(
        tmp_path, terms=TERMS, rewrite=RULES, texts=TEXTS, frames={}, latent={"concept": "crown"},
        order=["terms", "frames", "texts"],
    )  # fmt: skip
    shown = CliRunner().invoke(command, ["show", str(path)])
    assert shown.exit_code == 0
    words = shown.output.split()
    places = [words.index(name) for name in ("terms", "rewrite", "latent", "frames", "texts")]
    assert "test@1:" in shown.output
    assert places[:4] == sorted(places[:4])
    assert "held ones: 7 days, released by one person" in shown.output
    told = json.loads(CliRunner().invoke(command, ["show", str(path), "--json"]).output)
    assert told["policy"]["latent"]["strength"] == "medium"
    assert told["version"] in shown.output


def test_an_unknown_key_is_told_with_the_nearest_one(tmp_path: Path) -> None:
    path = write_policy(tmp_path, texts={**TEXTS, "holds": 0.1})
    shown = CliRunner().invoke(command, ["show", str(path)])
    assert isinstance(shown.exception, ConfigError)
    assert "Did you mean 'texts.hold'?" in str(shown.exception)


def test_train_writes_a_classifier(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="an extra (detour-lora[safety])")
    rows = [f"a crown of kind {index},1\na house of kind {index},0" for index in range(30)]
    (tmp_path / "labelled.csv").write_text("text,unwanted\n" + "\n".join(rows))
    shown = CliRunner().invoke(
        command, ["train", str(tmp_path / "labelled.csv"), "--out", str(tmp_path / "made"), "--json"]
    )
    assert json.loads(shown.output)["unwanted"] == 30
    assert sorted(one.name for one in (tmp_path / "made").iterdir()) == ["classifier.json", "classifier.npz"]
