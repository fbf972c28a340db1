"""What people read on a terminal when a run has ended."""

from pathlib import Path

import pytest
from tests.evaluation.figures import learned_proof

from detour.cli.results import print_table, show_runs, show_train_result, show_verdict, table_of
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


@pytest.mark.parametrize("seed", range(20))
def test_no_word_of_a_table_is_cut_at_any_width(
    seed: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import random

    dice = random.Random(seed)
    words = [
        "--set",
        "train.gradient_checkpointing=true",
        "a",
        "proof",
        "12.5",
        "GiB",
        "memory",
        "of",
        "cards",
    ]
    heads = [(f"head {i}", dice.choice(["left", "right"])) for i in range(dice.randint(2, 5))]
    rows = [
        [" ".join(dice.choices(words, k=dice.randint(1, 7))) if j else f"row {i}" for j in range(len(heads))]
        for i in range(4)
    ]
    width = dice.choice([80, 100, 140])
    monkeypatch.setenv("COLUMNS", str(width))
    print_table(table_of("", heads, rows))
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= max(width, 80)
    assert "…" not in shown
    for word in {word for row in rows for cell in row for word in cell.split()}:
        assert word in shown
