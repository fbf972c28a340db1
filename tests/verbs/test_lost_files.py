"""A run whose own files are lost: what is still known is used, what is not is said, and nothing is made up."""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from detour.errors import Interrupted, RunError
from detour.specs import load_run_spec, to_toml
from detour.training.run_folder import HeldFolder
from detour.verbs.judge.finished_run import is_run_folder, read_finished_run, validation_of
from detour.verbs.progress import Progress
from detour.verbs.train import run as recipe
from detour.verbs.train.run import train_adapter
from tests.verbs.photos import make_photos, quick_spec


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_photos(tmp_path_factory.mktemp("data") / "photos")


@pytest.fixture(scope="module")
def straight(tiny_base: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a quick run without a proof; read-only by agreement."""
    return train_adapter(
        quick_spec(tiny_base, photos), runs=tmp_path_factory.mktemp("runs"), prove=False
    ).run_folder


def at_step(step: int, act: Callable[[], object]) -> Callable[[Progress], None]:
    def progress(report: Progress) -> None:
        if report.stage == "training" and report.done == step:
            act()

    return progress


def interrupted(base: Path, photos: Path, runs: Path) -> Path:
    """Folder of a quick run that was stopped after step 5."""
    stop = at_step(5, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(Interrupted):
        train_adapter(quick_spec(base, photos), runs=runs, progress=stop)
    return runs / "quick"


def test_a_lost_log_leaves_the_losses_that_the_verdict_stands_on(straight: Path, tmp_path: Path) -> None:
    whole = read_finished_run(straight)
    assert len(validation_of(whole)) == 3
    assert whole.problems == ()
    folder = shutil.copytree(straight, tmp_path / "quick")
    (folder / "metrics.jsonl").unlink()
    lost = read_finished_run(folder)
    assert validation_of(lost) == validation_of(whole)
    assert not lost.validation_lost
    assert "metrics.jsonl is gone" in lost.problems[0]
    assert "read from run.json" in lost.problems[0]


def test_a_damaged_line_is_said_and_its_loss_comes_from_elsewhere(straight: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(straight, tmp_path / "quick")
    log = folder / "metrics.jsonl"
    lines = log.read_bytes().splitlines()
    place = next(i for i, line in enumerate(lines) if b"val_loss" in line)
    lines[place] = b'{"step": 0, "val_loss": \xff}'
    log.write_bytes(b"\n".join(lines) + b"\n")
    damaged = read_finished_run(folder)
    assert validation_of(damaged) == validation_of(read_finished_run(straight))
    assert f"1 line is damaged and not counted (line {place + 1})" in damaged.problems[0]


def test_a_run_whose_schedule_missed_it_says_so_to_its_verdict(straight: Path, tmp_path: Path) -> None:
    """Today such a run is refused; folders of before have one."""
    folder = shutil.copytree(straight, tmp_path / "quick")
    settings = folder / "resolved.toml"
    spec = load_run_spec(config=settings)
    for changed, words in (
        ({"warmup": spec.train.steps}, "the warm-up takes 6 steps and the run has 6"),
        (
            {"kind": "cosine_restarts", "warmup": 0, "cycles": 9},
            "cosine_restarts has 9 cycles in the 6 steps",
        ),
    ):
        schedule = spec.train.schedule.model_copy(update=changed)
        train = spec.train.model_copy(update={"schedule": schedule})
        settings.write_text(to_toml(spec.model_copy(update={"train": train})))
        [problem] = read_finished_run(folder).problems
        assert problem.startswith(f"The schedule does not fit the run: {words}")


def test_losses_that_are_lost_for_good_are_not_called_never_measured(straight: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(straight, tmp_path / "quick")
    (folder / "metrics.jsonl").unlink()
    state = folder / "run.json"
    state.write_text(state.read_text().replace('"validation"', '"other"'))
    lost = read_finished_run(folder)
    assert validation_of(lost) == ()
    assert lost.validation_lost
    assert lost.problems == (
        f"{folder / 'metrics.jsonl'} is gone, so there is no curve of the training loss.",
    )


@pytest.mark.parametrize("value", ["null", '"x"', "[[1]]", "[1, 2]", '{"a": 1}', '[["a", "b"]]'])
def test_what_stands_in_run_json_instead_is_no_traceback(straight: Path, tmp_path: Path, value: str) -> None:
    folder = shutil.copytree(straight, tmp_path / "quick")
    (folder / "metrics.jsonl").unlink()
    (folder / "run.json").write_text(f'{{"state": "finished", "validation": {value}, "best_step": {value}}}')
    assert validation_of(read_finished_run(folder)) == ()


def test_a_resumed_run_says_what_its_log_has_lost(
    straight: Path, tiny_base: Path, photos: Path, tmp_path: Path
) -> None:
    folder = interrupted(tiny_base, photos, tmp_path)
    (folder / "metrics.jsonl").unlink()
    said: list[str] = []
    train_adapter(None, resume=folder, prove=False, progress=lambda report: said.append(report.note))
    assert any("metrics.jsonl: steps before 5 are missing" in note for note in said)
    assert validation_of(read_finished_run(folder)) == validation_of(read_finished_run(straight))


def test_settings_that_are_gone_come_from_the_checkpoint(
    straight: Path, tiny_base: Path, photos: Path, tmp_path: Path
) -> None:
    folder = interrupted(tiny_base, photos, tmp_path)
    (folder / "resolved.toml").unlink()
    assert is_run_folder(folder)
    result = train_adapter(None, resume=folder, prove=False)
    assert any("resolved.toml was gone: written again" in note for note in result.notes)
    assert result.adapter_file.read_bytes() == (straight / "quick.safetensors").read_bytes()
    assert (folder / "resolved.toml").read_bytes() == (straight / "resolved.toml").read_bytes()


def test_settings_that_nothing_remembers_are_called_gone_and_not_never_written(
    tiny_base: Path, photos: Path, tmp_path: Path
) -> None:
    folder = interrupted(tiny_base, photos, tmp_path)
    (folder / "resolved.toml").unlink()
    for state in folder.glob("checkpoints/step-*/state.json"):
        state.write_text("{}")
    with pytest.raises(RunError, match=r"resolved\.toml is gone, and no good checkpoint remembers"):
        train_adapter(None, resume=folder)


@pytest.mark.parametrize("way", ["renamed", "deleted", "made anew"])
def test_a_run_whose_folder_is_lost_stops_and_writes_nothing_in_its_place(
    tiny_base: Path, photos: Path, tmp_path: Path, way: str
) -> None:
    folder = tmp_path / "quick"

    def lose() -> None:
        if way == "renamed":
            folder.rename(tmp_path / "elsewhere")
        else:
            shutil.rmtree(folder)
        if way == "made anew":
            folder.mkdir()

    with pytest.raises(
        RunError, match=r"renamed, moved or deleted while it trained; stopped after step [34]"
    ):
        train_adapter(quick_spec(tiny_base, photos), runs=tmp_path, progress=at_step(3, lose))
    assert not folder.exists() or not any(folder.iterdir())
    if way == "renamed":
        (tmp_path / "elsewhere").rename(folder)
        assert train_adapter(None, resume=folder, prove=False).steps == 6


def test_a_folder_is_known_again_by_what_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    held = HeldFolder(folder)
    assert held.is_there()
    folder.rename(tmp_path / "other")
    assert not held.is_there()
    folder.mkdir()
    assert not held.is_there()
    with pytest.raises(RunError, match="after step 7"):
        held.check(step=7)
    held.close()


def test_a_lost_folder_is_not_written_to_by_the_proof_either(
    tiny_base: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe, "load_run_material", _after(lambda: shutil.rmtree(tmp_path / "quick")))
    with pytest.raises(RunError, match="renamed, moved or deleted"):
        train_adapter(quick_spec(tiny_base, photos), runs=tmp_path)
    assert not (tmp_path / "quick" / "quick.safetensors").exists()


def _after(act: Callable[[], object]) -> Callable[..., object]:
    load = recipe.load_run_material

    def loading(*arguments: object) -> object:
        found = load(*arguments)  # type: ignore[arg-type]
        act()
        return found

    return loading
