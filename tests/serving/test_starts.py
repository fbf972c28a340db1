"""Start pictures of requests and masks: drawn as ``detour generate`` draws them, kept while needed, limited."""

import base64
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from PIL import Image, ImageFilter

from detour.generation.engine import PictureEngine
from detour.generation.png import read_png_metadata
from detour.safety.policy import Policy
from detour.safety.policy_file import PolicyFile
from detour.serving.forms import read_form
from detour.serving.layered_policy import LayeredPolicy
from detour.serving.refusals import BadRequest
from detour.serving.settings import StartsSpec
from detour.specs.generation import GenerateSpec, PictureSpec
from detour.verbs.draw.pictures import generate_pictures
from detour.verbs.draw.provenance import verify_picture
from tests.serving.conftest import Serve, Served, eventually, serving
from tests.serving.test_a1111 import bomb
from tests.serving.test_openai import live
from tests.serving.test_references import FRAMED, POLICY, encoded, file_of, kept, picture_of
from tests.serving.test_reviews import HoldsAll, bearer, decided, held_of

PHOTO = np.random.default_rng(7).integers(0, 255, (72, 64, 3)).astype(np.uint8)
"""Not of the shape that is drawn."""
MASK = np.zeros((72, 64), dtype=np.uint8)
MASK[20:60, 10:50] = 255
MASK[60:66, 10:50] = 100
STEPS, SEED, STRENGTH = 4, 3, 0.5


