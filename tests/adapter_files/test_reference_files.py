"""IP-Adapter files: what they are is told by shapes, what is read is bounded, and what cannot be used says why."""

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from detour.adapter_files.reading import read_adapter
from detour.adapter_files.reference_files import read_reference_adapter, read_reference_facts
from detour.adapters.reference_kinds import facts_of_shapes
from detour.bases.base import open_base
from detour.cli.main import cli
from detour.errors import AdapterError, BaseError
from detour.verbs.adapter_tools.contents import ReferenceReport, show_adapter
from tests.reference_files import Kind, reference_tensors

PUBLISHED: dict[str, tuple[str, int, int, str, str, str]] = {
    # file → kind, width that the projection reads, text width, encoder, family
    "ip-adapter_sd15": ("plain", 1024, 768, "sd15", "ViT-H", "sd1"),
    "ip-adapter_sd15_vit-G": ("plain", 1280, 768, "sd15", "ViT-bigG", "sd1"),
    "ip-adapter-plus_sd15": ("plus", 1280, 768, "sd15", "ViT-H", "sd1"),
    "ip-adapter-full-face_sd15": ("full", 1280, 768, "sd15", "ViT-H", "sd1"),
    "ip-adapter_sdxl": ("plain", 1280, 2048, "sdxl", "ViT-bigG", "sdxl"),
    "ip-adapter_sdxl_vit-h": ("plain", 1024, 2048, "sdxl", "ViT-H", "sdxl"),
    "ip-adapter-plus_sdxl_vit-h": ("plus", 1280, 2048, "sdxl", "ViT-H", "sdxl"),
}
"""Published file → kind, width read, text width, base of its layers, image encoder, family."""

Shapes = dict[str, tuple[int, ...]]


def published_shapes(kind: str, width: int, text_width: int, network: nn.Module) -> Shapes:
    """Shapes of the files of the authors' release, made from their code's settings."""
    from detour.adapters.reference_rows import cross_attentions

    if kind == "plain":
        found: Shapes = {"proj.weight": (4 * text_width, width), "proj.bias": (4 * text_width,)}
        found |= {"norm.weight": (text_width,), "norm.bias": (text_width,)}
    elif kind == "full":
        found = {"proj.0.weight": (width, width), "proj.0.bias": (width,)}
        found |= {"proj.2.weight": (text_width, width), "proj.2.bias": (text_width,)}
        found |= {"proj.3.weight": (text_width,), "proj.3.bias": (text_width,)}
    else:
        inner, heads = (1280, 20) if text_width == 2048 else (768, 12)
        found = {"latents": (1, 16, inner), "proj_in.weight": (inner, width), "proj_in.bias": (inner,)}
        found |= {"proj_out.weight": (text_width, inner), "proj_out.bias": (text_width,)}
        found |= {"norm_out.weight": (text_width,), "norm_out.bias": (text_width,)}
        for layer in range(4):
            for name in ("0.norm1", "0.norm2", "1.0"):
                found |= {f"layers.{layer}.{name}.{what}": (inner,) for what in ("weight", "bias")}
            found[f"layers.{layer}.0.to_q.weight"] = (64 * heads, inner)
            found[f"layers.{layer}.0.to_kv.weight"] = (128 * heads, inner)
            found[f"layers.{layer}.0.to_out.weight"] = (inner, 64 * heads)
            found[f"layers.{layer}.1.1.weight"] = (4 * inner, inner)
            found[f"layers.{layer}.1.3.weight"] = (inner, 4 * inner)
    whole = {f"image_proj.{name}": shape for name, shape in found.items()}
    for index, module in enumerate(cross_attentions(network).values()):
        for side in "kv":
            hidden = int(module.inner_dim)  # type: ignore[arg-type]
            whole[f"ip_adapter.{2 * index + 1}.to_{side}_ip.weight"] = (hidden, text_width)
    return whole


@pytest.fixture(scope="module")
def networks() -> dict[str, nn.Module]:
    return {name: open_base(name, weights=False).meta_network() for name in ("sd15", "sdxl")}


