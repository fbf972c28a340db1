"""The interface of AUTOMATIC1111 (``/sdapi/v1``), for clients such as Open WebUI and SillyTavern."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
import warnings
from collections import OrderedDict
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from PIL import Image, UnidentifiedImageError
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from detour.generation.schedulers import FLOW_SAMPLERS, TITLES
from detour.serving.answers import why_none
from detour.serving.controlnet import references_of
from detour.serving.img2img import Img2ImgFields
from detour.serving.jobs import Job
from detour.serving.keys import Client
from detour.serving.names import split_model, summed, take_tags
from detour.serving.native import adapter_headers, client_of
from detour.serving.refusals import BadRequest, NotFound
from detour.serving.requests import ClientRequest
from detour.serving.sent_pictures import from_base64
from detour.serving.service import Service
from detour.serving.watching import Hub, until_done

SCHEDULERS = ("automatic", "", None)
"""Sampler → name of its schedule as A1111's clients know it; each sampler has one here."""
UNSUPPORTED = (
    "enable_hr",
    "restore_faces",
    "tiling",
    "latent_mask",
    "script_name",
    "styles",
)
"""Fields that would change the picture and are not supported; a request that sets one is refused."""
NOT_RETURNED = ("init_images", "mask")
"""Fields that the answer does not repeat, as A1111's does not unless it is asked to."""
MAX_OPTIONS = 1000
MAX_PNG_PIXELS = 64_000_000


class Txt2Img(BaseModel):
    """Body of a request; unsupported fields that would change the picture are refused, all others are ignored."""

    model_config = ConfigDict(extra="allow")

    prompt: str = ""
    negative_prompt: str | None = ""
    seed: Annotated[int, Field(ge=-1, lt=2**63)] | None = -1
    steps: Annotated[int, Field(ge=1, le=10_000)] | None = 20
    cfg_scale: Annotated[float, Field(ge=0, le=100)] | None = None
    width: Annotated[int, Field(ge=8, le=8192)] | None = None
    height: Annotated[int, Field(ge=8, le=8192)] | None = None
    sampler_name: Annotated[str, Field(max_length=100)] | None = None
    sampler_index: Annotated[str, Field(max_length=100)] | None = None
    scheduler: Annotated[str, Field(max_length=100)] | None = None
    batch_size: Annotated[int, Field(ge=1, le=100)] | None = 1
    n_iter: Annotated[int, Field(ge=1, le=100)] | None = 1
    override_settings: dict[str, Any] | None = None
    send_images: bool | None = True


class Img2Img(Txt2Img, Img2ImgFields):
    """Body of a request that begins with a picture."""


class PngInfo(BaseModel):
    """A picture as base64, with or without a ``data:`` prefix."""

    model_config = ConfigDict(extra="ignore")

    image: str


