"""The fleet on a local Ray cluster of two nodes: replicas and the owner of the jobs are killed, and nothing is lost."""

import contextlib
import http.client
import io
import json
import os
import signal
import socket
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image

from tests.serving.test_ten_minutes import adapter_in

ray = pytest.importorskip("ray", reason="ray is not installed: pip install 'detour-lora[fleet]'")

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

TIMEOUT_S = float(os.environ.get("DETOUR_FLEET_TIMEOUT_S", "600"))
PATIENT = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "600",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "600",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_agent_register_timeout_ms": "900000",
    "RAY_gcs_server_request_timeout_seconds": "600",
    "RAY_health_check_failure_threshold": "100",
    "RAY_raylet_start_wait_time_s": "600",
    "RAY_worker_niceness": "0",
    "RAY_worker_register_timeout_seconds": "900",
}
"""Environment of a cluster that starts on a busy machine too."""


def free_ports(num: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        found = [stack.enter_context(socket.socket()) for _ in range(num)]
        for one in found:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in found]


PORTS = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", "runtime_env_agent_port")


def node(**more: Any) -> dict[str, Any]:
    """Arguments of a node, on loopback and with fixed ports."""
    return {
        "num_cpus": 1, "object_store_memory": 100 << 20, "include_dashboard": False,
        "node_ip_address": "127.0.0.1", **dict(zip(PORTS, free_ports(len(PORTS)), strict=True)), **more,
    }  # fmt: skip


def start_patiently(patch: pytest.MonkeyPatch) -> None:
    """Let a cluster start on loopback alone, and on a busy machine.

    Ray 2.60 replaces 127.0.0.1 by the machine's address where it connects and not where it listens. And a node ends
    when one of its agents has not written its port into a file within 15 s, which no setting changes: the ports are
    fixed here, so the files are written before.
    """
    from ray import _raylet
    from ray._private import node as nodes
    from ray._private import services

    for module in (services, ray.util):
        patch.setattr(module, "get_node_ip_address", lambda *_, **__: "127.0.0.1")
    start_raylet = nodes.Node.start_raylet

    def start(self: Any, *arguments: Any, **named: Any) -> Any:
        for name in PORTS:
            port = getattr(self._ray_params, name)
            _raylet.persist_port(
                self._session_dir, self._node_id, getattr(_raylet, f"{name.upper()}_NAME"), port
            )
        return start_raylet(self, *arguments, **named)

    patch.setattr(nodes.Node, "start_raylet", start)


class Client:
    """Speaks HTTP to the fleet; what is refused for now is asked again."""

    def __init__(self, port: int, state: Path) -> None:
        self.address, self.state = f"http://127.0.0.1:{port}", state

    def ask(self, path: str, body: Any = None, **headers: str) -> Any:
        """The answer as JSON, or as bytes."""
        data = None if body is None else json.dumps(body).encode()
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        end = time.monotonic() + TIMEOUT_S
        while True:
            request = urllib.request.Request(
                self.address + path, data, {"content-type": "application/json", **headers}
            )
            try:
                with urllib.request.urlopen(request, timeout=120) as answer:
                    found = answer.read()
                    return json.loads(found) if found[:1] in (b"{", b"[") else found
            except (OSError, http.client.HTTPException) as error:  # the owner was killed, or is not ready
                refused = isinstance(error, urllib.error.HTTPError) and error.code < 500
                if refused or time.monotonic() > end:
                    said = error.read() if isinstance(error, urllib.error.HTTPError) else b""
                    raise AssertionError(f"{path}: {error} {said!r}") from error
                time.sleep(0.5)

    def job(self, key: str, **values: Any) -> str:
        """Hand in a job; asked again after a lost answer, it is the same job."""
        return str(self.ask("/v1/jobs", {**BODY, **values}, idempotency_key=key)["id"])

    def done(self, id_: str) -> dict[str, Any]:
        end = time.monotonic() + TIMEOUT_S
        while time.monotonic() < end:
            found: dict[str, Any] = self.ask(f"/v1/jobs/{id_}")
            if found["state"] not in ("queued", "drawing"):
                return found
            time.sleep(0.5)
        raise AssertionError(f"not done in time: {found}")


