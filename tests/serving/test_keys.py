"""Who may do what; nothing of one key is seen, changed or interrupted by another."""

import base64
import functools
from pathlib import Path
from typing import Any

import pytest

from detour.errors import ConfigError
from detour.generation.engine import PictureEngine
from detour.serving.guard import is_loopback, require_key
from detour.serving.keys import KeyRing
from detour.serving.settings import ServeSpec
from tests.serving.conftest import Serve, Served, eventually

QUICK = {"prompts": ["a cat"], "steps": 2}


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def test_a_key_is_kept_as_a_hash_and_found_again(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path)
    key = ring.add("ada", scopes=("draw", "review"), per_day=5)
    text = ring.path.read_text()
    assert key not in text
    assert key.removeprefix("detour_") not in text
    assert ring.path.stat().st_mode & 0o077 == 0
    found = KeyRing(tmp_path).find(key)
    assert found is not None
    assert (found.name, found.scopes, found.per_day) == ("ada", ("draw", "review"), 5)
    assert ring.find(key + "x") is None
    assert ring.find("") is None


def test_names_of_keys_are_taken_once_and_removed_keys_are_unknown(tmp_path: Path) -> None:
    ring, running = KeyRing(tmp_path), KeyRing(tmp_path)
    key = ring.add("ada")
    assert running.find(key) is not None, "a running server notices"
    with pytest.raises(ConfigError, match="there is a key 'ada'"):
        ring.add("ada")
    ring.remove("ada")
    assert running.find(key) is None
    with pytest.raises(ConfigError, match="no key 'ada'"):
        ring.remove("ada")


def test_a_key_is_needed_where_it_is_required_and_each_way_of_sending_it_works(serve: Serve) -> None:
    with serve(require_key=True) as served:
        key, other = served.keys.add("ada"), served.keys.add("ops", scopes=("admin",))
        pair = base64.b64encode(f"user:{key}".encode()).decode()
        for headers in (bearer(key), {"x-api-key": key}, {"authorization": f"Basic {pair}"}):
            assert served.http.get("/v1/jobs", headers=headers).status_code == 200
        for headers in ({}, bearer("wrong"), {"authorization": "Basic !!"}, {"x-api-key": key[:-1]}):
            answer = served.http.get("/v1/jobs", headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
        for path in ("/docs", "/openapi.json", "/metrics", "/v1/models", "/sdapi/v1/options"):
            assert served.http.get(path).status_code == 401, path
        assert served.http.get("/metrics", headers=bearer(key)).status_code == 403
        assert served.http.get("/metrics", headers=bearer(other)).status_code == 200
        assert served.http.get("/healthz").status_code == 200


def test_browsers_get_no_icon_and_no_question_for_a_key(serve: Serve) -> None:
    with serve(require_key=True) as served:
        answer = served.http.get("/favicon.ico")
        assert (answer.status_code, answer.content) == (204, b"")
        assert served.http.get("/favicon.ico", headers={"host": "evil.example"}).status_code == 403


def test_on_loopback_no_key_is_needed_but_a_wrong_one_is_told(serve: Serve) -> None:
    with serve() as served:
        assert served.http.get("/v1/jobs", headers=bearer("sk-anything")).status_code == 200
        served.keys.add("ada")
        assert served.http.get("/v1/jobs").status_code == 200
        assert served.http.get("/v1/jobs", headers=bearer("sk-anything")).status_code == 401


@pytest.mark.parametrize(
    ("host", "inside"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False)],
)
def test_which_addresses_are_loopback(host: str, inside: bool) -> None:
    assert is_loopback(host) is inside


@pytest.mark.parametrize(("host", "refused"), [("127.0.0.1", False), ("0.0.0.0", True)])
def test_an_address_that_others_reach_needs_a_key(tmp_path: Path, host: str, refused: bool) -> None:
    spec, keys = ServeSpec(host=host, state=tmp_path), KeyRing(tmp_path)
    if refused:
        with pytest.raises(
            ConfigError, match=f"--host {host} can be reached .* detour serve key add NAME --state {tmp_path}"
        ):
            require_key(spec, keys, said=f"--host {host}")
    else:
        require_key(spec, keys, said=f"--host {host}")
    keys.add("ada")
    require_key(spec, KeyRing(tmp_path), said=f"--host {host}")


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8188", "localhost.evil.example", "", "127.0.0.1.evil"]
)
def test_a_foreign_host_name_is_turned_away(shared: Served, host: str) -> None:
    answer = shared.http.get("/v1/jobs", headers={"host": host})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "bad_host")


