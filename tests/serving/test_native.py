"""The native interface: what is accepted is drawn as asked; what is not is refused, quickly and with its cause."""

import io
import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detour.adapter_files.reading import read_adapter
from detour.adapter_files.writing import write_adapter
from detour.generation.engine import AdapterInUse, PictureEngine, PictureRequest
from detour.serving.keys import LOCAL
from detour.serving.refusals import NotReady
from detour.serving.service import Service
from detour.serving.settings import KeepingSpec, ServeSpec, StartsSpec
from detour.serving.store import JobStore
from detour.specs.generation import PictureSpec
from tests.serving.conftest import Serve, Served, eventually

QUICK = {"prompts": ["a cat"], "steps": 2}
MANY = {"prompts": ["a cat"], "steps": 100, "count": 4}


def pixels(served: Served, url: str) -> np.ndarray:
    answer = served.http.get(url)
    assert answer.status_code == 200, answer.text
    return np.asarray(Image.open(io.BytesIO(answer.content)).convert("RGB"))


def test_pictures_are_those_that_the_engine_draws_at_the_recorded_settings(
    served: Served, engine: PictureEngine, shelf_folder: Path
) -> None:
    job = served.job(
        {
            "prompts": ["a cat", "a dog"],
            "seed": 7,
            "steps": 3,
            "sampler": "euler",
            "guidance_scale": 4,
            "negative_prompt": "blurry",
            "adapters": [{"name": "style", "strength": 0.7}, {"name": "sketch"}],
        }
    )
    done = served.done(job["id"])
    assert done["state"] == "done"
    use = tuple(
        AdapterInUse(adapter=read_adapter(shelf_folder / f"{name}.safetensors"), weight=weight)
        for name, weight in (("style", 0.7), ("sketch", 1.0))
    )
    how = PictureSpec(steps=3, guidance_scale=4.0, scheduler="euler", negative_prompt="blurry")
    for picture, prompt in zip(done["pictures"], ("a cat", "a dog"), strict=True):
        asked = PictureRequest(
            prompt=prompt,
            seed=picture["seed"],
            how=how,
            adapters=use,
            width_class=done["request"]["width_class"],
        )
        assert np.array_equal(pixels(served, picture["url"]), engine.submit(asked).result(60).pixels)
    assert [one["seed"] for one in done["pictures"]] == [7, 8]


def test_answer_header_and_picture_name_the_adapters_with_hash_strength_and_layers(served: Served) -> None:
    answer = served.post("/v1/jobs", {**QUICK, "adapters": [{"name": "style", "strength": 0.5}]})
    (used,) = answer.json()["request"]["adapters"]
    assert (used["name"], used["weight"]) == ("style", 0.5)
    assert used["layers"] > 0
    assert (
        f"style;strength=0.5;sha256={used['sha256']};layers={used['layers']}"
        in answer.headers["x-detour-adapters"]
    )
    (picture,) = served.done(answer.json()["id"])["pictures"]
    texts = Image.open(io.BytesIO(served.http.get(picture["url"]).content)).info
    assert json.loads(texts["detour-serve"])["adapters"] == [used]
    assert json.loads(texts["detour"])["adapters"][0]["sha256"] == used["sha256"]
    assert "<lora:style:0.5>" in texts["parameters"]


def test_an_idempotency_key_draws_once_and_refuses_another_body(served: Served) -> None:
    first = served.job(QUICK, idempotency_key="one")
    again = served.post("/v1/jobs", QUICK, idempotency_key="one")
    assert (again.json()["id"], again.headers["idempotent-replayed"]) == (first["id"], "true")
    other = served.post("/v1/jobs", {**QUICK, "steps": 3}, idempotency_key="one")
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_key_reused")
    assert len(served.http.get("/v1/jobs").json()) == 1


