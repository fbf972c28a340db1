"""Start pictures of requests and their masks: decoded within limits, kept until their job is drawn."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image, ImageChops, ImageFilter

from detour.bases.base import Base
from detour.data.pictures import open_alpha, open_mask_picture
from detour.errors import ConfigError, DataError
from detour.generation.png import StartUse
from detour.generation.starts import StartPicture, skipped_steps
from detour.serving.jobs import JobRequest
from detour.serving.refusals import BadRequest
from detour.serving.sent_pictures import gone, keep, kept, require_small, unusable
from detour.serving.settings import StartsSpec
from detour.verbs.draw.start_picture import OpenedStart, decode_start, size_like

STRENGTH = 0.75
"""Share of the steps that are drawn where a request without a mask names none."""


@dataclass(frozen=True, kw_only=True)
class MaskForm:
    """How an interface writes masks; the default is that of ``detour generate --mask``: white is drawn anew.

    Attributes:
        reads: what of the mask's file counts. ``transparency``: transparent is drawn anew; without a mask file, the
            transparency of the start picture counts.
        inverted: black is drawn anew instead of white.
        blur_px: standard deviation of a Gaussian blur along x and y.
    """

    reads: Literal["brightness", "transparency"] = "brightness"
    inverted: bool = False
    blur_px: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True, kw_only=True)
class StartFields:
    """Names of an interface's fields, for messages."""

    picture: str = "start.picture"
    mask: str = "start.mask"
    strength: str = "start.strength"


@dataclass(frozen=True, kw_only=True)
class AskedStart:
    """A start picture as a client sent it.

    Attributes:
        picture: content of its file.
        mask: content of its mask's file; ``None`` without one.
        strength: share of the steps that are drawn; ``None``: all of them with a mask, else :data:`STRENGTH`.
        form: how the mask is written.
        fits: whether the picture must have the shape that is drawn; else it is cut around its centre.
        fields: names of the fields that it came in.
    """

    picture: bytes
    mask: bytes | None = None
    strength: float | None = None
    form: MaskForm = MaskForm()
    fits: bool = False
    fields: StartFields = StartFields()


@dataclass(frozen=True, eq=False)
class SentStart:
    """A start picture of a request that is within the limits.

    Attributes:
        opened: the decoded picture and mask.
        files: contents of the files of both, as they are kept.
        asked: as the client sent it.
    """

    opened: OpenedStart
    files: tuple[bytes, ...]
    asked: AskedStart

    def size(self, base: Base) -> tuple[int, int]:
        """Width and height that are drawn where the request names none."""
        return size_like(self.opened.image.size, base)

    def begin(self, request: JobRequest, base: Base) -> tuple[JobRequest, StartPicture]:
        """Put the start picture into a job's request, and cut it to the size that is drawn.

        Args:
            request: with every setting resolved.
            base: that draws.

        Raises:
            BadRequest: another shape where it must fit, a strength that leaves no step, or a mask that leaves nothing
                to draw.
        """
        fields, size = self.asked.fields, (request.width_px, request.height_px)
        if self.asked.fits:
            self._require_shape(size)
        start = self.opened.cut(size)
        try:
            start.check(*size, request.steps, is_flow=base.is_flow)
        except ConfigError as error:
            field = fields.strength if str(error).startswith("strength") else fields.mask
            raise BadRequest(str(error), param=field) from error
        skipped = skipped_steps(request.steps, start.strength, is_flow=base.is_flow)
        update = {"start": self.opened.use, "skipped_steps": skipped}
        return request.model_copy(update=update), start

    def _require_shape(self, size_px: tuple[int, int]) -> None:
        width, height = self.opened.image.size
        scale = max(size_px[0] / width, size_px[1] / height)
        if width * scale >= size_px[0] + 1 or height * scale >= size_px[1] + 1:
            raise BadRequest(
                f"the picture is {width} x {height} and {size_px[0]} x {size_px[1]} is drawn: this server cuts it to "
                "that shape and does not stretch or fill it. Send resize_mode 1, or a picture of that shape.",
                param="resize_mode",
            )

    def keep(self, state: Path) -> None:
        """Write picture and mask into the state folder; durable when this returns.

        Raises:
            StorageError: one of them could not be written.
        """
        for data in self.files:
            keep(state, data)


def sent_start(asked: AskedStart, spec: StartsSpec) -> SentStart:
    """Decode the start picture of a request and its mask within the limits.

    Args:
        asked: as a client sent it.
        spec: limits.

    Raises:
        BadRequest: this server takes none, too large, no picture, or a mask of another size.
    """
    fields = asked.fields
    if not spec.enabled:
        raise BadRequest(
            "this server takes no start pictures. Its operator can take them with starts.enabled = true.",
            param=fields.picture,
        )
    for data, name in ((asked.picture, fields.picture), (asked.mask, fields.mask)):
        if data is not None:
            require_small(data, max_bytes=spec.max_bytes, max_pixels=spec.max_pixels, name=name)
    marks = _plain_mask(asked)
    strength = asked.strength
    if strength is None:
        strength = STRENGTH if marks is None else 1.0
    try:
        opened = decode_start(asked.picture, strength=strength)
    except DataError as error:
        raise unusable(fields.picture) from error
    if marks is not None:
        try:
            opened = opened.with_mask(marks)
        except DataError as error:
            raise BadRequest(
                f"{fields.mask}: not readable, or not {opened.image.width} x {opened.image.height} pixels as the "
                "picture. Make them equal.",
                param=fields.mask,
            ) from error
    return SentStart(opened, (asked.picture,) if marks is None else (asked.picture, marks), asked)


def _plain_mask(asked: AskedStart) -> bytes | None:
    """Content of a mask's file in which white is drawn anew: the client's own where it is written so already.

    Raises:
        BadRequest: no picture, or one without transparency where transparency counts.
    """
    form, name = asked.form, asked.fields.mask
    try:
        if form.reads == "transparency":
            alpha = open_alpha(asked.picture if asked.mask is None else asked.mask, name=name)
            if alpha is None or alpha.getextrema()[0] == 255:
                if asked.mask is None:
                    return None
                raise BadRequest(
                    f"{name}: nothing is transparent, and transparent parts are drawn anew. Leave the mask out to draw "
                    "all of the picture anew.",
                    param=name,
                )
            return _png_of(ImageChops.invert(alpha))
        if asked.mask is None or form == MaskForm():
            return asked.mask
        mask = open_mask_picture(asked.mask, name=name)
    except DataError as error:
        raise unusable(name) from error
    if form.inverted:
        mask = ImageChops.invert(mask)
    return _png_of(mask.filter(ImageFilter.GaussianBlur(form.blur_px)))


def _png_of(mask: Image.Image) -> bytes:
    buffer = io.BytesIO()
    mask.convert("L").save(buffer, format="PNG")
    return buffer.getvalue()


def kept_start(use: StartUse, size_px: tuple[int, int], state: Path) -> StartPicture:
    """Read the start picture of a job from the state folder, cut to the size that is drawn.

    Args:
        use: of a job.
        size_px: width and height of its pictures.
        state: folder of the server.

    Raises:
        AdapterError: picture or mask is gone or damaged.
    """
    what = "the start picture"
    picture = kept(state, use.sha256, what=what)
    marks = kept(state, use.mask_sha256, what="the mask") if use.mask_sha256 else None
    try:
        opened = decode_start(picture, strength=use.strength)
        return (opened if marks is None else opened.with_mask(marks)).cut(size_px)
    except DataError as error:
        raise gone(what) from error
