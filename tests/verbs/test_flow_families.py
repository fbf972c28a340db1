"""SD 3 and Flux as whole runs: they train, save, reload, merge, resume, and other pipelines draw the same picture."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from detour.adapter_files import read_adapter, write_adapter
from detour.bases.base import open_base
from detour.bases.families import FAMILIES
from detour.bases.names import NO_T5
from detour.errors import Interrupted
from detour.generation.engine import PictureEngine, PictureRequest
from detour.specs import PictureSpec, RunSpec
from detour.verbs.adapter_tools.conversion import convert_adapter
from detour.verbs.chosen_adapters import attach_chosen, choose_adapter
from detour.verbs.train import run as recipe
from detour.verbs.train.run import TrainResult, train_adapter
from tests.tiny_flow import make_tiny_flux, make_tiny_sd3
from tests.verbs.photos import make_photos, quick_spec
from tests.verbs.test_train_adapter import metrics, stop_after

DEAD = {
    "sd3": ("transformer.transformer_blocks.1.attn.add_q_proj",),
    "sd3-without-t5": ("transformer.transformer_blocks.1.attn.add_q_proj",),
    "flux": (),
}
LAYERS = {"sd3": 8 + 7 - 1, "sd3-without-t5": 8 + 7 - 1, "flux": 2 * 8 + 2 * 3}
"""Joint attention of two blocks (the last one of SD 3 has no ``to_add_out``) and of Flux's two single blocks."""


def write_base(kind: str, folder: Path) -> Path:
    if kind == "flux":
        return make_tiny_flux(folder)
    return make_tiny_sd3(folder)


