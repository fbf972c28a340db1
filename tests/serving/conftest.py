"""A served tiny base: one engine for the session, a fresh state folder for each test."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from detour.adapter_files.writing import write_adapter
from detour.bases.base import open_base
from detour.generation.engine import PictureEngine
from detour.generation.sidecar import Signs
from detour.serving.app import make_app
from detour.serving.keys import KeyRing
from detour.serving.policy import Policy
from detour.serving.service import Service
from detour.serving.settings import LimitsSpec, ServeSpec
from detour.serving.store import JobStore
from detour.serving.watching import Hub
from tests.generation.pool import make_adapters

KINDS = {"rank2": "style", "dora": "sketch", "text and word": "word"}
"""Adapter of the pool → its name on the shelf."""


WAIT_S = 20.0
"""Until what has to happen counts as never happening; on a busy machine a thread waits seconds for its turn."""


def eventually(holds: Callable[[], bool], *, timeout_s: float = WAIT_S) -> None:
    """Wait until something holds."""
    end = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


@dataclasses.dataclass
class Served:
    """A server that runs in this process."""

    http: TestClient
    service: Service
    keys: KeyRing
    spec: ServeSpec
    app: FastAPI

    def post(self, path: str, body: Any, **headers: str) -> Any:
        return self.http.post(
            path, json=body, headers={name.replace("_", "-"): v for name, v in headers.items()}
        )

    def job(self, body: Any, **headers: str) -> dict[str, Any]:
        answer = self.post("/v1/jobs", body, **headers)
        assert answer.status_code == 202, answer.text
        made: dict[str, Any] = answer.json()
        return made

    def done(self, id_: str, timeout_s: float = 60, **headers: str) -> dict[str, Any]:
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            found: dict[str, Any] = self.http.get(f"/v1/jobs/{id_}", headers=headers).json()
            if found["state"] not in ("queued", "drawing"):
                return found
            time.sleep(0.02)
        raise AssertionError(f"not done in time: {found}")


@pytest.fixture(scope="session")
def engine(tiny_base: Path) -> PictureEngine:
    return PictureEngine.load(open_base(str(tiny_base)), prompts="written")


@pytest.fixture(scope="session")
def shelf_folder(engine: PictureEngine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three adapters in three formats; read-only by agreement."""
    folder, made = tmp_path_factory.mktemp("shelf"), make_adapters(engine)
    for (kind, name), form in zip(KINDS.items(), ("kohya", "diffusers", "kohya"), strict=True):
        write_adapter(folder / f"{name}.safetensors", made[kind], file_format=form, family=engine.base.family)  # type: ignore[arg-type]
    return folder


Serve = Callable[..., contextlib.AbstractContextManager[Served]]


@contextlib.contextmanager
def serving(
    engine: Any,
    shelf: Path,
    state: Path,
    *,
    policy: Policy | None = None,
    signer: Signs | None = None,
    **settings: Any,
) -> Iterator[Served]:
    """A server in this process."""
    limits = LimitsSpec(**settings.pop("limits", {}))
    spec = ServeSpec(limits=limits, **{"adapters": shelf, "state": state, "stop_s": 5.0, **settings})
    store, hub = JobStore(spec.state), Hub()
    service = Service(spec, store, policy=policy, signer=signer, on_change=hub.tell)
    keys = KeyRing(spec.state)

    def load() -> None:
        service.start(engine, dtype="fp32")

    app = make_app(spec, service, hub, keys, load=load)
    try:
        with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as http:
            eventually(lambda: http.get("/readyz").status_code == 200, timeout_s=60)
            yield Served(http, service, keys, spec, app)
    finally:
        store.close()


@pytest.fixture
def serve(engine: PictureEngine, shelf_folder: Path, tmp_path: Path) -> Serve:
    """Serve with some settings, in a state folder of this test."""

    def run(*, adapters: Path = shelf_folder, **settings: Any) -> contextlib.AbstractContextManager[Served]:
        return serving(engine, adapters, tmp_path / "state", **settings)

    return run


@pytest.fixture
def served(serve: Serve) -> Iterator[Served]:
    with serve() as running:
        yield running


@pytest.fixture(scope="module")
def shared(
    engine: PictureEngine, shelf_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """One server for the tests of a module that leave nothing open."""
    with serving(engine, shelf_folder, tmp_path_factory.mktemp("shared")) as running:
        yield running
