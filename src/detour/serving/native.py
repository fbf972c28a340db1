"""The native HTTP interface: jobs, their pictures, their events, and the list of adapters."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, Header, Request
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from detour.generation.sidecar import sidecar_of
from detour.serving.jobs import Job
from detour.serving.keys import Client
from detour.serving.refusals import BadRequest, NotFound, Unprocessable
from detour.serving.requests import ClientRequest
from detour.serving.sent_pictures import from_base64
from detour.serving.service import Service
from detour.serving.starts import STRENGTH, AskedStart, StartFields
from detour.serving.watching import Hub, changed
from detour.specs.generation import SchedulerName

STREAM_PAUSE_S = 0.1
"""Least number of seconds between two reads of a job for one event stream."""
LOOK_AGAIN_S = 2.0
"""Largest number of seconds between two reads of a job for one event stream."""


class AskedAdapter(BaseModel):
    """An adapter that a request asks for by its name."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(min_length=1, max_length=300)]
    strength: float = 1.0


class AskedReference(BaseModel):
    """A picture that the drawing is to follow, as base64 of a PNG, JPEG or WebP file."""

    model_config = ConfigDict(extra="forbid")

    picture: str
    strength: Annotated[float, Field(ge=0, le=2)] = 1.0


class AskedStartPicture(BaseModel):
    """A picture that drawing begins with, and its mask: each as base64 of a PNG, JPEG or WebP file."""

    model_config = ConfigDict(extra="forbid")

    picture: str
    strength: Annotated[float, Field(gt=0, le=1)] = STRENGTH
    """Share of the steps that are drawn: 1 keeps nothing of the picture, 0.3 keeps most."""
    mask: str | None = None
    """Mask of the picture's size: white is drawn anew, black stays to the pixel."""


class JobBody(BaseModel):
    """Body of a new job: ``count`` pictures of each prompt; picture i has seed ``seed + i``."""

    model_config = ConfigDict(extra="forbid")

    prompts: Annotated[list[str], Field(min_length=1, max_length=1000)]
    count: Annotated[int, Field(ge=1, le=1000)] = 1
    negative_prompt: str = ""
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    width: Annotated[int, Field(ge=8, le=8192)] | None = None
    height: Annotated[int, Field(ge=8, le=8192)] | None = None
    steps: Annotated[int, Field(ge=1, le=10_000)] = 25
    sampler: SchedulerName | Literal["auto"] = "auto"
    guidance_scale: Annotated[float, Field(ge=0, le=100)] | None = None
    adapters: Annotated[list[AskedAdapter], Field(max_length=100)] = []
    references: Annotated[list[AskedReference], Field(max_length=16)] = []
    start: AskedStartPicture | None = None
    deadline_s: Annotated[float, Field(gt=0, le=30 * 86400)] | None = None


class PictureOut(BaseModel):
    """A picture of a job as its client sees it."""

    index: int
    state: str
    seed: int
    url: str | None = None
    expires: float | None = None
    code: str | None = None
    cause: str | None = None
    step: int | None = None
    steps: int


class JobOut(BaseModel):
    """A job as its client sees it."""

    id: str
    state: str
    created: float
    finished: float | None
    deadline: float | None
    position: int | None = None
    estimated_s: float | None = None
    request: dict[str, Any]
    policy: str
    revised: str | None = None
    pictures: list[PictureOut]
    urls: dict[str, str]


class AdapterOut(BaseModel):
    """An adapter of the server's folder, and whether it can be asked for."""

    name: str
    sha256: str
    layers: int
    usable: bool
    cause: str | None = None


def client_of(request: Request) -> Client:
    """Tell which client a request came from."""
    client: Client = request.state.client
    return client


def picture_url(request: Request, token: str) -> str:
    """Address of a finished picture."""
    return f"{request.base_url}v1/pictures/{token}"


