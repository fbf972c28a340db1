"""Runs the server process: loads the model while HTTP answers already, and stops in good order."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Iterator

import uvicorn
from starlette.concurrency import run_in_threadpool

from detour.bases.base import Base, open_base
from detour.bases.hardware import drawing_dtype, pick_device
from detour.errors import ConfigError, DetourError
from detour.generation.engine import PictureEngine
from detour.generation.signing import PictureSigner, open_signer
from detour.serving.app import make_app
from detour.serving.guard import require_key
from detour.serving.keys import KeyRing
from detour.serving.layered_policy import LayeredPolicy
from detour.serving.policy import Policy
from detour.serving.service import Service
from detour.serving.settings import ServeSpec
from detour.serving.store import JobStore
from detour.serving.watching import Hub

LINGER_S = 5
"""Seconds that open connections get to end after the last picture."""


def serve(
    spec: ServeSpec, *, policy: Policy | None = None, say: Callable[[str], None] = lambda _: None
) -> None:
    """Serve until SIGINT or SIGTERM; then let running pictures finish, keep the queue, and return.

    Args:
        spec: settings.
        policy: safety; ``None``: that of the settings, or everything is allowed.
        say: called with one line of progress at a time.

    Raises:
        ConfigError: beyond loopback without a key; the address is taken; the certificate cannot sign.
        BaseError: the base cannot be opened or loaded.
        RunError, StorageError: the state folder is in use or cannot be written.
    """
    if spec.adapters is not None and not spec.adapters.is_dir():
        raise ConfigError(f"--adapters {spec.adapters}: no such folder. Make it, or name another.")
    base = open_base(spec.base, revision=spec.revision)
    base.require_weights()
    store = JobStore(spec.state)
    try:
        keys = KeyRing(spec.state)
        require_key(spec, keys, said=f"--host {spec.host}")
        if policy is None and spec.policy is not None:
            say(f"reading the policy {spec.policy} …")
            policy = LayeredPolicy.open(spec.policy, base, device=pick_device(spec.device))
        signer = open_signer(spec.provenance.c2pa_cert, spec.provenance.c2pa_key)
        _serve(spec, base, store, keys, policy, signer, say)
    finally:
        store.close()


def _serve(
    spec: ServeSpec,
    base: Base,
    store: JobStore,
    keys: KeyRing,
    policy: Policy | None,
    signer: PictureSigner | None,
    say: Callable[[str], None],
) -> None:
    hub = Hub()
    service = Service(spec, store, policy=policy, signer=signer, on_change=hub.tell)
    failures: list[BaseException] = []
    server: _Server

    def load() -> None:
        try:
            _load(spec, base, service, say)
        except BaseException as error:
            failures.append(error)
            server.should_exit = True

    app = make_app(spec, service, hub, keys, load=load)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=LINGER_S,
        timeout_keep_alive=15,
        h11_max_incomplete_event_size=64 << 10,
        ws="none",
    )
    listener = _listen(spec)
    server = _Server(config, service, say)
    address = f"http://{spec.host if ':' not in spec.host else f'[{spec.host}]'}:{listener.getsockname()[1]}"
    say(f"listening on {address} (docs: {address}/docs)")
    with contextlib.closing(listener):
        asyncio.run(server.serve([listener]))
    if failures:
        raise failures[0]


def _load(spec: ServeSpec, base: Base, service: Service, say: Callable[[str], None]) -> None:
    service.stage = "loading the model"
    say(f"loading base '{base.name}' …")
    device = pick_device(spec.device)
    dtype = drawing_dtype(spec.dtype, device)
    engine = PictureEngine.load(base, device=device, dtype=dtype, safety=True, prompts="written")
    if spec.adapters is not None:
        service.stage = "reading the adapters"
        say(f"reading adapters of {spec.adapters} …")
    left = service.start(engine, dtype=dtype)
    for entry in service.shelf.entries:
        if entry.problem is not None:
            say(f"warning: adapter '{entry.name}' cannot be used: {entry.problem}")
    usable = sum(entry.problem is None for entry in service.shelf.entries)
    again = f", {left} pictures left by an earlier run are drawn now" if left else ""
    say(f"ready: base '{base.name}' on {device} in {dtype}, {usable} adapters{again}")


def _listen(spec: ServeSpec) -> socket.socket:
    family = socket.AF_INET6 if ":" in spec.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((spec.host.strip("[]"), spec.port))
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"{spec.host}:{spec.port}: cannot listen there ({error.strerror}). Choose another --port."
        ) from error
    listener.set_inheritable(True)
    return listener


class _Server(uvicorn.Server):
    """An HTTP server that stops in two steps: pictures are finished first, connections closed then."""

    def __init__(self, config: uvicorn.Config, service: Service, say: Callable[[str], None]) -> None:
        super().__init__(config)
        self._service, self._say = service, say
        self._stopping: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle SIGINT and SIGTERM: the first signal lets running pictures finish, a second one does not."""
        loop = asyncio.get_running_loop()
        with contextlib.suppress(NotImplementedError):  # Windows: Ctrl-C raises KeyboardInterrupt
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, self._asked_to_stop)
        try:
            yield
        finally:
            with contextlib.suppress(NotImplementedError):
                for number in (signal.SIGINT, signal.SIGTERM):
                    loop.remove_signal_handler(number)

    def _asked_to_stop(self) -> None:
        if self._stopping is not None:
            self._say("stopping at once; unfinished pictures are drawn at the next start")
            self.should_exit = self.force_exit = True
            self._service.hurry()
            return
        self._stopping = asyncio.get_running_loop().create_task(self._stop())

    async def _stop(self) -> None:
        self._service.refuse_new()
        num = self._service.num_drawing
        self._say(
            f"stopping: {num} running pictures are being finished, the queue is kept (a second Ctrl-C stops at once)"
        )
        with contextlib.suppress(DetourError):
            await run_in_threadpool(self._service.stop)
        self.should_exit = True