@pytest.fixture(scope="module", params=list(LAYERS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def spec(kind: str, tmp_path_factory: pytest.TempPathFactory) -> RunSpec:
    place = tmp_path_factory.mktemp(kind)
    base = write_base(kind, place / "base")
    base = base.with_name(base.name + NO_T5) if kind == "sd3-without-t5" else base
    flags: dict[str, Any] = {
        "data.holdout": 0.25,
        "data.resolution": 64,
        "train.steps": 4,
        "train.batch": 1,
        "adapter.targets": "attn",
        "adapter.alpha": 6,
        "adapter.formats": ("diffusers", "peft"),
        "train.optim.lr": 0.05,
        "sample.every": 4,
        "sample.count": 1,
        "evaluate.steps": 2,
    }
    return quick_spec(base, make_photos(place / "photos", 4), **flags)


@pytest.fixture(scope="module")
def straight(spec: RunSpec, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    return train_adapter(spec, runs=tmp_path_factory.mktemp("straight"))


def test_every_layer_learns_and_the_base_stays_as_it_was(kind: str, straight: TrainResult) -> None:
    assert straight.proof is not None
    gradients = straight.proof.gradients
    assert gradients is not None
    assert gradients.base_unchanged
    assert gradients.base_tensors_with_gradient == 0
    assert gradients.adapter_tensors_with_gradient == gradients.adapter_tensors == 2 * LAYERS[kind]
    assert gradients.dead_by_structure == DEAD[kind]
    layers = read_adapter(straight.adapter_file).layers
    assert len(layers) == LAYERS[kind]
    assert all(layer.up.any() for layer in layers.values())  # type: ignore[attr-defined]


def test_the_file_gives_the_trained_picture_and_merges_into_the_base(straight: TrainResult) -> None:
    proof = straight.proof
    assert proof is not None
    assert proof.pixels.mean_abs_diff > 0.1
    assert proof.reload.max_abs_diff <= 1
    assert proof.merge.max_abs_diff is not None
    assert proof.merge.max_abs_diff <= 1
    assert list((straight.run_folder / "samples").glob("step-*/*.png"))


def test_it_says_what_it_learns_by(kind: str, straight: TrainResult) -> None:
    (sentence,) = [note for note in straight.notes if "Rectified flow" in note]
    shift = {"flux": "shift 1.58"}.get(kind, "shift 3 ")  # 16 patches of Flux: exp(0.4594)
    assert "logit_normal law" in sentence
    assert shift in sentence
    text = (straight.run_folder / "resolved.toml").read_text(encoding="utf-8")
    assert 'timesteps = "logit_normal"' in text
    left_out = [note for note in straight.notes if note.startswith("T5 is left out")]
    assert len(left_out) == (kind == "sd3-without-t5")


def test_a_run_without_its_t5_says_so_wherever_its_base_is_named(kind: str, straight: TrainResult) -> None:
    """Its command for readers and its file's metadata name the base without a path of this machine."""
    if kind != "sd3-without-t5":
        pytest.skip("the others have their T5, or need it")
    card = (straight.run_folder / "README.md").read_text(encoding="utf-8")
    assert f"--base YOUR-COPY-OF-THE-BASE{NO_T5}" in card
    with safetensors.safe_open(straight.adapter_file, framework="pt") as file:
        metadata = file.metadata()
    assert f'name = "base{NO_T5}"' in metadata["detour.config"]
    assert str(straight.run_folder.parent) not in str(metadata)


def test_an_interrupted_run_goes_on_to_the_same_bytes(
    spec: RunSpec, straight: TrainResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe, "_prove", lambda *_: None)
    with pytest.raises(Interrupted):
        train_adapter(spec, runs=tmp_path, progress=stop_after(3))
    resumed = train_adapter(None, resume=tmp_path / "quick")
    assert resumed.adapter_file.read_bytes() == straight.adapter_file.read_bytes()
    assert metrics(resumed.run_folder) == metrics(straight.run_folder)


def test_diffusers_loads_the_file_and_draws_the_same_picture(
    kind: str, spec: RunSpec, straight: TrainResult
) -> None:
    import diffusers

    if kind == "flux":
        pipe = diffusers.FluxPipeline.from_pretrained(spec.base.name)
    else:
        lacking = {} if kind == "sd3" else {"text_encoder_3": None, "tokenizer_3": None}
        folder = spec.base.name.removesuffix(NO_T5)
        pipe = diffusers.StableDiffusion3Pipeline.from_pretrained(folder, **lacking)
    pipe.set_progress_bar_config(disable=True)

    def theirs() -> np.ndarray:
        how = {"guidance_scale": 3.5 if kind == "flux" else 4.5, "height": 64, "width": 64}
        start = torch.Generator().manual_seed(5)
        made = pipe("a fish", num_inference_steps=2, generator=start, output_type="np", **how).images
        return (made * 255).round().astype(np.int16)

    plain = theirs()
    pipe.load_lora_weights(straight.adapter_file.with_name(f"{straight.name}-diffusers"))
    with_adapter = theirs()
    base = open_base(str(spec.base.name))
    engine = PictureEngine.load(base)
    attach_chosen(engine.models, [choose_adapter(str(straight.adapter_file), base)])
    spec_of_picture = PictureSpec(steps=2, width_px=64, height_px=64)
    ours = engine.draw([PictureRequest(prompt="a fish", seed=5)], spec_of_picture).pictures.astype(np.int16)
    assert np.abs(with_adapter - plain).max() > 1
    assert np.abs(ours - with_adapter).max() <= 1


def test_what_the_card_says_of_diffusers_is_what_diffusers_does(
    kind: str, spec: RunSpec, straight: TrainResult, tmp_path: Path
) -> None:
    """It finds nothing in a kohya file of SD 3 and does not say so; the card says to convert it."""
    import diffusers

    if kind == "flux":
        pytest.skip("diffusers takes its kohya files apart by the true widths")
    card = (straight.run_folder / "README.md").read_text(encoding="utf-8")
    assert "finds no layer of Stable Diffusion 3" in card
    folder = spec.base.name.removesuffix(NO_T5)
    converted = tmp_path / "converted.safetensors"
    convert_adapter(straight.adapter_file, converted, to="diffusers")
    found = {}
    for file in (straight.adapter_file, converted):
        pipe = diffusers.StableDiffusion3Pipeline.from_pretrained(
            folder, text_encoder_3=None, tokenizer_3=None
        )
        pipe.load_lora_weights(str(file.parent), weight_name=file.name)
        found[file] = sum("lora_A" in name for name, _ in pipe.transformer.named_modules())
    assert found[straight.adapter_file] == 0
    assert found[converted] >= LAYERS[kind]


def test_kohya_files_name_the_original_layers(kind: str, straight: TrainResult, tmp_path: Path) -> None:
    names = set(safetensors.torch.load(straight.adapter_file.read_bytes()))
    first = "double_blocks_0_img" if kind == "flux" else "joint_blocks_0_x_block"
    assert f"lora_unet_{first}_attn_qkv.lora_down.weight" in names
    family = FAMILIES["flux" if kind == "flux" else "sd3"]
    adapter = read_adapter(straight.adapter_file)
    back = read_adapter(write_adapter(tmp_path / "p.safetensors", adapter, file_format="peft", family=family))
    assert {key: layer.delta().float() for key, layer in back.layers.items()}.keys() == adapter.layers.keys()
    for key, layer in back.layers.items():
        torch.testing.assert_close(layer.delta(), adapter.layers[key].delta(), rtol=0, atol=1e-6)
