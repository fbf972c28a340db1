"""The unmodified ``openai`` package against a live server on loopback."""

import base64
import contextlib
import io
import socket
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import uvicorn
from PIL import Image

from detour.generation.engine import PictureEngine
from detour.serving.app import make_app
from detour.serving.keys import KeyRing
from detour.serving.policy import Allowed, NoPolicy, Refused
from detour.serving.service import Service
from detour.serving.settings import LimitsSpec, ServeSpec
from detour.serving.store import JobStore
from detour.serving.watching import Hub
from tests.serving.conftest import eventually


class NoCrowns(NoPolicy):
    """Refuses a word."""

    def check_request(self, request: Any, *, triggers: Any = (), references: Any = ()) -> Any:
        crowned = any("crown" in prompt for prompt in request.prompts)
        refused = Refused(code="terms", cause="no crowns here")
        return tuple(refused if crowned else Allowed() for _ in request.prompts)


@contextlib.contextmanager
def live(engine: Any, shelf: Path, state: Path, **limits: Any) -> Iterator[tuple[str, Service, KeyRing]]:
    """A server on a free port of loopback; its address."""
    spec = ServeSpec(adapters=shelf, state=state, stop_s=5.0, limits=LimitsSpec(**limits))
    store, hub, keys = JobStore(state), Hub(), KeyRing(state)
    service = Service(spec, store, policy=NoCrowns(), on_change=hub.tell)

    def load() -> None:
        service.start(engine, dtype="fp32")

    app = make_app(spec, service, hub, keys, load=load)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="none", timeout_graceful_shutdown=2))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            eventually(lambda: service.is_ready, timeout_s=60)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", service, keys
        finally:
            server.should_exit = True
            thread.join()
            store.close()


@pytest.fixture(scope="module")
def running(
    engine: PictureEngine, shelf_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Service, KeyRing]]:
    with live(engine, shelf_folder, tmp_path_factory.mktemp("live")) as made:
        yield made


@pytest.fixture(scope="module")
def client(running: tuple[str, Service, KeyRing]) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{running[0]}/v1", api_key="sk-any", max_retries=0) as made:
        yield made


QUICK = {"seed": 4, "num_inference_steps": 2}


def decoded(text: str | None) -> Image.Image:
    assert text is not None
    return Image.open(io.BytesIO(base64.b64decode(text)))


def test_models_are_the_base_and_the_base_with_each_adapter(client: openai.OpenAI, running: Any) -> None:
    base = running[1].base.name
    names = [model.id for model in client.models.list()]
    assert names == [base, f"{base}+sketch", f"{base}+style", f"{base}+word"]


@pytest.mark.parametrize("form", ["png", "jpeg", "webp"])
def test_pictures_as_base64_in_each_format(client: openai.OpenAI, form: Any) -> None:
    answer = client.images.generate(
        prompt="a cat", model="gpt-image-1", n=2, size="64x64", output_format=form, extra_body=QUICK
    )
    assert answer.data is not None
    assert [decoded(one.b64_json).format for one in answer.data] == [form.upper()] * 2
    assert [one.seed for one in answer.data] == [4, 5]  # type: ignore[attr-defined]
    assert (answer.output_format, answer.size) == (form, "64x64")


def test_pictures_as_addresses_that_need_no_header(client: openai.OpenAI) -> None:
    answer = client.images.generate(prompt="a cat", model="dall-e-3", extra_body=QUICK)
    assert answer.data is not None
    url = answer.data[0].url
    assert url is not None
    assert url.startswith("http://127.0.0.1:")
    with urllib.request.urlopen(url) as stream:
        assert Image.open(io.BytesIO(stream.read())).size == (64, 64)


