"""Jobs and their pictures, independent of HTTP interfaces and of the drawing engine."""

from __future__ import annotations

import secrets
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from detour.generation.png import StartUse, SteeringUse
from detour.generation.widths import WidthClass
from detour.specs.generation import SchedulerName

JobState = Literal["queued", "drawing", "done", "failed", "cancelled", "expired"]
PictureStateName = Literal["queued", "drawing", "done", "failed", "cancelled", "expired", "refused", "held"]

OPEN_STATES = ("queued", "drawing")


class PinnedAdapter(BaseModel):
    """An adapter file in the version that it had when the job was accepted.

    Attributes:
        name: by which it was asked for.
        weight: strength.
        sha256: of its content; the picture is drawn with this content or not at all.
        tensor_sha256: of the tensors alone, as other tools identify it.
        layers: layers of the base that it changes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    weight: float
    sha256: str
    tensor_sha256: str = ""
    layers: int


class PinnedReference(BaseModel):
    """A reference picture of a job; its content is kept in the state folder until the job is drawn.

    Attributes:
        sha256: of its file.
        strength: 1 is as the IP-Adapter was trained.
        adapter: file name of the IP-Adapter without its ending.
        adapter_sha256: of that file; the picture is drawn with this one or not at all.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str
    strength: float
    adapter: str
    adapter_sha256: str


def rows_of_picture(guidance_scale: float, steering: SteeringUse | None) -> int:
    """Rows that a picture takes in each forward pass.

    Args:
        guidance_scale: 1 or less is none.
        steering: has a row for its concept, and one for the unconditional text in any case.
    """
    return 3 if steering is not None else 2 if guidance_scale > 1 else 1


class JobRequest(BaseModel):
    """All settings that determine the pixels of a job's pictures.

    Attributes:
        prompts: one for each picture.
        seeds: one for each picture.
        negative_prompt: of all of them.
        width_px: of all of them.
        height_px: of all of them.
        steps: denoising steps.
        scheduler: sampler.
        guidance_scale: 1 or less is none.
        adapters: with their strengths.
        references: pictures that the network is shown beside the prompt.
        start: picture that drawing begins with; its content and its mask's are kept in the state folder.
        skipped_steps: steps at the beginning that are not drawn because of it.
        width_class: rows of the forward passes.
        steering: Safe Latent Diffusion that the policy asked for when the job was accepted.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompts: tuple[str, ...]
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**63)], ...]
    negative_prompt: str = ""
    width_px: int
    height_px: int
    steps: int
    scheduler: SchedulerName
    guidance_scale: float
    adapters: tuple[PinnedAdapter, ...] = ()
    references: tuple[PinnedReference, ...] = ()
    start: StartUse | None = None
    skipped_steps: Annotated[int, Field(ge=0)] = 0
    width_class: WidthClass
    steering: SteeringUse | None = None

    @property
    def num_rows(self) -> int:
        """Number of batch rows that a picture takes in each forward pass."""
        return rows_of_picture(self.guidance_scale, self.steering)

    @property
    def sent_pictures(self) -> tuple[str, ...]:
        """SHA-256 of each picture that the client sent: references, start picture, mask."""
        start = () if self.start is None else (self.start.sha256, self.start.mask_sha256)
        return (*(one.sha256 for one in self.references), *(one for one in start if one))

    def work_of_picture(self, native_px: int) -> float:
        """Multiply the drawn steps, rows and area of one picture.

        Args:
            native_px: side of a picture whose area counts 1.
        """
        steps = self.steps - self.skipped_steps
        return steps * self.num_rows * self.width_px * self.height_px / native_px**2


class PictureRow(BaseModel):
    """One picture of a job, as stored.

    Attributes:
        index: in the job.
        state: of this picture alone.
        token: its unguessable name; its file is named so too.
        expires: Unix time after which it is gone; ``None`` until it is finished.
        cause: why it failed, was refused or is held.
        code: of a refusal, for programs.
        hold: why a person must look at it once it is drawn, known from its request; or ``None``.
        deaths: times that the server died while it was being drawn.
        deaths_alone: the same, with nothing else being drawn.
    """

    model_config = ConfigDict(frozen=True)

    index: int
    state: PictureStateName
    token: str
    expires: float | None = None
    cause: str | None = None
    code: str | None = None
    hold: str | None = None
    deaths: int = 0
    deaths_alone: int = 0


class Job(BaseModel):
    """A job with its pictures, as stored.

    Attributes:
        id: unguessable.
        key: id of the key whose job it is.
        state: of the whole.
        request: what is drawn.
        created: Unix time of acceptance.
        deadline: Unix time after which what is not begun is dropped.
        finished: Unix time.
        attached: whether it ends with the connection that asked for it.
        policy: version of the policy that accepted it.
        revised: what the policy changed, for the client.
        pictures: in order.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    key: str
    state: JobState
    request: JobRequest
    created: float
    deadline: float | None = None
    finished: float | None = None
    attached: bool = False
    policy: str = "none"
    revised: str | None = None
    pictures: tuple[PictureRow, ...]

    @property
    def is_open(self) -> bool:
        """Whether any of its pictures is unfinished."""
        return self.state in OPEN_STATES


def new_token() -> str:
    """Random name of 192 bits for an address."""
    return secrets.token_urlsafe(24)


def state_of(pictures: tuple[PictureStateName, ...]) -> JobState:
    """State of a job, derived from the states of its pictures."""
    if any(state in OPEN_STATES for state in pictures):
        return "queued" if all(state == "queued" for state in pictures) else "drawing"
    ended: tuple[JobState, ...] = ("expired", "cancelled")
    for state in ended:
        if state in pictures:
            return state
    return "done" if any(state in ("done", "held") for state in pictures) else "failed"
