"""A held picture reaches its client after people released it, and nobody else before."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detour.serving.jobs import JobRequest
from detour.serving.policy import Held, NoPolicy, PictureDecision, ReviewRules
from detour.verbs.safety import check_safety_log
from tests.serving.conftest import Serve, Served

TWO = {"prompts": ["a cat", "a dog"], "steps": 2}


class HoldsAll(NoPolicy):
    """Holds every picture for a person."""

    version = "holds"
    checks_pictures = True

    def check_picture(
        self, picture: np.ndarray, request: JobRequest, *, flagged: bool | None = None
    ) -> PictureDecision:
        return Held(cause="a dog, perhaps")


class AsksTwo(HoldsAll):
    """Holds every picture for two people."""

    rules = ReviewRules(two_persons=True, prompts="hash")


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def held_of(served: Served, **headers: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = served.http.get("/v1/reviews", headers=headers).json()
    return found


def decided(served: Served, one: dict[str, Any], release: bool, **headers: str) -> Any:
    return served.post(f"/v1/reviews/{one['job']}/{one['number']}", {"release": release}, **headers)


def kinds(state: Path) -> list[str]:
    return [one["kind"] for one in check_safety_log(state).entries]


def test_released_pictures_are_seen_and_refused_ones_never(serve: Serve) -> None:
    with serve(policy=HoldsAll()) as served:
        job = served.done(served.job(TWO)["id"])
        assert [one["state"] for one in job["pictures"]] == ["held", "held"]
        assert all(one["url"] is None and "dog" not in (one["cause"] or "") for one in job["pictures"])
        first, second = held_of(served)
        assert (first["prompt"], second["prompt"]) == ("a cat", "a dog")
        assert first["cause"] == "a dog, perhaps"
        shown = served.http.get(first["url"])
        size = (job["request"]["width_px"], job["request"]["height_px"])
        assert Image.open(io.BytesIO(shown.content)).size == size
        blurred = served.http.get(first["url"].replace("/picture", "/blurred"))
        assert max(Image.open(io.BytesIO(blurred.content)).size) <= 8

        path = f"/v1/reviews/{first['job']}/{first['number']}"
        lone = served.http.post(
            path,
            content=b'{"release": true, "cause": "\\ud800"}',
            headers={"content-type": "application/json"},
        )
        assert lone.status_code == 422
        for one, release in ((first, True), (second, False)):
            assert decided(served, one, release).json()["state"] == ("done" if release else "refused")
            assert decided(served, one, True).status_code == 409
        assert held_of(served) == []
        for what in ("picture", "blurred"):
            assert served.http.get(first["url"].replace("picture", what)).status_code == 404
        cat, dog = served.http.get(f"/v1/jobs/{job['id']}").json()["pictures"]
        assert served.http.get(cat["url"]).content == shown.content
        assert (dog["state"], dog["url"], dog["code"]) == ("refused", None, "review")
        assert len(list((served.spec.state / "pictures").glob("*.png"))) == 1, "a refused picture is deleted"
        assert kinds(served.spec.state) == ["picture-held", "picture-held", "seen", "release", "refuse"]


def test_only_a_reviewers_key_sees_and_decides(serve: Serve) -> None:
    with serve(policy=HoldsAll(), require_key=True) as served:
        drawer = bearer(served.keys.add("ada"))
        reviewer = bearer(served.keys.add("eve", scopes=("review",)))
        job = served.done(served.job(TWO, **drawer)["id"], **drawer)
        number = {"release": True}
        places = [f"/v1/reviews/{job['id']}/0/{what}" for what in ("picture", "blurred")]
        for path in ("/v1/reviews", *places, "/review"):
            assert served.http.get(path, headers=drawer).status_code == 403, path
            assert served.http.get(path).status_code == 401, path
            assert served.http.get(path, headers=reviewer).status_code == 200, path
        decision = f"/v1/reviews/{job['id']}/0"
        assert served.post(decision, number, **drawer).status_code == 403
        assert served.post(decision, number).status_code == 401
        assert served.http.get("/v1/jobs", headers=reviewer).status_code == 403
        assert held_of(served, **reviewer)[0]["client"] == "ada"
        assert served.post(decision, number, **reviewer).json()["state"] == "done"
        seen = served.http.get(f"/v1/jobs/{job['id']}", headers=drawer).json()["pictures"][0]
        assert seen["state"] == "done"
        assert "eve" not in str(seen["cause"]), "who decided is for the log alone"
        assert check_safety_log(served.spec.state).entries[-1]["name"] == "eve"


def test_two_keys_must_release_and_one_can_refuse(serve: Serve) -> None:
    with serve(policy=AsksTwo(), require_key=True) as served:
        ada, eve = (bearer(served.keys.add(name, scopes=("draw", "review"))) for name in ("ada", "eve"))
        job = served.done(served.job(TWO, **ada)["id"], **ada)
        first, second = held_of(served, **ada)
        for one in (first, second):
            assert decided(served, one, True, **ada).json()["state"] == "held"
        again = decided(served, first, True, **ada)
        assert (again.status_code, again.json()["error"]["code"]) == (409, "second_person_needed")
        assert served.http.get(f"/v1/jobs/{job['id']}", headers=ada).json()["pictures"][0]["url"] is None
        told = held_of(served, **eve)[0]
        assert (told["released_by"], told["needed"], told["mine"]) == (["ada"], 2, False)
        assert held_of(served, **ada)[0]["mine"]
        assert decided(served, first, True, **eve).json()["state"] == "done"
        assert decided(served, second, False, **eve).json()["state"] == "refused", "they disagree"
        states = [
            one["state"] for one in served.http.get(f"/v1/jobs/{job['id']}", headers=ada).json()["pictures"]
        ]
        assert states == ["done", "refused"]
        log = check_safety_log(served.spec.state)
        assert [(one.get("name"), one.get("state")) for one in log.entries[2:]] == [
            ("ada", "held"),
            ("ada", "held"),
            ("eve", "done"),
            ("eve", "refused"),
        ]
        assert len(log.entries[0]["prompt"]) == 64, "the policy keeps no prompts"


def test_a_vote_is_there_after_a_restart(serve: Serve) -> None:
    with serve(policy=AsksTwo(), require_key=True) as served:
        ada, eve = (bearer(served.keys.add(name, scopes=("draw", "review"))) for name in ("ada", "eve"))
        served.done(served.job(TWO, **ada)["id"], **ada)
        first = held_of(served, **ada)[0]
        assert decided(served, first, True, **ada).json()["state"] == "held"
    with serve(policy=AsksTwo(), require_key=True) as served:
        assert decided(served, first, True, **ada).status_code == 409
        assert decided(served, first, True, **eve).json()["state"] == "done"


@pytest.mark.parametrize("path", ["nothing/0", "../0", "nothing/-1", "nothing/999999999999999999999999"])
def test_what_is_not_held_cannot_be_decided(serve: Serve, path: str) -> None:
    with serve(policy=HoldsAll()) as served:
        answer = served.post(f"/v1/reviews/{path}", {"release": True})
        assert answer.status_code in (404, 405, 409, 422)
