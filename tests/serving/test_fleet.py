"""A fleet without Ray: the owner of the jobs and its replicas, told apart by pickled messages, and killed."""

import asyncio
import contextlib
import pickle
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from detour.bases.base import open_base
from detour.diffusion.safe_latent import safe_guidance
from detour.errors import ConfigError, DetourError
from detour.files import sha256_of
from detour.generation.engine import PictureEngine
from detour.generation.requests import AdapterFile, AdapterInUse, PictureRequest
from detour.serving.fleet.drawer import Drawer
from detour.serving.fleet.messages import Message, Order, ReplicaLost, StepDone
from detour.serving.fleet.remote_engine import MOST_LOSSES, RemoteEngine
from detour.serving.jobs import Job
from detour.serving.keys import LOCAL
from detour.serving.requests import ClientRequest
from detour.serving.service import Service
from detour.serving.settings import ServeSpec
from detour.serving.starts import AskedStart
from detour.serving.store import JobStore
from detour.specs.generation import PictureSpec
from tests.serving.conftest import eventually
from tests.serving.test_references import file_of

DRAWN_S = 180.0


class Replicas:
    """Drawers that are reached with pickled messages; the seed of an order says to which of those that live."""

    def __init__(self, engine: PictureEngine, folder: Path, num: int = 2) -> None:
        self.drawers = [Drawer(engine, folder / f"replica-{index}") for index in range(num)]
        self.dead: set[int] = set()
        self.held = False
        """While it holds, an order is begun and not drawn; afterwards whoever had it is lost."""
        self.dies_after: Callable[[int, Message], bool] = lambda *_: False
        self.log: list[tuple[int, str]] = []

    async def ask(self, order: Order) -> AsyncGenerator[Message, None]:
        if self.held:
            while self.held:
                await asyncio.sleep(0.005)
            raise ReplicaLost("killed")
        alive = [index for index in range(len(self.drawers)) if index not in self.dead]
        if not alive:
            raise ReplicaLost("nobody lives")
        number = alive[order.request.seed % len(alive)]
        order = pickle.loads(pickle.dumps(order))
        async with contextlib.aclosing(self.drawers[number].draw(order)) as messages:
            async for message in messages:
                if number in self.dead:
                    raise ReplicaLost("killed")
                self.log.append((number, type(message).__name__))
                yield pickle.loads(pickle.dumps(message))
                if self.dies_after(number, message):
                    self.dead.add(number)
                    raise ReplicaLost("killed")


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    thread = threading.Thread(target=made.run_forever)
    thread.start()
    yield made
    made.call_soon_threadsafe(made.stop)
    thread.join()
    made.close()


