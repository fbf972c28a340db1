"""Words trained beside the adapter, on each family: proved, resumed, saved in the usual forms, read back, used."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.torch import load_file

from detour.adapter_files import read_adapter
from detour.adapter_files.fitting import check_fits
from detour.adapter_files.unread import Unread
from detour.adapter_files.words import split_words
from detour.bases.base import open_base
from detour.bases.text import TextStage
from detour.cli.main import cli
from detour.errors import AdapterError, ConfigError, Interrupted
from detour.generation.engine import AdapterInUse, PictureEngine
from detour.specs import GenerateSpec, PictureSpec, RunSpec
from detour.verbs.adapter_tools.conversion import convert_adapter
from detour.verbs.adapter_tools.resizing import resize_adapter
from detour.verbs.draw.pictures import generate_pictures
from detour.verbs.train import run as recipe
from detour.verbs.train.run import TrainResult, train_adapter
from detour.verbs.train.run_plan import plan_run
from tests.tiny_base import make_tiny_base, make_tiny_sdxl
from tests.verbs.photos import make_photos, quick_spec
from tests.verbs.test_train_adapter import metrics, stop_after

PROMPT = "a <bob> on a hill"


@pytest.fixture(scope="module", params=["sd1", "sd2", "sdxl"])
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def spec(family: str, tmp_path_factory: pytest.TempPathFactory) -> RunSpec:
    place = tmp_path_factory.mktemp(family)
    if family == "sdxl":
        base = make_tiny_sdxl(place / "base")
    else:
        base = make_tiny_base(place / "base", linear_projection=family == "sd2")
    flags = {
        "data.trigger": "<bob>",
        "adapter.tokens.words": ("<bob>",),
        "adapter.tokens.init": ("robot",),
        "adapter.tokens.vectors": 2,
        "train.optim.lr": 0.01,
        "train.steps": 4,
        "sample.prompts": (PROMPT,),
        "data.holdout": 0.25,
        "evaluate.steps": 2,
    }
    return quick_spec(base, make_photos(place / "photos", 4), **flags)


@pytest.fixture(scope="module")
def straight(spec: RunSpec, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    return train_adapter(spec, runs=tmp_path_factory.mktemp("straight"))


def stage_of(spec: RunSpec) -> TextStage:
    return open_base(spec.base.name).load_text()


def test_the_word_learns_and_nothing_of_the_base_changes(
    family: str, straight: TrainResult, spec: RunSpec
) -> None:
    proof = straight.proof
    assert proof is not None
    assert proof.gradients is not None
    assert proof.gradients.base_unchanged
    assert proof.gradients.base_tensors_with_gradient == 0
    assert proof.gradients.adapter_tensors_with_gradient == proof.gradients.adapter_tensors
    words = read_adapter(straight.adapter_file).words
    assert set(words["<bob>"]) == (
        {"text_encoder"} if family != "sdxl" else {"text_encoder", "text_encoder_2"}
    )
    stage = stage_of(spec)
    for part, vectors in words["<bob>"].items():
        assert vectors.shape == (2, 32)
        ids = stage.tokenizers[part]("robot", add_special_tokens=False).input_ids[:2]
        known = stage.models[part].get_input_embeddings().weight.detach()
        moved = (vectors - known[ids].mean(0)).abs()
        assert moved.max() > 0.01


def test_the_file_draws_what_the_trained_model_drew(straight: TrainResult) -> None:
    proof = straight.proof
    assert proof is not None
    assert proof.pixels.mean_abs_diff > 0.1
    assert proof.reload.max_abs_diff is not None
    assert proof.reload.max_abs_diff <= 1
    assert proof.merge.max_abs_diff is not None
    assert proof.merge.max_abs_diff <= 1


def test_an_interrupted_run_goes_on_to_the_same_bytes(
    spec: RunSpec, straight: TrainResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe, "_prove", lambda *_: None)
    with pytest.raises(Interrupted):
        train_adapter(spec, runs=tmp_path, progress=stop_after(3))
    resumed = train_adapter(None, resume=tmp_path / "quick")
    assert resumed.adapter_file.read_bytes() == straight.adapter_file.read_bytes()
    assert metrics(resumed.run_folder) == metrics(straight.run_folder)


def test_the_word_is_bundled_as_other_tools_read_it(family: str, straight: TrainResult) -> None:
    with safe_open(straight.adapter_file, framework="pt") as file:
        names = {name for name in file.keys() if name.startswith("bundle_emb")}  # noqa: SIM118
    one = {"bundle_emb.<bob>.string_to_param.*"}
    assert names == (one if family != "sdxl" else {"bundle_emb.<bob>.clip_l", "bundle_emb.<bob>.clip_g"})


def test_diffusers_refuses_the_bundle_and_reads_what_it_is_converted_to(
    family: str, straight: TrainResult, tmp_path: Path
) -> None:
    """Why the model card says to convert first; once this fails, it need not say so any more."""
    from diffusers.loaders import StableDiffusionLoraLoaderMixin as Loader

    assert any("lora" not in key for key in Loader.lora_state_dict(str(straight.adapter_file))[0])
    out = tmp_path / "d.safetensors"
    convert_adapter(straight.adapter_file, out, to="diffusers", family=family)
    assert all("lora" in key for key in Loader.lora_state_dict(str(out))[0])
    assert (tmp_path / "d-tokens.safetensors").exists()


def test_diffusers_own_loader_gives_the_same_text_states(
    family: str, straight: TrainResult, spec: RunSpec
) -> None:
    from diffusers.loaders import TextualInversionLoaderMixin

    tensors = load_file(straight.run_folder / "quick-tokens.safetensors")
    ours, theirs = stage_of(spec), stage_of(spec)
    ours.words = read_adapter(straight.adapter_file).words
    loader = TextualInversionLoaderMixin()
    loader.hf_device_map = None
    loader.components = {}
    for part, name in (("text_encoder", "clip_l"), ("text_encoder_2", "clip_g")):
        if part in theirs.models:
            given = tensors[name] if family == "sdxl" else tensors
            loader.load_textual_inversion(
                given, token="<bob>", tokenizer=theirs.tokenizers[part], text_encoder=theirs.models[part]
            )
    prompts = [PROMPT, "<bob>", "two dogs, <bob>, and <bob>", "no such word", "x " * 30 + "<bob> " + "y " * 9]
    converted = [loader.maybe_convert_prompt(prompt, theirs.tokenizers["text_encoder"]) for prompt in prompts]
    torch.testing.assert_close(ours.encode(prompts).states, theirs.encode(converted).states)
    pooled, expected = ours.encode(prompts).pooled, theirs.encode(converted).pooled
    assert (pooled is None) == (expected is None) == (family != "sdxl")
    if pooled is not None:
        torch.testing.assert_close(pooled, expected)


def test_generate_installs_the_word_with_the_adapter(
    straight: TrainResult, spec: RunSpec, tmp_path: Path
) -> None:
    how = PictureSpec(steps=2)
    flags = GenerateSpec(
        prompts=(PROMPT,), base=spec.base.name, loras=(str(straight.adapter_file),), seed=1, device="cpu", dtype="fp32",
        batch=1, compare=True, picture=how,
    )  # fmt: skip
    files = generate_pictures(flags, out=tmp_path).files
    from PIL import Image

    drawn, plain = (
        np.asarray(Image.open(next(one.path for one in files if one.kind == kind)))
        for kind in ("picture", "base")
    )
    base = open_base(spec.base.name)
    engine = PictureEngine.load(base)
    [request] = [type("R", (), {"prompt": PROMPT, "seed": 1, "negative_prompt": ""})()]
    assert np.array_equal(plain, engine.draw([request], how, batch=1).pictures[0])
    adapter = read_adapter(straight.adapter_file)
    own = [AdapterInUse(adapter=adapter)]
    assert np.array_equal(drawn, engine.draw([request], how, adapters=own, batch=1).pictures[0])
    from detour.adapters.attach import attach_adapter

    attach_adapter(engine.models, adapter)
    without_word = engine.draw([request], how, batch=1).pictures[0]
    engine.text.words = adapter.words
    attached = engine.draw([request], how, batch=1).pictures[0]
    assert np.abs(drawn.astype(int) - attached.astype(int)).max() <= 1
    assert np.abs(drawn.astype(int) - without_word.astype(int)).max() > 1


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"adapter__tokens__words": ("b",)}, "is a word of base"),
        ({"adapter__tokens__words": ("two words",)}, "has a blank"),
        ({"adapter__tokens__words": ("<ann>",)}, "no caption has the word"),
        ({"adapter__tokens__words": ("pictur",)}, "no caption has the word"),
        ({"adapter__tokens__init": ()}, "0 words to start from"),
        ({"adapter__tokens__init": (" ",)}, "an empty word"),
        ({"adapter__tokens__vectors": 40}, "at most fit"),
        (
            {"adapter__tokens__words": ("<bob>", "<BOB>"), "adapter__tokens__init": ("a", "b")},
            "a word twice",
        ),
    ],
)
def test_words_that_cannot_be_trained_are_refused(
    tiny_base: Path, tmp_path: Path, flags: dict[str, object], words: str
) -> None:
    given = {
        "data__trigger": "<bob>",
        "adapter__tokens__words": ("<bob>",),
        "adapter__tokens__init": ("robot",),
    }
    spec = quick_spec(tiny_base, make_photos(tmp_path / "photos", 2), **{**given, **flags})
    with pytest.raises(ConfigError, match=words):
        plan_run(spec)


def test_words_go_along_when_a_file_is_converted_and_are_not_lost_in_silence(
    family: str, straight: TrainResult, tmp_path: Path
) -> None:
    words = read_adapter(straight.adapter_file).words
    kohya = tmp_path / "again.safetensors"
    convert_adapter(straight.adapter_file, kohya, to="kohya", family=family)
    again = read_adapter(kohya).words
    assert all(torch.equal(again["<bob>"][part], vectors) for part, vectors in words["<bob>"].items())
    convert_adapter(straight.adapter_file, tmp_path / "d.safetensors", to="diffusers", family=family)
    beside = load_file(tmp_path / "d-tokens.safetensors")
    assert set(beside) == ({"<bob>"} if family != "sdxl" else {"clip_l", "clip_g"})
    with pytest.raises(AdapterError, match="resizing would lose"):
        resize_adapter(straight.adapter_file, out=tmp_path / "small.safetensors", rank=1)


def test_a_merge_says_which_words_a_base_cannot_hold(
    spec: RunSpec, straight: TrainResult, tmp_path: Path
) -> None:
    arguments = ["merge", spec.base.name, "--lora", str(straight.adapter_file), "--pictures", "0"]
    result = CliRunner().invoke(cli, [*arguments, "--out", str(tmp_path / "m")])
    assert result.exit_code == 0, result.output
    assert "left out  <bob>: words with vectors of their own" in result.output


@pytest.mark.parametrize(
    ("name", "vectors", "words"),
    [
        ("bundle_emb.<bob>.string_to_param.*", torch.ones(80, 4), "at most 75"),
        ("bundle_emb.<bob>.string_to_param.*", torch.full((1, 4), float("nan")), "NaN"),
        ("bundle_emb.<bob>.hyper", torch.ones(1, 4), "no textual inversion"),
        ("bundle_emb..clip_l", torch.ones(1, 4), "vectors of shape"),
    ],
)
def test_words_of_a_file_are_checked(name: str, vectors: torch.Tensor, words: str) -> None:
    with pytest.raises(AdapterError, match=words):
        split_words({name: vectors}, Unread("file"))


def test_a_word_of_another_width_does_not_fit(straight: TrainResult, spec: RunSpec) -> None:
    adapter = read_adapter(straight.adapter_file)
    base = open_base(spec.base.name)
    check_fits(adapter, base)
    wide = {part: torch.ones(1, 48) for part in adapter.words["<bob>"]}
    with pytest.raises(AdapterError, match="vectors of 48"):
        check_fits(replace(adapter, words={"<bob>": wide}), base)
