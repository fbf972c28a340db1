import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from detour.adapter_files import read_adapter, write_adapter
from detour.bases.base import open_base
from detour.errors import AdapterError, RunError
from detour.evaluation.checkpoints import CheckpointFigures
from detour.specs import load_run_spec
from detour.specs.evaluation import EvaluationSpec
from detour.training.checkpoints import kept_adapters
from detour.verbs.judge import evaluation_run
from detour.verbs.judge.checkpoint_scores import FIGURES, SHEET, evaluate_checkpoints
from detour.verbs.train import run as recipe
from detour.verbs.train.run import train_adapter
from tests.verbs.embedded import embedded_base
from tests.verbs.photos import make_photos, quick_spec


@pytest.fixture(scope="module")
def judged(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A finished run of six steps with three adapters, on a base with a random judge."""
    place = tmp_path_factory.mktemp("judged")
    with pytest.MonkeyPatch.context() as patch:
        base = embedded_base(tiny_base, place, patch, with_judge=True)
        patch.setattr(recipe, "_prove", lambda *_: None)
        spec = quick_spec(base, make_photos(place / "photos"), evaluate__num_prompts=4, train__optim__lr=0.05)
        yield train_adapter(spec, runs=place / "runs").run_folder


@pytest.fixture(scope="module")
def figures(judged: Path) -> CheckpointFigures:
    return evaluate_checkpoints(judged)


def test_every_kept_adapter_is_measured_beside_the_base(judged: Path, figures: CheckpointFigures) -> None:
    assert [one.step for one in figures.checkpoints] == list(kept_adapters(judged)) == [2, 4, 6]
    assert figures.prompts == 4
    assert figures.chosen_step in (2, 4, 6)
    for one in figures.checkpoints:
        assert one.style_distance is not None
        assert one.style_distance.base > 0
        assert set(one.accuracy) == {"object", "colour", "place"}
        assert one.held_out_loss is not None
    losses = [one.held_out_loss for one in figures.checkpoints]
    assert losses[0] != losses[1] == pytest.approx(losses[1])  # of step 0, then of step 3


def test_figures_and_a_sheet_of_prompts_and_steps_are_written(
    judged: Path, figures: CheckpointFigures
) -> None:
    assert CheckpointFigures.model_validate_json((judged / FIGURES).read_text()) == figures
    assert (judged / SHEET).stat().st_size > 0


def test_what_was_drawn_is_not_drawn_again_and_another_adapter_is(
    judged: Path, figures: CheckpointFigures, monkeypatch: pytest.MonkeyPatch
) -> None:
    from detour.verbs.judge import side_pictures as module

    drawn: list[int] = []

    def counted(*args: object, **options: object) -> np.ndarray:
        drawn.append(1)
        return real(*args, **options)  # type: ignore[arg-type]

    real = module.draw_proof_pictures
    monkeypatch.setattr(module, "draw_proof_pictures", counted)
    assert evaluate_checkpoints(judged) == figures
    assert not drawn
    files = kept_adapters(judged)
    before = files[2].read_bytes()
    files[2].write_bytes(files[6].read_bytes())
    again = evaluate_checkpoints(judged)
    assert not drawn  # the same content was drawn before, under another name
    assert again.checkpoints[0].style_distance == again.checkpoints[2].style_distance
    other = read_adapter(files[6])
    layers = {key: replace(layer, up=0.5 * layer.up) for key, layer in other.layers.items()}
    write_adapter(
        files[2],
        replace(other, layers=layers),
        family=open_base(load_run_spec(config=judged / "resolved.toml").base.name).family,
    )
    evaluate_checkpoints(judged)
    assert len(drawn) == 1
    files[2].write_bytes(before)


def test_a_damaged_checkpoint_is_noticed_before_anything_is_drawn(
    judged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from detour.verbs.judge import checkpoint_scores as module

    run = tmp_path / "run"
    shutil.copytree(judged, run)
    monkeypatch.setattr(module, "_draw_all", lambda *_: pytest.fail("it was drawn"))
    file = kept_adapters(run)[4]
    data = bytearray(file.read_bytes())
    data[-7] ^= 1
    file.write_bytes(data)
    with pytest.raises(AdapterError, match=r"step-000004\.safetensors: damaged"):
        evaluate_checkpoints(run)
    monkeypatch.setattr(evaluation_run, "gather", lambda *_, **__: None)
    monkeypatch.setattr(evaluation_run, "_controls", lambda *_: pytest.fail("a control was trained"))
    with pytest.raises(AdapterError, match=r"step-000004\.safetensors: damaged"):
        evaluation_run.evaluate_adapter(run, EvaluationSpec(checkpoints=True))


def test_a_base_that_was_edited_under_its_name_draws_anew(
    judged: Path, figures: CheckpointFigures, monkeypatch: pytest.MonkeyPatch
) -> None:
    from detour.verbs.judge import side_pictures as module

    drawn: list[int] = []
    real = module.draw_proof_pictures

    def counted(*args: object, **options: object) -> np.ndarray:
        drawn.append(1)
        return real(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "draw_proof_pictures", counted)
    weights = judged.parents[1] / "tiny-embedded" / "vae" / "diffusion_pytorch_model.safetensors"
    before = weights.read_bytes()
    weights.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    evaluate_checkpoints(judged)
    assert len(drawn) == 4
    weights.write_bytes(before)
    assert evaluate_checkpoints(judged) == figures


def test_a_run_that_kept_nothing_is_refused(judged: Path, tmp_path: Path) -> None:
    shutil.copytree(judged, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "adapters")
    with pytest.raises(RunError, match="no adapters are kept"):
        evaluate_checkpoints(tmp_path / "run")
