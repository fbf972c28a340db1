from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor

from detour.training.attention import TrainingAttention, use_training_attention
from tests.tiny_base import make_tiny_base, make_tiny_sdxl


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_base(tmp_path_factory.mktemp("base"), heads=2)


def block(*, text: int | None = None, **settings: object) -> Attention:
    torch.manual_seed(0)
    return Attention(32, cross_attention_dim=text, heads=2, dim_head=16, **settings).eval()  # type: ignore[arg-type]


def both_gradients(attn: Attention, *inputs: Tensor) -> Tensor:
    for parameter in attn.parameters():
        parameter.grad = None
    x = inputs[0].clone().requires_grad_(True)
    y = attn(x, *inputs[1:])
    (y * torch.linspace(-1, 1, y.numel()).view(y.shape)).sum().backward()
    found = [y.detach(), x.grad, *(p.grad for p in attn.parameters())]
    return torch.cat([tensor.flatten() for tensor in found if tensor is not None])


@pytest.mark.parametrize("explicit", [False, True])
@pytest.mark.parametrize("text", [None, 20])
@pytest.mark.parametrize("settings", [{}, {"residual_connection": True, "rescale_output_factor": 2.0}])
def test_answer_and_gradients_are_those_of_diffusers_own_processor(
    explicit: bool, text: int | None, settings: dict[str, object]
) -> None:
    attn = block(text=text, **settings)
    inputs = [torch.randn(2, 9, 32)] + ([] if text is None else [torch.randn(2, 5, text)])
    wanted = both_gradients(attn, *inputs)
    attn.set_processor(TrainingAttention(attn.processor, explicit=explicit))
    assert (both_gradients(attn, *inputs) - wanted).norm() < 1e-5 * wanted.norm()


def test_without_a_backward_the_plain_processor_answers() -> None:
    processor = TrainingAttention(lambda *_: "plain", explicit=True)
    with torch.no_grad():
        assert processor(torch.nn.Identity(), torch.zeros(1, 4, 8)) == "plain"


def test_masks_and_pictures_are_left_to_the_plain_processor() -> None:
    processor = TrainingAttention(lambda *_: "plain", explicit=True)
    assert processor(torch.nn.Identity(), torch.zeros(1, 4, 8), None, torch.zeros(1, 4)) == "plain"
    assert processor(torch.nn.Identity(), torch.zeros(1, 4, 8, 8)) == "plain"


def test_explicit_scores_are_for_few_keys_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    attn, used = block(), []
    attn.set_processor(TrainingAttention(attn.processor, explicit=True))
    softmax = Tensor.softmax
    monkeypatch.setattr(Tensor, "softmax", lambda self, dim: used.append(self.shape) or softmax(self, dim))
    attn(torch.zeros(1, 257, 32))
    assert not used
    attn(torch.zeros(1, 256, 32))
    assert used


def test_every_block_of_the_unets_is_taken_over_and_explicit_on_cpus_below_fp32(
    folder: Path, tmp_path: Path
) -> None:
    for unet_folder in (folder / "unet", make_tiny_sdxl(tmp_path / "xl") / "unet"):
        unet = UNet2DConditionModel.from_pretrained(unet_folder)
        use_training_attention(unet, device="cpu", dtype=torch.float32)
        blocks = [module for module in unet.modules() if isinstance(module, Attention)]
        assert all(isinstance(b.processor, TrainingAttention) and not b.processor.explicit for b in blocks)
    for device, dtype, explicit in (("cpu", torch.bfloat16, True), ("cuda", torch.bfloat16, False)):
        unet = UNet2DConditionModel.from_pretrained(folder / "unet")
        use_training_attention(unet, device=device, dtype=dtype)
        processors = [m.processor for m in unet.modules() if isinstance(m, Attention)]
        assert all(processor.explicit is explicit for processor in processors)


def test_blocks_of_another_kind_keep_their_processor() -> None:
    attn = block(text=20, cross_attention_norm="layer_norm")
    use_training_attention(torch.nn.ModuleList([attn]), device="cpu", dtype=torch.float32)
    assert type(attn.processor) is AttnProcessor2_0


def test_installing_twice_wraps_once() -> None:
    holder = torch.nn.ModuleList([block()])
    use_training_attention(holder, device="cpu", dtype=torch.float32)
    use_training_attention(holder, device="cpu", dtype=torch.float32)
    assert type(holder[0].processor.plain) is AttnProcessor2_0
