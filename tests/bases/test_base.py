import gc
import json
import shutil
from pathlib import Path

import pytest
import torch

from detour.bases.base import open_base
from detour.errors import BaseError


def copy_of(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to / "copy"))


@pytest.mark.parametrize(
    ("name", "family", "size", "width", "parameters"),
    [
        ("sd15", "sd1", 512, 768, 859_520_964),
        ("sd21", "sd2", 768, 1024, 865_910_724),
        ("sdxl", "sdxl", 1024, 2048, 2_567_463_684),
    ],
)
def test_known_bases_have_the_published_shapes(
    name: str, family: str, size: int, width: int, parameters: int
) -> None:
    base = open_base(name)
    assert (base.family.name, base.native_size_px, base.cross_attention_width) == (family, size, width)
    assert base.latent_factor == 8
    unet = base.meta_network()
    assert sum(parameter.numel() for parameter in unet.parameters()) == parameters
    assert next(unet.parameters()).is_meta


def test_pocket_is_an_sd1_of_128_px_with_its_weights() -> None:
    base = open_base("pocket")
    assert (base.family.name, base.native_size_px, base.latent_channels) == ("sd1", 128, 4)
    base.require_weights()


def test_parts_come_frozen_in_the_dtype_asked_for(tiny_base: Path) -> None:
    base = open_base(str(tiny_base))
    text = base.load_text(torch.bfloat16)
    for model in (base.load_network(torch.bfloat16), base.load_vae(torch.bfloat16), *text.models.values()):
        assert not model.training
        assert all(not parameter.requires_grad for parameter in model.parameters())
        assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_a_part_leaves_memory_when_it_is_let_go(tiny_base: Path) -> None:
    import weakref

    base = open_base(str(tiny_base))
    vae = base.load_vae()
    watch = weakref.ref(vae)
    del vae
    gc.collect()
    assert watch() is None


def test_identity_is_the_same_on_every_machine(tiny_base: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(tiny_base, tmp_path / "elsewhere" / "tiny"))
    assert open_base(str(tiny_base)).identity == open_base(str(moved)).identity == "tiny"
    snapshot = tmp_path / "models--owner--my-model" / "snapshots" / ("0" * 40)
    shutil.copytree(tiny_base, snapshot)
    assert open_base(str(snapshot)).identity == "my-model"
    assert open_base("pocket").identity == "pocket-v1"


def test_recommended_guidance_is_measured_or_the_familys(tiny_base: Path, tmp_path: Path) -> None:
    assert open_base(str(tiny_base)).recommended_guidance == 7.5
    folder = copy_of(tiny_base, tmp_path)
    (folder / "measured.json").write_text(json.dumps({"recommended_guidance": 3}))
    assert open_base(str(folder)).recommended_guidance == 3.0


def test_names_without_weights_say_where_weights_are_expected() -> None:
    base = open_base("sd15")
    for load in (base.load_network, base.load_vae, base.load_text, base.require_weights):
        with pytest.raises(BaseError, match="stable-diffusion-v1-5/stable-diffusion-v1-5"):
            load()


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "scheduler", "tokenizer"])
def test_a_folder_that_lacks_a_part_names_it(tiny_base: Path, tmp_path: Path, part: str) -> None:
    folder = copy_of(tiny_base, tmp_path)
    shutil.rmtree(folder / part)
    with pytest.raises(BaseError, match=f"lacks {part}/"):
        open_base(str(folder))


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_missing_weights_are_found_before_anything_is_loaded(
    tiny_base: Path, tmp_path: Path, part: str
) -> None:
    folder = copy_of(tiny_base, tmp_path)
    next((folder / part).glob("*.safetensors")).unlink()
    base = open_base(str(folder))
    with pytest.raises(BaseError, match=f"copy/{part}: settings are there but no weights"):
        base.require_weights()
    (folder / part / "pytorch_model.bin").touch()
    with pytest.raises(BaseError, match="pickle"):
        base.require_weights()


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_damaged_weights_are_one_line(tiny_base: Path, tmp_path: Path, part: str) -> None:
    folder = copy_of(tiny_base, tmp_path)
    weights = next((folder / part).glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:1000])
    base = open_base(str(folder))
    load = {"unet": base.load_network, "vae": base.load_vae, "text_encoder": base.load_text}[part]
    with pytest.raises(BaseError, match=f"copy/{part}: weights cannot be loaded") as caught:
        load()
    assert "\n" not in str(caught.value)


