"""``detour train --method reference``: an IP-Adapter from pictures, proved, resumable, and read by diffusers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from detour.adapter_files.reference_files import read_reference_adapter
from detour.adapters.gradient_proof import hash_base
from detour.adapters.reference_rows import prepare_reference
from detour.adapters.reference_weights import attach_reference
from detour.bases.base import open_base
from detour.bases.text import Conditioning
from detour.errors import ConfigError, DetourError, Interrupted
from detour.specs import RunSpec
from detour.specs.generation import GenerateSpec
from detour.training.batches import BatchPlan, draw_batch
from detour.training.cache import LatentCache, TextCache, TrainingData
from detour.verbs.draw.pictures import generate_pictures
from detour.verbs.train.run import train_adapter
from tests.reference_files import Kind, make_image_encoder, reference_tensors
from tests.verbs.photos import make_photos, quick_spec
from tests.verbs.test_train_adapter import files, metrics, stop_after


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    make_photos(folder / "photos", 5)
    make_image_encoder(folder / "image_encoder")
    return folder


def spec_of(base: Path, place: Path, **flags: Any) -> RunSpec:
    every = {"adapter__method": "reference", "adapter__image_encoder": str(place / "image_encoder"), **flags}
    return quick_spec(base, place / "photos", **every)


def test_a_run_is_proved_resumable_to_the_byte_and_draws(
    tiny_base: Path, place: Path, tmp_path: Path
) -> None:
    def spec() -> RunSpec:
        return spec_of(tiny_base, place, train__steps=5, data__holdout=0.2, validate__every=2)

    straight = train_adapter(spec(), runs=tmp_path / "straight")
    with pytest.raises(Interrupted):
        train_adapter(spec(), runs=tmp_path / "broken", progress=stop_after(3))
    broken = tmp_path / "broken" / "quick"
    early = (broken / "quick.safetensors").read_bytes()
    train_adapter(None, resume=broken)
    folder = straight.run_folder
    assert files(folder, "*.safetensors") == files(broken, "*.safetensors")
    assert metrics(folder) == metrics(broken)
    assert early != straight.adapter_file.read_bytes()
    gradients = json.loads((folder / "gradients.json").read_text())
    assert gradients["base_unchanged"] is True
    assert gradients["base_tensors_with_gradient"] == 0
    assert gradients["adapter_tensors"] == gradients["adapter_tensors_with_gradient"] == 4 + 2 * 4
    proof = json.loads((folder / "reference.json").read_text())
    assert proof["at_strength_0"] == 0
    assert proof["at_strength_1"] > 0
    adapter = read_reference_adapter(straight.adapter_file)
    assert (adapter.facts.kind, adapter.facts.encoder_width, adapter.facts.num_layers) == ("plain", 24, 4)
    assert str(place) not in adapter.metadata["detour.config"]
    drawn = generate_pictures(
        GenerateSpec.model_validate(
            {
                "base": str(tiny_base),
                "prompts": ("a dog",),
                "picture": {"steps": 1},
                "references": (str(place / "photos" / "0.png"),),
                "reference_adapter": str(straight.adapter_file),
                "reference_encoder": str(place / "image_encoder"),
                "compare": True,
            }
        ),
        out=tmp_path / "drawn",
    )
    assert drawn.mean_abs_diff


def test_pictures_alone_will_do_and_diffusers_loads_what_comes_out(
    tiny_base: Path, place: Path, tmp_path: Path
) -> None:
    import diffusers

    alone = tmp_path / "alone"
    make_photos(alone, 3)
    for caption in alone.glob("*.txt"):
        caption.unlink()
    spec = spec_of(tiny_base, place, data__source=str(alone), train__steps=1)
    result = train_adapter(spec, runs=tmp_path / "runs", prove=False)
    unet = diffusers.UNet2DConditionModel.from_pretrained(tiny_base / "unet")
    base = open_base(str(tiny_base))
    text = base.load_text()
    pipeline: Any = diffusers.StableDiffusionPipeline(
        vae=base.load_vae(),
        text_encoder=text.models["text_encoder"],
        tokenizer=text.tokenizers["text_encoder"],
        unet=unet,
        scheduler=diffusers.DDIMScheduler.from_config(base.scheduler_config()),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.load_ip_adapter(
        str(result.run_folder), subfolder="", weight_name=result.adapter_file.name, image_encoder_folder=None
    )
    mine = read_reference_adapter(result.adapter_file)
    (theirs,) = pipeline.unet.encoder_hid_proj.image_projection_layers
    seen = torch.randn(2, 24)
    with torch.no_grad():
        assert torch.equal(theirs(seen), mine.projection(seen))
    loaded = [p for p in pipeline.unet.attn_processors.values() if hasattr(p, "to_k_ip")]
    assert all(torch.equal(p.to_k_ip[0].weight, k) for p, k in zip(loaded, mine.keys, strict=True))


def test_a_run_starts_at_an_ip_adapter_and_refuses_what_it_cannot_train(
    tiny_base: Path, place: Path, tmp_path: Path
) -> None:
    network = open_base(str(tiny_base)).load_network()

    def file(kind: Kind, name: str, **sizes: int) -> str:
        path = tmp_path / f"{name}.safetensors"
        save_file(reference_tensors(network, kind, **sizes), path)
        return str(path)

    first = file("plain", "first", tokens=4)
    spec = spec_of(tiny_base, place, adapter__from_file=first, train__steps=1, train__optim__lr=1e-12)
    result = train_adapter(spec, runs=tmp_path / "runs", prove=False)
    before, after = load_file(first), load_file(result.adapter_file)
    assert before.keys() == after.keys()
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before)
    assert any("Starts at the weights of" in note for note in result.notes)
    for name, path, said in (
        ("Plus", file("plus", "plus", tokens=4), "trains the plain kind, 4 tokens"),
        ("two tokens", file("plain", "two", tokens=2), "trains the plain kind, 4 tokens"),
        ("no IP-Adapter", str(tiny_base / "unet" / "diffusion_pytorch_model.safetensors"), "no IP-Adapter"),
    ):
        with pytest.raises(DetourError, match=said):
            train_adapter(spec_of(tiny_base, place, adapter__from_file=path), runs=tmp_path / name)


def test_what_is_trained_is_what_is_drawn(tiny_base: Path) -> None:
    """The prediction in training is that of the drawing engine's hooks with the written tensors."""
    network = open_base(str(tiny_base)).load_network()
    inputs = {
        "sample": torch.randn(2, 4, 8, 8),
        "timestep": torch.tensor([10, 600]),
        "encoder_hidden_states": torch.randn(2, 77, 32),
    }
    before, sha256 = network(**inputs).sample, hash_base(network)
    trained = attach_reference(network, "unet", encoder_width=24, seed=3)
    assert torch.equal(network(**inputs).sample, before)
    embeddings = torch.randn(2, 24)
    with trained.showing(embeddings):
        mine = network(**inputs).sample
    mine.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in trained.parameters())
    assert all(p.grad is None for p in network.parameters())
    trained.detach()
    assert torch.equal(network(**inputs).sample, before)
    assert hash_base(network) == sha256
    from detour.adapters.reference_rows import RowReference, plan_references

    tensors = trained.tensors()
    keys, values = (
        [tensors[f"ip_adapter.{2 * i + 1}.to_{side}_ip.weight"] for i in range(4)] for side in "kv"
    )
    with torch.no_grad():
        groups = []
        for row in range(2):
            tokens = trained.projection(torch.stack([torch.zeros(24), embeddings[row]]))
            groups.append((1, [RowReference(prepare_reference(network, tokens, keys, values), 1.0)]))
        with plan_references(groups).active():
            drawn = network(**inputs).sample
    assert torch.allclose(drawn, mine, atol=1e-5)
    assert not torch.allclose(drawn, before, atol=1e-3)


