"""A replica's part of drawing: takes orders, and answers them with messages. Knows nothing of Ray."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from concurrent.futures import CancelledError
from dataclasses import replace
from pathlib import Path

from detour.errors import DetourError
from detour.files import write_bytes
from detour.generation.engine import PictureEngine
from detour.generation.requests import AdapterFile, PictureRequest
from detour.generation.scheduling import PictureHandle, Step
from detour.serving.fleet.messages import Failed, Finished, Message, Missing, Order, StepDone

MOST_FILES = 256
"""Adapter files that a replica keeps; the ones written first go first, and are asked for again."""


class Drawer:
    """Draws orders with an engine, and keeps the adapter files that came with them."""

    def __init__(self, engine: PictureEngine, folder: Path) -> None:
        """Make a drawer with no adapter files.

        Args:
            engine: draws.
            folder: of this replica alone, for adapter files; nothing in it has to last.
        """
        self._engine, self._folder = engine, folder
        folder.mkdir(parents=True, exist_ok=True)

    async def draw(self, order: Order) -> AsyncGenerator[Message, None]:
        """Draw a picture and yield what happens; ended early, it drops the picture.

        Args:
            order: what to draw.
        """
        loop = asyncio.get_running_loop()
        try:
            await asyncio.to_thread(self._keep, order)
            missing = tuple(sha256 for sha256 in _files_of(order.request) if not self._path(sha256).exists())
            if missing:
                yield Missing(missing)
                return
            told: asyncio.Queue[StepDone | None] = asyncio.Queue()

            def tell(message: StepDone | None) -> None:
                loop.call_soon_threadsafe(told.put_nowait, message)

            def on_step(step: Step) -> None:
                tell(StepDone(step.done, step.total))

            handle = self._engine.submit(self._here(order.request), owner=order.owner, on_step=on_step)
        except DetourError as error:
            yield Failed(error)
            return
        handle.future.add_done_callback(lambda _: tell(None))
        try:
            while (message := await told.get()) is not None:
                yield message
            yield _outcome(handle)
        finally:
            if not handle.done:
                handle.cancel()

    def _keep(self, order: Order) -> None:
        for sha256, content in order.files.items():
            if not self._path(sha256).exists():
                write_bytes(self._path(sha256), content)
        if order.files:
            kept = sorted(self._folder.glob("*.safetensors"), key=lambda one: one.stat().st_mtime_ns)
            for old in kept[:-MOST_FILES]:
                if old.stem not in order.files:
                    old.unlink(missing_ok=True)

    def _path(self, sha256: str) -> Path:
        return self._folder / f"{sha256}.safetensors"

    def _here(self, request: PictureRequest) -> PictureRequest:
        """The request with the replica's own paths of adapter files."""
        used = tuple(
            replace(one, adapter=replace(one.adapter, path=self._path(one.sha256)))
            if isinstance(one.adapter, AdapterFile)
            else one
            for one in request.adapters
        )
        return replace(request, adapters=used)


def _files_of(request: PictureRequest) -> list[str]:
    return [one.sha256 for one in request.adapters if isinstance(one.adapter, AdapterFile)]


def _outcome(handle: PictureHandle) -> Finished | Failed:
    try:
        return Finished(handle.future.result())
    except DetourError as error:
        return Failed(error)
    except CancelledError:
        return Failed(DetourError("the replica is stopping."))
    except Exception as error:
        return Failed(DetourError(f"internal error of the replica ({type(error).__name__})."))
