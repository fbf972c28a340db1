"""A run that starts at an adapter file: the file's weights, its settings, and no other file."""

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from detour.adapter_files import read_adapter, write_adapter
from detour.adapters.adapter import Adapter, LoraLayer
from detour.adapters.delta import largest_relative_difference
from detour.bases.base import open_base
from detour.errors import ConfigError, Interrupted, RunError
from detour.specs import load_run_spec
from detour.verbs.progress import Progress
from detour.verbs.train.run import train_adapter
from detour.verbs.train.run_plan import plan_run
from tests.verbs.photos import make_photos, quick_flags, quick_spec


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_photos(tmp_path_factory.mktemp("data") / "photos")


@pytest.fixture(scope="module")
def first(tiny_base: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of what the others go on from."""
    return train_adapter(
        quick_spec(tiny_base, photos), runs=tmp_path_factory.mktemp("runs"), prove=False
    ).run_folder


def going_on(base: Path, photos: Path, file: Path, **flags: Any) -> Any:
    """A quick run that leaves rank and layers to the file."""
    values = quick_flags(base, photos) | {"name": "on", "adapter.from_file": str(file)}
    del values["adapter.rank"], values["adapter.targets"]
    return load_run_spec(flags=values | {key.replace("__", "."): value for key, value in flags.items()})


def validation(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["val_loss"] for line in lines if "val_loss" in line]


def test_it_starts_where_the_file_ends_and_leads_elsewhere(
    first: Path, tiny_base: Path, photos: Path, tmp_path: Path
) -> None:
    file = first / "quick.safetensors"
    result = train_adapter(going_on(tiny_base, photos, file), runs=tmp_path, prove=False)
    assert validation(result.run_folder)[0] == validation(first)[-1] != validation(first)[0]
    assert any("Starts at the weights of" in note for note in result.notes)
    before, after = read_adapter(file), read_adapter(result.adapter_file)
    assert before.layers.keys() == after.layers.keys()
    assert largest_relative_difference(before, after) > 1e-3
    spec = load_run_spec(config=result.run_folder / "resolved.toml")
    assert (spec.adapter.rank, spec.adapter.targets, len(spec.adapter.from_sha256)) == (2, "cross-attn", 64)


@pytest.mark.parametrize("method", ["lora", "dora", "loha", "lokr"])
def test_at_rate_zero_every_method_leaves_the_file_as_it_was(
    tiny_base: Path, photos: Path, tmp_path: Path, method: str
) -> None:
    flags = {"adapter__method": method, "validate__every": 0, "checkpoint__every": 0}
    one = train_adapter(
        quick_spec(tiny_base, photos, train__steps=2, train__optim__lr=0.05, **flags),
        runs=tmp_path,
        prove=False,
    )
    same = going_on(
        tiny_base,
        photos,
        one.adapter_file,
        train__steps=1,
        train__optim__lr=0.0,
        train__schedule__warmup=0,
        **flags,
    )
    two = train_adapter(same, runs=tmp_path, prove=False)
    before, after = read_adapter(one.adapter_file), read_adapter(two.adapter_file)
    assert largest_relative_difference(before, after) < 1e-6
    assert any(layer.tensors[name].any() for layer in before.layers.values() for name in layer.tensors)


def test_alpha_of_the_run_is_another_and_the_change_the_same(
    first: Path, tiny_base: Path, photos: Path, tmp_path: Path
) -> None:
    file = first / "quick.safetensors"
    spec = going_on(
        tiny_base,
        photos,
        file,
        adapter__alpha=0.5,
        train__steps=1,
        train__optim__lr=0.0,
        train__schedule__warmup=0,
    )
    result = train_adapter(spec, runs=tmp_path, prove=False)
    assert {layer.alpha for layer in read_adapter(result.adapter_file).layers.values()} == {0.5}
    assert largest_relative_difference(read_adapter(file), read_adapter(result.adapter_file)) < 1e-6


def test_a_file_that_changed_is_refused_by_its_content(
    first: Path, tiny_base: Path, photos: Path, tmp_path: Path
) -> None:
    file = shutil.copy(first / "quick.safetensors", tmp_path / "mine.safetensors")

    def stop(report: Progress) -> None:
        if report.stage == "training" and report.done == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        train_adapter(going_on(tiny_base, photos, file), runs=tmp_path, progress=stop)
    straight = train_adapter(going_on(tiny_base, photos, file), runs=tmp_path / "straight", prove=False)
    repeated = load_run_spec(config=tmp_path / "on" / "resolved.toml")
    adapter = read_adapter(file)
    write_adapter(
        file,
        Adapter(
            {
                key: LoraLayer(down=one.tensors["down"], up=2 * one.tensors["up"], alpha=one.alpha)
                for key, one in adapter.layers.items()
            }
        ),
        file_format="kohya",
        family=open_base(str(tiny_base)).family,
        dtype="fp32",
    )
    with pytest.raises(RunError, match="not the adapter that the run began at"):
        train_adapter(repeated, runs=tmp_path / "again")
    resumed = train_adapter(
        None, resume=tmp_path / "on", prove=False
    )  # its weights are in the checkpoint by now
    assert resumed.adapter_file.read_bytes() == straight.adapter_file.read_bytes()


def test_what_does_not_fit_the_file_is_refused_before_anything_is_written(
    first: Path, tiny_base: Path, photos: Path
) -> None:
    file = first / "quick.safetensors"
    for flags, words in (
        ({"adapter__method": "dora"}, "the file is lora, and this run trains dora. Add --method lora"),
        ({"adapter__method": "full"}, "trains the base itself"),
        ({"adapter__init": "pissa"}, "both say where the weights start"),
        ({"adapter__rank": 4}, "the file has rank 2, and adapter.rank is 4"),
    ):
        with pytest.raises(ConfigError, match=words):
            plan_run(going_on(tiny_base, photos, file, **flags))
    with pytest.raises(ConfigError, match="without a file"):
        plan_run(quick_spec(tiny_base, photos, adapter__from_sha256="0" * 64))


def test_other_layers_than_the_files_are_named(
    first: Path, tiny_base: Path, photos: Path, tmp_path: Path
) -> None:
    spec = going_on(tiny_base, photos, first / "quick.safetensors", adapter__targets="self-attn")
    with pytest.raises(ConfigError, match="has other layers than this run"):
        train_adapter(spec, runs=tmp_path, prove=False)


def test_text_encoders_of_the_file_are_trained_on_too(tiny_base: Path, photos: Path, tmp_path: Path) -> None:
    flags = {"validate__every": 0, "checkpoint__every": 0, "train__steps": 1}
    one = train_adapter(
        quick_spec(tiny_base, photos, adapter__text_encoder__rank=3, **flags), runs=tmp_path, prove=False
    )
    two = train_adapter(
        going_on(
            tiny_base, photos, one.adapter_file, train__optim__lr=0.0, train__schedule__warmup=0, **flags
        ),
        runs=tmp_path,
        prove=False,
    )
    before, after = read_adapter(one.adapter_file), read_adapter(two.adapter_file)
    assert before.parts == after.parts == ("unet", "text_encoder")
    assert all(
        torch.allclose(layer.tensors["down"], after.layers[key].tensors["down"])
        for key, layer in before.layers.items()
    )


def test_a_finished_run_says_how_to_train_on_and_that_works(
    first: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(first, tmp_path / "quick")
    (folder / "proof.json").write_text("{}")
    (folder / "resolved.toml").unlink()  # the command that is named works all the same
    with pytest.raises(RunError, match=r"is finished\. Train on in a new run: detour train") as finished:
        train_adapter(None, resume=folder)
    words = str(finished.value).rstrip(".").rpartition("detour train ")[2].split()
    given = dict(zip(words[::2], words[1::2], strict=True))
    spec = load_run_spec(
        config=Path(given["--config"]), flags={"name": given["--name"], "adapter.from_file": given["--from"]}
    )
    result = train_adapter(spec, runs=tmp_path, prove=False)
    assert validation(result.run_folder)[0] == validation(first)[-1]
    assert result.adapter_file.read_bytes() != (first / "quick.safetensors").read_bytes()


def test_a_pissa_run_is_gone_on_with_at_twice_the_rank(tiny_base: Path, photos: Path, tmp_path: Path) -> None:
    flags = {"train__steps": 1, "validate__every": 0, "checkpoint__every": 0, "train__schedule__warmup": 0}
    spec = quick_spec(tiny_base, photos, adapter__init="pissa", train__optim__lr=0.01, **flags)
    one = train_adapter(spec, runs=tmp_path, prove=False)
    still = going_on(tiny_base, photos, one.adapter_file, train__optim__lr=0.0, **flags)
    two = train_adapter(still, runs=tmp_path, prove=False)
    assert read_adapter(two.adapter_file).ranks == (4,)
    assert largest_relative_difference(read_adapter(one.adapter_file), read_adapter(two.adapter_file)) < 1e-6
