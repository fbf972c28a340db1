"""Reference pictures of requests: drawn as the engine draws them, kept while needed, limited, and checked."""

import base64
import contextlib
import io
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
from PIL import Image

from detour.adapter_files.reference_files import read_reference_adapter
from detour.bases.image_encoder import load_image_encoder
from detour.errors import AdapterError, ConfigError
from detour.generation.engine import PictureEngine, PictureRequest
from detour.generation.png import read_png_metadata
from detour.generation.references import ReferenceInUse, ReferenceTool
from detour.safety.policy import Policy
from detour.safety.policy_file import PolicyFile
from detour.serving.guard import _check_depth
from detour.serving.layered_policy import LayeredPolicy
from detour.serving.references import ServedReferences
from detour.serving.refusals import BadRequest
from detour.serving.settings import ReferencesSpec, StartsSpec, load_serve_spec
from detour.specs.generation import PictureSpec
from detour.verbs.safety import check_safety_log
from tests.reference_files import make_image_encoder, reference_tensors
from tests.serving.conftest import Serve, Served, serving
from tests.serving.test_a1111 import bomb
from tests.serving.test_reviews import HoldsAll, bearer, decided, held_of

PHOTO = np.random.default_rng(5).integers(0, 255, (40, 56, 3)).astype(np.uint8)
FRAMED = np.pad(PHOTO, ((12, 12), (12, 12), (0, 0)))


def file_of(pixels: np.ndarray, kind: str = "png") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def encoded(pixels: np.ndarray) -> str:
    return base64.b64encode(file_of(pixels)).decode()


@pytest.fixture(scope="module")
def tool(engine: PictureEngine, tmp_path_factory: pytest.TempPathFactory) -> ReferenceTool:
    folder = tmp_path_factory.mktemp("ip-adapter")
    encoder = make_image_encoder(folder / "image_encoder")
    path = folder / "plain.safetensors"
    safetensors.torch.save_file(reference_tensors(engine.unet, "plain", tokens=4), path)
    return ReferenceTool(read_reference_adapter(path), load_image_encoder(encoder))


@pytest.fixture(scope="module")
def spec(tool: ReferenceTool) -> ReferencesSpec:
    folder = tool.encoder.folder.parent
    return ReferencesSpec(adapter=folder / "plain.safetensors", max_pixels=10_000, max_bytes=100_000)


@pytest.fixture
def drawn(engine: PictureEngine, tool: ReferenceTool) -> Callable[..., np.ndarray]:
    """The picture of a job as the engine draws it by itself."""

    def draw(job: dict[str, Any], *, strength: float | None = None, number: int = 0) -> np.ndarray:
        asked = job["request"]
        used = (
            ()
            if strength is None
            else (ReferenceInUse(tool=tool, picture=PHOTO, sha256="x", strength=strength),)
        )
        how = PictureSpec(
            steps=asked["steps"], scheduler=asked["scheduler"], guidance_scale=asked["guidance_scale"]
        )
        request = PictureRequest(
            prompt=asked["prompts"][number],
            seed=asked["seeds"][number],
            how=how,
            references=used,
            width_class=asked["width_class"],
        )
        return engine.draw([request]).pictures[0]

    return draw


def picture_of(served: Served, job: dict[str, Any], number: int = 0) -> np.ndarray:
    content = served.http.get(job["pictures"][number]["url"]).content
    return np.asarray(Image.open(io.BytesIO(content)))


def kept(served: Served) -> list[Path]:
    return sorted((served.spec.state / "references").glob("*"))


def body(picture: str, **values: Any) -> dict[str, Any]:
    reference = {"picture": picture, "strength": values.pop("strength", 0.7)}
    return {"prompts": ["a cat"], "steps": 2, "seed": 3, "references": [reference], **values}


def test_a_picture_follows_its_reference_as_the_engine_draws_it_and_names_it(
    serve: Serve, spec: ReferencesSpec, drawn: Callable[..., np.ndarray], tmp_path: Path
) -> None:
    with serve(references=spec) as served:
        done = served.done(served.job(body(encoded(PHOTO)))["id"])
        shown = picture_of(served, done)
        assert np.array_equal(shown, drawn(done, strength=0.7))
        assert not np.array_equal(shown, drawn(done))
        (tmp_path / "a.png").write_bytes(served.http.get(done["pictures"][0]["url"]).content)
        said = read_png_metadata(tmp_path / "a.png")
        assert said is not None
        assert [(one.adapter, one.strength) for one in said.references] == [("plain", 0.7)]
        (pinned,) = done["request"]["references"]
        assert pinned["sha256"] == said.references[0].sha256
        served.service.clean()
        assert kept(served) == [], "nothing needs it any more"


def test_what_was_accepted_is_drawn_with_its_reference_after_a_restart(
    serve: Serve, spec: ReferencesSpec, drawn: Callable[..., np.ndarray]
) -> None:
    with serve(references=spec, stop_s=0.01) as served:
        job = served.job(body(encoded(PHOTO), steps=25, count=4))
        assert len(kept(served)) == 1
        served.service.clean()
        assert len(kept(served)) == 1
    with serve(references=spec) as again:
        done = again.done(job["id"])
        assert done["state"] == "done"
        assert np.array_equal(picture_of(again, done, 3), drawn(done, strength=0.7, number=3))