BODY = {"prompts": ["a red house"], "seed": 7, "steps": 2, "adapters": [{"name": "my-style"}]}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Two nodes, a replica on each; the owner of the jobs on the first."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in PATIENT.items():
            patch.setenv(name, value)
        start_patiently(patch)
        from ray import serve
        from ray.cluster_utils import Cluster

        from detour.serving.fleet.application import STATE_RESOURCE, build

        folder = tmp_path_factory.mktemp("fleet")
        adapter_in(folder / "shelf")
        cluster = Cluster(initialize_head=True, head_node_args=node(resources={STATE_RESOURCE: 1}))
        try:
            cluster.add_node(**node())
            ray.init(address=cluster.address, log_to_driver=False)
            (port,) = free_ports(1)
            serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
            settings = {
                "base": "pocket", "adapters": folder / "shelf", "state": folder / "state", "threads": 1,
            }  # fmt: skip
            serve.run(build({name: str(value) for name, value in settings.items()}), name="detour")
            client = Client(port, folder / "state")
            assert client.ask("/readyz") == {"status": "ready"}
            yield client
        finally:
            with contextlib.suppress(Exception):
                serve.shutdown()
            ray.shutdown()
            cluster.shutdown()


def processes(deployment: str) -> list[psutil.Process]:
    """Processes of this test's cluster that run a deployment, the oldest first."""
    found = []
    for one in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if f"ServeReplica:detour:{deployment}" in " ".join(one.cmdline()):
                found.append(one)
    return sorted(found, key=lambda one: one.create_time())


def eventually(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + TIMEOUT_S
    while not holds():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.5)


def pixels(data: bytes) -> bytes:
    with Image.open(io.BytesIO(data)) as image:
        return image.tobytes()


def test_pictures_of_an_adapter_are_drawn_where_it_is_warm(fleet: Client) -> None:
    assert len(processes("Drawers")) == len(ray.nodes()) == 2, "of one CPU each, so there is one on each"
    for number in range(6):
        assert fleet.done(fleet.job(f"warm {number}", seed=100 + number))["state"] == "done"
        time.sleep(1)  # the router hears of what is warm a moment later
    kept = Path(tempfile.gettempdir()).glob("detour-replica-*/*.safetensors")
    recent = [one for one in kept if one.stat().st_mtime > psutil.Process().create_time()]
    assert len(recent) == 1, "the other replica was never sent the adapter"


def test_kills_of_a_replica_and_of_the_owner_lose_nothing_that_was_accepted(fleet: Client) -> None:
    drawers, fronts = processes("Drawers"), processes("Front")
    accepted = [fleet.job(f"before {index}", count=2, steps=6) for index in range(4)]
    drawers[0].send_signal(signal.SIGKILL)
    accepted += [fleet.job(f"between {index}", steps=6) for index in range(3)]
    fronts[0].send_signal(signal.SIGKILL)
    accepted += [fleet.job(f"after {index}", steps=6) for index in range(3)]
    assert len(set(accepted)) == 10
    jobs = [fleet.done(id_) for id_ in accepted]
    assert {one["state"] for job in jobs for one in job["pictures"]} == {"done"}
    assert fronts[0].pid not in [one.pid for one in processes("Front")], "another process owns the jobs now"
    pictures: dict[tuple[int, int], set[bytes]] = {}
    for job in jobs:
        for one in job["pictures"]:
            found = pixels(fleet.ask(one["url"][one["url"].index("/v1/") :]))
            pictures.setdefault((one["seed"], job["request"]["width_class"]), set()).add(found)
    assert all(len(found) == 1 for found in pictures.values()), "one request, one picture"
    listed = fleet.ask("/v1/jobs?limit=100")
    ids = [job["id"] for job in (listed if isinstance(listed, list) else listed["jobs"])]
    assert set(accepted) <= set(ids)
    assert len(ids) == len(set(ids)) == 16, "six of the other test and these ten"
    assert len(list((fleet.state / "pictures").glob("*.png"))) == 6 + 4 * 2 + 6
    eventually(lambda: len(processes("Drawers")) == 2)
