import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from detour.adapter_files import write_adapter
from detour.adapters.adapter import Adapter, LoraLayer
from detour.adapters.attach import attach_adapter, attach_new
from detour.adapters.targets import adaptable_layers, select
from detour.bases.base import open_base
from detour.errors import RunError
from detour.evaluation.proof import Proof, read_proof
from detour.evaluation.proof_pictures import draw_proof_pictures, keep_trained_pictures, proof_requests
from detour.files import write_json, write_text
from detour.generation.engine import PictureEngine
from detour.specs import (
    AdapterSpec,
    BaseSpec,
    DataSpec,
    EvaluateSpec,
    OptimSpec,
    RunSpec,
    SampleSpec,
    TrainSpec,
    to_toml,
)
from detour.verbs.judge.held_out_material import read_world_style, write_world_style
from detour.verbs.judge.proof_of_run import prove_run
from tests.verbs.embedded import embedded_base

GRADIENTS = {
    "adapter_tensors": 16,
    "adapter_tensors_with_gradient": 16,
    "dead_by_structure": [],
    "base_tensors_with_gradient": 0,
    "base_unchanged": True,
}


def make_spec(base: Path, data: Path, *, lr: float = 1e-3, prompts: tuple[str, ...] = ("a cup",)) -> RunSpec:
    return RunSpec(
        name="tiny",
        base=BaseSpec(name=str(base), device="cpu", dtype="fp32"),
        data=DataSpec(source=str(data), resolution=64, holdout=0.25),
        adapter=AdapterSpec(rank=2, alpha=2.0, targets="attn"),
        train=TrainSpec(steps=2, batch=1, threads=torch.get_num_threads(), optim=OptimSpec(lr=lr)),
        sample=SampleSpec(prompts=("a red cat", "a dog"), guidance_scale=1.0),
        evaluate=EvaluateSpec(prompts=prompts, num_prompts=4, proof_pictures=2, steps=2),
    )


def trained_adapter(base: Path, *, strength: float = 0.5) -> Adapter:
    """An adapter that moves pictures as a trained one does."""
    unet = open_base(str(base)).load_network()
    attached = attach_new(unet, "unet", select(adaptable_layers(unet), "attn"), rank=2, alpha=2.0)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for _, up in attached.factors.values():
            up.copy_(strength * torch.randn(up.shape, generator=generator))
    return attached.to_adapter()


def scaled(adapter: Adapter, factor: float) -> Adapter:
    layers = adapter.plain_layers(purpose="scaling")
    return Adapter({key: replace(layer, up=layer.up * factor) for key, layer in layers.items()})


def make_run(
    folder: Path, base: Path, adapter: Adapter, *, in_memory: Adapter | None = None, **spec: Any
) -> Path:
    """A finished run without its proof, as the trainer leaves it."""
    data = folder / "data"
    data.mkdir(parents=True)
    for index in range(8):
        pixels = np.random.default_rng(index).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(data / f"{index}.png")
        (data / f"{index}.txt").write_text("a red cat")
    settings = make_spec(base, data, **spec)
    write_text(folder / "resolved.toml", to_toml(settings))
    write_json(folder / "run.json", {"schema": 1, "state": "finished", "seconds": 1.5})
    write_json(folder / "gradients.json", GRADIENTS)
    write_text(folder / "metrics.jsonl", '{"step": 0, "val_loss": 0.5}\n{"step": 2, "val_loss": 0.4}\n')
    opened = open_base(str(base))
    write_adapter(folder / "tiny.safetensors", adapter, family=opened.family)
    engine = PictureEngine.load(opened)
    attach_adapter({"unet": engine.unet}, in_memory or adapter)
    requests = proof_requests(settings, ["a red cat"])
    keep_trained_pictures(folder, requests, draw_proof_pictures(engine, requests, settings))
    return folder


@pytest.fixture(scope="module")
def proved(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Proof]:
    folder = make_run(tmp_path_factory.mktemp("runs") / "tiny", tiny_base, trained_adapter(tiny_base))
    return folder, prove_run(folder)


def test_a_trained_adapter_is_proved_with_an_effect_that_survives_reload_and_merge(
    proved: tuple[Path, Proof],
) -> None:
    _, proof = proved
    assert proof.pixels.mean_abs_diff > 0.5
    assert proof.pixels.noise_floor == 0.0
    assert proof.reload.max_abs_diff is not None
    assert proof.reload.max_abs_diff <= 1
    assert proof.merge.max_abs_diff is not None
    assert proof.merge.max_abs_diff <= 1
    assert proof.gradients is not None
    assert proof.gradients.adapter_tensors == 16
    assert proof.verdict == "learned"  # without a judge the loss on pictures kept out decides


