"""Sample pictures during training: fixed prompts, fixed seeds, the weights of the moment."""

import contextlib
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from detour.bases.hardware import torch_dtype
from detour.errors import ConfigError, Withheld
from detour.evaluation.proof_pictures import (
    draw_proof_pictures,
    keep_trained_pictures,
    proof_dtype,
    proof_requests,
)
from detour.files import write_json
from detour.generation.schedulers import pick_sampler
from detour.specs import PictureSpec
from detour.specs.resolved import ResolvedRun
from detour.training.step import set_adapter_dropout
from detour.training.trained_text import TrainedText
from detour.verbs.draw.picture_files import versions
from detour.verbs.progress import Progress, ProgressFn

if TYPE_CHECKING:
    from detour.adapters.adapter import Adapter
    from detour.bases.base import Base
    from detour.bases.denoiser import Denoiser
    from detour.bases.text import TextStage
    from detour.generation.png import PictureMetadata
    from detour.training.cache import TextCache
    from detour.training.stored import StoredText
    from detour.verbs.draw.screening import Screening

WITHHELD = "withheld.json"
"""Names, in the folder of a sheet, the pictures that the safety policy withheld, with its causes."""

KEEP_VAE_BYTES = 200 << 20
"""A VAE up to this size stays in memory between sheets; a larger one is loaded for each."""

BATCH = 4
"""Pictures in one forward pass; part of the bytes."""


class SampleSheets:
    """Draws ``samples/step-000050/00-prompt.png`` and so on with the UNet that is being trained."""

    def __init__(
        self,
        run_folder: Path,
        base: "Base",
        spec: ResolvedRun,
        denoiser: "Denoiser",
        text: "TextCache | StoredText | TrainedText",
    ) -> None:
        self._folder = run_folder / "samples"
        self._base, self._spec, self._denoiser, self._text = base, spec, denoiser, text
        self._vae: Any = None

    @cached_property
    def _screening(self) -> "Screening":
        return screen_samples(self._spec, self._base)

    def draw(self, step: int) -> Path:
        """Draw the sheet of ``step``; returns its folder. Pictures that the safety policy withholds are in no file.

        Raises:
            StorageError: disk full or not writable.
        """
        from detour.generation.engine import PictureEngine, PictureRequest
        from detour.generation.png import save_png

        spec = self._spec
        vae = (
            self._vae if self._vae is not None else self._base.load_vae(torch.float32, self._denoiser.device)
        )
        engine = PictureEngine(
            self._base,
            unet=self._denoiser.network,
            vae=vae,
            text=self._text,
            device=self._denoiser.device,
            dtype=spec.base.dtype,
        )
        requests = [PictureRequest(prompt=p, seed=spec.seed + i) for i, p in enumerate(spec.sample.prompts)]
        set_adapter_dropout(self._denoiser.network, on=False)
        drawn = engine.draw(requests, self._picture_spec(), batch=BATCH, blacken=True)
        if sum(p.numel() * p.element_size() for p in vae.parameters()) <= KEEP_VAE_BYTES:
            self._vae = vae
        folder = self._folder / f"step-{step:06d}"
        screening = self._screening.seeded(spec.seed)
        passed = screening.passed_unchecked(drawn.pictures)
        if screening.withheld:
            write_json(folder / WITHHELD, [one.model_dump(mode="json") for one in screening.withheld])
        for index, (request, picture) in enumerate(zip(requests, drawn.pictures, strict=True)):
            if not passed[index]:
                continue
            metadata = self._metadata(request.prompt, request.seed, step, drawn.width_classes[index])
            save_png(folder / f"{index:02d}-{slug(request.prompt)}.png", picture, metadata)
        return folder

    def _metadata(self, prompt: str, seed: int, step: int, width_class: int) -> "PictureMetadata":
        from detour.generation.png import AdapterUse, PictureMetadata

        spec, picture = self._spec, self._picture_spec()
        side = spec.data.resolution
        return PictureMetadata(
            prompt=prompt,
            seed=seed,
            steps=picture.steps,
            scheduler=pick_sampler(picture.scheduler, self._base.scheduler_config()),
            guidance_scale=spec.sample.guidance_scale,
            width_px=side,
            height_px=side,
            base=self._base.identity,
            base_revision=self._base.revision,
            adapters=(AdapterUse(name=f"{spec.name}-step-{step:06d}", weight=1.0, sha256=""),),
            device=spec.base.device,
            dtype=spec.base.dtype,
            batch=BATCH,
            width_class=width_class,
            threads=spec.train.threads,
            versions=versions(),
            policy=self._screening.version,
            safety="absent",
        )

    def _picture_spec(self) -> PictureSpec:
        side = self._spec.data.resolution
        return PictureSpec(
            steps=self._spec.sample.steps,
            guidance_scale=self._spec.sample.guidance_scale,
            width_px=side,
            height_px=side,
        )