def test_half_precision_files_are_read_where_there_are_no_others(tiny_base: Path, tmp_path: Path) -> None:
    folder = copy_of(tiny_base, tmp_path)
    whole = open_base(str(tiny_base)).load_network().state_dict()
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_name("diffusion_pytorch_model.fp16.safetensors"))
    found = open_base(str(folder)).load_network().state_dict()
    assert all(torch.equal(found[name], whole[name]) for name in whole)


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"in_channels": 9}', '{"_class_name": "FluxTransformer2DModel"}']
)
def test_settings_that_make_no_known_base_are_one_line(tiny_base: Path, tmp_path: Path, content: str) -> None:
    folder = copy_of(tiny_base, tmp_path)
    (folder / "unet" / "config.json").write_text(content)
    with pytest.raises(BaseError) as caught:
        open_base(str(folder))
    assert "\n" not in str(caught.value)


def test_a_tokenizer_larger_than_its_encoder_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    folder = copy_of(tiny_base, tmp_path)
    config = json.loads((folder / "text_encoder" / "config.json").read_text())
    (folder / "text_encoder" / "config.json").write_text(json.dumps({**config, "vocab_size": 300}))
    with pytest.raises(BaseError, match=r"text_encoder|tokenizer"):
        open_base(str(folder)).load_text()


@pytest.mark.parametrize("name", ["pockt", "no/such/folder", "model.ckpt", ""])
def test_what_is_no_base_is_said(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.ckpt").touch()
    with pytest.raises(BaseError) as caught:
        open_base(name)
    assert len(str(caught.value)) > 20


def test_loading_says_nothing_on_the_terminal(tiny_base: Path, capfd: pytest.CaptureFixture[str]) -> None:
    base = open_base(str(tiny_base))
    base.load_network(torch.bfloat16)
    base.load_vae()
    base.load_text()
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


def test_attention_over_one_position_is_dead_and_found() -> None:
    base = open_base("sd15")
    assert base.dead_by_structure() == ()
    at_64_px = base.dead_by_structure(64)
    import re

    dead = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_k"
    assert any(re.fullmatch(pattern, dead) for pattern in at_64_px)
    for live in (dead.replace("to_k", "to_v"), dead.replace("attn1", "attn2")):
        assert not any(re.fullmatch(pattern, live) for pattern in at_64_px)


def test_dead_layers_are_dead_when_run(tiny_base: Path) -> None:
    """At 8 px of latents over one level the middle has 4x4; at 2 it has one position."""
    import re

    base = open_base(str(tiny_base))
    assert base.dead_by_structure(64) == ()
    patterns = base.dead_by_structure(16)
    unet = base.load_network().requires_grad_(True)
    sample = torch.randn(1, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    states = torch.randn(1, 5, 32, generator=torch.Generator().manual_seed(1))
    unet(sample, torch.tensor(500), states).sample.pow(2).sum().backward()
    norms = {name: float(p.grad.norm()) for name, p in unet.named_parameters() if p.grad is not None}
    dead = {
        name for name, norm in norms.items() if norm < 1e-6 and re.search(r"attn1\.to_[qk]\.weight", name)
    }
    assert dead == {
        name
        for name in norms
        if any(re.fullmatch(pattern, f"unet.{name.removesuffix('.weight')}") for pattern in patterns)
    }
    assert dead


def test_weights_lie_aligned_in_memory_so_that_the_file_does_not_change_the_sums(tiny_base: Path) -> None:
    base = open_base(str(tiny_base))
    for model in (base.load_network(), base.load_vae(), *base.load_text().models.values()):
        assert {tensor.data_ptr() % 64 for tensor in model.state_dict().values()} == {0}


def test_a_base_is_known_by_what_it_holds_and_not_by_its_name(tiny_base: Path, tmp_path: Path) -> None:
    one, two = (Path(shutil.copytree(tiny_base, tmp_path / name)) for name in ("one", "two"))
    first = open_base(str(one)).content_sha256()
    assert first == open_base(str(two)).content_sha256()
    for file in (
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
        "tokenizer/merges.txt",
    ):
        place = one / file
        data = place.read_bytes()
        place.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        assert open_base(str(one)).content_sha256() != first, file
        place.write_bytes(data)
    config = one / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"steps_offset": 0}))
    assert open_base(str(one)).content_sha256() != first
