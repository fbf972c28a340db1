"""``detour evaluate``: what is shown, and the exit code of requirements."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from detour.cli.main import cli
from detour.errors import ConfigError, RequirementNotMet
from detour.evaluation.compared import Compared
from detour.evaluation.evaluation import Answer, Evaluation, Judged
from detour.evaluation.marks import MarkFigures
from detour.evaluation.prompts import HeldOutPrompt
from detour.evaluation.proof import PixelFigures
from detour.evaluation.requirements import FIGURES, answer, parse_requirement
from detour.specs.evaluation import EvaluationSpec
from detour.verbs.judge import evaluation_run as recipe
from detour.verbs.judge.evaluation_run import EvaluationResult

BARE = Evaluation(
    judged=Judged(adapter="x", sha256="0" * 64, weight=1.0, base="tiny", judge=None),
    prompts=(HeldOutPrompt(prompt="a cup", plain="a cup", source="given"),),
    prompts_from="1 prompts that training never saw: 1 given by the user.",
    unrelated=(),
    seeds=1,
    controls={},
    controls_left_out={"shuffled": "Control 'shuffled' was not trained: left out."},
    pixels=PixelFigures(mean_abs_diff=3.5, noise_floor=0.0, pictures=1),
    fidelity=None,
    prompt_keeping=None,
    drift=None,
    diversity=None,
    copies=None,
    recited=None,
    reproduced=None,
    marks=MarkFigures(pictures=1, mark=None, in_originals=False, framed=Compared(adapter=0, base=0)),
    checkpoints=None,
    verdict="inconclusive",
    reasons=("It moved.",),
    notes=("Nobody scored the pictures.",),
    requirements=(),
    pictures={},
)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[EvaluationSpec]:
    """Answers requirements from the bare evaluation; what it was asked for is in the list."""
    specs: list[EvaluationSpec] = []

    def evaluate(_: Path, spec: EvaluationSpec, **__: object) -> EvaluationResult:
        specs.append(spec)
        answers = tuple(answer(parse_requirement(text), BARE) for text in spec.require)
        evaluation = BARE.model_copy(update={"requirements": answers})
        return EvaluationResult(
            folder=tmp_path,
            evaluation=evaluation,
            sheet=tmp_path / "sheet.png",
            report=tmp_path / "report.html",
        )

    monkeypatch.setattr(recipe, "evaluate_adapter", evaluate)
    return specs


def test_requirements_that_are_not_met_end_in_their_own_error_with_a_line_each(
    asked: list[EvaluationSpec], tmp_path: Path
) -> None:
    flags = ["--require", "pixels>1", "--require", "style>=0.5", "--require", "verdict=learned"]
    result = CliRunner().invoke(cli, ["evaluate", str(tmp_path), *flags])
    assert isinstance(result.exception, RequirementNotMet)
    assert result.exception.exit_code == 14
    assert str(result.exception).splitlines() == [
        "style>=0.5: not met, it was not measured",
        "verdict=learned: not met, it is inconclusive",
    ]
    assert "pixels>1: met, it is 3.5" in result.output


def test_prompts_come_from_options_and_from_the_lines_of_a_file(
    asked: list[EvaluationSpec], tmp_path: Path
) -> None:
    (tmp_path / "prompts.txt").write_text("a tree\r\n\n  a bird \n", encoding="utf-8-sig")
    flags = ["--prompt", "a cup", "--prompts", str(tmp_path / "prompts.txt"), "--controls", "base"]
    result = CliRunner().invoke(cli, ["evaluate", str(tmp_path), *flags])
    assert result.exit_code == 0, result.output
    assert asked[0].prompts == ("a cup", "a tree", "a bird")
    assert asked[0].controls == "base"
    assert "Nobody scored the pictures." in result.output


def test_a_file_of_prompts_that_is_no_text_is_named(asked: list[EvaluationSpec], tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_bytes("ein Käse".encode("latin-1"))
    result = CliRunner().invoke(cli, ["evaluate", str(tmp_path), "--prompts", str(tmp_path / "prompts.txt")])
    assert isinstance(result.exception, ConfigError)
    assert "prompts.txt: not UTF-8 text (byte 5)" in str(result.exception)


def test_json_is_one_document_that_reads_back(asked: list[EvaluationSpec], tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["evaluate", str(tmp_path), "--json", "--require", "pixels>1"])
    read = Evaluation.model_validate(json.loads(result.output))
    assert read.requirements == (Answer(requirement="pixels>1", found=3.5, met=True),)


def test_every_figure_that_can_be_required_is_listed_by_the_command_and_in_the_docs() -> None:
    shown = CliRunner().invoke(cli, ["evaluate", "--figures"]).output
    page = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    for figure in FIGURES:
        assert figure.name in shown
        assert f"| `{figure.name}` | {figure.text} |" in page
