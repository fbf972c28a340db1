"""The stages of the pre-training, each for two steps over a handful of pictures."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file

from detour.pocket.pretrain import autoencoder, parts, pictures, run
from detour.pocket.pretrain.run import STAGES, Pretraining, Settings
from detour.pocket.pretrain.stage import load_average

PICTURES = 8
TRAINED = ("text", "pair", "vae", "unet", "vision", "decoder")


def tiny(work: Path, *, steps: int = 2) -> Pretraining:
    settings = Settings(pictures=PICTURES, steps=steps, batch=4)
    return Pretraining(work=work, out=work / "base", settings=settings)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pretraining]:
    """All stages run through, two steps each, with narrow parts."""
    work = tmp_path_factory.mktemp("pocket")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "PIECE", PICTURES)
        patch.setattr(run, "NUM_TOKENIZER_CAPTIONS", 200)
        patch.setitem(parts.UNET_CONFIG, "block_out_channels", [32, 32, 64])
        patch.setitem(parts.VAE_CONFIG, "block_out_channels", [8, 8, 16, 16])
        pretraining = tiny(work)
        for stage in STAGES:
            pretraining.run(stage)
        yield pretraining


def test_every_stage_leaves_a_state_and_the_last_one_a_folder(finished: Pretraining) -> None:
    for stage in TRAINED:
        assert torch.load(finished.work / f"{stage}.pt", weights_only=True)["step"] == 2
    for part in ("unet", "vae", "text_encoder", "judge", "tokenizer", "scheduler"):
        assert any((finished.out / part).iterdir())


@pytest.mark.parametrize("stage", TRAINED)
def test_a_stage_that_was_stopped_makes_the_same_weights(finished: Pretraining, stage: str) -> None:
    through = load_average(finished.work / f"{stage}.pt")
    (finished.work / f"{stage}.pt").unlink()
    tiny(finished.work, steps=1).run(stage)
    resumed_from = torch.load(finished.work / f"{stage}.pt", weights_only=True)
    assert resumed_from["step"] == 1
    finished.run(stage)
    again = load_average(finished.work / f"{stage}.pt")
    assert again.keys() == through.keys()
    differing = [key for key, value in through.items() if not torch.equal(value, again[key])]
    assert not differing


def test_latents_are_standardised(finished: Pretraining) -> None:
    moments = np.load(finished.work / "latents.npy").astype(np.float32)
    means, deviations = moments[:, 0, :4], moments[:, 0, 4:]
    variance = means.var(axis=(0, 2, 3)) + np.square(deviations).mean(axis=(0, 2, 3))
    np.testing.assert_allclose(means.mean(axis=(0, 2, 3)), 0, atol=0.03)
    np.testing.assert_allclose(variance, 1, atol=0.05)


def test_the_folder_decodes_the_latents_that_the_unet_learned(finished: Pretraining) -> None:
    """The scaling factor of the shipped VAE undoes nothing: its latents are the cached ones."""
    vae = AutoencoderKL.from_pretrained(finished.out / "vae")
    shown = autoencoder.to_model_range(pictures.read_pictures(finished.work, count=2))
    with torch.no_grad():
        encoded = vae.encode(shown).latent_dist.mean * vae.config.scaling_factor
    cached = np.load(finished.work / "latents.npy")[:2, 0, :4].astype(np.float32)
    np.testing.assert_allclose(encoded.numpy(), cached, atol=0.1)


def test_mirror_images_follow_their_pictures(finished: Pretraining) -> None:
    moments = np.load(finished.work / "latents.npy")
    assert moments.shape[:2] == (PICTURES, 2)
    assert not np.array_equal(moments[:, 0], moments[:, 1])


def test_training_goes_on_from_a_shipped_folder(finished: Pretraining, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(finished.out, base)
    before = load_file(base / "unet" / "diffusion_pytorch_model.safetensors")
    settings = Settings(pictures=PICTURES, steps=1, batch=4, init="shipped")
    continued = Pretraining(work=tmp_path / "work", out=base, settings=settings)
    for stage in ("tokenizer", "pictures", "texts", "latents", "unet", "assemble"):
        continued.run(stage)
    after = load_file(base / "unet" / "diffusion_pytorch_model.safetensors")
    moved = torch.cat([(after[name].float() - before[name].float()).flatten() for name in before])
    assert 0 < moved.abs().max() < 0.01  # one warm-up step away, not a fresh start