def test_events_tell_of_place_steps_pictures_and_the_end(served: Served, engine: PictureEngine) -> None:
    with engine.paused():
        job = served.job({**QUICK, "steps": 4})
        stream = served.http.stream("GET", f"/v1/jobs/{job['id']}/events")
    with stream as answer:
        lines = [line for line in answer.iter_lines() if line]
    events = [
        (a[7:], json.loads(b[6:])) for a, b in zip(lines[::2], lines[1::2], strict=True) if a[:1] == "e"
    ]
    names = [name for name, _ in events]
    assert names[-1] == "done"
    assert names.count("picture") == 1
    assert events[-1][1]["pictures"][0]["url"] == events[names.index("picture")][1]["url"]
    assert answer.headers["content-type"].startswith("text/event-stream")


def test_a_waiting_job_knows_its_place_and_a_cancelled_one_is_never_drawn(
    served: Served, engine: PictureEngine
) -> None:
    with engine.paused():
        ahead = served.job({**MANY, "count": 16, "steps": 2})
        more = served.job({**MANY, "count": 16, "steps": 2})
        last = served.job(QUICK)
        eventually(lambda: served.service.dispatcher.num_drawing >= 24)
        found = served.http.get(f"/v1/jobs/{last['id']}").json()
        assert (found["state"], found["position"]) == ("queued", 24 + 8)
        assert served.http.delete(f"/v1/jobs/{last['id']}").json()["state"] == "cancelled"
        assert served.post(f"/v1/jobs/{more['id']}/cancel", None).json()["state"] == "cancelled"
    assert served.done(ahead["id"])["state"] == "done"
    found = served.http.get(f"/v1/jobs/{last['id']}").json()
    assert [one["state"] for one in found["pictures"]] == ["cancelled"]
    assert served.service.dispatcher.work == 0


def test_a_job_that_is_not_drawn_by_its_deadline_expires(served: Served, engine: PictureEngine) -> None:
    with engine.paused():
        job = served.job({**QUICK, "deadline_s": 0.05})
        time.sleep(0.06)
        served.service.tick()
    assert served.done(job["id"])["state"] == "expired"


def test_a_full_queue_says_no_with_the_time_to_wait_and_takes_jobs_again_later(
    serve: Serve, engine: PictureEngine
) -> None:
    with serve(limits={"max_work": 40.0, "max_work_of_key": 40.0}) as served:
        with engine.paused():
            for _ in range(10):
                last = served.job(QUICK)
            answer = served.post(
                "/v1/jobs", QUICK
            )  # nothing is drawn meanwhile, so one that waits never answers
            assert (answer.status_code, answer.json()["error"]["code"]) == (429, "queue_full")
            assert int(answer.headers["retry-after"]) >= 1
        served.done(last["id"])
        served.job(QUICK)
        too_much = served.post("/v1/jobs", {**QUICK, "steps": 100})
        assert (too_much.status_code, "larger than the whole queue" in too_much.text) == (400, True)


WRONG = {
    "steps": ({"steps": 151}, 400),
    "count": ({"count": 17}, 400),
    "huge count": ({"prompts": ["a"] * 1000, "count": 1000}, 400),
    "prompt": ({"prompts": ["x" * 4001]}, 400),
    "pixels": ({"width": 8192, "height": 8192}, 400),
    "size": ({"width": 65, "height": 64}, 400),
    "surrogate": ({"prompts": ["\ud800"]}, 400),
    "no prompts": ({"prompts": []}, 422),
    "unknown field": ({"step": 3}, 422),
    "seed": ({"seed": -1}, 422),
    "huge seed": ({"seed": 10**400}, 422),
    "sampler": ({"sampler": "heun"}, 422),
    "strength": ({"adapters": [{"name": "style", "strength": 11}]}, 400),
    "adapters": ({"adapters": [{"name": "style"}] * 9}, 400),
    "path": ({"adapters": [{"name": "../shelf/style"}]}, 404),
    "absolute path": ({"adapters": [{"name": "/etc/passwd"}]}, 404),
    "file name": ({"adapters": [{"name": "style.safetensors"}]}, 404),
    "header": ({"adapters": [{"name": "style\r\nx-evil: 1"}]}, 404),
    "NUL": ({"adapters": [{"name": "style\0"}]}, 404),
}