def test_a_reference_that_is_damaged_or_was_for_another_adapter_is_said(
    limited: Served, tmp_path: Path
) -> None:
    served = limited.service.references
    assert served is not None
    (one,) = served.decoded([(file_of(PHOTO), 0.7)])
    pinned = served.pinned(one)
    with pytest.raises(AdapterError, match="gone or damaged"):
        served.in_use(pinned, tmp_path)
    one.keep(tmp_path)
    assert np.array_equal(served.in_use(pinned, tmp_path).picture, PHOTO)
    (tmp_path / "references" / one.sha256).write_bytes(file_of(PHOTO + 1))
    with pytest.raises(AdapterError, match="gone or damaged"):
        served.in_use(pinned, tmp_path)
    with pytest.raises(AdapterError, match="accepted with the IP-Adapter 'plain'"):
        served.in_use(pinned.model_copy(update={"adapter_sha256": "0" * 64}), tmp_path)


@pytest.mark.parametrize(
    ("picture", "strength", "says"),
    [
        (bomb(9000), 1.0, "9000 x 9000 pixels"),
        (bomb(2**31 - 1), 1.0, "not readable|pixels"),
        (encoded(np.zeros((101, 100, 3), np.uint8)), 1.0, "100 x 101 pixels"),
        (base64.b64encode(b"x" * 100_001).decode(), 1.0, "100,001 bytes"),
        (base64.b64encode(b"GIF89a").decode(), 1.0, "not readable"),
        (base64.b64encode(file_of(PHOTO, "gif")).decode(), 1.0, "not readable"),
        (base64.b64encode(file_of(PHOTO)[:200]).decode(), 1.0, "not readable"),
        ("no base64!", 1.0, "not base64"),
        (encoded(PHOTO), 2.5, "less than or equal to 2"),
        (encoded(PHOTO), -0.1, "greater than or equal to 0"),
    ],
)
def test_bombs_and_what_is_no_picture_are_refused_and_nothing_is_kept(
    limited: Served, picture: str, strength: float, says: str
) -> None:
    answer = limited.post("/v1/jobs", body(picture, strength=strength))
    assert answer.status_code in (400, 422)
    assert re.search(says, answer.json()["error"]["message"]), answer.text
    assert kept(limited) == []


@pytest.fixture(scope="module")
def limited(engine: PictureEngine, spec: ReferencesSpec, tmp_path_factory: pytest.TempPathFactory) -> Any:
    with serving(
        engine, tmp_path_factory.mktemp("none"), tmp_path_factory.mktemp("limited"), references=spec
    ) as one:
        yield one


def test_too_many_are_refused_and_a_large_body_is_read_only_where_pictures_are_served(
    limited: Served, serve: Serve
) -> None:
    asked = body(encoded(PHOTO))
    asked["references"] *= 5
    assert "4 at most" in limited.post("/v1/jobs", asked).json()["error"]["message"]
    large = body("x" * (2 << 20))
    assert limited.post("/v1/jobs", large).status_code == 400
    with serve(starts=StartsSpec(enabled=False)) as plain:
        assert plain.post("/v1/jobs", large).status_code == 413
        answer = plain.post("/v1/jobs", body(encoded(PHOTO)))
        assert answer.status_code == 400
        assert "--reference-adapter" in answer.json()["error"]["message"]


POLICY = 'version = 1\nname = "no-frames"\n[frames]\naction = "refuse"\n'


def test_a_reference_passes_the_layers_of_pictures_and_a_refused_one_is_not_kept(
    serve: Serve, spec: ReferencesSpec, tmp_path: Path
) -> None:
    (tmp_path / "policy.toml").write_text(POLICY)
    policy = LayeredPolicy(Policy(PolicyFile.read(tmp_path / "policy.toml")))
    with serve(references=spec, policy=policy) as served:
        answer = served.post("/v1/jobs", body(encoded(FRAMED)))
        assert answer.status_code == 400, answer.text
        assert "frames" in answer.text
        assert kept(served) == []
        assert served.post("/v1/jobs", body(encoded(PHOTO))).status_code == 202


def unit(**values: Any) -> dict[str, Any]:
    one = {
        "enabled": True,
        "module": "ip-adapter_clip_sd15",
        "model": "any",
        "image": encoded(PHOTO),
        **values,
    }
    return {"prompt": "a cat", "steps": 2, "seed": 3, "alwayson_scripts": {"ControlNet": {"args": [one]}}}


