"""Predicted memory: exact where it can be counted, near what a process took where it cannot."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from detour.bases.base import Base, open_base
from detour.bases.quantize import saved_bytes
from detour.specs import load_run_spec
from detour.specs.resolved import ResolvedRun
from detour.training.footprint import (
    AllocatedBytes,
    Footprint,
    drawing_footprint,
    encoding_footprint,
    training_footprint,
)
from detour.training.resolving import resolve, training_dtype


def resolved(base: str, **flags: object) -> ResolvedRun:
    values = {"data.source": "x", "base.name": base, "base.device": "cpu", "adapter.rank": 4}
    values |= {key.replace("__", "."): value for key, value in flags.items()}
    spec = load_run_spec(flags=values)
    return resolve(spec, open_base(base), ["a photo"] * 8, name="x", device="cpu").spec


@pytest.fixture(scope="module")
def sd15() -> tuple[Base, ResolvedRun, Footprint]:
    """SD 1.5's true shapes with a run of one picture a step, and what a step of it takes."""
    base, spec = (
        open_base("sd15"),
        resolved("sd15", base__dtype="bf16", adapter__targets="attn", train__batch=1),
    )
    return base, spec, training_footprint(base, spec)


def test_weights_and_adapter_are_the_closed_form(sd15: tuple[Base, ResolvedRun, Footprint]) -> None:
    parts = sd15[2].parts
    assert parts["weights"] == pytest.approx(2 * 859_520_964, rel=1e-3)
    assert parts["adapter"] == parts["gradients"] == 4 * 797_184
    assert parts["optimizer"] == 8 * 797_184


def test_activations_grow_with_the_batch_and_shrink_with_checkpointing(tiny_base: Path) -> None:
    """On a base whose step takes a second; the figures of others are held against measured peaks below."""
    name = str(tiny_base)
    base = open_base(name)

    def activations(**flags: object) -> int:
        spec = resolved(name, base__dtype="fp32", adapter__targets="attn", **flags)
        return training_footprint(base, spec).parts["activations"]

    one, two, four = (activations(train__batch=num) for num in (1, 2, 4))
    assert four - two == pytest.approx(2 * (two - one), rel=0.02)
    assert activations(train__batch=4, train__gradient_checkpointing=True) < 0.7 * four


def test_a_quantised_base_weighs_less_and_nothing_else_changes(
    tiny_base: Path, sd15: tuple[Base, ResolvedRun, Footprint]
) -> None:
    """The step runs on the small base; of SD 1.5's true layers the bytes are counted without one."""
    base = open_base(str(tiny_base))
    plain = resolved(str(tiny_base), base__dtype="bf16", adapter__targets="attn", train__batch=1)
    small = plain.model_copy(update={"base": plain.base.model_copy(update={"quantize": "nf4"})})
    before, after = (training_footprint(base, spec).parts for spec in (plain, small))
    assert {key for key in before if before[key] != after[key]} == {"weights"}
    saved = saved_bytes(base.meta_network(), "nf4", torch.bfloat16)
    assert before["weights"] - after["weights"] == saved > 0
    true_saved = saved_bytes(sd15[0].meta_network(), "nf4", torch.bfloat16)
    assert 0.2 < true_saved / sd15[2].parts["weights"] < 0.45  # SD 1.5 is half convolutions


def test_nothing_is_counted_after_it_is_gone() -> None:
    with AllocatedBytes() as bytes_:
        kept = torch.zeros(1000)
        for _ in range(3):
            torch.zeros(500)
    assert bytes_.current == 4 * kept.numel()
    assert bytes_.peak == 4 * (1000 + 500)


def test_large_pictures_are_encoded_and_drawn_one_by_one(sd15: tuple[Base, ResolvedRun, Footprint]) -> None:
    base, spec, training = sd15
    assert encoding_footprint(base, spec).total < 1.1 * 2**30
    assert drawing_footprint(base, spec, training, pictures=4).parts["activations"] < 0.8 * 2**30


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(
    ("base", "dtype", "batch", "targets"),
    [
        ("pocket", "fp32", 8, "all"),
        ("pocket", "fp32", 32, "attn"),
        ("pocket", "bf16", 16, "all"),
        ("sd15", "bf16", 1, "attn"),
    ],
)
def test_the_prediction_is_within_15_percent_of_the_peak_of_a_process(
    base: str, dtype: str, batch: int, targets: str
) -> None:
    """The peak is that of the whole process, as the system counts it; malloc's settings are the system's own."""
    here = Path(__file__).parents[2]
    command = [sys.executable, "-m", "tests.training.measure_peak", base, dtype, str(batch), targets]
    lines = subprocess.run(command, cwd=here, capture_output=True, text=True, check=True).stdout.splitlines()
    measured, predicted = (int(word) for word in lines[-1].split())
    print(
        f"\n{base} {dtype} batch {batch} {targets}: measured {measured >> 20} MiB, predicted {predicted >> 20} MiB"
    )
    assert predicted == pytest.approx(measured, rel=0.15)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("base", ["sd35-medium", "flux-dev"])
def test_the_prediction_holds_for_blocks_of_a_transformers_true_width(base: str) -> None:
    """Two blocks of each at 512 px, in bf16 where the processor computes it; the whole networks are predicted only."""
    here = Path(__file__).parents[2]
    command = [sys.executable, "-m", "tests.training.measure_flow_peak", base, training_dtype("cpu"), "512"]
    lines = subprocess.run(command, cwd=here, capture_output=True, text=True, check=True).stdout.splitlines()
    measured, predicted, seconds, loss = (float(word) for word in lines[-1].split())
    print(
        f"\n{base}, two blocks: {measured / 2**20:.0f} MiB, predicted {predicted / 2**20:.0f} MiB, {seconds} s"
    )
    assert predicted == pytest.approx(measured, rel=0.15)
    assert loss > 0
