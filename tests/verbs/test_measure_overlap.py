from pathlib import Path

import pytest
from click.testing import CliRunner

from detour.adapter_files.writing import write_adapter
from detour.adapters.targets import adaptable_layers
from detour.bases.base import open_base
from detour.cli.main import cli
from detour.errors import AdapterError
from detour.verbs.adapter_tools.measured_overlap import AGAINST, TOGETHER, measure_overlap, measured_verdict
from tests.adapter_files.examples import SD1, adapter_for, small_adapter

PROMPT = ("a house",)


@pytest.fixture(scope="module")
def file(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    layers = adaptable_layers(open_base(str(tiny_base)).meta_network())
    folder = tmp_path_factory.mktemp("loras")
    return str(write_adapter(folder / "style.safetensors", adapter_for(layers, seed=1), family=SD1))


def test_an_adapter_pushes_with_itself_and_against_its_opposite(tiny_base: Path, file: str) -> None:
    loras = [f"{file}:0.1", f"{file}:0.1", f"{file}:-0.1"]
    same, undone, _ = measure_overlap(loras, base=str(tiny_base), prompts=PROMPT)
    assert same.agreement == pytest.approx(1.0)
    assert same.verdict == "together"
    assert same.louder > 1.5
    assert f"at {0.1 / same.louder:.2g}" in same.suggestion
    assert undone.agreement < -0.5
    assert undone.kept_first == pytest.approx(0.0, abs=1e-3)
    assert undone.verdict == "against"
    assert "choose one" in undone.suggestion


def test_an_adapter_for_another_base_is_refused(tiny_base: Path, file: str, tmp_path: Path) -> None:
    other = write_adapter(tmp_path / "o.safetensors", small_adapter(width=768), family=SD1)
    with pytest.raises(AdapterError):
        measure_overlap([file, str(other)], base=str(tiny_base), prompts=PROMPT)


def test_verdicts_follow_the_stated_thresholds() -> None:
    cases = {TOGETHER: "together", TOGETHER - 0.01: "apart", AGAINST: "against", AGAINST + 0.01: "apart"}
    assert {value: measured_verdict(value) for value in cases} == cases


def test_the_command_measures_where_a_base_is_named(tiny_base: Path, file: str) -> None:
    result = CliRunner().invoke(cli, ["compose", file, file, "--base", str(tiny_base)])
    assert result.exit_code == 0, result.output
    assert "measured on the base: TOGETHER" in result.output