def test_a_reviewer_sees_the_reference_of_a_held_picture_as_long_as_it_is_held(
    serve: Serve, spec: ReferencesSpec
) -> None:
    with serve(references=spec, policy=HoldsAll(), require_key=True) as served:
        drawer = bearer(served.keys.add("ada"))
        reviewer = bearer(served.keys.add("eve", scopes=("review",)))
        job = served.done(served.job(body(encoded(PHOTO)), **drawer)["id"], **drawer)
        served.service.clean()
        (held,) = held_of(served, **reviewer)
        (told,) = held["references"]
        assert (told["adapter"], told["strength"]) == ("plain", 0.7)
        blurred = told["url"].replace("/picture", "/blurred")
        for url in (told["url"], blurred):
            assert served.http.get(url).status_code == 401
            assert served.http.get(url, headers=drawer).status_code == 403
            answer = served.http.get(url, headers=reviewer)
            assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
            assert answer.headers["cache-control"] == "private, no-store"
            assert answer.headers["x-content-type-options"] == "nosniff"
            seen = np.asarray(Image.open(io.BytesIO(answer.content)))
            assert np.array_equal(seen, PHOTO) if url == told["url"] else max(seen.shape[:2]) <= 8
        nowhere = told["url"].replace("references/0", "references/1")
        assert served.http.get(nowhere, headers=reviewer).status_code == 404
        entry = check_safety_log(served.spec.state).entries[-1]
        assert (entry["kind"], entry["name"], entry["reference"]) == ("seen", "eve", 0), "not the blurred one"

        assert decided(served, held, True, **reviewer).json()["state"] == "done"
        assert served.http.get(told["url"], headers=reviewer).status_code == 404
        served.service.clean()
        assert kept(served) == [], "nothing needs it any more"
        assert (
            served.http.get(f"/v1/jobs/{job['id']}", headers=drawer).json()["pictures"][0]["state"] == "done"
        )


def test_an_ip_adapter_unit_of_a1111_is_a_reference(
    limited: Served, drawn: Callable[..., np.ndarray]
) -> None:
    answer = limited.post("/sdapi/v1/txt2img", unit(weight=0.7)).json()
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(answer["images"][0]))))
    job = limited.http.get("/v1/jobs?limit=1").json()[0]
    assert np.array_equal(shown, drawn(job, strength=0.7))
    assert json.loads(answer["info"])["seed"] == 3


@pytest.mark.parametrize(
    "values",
    [
        {"module": "canny"},
        {"guidance_end": 0.5},
        {"image": None},
        {"weight": "much"},
        {"weight": 9},
        {"image": "?"},
    ],
)
def test_other_units_are_refused(limited: Served, values: dict[str, Any]) -> None:
    assert limited.post("/sdapi/v1/txt2img", unit(**values)).status_code == 400


def test_a_disabled_unit_and_an_empty_script_change_nothing(limited: Served) -> None:
    for scripts in ({}, {"controlnet": {"args": [{"enabled": False, "module": "canny"}]}}):
        asked = {"prompt": "a cat", "steps": 2, "seed": 3, "alwayson_scripts": scripts}
        assert limited.post("/sdapi/v1/txt2img", asked).status_code == 200
    other = {"prompt": "a cat", "alwayson_scripts": {"adetailer": {"args": []}}}
    assert limited.post("/sdapi/v1/txt2img", other).status_code in (400, 422)


def test_settings_name_the_adapter_beside_the_file(tmp_path: Path, serve: Serve) -> None:
    (tmp_path / "serve.toml").write_text('[references]\nadapter = "ip.safetensors"\n')
    found = load_serve_spec(tmp_path / "serve.toml", {}).references
    assert found is not None
    assert found.adapter == tmp_path / "ip.safetensors"
    assert load_serve_spec(None, {}).references is None


@pytest.mark.parametrize(
    ("text", "is_good"),
    [
        ("[" * 16 + "]" * 16, True),
        ("[" * 17 + "]" * 17, False),
        ('{"a":' * 17 + "1" + "}" * 17, False),
        ('{"a": "' + "[" * 100 + '"}', True),
        ('{"a": "\\"' + "[" * 100 + '"}', True),
        ('{"a": "\\\\", "b": ' + "[" * 17 + "]" * 17 + "}", False),
        ("[" + "[],{}," * 100 + "[]]", True),
        ("[{" * 9 + "}]" * 9, False),
        ("[" * 17, False),
    ],
)
def test_depth_counts_brackets_outside_strings(text: str, is_good: bool) -> None:
    if is_good:
        _check_depth(text.encode(), 16)
    else:
        with pytest.raises(BadRequest, match="nested more than 16 deep"):
            _check_depth(text.encode(), 16)


@pytest.mark.parametrize(
    "large", [b'["' + b"x" * (20 << 20) + b'"' + b",[]" * 20 + b"]", b"[" + b"[]," * (6 << 20)]
)
def test_the_depth_of_a_large_body_is_known_soon(large: bytes) -> None:
    began = time.thread_time()
    with contextlib.suppress(BadRequest):
        _check_depth(large, 16)
    assert time.thread_time() - began < 0.5  # a loop over its bytes took 2 s


def test_without_an_ip_adapter_the_server_does_not_start(engine: PictureEngine, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no IP-Adapter of its own"):
        ServedReferences.open(ReferencesSpec(), engine.base, engine, dtype="fp32")