def job_out(job: Job, service: Service, request: Request) -> JobOut:
    """A job as its client sees it."""
    progress = service.dispatcher.progress(job.id)
    position, seconds = service.dispatcher.place(job.id) if job.is_open else (None, None)
    base = f"{request.base_url}v1/jobs/{job.id}"
    return JobOut(
        id=job.id,
        state=job.state,
        created=job.created,
        finished=job.finished,
        deadline=job.deadline,
        position=position if job.state == "queued" else None,
        estimated_s=None if seconds is None else round(seconds, 2),
        request=job.request.model_dump(mode="json"),
        policy=job.policy,
        revised=job.revised,
        pictures=[
            PictureOut(
                index=one.index,
                state=one.state,
                seed=job.request.seeds[one.index],
                url=picture_url(request, one.token) if one.state == "done" else None,
                expires=one.expires if one.state == "done" else None,
                code=one.code,
                cause="a person will look at it" if one.state == "held" else one.cause,
                step=progress.steps.get(one.index, (0, 0))[0]
                if progress and one.state == "drawing"
                else None,
                steps=job.request.steps,
            )
            for one in job.pictures
        ],
        urls={"self": base, "events": f"{base}/events"},
    )


def native_routes(service: Service, hub: Hub) -> APIRouter:
    """Make the routes under ``/v1/jobs``, ``/v1/pictures`` and ``/v1/adapters``."""
    routes = APIRouter(tags=["native"])

    @routes.post("/v1/jobs", status_code=202, response_model=JobOut)
    async def create_job(
        body: JobBody,
        request: Request,
        idempotency_key: Annotated[str | None, Header(max_length=200)] = None,
    ) -> JSONResponse:
        """Accept a job; it is on the disk when this answers."""
        client = client_of(request)
        service.require_room(client)
        job, is_new = await run_in_threadpool(
            service.accept, client, _client_request(body, idempotency_key, service)
        )
        out = await run_in_threadpool(job_out, job, service, request)
        headers = {"location": out.urls["self"], **adapter_headers(job)}
        if not is_new:
            headers["idempotent-replayed"] = "true"
        return JSONResponse(out.model_dump(), status_code=202, headers=headers)

    @routes.get("/v1/jobs", response_model=list[JobOut])
    def list_jobs(request: Request, limit: int = 50) -> list[JobOut]:
        """List the newest jobs of this key."""
        if not 1 <= limit <= 500:
            raise Unprocessable("limit: choose 1 to 500.", param="limit")
        client = client_of(request)
        return [job_out(job, service, request) for job in service.store.jobs_of(client.id, limit=limit)]

    @routes.get("/v1/jobs/{job_id}", response_model=JobOut)
    def get_job(job_id: str, request: Request) -> JobOut:
        """Give the state of a job of this key, with its pictures."""
        return job_out(service.job(client_of(request), job_id), service, request)

    @routes.delete("/v1/jobs/{job_id}", response_model=JobOut)
    @routes.post("/v1/jobs/{job_id}/cancel", response_model=JobOut)
    def cancel_job(job_id: str, request: Request) -> JobOut:
        """Cancel the unfinished pictures of a job; finished ones stay."""
        return job_out(service.cancel(client_of(request), job_id), service, request)

    @routes.get("/v1/jobs/{job_id}/events", response_class=StreamingResponse)
    async def job_events(job_id: str, request: Request) -> StreamingResponse:
        """Send events (SSE): ``queued`` (position and seconds), ``step``, ``picture``, and ``done`` at the end."""
        client = client_of(request)
        await run_in_threadpool(service.job, client, job_id)
        events = _events(service, hub, client, job_id, request)
        first = await anext(events)  # raises before the answer has begun
        return StreamingResponse(
            _joined(first, events), media_type="text/event-stream", headers={"cache-control": "no-store"}
        )

    @routes.get("/v1/pictures/{token}", response_class=FileResponse)
    def get_picture(token: str) -> FileResponse:
        """Give a finished picture by its unguessable and expiring name."""
        path = service.store.shown(token) if token.isascii() else None
        if path is None or not path.exists():
            raise NotFound("no such picture, or it has expired.")
        headers = {"cache-control": "private, no-store", "x-content-type-options": "nosniff"}
        return FileResponse(path, media_type="image/png", headers=headers)

    @routes.get("/v1/pictures/{token}/sidecar", response_class=FileResponse)
    def get_sidecar(token: str) -> FileResponse:
        """Tell how a finished picture was made, as JSON: request, adapters, policy, software and hashes."""
        path = service.store.shown(token) if token.isascii() else None
        place = None if path is None else sidecar_of(path)
        if place is None or not place.exists():
            raise NotFound("no such picture, or it has expired.")
        headers = {"cache-control": "private, no-store", "x-content-type-options": "nosniff"}
        return FileResponse(place, media_type="application/json", headers=headers)

    @routes.get("/v1/adapters", response_model=list[AdapterOut])
    def list_adapters() -> list[AdapterOut]:
        """List the adapters of this server, with the cause where one cannot be asked for."""
        return [
            AdapterOut(
                name=one.name,
                sha256=one.sha256,
                layers=one.layers,
                usable=one.problem is None,
                cause=one.problem,
            )
            for one in service.shelf.entries
        ]

    return routes


