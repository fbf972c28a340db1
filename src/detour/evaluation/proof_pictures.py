"""Draws the pictures of the proof in the same way on every side, and keeps those of the trained model.

The trainer draws them once from the factors in memory and keeps them beside the checkpoints; the prover draws
the same requests from the saved file. Whoever draws passes an engine, so this module knows no base.
"""

import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from detour.errors import RunError
from detour.evaluation.pixels import Pictures
from detour.files import write_with
from detour.specs import PictureSpec, RunSpec

if TYPE_CHECKING:
    from detour.generation.engine import AdapterInUse

PROOF_PIXELS = 8 * 256 * 256
"""Pixels in one forward pass of the proof on every side, small because fp32 and guidance need memory."""

FIRST_PROOF_SEED = 100
"""Seed of the first proof picture; picture i uses the i-th after it."""

TRAINED_PICTURES = Path("checkpoints") / "trained-pictures.npz"
"""Path of the trained model's pictures in a run folder."""


@dataclass(frozen=True, kw_only=True)
class ProofRequest:
    """One picture to draw, with the fields of a generation request that the proof needs."""

    prompt: str
    seed: int
    negative_prompt: str = ""


class PictureSource(Protocol):
    """The part of a drawing engine that the proof uses."""

    def draw(
        self, requests: Any, spec: Any, *, adapters: Any = None, batch: int = 4, blacken: bool = False
    ) -> Any:
        """Draw the requests; the result's ``pictures`` is uint8 (N, H, W, 3)."""


def proof_requests(spec: RunSpec, captions: Sequence[str]) -> list[ProofRequest]:
    """Prompts and seeds of the picture proof.

    Args:
        spec: its sample prompts, and ``evaluate.proof_pictures`` of them.
        captions: of the training pictures, trigger included; used when there are no sample prompts.

    Returns:
        ``evaluate.proof_pictures`` requests; prompts spread evenly over what is there and repeat with
        new seeds when there are fewer of them.
    """
    prompts = spec.sample.prompts or tuple(dict.fromkeys(captions)) or ("",)
    count = spec.evaluate.proof_pictures
    picked = [
        prompts[i * len(prompts) // count] if len(prompts) >= count else prompts[i % len(prompts)]
        for i in range(count)
    ]
    return [ProofRequest(prompt=prompt, seed=FIRST_PROOF_SEED + i) for i, prompt in enumerate(picked)]


def proof_picture_spec(spec: RunSpec) -> PictureSpec:
    """Steps, guidance and size of every proof picture; an unresolved ``auto`` is left to the base."""
    side = spec.data.resolution
    return PictureSpec(
        steps=spec.evaluate.steps, guidance_scale=spec.sample.guidance_scale, width_px=side, height_px=side
    )


def proof_dtype(spec: RunSpec) -> str:
    """Precision of every proof picture; an unresolved ``auto`` is fp32."""
    return "fp32" if spec.evaluate.dtype == "auto" else spec.evaluate.dtype


def proof_batch(spec: RunSpec) -> int:
    """Pictures in one forward pass, 1 to 8, equal on every side because batch 1 and 2 differ by one step of 255."""
    side = spec.data.resolution
    return 8 if side == "auto" else min(8, max(1, PROOF_PIXELS // int(side) ** 2))


def draw_proof_pictures(
    engine: PictureSource,
    requests: Sequence[ProofRequest],
    spec: RunSpec,
    *,
    adapters: "Sequence[AdapterInUse]" = (),
    on_batch: Callable[[int], None] | None = None,
) -> Pictures:
    """Draw the requests with the steps, guidance, size and batch of every proof.

    Args:
        engine: in :func:`proof_dtype`; bf16 alone already moves pictures by 0.6.
        requests: from :func:`proof_requests`, or the held-out prompts.
        spec: the run.
        adapters: of all pictures.
        on_batch: told how many pictures a finished batch held.

    Returns:
        uint8 (N, H, W, 3); a picture with NaN or infinite values is black.
    """
    how, batch = proof_picture_spec(spec), proof_batch(spec)
    batches: list[Pictures] = []
    for start in range(0, len(requests), batch):
        drawn = engine.draw(
            requests[start : start + batch], how, adapters=adapters, batch=batch, blacken=True
        )
        batches.append(drawn.pictures)
        if on_batch is not None:
            on_batch(len(batches[-1]))
    return np.concatenate(batches)


def keep_trained_pictures(run_folder: Path, requests: Sequence[ProofRequest], pictures: Pictures) -> None:
    """Keep pictures of the model with the trained factors still in memory, for the reload proof.

    Raises:
        StorageError: disk full or folder not writable.
    """
    keep_pictures(run_folder / TRAINED_PICTURES, requests, pictures)


def keep_pictures(
    path: Path, requests: Sequence[ProofRequest], pictures: Pictures, *, made_by: str = ""
) -> None:
    """Write pictures with their requests and the settings that determine them.

    Raises:
        StorageError: disk full or folder not writable.
    """
    listed = json.dumps([asdict(request) for request in requests])

    def produce(place: Path) -> None:
        with place.open("wb") as stream:
            np.savez_compressed(
                stream, pictures=pictures, requests=np.array(listed), made_by=np.array(made_by)
            )

    write_with(path, produce)


def read_trained_pictures(run_folder: Path) -> tuple[list[ProofRequest], Pictures] | None:
    """Read requests and uint8 (N, H, W, 3) pictures that the trainer kept; ``None`` where it kept none.

    Raises:
        RunError: the file is there and broken.
    """
    return read_pictures(run_folder / TRAINED_PICTURES)


def read_pictures(path: Path, *, made_by: str = "") -> tuple[list[ProofRequest], Pictures] | None:
    """Read requests and uint8 (N, H, W, 3) pictures of a file; ``None`` where it is missing or has another key.

    Raises:
        RunError: the file is there and broken.
    """
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as stored:
            if "made_by" in stored and str(stored["made_by"]) != made_by:
                return None
            pictures: Pictures = stored["pictures"]
            requests = [ProofRequest(**values) for values in json.loads(str(stored["requests"]))]
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise RunError(
            f"{path}: not a whole archive of pictures that a run kept ({type(error).__name__}). Delete it and go on."
        ) from error
    if pictures.dtype != np.uint8 or pictures.ndim != 4 or len(pictures) != len(requests):
        raise RunError(
            f"{path}: holds {len(requests)} requests and pictures of shape {pictures.shape}. Delete it."
        )
    return requests, pictures
