"""The table of methods on SD 3 and Flux in docs/families.md: each cell of it is tried here."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detour.bases.base import open_base
from detour.errors import AdapterError
from detour.generation.engine import PictureEngine, PictureRequest
from detour.specs import PictureSpec
from detour.verbs.adapter_tools.conversion import convert_adapter
from detour.verbs.adapter_tools.merging import merge_adapters
from detour.verbs.chosen_adapters import attach_chosen, choose_adapter
from detour.verbs.train import run as recipe
from detour.verbs.train.run import TrainResult, train_adapter
from tests.tiny_flow import make_tiny_flux, make_tiny_sd3
from tests.verbs.photos import make_photos
from tests.verbs.test_flow_methods import METHODS as SETTINGS
from tests.verbs.test_flow_methods import spec_of
from tests.verbs.test_train_adapter import metrics, stop_after

DOCS = Path(__file__).parents[2] / "docs" / "families.md"
FAMILIES = ("sd3", "flux")
YES, NO_FILE, WHOLE = "yes", "refused by name", "is a base itself"
METHODS: dict[str, tuple[str, str, str, str]] = {
    "lora": (YES, YES, YES, YES),
    "rslora": (YES, YES, YES, YES),
    "pissa": (YES, YES, YES, YES),
    "dora": (YES, YES, YES, YES),
    "loha": (YES, YES, YES, NO_FILE),
    "lokr": (YES, YES, YES, NO_FILE),
    "text encoders": (YES, YES, YES, YES),
    "full": (YES, YES, WHOLE, YES),
}
"""Method → whether it trains, resumes to the byte, merges into a folder, and draws the same picture in diffusers."""


def table() -> str:
    """The table as it stands in the page."""
    heads = "method, on SD 3 and on Flux | trains | resumes to the byte | merges | draws the same picture in diffusers"
    lines = [f"| {heads} |", "|---|---|---|---|---|"]
    return "\n".join([*lines, *(f"| {name} | {' | '.join(cells)} |" for name, cells in METHODS.items())])


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("bases")
    return {"sd3": make_tiny_sd3(place / "sd3"), "flux": make_tiny_flux(place / "flux")}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_photos(tmp_path_factory.mktemp("data") / "photos", 4)


@pytest.fixture(scope="module", params=[(family, method) for family in FAMILIES for method in METHODS])
def trained(
    request: pytest.FixtureRequest,
    bases: dict[str, Path],
    photos: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[str, str, Any, TrainResult]:
    family, method = request.param
    spec = spec_of(bases[family], photos, checkpoint__every=2, **SETTINGS.get(method, {}))
    return (
        family,
        method,
        spec,
        train_adapter(spec, runs=tmp_path_factory.mktemp("straight"), prove=False),
    )


def test_the_page_has_the_table_that_is_tried_here() -> None:
    assert table() in DOCS.read_text(encoding="utf-8")


def test_it_resumes_to_the_byte(
    trained: tuple[str, str, Any, TrainResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, spec, straight = trained
    monkeypatch.setattr(recipe, "_prove", lambda *_: None)
    with pytest.raises(Exception, match="resume"):
        train_adapter(spec, runs=tmp_path, prove=False, progress=stop_after(3))
    again = train_adapter(None, resume=tmp_path / straight.run_folder.name, prove=False)
    assert product(again.adapter_file) == product(straight.adapter_file)
    assert metrics(again.run_folder) == metrics(straight.run_folder)


def product(path: Path) -> dict[str, bytes]:
    """Bytes of the adapter's file, or of every file of a base."""
    files = [one for one in path.rglob("*") if one.is_file()] if path.is_dir() else [path]
    return {str(one.relative_to(path)): one.read_bytes() for one in files}


def pictures(pipe: Any, family: str) -> np.ndarray:
    pipe.set_progress_bar_config(disable=True)
    how = {"guidance_scale": 3.5 if family == "flux" else 4.5, "height": 64, "width": 64}
    start = torch.Generator().manual_seed(5)
    made = pipe("a fish", num_inference_steps=2, generator=start, output_type="np", **how).images
    return (made * 255).round().astype(np.int16)


def ours(base: Path, adapter: Path | None) -> np.ndarray:
    opened = open_base(str(base))
    engine = PictureEngine.load(opened, dtype="fp32")
    if adapter is not None:
        attach_chosen(engine.models, [choose_adapter(str(adapter), opened)])
    how = PictureSpec(steps=2, width_px=64, height_px=64)
    return engine.draw([PictureRequest(prompt="a fish", seed=5)], how).pictures.astype(np.int16)


def test_its_merged_base_draws_its_picture(
    trained: tuple[str, str, Any, TrainResult], bases: dict[str, Path], tmp_path: Path
) -> None:
    family, method, _, straight = trained
    if METHODS[method][2] == WHOLE:
        pytest.skip("nothing is left to merge")
    merge_adapters(str(bases[family]), [str(straight.adapter_file)], out=tmp_path / "merged", pictures=0)
    with_adapter = ours(bases[family], straight.adapter_file)
    assert np.abs(ours(tmp_path / "merged", None) - with_adapter).max() <= 1
    assert np.abs(with_adapter - ours(bases[family], None)).max() > 1


def test_diffusers_draws_its_picture(
    trained: tuple[str, str, Any, TrainResult], bases: dict[str, Path], tmp_path: Path
) -> None:
    import diffusers

    family, method, _, straight = trained
    file = tmp_path / "converted.safetensors"
    if METHODS[method][3] == NO_FILE:
        with pytest.raises(AdapterError, match="this format cannot hold"):
            convert_adapter(straight.adapter_file, file, to="diffusers")
        return
    pipeline = diffusers.FluxPipeline if family == "flux" else diffusers.StableDiffusion3Pipeline
    if method == "full":
        theirs = pictures(pipeline.from_pretrained(straight.adapter_file), family)
        assert np.abs(theirs - ours(straight.adapter_file, None)).max() <= 1
        return
    convert_adapter(straight.adapter_file, file, to="diffusers")
    pipe = pipeline.from_pretrained(bases[family])
    plain = pictures(pipe, family)
    pipe.load_lora_weights(str(file.parent), weight_name=file.name)
    theirs = pictures(pipe, family)
    assert np.abs(theirs - plain).max() > 1
    assert np.abs(theirs - ours(bases[family], straight.adapter_file)).max() <= 1
