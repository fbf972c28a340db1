"""The page of reviewers: who gets it, and what a page of another site cannot do with a reviewer's browser."""

import contextlib
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn

from detour.serving.policy import ReviewRules
from detour.serving.sessions import COOKIE, LIFE_S, Sessions
from detour.verbs.safety import check_safety_log
from tests.serving.browser import CHROMIUM, Page, browser
from tests.serving.conftest import Serve, Served
from tests.serving.test_reviews import TWO, HoldsAll, bearer

ORIGIN = "http://localhost"


@pytest.fixture
def locked(serve: Serve) -> Iterator[Served]:
    with serve(policy=HoldsAll(), require_key=True) as served:
        yield served


def sign_in(served: Served, key: str, origin: str = ORIGIN) -> str:
    answer = served.post("/review/session", {"key": key}, origin=origin)
    assert answer.status_code == 200, answer.text
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    token: str = answer.json()["csrf"]
    return token


def test_the_page_runs_nothing_inline_and_nothing_from_elsewhere(locked: Served) -> None:
    answer = locked.http.get("/review")
    policy = answer.headers["content-security-policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert not re.search(r"<script(?![^>]*src=)|<style|\sstyle=|\son[a-z]+=|https?://", answer.text)
    for name in re.findall(r'(?:src|href)="([^"]+)"', answer.text):
        part = locked.http.get(name)
        assert part.status_code == 200, name
        assert part.headers["x-content-type-options"] == "nosniff"
        assert "innerHTML" not in part.text
    assert locked.http.get("/review/other.js").status_code == 404


def test_a_session_sees_the_queue_and_decides_with_its_token_alone(locked: Served) -> None:
    drawer, key = bearer(locked.keys.add("ada")), locked.keys.add("eve", scopes=("review",))
    job = locked.done(locked.job(TWO, **drawer)["id"], **drawer)
    token = sign_in(locked, key)
    assert locked.http.get("/review").status_code == 200
    assert locked.http.get("/review/session").json()["csrf"] == token
    assert len(locked.http.get("/v1/reviews").json()) == 2
    assert locked.http.get(f"/v1/reviews/{job['id']}/0/picture").status_code == 200
    path = f"/v1/reviews/{job['id']}/0"
    for headers in ({}, {"origin": ORIGIN}, {"x-csrf-token": token[:-1]}, {"x-csrf-token": "ü"}):
        answer = locked.http.post(
            path, json={"release": True}, headers={k: v.encode() for k, v in headers.items()}
        )
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "csrf"), headers
    for origin in ("http://evil.example", "null"):
        answer = locked.post(path, {"release": True}, origin=origin, x_csrf_token=token)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "bad_origin")
    form = locked.http.post(path, data={"release": "true"}, headers={"x-csrf-token": token})
    assert form.status_code == 415
    assert locked.http.get("/v1/jobs").status_code == 401, "the cookie is good for reviews alone"
    assert locked.http.get("/metrics").status_code == 401
    assert locked.post(path, {"release": True}, origin=ORIGIN, x_csrf_token=token).json()["state"] == "done"


def test_signing_out_removing_the_key_and_time_end_a_session(locked: Served) -> None:
    key = locked.keys.add("eve", scopes=("review",))
    token = sign_in(locked, key)
    assert locked.http.delete("/review/session").status_code == 403
    assert locked.http.delete("/review/session", headers={"x-csrf-token": token}).status_code == 204
    assert locked.http.get("/v1/reviews").status_code == 401
    sign_in(locked, key)
    assert locked.http.get("/v1/reviews").status_code == 200
    locked.keys.remove("eve")
    assert locked.http.get("/v1/reviews").status_code == 401
    clock = [0.0]
    sessions = Sessions(now=lambda: clock[0])
    name, made = sessions.begin("some key")
    assert sessions.find(name) == made
    clock[0] = LIFE_S
    assert sessions.find(name) is None


def test_who_may_not_review_cannot_sign_in(locked: Served) -> None:
    for key, status in ((locked.keys.add("ada"), 403), ("wrong", 401), ("", 401)):
        answer = locked.post("/review/session", {"key": key}, origin=ORIGIN)
        assert answer.status_code == status
        assert COOKIE not in answer.cookies
    key = locked.keys.add("eve", scopes=("review",))
    assert locked.post("/review/session", {"key": key}, origin="http://evil.example").status_code == 403