def test_what_cannot_be_drawn_is_refused_with_its_cause_and_leaves_nothing(served: Served) -> None:
    for name, (change, status) in WRONG.items():
        content = json.dumps({**QUICK, **change})
        answer = served.http.post("/v1/jobs", content=content, headers={"content-type": "application/json"})
        assert answer.status_code == status, (name, answer.status_code, answer.text)
        error = answer.json()["error"]
        assert error["message"], name
        assert "\n" not in error["message"]
    for content in (b'{"guidance_scale": NaN, "prompts": ["a"]}', b"{", b"[]", b'"a"', b"\xff", b""):
        answer = served.http.post("/v1/jobs", content=content, headers={"content-type": "application/json"})
        assert answer.status_code in (400, 422), (content, answer.text)
    assert served.http.get("/v1/jobs").json() == []


def test_hostile_bodies_are_refused_before_they_are_parsed(serve: Serve) -> None:
    limits, starts = {"max_body_bytes": 50_000, "max_json_depth": 8}, StartsSpec(enabled=False)
    with serve(limits=limits, starts=starts) as served:
        for content, kind, status in (
            (b'{"a":' * 9 + b"1" + b"}" * 9, "application/json", 400),
            (b"[" * 40_000, "application/json", 400),
            (b" " * 50_001, "application/json", 413),
            (b'{"prompts": ["a"]}', "text/plain", 415),
            (b'{"prompts": ["a"]}', "application/x-www-form-urlencoded", 415),
        ):
            answer = served.http.post("/v1/jobs", content=content, headers={"content-type": kind})
            assert answer.status_code == status, (content[:20], answer.text)
        brackets = json.dumps({"prompts": ["[" * 100], "steps": 2})
        answer = served.http.post("/v1/jobs", content=brackets, headers={"content-type": "application/json"})
        assert answer.status_code == 202, "brackets in a text are no nesting"