@pytest.mark.parametrize("name", PUBLISHED)
def test_kind_image_encoder_and_family_of_published_files_are_told_by_shapes(
    name: str, networks: dict[str, nn.Module]
) -> None:
    kind, width, text_width, base, encoder, family = PUBLISHED[name]
    facts = facts_of_shapes(published_shapes(kind, width, text_width, networks[base]), where=name)
    assert (facts.kind, facts.encoder, facts.family) == (kind, encoder, family)
    assert facts.num_layers == (16 if base == "sd15" else 70)
    assert facts.num_tokens == {"plain": 4, "plus": 16, "full": 0}[kind]


def test_sd15_plain_has_the_number_of_parameters_of_the_paper(networks: dict[str, nn.Module]) -> None:
    facts = facts_of_shapes(published_shapes("plain", 1024, 768, networks["sd15"]), where="sd15")
    assert round(facts.num_parameters / 1e6) == 22  # arXiv:2308.06721, section 4.1


@pytest.fixture(scope="module")
def unet(tiny_base: Path) -> nn.Module:
    return open_base(str(tiny_base)).meta_network()


def written(path: Path, tensors: dict[str, Tensor]) -> Path:
    safetensors.torch.save_file(tensors, path)
    return path


@pytest.mark.parametrize("kind", ["plain", "plus", "full"])
def test_the_projection_is_that_of_diffusers(unet: Any, tmp_path: Path, kind: Kind) -> None:
    from diffusers.loaders.unet import UNet2DConditionLoadersMixin

    tensors = reference_tensors(unet, kind)
    adapter = read_reference_adapter(written(tmp_path / "a.safetensors", tensors))
    own = {n.removeprefix("image_proj."): t for n, t in tensors.items() if n.startswith("image_proj.")}
    theirs = UNet2DConditionLoadersMixin()._convert_ip_adapter_image_proj_to_diffusers(
        own, low_cpu_mem_usage=False
    )
    seen = torch.randn(2, 24) if kind == "plain" else torch.randn(2, 17, 32)
    with torch.no_grad():
        assert torch.equal(adapter.projection(seen), theirs(seen))
    assert adapter.facts.kind == kind
    assert len(adapter.keys) == len(adapter.values) == adapter.facts.num_layers
    assert not any(parameter.requires_grad for parameter in adapter.projection.parameters())