class Running:
    """Jobs and options of each key in this interface; no key sees those of another."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: dict[str, list[str]] = {}
        self._models: OrderedDict[str, str] = OrderedDict()

    def begin(self, client: Client, job: str) -> None:
        """Record a job that a connection of the key waits for."""
        with self._lock:
            self._jobs.setdefault(client.id, []).append(job)

    def end(self, client: Client, job: str) -> None:
        """Forget a job whose connection has its answer."""
        with self._lock:
            left = [one for one in self._jobs.get(client.id, []) if one != job]
            if left:
                self._jobs[client.id] = left
            else:
                self._jobs.pop(client.id, None)

    def jobs(self, client: Client) -> list[str]:
        """Jobs that connections of the key wait for, oldest first."""
        with self._lock:
            return list(self._jobs.get(client.id, []))

    def model(self, client: Client) -> str | None:
        """Model that the key has chosen in its options."""
        with self._lock:
            return self._models.get(client.id)

    def choose(self, client: Client, model: str) -> None:
        """Choose a model for the key."""
        with self._lock:
            self._models[client.id] = model
            while len(self._models) > MAX_OPTIONS:
                self._models.popitem(last=False)


def a1111_routes(service: Service, hub: Hub) -> APIRouter:
    """Make the routes under ``/sdapi/v1``."""
    routes, running = APIRouter(prefix="/sdapi/v1", tags=["AUTOMATIC1111"]), Running()

    async def drawn(body: Txt2Img, request: Request) -> JSONResponse:
        client = client_of(request)
        service.require_room(client)
        asked = await run_in_threadpool(_client_request, body, service, running.model(client))
        job, _ = await run_in_threadpool(service.accept, client, asked)
        running.begin(client, job.id)
        try:
            with hub.stream_of(client, service.spec.limits.max_streams_of_key):
                job = await until_done(service, hub, job, client, request)
        finally:
            running.end(client, job.id)
        answer = await run_in_threadpool(_answer, service, job, body)
        return JSONResponse(answer, headers=adapter_headers(job))

    @routes.post("/txt2img", response_model=None)
    async def txt2img(body: Txt2Img, request: Request) -> JSONResponse:
        """Draw pictures and answer when they are finished."""
        return await drawn(body, request)

    @routes.post("/img2img", response_model=None)
    async def img2img(body: Img2Img, request: Request) -> JSONResponse:
        """Draw pictures that begin as another one, and answer when they are finished."""
        return await drawn(body, request)

    @routes.get("/progress")
    def progress(request: Request, skip_current_image: bool = False) -> dict[str, Any]:
        """Progress of the oldest job of this key; jobs of other keys are not shown."""
        return _progress(service, running.jobs(client_of(request)), skip_current_image)

    @routes.post("/interrupt")
    def interrupt(request: Request) -> dict[str, Any]:
        """End the jobs of this key that connections of this interface wait for."""
        client = client_of(request)
        for job in running.jobs(client):
            service.cancel(client, job, "interrupted")
        return {}

    @routes.get("/options")
    def get_options(request: Request) -> dict[str, Any]:
        """Options of this key: the chosen model, and no other option of A1111."""
        model = running.model(client_of(request)) or service.base.name
        return {"sd_model_checkpoint": model, "samples_format": "png", "CLIP_stop_at_last_layers": 1}

    @routes.post("/options", response_model=None)
    def set_options(body: dict[str, Any], request: Request) -> None:
        """Choose a model for this key, such as ``pocket+style:0.8``; other keys keep theirs."""
        model = body.get("sd_model_checkpoint")
        if model is None:
            return
        if not isinstance(model, str):
            raise BadRequest("sd_model_checkpoint: expected a name.", param="sd_model_checkpoint")
        for name, _ in split_model(model, service.base.name):
            service.shelf.find(name)
        running.choose(client_of(request), model)

    @routes.get("/samplers")
    def samplers() -> list[dict[str, Any]]:
        """Samplers that can draw with this base."""
        names = FLOW_SAMPLERS if service.base.is_flow else tuple(TITLES)
        return [{"name": TITLES[name], "aliases": [name], "options": {}} for name in names]

    @routes.get("/schedulers")
    def schedulers() -> list[dict[str, Any]]:
        """List the one schedule of each sampler."""
        return [
            {
                "name": "automatic",
                "label": "Automatic",
                "aliases": None,
                "default_rho": -1.0,
                "need_inner_model": False,
            }
        ]

    @routes.get("/sd-models")
    def models() -> list[dict[str, Any]]:
        """The base, and the base with each adapter, as clients list checkpoints."""
        base = service.base.name
        names = [base, *(f"{base}+{one.name}" for one in service.shelf.entries if one.problem is None)]
        return [
            {
                "title": name,
                "model_name": name,
                "hash": None,
                "sha256": None,
                "filename": name,
                "config": None,
            }
            for name in dict.fromkeys(names)
        ]

    @routes.get("/sd-vae")
    @routes.get("/upscalers")
    @routes.get("/latent-upscale-modes")
    def none_of_them() -> list[dict[str, Any]]:
        """Answer with an empty list to clients that ask for things that this server does not have."""
        return []

    @routes.get("/loras")
    def loras() -> list[dict[str, Any]]:
        """Adapters that a prompt may name, without paths of this machine."""
        return [
            {
                "name": one.name,
                "alias": one.alias,
                "path": one.path.name,
                "metadata": {"sha256": one.sha256, "layers": one.layers},
            }
            for one in service.shelf.entries
            if one.problem is None
        ]

    @routes.post("/png-info")
    def png_info(body: PngInfo) -> dict[str, Any]:
        """Settings of a picture, read from its own metadata."""
        return _png_info(body.image)

    return routes


def _client_request(body: Txt2Img, service: Service, chosen: str | None) -> ClientRequest:
    further = body.model_extra or {}
    begins = isinstance(body, Img2Img)
    for name in UNSUPPORTED if begins else (*UNSUPPORTED, "init_images"):
        if further.get(name):
            raise BadRequest(f"{name}: not supported by this server. Leave it out.", param=name)
    overrides = body.override_settings or {}
    model = overrides.get("sd_model_checkpoint") or chosen or ""
    if not isinstance(model, str):
        raise BadRequest("override_settings.sd_model_checkpoint: expected a name.", param="override_settings")
    prompt, tags = take_tags(body.prompt)
    num = (body.batch_size or 1) * (body.n_iter or 1)
    if num > service.spec.limits.max_pictures:
        raise BadRequest(
            f"{num} pictures: ask for {service.spec.limits.max_pictures} at most.", param="batch_size"
        )
    return ClientRequest(
        prompts=(prompt,) * num,
        negative_prompt=body.negative_prompt or "",
        seed=None if body.seed in (None, -1) else body.seed,
        width_px=body.width,
        height_px=body.height,
        steps=body.steps or 20,
        scheduler=_sampler_of(body),
        guidance_scale=body.cfg_scale,
        adapters=summed(split_model(model, service.base.name), tags),
        references=references_of(further.get("alwayson_scripts")),
        start=body.start(sized=bool(body.width or body.height)) if isinstance(body, Img2Img) else None,
        attached=True,
    )


def _sampler_of(body: Txt2Img) -> str:
    if (body.scheduler.lower() if body.scheduler else body.scheduler) not in SCHEDULERS:
        raise BadRequest(
            f"scheduler '{body.scheduler}': this server has only 'Automatic'. Leave the field out.",
            param="scheduler",
        )
    asked = body.sampler_name or body.sampler_index
    if asked is None:
        return "auto"
    for name, title in TITLES.items():
        if asked.lower() in (name, title.lower()):
            return name
    raise NotFound(
        f"sampler '{asked}' not found. Choose one of {', '.join(TITLES.values())}.",
        param="sampler_name",
        code="Sampler not found",
    )


def _answer(service: Service, job: Job, body: Txt2Img) -> dict[str, Any]:
    done = [one for one in job.pictures if one.state == "done"]
    if not done:
        raise why_none(job)
    images, texts = [], []
    for one in done:
        path = service.store.shown(one.token)
        if path is None:
            raise NotFound("the picture has expired.")
        content = path.read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            texts.append(str(getattr(image, "text", {}).get("parameters", "")))
        images.append(base64.b64encode(content).decode())
    asked = job.request
    info = {
        "prompt": asked.prompts[0],
        "all_prompts": [asked.prompts[one.index] for one in done],
        "negative_prompt": asked.negative_prompt,
        "all_negative_prompts": [asked.negative_prompt] * len(done),
        "seed": asked.seeds[done[0].index],
        "all_seeds": [asked.seeds[one.index] for one in done],
        "width": asked.width_px,
        "height": asked.height_px,
        "sampler_name": TITLES[asked.scheduler],
        "cfg_scale": asked.guidance_scale,
        "steps": asked.steps,
        "denoising_strength": None if asked.start is None else asked.start.strength,
        "batch_size": len(done),
        "sd_model_name": service.base.name,
        "infotexts": texts,
        "job_timestamp": time.strftime("%Y%m%d%H%M%S", time.gmtime(job.created)),
        "version": "detour",
        "adapters": [one.model_dump() for one in asked.adapters],
        "missing": [
            {"index": one.index, "state": one.state, "code": one.code or one.state}
            for one in job.pictures
            if one.state != "done"
        ],
    }
    parameters = body.model_dump()
    return {
        "images": images if body.send_images is not False else [],
        "parameters": {
            name: parameters[name] for name in type(body).model_fields if name not in NOT_RETURNED
        },
        "info": json.dumps(info),
    }


def _progress(service: Service, jobs: list[str], skip_image: bool) -> dict[str, Any]:
    state = {
        "skipped": False,
        "interrupted": False,
        "stopping_generation": False,
        "job": "",
        "job_count": len(jobs),
        "job_timestamp": "0",
        "job_no": 0,
        "sampling_step": 0,
        "sampling_steps": 0,
    }
    answer = {"progress": 0.0, "eta_relative": 0.0, "state": state, "current_image": None, "textinfo": None}
    job = service.store.job(jobs[0]) if jobs else None
    found = service.dispatcher.progress(jobs[0]) if jobs else None
    if job is None or found is None:
        return answer
    steps, num = job.request.steps, len(job.pictures)
    finished = sum(one.state not in ("queued", "drawing") for one in job.pictures)
    under_way = [found.steps.get(one.index, (0, steps))[0] for one in job.pictures if one.state == "drawing"]
    share = (finished + sum(min(done, steps) / steps for done in under_way)) / num
    seconds = service.dispatcher.place(job.id)[1]
    state |= {
        "job": "txt2img" if job.request.start is None else "img2img",
        "sampling_step": max(under_way, default=0),
        "sampling_steps": steps,
    }
    answer |= {"progress": min(share, 0.999), "eta_relative": 0.0 if seconds is None else seconds}
    if not skip_image:
        service.dispatcher.want_previews(job.id, 3)
        newest = max((one for one in found.previews.values()), default=None, key=lambda one: one[0])
        if newest is not None:
            answer["current_image"] = base64.b64encode(newest[1]).decode()
    return answer


def _png_info(text: str) -> dict[str, Any]:
    """Text ``parameters`` of a PNG, of which only header and text are decoded.

    Raises:
        BadRequest: no PNG, or one of more pixels than anybody draws.
    """
    content = from_base64(text, "image")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
                if image.width * image.height > MAX_PNG_PIXELS:
                    raise BadRequest(f"image: more than {MAX_PNG_PIXELS:,} pixels.", param="image")
                texts = {
                    str(name): str(value) for name, value in image.info.items() if isinstance(value, str)
                }
    except (
        OSError,
        UnidentifiedImageError,
        SyntaxError,
        ValueError,
        Warning,
        Image.DecompressionBombError,
    ) as error:
        raise BadRequest("image: not readable as PNG.", param="image") from error
    return {"info": texts.get("parameters", ""), "items": texts, "parameters": {}}
