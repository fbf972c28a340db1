"""The HTTP interface in which a person releases or refuses held pictures."""

from __future__ import annotations

import io
from typing import Annotated, Literal

from fastapi import APIRouter, Request, Response
from fastapi import Path as InPath
from fastapi.responses import FileResponse
from PIL import Image, UnidentifiedImageError
from pydantic import BaseModel, ConfigDict, Field

from detour.data.pictures import open_picture
from detour.errors import AdapterError, DataError
from detour.files import is_unicode
from detour.serving.drawing import encode
from detour.serving.jobs import Job, JobRequest, PictureRow
from detour.serving.keys import LOCAL, Client, KeyRing
from detour.serving.native import client_of
from detour.serving.refusals import NotFound, Unprocessable
from detour.serving.sent_pictures import kept
from detour.serving.service import Service

Number = Annotated[int, InPath(ge=0, lt=2**31)]

MOST = 500
"""Held pictures that are listed at once; the oldest come first."""
MAX_MEGAPIXELS = 100.0
"""Largest picture of a client that is decoded for a reviewer; the limits for requests were checked before."""
BLURRED_PX = 6
"""Longer side of a blurred picture: nothing is to be recognised, and no blur has to be undone by the browser."""
HEADERS = {
    "cache-control": "private, no-store",
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "same-origin",
}


class HeldReference(BaseModel):
    """A picture that a client sent for a held picture: a reference, the start picture, or its mask."""

    kind: Literal["reference", "start", "mask"] = "reference"
    adapter: str
    """IP-Adapter of a reference; empty for the others."""
    strength: float
    url: str


class HeldOut(BaseModel):
    """A picture that waits for a person; its client sees neither it nor the cause."""

    job: str
    number: int
    prompt: str
    negative_prompt: str
    revised: str | None
    adapters: list[str]
    seed: int
    width: int
    height: int
    client: str
    cause: str
    policy: str
    created: float
    expires: float | None
    released_by: list[str]
    """Names of the keys that have released it already."""
    needed: int
    """Different keys that must release it."""
    mine: bool
    """Whether the key that asks has released it already."""
    url: str
    references: list[HeldReference]
    """Pictures that its client sent."""


class DecisionBody(BaseModel):
    """What a person decides about a held picture."""

    model_config = ConfigDict(extra="forbid")

    release: bool
    cause: Annotated[str, Field(max_length=1000)] = ""
    """Text shown to the client; the names of those who decide are in the log alone."""


class DecisionOut(BaseModel):
    """What became of the picture; ``held`` while the policy asks for a second key."""

    job: str
    number: int
    state: str


def review_routes(service: Service, keys: KeyRing) -> APIRouter:
    """Routes under ``/v1/reviews``; the guard asks for a key with the scope ``review``."""
    routes = APIRouter(tags=["review"])

    @routes.get("/v1/reviews", response_model=list[HeldOut])
    def list_held(request: Request) -> list[HeldOut]:
        """Pictures of every key that wait for a person, the oldest first."""
        names = {LOCAL.id: LOCAL.name, **{one.id: one.name for one in keys.records}}
        needed = 2 if service.policy.rules.two_persons else 1
        return [
            _review_out(
                job, one, voters, names=names, needed=needed, client=client_of(request), request=request
            )
            for job, one, voters in service.store.held(limit=MOST)
        ]

    @routes.get("/v1/reviews/{job}/{number}/picture", response_class=FileResponse)
    def see_held(job: str, number: Number, request: Request) -> FileResponse:
        """A held picture, for whoever decides on it; the log says who saw it."""
        path = service.store.held_path(job, number)
        if path is None or not path.exists():
            raise NotFound("no such picture is held.")
        client = client_of(request)
        service.store.note("seen", job=job, picture=number, key=client.id, name=client.name)
        return FileResponse(path, media_type="image/png", headers=HEADERS)

    @routes.get("/v1/reviews/{job}/{number}/blurred", response_class=Response)
    def see_blurred(job: str, number: Number) -> Response:
        """A held picture with so few pixels that nothing can be recognised."""
        path = service.store.held_path(job, number)
        try:
            shown = None if path is None else blurred(path.read_bytes())
        except (FileNotFoundError, UnidentifiedImageError):
            shown = None
        if shown is None:
            raise NotFound("no such picture is held.")
        return Response(shown, media_type="image/png", headers=HEADERS)

    @routes.get("/v1/reviews/{job}/{number}/references/{index}/picture", response_class=Response)
    def see_reference(job: str, number: Number, index: Number, request: Request) -> Response:
        """A reference picture of a held picture, encoded anew as PNG; the log says who saw it."""
        shown = _reference_of(service, job, number, index)
        client = client_of(request)
        facts = {"job": job, "picture": number, "reference": index, "key": client.id, "name": client.name}
        service.store.note("seen", **facts)
        return Response(shown, media_type="image/png", headers=HEADERS)

    @routes.get("/v1/reviews/{job}/{number}/references/{index}/blurred", response_class=Response)
    def see_reference_blurred(job: str, number: Number, index: Number) -> Response:
        """A reference picture of a held picture with so few pixels that nothing can be recognised."""
        shown = blurred(_reference_of(service, job, number, index))
        return Response(shown, media_type="image/png", headers=HEADERS)

    @routes.post("/v1/reviews/{job}/{number}", response_model=DecisionOut)
    def decide(job: str, number: Number, body: DecisionBody, request: Request) -> DecisionOut:
        """Release a held picture to its client, or refuse it for good; one refusal is enough."""
        if not is_unicode(body.cause):
            raise Unprocessable("cause: not Unicode text (a lone surrogate).", param="cause")
        state = service.decide(client_of(request), job, number, release=body.release, cause=body.cause)
        return DecisionOut(job=job, number=number, state=state)

    return routes


