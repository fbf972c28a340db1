"""The stages of pocket-flow's pre-training, in order, over one work folder."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel
from torch import Tensor
from transformers import CLIPModel, CLIPTextModelWithProjection

from detour.pocket.pretrain import pair
from detour.pocket.pretrain.flow import parts
from detour.pocket.pretrain.flow.conditioning import Towers, WeightedJointAttention, with_projection
from detour.pocket.pretrain.flow.folder import second_tokenizer, write_base
from detour.pocket.pretrain.flow.things import latent_weights, read_covered_shares
from detour.pocket.pretrain.flow.velocity import velocity_loss
from detour.pocket.pretrain.run import Pretraining, draw
from detour.pocket.pretrain.stage import load_average

STAGES = (
    "tokenizer",
    "pictures",
    "texts",
    "tower",
    "vae",
    "latents",
    "transformer",
    "decoder",
    "assemble",
)
CAPTION_DROPOUT = 0.1
TRANSFORMER_STEPS = 12_000


@dataclass(frozen=True, kw_only=True)
class FlowPretraining(Pretraining):
    """One work folder, one folder to write the base to, and pocket's folder, whose tokenizer and pair it takes.

    The stages for pictures, captions, the VAE's decoder and the cached latents are pocket's own.
    """

    pocket: Path

    # what stands in the work folder

    def clip(self) -> CLIPModel:
        """Pocket's CLIP pair: its text tower is the first one here, and the pair is the judge."""
        loaded: CLIPModel = CLIPModel.from_pretrained(self.pocket / "judge", dtype=torch.float32)
        return loaded

    def new_second_pair(self) -> pair.Pair:
        """The second text tower in a pair of its own, fresh."""
        tokenizer = self.tokenizer()
        return pair.Pair(
            parts.new_second_pair(
                vocab_size=len(tokenizer),
                eos_token_id=tokenizer.eos_token_id,
                bos_token_id=tokenizer.bos_token_id,
                pad_token_id=second_tokenizer(tokenizer).pad_token_id,
            )
        )

    def second_tower(self) -> CLIPTextModelWithProjection:
        """The second text tower, trained or as shipped, frozen."""
        if self.settings.init == "shipped":
            shipped: CLIPTextModelWithProjection = CLIPTextModelWithProjection.from_pretrained(
                self.out / "text_encoder_2", dtype=torch.float32
            )
            return shipped.eval().requires_grad_(False)
        trained = self.new_second_pair()
        trained.load_state_dict(load_average(self.work / "tower.pt"))
        return with_projection(trained.clip)

    def towers(self) -> Towers:
        """Load both text towers, frozen."""
        tokenizer = self.tokenizer()
        return Towers(
            first=with_projection(self.clip()),
            second=self.second_tower(),
            end=tokenizer.eos_token_id,
            second_padding=second_tokenizer(tokenizer).pad_token_id,
        )

    def new_vae(self) -> AutoencoderKL:
        """The VAE before its training: grown from pocket's, or as shipped."""
        if self.settings.init == "shipped":
            return super().new_vae()
        return parts.autoencoder_from_pocket(self.pocket)

    def standardise(self, vae: AutoencoderKL, means: list[float], deviations: list[float]) -> None:
        """Gives the latents one variance and the VAE's config their shift and factor; a shipped VAE has both."""
        if self.settings.init == "fresh":
            parts.equalise(vae, means, deviations)

    def new_transformer(self) -> SD3Transformer2DModel:
        """The transformer, fresh or as shipped."""
        if self.settings.init == "shipped":
            shipped: SD3Transformer2DModel = SD3Transformer2DModel.from_pretrained(
                self.out / "transformer", torch_dtype=torch.float32
            )
            return shipped
        return parts.new_transformer()

    # stages

    def run_tokenizer(self) -> None:
        """Take the tokenizer of pocket."""
        shutil.copytree(self.pocket / "tokenizer", self.work / "tokenizer", dirs_exist_ok=True)

    def run_tower(self) -> None:
        """Trains the second text tower."""
        self.train_text_tower("tower", self.new_second_pair(), batch=96)

    def run_vae(self) -> None:
        """Trains the VAE; averaged weights make every state on disk a usable one."""
        self.train_vae(self.new_vae(), steps=2000, decay=900, lr=1e-3, average=0.998)

    def run_transformer(self) -> None:
        """Trains the transformer on the cached latents.

        Latents of objects count more until half of the falling learning rate is past; the last steps minimise the
        plain error, whose minimum is the velocity itself.
        """
        transformer, texts, tokenizer = self.new_transformer(), self.texts(), self.tokenizer()
        transformer.set_attn_processor(WeightedJointAttention())
        towers, vae = self.towers(), self.trained_vae()
        shift, factor = vae.config.shift_factor, vae.config.scaling_factor
        cached = np.load(self.work / "latents.npy", mmap_mode="r")
        ready = self._latents_noted()["done"]
        empty = np.full(texts.true.shape[-1], tokenizer.eos_token_id, dtype=np.int16)
        empty[0] = tokenizer.bos_token_id
        stage = self._stage(
            "transformer",
            transformer,
            steps=TRANSFORMER_STEPS,
            warmup=100,
            decay=(self.settings.steps or TRANSFORMER_STEPS) // 4,
            lr=2e-3,
            plain=None,
            average=0.999,
        )
        shares = read_covered_shares(self.work / "things.npy", seed=self.settings.seed, count=ready)

        def loss(step: int, generator: torch.Generator) -> tuple[Tensor, Mapping[str, float]]:
            which, phrasing = draw(ready, self.settings.batch or 32, generator)
            flips = torch.randint(2, (len(which),), generator=generator).numpy()
            means, deviations = torch.from_numpy(cached[which, flips]).float().chunk(2, dim=1)
            sampled = means + deviations * torch.randn(means.shape, generator=generator)
            dropped = torch.rand(len(which), generator=generator) < CAPTION_DROPOUT
            ids = np.where(dropped.numpy()[:, None], empty, texts.true[which, phrasing])
            is_plain = step >= stage.schedule.steps - stage.schedule.decay // 2
            return velocity_loss(
                transformer,
                (sampled - shift) * factor,
                towers.encode(ids),
                generator,
                weights=None
                if is_plain
                else latent_weights(shares[which], mirrored=torch.from_numpy(flips == 1)),
            )

        stage.run(loss)

    def run_assemble(self) -> None:
        """Writes the base's folder from the newest state of every stage."""
        vae = self.trained_vae()
        if (self.work / "decoder.pt").exists():
            vae.load_state_dict(load_average(self.work / "decoder.pt"))
        transformer = parts.new_transformer()
        transformer.load_state_dict(load_average(self.work / "transformer.pt"))
        towers = self.towers()
        write_base(
            self.out,
            tokenizer=self.tokenizer(),
            towers=(towers.first, towers.second),
            clip=self.clip(),
            vae=vae,
            transformer=transformer,
        )
