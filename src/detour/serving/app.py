"""The ASGI application: three HTTP interfaces, review, health and metrics over one service."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from detour import __version__
from detour.errors import DetourError
from detour.printing import printable
from detour.serving.a1111 import a1111_routes
from detour.serving.envelopes import envelope, error_response
from detour.serving.guard import Guard
from detour.serving.keys import KeyRing
from detour.serving.metrics import metrics_of, metrics_text
from detour.serving.native import native_routes
from detour.serving.openai_edits import edit_routes
from detour.serving.openai_images import openai_routes
from detour.serving.review_page import page_routes
from detour.serving.reviews import review_routes
from detour.serving.service import Service
from detour.serving.sessions import Sessions
from detour.serving.settings import ServeSpec
from detour.serving.watching import Hub

TICK_S = 1.0
CLEAN_EVERY = 60
"""Number of ticks between two searches for data to delete."""


def make_app(
    spec: ServeSpec,
    service: Service,
    hub: Hub,
    keys: KeyRing,
    *,
    load: Callable[[], None],
) -> FastAPI:
    """Make the HTTP application: guard, routes of the three interfaces, and background tasks.

    Args:
        spec: settings.
        service: that ``load`` starts.
        hub: notifies event streams of changes.
        keys: of its clients.
        load: loads the model and starts the service; called on a thread of its own, while HTTP is answered already.
    """

    @contextlib.asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        hub.open()
        tasks = [asyncio.create_task(_loading(service, load)), asyncio.create_task(_ticking(service))]
        try:
            yield
        finally:
            hub.close()
            for task in tasks:
                task.cancel()
            await run_in_threadpool(service.stop)

    app = FastAPI(title="detour serve", version=__version__, lifespan=life, redirect_slashes=False)
    app.include_router(native_routes(service, hub))
    sessions = Sessions()
    app.include_router(review_routes(service, keys))
    app.include_router(page_routes(spec, service, keys, sessions))
    app.include_router(openai_routes(service, hub))
    app.include_router(edit_routes(service, hub))
    app.include_router(a1111_routes(service, hub))
    _health_routes(app, service)
    _errors(app)
    app.add_middleware(Guard, spec=spec, keys=keys, sessions=sessions)
    return app


async def _loading(service: Service, load: Callable[[], None]) -> None:
    await asyncio.to_thread(load)
    while service.stage == "ready":  # what came back from an earlier life may be past its time
        await asyncio.to_thread(service.clean)
        await asyncio.sleep(CLEAN_EVERY * TICK_S)


async def _ticking(service: Service) -> None:
    while True:
        await asyncio.sleep(TICK_S)
        with contextlib.suppress(
            DetourError
        ):  # a disk that is full now may have room later; /readyz tells of it
            await asyncio.to_thread(service.tick)


def _health_routes(app: FastAPI, service: Service) -> None:
    registry = metrics_of(service)

    @app.get("/healthz", tags=["operation"])
    async def healthz() -> dict[str, str]:
        """Report that the process answers, without asking the model."""
        return {"status": "ok"}

    @app.get("/readyz", tags=["operation"], response_model=None)
    async def readyz() -> JSONResponse:
        """Report whether jobs are accepted; 503 with the cause otherwise."""
        if service.is_ready:
            return JSONResponse({"status": "ready"})
        return JSONResponse({"status": service.why_not_ready}, status_code=503, headers={"retry-after": "2"})

    @app.get("/favicon.ico", include_in_schema=False)
    async def favicon() -> Response:
        """Answer browsers, which ask for an icon by themselves and send no key, that there is none."""
        return Response(status_code=204, headers={"cache-control": "max-age=86400"})

    @app.get("/metrics", tags=["operation"], response_class=Response)
    async def metrics() -> Response:
        """Give the server's counters and times in Prometheus' text format."""
        return Response(metrics_text(registry), media_type="text/plain; version=0.0.4; charset=utf-8")


def _errors(app: FastAPI) -> None:
    async def known(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, DetourError)
        return error_response(request.url.path, error)

    async def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        problem: dict[str, Any] = dict(error.errors()[0])
        names = [str(part) for part in problem["loc"] if part not in ("body", "query", "path", "header")]
        message = printable(f"{'.'.join(names) or 'body'}: {problem['msg']}", longest=500)
        path = request.url.path
        status = 400 if path.startswith("/v1/images") else 422
        body = envelope(
            path, status=status, code="invalid_request", message=message, param=".".join(names) or None
        )
        return JSONResponse(body, status_code=status)

    async def by_status(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "bad_request")
        body = envelope(request.url.path, status=error.status_code, code=code, message=str(error.detail))
        return JSONResponse(body, status_code=error.status_code, headers=error.headers)

    async def unknown(request: Request, error: Exception) -> JSONResponse:
        message = f"internal error ({type(error).__name__}); the server's log says more"
        return JSONResponse(
            envelope(request.url.path, status=500, code="internal", message=message), status_code=500
        )

    app.add_exception_handler(DetourError, known)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, by_status)
    app.add_exception_handler(Exception, unknown)