def _reference_of(service: Service, job: str, number: int, index: int) -> bytes:
    """PNG of a reference picture of a held picture, made of its pixels alone: the file is its client's.

    Raises:
        NotFound: no such picture is held, it has no such reference, or the reference is gone.
    """
    found = None if service.store.held_path(job, number) is None else service.store.job(job)
    if found is None or index >= len(found.request.sent_pictures):
        raise NotFound("no such picture is held, or it has no such reference.")
    try:
        data = kept(service.store.folder, found.request.sent_pictures[index], what="the picture")
        image = open_picture(data, max_megapixels=MAX_MEGAPIXELS, name="the picture")
    except (AdapterError, DataError) as error:
        raise NotFound("the reference picture is gone or damaged.") from error
    return encode(image, "png")


def blurred(data: bytes) -> bytes:
    """A PNG of at most 6 px a side with the colours of a picture.

    Args:
        data: the picture's file.
    """
    with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
        small = image.convert("RGB")
    small.thumbnail((BLURRED_PX, BLURRED_PX), Image.Resampling.BOX)
    buffer = io.BytesIO()
    small.save(buffer, format="PNG")
    return buffer.getvalue()


def _review_out(
    job: Job,
    one: PictureRow,
    voters: tuple[str, ...],
    *,
    names: dict[str, str],
    needed: int,
    client: Client,
    request: Request,
) -> HeldOut:
    asked, address = job.request, f"{request.base_url}v1/reviews/{job.id}/{one.index}"
    return HeldOut(
        job=job.id,
        number=one.index,
        prompt=asked.prompts[one.index],
        negative_prompt=asked.negative_prompt,
        revised=job.revised,
        adapters=[f"{used.name} ×{used.weight:g}" for used in asked.adapters],
        seed=asked.seeds[one.index],
        width=asked.width_px,
        height=asked.height_px,
        client=names.get(job.key, "a removed key"),
        cause=one.cause or one.hold or "",
        policy=job.policy,
        created=job.created,
        expires=one.expires,
        released_by=[names.get(key, "a removed key") for key in voters],
        needed=needed,
        mine=client.id in voters,
        url=f"{address}/picture",
        references=[
            HeldReference(
                kind=kind, adapter=adapter, strength=strength, url=f"{address}/references/{index}/picture"
            )
            for index, (kind, adapter, strength) in enumerate(_sent(asked))
        ],
    )


def _sent(asked: JobRequest) -> list[tuple[Literal["reference", "start", "mask"], str, float]]:
    """Kind, IP-Adapter and strength of each picture in the order of ``JobRequest.sent_pictures``."""
    sent: list[tuple[Literal["reference", "start", "mask"], str, float]] = [
        ("reference", one.adapter, one.strength) for one in asked.references
    ]
    if asked.start is not None:
        sent.append(("start", "", asked.start.strength))
        if asked.start.mask_sha256:
            sent.append(("mask", "", asked.start.strength))
    return sent