@pytest.fixture
def replicas(engine: PictureEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Replicas:
    monkeypatch.setattr("detour.serving.fleet.remote_engine.PAUSE_S", (0.001, 0.001))
    return Replicas(engine, tmp_path)


@pytest.fixture
def remote(replicas: Replicas, loop: asyncio.AbstractEventLoop, tiny_base: Path) -> RemoteEngine:
    return RemoteEngine(open_base(str(tiny_base)), replicas.ask, loop, device="cpu")


class Owner:
    """The owner of the jobs, as ``Front`` makes it."""

    def __init__(self, folder: Path, shelf: Path, remote: RemoteEngine) -> None:
        spec = ServeSpec(adapters=shelf, state=folder, stop_s=5.0)
        self.store = JobStore(folder)
        self.service = Service(spec, self.store)
        self.service.start(remote, dtype="fp32", num_engines=2)

    def accept(self, **values: Any) -> Job:
        asked = {"prompts": ("a cat", "a dog"), "seed": 3, "steps": 3, "adapters": (("style", 1.0),)}
        return self.service.accept(LOCAL, ClientRequest(**{**asked, **values}))[0]

    def done(self, job: Job) -> Job:
        eventually(lambda: not self._now(job).is_open, timeout_s=DRAWN_S)
        return self._now(job)

    def _now(self, job: Job) -> Job:
        found = self.store.job(job.id)
        assert found is not None
        return found

    def pixels(self, job: Job) -> list[bytes]:
        return [Image.open(self.store.path_of(one.token)).tobytes() for one in job.pictures]

    def die(self) -> None:
        """End without a word to the store: what was accepted stays as it was."""
        self.service.dispatcher._stopping.set()
        self.store.close()


@pytest.fixture
def begin(remote: RemoteEngine, shelf_folder: Path, tmp_path: Path) -> Iterator[Callable[[], Owner]]:
    made: list[Owner] = []

    def owner() -> Owner:
        made.append(Owner(tmp_path / "state", shelf_folder, remote))
        return made[-1]

    yield owner
    with contextlib.suppress(DetourError):
        made[-1].service.stop()
    made[-1].store.close()


def test_pictures_of_replicas_are_those_of_one_server(
    begin: Callable[[], Owner], replicas: Replicas, engine: PictureEngine, shelf_folder: Path, tmp_path: Path
) -> None:
    owner = begin()
    photo = np.random.default_rng(1).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    start = AskedStart(picture=file_of(photo), mask=file_of(np.indices((64, 64))[1].astype(np.uint8) * 4))
    job = owner.done(owner.accept(start=start))
    assert [one.state for one in job.pictures] == ["done", "done"]
    assert {number for number, kind in replicas.log if kind == "Finished"} == {0, 1}
    assert "Missing" in [kind for _, kind in replicas.log], "adapter files came with the order"
    alone = JobStore(tmp_path / "alone")
    service = Service(ServeSpec(adapters=shelf_folder, state=tmp_path / "alone"), alone)
    service.start(engine, dtype="fp32")
    asked = ClientRequest(
        prompts=("a cat", "a dog"), seed=3, steps=3, adapters=(("style", 1.0),), start=start
    )
    same = service.accept(LOCAL, asked)[0]
    eventually(lambda: not alone.job(same.id).is_open, timeout_s=DRAWN_S)  # type: ignore[union-attr]
    assert [Image.open(alone.path_of(one.token)).tobytes() for one in same.pictures] == owner.pixels(job)
    service.stop()
    alone.close()


def test_what_a_dying_replica_had_is_drawn_by_another_with_the_same_pixels(
    begin: Callable[[], Owner], replicas: Replicas
) -> None:
    owner = begin()
    expected = owner.pixels(owner.done(owner.accept()))
    replicas.dies_after = lambda number, message: number == 0 and isinstance(message, StepDone)
    again = owner.done(owner.accept())
    assert replicas.dead == {0}
    assert [one.state for one in again.pictures] == ["done", "done"]
    assert owner.pixels(again) == expected


def test_the_owner_dies_and_everything_that_was_accepted_is_drawn_once(
    begin: Callable[[], Owner], replicas: Replicas
) -> None:
    owner = begin()
    expected = owner.pixels(owner.done(owner.accept()))
    replicas.held = True  # so that the owner dies with a job that is begun and not drawn
    lost = owner.accept()
    eventually(lambda: owner._now(lost).state == "drawing")
    owner.die()
    replicas.held = False
    again = begin()
    drawn = again.done(lost)
    assert [one.state for one in drawn.pictures] == ["done", "done"]
    assert again.pixels(drawn) == expected
    assert len(list(again.store.pictures.glob("*.png"))) == 4


def test_a_picture_that_kills_every_replica_fails_alone(
    begin: Callable[[], Owner], replicas: Replicas
) -> None:
    def ask(order: Order) -> AsyncGenerator[Message, None]:
        if order.request.prompt == "a bomb":
            return killed()
        return plain(order)

    async def killed() -> AsyncGenerator[Message, None]:
        raise ReplicaLost("ActorDiedError")
        yield

    owner = begin()
    plain = replicas.ask
    owner.service._engine._ask = ask  # type: ignore[union-attr]
    job = owner.done(owner.accept(prompts=("a bomb", "a dog")))
    assert [one.state for one in job.pictures] == ["failed", "done"]
    assert job.pictures[0].cause is not None
    assert f"{MOST_LOSSES} replicas died" in job.pictures[0].cause


def test_a_cancelled_job_is_dropped_at_its_replica(
    begin: Callable[[], Owner], engine: PictureEngine, replicas: Replicas
) -> None:
    owner = begin()
    job = owner.accept(prompts=("a cat",), steps=150)
    eventually(lambda: any(kind == "StepDone" for _, kind in replicas.log), timeout_s=DRAWN_S)
    owner.service.cancel(LOCAL, job.id)
    eventually(lambda: engine._scheduler.num_waiting == 0 and owner.service.num_drawing == 0)
    count = len(replicas.log)
    assert owner.done(job).state == "cancelled"
    eventually(lambda: len(replicas.log) <= count + 1)


def test_what_a_replica_cannot_draw_fails_with_its_cause_and_is_asked_once(
    remote: RemoteEngine, replicas: Replicas, tmp_path: Path
) -> None:
    file = tmp_path / "broken.safetensors"
    file.write_bytes(b"no adapter")
    used = AdapterInUse(adapter=AdapterFile(path=file, sha256="0" * 64), sha256="0" * 64)
    handle = remote.submit(PictureRequest(prompt="a cat", seed=1, adapters=(used,), how=PictureSpec(steps=1)))
    with pytest.raises(DetourError, match="adapter"):
        handle.future.result(DRAWN_S)
    assert [kind for _, kind in replicas.log] == ["Missing", "Missing", "Failed"][-len(replicas.log) :]


def test_orders_can_be_pickled_with_the_guidance_of_a_policy() -> None:
    request = PictureRequest(
        prompt="a cat", seed=1, guidance=safe_guidance("medium"), further_texts=("a crown",)
    )
    again = pickle.loads(pickle.dumps(Order(request=request, owner="me"))).request
    assert again.guidance is not None
    assert vars(again.guidance(5.0)) == vars(safe_guidance("medium")(5.0))


def test_a_replica_reads_adapters_from_its_own_folder(
    remote: RemoteEngine, replicas: Replicas, shelf_folder: Path, tmp_path: Path
) -> None:
    file = tmp_path / "other.safetensors"  # one that the engine has not prepared for another test
    with safe_open(shelf_folder / "style.safetensors", "pt") as stream:
        tensors = {name: 2 * stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
        save_file(tensors, file, stream.metadata())
    sha256, plain = sha256_of(file), replicas.ask

    def elsewhere(order: Order) -> AsyncGenerator[Message, None]:
        """The order as another machine has it: the owner's paths lead nowhere there."""
        nowhere = AdapterFile(path=Path("/nowhere/other.safetensors"), sha256=sha256)
        used = (AdapterInUse(adapter=nowhere, sha256=sha256),)
        return plain(replace(order, request=replace(order.request, adapters=used)))

    remote._ask = elsewhere
    used = AdapterInUse(adapter=AdapterFile(path=file, sha256=sha256), sha256=sha256)
    request = PictureRequest(prompt="a cat", seed=1, adapters=(used,), how=PictureSpec(steps=1))
    assert remote.submit(request).future.result(DRAWN_S).pixels.size
    assert [kind for _, kind in replicas.log] == ["Missing", "StepDone", "Finished"]


def test_a_fleet_takes_no_reference_pictures(remote: RemoteEngine) -> None:
    request = PictureRequest(prompt="a cat", seed=1, references=(object(),))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="reference"):
        remote.submit(request)
