"""Gradient checkpointing, compiled blocks and a quantised base leave the adapter's gradients as they are."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from detour.adapters.gradient_proof import hash_base, prove_gradients
from detour.bases.base import open_base
from detour.bases.quantize import PACKAGES, quantize_linears, stored_bytes
from detour.diffusion.process import SD_PROCESS
from detour.errors import ConfigError
from detour.training import assembly
from detour.training.footprint import AllocatedBytes
from detour.training.step import TrainingLoss
from detour.training.validation import fixed_validation
from detour.verbs.train.run import train_adapter
from tests.training.test_step import assembled, gradients, random_data
from tests.verbs.photos import make_photos, quick_spec


@pytest.fixture
def base(tiny_base: Path) -> Any:
    return open_base(str(tiny_base))


def kept_for_backward(loss_fn: TrainingLoss) -> int:
    with AllocatedBytes() as made:
        loss = loss_fn(0, 0)
    assert loss.requires_grad
    return made.current


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_checkpointing_leaves_gradients_bit_for_bit_and_reaches_every_block(
    base: Any, dropout: float
) -> None:
    """With dropout the second pass must draw the first one's masks, or the gradients are those of another model."""
    flags = {"adapter__targets": "all", "adapter__dropout": dropout}
    _, plain, loss_fn = assembled(base, **flags)
    denoiser, saving, saving_loss_fn = assembled(base, train__gradient_checkpointing=True, **flags)
    wanted = gradients(plain, loss_fn)
    assert torch.equal(gradients(saving, saving_loss_fn), wanted)
    blocks = {".".join(key.split(".")[1:3]) for key, (down, _) in saving.factors.items() if down.grad.any()}
    assert {f"down_blocks.{i}" for i in range(2)} <= blocks
    assert (
        prove_gradients(denoiser.network, saving, lambda: saving_loss_fn(0, 0)).base_tensors_with_gradient
        == 0
    )


def test_dropout_is_off_where_the_loss_is_measured(base: Any) -> None:
    denoiser, _, loss_fn = assembled(base, adapter__dropout=0.5, train__gradient_checkpointing=True)
    fixed = fixed_validation(random_data(), seed=0, batch=2, num_timesteps=2, process=SD_PROCESS)
    first = fixed.loss(denoiser)
    loss_fn(0, 0).backward()
    assert fixed.loss(denoiser) == first


def test_checkpointing_keeps_less_for_the_backward_pass(base: Any) -> None:
    _, _, plain = assembled(base)
    _, _, saving = assembled(base, train__gradient_checkpointing=True)
    assert kept_for_backward(saving) < 0.5 * kept_for_backward(plain)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_compiled_blocks_give_the_same_gradients(base: Any) -> None:
    """The tracing alone is tested, without a code generator: that is for GPUs."""
    _, plain, loss_fn = assembled(base)
    denoiser, compiled, compiled_loss_fn = assembled(base)
    assembly.compile_blocks(denoiser.network, backend="eager")
    wanted = gradients(plain, loss_fn)
    found = gradients(compiled, compiled_loss_fn)
    assert float((found - wanted).norm() / wanted.norm()) < 1e-6
    torch._dynamo.reset()


def test_nothing_is_compiled_on_a_cpu(base: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assembly, "compile_blocks", lambda unet: pytest.fail("compiled"))
    assembled(base, train__compile=True)


@pytest.fixture(params=["nf4", "int8"])
def kind(request: pytest.FixtureRequest) -> Iterator[Any]:
    pytest.importorskip(PACKAGES[request.param], reason="large; an extra (detour-lora[quant])")
    return request.param


# Of the UNet's answer against the fp32 base, on this random one; docs/training.md has those of a trained base.
FORWARD_ERROR = {"nf4": 0.12, "int8": 0.01}
WEIGHT_SHARE = {"nf4": 0.18, "int8": 0.27}  # large layers: 0.129 and 0.25


def dequantized(layer: nn.Linear) -> torch.Tensor:
    """The weight that a quantised layer stands for, (out, in) in its computing dtype."""
    weight: Any = layer.weight
    state = getattr(weight, "quant_state", None)
    if state is None:
        return torch.as_tensor(weight.dequantize())
    from bitsandbytes.functional import dequantize_4bit

    return torch.as_tensor(dequantize_4bit(weight.data, state))


def replaced_by_what_they_stand_for(unet: nn.Module) -> int:
    """Plain linear layers with the dequantised weights in the place of the quantised ones, under the adapters."""
    count = 0
    for module in list(unet.modules()):
        for name, child in list(module.named_children()):
            if is_quantized(child):
                plain = nn.Linear(child.in_features, child.out_features, bias=child.bias is not None)  # type: ignore[arg-type]
                plain.weight = nn.Parameter(dequantized(child).float().clone())  # type: ignore[arg-type]
                plain.bias = child.bias  # type: ignore[assignment]
                setattr(module, name, plain.requires_grad_(False))
                count += 1
    return count