@pytest.fixture(scope="module")
def limited(
    engine: PictureEngine, shelf_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    starts = StartsSpec(max_pixels=10_000, max_bytes=100_000)
    with serving(engine, shelf_folder, tmp_path_factory.mktemp("limited"), starts=starts) as one:
        yield one


def body(picture: np.ndarray = PHOTO, mask: np.ndarray | None = None, **values: Any) -> dict[str, Any]:
    start: dict[str, Any] = {"picture": encoded(picture), "strength": values.pop("strength", STRENGTH)}
    if mask is not None:
        start["mask"] = encoded(mask)
    return {
        "prompts": ["a cat"], "steps": STEPS, "seed": SEED, "width": 64, "height": 64, "start": start, **values,
    }  # fmt: skip


class Generated:
    """``detour generate --from --mask`` on the tiny base, each call once."""

    def __init__(self, base: Path, folder: Path) -> None:
        self._base, self._folder = base, folder
        self._found: dict[str, np.ndarray] = {}

    def __call__(self, start: np.ndarray, mask: np.ndarray | None, strength: float, width: int) -> np.ndarray:
        key = repr((start.tobytes(), None if mask is None else mask.tobytes(), strength, width))
        if key not in self._found:
            folder = self._folder / str(len(self._found))
            folder.mkdir()
            (folder / "start.png").write_bytes(file_of(start))
            if mask is not None:
                (folder / "mask.png").write_bytes(file_of(mask))
            spec = GenerateSpec(
                prompts=("a cat",),
                base=str(self._base),
                seed=SEED,
                device="cpu",
                start=str(folder / "start.png"),
                mask=None if mask is None else str(folder / "mask.png"),
                strength=strength,
                width_class=width,  # type: ignore[arg-type]
                picture=PictureSpec(steps=STEPS, width_px=64, height_px=64),
            )
            (file,) = generate_pictures(spec, out=folder / "out").files
            self._found[key] = np.asarray(Image.open(file.path))
        return self._found[key]


@pytest.fixture(scope="module")
def generated(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Generated:
    return Generated(tiny_base, tmp_path_factory.mktemp("generated"))


def newest(served: Served, **headers: str) -> dict[str, Any]:
    job: dict[str, Any] = served.http.get("/v1/jobs?limit=1", headers=headers).json()[0]
    return job


@pytest.mark.parametrize("mask", [None, MASK])
def test_a_picture_begins_as_detour_generate_draws_it_names_it_and_can_be_drawn_again(
    served: Served, generated: Generated, tiny_base: Path, tmp_path: Path, mask: np.ndarray | None
) -> None:
    done = served.done(served.job(body(mask=mask))["id"])
    width = done["request"]["width_class"]
    assert np.array_equal(picture_of(served, done), generated(PHOTO, mask, STRENGTH, width))
    path = tmp_path / "a.png"
    path.write_bytes(served.http.get(done["pictures"][0]["url"]).content)
    said = read_png_metadata(path)
    assert said is not None
    assert said.start is not None
    assert said.start.model_dump() == done["request"]["start"]
    assert (said.start.strength, bool(said.start.mask_sha256)) == (STRENGTH, mask is not None)
    missing = verify_picture(path, base=str(tiny_base), device="cpu")
    assert (missing.state, "the picture that it began as is needed" in missing.cause) == ("cannot", True)
    files = tmp_path / "files"
    files.mkdir()
    (files / "photo.png").write_bytes(file_of(PHOTO))
    if mask is not None:
        (files / "where.png").write_bytes(file_of(mask))
    again = verify_picture(path, base=str(tiny_base), files=files, device="cpu")
    assert again.state == "equal", again.cause
    served.service.clean()
    assert kept(served) == [], "nothing needs it any more"


def test_without_a_size_the_picture_s_shape_is_drawn(served: Served) -> None:
    wide = np.repeat(PHOTO, 2, axis=1)
    asked = body(wide, steps=2)
    del asked["width"], asked["height"]
    done = served.done(served.job(asked)["id"])
    height, width, _ = picture_of(served, done).shape
    assert width > height
    assert (done["request"]["width_px"], done["request"]["height_px"]) == (width, height)


def test_pictures_with_a_start_in_company_are_those_drawn_alone(
    served: Served, engine: PictureEngine, generated: Generated
) -> None:
    kinds: list[tuple[np.ndarray, np.ndarray | None, float]] = [
        (PHOTO, None, 0.5), (PHOTO, MASK, 1.0), (FRAMED, None, 0.25),
    ]  # fmt: skip
    with engine.paused():
        plain = served.job({"prompts": ["a dog"], "steps": STEPS, "seed": SEED, "width": 64, "height": 64})
        jobs = [served.job(body(start, mask, strength=strength)) for start, mask, strength in kinds]
        eventually(lambda: engine._scheduler.num_waiting == 4)
    assert jobs[-1]["request"]["width_class"] == 8, "rows of four guided pictures"
    for (start, mask, strength), job in zip(kinds, jobs, strict=True):
        shown = picture_of(served, served.done(job["id"]))
        alone = generated(start, mask, strength, job["request"]["width_class"])
        assert np.array_equal(shown, alone)
    assert served.done(plain["id"])["state"] == "done"


def test_work_counts_the_steps_that_are_drawn(served: Served, engine: PictureEngine) -> None:
    works = {}
    for strength in (None, 0.5, 0.25):
        asked = {**body(steps=8, strength=strength or 1)}
        if strength is None:
            del asked["start"]
        with engine.paused():
            job = served.job(asked)
            works[strength] = served.service.dispatcher.work
        drawn = engine.meter.reading().units["denoiser"]
        assert served.done(job["id"])["state"] == "done"
        works[f"passes {strength}"] = engine.meter.reading().units["denoiser"] - drawn
    assert works[None] == 2 * works[0.5] == 4 * works[0.25] > 0
    assert works["passes None"] == 2 * works["passes 0.5"] == 4 * works["passes 0.25"] > 0
    assert sum(served.service.dispatcher.finished_work.values()) == works[None] + works[0.5] + works[0.25]


def test_what_was_accepted_is_drawn_from_its_start_after_a_restart(
    serve: Serve, generated: Generated
) -> None:
    with serve(stop_s=0.01) as served:
        job = served.job(body(mask=MASK, count=8))
        assert len(kept(served)) == 2
        served.service.clean()
        assert len(kept(served)) == 2
    with serve() as again:
        assert again.service.store.job(job["id"]).is_open, "it was stopped too late to show anything"  # type: ignore[union-attr]
        done = again.done(job["id"])
        assert done["state"] == "done"
        shown = picture_of(again, done)
        assert np.array_equal(shown, generated(PHOTO, MASK, STRENGTH, done["request"]["width_class"]))


def test_a_start_that_is_gone_fails_its_job_with_the_cause(serve: Serve) -> None:
    with serve(stop_s=0.01) as served:
        job = served.job(body(mask=MASK, count=8))
        for path in kept(served):
            if path.read_bytes() == file_of(MASK):
                path.write_bytes(file_of(MASK ^ 255))
    with serve() as again:
        causes = {one["cause"] for one in again.done(job["id"])["pictures"] if one["state"] == "failed"}
        assert causes == {"the mask of the job is gone or damaged. Ask for it again."}


BAD = [
    ({"picture": bomb(9000)}, "start.picture", "9000 x 9000 pixels"),
    ({"picture": bomb(2**31 - 1)}, "start.picture", "not readable|pixels"),
    ({"picture": encoded(np.zeros((101, 100, 3), np.uint8))}, "start.picture", "100 x 101 pixels"),
    ({"picture": base64.b64encode(b"x" * 100_001).decode()}, "start.picture", "100,001 bytes"),
    ({"picture": base64.b64encode(b"GIF89a").decode()}, "start.picture", "not readable"),
    ({"picture": base64.b64encode(file_of(PHOTO, "gif")).decode()}, "start.picture", "not readable"),
    ({"picture": base64.b64encode(file_of(PHOTO)[:200]).decode()}, "start.picture", "not readable"),
    ({"picture": "no base64!"}, "start.picture", "not base64"),
    ({"mask": bomb(9000)}, "start.mask", "9000 x 9000 pixels"),
    ({"mask": encoded(MASK[:64])}, "start.mask", "not 64 x 72 pixels as the picture"),
    ({"mask": encoded(MASK * 0)}, "start.mask", "leaves nothing to draw"),
    ({"mask": "no base64!"}, "start.mask", "not base64"),
    ({"strength": 0.1}, "start.strength", "strength 0.1 of 4 steps leaves none"),
    ({"strength": 0}, "start.strength", "greater than 0"),
    ({"strength": 1.5}, "start.strength", "less than or equal to 1"),
    ({"blend": 1}, "start.blend", "not permitted"),
]


@pytest.mark.parametrize(("change", "param", "says"), BAD)
def test_bombs_and_what_cannot_be_begun_from_are_refused_and_nothing_is_kept(
    limited: Served, change: dict[str, Any], param: str, says: str
) -> None:
    asked = body()
    asked["start"] |= change
    answer = limited.post("/v1/jobs", asked)
    assert answer.status_code in (400, 422)
    error = answer.json()["error"]
    assert re.search(says, error["message"]), answer.text
    assert error["param"] == param
    assert kept(limited) == []
    assert limited.http.get("/v1/jobs").json() == []


def test_a_server_that_takes_none_says_so_and_reads_no_large_body(serve: Serve) -> None:
    large = body()
    large["start"]["picture"] = "x" * (2 << 20)
    with serve(starts=StartsSpec(enabled=False)) as served:
        assert served.post("/v1/jobs", large).status_code == 413
        answer = served.post("/v1/jobs", body())
        assert (answer.status_code, "starts.enabled" in answer.text) == (400, True)
        assert kept(served) == []


def test_bodies_are_as_large_as_start_pictures_need_and_no_larger(serve: Serve) -> None:
    large = np.random.default_rng(1).integers(0, 255, (200, 200, 3)).astype(np.uint8)
    form = {"files": {"image": ("a.png", file_of(large), "image/png")}, "data": {"prompt": "a cat"}}
    limits = {"max_body_bytes": 50_000}
    with serve(limits=limits, starts=StartsSpec(max_body_bytes=200_000)) as served:
        assert served.post("/v1/jobs", body(large)).status_code == 202
        assert served.post("/sdapi/v1/txt2img", img2img(init_images=[encoded(large)])).status_code == 413
        assert served.http.post("/v1/images/edits", **form).status_code == 200
    with serve(limits=limits, starts=StartsSpec(max_body_bytes=100_000)) as served:
        assert served.post("/v1/jobs", body(large)).json()["error"]["code"] == "body_too_large"
        answer = served.post("/sdapi/v1/img2img", img2img(init_images=[encoded(large)]))
        assert (answer.status_code, answer.json()["error"]) == (413, "body_too_large")
        answer = served.http.post("/v1/images/edits", **form)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")


def test_another_key_sees_neither_the_job_nor_its_start_and_a_repeat_is_one_job(serve: Serve) -> None:
    with serve(require_key=True) as served:
        mine, theirs = bearer(served.keys.add("ada")), bearer(served.keys.add("eve"))
        job = served.job(body(mask=MASK), **mine, idempotency_key="k1")
        assert served.http.get(f"/v1/jobs/{job['id']}", headers=theirs).status_code == 404
        assert served.http.get("/v1/jobs", headers=theirs).json() == []
        assert (
            served.http.get(f"/v1/reviews/{job['id']}/0/references/0/picture", headers=theirs).status_code
            == 403
        )
        assert served.job(body(mask=MASK), **mine, idempotency_key="k1")["id"] == job["id"]
        for other in (body(), body(PHOTO + 1, MASK), body(mask=MASK, strength=0.6)):
            answer = served.post("/v1/jobs", other, **mine, idempotency_key="k1")
            assert (answer.status_code, answer.json()["error"]["code"]) == (422, "idempotency_key_reused")


def test_a_start_passes_the_layers_of_pictures_and_a_refused_one_is_not_kept(
    serve: Serve, tmp_path: Path
) -> None:
    (tmp_path / "policy.toml").write_text(POLICY)
    policy = LayeredPolicy(Policy(PolicyFile.read(tmp_path / "policy.toml")))
    with serve(policy=policy) as served:
        answer = served.post("/v1/jobs", body(FRAMED))
        assert answer.status_code == 400, answer.text
        assert "frames" in answer.text
        assert kept(served) == []
        assert served.post("/v1/jobs", body()).status_code == 202


def test_a_reviewer_sees_the_start_and_the_mask_of_a_held_picture_as_long_as_it_is_held(serve: Serve) -> None:
    with serve(policy=HoldsAll(), require_key=True) as served:
        drawer = bearer(served.keys.add("ada"))
        reviewer = bearer(served.keys.add("eve", scopes=("review",)))
        served.done(served.job(body(mask=MASK), **drawer)["id"], **drawer)
        served.service.clean()
        (held,) = held_of(served, **reviewer)
        assert [(one["kind"], one["strength"]) for one in held["references"]] == [
            ("start", 0.5),
            ("mask", 0.5),
        ]
        for told, expected in zip(held["references"], (PHOTO, np.stack([MASK] * 3, axis=-1)), strict=True):
            assert served.http.get(told["url"], headers=drawer).status_code == 403
            answer = served.http.get(told["url"], headers=reviewer)
            assert np.array_equal(np.asarray(Image.open(io.BytesIO(answer.content))), expected)
            small = served.http.get(told["url"].replace("/picture", "/blurred"), headers=reviewer)
            assert max(Image.open(io.BytesIO(small.content)).size) <= 8
        assert decided(served, held, True, **reviewer).json()["state"] == "done"
        assert served.http.get(held["references"][0]["url"], headers=reviewer).status_code == 404
        served.service.clean()
        assert kept(served) == [], "nothing needs it any more"


# ---- AUTOMATIC1111


def img2img(**fields: Any) -> dict[str, Any]:
    return {
        "prompt": "a cat", "init_images": ["data:image/png;base64," + encoded(PHOTO)], "steps": STEPS, "seed": SEED,
        "denoising_strength": STRENGTH, "width": 64, "height": 64, **fields,
    }  # fmt: skip


def drawn_by_a1111(served: Served, **fields: Any) -> tuple[np.ndarray, dict[str, Any]]:
    answer = served.post("/sdapi/v1/img2img", img2img(**fields))
    assert answer.status_code == 200, answer.text
    found = answer.json()
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(found["images"][0])))), found


