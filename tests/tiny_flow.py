"""SD 3.5 and Flux in miniature, of diffusers' and transformers' true classes: random weights, every part."""

import json
from pathlib import Path
from typing import Any

from detour.bases.parts import ZERO_STATES
from tests.tiny_base import SIZE_PX, write_tokenizer

LATENT_CHANNELS = 4
T5_WIDTH = 24
JOINT_WIDTH = 24
"""Width of the joined states; at least that of the two CLIPs side by side where they are read."""

SCHEDULER: dict[str, Any] = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "_diffusers_version": "0.42.1",
    "num_train_timesteps": 1000,
    "shift": 3.0,
}


def make_tiny_sd3(
    folder: Path,
    *,
    seed: int = 0,
    t5: bool = True,
    zero_states: int | None = None,
    channels: int = LATENT_CHANNELS,
) -> Path:
    """Write a random SD 3.5 medium in diffusers folder layout: 64 px pictures, two CLIPs of width 8 and a T5.

    As the true one it has a second attention in its first block and norms of queries and keys.

    Args:
        folder: made if missing.
        seed: of all weights; same seed, same bytes.
        t5: whether the third text encoder is there.
        zero_states: written into the index: how many stand for an absent T5.
        channels: of the latents; the true one has 16, and diffusers' inpainting pipeline asks for so many.
    """
    import torch
    from diffusers import SD3Transformer2DModel

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        transformer = SD3Transformer2DModel(
            sample_size=8, patch_size=2, in_channels=channels, num_layers=2, attention_head_dim=8,
            num_attention_heads=2, joint_attention_dim=JOINT_WIDTH, caption_projection_dim=16,
            pooled_projection_dim=16, out_channels=channels, pos_embed_max_size=16,
            dual_attention_layers=(0,), qk_norm="rms_norm",
        )  # fmt: skip
        # As in diffusers the final layers start at zero nowhere, so predictions differ from zero.
        _write_vae(folder / "vae", channels)
        for part in ("text_encoder", "text_encoder_2"):
            _write_clip(folder, part, width=8, projected=True)
        if t5:
            _write_t5(folder, "text_encoder_3", width=JOINT_WIDTH)
    transformer.save_pretrained(folder / "transformer")
    _write_json(folder / "scheduler" / "scheduler_config.json", SCHEDULER)
    third = ["transformers", "T5EncoderModel"] if t5 else [None, None]
    _write_json(
        folder / "model_index.json",
        {
            "_class_name": "StableDiffusion3Pipeline",
            "_diffusers_version": "0.42.1",
            "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
            "transformer": ["diffusers", "SD3Transformer2DModel"],
            "vae": ["diffusers", "AutoencoderKL"],
            "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
            "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
            "text_encoder_3": third,
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "tokenizer_2": ["transformers", "CLIPTokenizer"],
            "tokenizer_3": ["transformers", "T5TokenizerFast"] if t5 else [None, None],
            **({} if zero_states is None else {ZERO_STATES: zero_states}),
        },
    )
    return folder


def make_tiny_flux(folder: Path, *, seed: int = 0, guidance: bool = True) -> Path:
    """Write a random Flux in diffusers folder layout: 64 px pictures, a CLIP for the pooled state and a T5.

    Args:
        folder: made if missing.
        seed: of all weights; same seed, same bytes.
        guidance: with an embedding of the guidance scale, as Flux-dev; without, as Flux-schnell.
    """
    import torch
    from diffusers import FluxTransformer2DModel

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        transformer = FluxTransformer2DModel(
            patch_size=1, in_channels=4 * LATENT_CHANNELS, num_layers=2, num_single_layers=2,
            attention_head_dim=8, num_attention_heads=2, joint_attention_dim=T5_WIDTH, pooled_projection_dim=8,
            guidance_embeds=guidance, axes_dims_rope=(2, 2, 4),
        )  # fmt: skip
        _write_vae(folder / "vae")
        _write_clip(folder, "text_encoder", width=8, projected=False)
        _write_t5(folder, "text_encoder_2", width=T5_WIDTH)
    transformer.save_pretrained(folder / "transformer")
    shift = (
        {"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15} if guidance else {"shift": 1.0}
    )
    _write_json(folder / "scheduler" / "scheduler_config.json", SCHEDULER | shift)
    _write_json(
        folder / "model_index.json",
        {
            "_class_name": "FluxPipeline",
            "_diffusers_version": "0.42.1",
            "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
            "transformer": ["diffusers", "FluxTransformer2DModel"],
            "vae": ["diffusers", "AutoencoderKL"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "text_encoder_2": ["transformers", "T5EncoderModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "tokenizer_2": ["transformers", "T5TokenizerFast"],
        },
    )
    return folder


def _write_vae(folder: Path, channels: int = LATENT_CHANNELS) -> None:
    from diffusers import AutoencoderKL

    AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 16),
        layers_per_block=1,
        norm_num_groups=8,
        sample_size=SIZE_PX,
        latent_channels=channels,
        scaling_factor=1.5305,
        shift_factor=0.0609,
        use_quant_conv=False,
        use_post_quant_conv=False,
    ).save_pretrained(folder)


def _write_clip(folder: Path, part: str, *, width: int, projected: bool) -> None:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    vocabulary = write_tokenizer(folder / part.replace("text_encoder", "tokenizer"))
    config = CLIPTextConfig(
        vocab_size=len(vocabulary),
        hidden_size=width,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=77,
        projection_dim=width,
        bos_token_id=vocabulary["<|startoftext|>"],
        eos_token_id=vocabulary["<|endoftext|>"],
        pad_token_id=vocabulary["<|endoftext|>"],
    )
    kind = CLIPTextModelWithProjection if projected else CLIPTextModel
    kind(config).save_pretrained(folder / part)


def _write_t5(folder: Path, part: str, *, width: int) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

    letters = [chr(code) for code in range(33, 127)]
    words = ["<pad>", "</s>", "<unk>", *letters, *("▁" + letter for letter in letters), "▁"]
    tokenizer = Tokenizer(models.Unigram([(word, -1.0) for word in words], unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=512,
    ).save_pretrained(folder / part.replace("text_encoder", "tokenizer"))
    T5EncoderModel(
        T5Config(
            vocab_size=len(words), d_model=width, d_kv=8, d_ff=32, num_layers=2, num_heads=2,
            feed_forward_proj="gated-gelu", pad_token_id=0, eos_token_id=1, decoder_start_token_id=0,
        )
    ).save_pretrained(folder / part)  # fmt: skip


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
