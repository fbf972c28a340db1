"""Start pictures in A1111's interface: the further fields of ``/sdapi/v1/img2img``."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field

from detour.serving.refusals import BadRequest
from detour.serving.sent_pictures import from_base64
from detour.serving.starts import STRENGTH, AskedStart, MaskForm, StartFields

FIELDS = StartFields(picture="init_images", mask="mask", strength="denoising_strength")
MASK_BLUR_PX = 4.0
"""Standard deviation of the blur of a mask where a request names none, as A1111 has it."""
CROPS = 1
"""Value of ``resize_mode`` that cuts a picture to the shape that is drawn; others are refused where it has another."""

Blur = Annotated[float, Field(ge=0, le=64)]


class Img2ImgFields(BaseModel):
    """Fields of a start picture; a value that would draw another picture than this server does is refused.

    Source: ``StableDiffusionProcessingImg2Img`` of AUTOMATIC1111/stable-diffusion-webui, ``modules/processing.py``.
    """

    init_images: Annotated[list[str], Field(max_length=16)] = []
    denoising_strength: Annotated[float, Field(ge=0, le=1)] | None = STRENGTH
    resize_mode: Annotated[int, Field(ge=0, le=3)] | None = None
    mask: str | None = None
    mask_blur: Blur | None = None
    mask_blur_x: Blur | None = None
    mask_blur_y: Blur | None = None
    inpainting_mask_invert: bool | None = False
    inpainting_fill: Annotated[int, Field(ge=0, le=3)] | None = None
    inpaint_full_res: bool | None = None
    initial_noise_multiplier: float | None = None

    def start(self, *, sized: bool) -> AskedStart:
        """Read the start picture and its mask.

        Args:
            sized: whether the request names the size that is drawn.

        Raises:
            BadRequest: not one picture, not base64, or a field that asks for what is not drawn here.
        """
        if len(self.init_images) != 1:
            raise BadRequest(
                f"init_images: {len(self.init_images)} pictures, and drawing begins with one. Send one.",
                param="init_images",
            )
        _require("initial_noise_multiplier", self.initial_noise_multiplier, 1, "noise is added as it is")
        if self.mask:
            _require("inpainting_fill", self.inpainting_fill, 1, "drawing begins with the picture's content")
            _require("inpaint_full_res", self.inpaint_full_res, False, "the whole picture is drawn")
        return AskedStart(
            picture=from_base64(self.init_images[0], FIELDS.picture),
            mask=from_base64(self.mask, FIELDS.mask) if self.mask else None,
            strength=STRENGTH if self.denoising_strength is None else self.denoising_strength,
            form=MaskForm(
                inverted=bool(self.inpainting_mask_invert),
                blur_px=self._blur_px(),
            ),
            fits=sized and self.resize_mode not in (None, CROPS),
            fields=FIELDS,
        )

    def _blur_px(self) -> tuple[float, float]:
        """Blur of the mask along x and y; ``mask_blur`` wins over the other two, as in A1111."""
        if self.mask_blur is not None:
            return self.mask_blur, self.mask_blur
        x, y = (MASK_BLUR_PX if one is None else one for one in (self.mask_blur_x, self.mask_blur_y))
        return x, y


def _require(name: str, value: Any, drawn: Any, what: str) -> None:
    if value is not None and value != drawn:
        raise BadRequest(f"{name} {value}: not supported; {what} ({name} {drawn}). Leave it out.", param=name)