def test_on_loopback_nobody_signs_in_but_a_browser_still_shows_its_token(serve: Serve) -> None:
    with serve(policy=HoldsAll()) as served:
        job = served.done(served.job(TWO)["id"])
        path = f"/v1/reviews/{job['id']}/0"
        assert served.http.get("/review").status_code == 200
        assert served.post(path, {"release": True}, origin=ORIGIN).json()["error"]["code"] == "csrf"
        token = sign_in(served, "")
        assert (
            served.post(path, {"release": True}, origin=ORIGIN, x_csrf_token=token).json()["state"] == "done"
        )
        served.http.cookies.clear()
        assert served.post(f"/v1/reviews/{job['id']}/1", {"release": False}).json()["state"] == "refused"


class AsksForTwo(HoldsAll):
    """Holds every picture for two people."""

    rules = ReviewRules(two_persons=True)


@contextlib.contextmanager
def listening(served: Served) -> Iterator[str]:
    """The address of a server in this process, for a browser."""
    server = uvicorn.Server(uvicorn.Config(served.app, port=0, lifespan="off", log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.02)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def is_shown(what: str) -> str:
    picture = "document.getElementById('picture')"
    return f"{picture}.src.endsWith('/{what}') && {picture}.complete && {picture}.naturalWidth > 0"


def says(words: str) -> str:
    return f"document.getElementById('said').textContent.includes('{words}')"


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_in_a_browser_each_key_is_one_decision_and_prompts_are_text(serve: Serve, tmp_path: Path) -> None:
    hostile = "<img src=x onerror=\"document.title='run'\"><script>document.title='run'</script>"
    with serve(policy=AsksForTwo(), require_key=True) as served, listening(served) as url:
        ada = bearer(served.keys.add("ada"))
        eve, bob = (served.keys.add(name, scopes=("review",)) for name in ("eve", "bob"))
        body = {"prompts": [hostile, "a dog", "a cat"], "steps": 2}
        job = served.done(served.job(body, **ada)["id"], **ada)
        with browser(tmp_path / "profile") as page:
            begin(page, url, eve)
            assert page.run("document.getElementById('prompt').textContent") == hostile
            page.press("s")
            page.wait("document.getElementById('prompt').textContent === 'a dog'")
            press_in_time(page, "r")
            page.wait(is_shown("picture"))
            page.wait(says("Look first"))
            page.press("b")
            page.wait(is_shown("blurred"))
            page.press("x", modifiers=2)  # Ctrl
            page.press("b")
            page.wait(is_shown("picture"))
            page.press("r")
            page.wait(says("A second person"))
            page.wait("document.getElementById('prompt').textContent === 'a cat'")
            press_in_time(page, "x")
            page.wait(says("Refused"))
            page.wait(f"document.getElementById('prompt').textContent === {hostile!r}")
            assert page.run("document.title") == "Held pictures"
            assert page.run("document.querySelectorAll('main img, main script').length") == 1
            assert not [
                one for one in page.told if "Content Security Policy" in one or "exceptionThrown" in one
            ]
            page.run("document.getElementById('sign-out').click()")
            page.wait("!document.getElementById('sign-in').hidden")
            begin(page, url, bob, width=390)
            assert page.run("document.documentElement.scrollWidth <= innerWidth")
            press_in_time(page, "s")
            page.wait("document.getElementById('prompt').textContent === 'a dog'")
            press_in_time(page, "b")
            page.wait(is_shown("picture"))
            page.press("r")
            page.wait(says("Released"))
        states = [
            one["state"] for one in served.http.get(f"/v1/jobs/{job['id']}", headers=ada).json()["pictures"]
        ]
        assert states == ["held", "done", "refused"]
        decisions = [one["kind"] for one in check_safety_log(served.spec.state).entries if "state" in one]
        assert decisions == ["release", "refuse", "release"]


def begin(page: Page, url: str, key: str, *, width: int = 1200) -> None:
    page.open(f"{url}/review", width=width)
    page.wait("!document.getElementById('sign-in').hidden")
    page.run(f"document.getElementById('key').value = '{key}'")
    page.run("document.querySelector('#sign-in button').click()")
    page.wait(is_shown("blurred"))


def press_in_time(page: Page, key: str) -> None:
    """Press a key when the pause after a new picture is over."""
    time.sleep(0.4)
    page.press(key)
