"""What is asked of the drawing engine, and what comes back: one picture each."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from detour.adapter_files.reading import read_adapter
from detour.adapters.adapter import Adapter
from detour.diffusion.guidance import Guidance
from detour.errors import AdapterError
from detour.files import sha256_of
from detour.generation.between import Toward
from detour.generation.references import ReferenceInUse
from detour.generation.starts import StartPicture
from detour.generation.strength import StepWeight
from detour.generation.widths import WidthClass
from detour.specs.generation import PictureSpec
from detour.specs.resolved import ResolvedPicture


@dataclass(frozen=True, kw_only=True)
class AdapterFile:
    """An adapter that the engine reads when it is first needed, and once.

    Attributes:
        path: of the file.
        sha256: of the file when it was chosen.
        allow_pickle: read ``.pt``, ``.bin`` and ``.ckpt`` files too, their tensors alone.
    """

    path: Path
    sha256: str
    allow_pickle: bool = False

    def read(self) -> Adapter:
        """Read the adapter from its file.

        Raises:
            AdapterError: missing, broken, or no longer the file that was chosen.
        """
        try:
            found = sha256_of(self.path)
        except OSError as error:
            raise AdapterError(f"{self.path}: cannot be read ({error}). Choose the adapter again.") from error
        if found != self.sha256:
            raise AdapterError(f"{self.path}: another file since it was chosen. Choose the adapter again.")
        return read_adapter(self.path, allow_pickle=self.allow_pickle)


@dataclass(frozen=True, kw_only=True, eq=False)
class AdapterInUse:
    """An adapter of one request.

    Attributes:
        adapter: its layers and new words, or the file that has them.
        weight: strength; 1 is as trained, 0 is no effect. New words have no strength.
        sha256: of its content, by which the engine knows it again; empty: made from the tensors.
    """

    adapter: Adapter | AdapterFile
    weight: float = 1.0
    sha256: str = ""


@dataclass(frozen=True, kw_only=True)
class PictureRequest:
    """A picture that is asked for, with everything that decides it.

    Attributes:
        prompt: what it shows.
        seed: of its start noise, and of the noise of samplers that add some.
        negative_prompt: what guidance steers away from; empty takes that of ``how``, then the family's own.
        how: size, steps, sampler and guidance; ``auto`` values are the base's own.
        start: the picture to begin with; ``None`` begins with noise.
        toward: another prompt or seed that this picture is on the way to; ``None``: it is at home.
        adapters: with their strengths; other requests have others.
        references: pictures that the network is shown beside the prompt (IP-Adapter); other requests have others.
        step_weights: factors on the strengths along the steps (``detour.generation.strength``); empty is 1 throughout.
            What adapters do to a text encoder is in the prompt, which is read once at full strength.
        width_class: rows of its forward passes; ``None``: chosen by load when the picture starts. To get the same bytes
            again, ask for the class that was recorded.
        trace: keep the picture at this many moments of denoising, evenly spread, the last one at the end.
        guidance: makes what combines the predictions, from the guidance scale; ``None``: classifier-free guidance.
        further_texts: texts behind the prompt that ``guidance`` asks for.
    """

    prompt: str
    seed: int
    negative_prompt: str = ""
    how: PictureSpec = field(default_factory=PictureSpec)
    start: StartPicture | None = None
    toward: Toward | None = None
    adapters: tuple[AdapterInUse, ...] = ()
    references: tuple[ReferenceInUse, ...] = ()
    step_weights: tuple[StepWeight, ...] = ()
    width_class: WidthClass | None = None
    trace: int = 0
    guidance: Callable[[float], Guidance] | None = None
    further_texts: tuple[str, ...] = ()


class Request(Protocol):
    """What the engine reads of a request that has no settings of its own."""

    @property
    def prompt(self) -> str: ...
    @property
    def seed(self) -> int: ...
    @property
    def negative_prompt(self) -> str: ...


def completed(
    request: Request, spec: PictureSpec | None, adapters: Sequence[AdapterInUse] | None, trace: int
) -> PictureRequest:
    """Give a request the settings, adapters and moments of the call that it is part of.

    Args:
        request: with or without settings of its own.
        spec: settings of the call; ``None``: those of the request.
        adapters: of the call; ``None``: those of the request.
        trace: moments that are kept; 0: as the request says.
    """
    if isinstance(request, PictureRequest):
        own: Mapping[str, Any] = {} if spec is None else {"how": spec}
        made = replace(request, **own)
    else:
        made = PictureRequest(
            prompt=request.prompt, seed=request.seed, negative_prompt=request.negative_prompt,
            how=spec or PictureSpec(),
        )  # fmt: skip
    if adapters is not None:
        made = replace(made, adapters=tuple(adapters))
    return replace(made, trace=trace) if trace else made


@dataclass(frozen=True, kw_only=True)
class Moment:
    """Pictures at one moment of denoising.

    Attributes:
        step: finished steps.
        total: steps in all.
        pictures: uint8 (N, H, W, 3), the latents as they are then, decoded.
    """

    step: int
    total: int
    pictures: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A finished picture and the settings that drew it.

    Attributes:
        pixels: uint8 (H, W, 3); what the base's safety checker refuses is black.
        width_class: rows of its forward passes; decides the bytes beside the request.
        how: settings with every ``auto`` resolved.
        trace: moments of one picture each, the last one before the safety checker has looked.
        nsfw: whether it was refused; ``None`` without a checker.
        unchecked: uint8 (H, W, 3), the pixels that the checker refused; ``None`` where it refused nothing.
    """

    pixels: np.ndarray
    width_class: WidthClass
    how: ResolvedPicture
    trace: tuple[Moment, ...] = ()
    nsfw: bool | None = None
    unchecked: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """Finished pictures of one call.

    Attributes:
        pictures: uint8 (N, H, W, 3); what the base's safety checker refuses is black.
        trace: moments of denoising, the last one before the safety checker has looked.
        nsfw: which pictures were refused; ``None`` without a checker.
        safety: whether the base's own checker looked.
        width_classes: rows of each picture's forward passes.
    """

    pictures: np.ndarray
    trace: tuple[Moment, ...] = ()
    nsfw: tuple[bool, ...] | None = None
    safety: Literal["checked", "absent"] = "absent"
    width_classes: tuple[WidthClass, ...] = ()


def joined(pictures: list[Picture]) -> Drawn:
    """Pictures of one size and one number of moments as one result.

    Args:
        pictures: at least one.
    """
    nsfw = tuple(bool(one.nsfw) for one in pictures) if pictures[0].nsfw is not None else None
    moments = zip(*(one.trace for one in pictures), strict=True)
    return Drawn(
        pictures=np.stack([one.pixels for one in pictures]),
        trace=tuple(
            Moment(
                step=of_all[0].step,
                total=of_all[0].total,
                pictures=np.concatenate([one.pictures for one in of_all]),
            )
            for of_all in moments
        ),
        nsfw=nsfw,
        safety="absent" if nsfw is None else "checked",
        width_classes=tuple(one.width_class for one in pictures),
    )
