"""The stages of pocket-flow's pre-training, each for two steps over a handful of pictures."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusion3Pipeline

from detour.pocket.pretrain import pictures
from detour.pocket.pretrain.flow import parts
from detour.pocket.pretrain.flow.card import model_card
from detour.pocket.pretrain.flow.run import STAGES, FlowPretraining
from detour.pocket.pretrain.run import Settings
from detour.pocket.pretrain.stage import load_average
from tests.pocket.pretrain.flow.conftest import POCKET, SMALL_TRANSFORMER
from tests.pocket.pretrain.test_measure import FIGURES, ROW

PICTURES = 8
TRAINED = ("tower", "vae", "transformer", "decoder")


def tiny(work: Path, *, steps: int = 2) -> FlowPretraining:
    settings = Settings(pictures=PICTURES, steps=steps, batch=4)
    return FlowPretraining(work=work, out=work / "base", settings=settings, pocket=POCKET)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlowPretraining]:
    """All stages run through, two steps each, with narrow parts and a VAE that does not grow from pocket's."""
    work = tmp_path_factory.mktemp("pocket-flow")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "PIECE", PICTURES)
        for key, value in SMALL_TRANSFORMER.items():
            patch.setitem(parts.TRANSFORMER_CONFIG, key, value)
        patch.setitem(parts.VAE_CONFIG, "block_out_channels", [8, 8, 16, 16])
        patch.setattr(parts, "autoencoder_from_pocket", lambda _pocket: parts.new_autoencoder())
        pretraining = tiny(work)
        for stage in STAGES:
            pretraining.run(stage)
        yield pretraining


def test_every_stage_leaves_a_state_and_the_last_one_a_folder(finished: FlowPretraining) -> None:
    for stage in TRAINED:
        assert torch.load(finished.work / f"{stage}.pt", weights_only=True)["step"] == 2
    pipeline = StableDiffusion3Pipeline.from_pretrained(
        finished.out, text_encoder_3=None, tokenizer_3=None, torch_dtype=torch.float32
    )
    trained = load_average(finished.work / "transformer.pt")
    for name, value in pipeline.transformer.state_dict().items():
        torch.testing.assert_close(value, trained[name], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("stage", ["tower", "vae", "transformer"])
def test_a_stage_that_was_stopped_makes_the_same_weights(finished: FlowPretraining, stage: str) -> None:
    through = load_average(finished.work / f"{stage}.pt")
    (finished.work / f"{stage}.pt").unlink()
    tiny(finished.work, steps=1).run(stage)
    assert torch.load(finished.work / f"{stage}.pt", weights_only=True)["step"] == 1
    finished.run(stage)
    again = load_average(finished.work / f"{stage}.pt")
    assert again.keys() == through.keys()
    assert not [key for key, value in through.items() if not torch.equal(value, again[key])]


def test_the_shipped_vae_has_the_shift_and_factor_of_its_cached_latents(finished: FlowPretraining) -> None:
    cached = np.load(finished.work / "latents.npy")[:, 0].astype(np.float32)
    means, deviations = np.split(cached, 2, axis=1)
    config = StableDiffusion3Pipeline.from_pretrained(
        finished.out, text_encoder_3=None, tokenizer_3=None
    ).vae.config
    latents = (means - config.shift_factor) * config.scaling_factor
    noise = np.square(deviations).mean() * config.scaling_factor**2
    np.testing.assert_allclose(latents.mean(), 0, atol=0.02)
    np.testing.assert_allclose(np.square(latents).mean() + noise, 1, atol=0.03)


def test_training_goes_on_from_a_shipped_folder(finished: FlowPretraining, tmp_path: Path) -> None:
    settings = Settings(pictures=PICTURES, steps=1, batch=4, init="shipped")
    continued = FlowPretraining(work=tmp_path, out=finished.out, settings=settings, pocket=POCKET)
    for stage in ("tokenizer", "pictures", "texts", "latents", "transformer"):
        continued.run(stage)
    before = load_average(finished.work / "transformer.pt")
    after = load_average(tmp_path / "transformer.pt")
    moved = torch.cat([(after[name] - before[name]).flatten() for name in before])
    assert 0 < moved.abs().max() < 0.01  # one warm-up step away, not a fresh start
    old, new = (np.load(work / "latents.npy")[:, 0, :16] for work in (finished.work, tmp_path))
    np.testing.assert_allclose(new.astype(np.float32), old.astype(np.float32), atol=0.1)


def test_the_card_says_every_figure(tmp_path: Path) -> None:
    default = {"pictures": 64, "seconds_a_picture": 2.5, **ROW, "object": 0.375}
    card = model_card({**FIGURES, "with_t5_zeros": default}, base=tmp_path)
    for words in ("87.5 %", "24.5 dB", "7.25 of 255", "1.10 s", "2.50 s", "37.5 %", "comic | 50.0 %"):
        assert words in card
