"""What people read on a terminal when a run has ended."""

from pathlib import Path

import pytest
from tests.evaluation.figures import learned_proof

from detour.cli.results import show_runs, show_train_result, show_verdict
from detour.evaluation.verdict import BLACK, HEADLINES
from detour.verbs.train.run import TrainResult
from detour.verbs.train.run_list import RunSummary


def result_of(product: Path) -> TrainResult:
    return TrainResult(
        name="ink",
        run_folder=product.parent,
        adapter_file=product,
        steps=3,
        seconds=2.0,
        final_loss=0.1,
        val_loss=None,
        best_step=None,
        proof=None,
        notes=("told when it was found",),
    )


def test_a_whole_base_is_shown_as_one_with_all_its_bytes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ink-full" / "unet").mkdir(parents=True)
    (tmp_path / "ink-full" / "unet" / "weights").write_bytes(bytes(3_000_000))
    (tmp_path / "ink-full" / "index").write_bytes(bytes(500_000))
    show_train_result(result_of(tmp_path / "ink-full"), as_json=False)
    assert f"base: {tmp_path / 'ink-full'} (3.5 MB)" in capsys.readouterr().out


def test_notes_are_not_said_a_second_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "ink.safetensors").write_bytes(bytes(2_000))
    show_train_result(result_of(tmp_path / "ink.safetensors"), as_json=False)
    shown = capsys.readouterr().out
    assert f"adapter: {tmp_path / 'ink.safetensors'} (2.0 kB)" in shown
    assert "told when" not in shown


def test_the_terminal_says_the_headline_of_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    black = learned_proof().model_copy(update={"verdict": "collapsed", "headline": BLACK})
    show_verdict(black, ())
    assert capsys.readouterr().out == f"COLLAPSED: {BLACK}\n"
    show_verdict(learned_proof(), ())  # of a version that kept no headline
    assert capsys.readouterr().out == f"LEARNED: {HEADLINES['learned']}\n"


def test_why_a_run_failed_is_one_line_below_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    why = "train.optim.name 'prodigy' finds one rate for everything. " * 3
    run = RunSummary(
        name="ink",
        folder=tmp_path / "ink",
        state="failed",
        step=0,
        steps=4,
        base="pocket-v1",
        goal="style",
        method="lora",
        verdict=None,
        final_loss=None,
        val_loss=None,
        seconds=None,
        error=why,
    )
    show_runs([run], folder=tmp_path, as_json=False)
    assert f"ink: {why}" in capsys.readouterr().out.splitlines()
