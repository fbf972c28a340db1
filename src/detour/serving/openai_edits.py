"""``/v1/images/edits`` of OpenAI Images: pictures that begin as another one, for the unmodified ``openai`` package."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import Field, ValidationError
from starlette.concurrency import run_in_threadpool

from detour.serving.forms import read_form
from detour.serving.native import client_of
from detour.serving.openai_images import ImagesBody, client_request, drawn_answer
from detour.serving.refusals import BadRequest
from detour.serving.requests import ClientRequest
from detour.serving.service import Service
from detour.serving.starts import AskedStart, MaskForm, StartFields
from detour.serving.watching import Hub

FIELDS = StartFields(picture="image", mask="mask", strength="strength")


class EditBody(ImagesBody):
    """Fields of the form beside its pictures."""

    strength: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the steps that are drawn; all of them with a mask, else 0.75."""


FILES = {
    "image": {"type": "string", "format": "binary", "description": "PNG, JPEG or WebP; image[] is the same."},
    "mask": {"type": "string", "format": "binary", "description": "Transparent parts are drawn anew."},
}


def edit_routes(service: Service, hub: Hub) -> APIRouter:
    """Make the route of edits."""
    routes = APIRouter(tags=["OpenAI Images"])

    @routes.post("/v1/images/edits", response_model=None, openapi_extra={"requestBody": _described()})
    async def edit_image(
        request: Request, idempotency_key: Annotated[str | None, Header(max_length=200)] = None
    ) -> JSONResponse | StreamingResponse:
        """Draw pictures that begin as the one that was sent; the transparent parts of a mask are drawn anew."""
        service.require_room(client_of(request))
        content, kind = await request.body(), request.headers.get("content-type", "")
        body, asked = await run_in_threadpool(_read, content, kind, service, idempotency_key)
        return await drawn_answer(service, hub, asked, body, request)

    return routes


def _described() -> dict[str, Any]:
    schema = EditBody.model_json_schema()
    schema["properties"] = {**FILES, **schema["properties"]}
    del schema["properties"]["lora"]
    schema.pop("$defs", None)
    schema["required"] = ["image", "prompt"]
    return {"required": True, "content": {"multipart/form-data": {"schema": schema}}}


def _read(
    content: bytes, kind: str, service: Service, idempotency_key: str | None
) -> tuple[EditBody, ClientRequest]:
    """Read a form of an edit: the settings of its answer, and what is to be drawn from its pictures.

    Raises:
        BadRequest: no form, not one picture, or an adapter in a field that a form cannot hold.
        RequestValidationError: a field out of range.
    """
    form = read_form(content, kind)
    pictures = [*form.get("image", ()), *form.get("image[]", ())]
    masks = [*form.get("mask", ())]
    if len(pictures) != 1:
        raise BadRequest(
            f"image: {len(pictures)} pictures, and drawing begins with one. Send one.", param="image"
        )
    if len(masks) > 1:
        raise BadRequest("mask: more than one. Send one.", param="mask")
    if any(name.startswith("lora") for name in form):
        raise BadRequest(
            "lora: a form cannot hold it. Name adapters in 'model' (base+name:0.8) or in the prompt (<lora:name:0.8>).",
            param="lora",
        )
    try:
        body = EditBody.model_validate(_texts(form))
    except ValidationError as error:
        problems = [{**one, "loc": ("body", *one["loc"])} for one in error.errors(include_url=False)]
        raise RequestValidationError(problems) from error
    asked = client_request(body, service, idempotency_key)
    sent = hashlib.sha256(asked.body_sha256.encode())
    for part in (pictures[0], *masks):
        sent.update(hashlib.sha256(part).digest())
    start = AskedStart(
        picture=pictures[0],
        mask=masks[0] if masks else None,
        strength=body.strength,
        form=MaskForm(reads="transparency"),
        fields=FIELDS,
    )
    return body, replace(asked, start=start, body_sha256=sent.hexdigest())


def _texts(form: Mapping[str, list[bytes]]) -> dict[str, str]:
    """The last value of each field that is a text; empty ones are left out, as clients send them for nothing."""
    texts = {}
    for name in EditBody.model_fields:
        if form.get(name):
            try:
                text = form[name][-1].decode()
            except UnicodeDecodeError as error:
                raise BadRequest(f"{name}: not UTF-8 text.", param=name) from error
            if text or name == "prompt":
                texts[name] = text
    return texts