def is_quantized(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(module, nn.Linear) and type(weight) is not nn.Parameter


def test_adapters_beside_a_quantised_base_get_the_gradients_of_what_it_stands_for(
    base: Any, kind: Any
) -> None:
    flags = {"adapter__targets": "all", "train__loss__caption_dropout": 0.0}
    denoiser, attached, loss_fn = assembled(base, base__quantize=kind, **flags)
    before = hash_base(denoiser.network)
    found = gradients(attached, loss_fn)
    assert prove_gradients(denoiser.network, attached, lambda: loss_fn(0, 0)).base_tensors_with_gradient == 0
    assert hash_base(denoiser.network) == before
    assert replaced_by_what_they_stand_for(denoiser.network) > 10
    wanted = gradients(attached, loss_fn)
    assert float((found - wanted).norm() / wanted.norm()) < 1e-5


def test_a_changed_bit_of_a_quantised_base_changes_its_hash(base: Any, kind: Any) -> None:
    denoiser, _, _ = assembled(base, base__quantize=kind)
    before = hash_base(denoiser.network)
    layer: Any = next(m for m in denoiser.network.modules() if is_quantized(m))
    stored = layer.weight.data if kind == "nf4" else layer.weight.qdata
    stored.view(-1)[0] += 1
    assert hash_base(denoiser.network) != before


def test_quantised_weights_are_small_and_the_answer_stays_near(base: Any, kind: Any) -> None:
    plain, quantised = base.load_network(), base.load_network()
    linear = sum(
        m.weight.numel() * 4
        for n, m in plain.named_modules()
        if isinstance(m, nn.Linear) and not n.startswith("time_embedding") and m.weight.numel() >= 4096
    )
    done = quantize_linears(quantised, kind, dtype=torch.float32, device="cpu")
    before = hash_base(quantised)
    assert done.bytes_before == stored_bytes(plain)
    assert done.bytes_after == stored_bytes(quantised)
    kept = linear - (done.bytes_before - done.bytes_after)
    assert kept < WEIGHT_SHARE[kind] * linear
    assert type(quantised.conv_in.weight) is nn.Parameter
    generator = torch.Generator().manual_seed(0)
    latents, states = (
        torch.randn(2, 4, 8, 8, generator=generator),
        torch.randn(2, 77, 32, generator=generator),
    )
    with torch.no_grad():
        wanted = plain(latents, torch.tensor([900, 100]), states)[0]
        found = quantised(latents, torch.tensor([900, 100]), states)[0]
    assert 0 < float((found - wanted).norm() / wanted.norm()) < FORWARD_ERROR[kind]
    assert hash_base(quantised) == before  # drawing with it leaves it as it is


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_a_quantised_base_computes_in_half_precision(base: Any, kind: Any, dtype: str) -> None:
    _, exact, loss_fn = assembled(base, base__quantize=kind)
    _, rounded, rounded_loss_fn = assembled(base, base__quantize=kind, base__dtype=dtype)
    scaled: Any = lambda step, micro: rounded_loss_fn(step, micro) * 1024  # noqa: E731  # fp16 needs it
    a, b = gradients(exact, loss_fn), gradients(rounded, scaled)
    assert float(torch.cosine_similarity(a, b, dim=0)) > 0.98


def test_methods_that_need_the_frozen_weights_are_refused(base: Any) -> None:
    for flags in ({"adapter__method": "dora"}, {"adapter__method": "lokr"}, {"adapter__init": "pissa"}):
        with pytest.raises(ConfigError, match="needs the frozen weights as they are"):
            assembled(base, base__quantize="nf4", adapter__targets="attn", **flags)


def test_a_missing_library_is_named_with_its_pip_command(base: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detour.bases.quantize.importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"'torchao'.*pip install detour-lora\[quant\]"):
        assembled(base, base__quantize="int8")


def test_a_run_beside_a_quantised_base_is_proved_on_the_plain_one(
    tiny_base: Path, kind: Any, tmp_path: Path
) -> None:
    notes: list[str] = []
    spec = quick_spec(
        tiny_base, make_photos(tmp_path / "photos", 2), base__quantize=kind, train__steps=2, train__batch=1
    )
    proof = train_adapter(spec, runs=tmp_path, progress=lambda p: notes.append(p.note)).proof
    assert proof is not None
    assert proof.gradients is not None
    assert proof.gradients.base_unchanged
    assert proof.reload.max_abs_diff == 0
    assert proof.pixels.mean_abs_diff > 0
    assert any(f"kept in {kind}" in note for note in notes)
