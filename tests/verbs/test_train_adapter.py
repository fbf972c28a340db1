import contextlib
import gc
import json
import os
import shutil
import signal
import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from detour.adapter_files import read_adapter
from detour.adapters.adapter import Adapter
from detour.adapters.delta import largest_relative_difference
from detour.bases.base import Base
from detour.bases.denoiser import Denoiser
from detour.errors import (
    BaseError,
    ConfigError,
    DataError,
    GradientProofFailed,
    Interrupted,
    RunError,
    StorageError,
    TrainingDiverged,
)
from detour.specs import load_run_spec
from detour.training import checkpoints
from detour.training import step as training_step
from detour.training.cache import TextCache
from detour.training.processes import Processes
from detour.training.run_folder import read_state
from detour.training.step import TrainingLoss
from detour.verbs.progress import Progress, silent
from detour.verbs.train import fitting as fit_run
from detour.verbs.train import run as recipe
from detour.verbs.train.run import train_adapter
from tests.verbs.photos import make_photos, quick_spec


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return make_photos(tmp_path / "photos")


@pytest.fixture
def unproved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the proof, which has tests of its own and takes most of the time."""
    monkeypatch.setattr(recipe, "_prove", lambda *_: None)


@pytest.fixture(scope="module")
def straight(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the quick run, never interrupted; read-only by agreement."""
    place = tmp_path_factory.mktemp("straight")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe, "_prove", lambda *_: None)
        return train_adapter(quick_spec(tiny_base, make_photos(place / "photos")), runs=place).run_folder


def stop_after(step: int) -> Callable[[Progress], None]:
    """A progress function that presses Ctrl-C when ``step`` is done."""

    def progress(report: Progress) -> None:
        if report.stage == "training" and report.done == step:
            os.kill(os.getpid(), signal.SIGINT)

    return progress


def metrics(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def files(folder: Path, pattern: str) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.glob(pattern))}


def test_a_run_leaves_everything_that_the_design_promises(
    tiny_base: Path, photos: Path, tmp_path: Path
) -> None:
    notes: list[str] = []
    result = train_adapter(
        quick_spec(tiny_base, photos, sample__every=6),
        runs=tmp_path / "runs",
        progress=lambda p: notes.append(p.note),
    )
    folder = result.run_folder
    assert folder == tmp_path / "runs" / "quick"
    for name in (
        "quick.safetensors",
        "README.md",
        "report.html",
        "proof.json",
        "resolved.toml",
        "metrics.jsonl",
    ):
        assert (folder / name).is_file(), name
    assert len(list((folder / "samples" / "step-000006").glob("*.png"))) == 4
    assert (folder / "checkpoints" / "step-000006" / "complete.json").is_file()
    assert read_state(folder)["state"] == "finished"
    assert result.proof is not None
    assert result.proof.reload.max_abs_diff is not None
    assert result.proof.reload.max_abs_diff <= 1
    assert result.proof.gradients is not None
    assert result.proof.gradients.base_unchanged
    assert result.proof.gradients.adapter_tensors_with_gradient == result.proof.gradients.adapter_tensors > 0
    assert "auto" not in (folder / "resolved.toml").read_text().replace('"auto', "auto").split()
    assert load_run_spec(config=folder / "resolved.toml").name == "quick"
    assert any("Sample pictures of step 6" in note for note in notes)
    lines = metrics(folder)
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in lines if "val_loss" in line] == [0, 3, 6]


@pytest.mark.usefixtures("unproved")
def test_same_settings_give_the_same_bytes_elsewhere(
    straight: Path, tiny_base: Path, photos: Path, tmp_path: Path
) -> None:
    again = train_adapter(quick_spec(tiny_base, photos), runs=tmp_path).adapter_file.read_bytes()
    assert again == (straight / "quick.safetensors").read_bytes()
    text = again.decode("latin-1")
    assert str(tmp_path) not in text
    assert str(tiny_base) not in text
    assert "picture 3" in text  # the tag table


