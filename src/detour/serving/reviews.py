"""Held pictures: a person looks at them and lets them pass or not, by API."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Request
from fastapi import Path as InPath
from fastapi.responses import FileResponse
from pydantic import BaseModel, ConfigDict, Field

from detour.serving.native import client_of
from detour.serving.refusals import Conflict, NotFound
from detour.serving.service import Service

Number = Annotated[int, InPath(ge=0, lt=2**31)]

MOST = 500
"""Held pictures that are listed at once; the oldest come first."""


class HeldOut(BaseModel):
    """A picture that waits for a person; its client sees neither it nor the cause."""

    job: str
    number: int
    prompt: str
    seed: int
    cause: str
    policy: str
    created: float
    url: str


class DecisionBody(BaseModel):
    """What a person decides about a held picture."""

    model_config = ConfigDict(extra="forbid")

    release: bool
    cause: Annotated[str, Field(max_length=1000)] = ""


class DecisionOut(BaseModel):
    """What became of the picture."""

    job: str
    number: int
    state: str


def review_routes(service: Service) -> APIRouter:
    """Routes under ``/v1/reviews``; the guard asks for a key with the scope ``review``."""
    routes = APIRouter(tags=["review"])

    @routes.get("/v1/reviews", response_model=list[HeldOut])
    def list_held(request: Request) -> list[HeldOut]:
        """Pictures of every key that wait for a person, the oldest first."""
        return [
            HeldOut(
                job=job.id,
                number=one.index,
                prompt=job.request.prompts[one.index],
                seed=job.request.seeds[one.index],
                cause=one.cause or job.hold or "",
                policy=job.policy,
                created=job.created,
                url=f"{request.base_url}v1/reviews/{job.id}/{one.index}/picture",
            )
            for job, one in service.store.held(limit=MOST)
        ]

    @routes.get("/v1/reviews/{job}/{number}/picture", response_class=FileResponse)
    def see_held(job: str, number: Number) -> FileResponse:
        """A held picture, for whoever decides on it."""
        path = service.store.held_path(job, number)
        if path is None or not path.exists():
            raise NotFound("no such picture is held.")
        headers = {"cache-control": "private, no-store", "x-content-type-options": "nosniff"}
        return FileResponse(path, media_type="image/png", headers=headers)

    @routes.post("/v1/reviews/{job}/{number}", response_model=DecisionOut)
    def decide(job: str, number: Number, body: DecisionBody, request: Request) -> DecisionOut:
        """Let a held picture pass to its client, or refuse it for good; the first decision counts."""
        who = client_of(request).name
        said = body.cause or ("released" if body.release else "refused")
        if not service.decide(job, number, release=body.release, cause=f"{said} (by {who})"):
            raise Conflict("no such picture is held: it was decided, expired, or never there.")
        return DecisionOut(job=job, number=number, state="done" if body.release else "refused")

    return routes