def test_img2img_draws_as_detour_generate(shared: Served, generated: Generated) -> None:
    shown, answer = drawn_by_a1111(shared)
    width = newest(shared)["request"]["width_class"]
    assert np.array_equal(shown, generated(PHOTO, None, STRENGTH, width))
    info = json.loads(answer["info"])
    assert (info["seed"], info["denoising_strength"]) == (SEED, STRENGTH)
    assert "Denoising strength: 0.5" in info["infotexts"][0]
    assert answer["parameters"]["denoising_strength"] == STRENGTH
    assert "init_images" not in answer["parameters"]
    masked, _ = drawn_by_a1111(shared, mask=encoded(MASK), mask_blur=0)
    assert np.array_equal(masked, generated(PHOTO, MASK, STRENGTH, width))
    assert newest(shared)["request"]["start"]["mask_sha256"]


def test_a_mask_is_inverted_and_blurred_as_the_fields_say(shared: Served, generated: Generated) -> None:
    def blurred(mask: np.ndarray, *sigmas: float) -> np.ndarray:
        return np.asarray(Image.fromarray(mask).filter(ImageFilter.GaussianBlur(sigmas)))

    inverted, _ = drawn_by_a1111(shared, mask=encoded(MASK), mask_blur=0, inpainting_mask_invert=1)
    width = newest(shared)["request"]["width_class"]
    assert np.array_equal(inverted, generated(PHOTO, 255 - MASK, STRENGTH, width))
    soft, _ = drawn_by_a1111(shared, mask=encoded(MASK))
    assert np.array_equal(soft, generated(PHOTO, blurred(MASK, 4, 4), STRENGTH, width))
    along, _ = drawn_by_a1111(shared, mask=encoded(MASK), mask_blur_x=0, mask_blur_y=2)
    assert np.array_equal(along, generated(PHOTO, blurred(MASK, 0, 2), STRENGTH, width))
    none, _ = drawn_by_a1111(shared, mask=encoded(MASK), mask_blur=0, mask_blur_x=4, mask_blur_y=4)
    assert np.array_equal(none, generated(PHOTO, MASK, STRENGTH, width)), "mask_blur wins"