@pytest.mark.usefixtures("unproved")
def test_another_seed_gives_other_weights_and_no_tag_table_leaves_no_caption(
    straight: Path, tiny_base: Path, photos: Path, tmp_path: Path
) -> None:
    spec = quick_spec(tiny_base, photos, seed=4, data__tag_table=False)
    other = train_adapter(spec, runs=tmp_path).adapter_file
    assert b"picture 3" not in other.read_bytes()
    ours, theirs = read_adapter(straight / "quick.safetensors"), read_adapter(other)
    assert largest_relative_difference(ours, theirs) > 0.1


RANDOM: dict[str, Any] = {
    "train__grad_accum": 2,
    "train__steps": 7,
    "adapter__dropout": 0.2,
    "train__loss__caption_dropout": 0.3,
    "sample__every": 3,
    "checkpoint__every": 0,
    "validate__ship": "lowest_loss",
}
"""Eight training pictures, four a step (two micro-batches): step 2 ends an epoch, 1 and 5 are amid one."""


@pytest.fixture(scope="module")
def straight_random(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data and run folder of a run with everything random, never interrupted; read-only by agreement."""
    place = tmp_path_factory.mktemp("random")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe, "_prove", lambda *_: None)
        spec = quick_spec(tiny_base, make_photos(place / "photos"), **RANDOM)
        train_adapter(spec, runs=place)
    return place


@pytest.mark.usefixtures("unproved")
@pytest.mark.parametrize("stop", [1, 5])
def test_resume_is_bit_exact(straight_random: Path, tiny_base: Path, tmp_path: Path, stop: int) -> None:
    straight, spec = (
        straight_random / "quick",
        quick_spec(tiny_base, straight_random / "photos", **RANDOM),
    )
    with pytest.raises(Interrupted, match=rf"after step {stop} of 7.*detour train --resume .*quick"):
        train_adapter(spec, runs=tmp_path / "broken", progress=stop_after(stop))
    broken = tmp_path / "broken" / "quick"
    assert read_state(broken)["state"] == "interrupted"
    assert len(read_adapter(broken / "quick.safetensors").layers) > 0
    with (broken / "metrics.jsonl").open("a") as stream:  # what a killed process may have left behind
        stream.write('{"step": 99, "loss": 0}\n{"step": 7, "lo')
    torch.manual_seed(12345)
    torch.rand(17)
    train_adapter(None, resume=broken)
    assert files(straight, "*.safetensors") == files(broken, "*.safetensors")
    assert files(straight, "samples/**/*.png") == files(broken, "samples/**/*.png")
    assert len(files(straight, "samples/**/*.png")) == 8
    assert metrics(straight) == metrics(broken)
    assert (straight / "resolved.toml").read_bytes() == (broken / "resolved.toml").read_bytes()


@pytest.mark.usefixtures("unproved")
def test_resume_passes_over_a_broken_checkpoint_and_says_so(
    straight: Path, tiny_base: Path, photos: Path, tmp_path: Path
) -> None:
    with pytest.raises(Interrupted):
        train_adapter(quick_spec(tiny_base, photos), runs=tmp_path / "runs", progress=stop_after(5))
    folder = tmp_path / "runs" / "quick"
    (folder / "checkpoints" / "step-000005" / "state.safetensors").write_bytes(b"half")
    result = train_adapter(None, resume=folder)
    assert any("step-000005" in note and "passed over" in note for note in result.notes)
    assert files(straight, "*.safetensors") == files(folder, "*.safetensors")
    assert metrics(straight) == metrics(folder)


@pytest.mark.usefixtures("unproved")
def test_resume_refuses_what_would_not_be_the_same_run(tiny_base: Path, photos: Path, tmp_path: Path) -> None:
    base = shutil.copytree(tiny_base, tmp_path / "base")
    with pytest.raises(Interrupted):
        train_adapter(quick_spec(base, photos), runs=tmp_path, progress=stop_after(2))
    folder = tmp_path / "quick"

    def refused(match: str) -> None:
        before = (folder / "metrics.jsonl").read_bytes()
        with pytest.raises(RunError, match=match):
            train_adapter(None, resume=folder)
        assert (folder / "metrics.jsonl").read_bytes() == before

    settings = folder / "resolved.toml"
    original = settings.read_text()
    settings.write_text(original.replace("steps = 6", "steps = 9"))
    refused(r"edited since the checkpoint: train\.steps \(6 → 9\)")
    settings.write_text(original)

    (photos / "4.txt").write_text("another caption")
    refused(r"not those of the run: 4\.png \(changed\)")
    (photos / "4.txt").write_text("picture 4")
    (photos / "0.png").rename(photos / "x.png")
    (photos / "0.txt").rename(photos / "x.txt")
    refused(r"0\.png \(gone\), x\.png \(new\)")
    (photos / "x.png").rename(photos / "0.png")
    (photos / "x.txt").rename(photos / "0.txt")

    weights = base / "unet" / "diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    refused("base's weights are not those")
    data[-1] ^= 1
    weights.write_bytes(bytes(data))

    with pytest.raises(ConfigError, match="keeps its settings"):
        train_adapter(quick_spec(base, photos), resume=folder)
    train_adapter(None, resume=folder)
    (folder / "proof.json").write_text("{}")
    with pytest.raises(RunError, match="is finished"):
        train_adapter(None, resume=folder)


def test_resume_without_a_run_or_a_checkpoint_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such run"):
        train_adapter(None, resume=tmp_path / "nothing")
    with pytest.raises(RunError, match=r"no readable run\.json"):
        train_adapter(None, resume=tmp_path)
    (tmp_path / "run.json").write_text('{"state": "running"}')
    with pytest.raises(RunError, match=r"died before it wrote resolved\.toml.*Start it again"):
        train_adapter(None, resume=tmp_path)


@pytest.mark.usefixtures("unproved")
def test_two_half_batches_equal_one_full_batch(tiny_base: Path, photos: Path, tmp_path: Path) -> None:
    def trained(batch: int, grad_accum: int) -> Adapter:
        spec = quick_spec(
            tiny_base, photos, train__batch=batch, train__grad_accum=grad_accum, train__optim__lr=1e-4
        )
        return read_adapter(train_adapter(spec, runs=tmp_path / f"{batch}x{grad_accum}").adapter_file)

    assert largest_relative_difference(trained(4, 1), trained(2, 2)) < 1e-3


@pytest.mark.usefixtures("unproved")
def test_vae_and_text_encoder_are_gone_when_training_begins(
    tiny_base: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[weakref.ref[Any]] = []

    def remember(name: str) -> None:
        load = getattr(Base, name)

        def loading(self: Base, *args: Any, **kwargs: Any) -> Any:
            part = load(self, *args, **kwargs)
            loaded.append(weakref.ref(part))
            return part

        monkeypatch.setattr(Base, name, loading)

    remember("load_vae")
    remember("load_text")
    alive_at_training: list[int] = []
    load_denoiser = fit_run.load_denoiser

    def watched(*args: Any) -> Denoiser:
        gc.collect()
        alive_at_training.append(sum(ref() is not None for ref in loaded))
        return load_denoiser(*args)

    monkeypatch.setattr(fit_run, "load_denoiser", watched)
    train_adapter(quick_spec(tiny_base, photos), runs=tmp_path)
    assert len(loaded) >= 2
    assert alive_at_training == [0]


@pytest.mark.usefixtures("unproved")
def test_a_loss_that_is_not_finite_keeps_the_last_good_weights(
    straight: Path, tiny_base: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = training_step.batch_loss
    calls = 0

    def poisoned(*args: Any, **kwargs: Any) -> torch.Tensor:
        nonlocal calls
        calls += torch.is_grad_enabled()
        value = loss(*args, **kwargs)
        return (
            value * float("nan") if calls == 6 and torch.is_grad_enabled() else value
        )  # 1 is the gradient proof

    monkeypatch.setattr(training_step, "batch_loss", poisoned)
    with pytest.raises(
        TrainingDiverged, match=r"step 5: the loss is nan.*weights after step 4 are saved in .*lower rate"
    ):
        train_adapter(quick_spec(tiny_base, photos), runs=tmp_path / "bad")
    folder = tmp_path / "bad" / "quick"
    assert read_state(folder)["state"] == "diverged"
    found, _ = checkpoints.newest_good(folder)
    assert found is not None
    assert found.step == 4
    reference = checkpoints._read(checkpoints.folder_of(straight, 4))
    assert torch.equal(found.tensors["values"], reference.tensors["values"])
    adapter = read_adapter(folder / "quick.safetensors")
    assert all(torch.isfinite(layer.up).all() for layer in adapter.layers.values())


@pytest.mark.usefixtures("unproved")
def test_lowest_loss_ships_the_weights_of_the_lowest_validation_loss(
    tiny_base: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([0.9, 0.5, 0.7])  # steps 0, 3, 6
    monkeypatch.setattr(
        "detour.training.validation.FixedValidation.loss", lambda self, denoiser: next(losses)
    )
    spec = quick_spec(tiny_base, photos, validate__ship="lowest_loss", checkpoint__every=3)
    result = train_adapter(spec, runs=tmp_path)
    assert result.best_step == 3
    at_three = checkpoints._read(checkpoints.folder_of(result.run_folder, 3)).tensors["values"]
    adapter = read_adapter(result.adapter_file)
    shipped = {round(float(x), 9) for layer in adapter.layers.values() for x in layer.up.flatten()}
    assert shipped <= {round(float(x), 9) for x in at_three}


def test_the_adapter_of_every_checkpoint_stays_and_the_last_one_is_what_is_shipped(straight: Path) -> None:
    kept = checkpoints.kept_adapters(straight)
    assert list(kept) == [2, 4, 6]
    assert kept[6].read_bytes() == (straight / "quick.safetensors").read_bytes()
    assert len({path.read_bytes() for path in kept.values()}) == 3


@pytest.mark.usefixtures("unproved")
@pytest.mark.parametrize(
    "flags",
    [
        {"adapter__rslora": True, "adapter__alpha": 0.1},
        {"adapter__method": "dora"},
        {"adapter__init": "pissa", "adapter__targets": "linear"},
    ],
    ids=["rslora", "dora", "pissa"],
)
def test_best_proof_ships_the_chosen_checkpoint_byte_for_byte(
    tiny_base: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: dict[str, Any]
) -> None:
    monkeypatch.setattr(recipe, "evaluate_checkpoints", lambda folder, **_: SimpleNamespace(chosen_step=4))
    spec = quick_spec(tiny_base, photos, validate__ship="best_proof", evaluate__num_prompts=1, **flags)
    result = train_adapter(spec, runs=tmp_path)
    assert result.best_step == 4
    kept = checkpoints.kept_adapters(result.run_folder)
    assert result.adapter_file.read_bytes() == kept[4].read_bytes() != kept[6].read_bytes()


@pytest.mark.usefixtures("unproved")
def test_patience_alone_ends_a_run_and_ships_what_it_is_told_to(
    tiny_base: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = [0.9, 0.5, 0.7, 0.8]  # steps 0, 1, 2, 3
    for ship, step in (("auto", 1), ("last", None)):
        left = iter(losses)
        monkeypatch.setattr(
            "detour.training.validation.FixedValidation.loss", lambda self, denoiser, left=left: next(left)
        )
        spec = quick_spec(
            tiny_base, photos, validate__patience=2, validate__every=1, validate__ship=ship, name=f"p-{ship}"
        )
        result = train_adapter(spec, runs=tmp_path)
        assert (result.steps, result.best_step) == (3, step)


@pytest.mark.usefixtures("unproved")
def test_a_resumed_run_is_as_patient_as_one_that_was_not_interrupted(
    tiny_base: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([0.9, 0.5, 0.7, 0.8])  # steps 0, 1, 2 (stopped here), 3
    monkeypatch.setattr(
        "detour.training.validation.FixedValidation.loss", lambda self, denoiser: next(losses)
    )
    spec = quick_spec(tiny_base, photos, validate__patience=2, validate__every=1)
    with pytest.raises(Interrupted):
        train_adapter(spec, runs=tmp_path, progress=stop_after(2))
    assert train_adapter(None, resume=tmp_path / "quick").steps == 3


@pytest.mark.usefixtures("unproved")
def test_the_gradient_proof_sees_captions_though_training_drops_them(
    tiny_base: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Layers that read the text would be proved on one text alone."""
    asked: list[list[str | None]] = []
    conditioning = TextCache.conditioning

    def watched(self: TextCache, captions: list[str | None]) -> Any:
        asked.append(list(captions))
        return conditioning(self, captions)

    monkeypatch.setattr(TextCache, "conditioning", watched)
    flags = {"train__loss__caption_dropout": 0.999, "train__steps": 1, "data__holdout": 0.0}
    train_adapter(quick_spec(tiny_base, photos, **flags), runs=tmp_path)
    proof, *training = asked
    assert None not in proof
    assert len(set(proof)) == 2
    assert [None, None] in training


@pytest.mark.usefixtures("unproved")
@pytest.mark.parametrize("how", ["interrupted", "diverged"])
def test_a_run_that_stops_early_ships_its_average(
    how: str, tiny_base: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss, calls = training_step.batch_loss, [0]

    def poisoned(*args: Any, **kwargs: Any) -> torch.Tensor:
        value = loss(*args, **kwargs)
        calls[0] += torch.is_grad_enabled()
        return (
            value * float("nan") if how == "diverged" and calls[0] == 5 else value
        )  # 1 is the gradient proof

    monkeypatch.setattr(training_step, "batch_loss", poisoned)
    spec = quick_spec(tiny_base, photos, train__ema=0.9, validate__every=0)
    with pytest.raises(Interrupted if how == "interrupted" else TrainingDiverged):
        train_adapter(spec, runs=tmp_path, progress=stop_after(3) if how == "interrupted" else silent)
    found, _ = checkpoints.newest_good(tmp_path / "quick")
    assert found is not None
    assert found.step == 3
    adapter = read_adapter(tmp_path / "quick" / "quick.safetensors")
    shipped = torch.cat(
        [layer.tensors[name].flatten() for layer in adapter.layers.values() for name in ("down", "up")]
    )
    average, trained = (found.tensors[name].sort().values for name in ("ema", "values"))
    assert torch.equal(shipped.sort().values, average)
    assert not torch.equal(average, trained)


@pytest.mark.usefixtures("unproved")
def test_a_taken_name_gets_a_number_and_force_starts_over(
    tiny_base: Path, photos: Path, tmp_path: Path
) -> None:
    spec = quick_spec(tiny_base, photos, train__steps=2)
    first = train_adapter(spec, runs=tmp_path)
    before = first.adapter_file.read_bytes()
    second = train_adapter(spec, runs=tmp_path)
    assert second.name == "quick-2"
    assert second.adapter_file == tmp_path / "quick-2" / "quick-2.safetensors"
    assert first.adapter_file.read_bytes() == before
    third = train_adapter(quick_spec(tiny_base, photos, train__steps=1), runs=tmp_path, force=True)
    assert third.run_folder == first.run_folder
    assert [line["step"] for line in metrics(third.run_folder) if "loss" in line] == [1]


def test_a_layer_without_gradient_stops_the_run_before_step_one(
    tiny_base: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict = Denoiser.predict

    def cut(self: Denoiser, *args: Any) -> torch.Tensor:
        return predict(self, *args).detach()

    monkeypatch.setattr(Denoiser, "predict", cut)
    with pytest.raises(GradientProofFailed, match="nothing can be learned"):
        train_adapter(quick_spec(tiny_base, photos), runs=tmp_path)
    assert read_state(tmp_path / "quick")["state"] == "failed"
    assert not (tmp_path / "quick" / "quick.safetensors").exists()


def test_bad_input_is_refused_before_a_run_folder_is_made(
    tiny_base: Path, photos: Path, tmp_path: Path
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    bare = make_photos(tmp_path / "bare", 2)
    (bare / "1.txt").unlink()
    no_vae = shutil.copytree(tiny_base, tmp_path / "no-vae")
    shutil.rmtree(no_vae / "vae")
    cases: list[tuple[Any, type[Exception], str]] = [
        (quick_spec(tiny_base, empty), DataError, "empty"),
        (quick_spec(tiny_base, tmp_path / "nowhere"), DataError, "nowhere"),
        (quick_spec(tiny_base, bare), DataError, "--caption"),
        (quick_spec("sd15", photos), BaseError, "settings alone"),
        (quick_spec(no_vae, photos), BaseError, "vae"),
        (
            quick_spec(tiny_base, photos, adapter__rank=65),
            ConfigError,
            "no layer of 'cross-attn' can use more than",
        ),
        (
            quick_spec(tiny_base, photos, adapter__targets="crossattn"),
            ConfigError,
            "Did you mean 'cross-attn'",
        ),
        (quick_spec(tiny_base, photos, data__resolution=100), ConfigError, "multiple of 8"),
        (quick_spec(tiny_base, photos, name="../out"), RunError, "cannot be the name"),
    ]
    for spec, kind, words in cases:
        with pytest.raises(kind, match=words):
            train_adapter(spec, runs=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@pytest.mark.usefixtures("unproved")
def test_a_rank_that_some_layers_cannot_use_is_a_note_that_names_them(
    tiny_base: Path, photos: Path, tmp_path: Path
) -> None:
    spec = quick_spec(tiny_base, photos, adapter__rank=20, adapter__targets="conv", train__steps=1)
    notes = train_adapter(spec, runs=tmp_path).notes
    assert any("Rank 20 is larger" in note and "conv_out (4)" in note for note in notes)


@pytest.mark.usefixtures("unproved")
def test_a_full_disk_is_one_line_and_the_state_says_failed(
    tiny_base: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from detour import files as disk

    def full(path: Path, data: bytes) -> None:
        raise disk.storage_error(path, OSError(28, "No space left on device"))

    monkeypatch.setattr("detour.training.checkpoints.write_bytes", full)
    with pytest.raises(StorageError, match="disk full"):
        train_adapter(quick_spec(tiny_base, photos), runs=tmp_path)
    assert read_state(tmp_path / "quick")["state"] == "failed"


@pytest.mark.usefixtures("unproved")
def test_running_out_of_memory_names_the_setting(
    tiny_base: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(self: TrainingLoss, *args: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(TrainingLoss, "__call__", exhausted)
    with pytest.raises(RunError, match=r"at batch 2, whose step takes .* GiB .*Try --batch 1 --grad-accum 2"):
        train_adapter(quick_spec(tiny_base, photos), runs=tmp_path)


def test_a_step_that_processes_cannot_share_is_refused_before_anything_is_written(
    tiny_base: Path, tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe, "joined", lambda device: contextlib.nullcontext(Processes(count=2)))
    with pytest.raises(ConfigError, match="2 processes cannot share the 3 samples"):
        train_adapter(quick_spec(tiny_base, photos, train__batch=3), runs=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
