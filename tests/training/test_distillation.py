"""The consistency loss of a batch, against plain formulas with a teacher of its own."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from detour.bases.base import Base, open_base
from detour.bases.text import Conditioning
from detour.errors import ConfigError
from detour.specs.sources import with_changes
from detour.training.assembly import attach_trainable, choose_targets, load_denoiser, make_loss
from detour.training.batches import draw_batch
from detour.training.cache import LatentCache, TextCache, TrainingData
from detour.training.distillation import DistillationLoss
from detour.training.resolving import resolve
from tests.tiny_flow import make_tiny_flux, make_tiny_sd3
from tests.verbs.photos import quick_spec

FLAGS: dict[str, Any] = {
    "adapter__targets": "attn",
    "train__loss__timesteps": "uniform",
    "train__loss__caption_dropout": 0.0,
    "distill__steps": 4,
    "distill__solver_steps": 10,
    "distill__guidance_scale": 3.0,
}


@pytest.fixture(params=["epsilon", "v_prediction", "flow", "told its guidance"])
def base(request: pytest.FixtureRequest, tiny_base: Path, tmp_path: Path) -> Base:
    if request.param == "flow":
        return open_base(str(make_tiny_sd3(tmp_path / "sd3", t5=False)))
    if request.param == "told its guidance":
        return open_base(str(make_tiny_flux(tmp_path / "flux")))
    folder = shutil.copytree(tiny_base, tmp_path / "tiny")
    place = folder / "scheduler" / "scheduler_config.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | {"prediction_type": request.param}))
    return open_base(str(folder))


def made(base: Base, num: int = 4) -> TrainingData:
    generator = torch.Generator().manual_seed(0)
    size, channels = base.native_size_px // base.latent_factor, base.latent_channels
    means = torch.randn(1, num, channels, size, size, generator=generator)
    pooled = base.network_config.get("pooled_projection_dim")
    states = Conditioning(
        torch.randn(num + 1, 12, base.cross_attention_width, generator=generator),
        None if pooled is None else torch.randn(num + 1, pooled, generator=generator),
    )
    return TrainingData(
        LatentCache(means, torch.full_like(means, 0.1)),
        TextCache(states, {f"c{i}": i for i in range(num)}),
        tuple(f"c{i}" for i in range(num)),
        tuple(range(num)),
    )


def test_the_loss_and_its_gradient_are_those_of_the_formulas(base: Base) -> None:
    spec = resolve(quick_spec(base.name, Path("x"), **FLAGS), base, ["a"], name="x", device="cpu").spec
    denoiser, teacher = load_denoiser(base, spec), load_denoiser(base, spec)
    attached = attach_trainable(denoiser, choose_targets(denoiser.network, base, spec).layers, spec)
    for _, up in attached.factors.values():
        torch.nn.init.normal_(up, std=0.3, generator=torch.Generator().manual_seed(1))
    data = made(base)
    loss_fn = make_loss(denoiser, data, spec, attached=attached)
    assert isinstance(loss_fn, DistillationLoss)
    loss = loss_fn(0, 0)
    loss.backward()
    gradients = [factor.grad.clone() for factor in attached.parameters() if factor.grad is not None]
    assert len(gradients) == len(attached.parameters())
    for factor in attached.parameters():
        factor.grad = None

    batch = draw_batch(loss_fn.plan, data, 0, 0)
    none = data.text.conditioning([None] * len(batch))
    process = denoiser.process
    if base.is_flow:
        begins = (batch.times * 10).ceil().clamp_min(1) / 10 if process.at(0.5) == 0.5 else None
        levels = torch.tensor([process.at(k / 10) for k in range(11)])
        places = torch.tensor([int((levels < time).sum()) for time in batch.times]).clamp_min(1)
        begins, ends = levels[places], levels[places - 1]
    else:
        begins = batch.times // 100 * 100 + 99
        ends = (begins - 100).clamp_min(0)

    def clean_and_noise(prediction: Tensor, noisy: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
        if base.is_flow:
            sigma = times.view(-1, 1, 1, 1)
            return noisy - sigma * prediction, noisy + (1 - sigma) * prediction
        alpha = process.alphas[times].view(-1, 1, 1, 1)  # type: ignore[attr-defined]
        a, b = alpha.sqrt(), (1 - alpha).sqrt()
        if process.predicts == "noise":
            return (noisy - b * prediction) / a, prediction
        return a * noisy - b * prediction, a * prediction + b * noisy

    def mixed(clean: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        if base.is_flow:
            return (1 - times.view(-1, 1, 1, 1)) * clean + times.view(-1, 1, 1, 1) * noise
        alpha = process.alphas[times].view(-1, 1, 1, 1)  # type: ignore[attr-defined]
        return alpha.sqrt() * clean + (1 - alpha).sqrt() * noise

    def answer(prediction: Tensor, noisy: Tensor, times: Tensor) -> Tensor:
        clean, _ = clean_and_noise(prediction, noisy, times)
        if base.is_flow:
            return clean
        scaled = 10.0 * times.float().view(-1, 1, 1, 1)
        return 0.25 / (scaled**2 + 0.25) * noisy + scaled / (scaled**2 + 0.25) ** 0.5 * clean

    noisy = mixed(batch.latents, batch.noise, begins)
    with torch.no_grad():
        of_text = clean_and_noise(teacher.predict(noisy, begins, batch.text), noisy, begins)
        of_none = clean_and_noise(teacher.predict(noisy, begins, none), noisy, begins)
        clean, noise = (text + 2.0 * (text - other) for text, other in zip(of_text, of_none, strict=True))
        if (
            base.embeds_guidance
        ):  # the teacher is told 3 and asked once; the student is told 1, as its pictures are
            told = teacher.predict(noisy, begins, batch.text.guided_by(3.0))
            assert not torch.allclose(told, teacher.predict(noisy, begins, batch.text))
            clean, noise = clean_and_noise(told, noisy, begins)
        reached = mixed(clean, noise, ends)
        wanted = answer(denoiser.predict(reached, ends, batch.text), reached, ends)
    plain = functional.mse_loss(answer(denoiser.predict(noisy, begins, batch.text), noisy, begins), wanted)
    plain.backward()
    torch.testing.assert_close(loss, plain, rtol=1e-4, atol=1e-6)
    for mine, factor in zip(gradients, attached.parameters(), strict=True):
        assert factor.grad is not None
        torch.testing.assert_close(mine, factor.grad, rtol=1e-3, atol=1e-3 * float(factor.grad.abs().max()))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("adapter.method", "full"),
        ("train.loss.weighting", "min_snr"),
        ("train.loss.noise_offset", 0.1),
        ("adapter.text_encoder.rank", 2),
    ],
)
def test_what_has_no_meaning_beside_the_base_is_refused(tiny_base: Path, key: str, value: object) -> None:
    base = open_base(str(tiny_base))
    spec = with_changes(quick_spec(tiny_base, Path("x"), **FLAGS), {key: value})
    with pytest.raises(ConfigError, match=key):
        resolve(spec, base, ["a"], name="x", device="cpu")