def test_addresses_cannot_be_guessed_and_expire(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(keeping=KeepingSpec(picture_s=600.0)) as served:
        (picture,) = served.done(served.job(QUICK)["id"])["pictures"]
        assert served.http.get(picture["url"]).headers["content-type"] == "image/png"
        assert len(picture["url"].rpartition("/")[2]) >= 32
        for wrong in (picture["url"][:-1], picture["url"] + "x", "/v1/pictures/..%2fjobs.sqlite"):
            assert served.http.get(wrong).status_code == 404
        later = time.time() + 601
        monkeypatch.setattr(time, "time", lambda: later)
        assert served.http.get(picture["url"]).status_code == 404
        served.service.clean()
        assert list(served.service.store.pictures.glob("*.png")) == []


def test_the_shelf_notices_what_comes_changes_and_goes_and_draws_what_was_accepted(
    serve: Serve, shelf_folder: Path, engine: PictureEngine, tmp_path: Path
) -> None:
    shelf = tmp_path / "mine"
    shelf.mkdir()
    with serve(adapters=shelf) as served:
        asked = {**QUICK, "seed": 1, "adapters": [{"name": "late"}]}
        assert served.post("/v1/jobs", asked).status_code == 404
        shutil.copyfile(shelf_folder / "style.safetensors", shelf / "late.safetensors")
        with engine.paused():
            first = served.job(asked)
            replacement = shelf / "new.part"
            shutil.copyfile(shelf_folder / "sketch.safetensors", replacement)
            replacement.replace(shelf / "late.safetensors")
            served.service.tick()
            second = served.job(asked)
            (shelf / "late.safetensors").unlink()
            served.service.tick()
            assert served.post("/v1/jobs", asked).status_code == 404
            served.service.clean()
        style, sketch = (served.done(job["id"]) for job in (first, second))
        assert (style["state"], sketch["state"]) == ("done", "done")
        hashes = [job["request"]["adapters"][0]["sha256"] for job in (style, sketch)]
        assert hashes[0] != hashes[1]
        a, b = (pixels(served, job["pictures"][0]["url"]) for job in (style, sketch))
        assert not np.array_equal(a, b)
        served.service.clean()
        assert list((served.spec.state / "adapters").iterdir()) == []


def test_a_broken_adapter_is_shown_with_its_cause_and_two_of_one_name_are_told_apart(
    serve: Serve, shelf_folder: Path, tmp_path: Path
) -> None:
    shelf = tmp_path / "mine"
    (shelf / "more").mkdir(parents=True)
    (shelf / "broken.safetensors").write_bytes(b"nothing")
    shutil.copyfile(shelf_folder / "style.safetensors", shelf / "twin.safetensors")
    shutil.copyfile(shelf_folder / "sketch.safetensors", shelf / "more" / "twin.safetensors")
    with serve(adapters=shelf) as served:
        listed = served.http.get("/v1/adapters").json()
        assert [(one["name"], one["usable"]) for one in listed] == [
            ("broken", False), ("twin", True), ("twin", True),
        ]  # fmt: skip
        assert "safetensors" in listed[0]["cause"]
        assert str(tmp_path) not in json.dumps(listed)
        broken = served.post("/v1/jobs", {**QUICK, "adapters": [{"name": "broken"}]})
        assert (broken.status_code, broken.json()["error"]["code"]) == (400, "broken_adapter")
        both = served.post("/v1/jobs", {**QUICK, "adapters": [{"name": "twin"}]})
        assert (both.status_code, both.json()["error"]["code"]) == (400, "ambiguous_adapter")
        for one in listed[1:]:
            job = served.job({**QUICK, "adapters": [{"name": f"twin@{one['sha256'][:12]}"}]})
            assert job["request"]["adapters"][0]["sha256"] == one["sha256"]


def test_a_peft_folder_is_served_and_pinned(
    serve: Serve, engine: PictureEngine, shelf_folder: Path, tmp_path: Path
) -> None:
    shelf = tmp_path / "mine"
    shelf.mkdir()
    style = read_adapter(shelf_folder / "style.safetensors")
    write_adapter(shelf / "folder", style, file_format="peft", family=engine.base.family)
    shutil.copyfile(shelf_folder / "style.safetensors", shelf / "file.safetensors")
    with serve(adapters=shelf) as served:
        with engine.paused():
            jobs = [served.job({**QUICK, "seed": 3, "adapters": [{"name": n}]}) for n in ("folder", "file")]
            shutil.rmtree(shelf / "folder")
        assert [served.done(job["id"])["state"] for job in jobs] == ["done", "done"]


def test_health_metrics_and_docs_answer(served: Served) -> None:
    served.done(served.job(QUICK)["id"])
    assert served.http.get("/healthz").json() == {"status": "ok"}
    text = served.http.get("/metrics").text
    assert "detour_jobs_accepted_total 1.0" in text
    assert 'detour_pictures_finished_total{state="done"} 1.0' in text
    assert "/v1/jobs" in served.http.get("/openapi.json").json()["paths"]
    assert served.http.get("/docs").status_code == 200


def test_a_server_that_stops_refuses_and_what_was_accepted_is_drawn_by_the_next(
    serve: Serve, engine: PictureEngine
) -> None:
    with serve(stop_s=0.05) as served, engine.paused():
        job = served.job({**QUICK, "count": 3, "seed": 4})
        served.service.refuse_new()
        answer = served.post("/v1/jobs", QUICK)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
        assert "retry-after" in answer.headers
        served.service.stop()
    with serve() as served:
        done = served.done(job["id"])
        assert [one["state"] for one in done["pictures"]] == ["done"] * 3
        assert len(list(served.service.store.pictures.glob("*.png"))) == 3


def test_a_server_that_is_loading_says_so(tmp_path: Path) -> None:
    store = JobStore(tmp_path / "loading")
    service = Service(ServeSpec(), store)
    with pytest.raises(NotReady, match="the server is starting"):
        service.require_room(LOCAL)
    store.close()
