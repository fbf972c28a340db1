"""The interface of OpenAI Images, for the unmodified ``openai`` package."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Request
from fastapi.responses import JSONResponse, StreamingResponse
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from detour.serving.answers import cause_for_client, why_none
from detour.serving.drawing import encode
from detour.serving.jobs import Job
from detour.serving.names import Named, split_model, summed, take_tags
from detour.serving.native import adapter_headers, client_of, picture_url
from detour.serving.refusals import BadRequest, NotFound, ServeError
from detour.serving.requests import ClientRequest
from detour.serving.service import Service
from detour.serving.watching import Hub, changed, until_done

MAX_PICTURES = 10
_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")


class AskedLora(BaseModel):
    """An adapter by name and scale, an extension that several servers have."""

    name: Annotated[str, Field(min_length=1, max_length=300)]
    scale: float = 1.0


class ImagesBody(BaseModel):
    """Body of a request; fields without an effect here (quality, style, user, moderation) are ignored."""

    model_config = ConfigDict(extra="ignore")

    prompt: str
    model: Annotated[str, Field(max_length=2000)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_PICTURES)] | None = None
    size: Annotated[str, Field(max_length=20)] | None = None
    response_format: Literal["url", "b64_json"] | None = None
    output_format: Literal["png", "jpeg", "webp"] | None = None
    output_compression: Annotated[int, Field(ge=0, le=100)] | None = None
    background: Literal["auto", "opaque", "transparent"] | None = None
    stream: bool | None = None
    partial_images: Annotated[int, Field(ge=0, le=3)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    negative_prompt: str | None = None
    num_inference_steps: Annotated[int, Field(ge=1, le=10_000)] | None = None
    guidance_scale: Annotated[float, Field(ge=0, le=100)] | None = None
    lora: AskedLora | Annotated[list[AskedLora], Field(max_length=100)] | None = None


def openai_routes(service: Service, hub: Hub) -> APIRouter:
    """Routes under ``/v1/images`` and ``/v1/models``."""
    routes = APIRouter(tags=["OpenAI Images"])

    @routes.get("/v1/models")
    def list_models() -> dict[str, Any]:
        """List the base, and the base with each adapter."""
        names = [service.base.name]
        names += [f"{service.base.name}+{one.name}" for one in service.shelf.entries if one.problem is None]
        return {"object": "list", "data": [_model(name) for name in dict.fromkeys(names)]}

    @routes.get("/v1/models/{model}")
    def get_model(model: str) -> dict[str, Any]:
        """Describe one model."""
        for name, _ in split_model(model, service.base.name):
            service.shelf.find(name)
        return _model(model)

    @routes.post("/v1/images/generations", response_model=None)
    async def create_images(
        body: ImagesBody,
        request: Request,
        idempotency_key: Annotated[str | None, Header(max_length=200)] = None,
    ) -> JSONResponse | StreamingResponse:
        """Draw pictures and answer when they are finished; with ``stream``, send previews before."""
        client = client_of(request)
        service.require_room(client)
        asked = client_request(body, service, idempotency_key)
        return await drawn_answer(service, hub, asked, body, request)

    return routes


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "detour"}


async def drawn_answer(
    service: Service, hub: Hub, asked: ClientRequest, body: ImagesBody, request: Request
) -> JSONResponse | StreamingResponse:
    """Accept a request, wait for its pictures and answer with them; with ``stream``, send previews before.

    Args:
        service: draws.
        hub: notifies of changes.
        asked: what is drawn.
        body: how it is answered.
        request: whose client waits.

    Raises:
        ServeError: it is not accepted, or there is no picture at all.
    """
    client = client_of(request)
    job, _ = await run_in_threadpool(service.accept, client, asked)
    headers = adapter_headers(job)
    if body.stream:
        stream = _stream(service, hub, job, body, request)
        return StreamingResponse(stream, media_type="text/event-stream", headers=headers)
    with hub.stream_of(client, service.spec.limits.max_streams_of_key):
        job = await until_done(service, hub, job, client, request)
    answer = await run_in_threadpool(_answer, service, job, body, request)
    return JSONResponse(answer, headers=headers)


def client_request(body: ImagesBody, service: Service, idempotency_key: str | None) -> ClientRequest:
    """Read what is to be drawn from a body.

    Args:
        body: of the request.
        service: whose base and adapters it names.
        idempotency_key: header of the request.

    Raises:
        BadRequest: transparent pictures, a stream of several, or a size that is none.
    """
    if body.background == "transparent":
        raise BadRequest("background 'transparent': pictures of this server are opaque.", param="background")
    if body.stream and (body.n or 1) != 1:
        raise BadRequest("stream: ask for one picture (n=1).", param="n")
    width, height = _size_of(body.size)
    loras = body.lora if isinstance(body.lora, list) else [body.lora] if body.lora else []
    named: Named = tuple((one.name, one.scale) for one in loras)
    prompt, tags = take_tags(body.prompt)
    canonical = json.dumps(body.model_dump(), sort_keys=True)
    return ClientRequest(
        prompts=(prompt,) * (body.n or 1),
        negative_prompt=body.negative_prompt or "",
        seed=body.seed,
        width_px=width,
        height_px=height,
        steps=body.num_inference_steps or 25,
        guidance_scale=body.guidance_scale,
        adapters=summed(split_model(body.model or "", service.base.name), named, tags),
        attached=not idempotency_key,
        idempotency=idempotency_key or None,
        body_sha256=_sha256(canonical),
    )


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _size_of(size: str | None) -> tuple[int | None, int | None]:
    if size in (None, "auto", ""):
        return None, None
    match = _SIZE.fullmatch(size)
    if match is None:
        raise BadRequest(f"size '{size}': write WIDTHxHEIGHT, or auto.", param="size")
    return int(match[1]), int(match[2])


def _answer(service: Service, job: Job, body: ImagesBody, request: Request) -> dict[str, Any]:
    """Response with the finished pictures and a note on missing ones; no picture at all is an error.

    Raises:
        ServeError: there is no picture at all.
    """
    done = [one for one in job.pictures if one.state == "done"]
    if not done:
        raise why_none(job)
    by_url = body.response_format == "url" or (
        body.response_format is None and (body.model or "").startswith("dall-e")
    )
    data: list[dict[str, Any]] = []
    for one in done:
        item: dict[str, Any] = {"seed": job.request.seeds[one.index], "index": one.index}
        if by_url:
            item["url"] = picture_url(request, one.token)
        else:
            item["b64_json"] = _encoded(service, one.token, body)
        if job.revised is not None:
            item["revised_prompt"] = job.request.prompts[one.index]
        data.append(item)
    answer = {"created": int(job.created), "data": data, **_facts(job, body)}
    missing = [
        {
            "index": one.index,
            "state": one.state,
            "code": one.code or one.state,
            "message": cause_for_client(one.state, one.cause),
        }
        for one in job.pictures
        if one.state != "done"
    ]
    if missing:
        answer["missing"] = missing
    return answer


def _facts(job: Job, body: ImagesBody) -> dict[str, Any]:
    return {
        "output_format": body.output_format or "png",
        "size": f"{job.request.width_px}x{job.request.height_px}",
        "background": "opaque",
        "usage": {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0},
        "adapters": [one.model_dump() for one in job.request.adapters],
    }


def _encoded(service: Service, token: str, body: ImagesBody) -> str:
    path = service.store.shown(token)
    try:
        content = path.read_bytes() if path else b""
    except OSError:
        content = b""
    if not content:
        raise NotFound("the picture has expired.")
    kind = body.output_format or "png"
    if kind != "png":
        quality = 90 if body.output_compression is None else body.output_compression
        with Image.open(io.BytesIO(content)) as image:
            content = encode(image.convert("RGB"), kind, quality=quality)
    return base64.b64encode(content).decode()


async def _stream(
    service: Service, hub: Hub, job: Job, body: ImagesBody, request: Request
) -> AsyncIterator[str]:
    """Send an event ``partial_image`` for each preview, and ``completed`` at the end.

    Their names begin with ``image_generation``, or with ``image_edit`` where drawing begins with a picture.
    """
    kind = "image_generation" if job.request.start is None else "image_edit"
    client, sent, wanted = client_of(request), 0, body.partial_images or 0
    service.dispatcher.want_previews(job.id, wanted)
    facts = {**_facts(job, body), "quality": "auto", "created_at": int(time.time())}
    try:
        with hub.stream_of(client, service.spec.limits.max_streams_of_key), hub.watch(job.id) as event:
            while job.is_open and not hub.is_closed:
                await changed(event)
                progress = service.dispatcher.progress(job.id)
                num, preview = progress.previews.get(0, (0, b"")) if progress else (0, b"")
                if num > sent:
                    text = base64.b64encode(preview).decode()
                    yield _event(
                        f"{kind}.partial_image",
                        {**facts, "b64_json": text, "partial_image_index": sent, "output_format": "png"},
                    )
                    sent = num
                job = await run_in_threadpool(service.job, client, job.id)
        answer = await run_in_threadpool(
            _answer, service, job, body.model_copy(update={"response_format": "b64_json"}), request
        )
        yield _event(f"{kind}.completed", {**facts, "b64_json": answer["data"][0]["b64_json"]})
    except ServeError as error:
        problem = {"message": str(error), "type": "server_error", "param": error.param, "code": error.code}
        yield f"event: error\ndata: {json.dumps({'type': 'error', 'error': problem})}\n\n"
    finally:
        if job.is_open and job.attached:
            await run_in_threadpool(service.cancel, client, job.id, "its client has gone")


def _event(kind: str, data: dict[str, Any]) -> str:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **data})}\n\n"