def screen_samples(spec: ResolvedRun, base: "Base") -> "Screening":
    """Let the safety policy of a run look at its sample prompts.

    Args:
        spec: of the run; without ``sample.policy`` everything passes.
        base: that draws.

    Raises:
        ConfigError: the policy is wrong, steers, or changes a prompt, which a run cannot.
        Withheld: it stops a prompt.
    """
    from detour.generation.requests import PictureRequest
    from detour.verbs.draw.screening import Screening, open_policy

    policy = open_policy(spec.sample.policy, base, device=spec.base.device)
    if policy is not None and policy.spec.latent is not None:
        raise ConfigError(
            "samples are drawn without Safe Latent Diffusion. Leave [latent] out of sample.policy."
        )
    asked = [PictureRequest(prompt=p, seed=spec.seed + i) for i, p in enumerate(spec.sample.prompts)]
    screening = Screening(policy, asked)
    screening.require_every()
    for number, prompt in screening.revised.items():
        raise Withheld(
            f"nothing was drawn: policy {screening.version} changes the sample prompt '{asked[number].prompt[:60]}'. "
            f"Ask for '{prompt[:60]}' in sample.prompts."
        )
    return screening


def keep_trained_pictures_of(
    run_folder: Path,
    base: "Base",
    spec: ResolvedRun,
    captions: Sequence[str],
    text: "TextCache | StoredText | TrainedText",
    denoiser: "Denoiser",
    adapter: "Adapter",
    progress: ProgressFn,
) -> None:
    """Draw the proof's pictures in its precision with the factors still in memory, for the reload proof.

    A run in lower precision or beside a quantised base trained beside rounded weights; its factors are drawn on the
    base's own, and the training's network leaves the device for them.
    """
    from detour.generation.engine import AdapterInUse, PictureEngine

    progress(Progress(stage="drawing with the trained model"))
    device = denoiser.device
    unet = denoiser.network
    set_adapter_dropout(unet, on=False)
    adapters: list[AdapterInUse] = []
    reads: TextCache | StoredText | TrainedText | TextStage = text
    dtype = torch_dtype(proof_dtype(spec))
    own = denoiser.dtype == dtype == torch.float32 and spec.base.quantize == "none"
    with contextlib.nullcontext() if own else denoiser.set_aside():
        if not own:
            unet = base.load_network(dtype, device)
            adapters = [AdapterInUse(adapter=adapter)]
            if isinstance(text, TrainedText) or dtype != torch.float32:  # captions were cached in fp32
                reads = base.load_text(dtype, device)
        vae = base.load_vae(dtype, device)
        engine = PictureEngine(base, unet=unet, vae=vae, text=reads, device=device, dtype=dtype)
        requests = proof_requests(spec, captions)
        drawn = draw_proof_pictures(engine, requests, spec, adapters=adapters)
    keep_trained_pictures(run_folder, requests, drawn)


def slug(prompt: str) -> str:
    """A file name that reads like the prompt: ``"A red house!"`` → ``"a-red-house"``; 40 characters at most."""
    cleaned = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:40].strip("-")
    return cleaned or "picture"
