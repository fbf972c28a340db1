"""A held picture reaches its client after a person released it, and nobody else before."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detour.serving.jobs import JobRequest
from detour.serving.policy import Held, NoPolicy, PictureDecision
from tests.serving.conftest import Serve, Served

TWO = {"prompts": ["a cat", "a dog"], "steps": 2}


class HoldsDogs(NoPolicy):
    """Holds the pictures of a job whose prompt has a dog, for the review's sake."""

    version = "dogs"
    checks_pictures = True

    def check_picture(self, picture: np.ndarray, request: JobRequest) -> PictureDecision:
        return Held(cause="a dog, perhaps")


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def held_of(served: Served, **headers: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = served.http.get("/v1/reviews", headers=headers).json()
    return found


def test_released_pictures_are_seen_and_refused_ones_never(serve: Serve) -> None:
    with serve(policy=HoldsDogs()) as served:
        job = served.done(served.job(TWO)["id"])
        assert [one["state"] for one in job["pictures"]] == ["held", "held"]
        assert all(one["url"] is None and "dog" not in (one["cause"] or "") for one in job["pictures"])
        first, second = held_of(served)
        assert (first["prompt"], second["prompt"]) == ("a cat", "a dog")
        assert first["cause"] == "a dog, perhaps"
        shown = served.http.get(first["url"])
        assert Image.open(io.BytesIO(shown.content)).size == (
            job["request"]["width_px"],
            job["request"]["height_px"],
        )

        for one, release in ((first, True), (second, False)):
            answer = served.post(f"/v1/reviews/{one['job']}/{one['number']}", {"release": release})
            assert answer.json()["state"] == ("done" if release else "refused")
            again = served.post(f"/v1/reviews/{one['job']}/{one['number']}", {"release": True})
            assert again.status_code == 409
        assert held_of(served) == []
        assert served.http.get(first["url"]).status_code == 404
        cat, dog = served.http.get(f"/v1/jobs/{job['id']}").json()["pictures"]
        assert served.http.get(cat["url"]).content == shown.content
        assert (dog["state"], dog["url"], dog["code"]) == ("refused", None, "review")


def test_only_a_reviewers_key_sees_and_decides(serve: Serve) -> None:
    with serve(policy=HoldsDogs(), require_key=True) as served:
        drawer = bearer(served.keys.add("ada"))
        reviewer = bearer(served.keys.add("eve", scopes=("review",)))
        job = served.done(served.job(TWO, **drawer)["id"], **drawer)
        number = {"release": True}
        for path, body in (("/v1/reviews", None), (f"/v1/reviews/{job['id']}/0", number)):
            call = served.http.get if body is None else served.http.post
            arguments: dict[str, Any] = {} if body is None else {"json": body}
            assert call(path, headers=drawer, **arguments).status_code == 403
            assert call(path, **arguments).status_code == 401
        picture = f"/v1/reviews/{job['id']}/0/picture"
        assert served.http.get(picture, headers=drawer).status_code == 403
        assert served.http.get(picture, headers=reviewer).status_code == 200
        assert served.http.get("/v1/jobs", headers=reviewer).status_code == 403
        assert served.post(f"/v1/reviews/{job['id']}/0", number, **reviewer).json()["state"] == "done"
        seen = served.http.get(f"/v1/jobs/{job['id']}", headers=drawer).json()["pictures"][0]
        assert seen["state"] == "done"
        assert "eve" in str(seen["cause"])


@pytest.mark.parametrize("path", ["nothing/0", "../0", "nothing/-1", "nothing/999999999999999999999999"])
def test_what_is_not_held_cannot_be_decided(serve: Serve, path: str) -> None:
    with serve(policy=HoldsDogs()) as served:
        answer = served.post(f"/v1/reviews/{path}", {"release": True})
        assert answer.status_code in (404, 405, 409, 422)
