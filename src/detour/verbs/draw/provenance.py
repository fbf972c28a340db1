"""What a picture says of itself, in plain words, and whether it can be drawn again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from detour.adapter_files.peft_format import is_peft_folder
from detour.bases.base import Base, open_base
from detour.bases.embedded import EMBEDDED
from detour.bases.hardware import pick_device, set_threads, torch_dtype
from detour.data.pictures import open_picture, open_png, read_bytes
from detour.diffusion.safe_latent import safe_guidance
from detour.errors import BaseError, ConfigError, DetourError
from detour.files import read_text, sha256_of
from detour.generation.engine import PictureEngine
from detour.generation.mark import MarkReport, add_mark, find_mark, fingerprint
from detour.generation.png import PictureMetadata, read_png_metadata
from detour.generation.references import ReferenceInUse, ReferenceTool
from detour.generation.requests import PictureRequest
from detour.generation.schedulers import TITLES
from detour.generation.sidecar import pixels_sha256, read_sidecar
from detour.generation.signing import MAX_PEM_BYTES, SignatureReport, read_manifest
from detour.specs.generation import GenerateSpec
from detour.specs.sources import parse
from detour.verbs.chosen_adapters import base_for, choose_adapter, hashes_of
from detour.verbs.draw.merged import merge_adapters_of
from detour.verbs.draw.picture_files import versions
from detour.verbs.draw.pictures import requests_of
from detour.verbs.draw.reference_pictures import open_reference_tool, own_adapters, read_reference
from detour.verbs.draw.start_picture import open_start

MAX_FILES = 10_000
COPIES = (".jpg", ".jpeg", ".webp")
"""Endings of pictures that others made of pictures of detour."""
PICTURES = (".png", ".jpg", ".jpeg", ".webp")


class PictureReport(BaseModel):
    """Everything that a picture's file and its sidecar say of how it was made."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Path
    width_px: int
    height_px: int
    metadata: PictureMetadata | None = None
    """How it was drawn, by the PNG text or, where that is gone, the sidecar; ``None``: not a file of detour."""
    source: Literal["text", "sidecar", "none"]
    sidecar: Literal["absent", "same pixels", "other pixels"]
    """Whether the pixels are those that the sidecar was written for."""
    signature: SignatureReport | None = None
    """``None``: there is no C2PA manifest."""
    mark: MarkReport | None = None
    """Whether the invisible mark of a key is in the pixels; ``None``: no key was named."""

    def to_json(self) -> str:
        """Write everything as indented JSON."""
        return self.model_dump_json(indent=2)

    def lines(self) -> list[str]:
        """Everything in plain words, a fact a line."""
        lines = [f"{self.path.name}: a picture of {self.width_px} x {self.height_px} px"]
        if self.metadata is None:
            lines.append(
                "Neither its text nor a sidecar says how it was made: detour did not write this file."
            )
        else:
            lines += _words(self.metadata)
            if self.source == "sidecar":
                lines.append("The file has no text of detour; all this stands in its sidecar.")
        lines.append(
            {
                "absent": "There is no sidecar beside it.",
                "same pixels": "Its pixels are those that its sidecar was written for.",
                "other pixels": "Its pixels are NOT those of its sidecar: one of the two was changed.",
            }[self.sidecar]
        )
        lines.append(_signature_words(self.signature))
        return [*lines, *self._mark_words()]

    def _mark_words(self) -> list[str]:
        if self.mark is None:
            claimed = self.metadata.mark if self.metadata is not None else ""
            said = f"It says that it carries an invisible mark (key {claimed}); --mark KEY looks for it."
            return [said] if claimed else []
        if not self.mark.is_found:
            return ["No invisible mark of this key was found; a mark can be removed."]
        return [
            f"The invisible mark of this key is in it, at {self.mark.scale:.2f} of the size that was marked (chance "
            f"alone: {self.mark.probability:.0e})."
        ]


