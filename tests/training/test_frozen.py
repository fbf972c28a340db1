"""The frozen parts against diffusers' own forward and autograd's backward on the same UNet."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from detour.adapters.attach import Attached, attach_new
from detour.adapters.fused import use_fused
from detour.adapters.targets import adaptable_layers, select
from detour.training.attention import use_training_attention
from detour.training.frozen import FrozenConv, FrozenGeglu, FrozenResnet, use_frozen_paths
from tests.tiny_base import TEXT_WIDTH, make_tiny_base, make_tiny_sdxl


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {
        "sd15": make_tiny_base(folder / "sd15", heads=2) / "unet",
        "sdxl": make_tiny_sdxl(folder / "sdxl") / "unet",
    }


def adapted(folder: Path, targets: str) -> tuple[UNet2DConditionModel, Attached]:
    unet = UNet2DConditionModel.from_pretrained(folder).eval().requires_grad_(False)
    attached = attach_new(unet, "unet", select(adaptable_layers(unet), targets), rank=2, alpha=3.0)
    generator = torch.Generator().manual_seed(0)
    for factor in attached.parameters():
        factor.data.normal_(std=0.05, generator=generator)
    return unet, attached


def answer(unet: UNet2DConditionModel) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    width, sdxl = int(unet.config.cross_attention_dim), unet.config.addition_embed_type is not None
    added = {"text_embeds": torch.ones(2, TEXT_WIDTH), "time_ids": torch.ones(2, 6)} if sdxl else None
    return unet(
        torch.randn(2, 4, 8, 8, generator=generator),
        torch.tensor([10, 700]),
        encoder_hidden_states=torch.randn(2, 7, width, generator=generator),
        added_cond_kwargs=added,
    ).sample


def gradients(unet: UNet2DConditionModel, attached: Attached) -> Tensor:
    for factor in attached.parameters():
        factor.grad = None
    y = answer(unet)
    y.square().sum().backward()
    return torch.cat([y.detach().flatten(), *(p.grad.flatten() for p in attached.parameters())])


def use_everything(unet: UNet2DConditionModel, attached: Attached) -> None:
    use_fused(attached)
    use_training_attention(unet, device="cpu", dtype=torch.float32)
    use_frozen_paths(unet)


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
@pytest.mark.parametrize("targets", ["attn", "cross-attn", "conv", "all"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_all_fast_paths_together_give_pefts_gradients(
    folders: dict[str, Path], family: str, targets: str, checkpointing: bool
) -> None:
    unet, attached = adapted(folders[family], targets)
    wanted = gradients(unet, attached)
    use_everything(unet, attached)
    if checkpointing:
        unet.enable_gradient_checkpointing()
        unet.train()
    found = gradients(unet, attached)
    assert (found - wanted).norm() < 1e-5 * wanted.norm()
    rows = sum(p.numel() for p in attached.parameters())
    worst = [
        float((a - b).norm() / b.norm())
        for a, b in zip(
            found[-rows:].split([p.numel() for p in attached.parameters()]),
            wanted[-rows:].split([p.numel() for p in attached.parameters()]),
            strict=True,
        )
        if b.norm() > 1e-6 * wanted.norm()
    ]
    assert max(worst) < 1e-4  # of the smallest factor; the sum above is what an update sees


def test_the_paths_are_where_they_are_expected(folders: dict[str, Path]) -> None:
    unet, attached = adapted(folders["sd15"], "attn")
    use_everything(unet, attached)
    installed = [type(module.__dict__.get("forward")) for module in unet.modules()]
    resnets = sum(type(module).__name__ == "ResnetBlock2D" for module in unet.modules())
    assert installed.count(FrozenResnet) == resnets > 0
    assert installed.count(FrozenGeglu) == sum(type(m).__name__ == "GEGLU" for m in unet.modules()) > 0
    assert installed.count(FrozenConv) == sum(type(m) is nn.Conv2d for m in unet.modules()) > 0


def test_without_gradients_the_picture_is_as_before_bit_for_bit(folders: dict[str, Path]) -> None:
    unet, attached = adapted(folders["sd15"], "all")
    with torch.no_grad():
        wanted = answer(unet)
        use_everything(unet, attached)
        assert torch.equal(answer(unet), wanted)


def test_a_base_that_learns_again_gets_its_gradients(folders: dict[str, Path]) -> None:
    wanted, found = (UNet2DConditionModel.from_pretrained(folders["sd15"]).eval() for _ in range(2))
    use_frozen_paths(found)
    for unet in (wanted, found):
        answer(unet).square().sum().backward()
    for a, b in zip(found.parameters(), wanted.parameters(), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        assert float((a.grad - b.grad).norm()) <= 1e-5 * float(b.grad.norm()) + 1e-7


def kept_bytes(run: Callable[[], Tensor], weights: set[int]) -> int:
    """Bytes of distinct storages that are kept for the backward pass, the model's own tensors aside."""
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return sum(sizes.values())


def test_less_than_seven_tenths_of_what_full_fine_tuning_keeps_is_kept(folders: dict[str, Path]) -> None:
    full = UNet2DConditionModel.from_pretrained(folders["sd15"]).eval()
    all_of_it = kept_bytes(lambda: answer(full), {p.untyped_storage().data_ptr() for p in full.parameters()})
    unet, attached = adapted(folders["sd15"], "attn")
    use_everything(unet, attached)
    ours = kept_bytes(lambda: answer(unet), {p.untyped_storage().data_ptr() for p in unet.parameters()})
    assert ours < 0.7 * all_of_it