@pytest.mark.parametrize(
    ("change", "status", "says"),
    [
        ({"init_images": []}, 400, "0 pictures"),
        ({"init_images": [encoded(PHOTO)] * 2}, 400, "2 pictures"),
        ({"init_images": ["?"]}, 400, "init_images: not base64"),
        ({"init_images": [bomb(9000)]}, 400, "9000 x 9000"),
        ({"mask": bomb(9000)}, 400, "9000 x 9000"),
        ({"mask": encoded(MASK[:40])}, 400, "Make them equal"),
        ({"denoising_strength": 0}, 400, "strength 0: choose one above 0"),
        ({"denoising_strength": 2}, 422, "less than or equal to 1"),
        ({"mask": encoded(MASK), "inpainting_fill": 0}, 400, "inpainting_fill 0"),
        ({"mask": encoded(MASK), "inpaint_full_res": True}, 400, "inpaint_full_res True"),
        ({"mask": encoded(MASK), "mask_blur": 1000}, 422, "less than or equal to 64"),
        ({"resize_mode": 0}, 400, "picture is 64 x 72 and 64 x 64 is drawn"),
        ({"initial_noise_multiplier": 0.5}, 400, "initial_noise_multiplier"),
        ({"latent_mask": encoded(MASK)}, 400, "latent_mask"),
        ({"script_name": "loopback"}, 400, "script_name"),
    ],
)
def test_what_img2img_cannot_do_is_refused_in_the_envelope_of_a1111(
    limited: Served, change: dict[str, Any], status: int, says: str
) -> None:
    answer = limited.post("/sdapi/v1/img2img", img2img(**change))
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error", "detail", "body", "errors"}
    assert says in answer.json()["errors"]
    assert kept(limited) == []


