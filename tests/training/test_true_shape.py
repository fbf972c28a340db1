"""One training step at the true shape of SD 1.5: minutes on a CPU, gigabytes of memory, no download."""

import resource
import sys
import time

import pytest
import torch

from detour.adapters.gradient_proof import hash_base
from detour.bases import parts
from detour.bases.base import open_base
from detour.bases.denoiser import make_denoiser
from detour.bases.text import Conditioning
from detour.specs import load_run_spec
from detour.training.assembly import attach_trainable, choose_targets, make_loss, make_state
from detour.training.cache import LatentCache, TextCache, TrainingData
from detour.training.loop import StepReport, TrainState, fit
from detour.training.resolving import resolve


def random_sd15_unet() -> torch.nn.Module:
    """859,520,964 random bf16 weights, filled in place so that no fp32 copy ever stands."""
    unet = parts.empty_part("unet", open_base("sd15").config("unet"))
    # Not `.to(dtype)`: diffusers warns there of parts that should stay fp32, which this UNet does not have.
    unet = unet._apply(lambda tensor: tensor.to(torch.bfloat16)).to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in unet.named_parameters():
            if tensor.ndim > 1:
                tensor.normal_(std=tensor[0].numel() ** -0.5, generator=generator)
            else:
                tensor.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
    return parts.freeze(unet)


@pytest.mark.slow
def test_one_step_at_true_sd15_shape_fits_in_four_gibibytes() -> None:
    base = open_base("sd15")
    flags = {"data.source": "x", "base.name": "sd15", "base.dtype": "bf16", "adapter.rank": 4}
    flags |= {"adapter.targets": "attn", "train.steps": 1, "train.batch": 1}
    spec = resolve(load_run_spec(flags=flags), base, ["a photo"], name="x", device="cpu").spec
    assert spec.data.resolution == 512
    unet = random_sd15_unet()
    assert sum(p.numel() for p in unet.parameters()) == 859_520_964
    before = hash_base(unet)
    denoiser = make_denoiser(base, unet, device="cpu", dtype=torch.bfloat16, autocast=True)
    attached = attach_trainable(denoiser, choose_targets(unet, base, spec).layers, spec)
    state = make_state(attached, spec)
    assert state.flat.values.numel() == 797_184
    latents = LatentCache(torch.randn(1, 1, 4, 64, 64), torch.zeros(1, 1, 4, 64, 64))
    text = TextCache(Conditioning(torch.randn(2, 77, 768)), {"a photo": 0})
    data = TrainingData(latents, text, captions=("a photo",), epoch=(0,))
    ups = torch.cat([up.detach().flatten() for _, up in attached.factors.values()])
    reports: list[StepReport] = []
    begun, cpu_begun = time.perf_counter(), time.process_time()
    fit(state, make_loss(denoiser, data, spec), [Collect(reports)], steps=1)
    seconds, cpu_seconds = time.perf_counter() - begun, time.process_time() - cpu_begun
    unit = 1 if sys.platform == "darwin" else 1024
    peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
    print(f"\none step of SD 1.5 at 512 px, bf16, batch 1, {torch.get_num_threads()} threads: "
          f"{seconds:.1f} s ({cpu_seconds:.1f} s of CPU), peak memory of the process {peak_gib:.2f} GiB")  # fmt: skip
    assert reports[0].finite
    moved = torch.cat([up.detach().flatten() for _, up in attached.factors.values()]) - ups
    assert float((moved != 0).float().mean()) > 0.99
    assert hash_base(unet) == before
    assert peak_gib < 4


class Collect:
    def __init__(self, reports: list[StepReport]) -> None:
        self.reports = reports

    def on_step(self, _state: TrainState, report: StepReport) -> None:
        self.reports.append(report)
