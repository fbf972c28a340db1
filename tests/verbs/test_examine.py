"""What the doctor says of whole runs, adapters, pictures and requests, on a tiny base."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from detour.adapter_files.writing import write_adapter
from detour.adapters.adapter import Adapter, LoraLayer
from detour.adapters.targets import adaptable_layers, select
from detour.bases.base import open_base
from detour.cli.main import cli, run
from detour.errors import ConfigError
from detour.generation.png import save_image
from detour.specs import RunSpec, to_toml
from detour.specs.generation import GenerateSpec, PictureSpec
from detour.specs.sources import parse
from detour.verbs.doctor.examination import AskedPicture, Examination, examine
from detour.verbs.draw.pictures import generate_pictures
from detour.verbs.progress import Progress


def adapter_of(base: Path, path: Path, *, size: float, trigger: str = "") -> Path:
    opened = open_base(str(base))
    generator = torch.Generator().manual_seed(0)
    layers = {
        f"unet.{layer.path}": LoraLayer(
            down=torch.randn(2, layer.in_features, generator=generator),
            up=size * torch.randn(layer.out_features, 2, generator=generator),
            alpha=2.0,
        )
        for layer in select(adaptable_layers(opened.meta_network()), "attn")
    }
    metadata = {"modelspec.trigger_phrase": trigger} if trigger else {}
    write_adapter(path, Adapter(layers, metadata), family=opened.family)
    return path


def rules(found: Examination) -> set[str]:
    """Without those of the machine the test runs on."""
    machine = {"disk-short", "ram-short", "one-thread", "threads-over-cores", "version-off-the-lock"}
    return {finding.rule for finding in found.findings} - machine


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    noise = np.random.default_rng(0)
    for index in range(3):
        pixels = noise.integers(0, 255, (16, 16, 3), dtype=np.uint8)
        save_image(folder / f"{index}.png", Image.fromarray(pixels).resize((64, 64)))
        (folder / f"{index}.txt").write_text(f"thing number {index}")
    return folder


def run_folder(tiny: Path, photos: Path, tmp_path: Path, **sections: object) -> Path:
    folder = tmp_path / "runs" / "x"
    folder.mkdir(parents=True)
    values = {"name": "x", "base": {"name": str(tiny)}, "data": {"source": str(photos)}, **sections}
    (folder / "resolved.toml").write_text(to_toml(parse(RunSpec, values)))
    (folder / "run.json").write_text(json.dumps({"schema": 1, "state": "finished"}))
    adapter_of(tiny, folder / "x.safetensors", size=0.01)
    return folder


def test_a_sound_run_is_well(tiny_base: Path, photos: Path, tmp_path: Path) -> None:
    found = examine(str(run_folder(tiny_base, photos, tmp_path)))
    assert found.is_well
    assert found.base == str(tiny_base)
    assert rules(found) <= {"data: amount", "rank-tight"}


def test_a_run_is_examined_from_its_data_to_its_adapter(
    tiny_base: Path, photos: Path, tmp_path: Path
) -> None:
    folder = run_folder(
        tiny_base,
        photos,
        tmp_path,
        sample={"prompts": ["x" * 76], "steps": 2, "guidance_scale": 80.0},
        train={"optim": {"lr": 0.02}},
        evaluate={"prompts": ["a house"]},
        data={"source": str(photos), "trigger": "sks"},
    )
    (photos / "0.txt").unlink()
    save_image(photos / "9.png", Image.open(photos / "1.png"))
    (photos / "9.txt").write_text("thing number 1")
    (folder / "metrics.jsonl").write_text(
        "".join(json.dumps({"step": i, "loss": 1.0}) + "\n" for i in range(10))
    )
    (folder / "proof.json").write_text(json.dumps({"verdict": "collapsed", "reasons": ["All alike."]}))
    adapter_of(tiny_base, folder / "x.safetensors", size=3.0)
    found = examine(str(folder))
    assert not found.is_well
    assert {
        "prompt-cut", "steps-too-few", "guidance-broken", "rate-unusual", "data: no caption", "data: copies",
        "rate-diverged", "verdict-bad", "change-too-large", "trigger-missing",
    } <= rules(found)  # fmt: skip
    assert next(one for one in found.findings if one.rule == "verdict-bad").what.endswith("All alike")
    (photos).rename(tmp_path / "elsewhere")
    assert "data-gone" in rules(examine(str(folder)))


def test_a_prompt_that_a_run_reads_whole_is_not_called_cut(
    tiny_base: Path, photos: Path, tmp_path: Path
) -> None:
    folder = run_folder(tiny_base, photos, tmp_path, sample={"prompts": ["x" * 75]})
    assert "prompt-cut" not in rules(examine(str(folder)))


def test_an_adapter_is_held_against_its_base_at_its_weight(tiny_base: Path, tmp_path: Path) -> None:
    path = adapter_of(tiny_base, tmp_path / "a.safetensors", size=0.01, trigger="sks")
    base = str(tiny_base)
    assert "change-too-large" not in rules(examine(str(path), base=base))
    assert "change-too-large" in rules(examine(f"{path}:50", base=base))
    assert "trigger-missing" in rules(
        examine(str(path), base=base, asked_picture=AskedPicture(prompt="a house"))
    )
    assert "trigger-missing" not in rules(
        examine(str(path), base=base, asked_picture=AskedPicture(prompt="a Sks house"))
    )
    assert "trigger-missing" not in rules(examine(str(path), base=base))
    with pytest.raises(ConfigError, match="Name it with --base"):
        examine(str(path))


def test_an_adapter_of_another_family_is_a_finding(tiny_base: Path, tmp_path: Path) -> None:
    path = adapter_of(tiny_base, tmp_path / "a.safetensors", size=0.01)
    found = examine(str(path), base="sdxl")  # settings alone are enough to tell
    assert "adapter-of-another-family" in rules(found)
    assert "adapter-of-another-family" not in rules(examine(str(path), base=str(tiny_base)))


def test_a_request_and_its_picture_are_told_the_same(tiny_base: Path, tmp_path: Path) -> None:
    notes: list[str] = []
    spec = GenerateSpec(
        prompts=("a (house:3)",),
        base=str(tiny_base),
        device="cpu",
        picture=PictureSpec(steps=1, guidance_scale=80, width_px=128, height_px=64),
    )
    drawn = generate_pictures(spec, out=tmp_path, progress=lambda now: _keep(notes, now))
    told = {finding.rule for finding in drawn.warnings}
    assert told == {"steps-too-few", "guidance-broken", "size-far", "weight-extreme"}
    assert sum(note.startswith("error: ") for note in notes) == 2
    assert rules(examine(str(drawn.files[0].path), base=str(tiny_base))) == told
    wish = AskedPicture(prompt="a (house:3)", steps=1, guidance_scale=80, width_px=128, height_px=64)
    assert rules(examine(base=str(tiny_base), asked_picture=wish)) == {*told, "no-seed"}


def test_a_usual_request_is_drawn_without_a_warning(tiny_base: Path, tmp_path: Path) -> None:
    adapter = adapter_of(tiny_base, tmp_path / "a.safetensors", size=0.01)
    spec = GenerateSpec(
        prompts=("a house",),
        base=str(tiny_base),
        loras=(str(adapter),),
        device="cpu",
        picture=PictureSpec(steps=3),
    )
    assert generate_pictures(spec, out=tmp_path / "out").warnings == ()


def test_what_only_may_be_bad_is_left_to_the_doctor(tiny_base: Path, tmp_path: Path) -> None:
    how = PictureSpec(steps=5, scheduler="ddpm")
    spec = GenerateSpec(prompts=("a house by day, at night",), base=str(tiny_base), device="cpu", picture=how)
    assert generate_pictures(spec, out=tmp_path).warnings == ()
    wish = AskedPicture(prompt="a house by day, at night", steps=5, scheduler="ddpm", seed=1)
    found = rules(examine(base=str(tiny_base), asked_picture=wish))
    assert found == {"ddpm-serving", "prompt-contradicts-itself"}


def test_the_warning_of_a_heavy_adapter_is_said_before_drawing(tiny_base: Path, tmp_path: Path) -> None:
    adapter = adapter_of(tiny_base, tmp_path / "a.safetensors", size=3.0)
    spec = GenerateSpec(
        prompts=("a house",),
        base=str(tiny_base),
        loras=(str(adapter),),
        device="cpu",
        picture=PictureSpec(steps=3),
    )
    [finding] = generate_pictures(spec, out=tmp_path / "out").warnings
    assert finding.rule == "change-too-large"


def test_the_exit_code_says_whether_something_serious_was_found(
    tiny_base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = CliRunner().invoke(cli, ["doctor", "--base", str(tiny_base), "--prompt", "a house", "--json"])
    found = Examination.model_validate_json(good.output)
    assert good.exit_code == 0
    assert found.is_well
    with pytest.raises(SystemExit) as stop:
        run(["doctor", "--base", str(tiny_base), "--prompt", "a house <lora:x:1>"])
    assert stop.value.code == 17
    said = capsys.readouterr()
    assert "1 serious finding: lora-tag." in said.err
    assert re.search(r"fix:\s+Name the adapter's file with --lora", said.out)


def test_a_picture_of_somebody_else_is_refused(tmp_path: Path) -> None:
    save_image(tmp_path / "a.png", Image.new("RGB", (8, 8)))
    with pytest.raises(ConfigError, match="detour did not draw it"):
        examine(str(tmp_path / "a.png"))


def _keep(notes: list[str], now: Progress) -> None:
    if now.note:
        notes.append(now.note)
