"""Writes the files of a drawing call: numbered pictures with their metadata, strips of moments and labelled sheets."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from detour.bases.base import Base
from detour.bases.hardware import set_threads
from detour.errors import ConfigError
from detour.generation.engine import Drawn, Moment, PictureEngine, PictureRequest
from detour.generation.grids import grid as lay_out
from detour.generation.png import PictureMetadata, ReferenceUse, StartUse, SteeringUse, save_image
from detour.generation.sidecar import save_picture
from detour.generation.signing import PictureSigner
from detour.specs.generation import GenerateSpec
from detour.verbs.chosen_adapters import ChosenAdapter
from detour.verbs.draw.reference_pictures import words_of_uses

MAX_SLUG = 40

Kind = Literal["picture", "base", "moment", "trace", "compare", "grid"]


class DrawnFile(BaseModel):
    """One file that was written."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Path
    kind: Kind
    """``picture`` (with the adapters, if any), ``base`` (without), ``moment`` and ``trace`` (strip) of
    denoising, ``compare`` and ``grid`` (sheets)."""
    metadata: PictureMetadata | None = None


@dataclass(frozen=True, kw_only=True)
class MetadataMaker:
    """Makes the metadata of each picture of one call."""

    engine: PictureEngine
    base: Base
    spec: GenerateSpec
    loras: Sequence[ChosenAdapter]
    device: str
    dtype: str
    policy: str
    steering: SteeringUse | None = None
    start: StartUse | None = None
    references: tuple[ReferenceUse, ...] = ()
    signer: PictureSigner | None = None

    def metadata(
        self,
        request: PictureRequest,
        drawn: Drawn,
        index: int,
        *,
        adapted: bool = True,
        moment: Moment | None = None,
    ) -> PictureMetadata:
        """Metadata of one picture.

        Args:
            request: that was drawn.
            drawn: the batch that the picture is in.
            index: of the picture in the batch.
            adapted: whether it was drawn with the adapters.
            moment: of denoising; ``None``: the finished picture.
        """
        how = self.engine.resolved(self.spec.picture)
        return PictureMetadata(
            prompt=request.prompt,
            negative_prompt=request.negative_prompt or how.negative_prompt,
            seed=request.seed,
            steps=how.steps,
            scheduler=how.scheduler,
            guidance_scale=how.guidance_scale,
            true_guidance_scale=how.true_guidance_scale,
            width_px=how.width_px,
            height_px=how.height_px,
            spacing=how.spacing,
            eta=how.eta,
            guidance_interval=how.guidance_interval,
            deep_every=how.deep_every,
            base=self.base.identity,
            base_revision=self.base.revision,
            adapters=tuple(lora.use for lora in self.loras) if adapted else (),
            adapter_steps=self.spec.lora_steps if adapted else (),
            merged=self.spec.merge,
            start=self.start,
            references=self.references if adapted else (),
            device=self.device.partition(":")[0],
            dtype=self.dtype,
            batch=self.spec.batch,
            width_class=drawn.width_classes[index],
            threads=set_threads("auto"),
            versions=versions(),
            # The checker looks at finished pictures alone.
            safety="absent" if moment else drawn.safety,
            safety_flagged=None if moment or drawn.nsfw is None else drawn.nsfw[index],
            policy=self.policy,
            steering=self.steering,
            moment=f"step {moment.step} of {moment.total}" if moment else "",
        )


def versions() -> dict[str, str]:
    """Versions on which the bytes of a picture depend."""
    import diffusers
    import torch

    import detour

    return {"detour": detour.__version__, "torch": torch.__version__, "diffusers": diffusers.__version__}


_CLAIMS: dict[Path, list[int]] = {}
_CLAIMING = threading.Lock()


class NumberedPaths:
    """Makes numbered file names in one folder."""

    def __init__(self, out: Path, first: int, *, force: bool) -> None:
        self.out = out
        self.first = first
        self.force = force

    @classmethod
    @contextlib.contextmanager
    def claimed(cls, out: Path, count: int, *, force: bool) -> Iterator[NumberedPaths]:
        """Reserve numbers for ``count`` pictures, behind those that files or other calls of this process have."""
        folder = out.absolute()
        with _CLAIMING:
            ends = _CLAIMS.setdefault(folder, [])
            taken = (
                [int(path.name[:4]) for path in out.glob("[0-9][0-9][0-9][0-9]-*")] if out.is_dir() else []
            )
            first = 0 if force else max([*(number + 1 for number in taken), *ends], default=0)
            ends.append(first + count)
        try:
            yield cls(out, first, force=force)
        finally:
            with _CLAIMING:
                ends.remove(first + count)
                if not ends:
                    _CLAIMS.pop(folder, None)

    def path(self, number: int, *words: str) -> Path:
        """Path of a picture's file: its number and the words, joined by hyphens.

        Raises:
            ConfigError: the file is there already, and is not to be overwritten.
        """
        path = self.out / ("-".join([f"{self.first + number:04d}", *words]) + ".png")
        if path.exists() and not self.force:  # somebody else wrote here meanwhile
            raise ConfigError(f"{path}: is there already. Run again, or pass another folder with --out.")
        return path