def test_fields_at_the_values_that_are_drawn_change_nothing(shared: Served) -> None:
    first, _ = drawn_by_a1111(shared, mask=encoded(MASK))
    same, _ = drawn_by_a1111(
        shared, mask=encoded(MASK), resize_mode=1, inpainting_fill=1, inpaint_full_res=False, restore_faces=False,
        initial_noise_multiplier=1.0, image_cfg_scale=1.5, include_init_images=False, styles=[],
    )  # fmt: skip
    assert np.array_equal(first, same)
    square = {"init_images": [encoded(PHOTO[:64])], "resize_mode": 0}
    drawn_by_a1111(shared, **square)
    assert shared.post("/sdapi/v1/txt2img", img2img()).status_code == 400, "txt2img begins with noise"


# ---- OpenAI


@pytest.fixture(scope="module")
def client(
    engine: PictureEngine, shelf_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[openai.OpenAI]:
    with (
        live(engine, shelf_folder, tmp_path_factory.mktemp("edits"), max_body_bytes=100_000) as (url, _, _),
        openai.OpenAI(base_url=f"{url}/v1", api_key="sk-any", max_retries=0) as made,
    ):
        yield made


QUICK = {"seed": SEED, "num_inference_steps": STEPS}


def with_alpha(pixels: np.ndarray, alpha: np.ndarray) -> bytes:
    return file_of(np.dstack([pixels, alpha]))


def edited(client: openai.OpenAI, **fields: Any) -> np.ndarray:
    how = {"prompt": "a cat", "size": "64x64", "extra_body": {**QUICK, **fields.pop("extra", {})}}
    answer = client.images.edit(**{**how, **fields})
    assert answer.data is not None
    text = answer.data[0].b64_json
    assert text is not None
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


def test_images_edit_of_the_openai_package(client: openai.OpenAI, generated: Generated) -> None:
    photo = ("photo.png", file_of(PHOTO), "image/png")
    width = 2
    assert np.array_equal(edited(client, image=photo), generated(PHOTO, None, 0.75, width))
    assert np.array_equal(edited(client, image=[photo]), generated(PHOTO, None, 0.75, width))
    half = edited(client, image=photo, extra={"strength": 0.5}, model="gpt-image-1")
    assert np.array_equal(half, generated(PHOTO, None, 0.5, width))
    mask = with_alpha(PHOTO, 255 - MASK)
    masked = edited(client, image=photo, mask=mask)
    assert np.array_equal(masked, generated(PHOTO, MASK, 1.0, width)), (
        "transparent is drawn anew, in all steps"
    )
    answer = client.images.edit(
        image=photo, prompt="a cat", n=2, size="64x64", output_format="jpeg", extra_body=QUICK
    )
    assert answer.data is not None
    assert [one.seed for one in answer.data] == [SEED, SEED + 1]  # type: ignore[attr-defined]
    by_url = client.images.edit(image=photo, prompt="a cat", response_format="url", extra_body=QUICK)
    assert by_url.data is not None
    assert (by_url.data[0].url or "").startswith("http://127.0.0.1:")


def test_without_a_mask_the_transparency_of_the_picture_is_one(
    client: openai.OpenAI, generated: Generated
) -> None:
    shown = edited(client, image=with_alpha(PHOTO, 255 - MASK))
    on_white = np.asarray(
        Image.alpha_composite(
            Image.new("RGBA", (64, 72), "white"), Image.fromarray(np.dstack([PHOTO, 255 - MASK]))
        ).convert("RGB")
    )
    assert np.array_equal(shown, generated(on_white, MASK, 1.0, 2))
    plain = edited(client, image=with_alpha(PHOTO, np.full_like(MASK, 255)))
    assert np.array_equal(plain, generated(PHOTO, None, 0.75, 2))


def test_a_stream_of_an_edit_ends_with_the_picture(client: openai.OpenAI) -> None:
    events = list(client.images.edit(image=file_of(PHOTO), prompt="a cat", stream=True, extra_body=QUICK))
    assert events[-1].type == "image_edit.completed"


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"image": b"GIF89a"}, "image: not readable"),
        ({"image": base64.b64decode(bomb(9000))}, "9000 x 9000"),
        ({"image": [file_of(PHOTO), file_of(PHOTO)]}, "2 pictures"),
        ({"image": file_of(PHOTO), "mask": file_of(PHOTO)}, "nothing is transparent"),
        ({"image": file_of(PHOTO), "mask": with_alpha(PHOTO[:40], MASK[:40])}, "Make them equal"),
        ({"image": file_of(PHOTO), "extra": {"strength": 7}}, "less than or equal to 1"),
        ({"image": file_of(PHOTO), "n": 0}, "greater than or equal to 1"),
        ({"image": file_of(PHOTO), "extra": {"lora": {"name": "style"}}}, "Name adapters in 'model'"),
        ({"image": file_of(PHOTO), "prompt": "a crown"}, "no crowns here"),
    ],
)
def test_edits_are_refused_as_the_package_knows_errors(
    client: openai.OpenAI, fields: dict[str, Any], says: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        edited(client, **fields)
    assert says in str(caught.value)
    assert set(caught.value.body) == {"message", "type", "param", "code"}  # type: ignore[arg-type]


def test_a_repeated_edit_is_one_job_and_another_picture_is_refused(client: openai.OpenAI) -> None:
    headers = {"idempotency-key": "e1"}
    first = edited(client, image=file_of(PHOTO), extra_headers=headers)
    assert np.array_equal(edited(client, image=file_of(PHOTO), extra_headers=headers), first)
    for other in ({"image": file_of(PHOTO + 1)}, {"image": file_of(PHOTO), "mask": with_alpha(PHOTO, MASK)}):
        with pytest.raises(openai.UnprocessableEntityError):
            edited(client, **other, extra_headers=headers)


def test_a_form_is_read_only_where_one_is_taken_and_from_pages_of_this_server(shared: Served) -> None:
    files = {"image": ("a.png", file_of(PHOTO), "image/png")}
    answer = shared.http.post("/v1/images/generations", files=files, data={"prompt": "a cat"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_media_type")
    assert shared.post("/v1/images/edits", {"prompt": "a cat"}).status_code == 415
    data = {"prompt": "a cat", "num_inference_steps": "2"}
    for origin in ("https://elsewhere.example", "null"):
        answer = shared.http.post("/v1/images/edits", files=files, data=data, headers={"origin": origin})
        assert answer.status_code == 403
    assert shared.http.post("/v1/images/edits", files=files, data=data).status_code == 200


def part(name: str, content: bytes = b"x", kind: str = "") -> bytes:
    return b'--b\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n' % (
        name.encode(), kind.encode(), content,
    )  # fmt: skip


def test_forms_are_read_to_the_byte() -> None:
    content = bytes(range(256)) * 3 + b"\r\n--a\r\n--\n--b"
    form = part("image", content, '; filename="\u00e4 \\"b\\".png"\r\nContent-Type: image/png')
    form += part("image[]") + part("image[]", b"") + b"--b--\r\n"
    assert read_form(form, 'multipart/form-data; boundary="b"') == {
        "image": [content],
        "image[]": [b"x", b""],
    }
    assert read_form(b"preamble\r\n" + form, "multipart/form-data; boundary=b")["image"] == [content]


@pytest.mark.parametrize(
    ("form", "kind", "says"),
    [
        (b"", "multipart/form-data; boundary=b", "does not end"),
        (part("a"), "multipart/form-data; boundary=b", "does not end"),
        (part("a") + b"--b--", "multipart/form-data", "no boundary"),
        (part("a") + b"--b--", "multipart/form-data; boundary=" + "b" * 71, "no boundary"),
        (part("") + b"--b--", "multipart/form-data; boundary=b", "no name"),
        (b"--b\r\nx\r\n--b--", "multipart/form-data; boundary=b", "no headers"),
        (part("a", b"", "; x=" + "y" * 9000) + b"--b--", "multipart/form-data; boundary=b", "no headers"),
        (part("a") * 65 + b"--b--", "multipart/form-data; boundary=b", "more than 64 parts"),
    ],
)
def test_what_is_no_form_is_refused(form: bytes, kind: str, says: str) -> None:
    with pytest.raises(BadRequest, match=says):
        read_form(form, kind)