def test_a_page_of_another_origin_is_turned_away_and_a_named_one_is_not(serve: Serve) -> None:
    with serve(allow_hosts=("gpu.example",), allow_origins=("https://studio.example",)) as served:
        for origin, status in (
            ("http://evil.example", 403),
            ("null", 403),
            ("http://localhost:1", 403),
            ("http://localhost", 202),
            ("https://studio.example", 202),
        ):
            assert served.post("/v1/jobs", QUICK, origin=origin).status_code == status, origin
        assert served.http.get("/v1/jobs", headers={"host": "gpu.example"}).status_code == 200


def test_a_spent_quota_is_told_and_not_to_be_tried_again(serve: Serve) -> None:
    with serve() as served:
        key = served.keys.add("ada", per_day=2)
        for _ in range(2):
            served.job(QUICK, **bearer(key))
        answer = served.post("/v1/jobs", QUICK, **bearer(key))
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, "quota_spent")
        assert answer.headers["x-should-retry"] == "false"
        assert "retry-after" not in answer.headers
        served.job(QUICK)


def test_a_key_without_the_scope_cannot_draw(serve: Serve) -> None:
    with serve() as served:
        key = served.keys.add("eve", scopes=("review",))
        assert served.post("/v1/jobs", QUICK, **bearer(key)).status_code == 403


def test_nothing_of_one_key_is_known_to_another(serve: Serve, engine: PictureEngine) -> None:
    with serve() as served:
        ada, eve = bearer(served.keys.add("ada")), bearer(served.keys.add("eve"))
        with engine.paused():
            job = served.job({**QUICK, "steps": 3}, **ada, idempotency_key="same")
            for method, path in (
                ("GET", ""), ("GET", "/events"), ("DELETE", ""), ("POST", "/cancel"),
            ):  # fmt: skip
                for headers in (eve, {}):
                    answer = served.http.request(method, f"/v1/jobs/{job['id']}{path}", headers=headers)
                    unknown = served.http.request(method, f"/v1/jobs/{'x' * 32}{path}", headers=headers)
                    assert answer.status_code == 404, (method, path)
                    assert answer.json() == unknown.json()
            assert served.http.get("/v1/jobs", headers=eve).json() == []
            own = served.job({**QUICK, "steps": 2}, **eve, idempotency_key="same")
            assert own["id"] != job["id"]
        assert served.done(job["id"], **ada)["state"] == "done"


def test_progress_interrupt_and_options_of_one_key_are_its_own(serve: Serve, engine: PictureEngine) -> None:
    import threading

    with serve() as served:
        ada, eve = bearer(served.keys.add("ada")), bearer(served.keys.add("eve"))
        served.post("/sdapi/v1/options", {"sd_model_checkpoint": f"{served.service.base.name}+style"}, **ada)
        theirs = served.http.get("/sdapi/v1/options", headers=eve).json()
        assert theirs["sd_model_checkpoint"] == served.service.base.name
        answers: list[Any] = []

        def draw() -> None:
            answers.append(served.post("/sdapi/v1/txt2img", {"prompt": "a cat", "steps": 2}, **ada))

        with engine.paused():
            thread = threading.Thread(target=draw)
            thread.start()
            progress = functools.partial(served.http.get, "/sdapi/v1/progress", headers=ada)
            eventually(lambda: progress().json()["state"]["job_count"] > 0)
            assert served.http.get("/sdapi/v1/progress", headers=eve).json()["state"]["job_count"] == 0
            assert served.post("/sdapi/v1/interrupt", None, **eve).json() == {}
        thread.join(60)
        assert answers[0].status_code == 200, answers[0].text
        assert "style" in answers[0].headers["x-detour-adapters"]