def test_the_folder_holds_proof_page_card_and_sheet(proved: tuple[Path, Proof]) -> None:
    folder, proof = proved
    assert read_proof(folder / "proof.json") == proof
    assert "a cup" in (folder / "report.html").read_text()
    assert "samples/sheet.png" in (folder / "README.md").read_text()
    assert (folder / "samples" / "sheet.png").stat().st_size > 0


def test_page_and_card_hold_no_path_of_the_machine(proved: tuple[Path, Proof]) -> None:
    folder, _ = proved
    for name in ("report.html", "README.md", "proof.json"):
        assert str(folder.parent) not in (folder / name).read_text()


def test_without_a_judge_scores_are_null_and_a_reason_says_why(proved: tuple[Path, Proof]) -> None:
    _, proof = proved
    assert proof.held_out.prompts == 1
    assert proof.held_out.style_distance is None
    assert proof.held_out.prompt_accuracy is None
    assert any("no judge" in reason for reason in proof.reasons)


def test_proving_twice_gives_the_same_proof(proved: tuple[Path, Proof]) -> None:
    folder, proof = proved
    assert prove_run(folder) == proof


def elsewhere(adapter: Adapter) -> Adapter:
    """The same factors for layers that the base does not have."""
    layer = next(iter(adapter.plain_layers(purpose="moving").values()))
    path = "unet.down_blocks.2.attentions.0.transformer_blocks.0.attn2.to_q"
    return Adapter({path: LoraLayer(down=layer.down, up=layer.up, alpha=layer.alpha)})


@pytest.mark.parametrize(
    ("plant", "lr", "weight", "words"),
    [
        (lambda adapter: (scaled(adapter, 0), scaled(adapter, 0)), 0.0, 1.0, "learning rate was 0"),
        (lambda adapter: (elsewhere(adapter), scaled(adapter, 0)), 1e-3, 1.0, "keys matched nothing"),
        (lambda adapter: (adapter, scaled(adapter, 0)), 1e-3, 0.0, "weight 0"),
        (lambda adapter: (scaled(adapter, 0), scaled(adapter, 0)), 1e-3, 1.0, "still zero"),
        (lambda adapter: (scaled(adapter, 1e-6), adapter), 1e-3, 1.0, "lost on reload"),
    ],
    ids=["rate-0", "keys", "weight-0", "up-zero", "reload"],
)
def test_a_planted_cause_of_no_effect_is_found_and_named_first(
    plant: Callable[[Adapter], tuple[Adapter, Adapter]],
    lr: float,
    weight: float,
    words: str,
    tiny_base: Path,
    tmp_path: Path,
) -> None:
    in_file, in_memory = plant(trained_adapter(tiny_base))
    run = make_run(tmp_path / "tiny", tiny_base, in_file, in_memory=in_memory, lr=lr, prompts=())
    proof = prove_run(run, weight=weight)
    assert proof.verdict == "no_effect"
    assert words in proof.reasons[1]


@pytest.fixture(scope="module")
def judged_base(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The tiny base as an embedded one: the world writes its prompts, a random judge scores them."""
    with pytest.MonkeyPatch.context() as patch:
        yield embedded_base(tiny_base, tmp_path_factory.mktemp("bases"), patch, with_judge=True)


@pytest.mark.parametrize("style", [None, "comic"])
def test_the_embedded_base_is_scored_on_prompts_of_the_world(
    style: str | None, judged_base: Path, tmp_path: Path
) -> None:
    run = make_run(tmp_path / "tiny", judged_base, trained_adapter(judged_base), prompts=())
    if style:
        write_world_style(run, style)
    proof = prove_run(run)
    assert proof.held_out.prompts == 4
    assert proof.held_out.style_distance is not None
    assert proof.held_out.prompt_accuracy is not None
    page = (run / "report.html").read_text()
    assert ("true style" in page) == (style is not None)


def test_training_pictures_that_are_gone_are_said_and_do_not_stop_the_proof(
    judged_base: Path, tmp_path: Path
) -> None:
    run = make_run(tmp_path / "tiny", judged_base, trained_adapter(judged_base))
    shutil.rmtree(run / "data")
    proof = prove_run(run)
    assert proof.held_out.style_distance is None
    assert any("training pictures are not where" in reason for reason in proof.reasons)


def test_a_folder_without_a_run_or_without_an_adapter_is_one_line(tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no resolved\.toml"):
        prove_run(tmp_path)
    write_text(tmp_path / "resolved.toml", to_toml(make_spec(tiny_base, tmp_path)))
    with pytest.raises(RunError, match="no adapter yet"):
        prove_run(tmp_path)


def test_a_style_that_the_world_does_not_have_is_refused(tmp_path: Path) -> None:
    write_world_style(tmp_path, "cubism")
    with pytest.raises(RunError, match="cubism"):
        read_world_style(tmp_path)
