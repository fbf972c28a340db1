"""The fleet on Ray Serve: ``serve run detour.serving.fleet.application:build base=pocket state=/srv/detour/state``.

``Front`` is the server of ``detour serve`` without a model: it owns the jobs, and Ray Serve starts it again on the same
machine when it dies. ``Drawers`` are replicas with a model each; a picture goes where its adapter is warm (Ray Serve's
multiplexing), and to another replica when the one that had it dies.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from detour.bases.base import open_base
from detour.bases.hardware import drawing_dtype, pick_device, set_threads
from detour.errors import ConfigError
from detour.generation.engine import PictureEngine
from detour.generation.signing import open_signer
from detour.serving.app import make_app
from detour.serving.fleet.drawer import Drawer
from detour.serving.fleet.messages import Message, Missing, Order, ReplicaLost
from detour.serving.fleet.remote_engine import RemoteEngine
from detour.serving.guard import require_key
from detour.serving.keys import KeyRing
from detour.serving.layered_policy import LayeredPolicy
from detour.serving.service import Service
from detour.serving.settings import ServeSpec
from detour.serving.store import JobStore
from detour.serving.watching import Hub
from detour.specs.sources import parse, parse_assignments, set_dotted

STATE_RESOURCE = "detour-state"
"""Ray resource of the node that has the state folder: SQLite is for one host, so the owner of the jobs stays there."""
WARM_ADAPTERS = 32
"""Adapters that a replica is taken to have prepared."""
ORDERS_OF_REPLICA = 64
"""Most pictures that a replica has at once; the engine puts them into batches."""
HEALTH_PERIOD_S = 2.0
HEALTH_TIMEOUT_S = 120.0
"""Seconds in which a process answers Ray; one that draws on all cores answers late."""


@serve.deployment(
    max_ongoing_requests=1000, health_check_period_s=HEALTH_PERIOD_S, health_check_timeout_s=HEALTH_TIMEOUT_S
)
@serve.ingress()
class Front:
    """The HTTP application and the owner of the jobs."""

    def __init__(self, spec: ServeSpec, drawers: Any, num_replicas: int) -> None:
        """Keep the settings; the application is made on the event loop.

        Args:
            spec: settings.
            drawers: handle of the replicas.
            num_replicas: of them.
        """
        self._spec, self._drawers, self._num_replicas = spec, drawers, num_replicas

    async def __serve_build_asgi_app__(self) -> FastAPI:
        """Open the jobs and make the application.

        Raises:
            RunError, StorageError: the state folder is in use or cannot be written.
        """
        spec, hub = self._spec, Hub()
        base = open_base(spec.base, revision=spec.revision)
        policy = None
        if spec.policy is not None:
            policy = LayeredPolicy.open(spec.policy, base, device=pick_device("auto"))
        signer = open_signer(spec.provenance.c2pa_cert, spec.provenance.c2pa_key)
        service = Service(spec, JobStore(spec.state), policy=policy, signer=signer, on_change=hub.tell)
        engine = RemoteEngine(base, self._ask, asyncio.get_running_loop(), device=str(spec.device))

        def load() -> None:
            dtype = drawing_dtype(spec.dtype, str(spec.device))
            service.start(engine, dtype=dtype, num_engines=self._num_replicas)

        return make_app(spec, service, hub, KeyRing(spec.state), load=load)

    async def _ask(self, order: Order) -> AsyncGenerator[Message, None]:
        """Give an order to a replica where its adapter is warm."""
        named = {"multiplexed_model_id": order.adapter} if order.adapter else {}
        messages = self._drawers.options(stream=True, **named).draw.remote(order)
        try:
            async for message in messages:
                yield message
        except (RayError, RayServeException) as error:
            raise ReplicaLost(type(error).__name__) from error
        finally:
            with contextlib.suppress(Exception):  # nothing is left to cancel
                messages.cancel()


class Drawers:
    """A replica with a model."""

    def __init__(self, spec: ServeSpec) -> None:
        """Load the base and everything that draws, before the first order comes.

        Args:
            spec: settings.
        """
        self._threads = spec.threads
        set_threads(spec.threads)
        device = str(spec.device)
        engine = PictureEngine.load(
            open_base(spec.base, revision=spec.revision),
            device=device,
            dtype=drawing_dtype(spec.dtype, device),
            safety=True,
            prompts="written",
        )
        self._drawer = Drawer(engine, Path(tempfile.mkdtemp(prefix="detour-replica-")))

    @serve.multiplexed(max_num_models_per_replica=WARM_ADAPTERS)  # type: ignore[untyped-decorator]
    async def warm(self, sha256: str) -> str:
        """Tell Ray Serve that requests for this adapter are best sent here; the engine prepares it when it is used."""
        return sha256

    async def draw(self, order: Order) -> AsyncGenerator[Message, None]:
        """Draw a picture and yield what happens.

        Args:
            order: what to draw.
        """
        set_threads(self._threads)  # the engine computes with as many as the thread that asks
        async with contextlib.aclosing(self._drawer.draw(order)) as messages:
            async for message in messages:
                name = serve.get_multiplexed_model_id()
                if name and not isinstance(message, Missing):
                    await self.warm(name)
                yield message


def build(arguments: Mapping[str, str]) -> Any:
    """Make the application for ``serve run`` or ``serve.run``.

    Args:
        arguments: settings of ``detour serve`` by their dotted names (``base``, ``adapters``, ``state``, ``host``,
            ``limits.max_steps``). Beside them ``replicas`` (2), ``cpus`` (1) and ``gpus`` (0) of each.

    Raises:
        ConfigError: an unknown setting, one that a fleet has not, or an address beyond loopback without a key.
    """
    given, values = dict(arguments), dict[str, Any]()
    num, cpus, gpus = int(given.pop("replicas", 2)), float(given.pop("cpus", 1)), float(given.pop("gpus", 0))
    for key, value in parse_assignments(f"{name}={text}" for name, text in given.items()).items():
        set_dotted(values, key, value)
    values.setdefault("device", "cuda" if gpus else "cpu")
    spec = parse(ServeSpec, values, where="fleet")
    if spec.references is not None:
        raise ConfigError("replicas of a fleet take no reference pictures. Leave 'references' out.")
    require_key(spec, KeyRing(spec.state), said=f"host={spec.host}")
    drawers = serve.deployment(Drawers).options(
        num_replicas=num,
        max_ongoing_requests=ORDERS_OF_REPLICA,
        ray_actor_options={"num_cpus": cpus, "num_gpus": gpus},
        health_check_period_s=HEALTH_PERIOD_S,
        health_check_timeout_s=HEALTH_TIMEOUT_S,
    )
    front = Front.options(  # type: ignore[attr-defined]
        ray_actor_options={"num_cpus": 0, "resources": {STATE_RESOURCE: 0.001}},
        graceful_shutdown_timeout_s=spec.stop_s + HEALTH_PERIOD_S,
    )
    return front.bind(spec, drawers.bind(spec), num)
