"""The requests that clients of AUTOMATIC1111 send, by the field lists of their sources."""

import base64
import io
import json
import threading
import zlib
from typing import Any

import pytest
from PIL import Image

from detour.generation.engine import PictureEngine
from tests.serving.conftest import Served, eventually


def draw(shared: Served, **fields: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    answer = shared.post("/sdapi/v1/txt2img", {"steps": 2, "width": 64, "height": 64, **fields})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    return body, json.loads(body["info"])


def test_what_open_webui_does(shared: Served) -> None:
    """``backend/open_webui/routers/images.py``: options, options with another model, txt2img, images and info."""
    headers = {"authorization": ""}
    options = shared.http.get("/sdapi/v1/options", headers=headers).json()
    models = shared.http.get("/sdapi/v1/sd-models", headers=headers).json()
    assert options["sd_model_checkpoint"] in [one["title"] for one in models]
    options["sd_model_checkpoint"] = next(one["title"] for one in models if "style" in one["title"])
    assert shared.post("/sdapi/v1/options", options, **headers).status_code == 200
    data = {
        "prompt": "a cat", "batch_size": 2, "width": 64, "height": 64, "steps": 2, "negative_prompt": "blurry",
    }  # fmt: skip
    body = shared.post("/sdapi/v1/txt2img", data, **headers).json()
    info = json.loads(body["info"])
    assert [Image.open(io.BytesIO(base64.b64decode(one))).size for one in body["images"]] == [(64, 64)] * 2
    assert info["all_seeds"] == [info["seed"], info["seed"] + 1]
    assert info["adapters"][0]["name"] == "style"
    shared.post("/sdapi/v1/options", {"sd_model_checkpoint": shared.service.base.name})


def test_what_sillytavern_does(shared: Served) -> None:
    """``src/endpoints/stable-diffusion.js`` and ``public/scripts/extensions/stable-diffusion/index.js``."""
    assert "forge_preset" not in shared.http.get("/sdapi/v1/options").json()
    for path, key in (("samplers", "name"), ("schedulers", "name"), ("sd-models", "title"), ("upscalers", "name"),
                      ("latent-upscale-modes", "name"), ("sd-vae", "model_name")):  # fmt: skip
        assert all(key in one for one in shared.http.get(f"/sdapi/v1/{path}").json())
    sampler = shared.http.get("/sdapi/v1/samplers").json()[0]["name"]
    scheduler = shared.http.get("/sdapi/v1/schedulers").json()[0]["name"]
    progress = shared.http.get("/sdapi/v1/progress").json()
    assert (progress["progress"], progress["state"]["job_count"]) == (0.0, 0)
    body = {
        "url": "http://localhost:7860", "auth": "", "prompt": "a cat, <lora:style:0.8>", "negative_prompt": "bad",
        "sampler_name": sampler, "scheduler": scheduler, "steps": 2, "cfg_scale": 7, "width": 64, "height": 64,
        "restore_faces": False, "enable_hr": False, "hr_upscaler": "Latent", "hr_scale": 2,
        "denoising_strength": 0.7, "hr_second_pass_steps": 0, "clip_skip": 1, "seed": 5,
        "override_settings": {"CLIP_stop_at_last_layers": 1}, "override_settings_restore_afterwards": True,
        "save_images": True, "send_images": True, "do_not_save_grid": False, "do_not_save_samples": False,
    }  # fmt: skip
    answer = shared.post("/sdapi/v1/txt2img", body).json()
    info = json.loads(answer["info"])
    assert (info["seed"], info["prompt"], info["adapters"][0]["weight"]) == (5, "a cat,", 0.8)
    assert len(answer["images"]) == 1
    assert not answer["images"][0].startswith("data:")


def test_tags_models_and_their_sums(shared: Served) -> None:
    base = shared.service.base.name
    override = {"sd_model_checkpoint": f"{base}+style:0.5+sketch"}
    _, info = draw(shared, prompt="<lora:style> a cat <lora:word:-0.25>", override_settings=override, seed=1)
    assert {one["name"]: one["weight"] for one in info["adapters"]} == {
        "style": 1.5,
        "sketch": 1.0,
        "word": -0.25,
    }
    assert info["prompt"] == "a cat"


def test_an_adapter_changes_the_picture_and_strength_zero_does_not(shared: Served) -> None:
    plain, with_it, without = (
        draw(shared, prompt=f"a cat{tag}", seed=3)[0]["images"][0]
        for tag in ("", " <lora:style:1>", " <lora:style:0>")
    )
    pixels = [Image.open(io.BytesIO(base64.b64decode(one))).tobytes() for one in (plain, with_it, without)]
    assert pixels[0] == pixels[2]
    assert pixels[0] != pixels[1]


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"prompt": "<lora:nothing:1> a cat"}, 404),
        ({"prompt": "<lora:../style:1> a cat"}, 404),
        ({"prompt": "<lora:style:loud> a cat"}, 400),
        ({"sampler_name": "DPM adaptive"}, 404),
        ({"scheduler": "Karras"}, 400),
        ({"enable_hr": True}, 400),
        ({"batch_size": 8, "n_iter": 8}, 400),
        ({"override_settings": {"sd_model_checkpoint": "other"}}, 404),
        ({"steps": 0}, 422),
    ],
)
def test_errors_are_in_the_envelope_of_a1111(shared: Served, change: dict[str, Any], status: int) -> None:
    answer = shared.post("/sdapi/v1/txt2img", {"prompt": "a cat", "steps": 2, **change})
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error", "detail", "body", "errors"}
    assert answer.json()["errors"]


def test_png_info_tells_how_a_picture_was_made(shared: Served) -> None:
    body, info = draw(shared, prompt="a cat <lora:style:0.5>", seed=9)
    for image in (body["images"][0], "data:image/png;base64," + body["images"][0]):
        told = shared.post("/sdapi/v1/png-info", {"image": image}).json()
        assert told["info"] == info["infotexts"][0]
        assert "Seed: 9" in told["info"]


def bomb(side: int) -> str:
    """A PNG of a few bytes that says it has ``side`` squared pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = side.to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    content = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )
    return base64.b64encode(content).decode()


@pytest.mark.parametrize(
    "image", ["", "not base64!", base64.b64encode(b"GIF89a").decode(), bomb(9000), bomb(2**31 - 1)]
)
def test_png_info_refuses_bombs_and_what_is_no_png(shared: Served, image: str) -> None:
    assert shared.post("/sdapi/v1/png-info", {"image": image}).status_code == 400


def test_an_interrupted_picture_is_an_error_and_no_empty_list(shared: Served, engine: PictureEngine) -> None:
    answers: list[Any] = []
    body = {"prompt": "a cat", "steps": 2}
    with engine.paused():
        thread = threading.Thread(target=lambda: answers.append(shared.post("/sdapi/v1/txt2img", body)))
        thread.start()
        eventually(lambda: shared.http.get("/sdapi/v1/progress").json()["state"]["job_count"] > 0)
        assert shared.post("/sdapi/v1/interrupt", None).json() == {}
        thread.join(60)
    assert (answers[0].status_code, answers[0].json()["errors"]) == (409, "interrupted")
    assert shared.service.dispatcher.work == 0