def adapter_headers(job: Job) -> dict[str, str]:
    """Header that names the adapters of a job with strength, hash and number of matched layers."""
    if not job.request.adapters:
        return {}
    parts = [
        f"{quote(one.name, safe='')};strength={one.weight:g};sha256={one.sha256};layers={one.layers}"
        for one in job.request.adapters
    ]
    return {"x-detour-adapters": ", ".join(parts)}


def _client_request(body: JobBody, idempotency_key: str | None, service: Service) -> ClientRequest:
    num, most = len(body.prompts) * body.count, service.spec.limits.max_pictures
    if num > most:
        raise BadRequest(f"{num} pictures: ask for {most} at most in one job.", param="count")
    canonical = json.dumps(body.model_dump(), sort_keys=True).encode()
    prompts = [prompt for prompt in body.prompts for _ in range(body.count)]
    return ClientRequest(
        prompts=tuple(prompts),
        negative_prompt=body.negative_prompt,
        seed=body.seed,
        width_px=body.width,
        height_px=body.height,
        steps=body.steps,
        scheduler=body.sampler,
        guidance_scale=body.guidance_scale,
        adapters=tuple((one.name, one.strength) for one in body.adapters),
        references=tuple(
            (from_base64(one.picture, f"references.{number}"), one.strength)
            for number, one in enumerate(body.references)
        ),
        start=None if body.start is None else _start_of(body.start),
        deadline_s=body.deadline_s,
        idempotency=idempotency_key or None,
        body_sha256=hashlib.sha256(canonical).hexdigest(),
    )


def _start_of(asked: AskedStartPicture) -> AskedStart:
    fields = StartFields()
    return AskedStart(
        picture=from_base64(asked.picture, fields.picture),
        mask=None if asked.mask is None else from_base64(asked.mask, fields.mask),
        strength=asked.strength,
        fields=fields,
    )


async def _joined(first: str, others: AsyncIterator[str]) -> AsyncIterator[str]:
    yield first
    async for one in others:
        yield one


async def _events(
    service: Service, hub: Hub, client: Client, job_id: str, request: Request
) -> AsyncIterator[str]:
    """Yield each change of a job once, and a comment now and then, so that proxies keep the connection."""
    seen: dict[str, Any] = {}
    with hub.stream_of(client, service.spec.limits.max_streams_of_key), hub.watch(job_id) as event:
        while True:
            out = await run_in_threadpool(lambda: job_out(service.job(client, job_id), service, request))
            for name, key, data in _facts(out):
                if seen.get(key) != data:
                    seen[key] = data
                    yield f"event: {name}\ndata: {json.dumps(data)}\n\n"
            if out.state not in ("queued", "drawing"):
                yield f"event: done\ndata: {json.dumps(out.model_dump())}\n\n"
                return
            if hub.is_closed:
                return
            await asyncio.sleep(STREAM_PAUSE_S)
            if not await changed(event, LOOK_AGAIN_S):  # places in the queue change without news of this job
                yield ": waiting\n\n"


def _facts(out: JobOut) -> list[tuple[str, str, dict[str, Any]]]:
    """List (event, its subject, its data) of everything in a job that can change."""
    facts: list[tuple[str, str, dict[str, Any]]] = []
    data: dict[str, Any]
    if out.state == "queued":
        facts.append(("queued", "queued", {"position": out.position, "estimated_s": out.estimated_s}))
    elif out.state == "drawing":
        facts.append(("drawing", "drawing", {"state": "drawing"}))
    for one in out.pictures:
        if one.step is not None:
            data = {"picture": one.index, "done": one.step, "total": one.steps}
            facts.append(("step", f"step {one.index}", data))
        elif one.state not in ("queued", "drawing"):
            data = {
                "picture": one.index,
                "state": one.state,
                "url": one.url,
                "code": one.code,
                "cause": one.cause,
            }
            facts.append(("picture", f"picture {one.index}", data))
    return facts