class Redrawing(BaseModel):
    """What came of drawing a picture again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    state: Literal["equal", "differs", "cannot"]
    largest_difference: int | None = None
    """Largest difference of one channel of one pixel, in steps of 255."""
    differing_share: float | None = None
    """Share of the pixels that differ at all."""
    cause: str = ""
    """Why it cannot be drawn again, or what is another here than where it was drawn."""

    def line(self) -> str:
        """The outcome in one sentence."""
        if self.state == "equal":
            return "Drawn again: every pixel is equal."
        if self.state == "cannot":
            return f"Cannot be drawn again: {self.cause}"
        why = f" {self.cause}" if self.cause else ""
        return (
            f"Drawn again: differs by up to {self.largest_difference} of 255, in {self.differing_share:.1%} of the "
            f"pixels.{why}"
        )


class _Cannot(Exception):
    """Why a picture cannot be drawn again."""


def show_picture(path: Path, *, trust: Path | None = None, mark: str | None = None) -> PictureReport:
    """Read what a picture, its sidecar and its signed manifest say of how it was made, and look for an invisible mark.

    Args:
        path: of a PNG file; a JPEG or WebP file says nothing, but a mark can be in it.
        trust: PEM file of authorities whose certificates count; ``None``: a valid signature is ``valid`` at most.
        mark: key of an invisible mark to look for, at any size from half to twice that of the marked picture.

    Raises:
        DataError: no picture, or what it says is damaged.
        ConfigError: the key is too long.
    """
    return read_picture(path, trust=trust, mark=mark).report


@dataclass(frozen=True)
class ReadPicture:
    """A picture that was read once, to be shown and to be drawn again.

    Attributes:
        report: what it says of how it was made.
        pixels: uint8 (H, W, 3).
    """

    report: PictureReport
    pixels: np.ndarray


def read_picture(path: Path, *, trust: Path | None = None, mark: str | None = None) -> ReadPicture:
    """Read the report of :func:`show_picture` together with the pixels.

    Args:
        path: of a picture.
        trust: PEM file of authorities whose certificates count.
        mark: key of an invisible mark to look for.

    Raises:
        DataError: no picture, or what it says is damaged.
        ConfigError: the key is too long.
    """
    data = read_bytes(path)
    if path.suffix.lower() in COPIES:
        return _read_copy(path, data, mark)
    pixels = np.asarray(open_png(data, name=str(path)))
    beside = read_sidecar(path)
    metadata, source = read_png_metadata(path), "text"
    if metadata is None:
        metadata, source = (beside.picture, "sidecar") if beside is not None else (None, "none")
    authorities = None if trust is None else read_text(trust, max_bytes=MAX_PEM_BYTES, error=ConfigError)
    report = PictureReport(
        path=path,
        width_px=pixels.shape[1],
        height_px=pixels.shape[0],
        metadata=metadata,
        source=source,
        sidecar="absent"
        if beside is None
        else "same pixels"
        if beside.pixels_sha256 == pixels_sha256(pixels)
        else "other pixels",
        signature=read_manifest(data, trust=authorities),
        mark=None if mark is None else find_mark(pixels, mark),
    )
    return ReadPicture(report, pixels)


def _read_copy(path: Path, data: bytes, mark: str | None) -> ReadPicture:
    """Read a picture of a format that detour does not write: it says nothing of itself."""
    pixels = np.array(open_picture(data, max_megapixels=100.0, name=str(path)), dtype=np.uint8)
    report = PictureReport(
        path=path, width_px=pixels.shape[1], height_px=pixels.shape[0], source="none", sidecar="absent",
        mark=None if mark is None else find_mark(pixels, mark),
    )  # fmt: skip
    return ReadPicture(report, pixels)


def verify_picture(
    picture: Path | ReadPicture,
    *,
    base: str | None = None,
    files: Path | None = None,
    device: str = "auto",
    mark: str | None = None,
) -> Redrawing:
    """Draw a picture again from what it says of itself, and compare the pixels.

    Adapters, reference pictures and the picture that it began as are found by their hashes, whatever they are called
    now; the image encoder of an IP-Adapter is looked for beside it. Signed and
    unsigned files are compared alike: by their pixels.

    Args:
        picture: path of a PNG file, or what :func:`read_picture` made of it.
        base: where the base is; ``None``: the package's own, where the picture names it.
        files: folder in which adapters, reference pictures and start pictures are looked for.
        device: where it is drawn.
        mark: key of the invisible mark, where it carries one.

    Raises:
        DataError: no PNG, or what it says is damaged.
        ConfigError: the device is not there.
    """
    read = picture if isinstance(picture, ReadPicture) else read_picture(picture)
    report, pixels = read.report, read.pixels
    try:
        if report.metadata is None:
            raise _Cannot("nothing says how it was made.")
        if report.metadata.mark and (mark is None or fingerprint(mark) != report.metadata.mark):
            raise _Cannot(
                f"it carries an invisible mark of the key {report.metadata.mark}: name it with --mark."
            )
        drawn = _drawn_again(report.metadata, pixels, base, files, pick_device(device))
        if report.metadata.mark and mark is not None:
            drawn = add_mark(drawn, mark)
    except _Cannot as error:
        return Redrawing(state="cannot", cause=str(error))
    difference = np.abs(drawn.astype(np.int16) - pixels.astype(np.int16)).max(axis=2)
    if not difference.any():
        return Redrawing(state="equal", largest_difference=0, differing_share=0.0)
    return Redrawing(
        state="differs",
        largest_difference=int(difference.max()),
        differing_share=float((difference > 0).mean()),
        cause=_other_here(report.metadata, pick_device(device)),
    )


def _drawn_again(
    recorded: PictureMetadata, pixels: np.ndarray, base: str | None, files: Path | None, device: str
) -> np.ndarray:
    if recorded.moment:
        raise _Cannot(f"it is a moment of drawing ({recorded.moment}), not a finished picture.")
    if pixels.shape[:2] != (recorded.height_px, recorded.width_px):
        raise _Cannot(
            f"it has {pixels.shape[1]} x {pixels.shape[0]} px, and what was drawn had {recorded.width_px} x "
            f"{recorded.height_px}: a sheet, or a picture that was scaled or cut."
        )
    try:
        opened = _base_of(recorded, base)
        request, opened = _request_of(recorded, opened, files, device)
        set_threads(recorded.threads)
        engine = PictureEngine.load(
            opened,
            device=device,
            dtype=recorded.dtype,
            safety=recorded.safety == "checked",
            prompts="written",
        )
        requests = merge_adapters_of(engine, [request]) if recorded.merged else [request]
        return engine.draw(requests).pictures[0]
    except DetourError as error:
        raise _Cannot(str(error)) from error


def _base_of(recorded: PictureMetadata, named: str | None) -> Base:
    known = [one.name for one in EMBEDDED.values() if one.identity == recorded.base]
    if named is None and not known:
        raise _Cannot(f"it was drawn by base '{recorded.base}': say where that is with --base.")
    base = open_base(named or known[0], revision=recorded.base_revision)
    if base.identity != recorded.base:
        raise _Cannot(f"it was drawn by base '{recorded.base}', and '{base.name}' is '{base.identity}'.")
    base.require_weights()
    return base


def _request_of(
    recorded: PictureMetadata, base: Base, files: Path | None, device: str
) -> tuple[PictureRequest, Base]:
    """The picture as the engine takes it, and the base with the schedule that its adapters want."""
    wanted = {one.sha256: f"adapter '{one.name}'" for one in recorded.adapters}
    if recorded.start is not None:
        wanted[recorded.start.sha256] = "the picture that it began as"
        if recorded.start.mask_sha256:
            wanted[recorded.start.mask_sha256] = "the mask of the picture that it began as"
    for use in recorded.references:
        wanted[use.sha256] = "a reference picture"
        wanted[use.adapter_sha256] = f"IP-Adapter '{use.adapter}'"
    own = {sha256_of(path): path for path in own_adapters(base) if recorded.references}
    places = own | _found({sha256: what for sha256, what in wanted.items() if sha256 not in own}, files)
    loras = []
    for one in recorded.adapters:
        chosen = choose_adapter(str(places[one.sha256]), base)
        loras.append(replace(chosen, use=chosen.use.model_copy(update={"weight": one.weight})))
    how = {
        name: getattr(recorded, name)
        for name in (
            "negative_prompt",
            "steps",
            "scheduler",
            "guidance_scale",
            "true_guidance_scale",
            "guidance_interval",
            "deep_every",
            "width_px",
        )
    }
    values = {
        "prompts": (recorded.prompt,),
        "seed": recorded.seed,
        "lora_steps": recorded.adapter_steps,
        "width_class": recorded.width_class or "auto",
        "batch": recorded.batch,
        "picture": {**how, "height_px": recorded.height_px, "spacing": recorded.spacing, "eta": recorded.eta},
    }
    if recorded.start is not None:
        values |= {"start": str(places[recorded.start.sha256]), "strength": recorded.start.strength}
        if recorded.start.mask_sha256:
            values["mask"] = str(places[recorded.start.mask_sha256])
    spec = parse(GenerateSpec, values)
    base = base_for(base, loras)
    _, start, _ = open_start(spec, base)
    (request,) = requests_of(spec, loras, start, _references_of(recorded, base, places, device))
    if recorded.steering is not None:
        guidance = safe_guidance(recorded.steering.strength)
        request = replace(request, guidance=guidance, further_texts=(recorded.steering.concept,))
    return request, base


def _references_of(
    recorded: PictureMetadata, base: Base, places: Mapping[str, Path], device: str
) -> tuple[ReferenceInUse, ...]:
    """The reference pictures as they were shown, each with the IP-Adapter that showed it."""
    tools: dict[str, ReferenceTool] = {}
    for use in recorded.references:
        if use.adapter_sha256 not in tools:
            named = {"prompts": (recorded.prompt,), "reference_adapter": str(places[use.adapter_sha256])}
            spec = parse(GenerateSpec, named)
            try:
                tool, _ = open_reference_tool(spec, base, device=device, dtype=torch_dtype(recorded.dtype))
            except BaseError as error:
                raise _Cannot(
                    f"the image encoder of IP-Adapter '{use.adapter}' is not beside it. Put its folder there as "
                    "image_encoder/."
                ) from error
            tools[use.adapter_sha256] = tool
    return tuple(
        read_reference(
            places[use.sha256],
            tools[use.adapter_sha256],
            strength=use.strength,
            blocks=use.blocks,
            steps=use.steps,
        )
        for use in recorded.references
    )


def _found(wanted: Mapping[str, str], folder: Path | None) -> dict[str, Path]:
    """Hash → file of everything that is needed, searched by content."""
    found: dict[str, Path] = {}
    if wanted and folder is not None:
        for number, path in enumerate(_candidates(folder)):
            if len(found) == len(wanted) or number >= MAX_FILES:
                break
            sha256 = hashes_of(path)[0] if path.is_dir() else sha256_of(path)
            if sha256 in wanted:
                found.setdefault(sha256, path)
    for sha256, what in wanted.items():
        if sha256 not in found:
            where = (
                "no folder was named; pass --files FOLDER"
                if folder is None
                else f"nothing in {folder} has it"
            )
            raise _Cannot(f"{what} is needed (SHA-256 {sha256[:12]}…): {where}.")
    return found


def _candidates(folder: Path) -> Iterable[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            if is_peft_folder(path):
                yield path
        elif path.suffix.lower() in (".safetensors", *PICTURES):
            yield path


def _other_here(recorded: PictureMetadata, device: str) -> str:
    """What is another here than where the picture was drawn."""
    here = versions()
    others = [
        f"{name} {one} there, {here[name]} here"
        for name, one in recorded.versions.items()
        if here.get(name, one) != one
    ]
    if device.partition(":")[0] != recorded.device:
        others.append(f"{recorded.device} there, {device} here")
    if recorded.width_class is None:
        others.append("the number of rows of its passes is not recorded")
    return f"Other than when it was drawn: {'; '.join(others)}." if others else ""


def _words(recorded: PictureMetadata) -> list[str]:
    software = recorded.versions.get("detour", "an unknown version")
    revision = f" at {recorded.base_revision}" if recorded.base_revision else ""
    lines = [
        f"Drawn by detour {software} with base '{recorded.base}'{revision}.",
        f"Prompt: {recorded.prompt}",
        f"Negative prompt: {recorded.negative_prompt or 'none'}",
        f"Seed {recorded.seed}, {recorded.steps} steps of {TITLES.get(recorded.scheduler, recorded.scheduler)}, "
        f"guidance scale {recorded.guidance_scale:g}, {recorded.width_px} x {recorded.height_px} px.",
    ]
    lines += [
        f"Adapter '{one.name}' at strength {one.weight:g} (SHA-256 {one.sha256})."
        for one in recorded.adapters
    ] or ["No adapter."]
    if recorded.guidance_interval != (0, 1):
        begin, end = recorded.guidance_interval
        lines.append(f"Guidance from {begin:.0%} to {end:.0%} of the steps alone.")
    if recorded.deep_every > 1:
        lines.append(f"The network's deeper blocks ran in one of {recorded.deep_every} steps.")
    if recorded.merged:
        lines.append("The adapters were added to the base's weights.")
    if recorded.adapter_steps:
        steps = ", ".join(
            f"from {share:.0%} of the steps {factor:g}" for share, factor in recorded.adapter_steps
        )
        lines.append(f"Factor on the adapters' strengths: {steps}.")
    if recorded.start is not None:
        mask = " within a mask" if recorded.start.mask_sha256 else ""
        lines.append(
            f"Begun as another picture (SHA-256 {recorded.start.sha256}), strength {recorded.start.strength:g}{mask}."
        )
    lines += [
        f"Follows a reference picture (SHA-256 {one.sha256}) by '{one.adapter}', strength {one.strength:g}."
        for one in recorded.references
    ]
    if recorded.steering is not None:
        lines.append(f"Steered away from '{recorded.steering.concept}' ({recorded.steering.strength}).")
    lines.append(f"Safety policy: {recorded.policy or 'none'}.")
    checked = {True: "refused it: it is black", False: "let it through", None: "let it through"}
    lines.append(
        "The base has no safety checker, or it did not look."
        if recorded.safety == "absent"
        else f"The base's own safety checker {checked[recorded.safety_flagged]}."
    )
    rows = "unknown" if recorded.width_class is None else str(recorded.width_class)
    lines.append(
        f"Computed on {recorded.device} in {recorded.dtype}, {recorded.threads} threads, width class {rows}; "
        + ", ".join(f"{name} {one}" for name, one in sorted(recorded.versions.items()) if name != "detour")
        + "."
    )
    if recorded.moment:
        lines.append(f"A moment of drawing: {recorded.moment}.")
    return lines


def _signature_words(found: SignatureReport | None) -> str:
    if found is None:
        return "It carries no C2PA manifest."
    who = f"'{found.signer}' ({found.organisation})"
    return {
        "trusted": f"C2PA manifest: signed by {who}, valid and trusted.",
        "valid": f"C2PA manifest: signed by {who}, valid, not trusted: the file is as it was signed, and no named "
        "authority vouches for the certificate.",
        "invalid": f"C2PA manifest: NOT valid, the file was changed after {who} signed it: "
        f"{', '.join(found.problems)}.",
        "unread": "It carries a C2PA manifest; pip install 'detour-lora[provenance]' to read it.",
    }[found.state]