def test_texts_and_pictures_are_dropped_apart_and_together() -> None:
    """5 % the text alone, 5 % the picture alone, 5 % both, as the paper trains (arXiv:2308.06721, section 4.1)."""
    data = TrainingData(
        latents=LatentCache(torch.zeros(1, 1, 4, 2, 2), torch.zeros(1, 1, 4, 2, 2)),
        text=TextCache(Conditioning(torch.tensor([1.0, 0.0]).reshape(2, 1, 1)), {"a": 0}),
        captions=("a",),
        epoch=(0,),
        shown=torch.ones(1, 3),
    )
    plan = BatchPlan(seed=1, batch=4000, caption_dropout=0.1)
    batch = draw_batch(plan, data, 0, 0)
    assert batch.shown is not None
    no_text = batch.text.states.flatten() == 0
    no_picture = batch.shown[:, 0] == 0
    for share in (no_text & no_picture, no_text & ~no_picture, no_picture & ~no_text):
        assert abs(float(share.float().mean()) - 0.05) < 0.012


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "checkpointing": ({"train__gradient_checkpointing": True}, "train.gradient_checkpointing has no meaning"),
    "samples": ({"sample__every": 2}, "sample.every has no meaning"),
    "no encoder": ({"adapter__image_encoder": ""}, "has none of its own"),
    "an encoder for a LoRA": ({"adapter__method": "lora"}, "is for --method reference"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_settings_without_a_meaning_are_refused(
    tiny_base: Path, place: Path, tmp_path: Path, what: str
) -> None:
    flags, said = REFUSED[what]
    with pytest.raises(ConfigError, match=said):
        train_adapter(spec_of(tiny_base, place, **flags), runs=tmp_path)


def test_a_changed_image_encoder_stops_a_resumed_run(tiny_base: Path, place: Path, tmp_path: Path) -> None:
    from detour.errors import RunError

    encoder = make_image_encoder(tmp_path / "image_encoder")
    spec = spec_of(tiny_base, place, adapter__image_encoder=str(encoder), train__steps=4)
    with pytest.raises(Interrupted):
        train_adapter(spec, runs=tmp_path / "runs", progress=stop_after(2))
    make_image_encoder(encoder, seed=1)
    with pytest.raises(RunError, match="other embeddings"):
        train_adapter(None, resume=tmp_path / "runs" / "quick")


def test_the_embedding_is_of_the_whole_picture(tmp_path: Path) -> None:
    from detour.bases.image_encoder import load_image_encoder

    encoder = load_image_encoder(make_image_encoder(tmp_path / "encoder"))
    make_photos(tmp_path / "photos", 1)
    pixels = np.asarray(Image.open(tmp_path / "photos" / "0.png").convert("RGB"))
    none, seen = encoder.with_none(pixels, pooled=True)
    assert not none.any()
    assert seen.any()
    hidden = encoder.with_none(pixels, pooled=False)
    with torch.no_grad():
        zero = encoder.model(torch.zeros(1, 3, 32, 32), output_hidden_states=True).hidden_states[-2]
    assert torch.equal(hidden[:1], zero)
    config = encoder.model.config
    patches = (config.image_size // config.patch_size) ** 2
    assert hidden.shape == (2, patches + 1, 32)  # one for each patch and one for the whole