def write_pictures(
    numbers: NumberedPaths,
    maker: MetadataMaker,
    requests: Sequence[PictureRequest],
    places: Sequence[int],
    passed: Sequence[bool],
    drawn: Drawn,
    without: Drawn | None,
) -> list[DrawnFile]:
    """Write the files of one batch, and return them; those that the policy did not pass are left out.

    Args:
        numbers: gives each file its name.
        maker: makes the metadata of each picture.
        requests: of the batch.
        places: the pictures' numbers within the call.
        passed: whether the policy lets each picture be seen.
        drawn: the pictures.
        without: the same pictures without adapters, or none.
    """
    files = []
    for index, request in enumerate(requests):
        if not passed[index]:
            continue
        number = places[index]
        words = (slug(request.prompt), f"seed{request.seed}")
        metadata = maker.metadata(request, drawn, index)
        path = numbers.path(number, *words)
        save_picture(path, drawn.pictures[index], metadata, signer=maker.signer)
        files.append(DrawnFile(path=path, kind="picture", metadata=metadata))
        if without is not None:
            path = numbers.path(number, *words, "base")
            metadata = maker.metadata(request, without, index, adapted=False)
            save_picture(path, without.pictures[index], metadata, signer=maker.signer)
            files.append(DrawnFile(path=path, kind="base", metadata=metadata))
        files += _write_trace(numbers, maker, request, drawn, index, number)
    return files


def _write_trace(
    numbers: NumberedPaths,
    maker: MetadataMaker,
    request: PictureRequest,
    drawn: Drawn,
    index: int,
    number: int,
) -> list[DrawnFile]:
    """Write each moment as a file, and all of them as one strip; nothing of a picture that was refused."""
    if not drawn.trace or (drawn.nsfw is not None and drawn.nsfw[index]):
        return []
    words = (slug(request.prompt), f"seed{request.seed}")
    files = []
    for moment in drawn.trace:
        path = numbers.path(number, *words, f"step{moment.step:03d}")
        metadata = maker.metadata(request, drawn, index, moment=moment)
        save_picture(path, moment.pictures[index], metadata, signer=maker.signer)
        files.append(DrawnFile(path=path, kind="moment", metadata=metadata))
    strip = lay_out(
        np.stack([moment.pictures[index] for moment in drawn.trace]),
        len(drawn.trace),
        row_labels=[f"{request.prompt}  (seed {request.seed})"],
        column_labels=[f"step {moment.step} of {moment.total}" for moment in drawn.trace],
    )
    path = numbers.path(number, *words, "trace")
    metadata = maker.metadata(request, drawn, index)
    save_picture(path, strip, metadata, signer=maker.signer)
    return [*files, DrawnFile(path=path, kind="trace", metadata=metadata)]


def write_sheets(
    numbers: NumberedPaths,
    maker: MetadataMaker,
    requests: Sequence[PictureRequest],
    pictures: np.ndarray,
    without: np.ndarray | None,
    *,
    grid: bool,
) -> list[DrawnFile]:
    """Write the labelled sheets of a call, and return them.

    Args:
        numbers: gives each file its name.
        maker: knows the settings of the call.
        requests: all of the call that were drawn.
        pictures: uint8 (N, H, W, 3), of the requests.
        without: the same pictures without adapters; they make the sheet ``compare``.
        grid: write a sheet of all pictures too.
    """
    files = []
    if without is not None:
        pairs = np.stack([without, pictures], axis=1).reshape(-1, *pictures.shape[1:])
        named = [f"{lora.use.name} ×{lora.use.weight:g}" for lora in maker.loras]
        names = ", ".join([*named, *([words_of_uses(maker.references)] if maker.references else [])])
        sheet = lay_out(
            pairs,
            2,
            row_labels=[f"{request.prompt}  (seed {request.seed})" for request in requests],
            column_labels=["without", f"with {names}"],
        )
        path = numbers.path(0, "compare")
        save_image(path, sheet)
        files.append(DrawnFile(path=path, kind="compare"))
    if grid:
        columns = maker.spec.count if maker.spec.count > 1 else min(len(requests), 4)
        sheet = lay_out(pictures, columns, row_labels=_row_labels(maker.spec, requests, columns))
        path = numbers.path(0, "grid")
        save_image(path, sheet)
        files.append(DrawnFile(path=path, kind="grid"))
    return files


def _row_labels(spec: GenerateSpec, requests: Sequence[PictureRequest], columns: int) -> list[str]:
    """A row is one prompt at several seeds, or several prompts at one seed each."""
    labels = []
    for start in range(0, len(requests), columns):
        row = requests[start : start + columns]
        if spec.count > 1:
            labels.append(f"{row[0].prompt}  (seeds {row[0].seed} to {row[-1].seed})")
        else:
            labels.append("  |  ".join(f"{request.prompt} (seed {request.seed})" for request in row))
    return labels


def slug(prompt: str) -> str:
    """A prompt as part of a file name: letters and digits of ASCII, joined by hyphens."""
    words = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")
    return words[:MAX_SLUG].strip("-") or "picture"