def test_an_adapter_by_field_by_model_and_by_tag_is_the_same_picture(
    client: openai.OpenAI, running: Any
) -> None:
    base = running[1].base.name
    asked: list[dict[str, Any]] = [
        {"prompt": "a cat", "extra_body": {**QUICK, "lora": {"name": "style", "scale": 0.8}}},
        {"prompt": "a cat", "extra_body": {**QUICK, "lora": [{"name": "style", "scale": 0.8}]}},
        {"prompt": "a cat", "model": f"{base}+style:0.8", "extra_body": QUICK},
        {"prompt": "a cat <lora:style:0.8>", "extra_body": QUICK},
        {"prompt": "a cat", "extra_body": QUICK},
    ]
    found = []
    for one in asked:
        answer = client.images.generate(**one)
        assert answer.data is not None
        found.append(decoded(answer.data[0].b64_json).tobytes())
    assert found[0] == found[1] == found[2] == found[3] != found[4]


def test_a_stream_brings_previews_and_then_the_picture(client: openai.OpenAI) -> None:
    extra = {"seed": 4, "num_inference_steps": 12}
    events = list(client.images.generate(prompt="a cat", stream=True, partial_images=2, extra_body=extra))
    assert [event.type for event in events][-1] == "image_generation.completed"
    partial = [event for event in events if event.type == "image_generation.partial_image"]
    assert [event.partial_image_index for event in partial] == list(range(len(partial)))
    assert decoded(events[-1].b64_json).size == (64, 64)


def test_refusals_come_as_the_errors_that_the_package_knows(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as blocked:
        client.images.generate(prompt="a crown", extra_body=QUICK)
    assert (blocked.value.code, blocked.value.type) == ("moderation_blocked", "image_generation_user_error")
    with pytest.raises(openai.NotFoundError) as missing:
        client.images.generate(prompt="a cat", model="sdxl", extra_body=QUICK)
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as wrong:
        client.images.generate(prompt="a cat", size="big", extra_body=QUICK)  # type: ignore[call-overload]
    assert wrong.value.param == "size"
    with pytest.raises(openai.BadRequestError) as many:
        client.images.generate(prompt="a cat", n=11, extra_body=QUICK)
    assert many.value.param == "n"
    with pytest.raises(openai.NotFoundError):
        client.images.generate(prompt="a cat", extra_body={**QUICK, "lora": {"name": "../style"}})


def test_a_spent_quota_is_not_asked_for_again_and_an_unknown_key_is_told(
    engine: PictureEngine, shelf_folder: Path, tmp_path: Path
) -> None:
    with live(engine, shelf_folder, tmp_path) as (address, service, keys):
        key = keys.add("ada", per_day=1)
        with openai.OpenAI(base_url=f"{address}/v1", api_key=key, max_retries=2) as client:
            client.images.generate(prompt="a cat", extra_body=QUICK)
            with pytest.raises(openai.RateLimitError) as spent:
                client.images.generate(prompt="a cat", extra_body=QUICK)
            assert spent.value.code == "quota_spent"
        assert service.counts.refused == {"quota_spent": 1}
        wrong = openai.OpenAI(base_url=f"{address}/v1", api_key="wrong", max_retries=0)
        with wrong, pytest.raises(openai.AuthenticationError):
            wrong.models.list()


def test_what_a_client_that_has_gone_asked_for_is_never_drawn(
    engine: PictureEngine, shelf_folder: Path, tmp_path: Path
) -> None:
    with live(engine, shelf_folder, tmp_path) as (address, service, _):
        with engine.paused(), openai.OpenAI(base_url=f"{address}/v1", api_key="k", max_retries=0) as client:
            with pytest.raises(openai.APITimeoutError):
                client.images.generate(prompt="a cat", timeout=0.5, extra_body=QUICK)
            eventually(
                lambda: service.store.jobs_of("local", limit=5) != []
            )  # maybe after its client has gone
            eventually(lambda: not service.dispatcher.work)
        (job,) = service.store.jobs_of("local", limit=5)
        assert (job.state, job.pictures[0].cause) == ("cancelled", "its client has gone")
