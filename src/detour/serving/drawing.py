"""Makes requests of the engine for the pictures of jobs, and PNG files with metadata of the results."""

from __future__ import annotations

import io
import json

import numpy as np
from PIL import Image

from detour.bases.hardware import set_threads
from detour.diffusion.safe_latent import safe_guidance
from detour.errors import AdapterError
from detour.generation.mark import add_mark, fingerprint
from detour.generation.png import AdapterUse, PictureMetadata
from detour.generation.references import ReferenceInUse
from detour.generation.requests import Picture, PictureRequest
from detour.generation.sidecar import Signs, save_picture
from detour.serving.engines import ServingEngine
from detour.serving.jobs import Job, PinnedReference
from detour.serving.policy import NoPolicy
from detour.serving.references import ServedReferences, use_of
from detour.serving.shelf import Shelf
from detour.serving.starts import kept_start
from detour.serving.store import JobStore
from detour.specs.generation import PictureSpec
from detour.verbs.draw.picture_files import versions


class PictureFiles:
    """Makes requests and files of the pictures of one engine."""

    def __init__(
        self,
        engine: ServingEngine,
        shelf: Shelf,
        store: JobStore,
        *,
        dtype: str,
        signer: Signs | None = None,
        references: ServedReferences | None = None,
        mark: str | None = None,
    ) -> None:
        self._references, self._mark = references, mark
        self._signer = signer
        self._engine, self._shelf, self._store, self._dtype = engine, shelf, store, dtype
        self._versions = versions()

    def request_of(self, job: Job, number: int) -> PictureRequest:
        """Make the request of the engine for one picture of a job.

        Raises:
            AdapterError: the copy of an adapter, a reference picture or the start picture is gone or damaged.
        """
        asked = job.request
        size = (asked.width_px, asked.height_px)
        return PictureRequest(
            prompt=asked.prompts[number],
            seed=asked.seeds[number],
            negative_prompt=asked.negative_prompt,
            how=how_of(job),
            start=None if asked.start is None else kept_start(asked.start, size, self._store.folder),
            adapters=tuple(self._shelf.in_use(one) for one in asked.adapters),
            references=tuple(self._reference(one) for one in asked.references),
            width_class=asked.width_class,
            guidance=None if asked.steering is None else safe_guidance(asked.steering.strength),
            further_texts=() if asked.steering is None else (asked.steering.concept,),
        )

    def _reference(self, one: PinnedReference) -> ReferenceInUse:
        if self._references is None:
            raise AdapterError(
                "the server no longer takes reference pictures. Send the request without them."
            )
        return self._references.in_use(one, self._store.folder)

    def write(self, job: Job, number: int, picture: Picture) -> int:
        """Write the PNG with how it was made, and its sidecar; durable when this returns.

        Returns:
            its bytes.

        Raises:
            StorageError: disk full, or not writable.
        """
        path = self._store.path_of(job.pictures[number].token)
        server = {
            "policy": job.policy,
            "adapters": [one.model_dump() for one in job.request.adapters],
            "revised": job.revised,
        }
        return save_picture(
            path,
            picture.pixels if self._mark is None else add_mark(picture.pixels, self._mark),
            self._metadata(job, number, picture),
            further={"detour-serve": json.dumps(server)},
            signer=self._signer,
        )

    def preview_of(self, pixels: np.ndarray) -> bytes:
        """Encode an unfinished picture as PNG."""
        return encode(Image.fromarray(pixels), "png")

    def _metadata(self, job: Job, number: int, picture: Picture) -> PictureMetadata:
        asked, base = job.request, self._engine.base
        return PictureMetadata(
            prompt=asked.prompts[number],
            negative_prompt=asked.negative_prompt,
            seed=asked.seeds[number],
            steps=asked.steps,
            scheduler=asked.scheduler,
            guidance_scale=asked.guidance_scale,
            width_px=asked.width_px,
            height_px=asked.height_px,
            base=base.identity,
            base_revision=base.revision,
            adapters=tuple(
                AdapterUse(
                    name=one.name, weight=one.weight, sha256=one.sha256, tensor_sha256=one.tensor_sha256
                )
                for one in asked.adapters
            ),
            start=asked.start,
            references=tuple(use_of(one) for one in asked.references),
            device=self._engine.device.partition(":")[0],
            dtype=self._dtype,
            batch=picture.width_class // asked.num_rows,
            width_class=picture.width_class,
            threads=set_threads("auto"),
            versions=self._versions,
            policy="" if job.policy == NoPolicy.version else job.policy,
            mark="" if self._mark is None else fingerprint(self._mark),
            steering=asked.steering,
            safety="absent" if picture.nsfw is None else "checked",
            safety_flagged=picture.nsfw,
        )


def how_of(job: Job) -> PictureSpec:
    """Settings with which the pictures of a job are drawn."""
    asked = job.request
    return PictureSpec(
        negative_prompt=asked.negative_prompt,
        steps=asked.steps,
        guidance_scale=asked.guidance_scale,
        width_px=asked.width_px,
        height_px=asked.height_px,
        scheduler=asked.scheduler,
    )


def encode(image: Image.Image, kind: str, *, quality: int = 90) -> bytes:
    """Encode a picture as the bytes of a file.

    Args:
        image: RGB.
        kind: png, jpeg or webp.
        quality: 0 to 100, of jpeg and webp.
    """
    buffer = io.BytesIO()
    options = {} if kind == "png" else {"quality": quality}
    image.save(buffer, format=kind.upper(), **options)
    return buffer.getvalue()
