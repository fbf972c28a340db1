"""A folder of random weights in pocket-flow's layout, and the parts it was written from."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
from torch import nn
from transformers import CLIPTokenizer

import detour.pocket
from detour.pocket.pretrain import precision
from detour.pocket.pretrain.flow import parts
from detour.pocket.pretrain.flow.conditioning import Towers, with_projection
from detour.pocket.pretrain.flow.folder import second_tokenizer, write_base
from detour.pocket.pretrain.flow.run import FlowPretraining
from detour.pocket.pretrain.run import Settings

POCKET = Path(detour.pocket.__file__).parent / "weights"
SMALL_TRANSFORMER = {
    "num_layers": 2,
    "num_attention_heads": 2,
    "attention_head_dim": 32,
    "caption_projection_dim": 64,
}


@dataclass(frozen=True, kw_only=True)
class RandomBase:
    """A folder of random weights, opened."""

    folder: Path
    pipeline: StableDiffusion3Pipeline
    towers: Towers
    tokenizer: CLIPTokenizer


def small_transformer() -> SD3Transformer2DModel:
    """A narrow MMDiT none of whose parameters is zero."""
    transformer = parts.new_transformer()
    for parameter in transformer.parameters():
        nn.init.normal_(parameter, std=0.1)
    return transformer.eval()


@pytest.fixture(scope="module")
def random_base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RandomBase]:
    torch.manual_seed(0)
    work = tmp_path_factory.mktemp("pocket-flow")
    with pytest.MonkeyPatch.context() as patch:
        # held against pipelines in float32, also where the processor would make pre-training take bfloat16
        patch.setattr(precision, "fast_dtype", lambda: torch.float32)
        for key, value in SMALL_TRANSFORMER.items():
            patch.setitem(parts.TRANSFORMER_CONFIG, key, value)
        patch.setitem(parts.VAE_CONFIG, "block_out_channels", [8, 8, 16, 16])
        vae = parts.new_autoencoder().eval()
        vae.register_to_config(shift_factor=0.3, scaling_factor=1.7)
        pretraining = FlowPretraining(work=work, out=work / "base", settings=Settings(), pocket=POCKET)
        pretraining.run_tokenizer()
        tokenizer, clip = pretraining.tokenizer(), pretraining.clip()
        second = with_projection(pretraining.new_second_pair().clip)
        towers = (with_projection(clip), second)
        transformer = small_transformer()
        write_base(
            work / "base", tokenizer=tokenizer, towers=towers, clip=clip, vae=vae, transformer=transformer
        )
        pipeline = StableDiffusion3Pipeline.from_pretrained(
            work / "base", text_encoder_3=None, tokenizer_3=None, torch_dtype=torch.float32
        )
        pipeline.set_progress_bar_config(disable=True)
        yield RandomBase(
            folder=work / "base",
            pipeline=pipeline,
            towers=Towers(
                first=pipeline.text_encoder,
                second=pipeline.text_encoder_2,
                end=tokenizer.eos_token_id,
                second_padding=second_tokenizer(tokenizer).pad_token_id,
            ),
            tokenizer=pretraining.tokenizer(),
        )