def test_a_pickle_is_refused_unless_it_is_allowed_and_then_holds_the_same(unet: Any, tmp_path: Path) -> None:
    tensors = reference_tensors(unet, "plain")
    tables: dict[str, dict[str, Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        tables[part][rest] = tensor
    torch.save(tables, tmp_path / "a.bin")
    with pytest.raises(AdapterError, match="can run code"):
        read_reference_adapter(tmp_path / "a.bin")
    with pytest.raises(AdapterError, match="can run code"):
        show_adapter(tmp_path / "a.bin")
    mine = read_reference_adapter(tmp_path / "a.bin", allow_pickle=True)
    theirs = read_reference_adapter(written(tmp_path / "a.safetensors", tensors))
    assert mine.facts == theirs.facts
    assert all(torch.equal(a, b) for a, b in zip(mine.keys, theirs.keys, strict=True))
    assert read_reference_facts(tmp_path / "a.bin", allow_pickle=True)[0] == mine.facts


FACES = {
    "FaceID": {"image_proj.proj.0.weight": (8, 8), "image_proj.norm.weight": (8,)},
    "FaceID Plus": {"image_proj.perceiver_resampler.proj_in.weight": (8, 8)},
    "with its LoRA": {"ip_adapter.0.to_k_lora.down.weight": (8, 8)},
}


@pytest.mark.parametrize("kind", FACES)
def test_face_id_is_refused_with_its_cause(tmp_path: Path, kind: str) -> None:
    file = written(tmp_path / "a.safetensors", {n: torch.zeros(s) for n, s in FACES[kind].items()})
    for read in (read_reference_adapter, show_adapter):
        with pytest.raises(AdapterError, match=r"FaceID.*licence allows research alone"):
            read(file)


BROKEN: dict[str, tuple[str, tuple[int, ...] | None, str]] = {
    "a layer is missing": ("ip_adapter.1.to_k_ip.weight", None, "numbered"),
    "a layer of another width": ("ip_adapter.3.to_v_ip.weight", (64, 31), "has the shape"),
    "an unknown name": ("image_proj.proj_mid.weight", (2, 2), "has no 'proj_mid.weight'"),
    "an unknown layer": ("ip_adapter.1.to_x_ip.weight", (2, 2), "is no key or value"),
    "no norm": ("image_proj.norm.weight", None, "lacks"),
    "tokens of another width": ("image_proj.proj.weight", (4 * 31, 24), "does not give tokens"),
    "a bias of another width": ("image_proj.proj.bias", (5,), "other tensors than its kind"),
    "an empty tensor": ("image_proj.proj.bias", (0,), "is empty"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_file_is_refused_in_one_line(unet: Any, tmp_path: Path, what: str) -> None:
    tensors = reference_tensors(unet, "plain")
    name, shape, said = BROKEN[what]
    tensors.pop(name, None)
    if shape is not None:
        tensors[name] = torch.zeros(shape)
    with pytest.raises(AdapterError, match=said) as caught:
        read_reference_adapter(written(tmp_path / "a.safetensors", tensors))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("claim", ["deep", "wide"])
def test_sizes_that_a_file_claims_take_no_memory_that_it_does_not_hold(
    unet: Any, tmp_path: Path, claim: str
) -> None:
    tensors = reference_tensors(unet, "plus")
    if claim == "deep":
        tensors["image_proj.layers.999999999.0.norm1.weight"] = torch.ones(32)
    else:  # as one matrix of 10⁶ × 10⁶ it would take 4 TB
        tensors["image_proj.layers.0.0.to_q.weight"] = torch.zeros(64 * 15_625, 1)
        tensors["image_proj.latents"] = torch.zeros(1, 1, 1_000_000)
        tensors["image_proj.proj_in.weight"] = torch.zeros(1_000_000, 1)
    with pytest.raises(AdapterError):
        read_reference_adapter(written(tmp_path / "a.safetensors", tensors))


def test_numbers_that_are_not_finite_are_refused(unet: Any, tmp_path: Path) -> None:
    tensors = reference_tensors(unet, "plain")
    tensors["ip_adapter.1.to_v_ip.weight"][0, 0] = float("nan")
    with pytest.raises(AdapterError, match="NaN"):
        read_reference_adapter(written(tmp_path / "a.safetensors", tensors))


def test_show_and_inspect_name_what_the_file_is(unet: Any, tiny_base: Path, tmp_path: Path) -> None:
    file = written(tmp_path / "ip.safetensors", reference_tensors(unet, "plus"))
    report = show_adapter(file, base=str(tiny_base))
    assert isinstance(report, ReferenceReport)
    assert (report.kind, report.text_width, report.num_tokens, report.layers) == ("plus", 32, 4, 4)
    assert report.match is not None
    assert report.match.problems == ()
    other = show_adapter(file, base="sd15")
    assert isinstance(other, ReferenceReport)
    assert other.match is not None
    assert "width 768" not in other.match.problems[0]
    assert "width 32" in other.match.problems[0]
    shown = CliRunner().invoke(cli, ["show", str(file)])
    assert shown.exit_code == 0
    assert "IP-Adapter, plus" in shown.output
    with pytest.raises(BaseError, match=r"an IP-Adapter \(plus"):
        open_base(str(file))


def test_no_other_command_takes_it_for_a_lora(unet: Any, tmp_path: Path) -> None:
    file = written(tmp_path / "ip.safetensors", reference_tensors(unet, "plain"))
    with pytest.raises(AdapterError, match="--reference-adapter"):
        read_adapter(file)
    with pytest.raises(AdapterError, match="no IP-Adapter"):
        read_reference_adapter(written(tmp_path / "b.safetensors", {"lora_unet_x.alpha": torch.ones(1)}))
