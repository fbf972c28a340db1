"""The stages of the pre-training, in order, over one work folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import CLIPModel, CLIPTokenizer

from detour.pocket.pretrain import autoencoder, denoiser, pair, parts
from detour.pocket.pretrain.folder import write_base
from detour.pocket.pretrain.optimizers import adamw, optimizers_for
from detour.pocket.pretrain.pictures import new_array, read_pictures, render_pictures
from detour.pocket.pretrain.precision import autocast
from detour.pocket.pretrain.stage import Schedule, Stage, load_average
from detour.pocket.pretrain.texts import NUM_FALSE, NUM_PHRASINGS, Texts, phrase, read_texts
from detour.pocket.pretrain.tokenizer import write_tokenizer

STAGES = (
    "tokenizer",
    "pictures",
    "texts",
    "text",
    "pair",
    "vae",
    "latents",
    "unet",
    "vision",
    "decoder",
    "assemble",
)
NUM_TOKENIZER_CAPTIONS = 4000
LATENTS_PIECE = 1024
DECODER_NOISE = 0.04


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of pre-training that can be chosen.

    Attributes:
        seed: of the training stream, the initial weights and every draw.
        pictures: size of the training set.
        steps: length of a stage; None is the stage's own.
        init: ``shipped`` starts from the weights in the base's folder instead of fresh ones.
        workers: drawing processes.
        batch: examples of one step; None is the stage's own.
    """

    seed: int = 1
    pictures: int = 24_576
    steps: int | None = None
    init: Literal["fresh", "shipped"] = "fresh"
    workers: int = 1
    batch: int | None = None


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """One work folder, one folder to write the base to."""

    work: Path
    out: Path
    settings: Settings

    def run(self, stage: str) -> None:
        """Runs one stage by its name in ``STAGES``."""
        self.work.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(self.settings.seed)
        getattr(self, f"run_{stage}")()

    # what stands in the work folder

    def tokenizer(self) -> CLIPTokenizer:
        """The tokenizer of the work folder."""
        loaded: CLIPTokenizer = CLIPTokenizer.from_pretrained(self.work / "tokenizer")
        return loaded

    def pictures(self) -> NDArray[np.uint8]:
        """The pictures that are ready."""
        return read_pictures(self.work, count=self.settings.pictures)

    def texts(self) -> Texts:
        """Token ids of all captions of the pictures."""
        with np.load(self.work / "texts.npz") as file:
            return Texts(true=file["true"], false=file["false"], pairs=file["pairs"])

    def new_pair(self) -> pair.Pair:
        """The CLIP pair with its heads, fresh or as shipped."""
        tokenizer = self.tokenizer()
        if self.settings.init == "shipped":
            return pair.Pair(CLIPModel.from_pretrained(self.out / "judge", dtype=torch.float32))
        return pair.Pair(
            parts.new_clip(
                vocab_size=len(tokenizer),
                eos_token_id=tokenizer.eos_token_id,
                bos_token_id=tokenizer.bos_token_id,
            )
        )

    def trained_pair(self, *names: str) -> pair.Pair:
        """The pair after the last of these stages that has a state on disk."""
        trained = self.new_pair()
        for name in names:
            if (self.work / f"{name}.pt").exists():
                trained.load_state_dict(load_average(self.work / f"{name}.pt"), strict=False)
                return trained
        if self.settings.init == "shipped":
            return trained
        raise FileNotFoundError(
            f"{self.work}: none of the stages {', '.join(names)} has run. Run them first."
        )

    def new_vae(self) -> AutoencoderKL:
        """The VAE, fresh or as shipped."""
        if self.settings.init == "shipped":
            shipped: AutoencoderKL = AutoencoderKL.from_pretrained(
                self.out / "vae", torch_dtype=torch.float32
            )
            return shipped
        return parts.new_autoencoder()

    def trained_vae(self) -> AutoencoderKL:
        """The VAE after its own stage, its latents standardised once they were measured."""
        vae = self.new_vae()
        if self.settings.init == "fresh":
            vae.load_state_dict(load_average(self.work / "vae.pt"))
        if (self.work / "latents.json").exists():
            noted = self._latents_noted()
            self.standardise(vae, noted["means"], noted["deviations"])
        return vae.eval()

    def standardise(self, vae: AutoencoderKL, means: list[float], deviations: list[float]) -> None:
        """Brings the latents to unit variance, by the statistics of :meth:`run_latents`, in place."""
        autoencoder.standardise(vae, means, deviations)

    def _latents_noted(self) -> dict[str, Any]:
        """Progress of the latents stage, and the statistics that it standardises by."""
        noted: dict[str, Any] = json.loads((self.work / "latents.json").read_text())
        return noted

    def _note_latents(self, noted: Mapping[str, Any]) -> None:
        path = self.work / "latents.json"
        temporary = path.with_suffix(".part")
        temporary.write_text(json.dumps(noted))
        temporary.replace(path)

    # stages

    def run_tokenizer(self) -> None:
        """Learns the tokenizer from captions of the training stream, or takes the shipped one."""
        if self.settings.init == "shipped":
            shutil.copytree(self.out / "tokenizer", self.work / "tokenizer", dirs_exist_ok=True)
            return
        captions = [phrase(self.settings.seed, index)[0] for index in range(NUM_TOKENIZER_CAPTIONS)]
        known = [text for group in captions for text in group]
        write_tokenizer(self.work / "tokenizer", known)

    def run_pictures(self) -> None:
        """Draw the training set of the autoencoder."""
        settings = self.settings
        render_pictures(self.work, seed=settings.seed, count=settings.pictures, workers=settings.workers)

    def run_texts(self) -> None:
        """Writes the token ids of all captions."""
        texts = read_texts(self.tokenizer(), seed=self.settings.seed, count=self.settings.pictures)
        np.savez(self.work / "texts.npz", true=texts.true, false=texts.false, pairs=texts.pairs)

    def run_text(self) -> None:
        """Trains the text tower by itself."""
        self.train_text_tower("text", self.new_pair(), batch=192)

    def train_text_tower(self, name: str, model: pair.Pair, *, batch: int) -> None:
        """Trains one text tower from captions only, as the stage ``name``."""
        texts, tokenizer = self.texts(), self.tokenizer()
        objects = pair.object_tokens(tokenizer)
        model.clip.vision_model.requires_grad_(False)
        stage = self._stage(name, model, steps=200, warmup=30, decay=200, lr=3e-3, plain=PAIR_PLAIN)

        def loss(_: int, generator: torch.Generator) -> tuple[Tensor, Mapping[str, float]]:
            which, phrasing = draw(len(texts.true), self.settings.batch or batch, generator)
            ids, pairs = pair.draw_texts(texts, which, phrasing, end=tokenizer.eos_token_id)
            value, _features, figures = pair.text_loss(model, ids, pairs, objects)
            return value, figures

        stage.run(loss)

    def run_pair(self) -> None:
        """Trains both towers against each other."""
        texts, tokenizer, pictures = self.texts(), self.tokenizer(), self.pictures()
        objects = pair.object_tokens(tokenizer)
        model = self.trained_pair("text")
        stage = self._stage("pair", model, steps=165, warmup=30, decay=150, lr=2e-3, plain=PAIR_PLAIN)

        def loss(_: int, generator: torch.Generator) -> tuple[Tensor, Mapping[str, float]]:
            which, phrasing = draw(len(pictures), self.settings.batch or 128, generator)
            wrong = int(torch.randint(NUM_FALSE, (), generator=generator))
            ids, pairs = pair.draw_texts(texts, which, phrasing, end=tokenizer.eos_token_id)
            false_ids = pair.as_ids(texts.false[which, phrasing, wrong], end=tokenizer.eos_token_id)
            shown = pair.shifted(pictures[which], generator)
            text_value, true, text_figures = pair.text_loss(model, ids, pairs, objects)
            with autocast():
                pooled = model.clip.text_model(input_ids=false_ids).pooler_output
                false = model.clip.text_projection(pooled).float().view(len(which), -1, true.shape[1])
            vision_value, seen, vision_figures = pair.vision_loss(model, shown, ids, pairs)
            value, figures = pair.contrastive_loss(model.clip.logit_scale, seen, true, false, ids)
            return value + text_value + vision_value, {**text_figures, **vision_figures, **figures}

        stage.run(loss)

    def run_vision(self) -> None:
        """Trains the picture tower against the frozen text tower."""
        texts, tokenizer, pictures = self.texts(), self.tokenizer(), self.pictures()
        model = self.trained_pair("pair")
        model.train_vision_only()
        said = pair.PooledTexts(model.clip, texts, end=tokenizer.eos_token_id)
        stage = self._stage("vision", model, steps=1500, warmup=30, decay=300, lr=2e-3, plain=PAIR_PLAIN)

        def loss(_: int, generator: torch.Generator) -> tuple[Tensor, Mapping[str, float]]:
            which, phrasing = draw(len(pictures), self.settings.batch or 64, generator)
            ids = pair.as_ids(texts.true[which, phrasing], end=tokenizer.eos_token_id)
            pairs = torch.from_numpy(texts.pairs[which].astype(np.int64))
            shown = pair.shifted(pictures[which], generator)
            vision_value, seen, vision_figures = pair.vision_loss(model, shown, ids, pairs)
            features = model.clip.text_projection(said.read(which, phrasing))
            value, figures = pair.contrastive_loss(
                model.clip.logit_scale, seen, features[:, 0], features[:, 1:], ids
            )
            return value + vision_value, {**vision_figures, **figures}

        stage.run(loss)

    def run_vae(self) -> None:
        """Trains the VAE: mostly crops, every fourth batch whole frames."""
        self.train_vae(self.new_vae(), steps=1900, decay=600)

    def train_vae(
        self, vae: AutoencoderKL, *, steps: int, decay: int, lr: float = 2e-3, average: float | None = None
    ) -> None:
        """Trains a VAE as the stage ``vae``; ``average`` is the decay of a moving average of its weights."""
        pictures = self.pictures()
        stage = self._stage(
            "vae", vae, steps=steps, warmup=30, decay=decay, lr=lr, plain=VAE_PLAIN, average=average
        )

        def loss(step: int, generator: torch.Generator) -> tuple[Tensor, Mapping[str, float]]:
            count, crop_px = (4, 128) if step % 4 == 3 else (self.settings.batch or 16, 64)
            batch = autoencoder.draw_pictures(pictures, count=count, crop_px=crop_px, generator=generator)
            return autoencoder.autoencoder_loss(vae, batch, generator)

        stage.run(loss)

    def run_decoder(self) -> None:
        """Trains the decoder on from where the VAE stopped; latents stay what the UNet knows.

        A little noise on top of the posterior's teaches it to draw clean pictures from the UNet's latents,
        which are never quite right.
        """
        cached = np.load(self.work / "latents.npy", mmap_mode="r")
        pictures = self.pictures()[: self._latents_noted()["done"]]
        vae = self.trained_vae()
        for frozen in (vae.encoder, vae.quant_conv):
            if frozen is not None:
                frozen.requires_grad_(False)
        stage = self._stage("decoder", vae, steps=1420, warmup=50, decay=900, lr=1.5e-3, plain=VAE_PLAIN)

        def loss(_: int, generator: torch.Generator) -> tuple[Tensor, Mapping[str, float]]:
            which = torch.randint(len(pictures), (4,), generator=generator).numpy()
            flip = int(torch.randint(2, (), generator=generator))
            moments = torch.from_numpy(np.array(cached[which, flip])).float()
            means, deviations = moments.chunk(2, dim=1)
            noise = torch.randn(means.shape, generator=generator)
            latents = means + deviations.clamp(min=self.decoder_noise(vae)) * noise
            shown = pictures[which][:, :, ::-1].copy() if flip else pictures[which]
            return autoencoder.decoder_loss(vae, autoencoder.to_model_range(shown), latents)

        stage.run(loss)

    def decoder_noise(self, vae: AutoencoderKL) -> float:
        """Standard deviation of the noise on the decoder's latents, in the VAE's own units."""
        return DECODER_NOISE / float(vae.config.scaling_factor)

    def run_latents(self) -> None:
        """Caches mean and standard deviation of every picture's latents, and of its mirror image's."""
        pictures = self.pictures()
        if not (self.work / "latents.json").exists():
            raw = self.trained_vae()
            channels = raw.config.latent_channels
            means, deviations = [0.0] * channels, [1.0] * channels
            if self.settings.init == "fresh":  # the shipped VAE is standardised already
                means, deviations = autoencoder.latent_statistics(raw, pictures[:1024])
            self._note_latents({"done": 0, "means": means, "deviations": deviations})
        noted, vae = self._latents_noted(), self.trained_vae()
        size = parts.LATENT_SIZE
        shape = (self.settings.pictures, 2, 2 * vae.config.latent_channels, size, size)
        cache = new_array(self.work / "latents.npy", shape, np.dtype(np.float16))
        for start in range(noted["done"], len(pictures), LATENTS_PIECE):
            for first in range(start, min(start + LATENTS_PIECE, len(pictures)), 64):
                batch = pictures[first : first + 64]
                cache[first : first + len(batch), 0] = autoencoder.encode_moments(vae, batch)
                mirrored = batch[:, :, ::-1].copy()
                cache[first : first + len(batch), 1] = autoencoder.encode_moments(vae, mirrored)
            self._note_latents({**noted, "done": min(start + LATENTS_PIECE, len(pictures))})

    def run_unet(self) -> None:
        """Trains the UNet on the cached latents and text states."""
        unet, texts, tokenizer = self._new_unet(), self.texts(), self.tokenizer()
        unet.set_attn_processor(denoiser.ExplicitAttention())
        text_tower = self.trained_pair("pair").clip.text_model.eval().requires_grad_(False)
        latents = np.load(self.work / "latents.npy", mmap_mode="r")
        empty = texts.true.shape[-1] * [tokenizer.eos_token_id]
        empty[0] = tokenizer.bos_token_id
        alphas = denoiser.cumulative_alphas()
        ready: list[int] = []  # pictures whose latents stand; grows while the latents stage runs beside
        stage = self._stage(
            "unet", unet, steps=1980, warmup=60, decay=1100, lr=2e-3, plain=UNET_PLAIN, average=0.998
        )

        def loss(step: int, generator: torch.Generator) -> tuple[Tensor, Mapping[str, float]]:
            if step % 50 == 0 or not ready:
                ready[:] = [self._latents_noted()["done"]]
            which, phrasing = draw(ready[0], self.settings.batch or 64, generator)
            flips = torch.randint(2, (len(which),), generator=generator).numpy()
            moments = torch.from_numpy(latents[which, flips]).float()
            sampled = moments[:, :4] + moments[:, 4:] * torch.randn(moments[:, :4].shape, generator=generator)
            dropped = torch.rand(len(which), generator=generator) < 0.1
            ids = np.where(dropped.numpy()[:, None], np.array(empty), texts.true[which, phrasing])
            text = denoiser.text_states(text_tower, ids, padding=tokenizer.eos_token_id)
            return denoiser.noise_loss(unet, sampled, text, alphas, generator)

        stage.run(loss)

    def run_assemble(self) -> None:
        """Writes the base's folder from the newest state of every stage."""
        vae = self.trained_vae()
        if (self.work / "decoder.pt").exists():
            vae.load_state_dict(load_average(self.work / "decoder.pt"))
        unet = parts.new_unet()
        unet.load_state_dict(load_average(self.work / "unet.pt"))
        clip = self.trained_pair("vision", "pair").clip
        write_base(self.out, tokenizer=self.work / "tokenizer", clip=clip, vae=vae, unet=unet)

    def _new_unet(self) -> UNet2DConditionModel:
        if self.settings.init == "shipped":
            shipped: UNet2DConditionModel = UNet2DConditionModel.from_pretrained(
                self.out / "unet", torch_dtype=torch.float32
            )
            return shipped
        return parts.new_unet()

    def _stage(
        self,
        name: str,
        modules: nn.Module,
        *,
        steps: int,
        warmup: int,
        decay: int,
        lr: float,
        plain: tuple[str, ...] | None,
        average: float | None = None,
    ) -> Stage:
        """Set up a stage and take up its state; ``plain`` is ``None`` where AdamW trains every parameter."""
        modules.train()
        if plain is None:
            optimizers = [adamw(modules.parameters(), lr=lr)]
        else:
            optimizers = optimizers_for(modules, lr=lr, adam_lr=lr / 2, plain=plain)
        chosen = self.settings.steps or steps
        stage = Stage(
            name=name,
            work=self.work,
            modules=modules,
            optimizers=optimizers,
            schedule=Schedule(steps=chosen, warmup=warmup, decay=min(decay, chosen)),
            seed=self.settings.seed,
            average_decay=average,
        )
        stage.resume()
        return stage


# Layers whose matrices are no hidden ones: AdamW takes them.
PAIR_PLAIN = ("embedding", "_pairs", "_words", "_objects")
VAE_PLAIN = ("conv_in", "conv_out", "quant_conv")
UNET_PLAIN = ("conv_in", "conv_out")


def draw(count: int, batch: int, generator: torch.Generator) -> tuple[NDArray[np.int64], int]:
    """Numbers of a batch's pictures, and which phrasing of their captions it uses."""
    which = torch.randint(count, (batch,), generator=generator).numpy()
    return which, int(torch.randint(NUM_PHRASINGS, (), generator=generator))
