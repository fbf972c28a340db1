"""A policy file decides on jobs and their pictures as it does for ``detour generate``."""

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detour.adapter_files.writing import write_adapter
from detour.bases.base import Base, open_base
from detour.generation.engine import PictureEngine
from detour.generation.png import read_png_metadata
from detour.generation.requests import PictureRequest
from detour.safety.policy import Policy
from detour.safety.policy_file import PolicyFile
from detour.serving.jobs import JobRequest, PinnedAdapter
from detour.serving.layered_policy import LayeredPolicy
from detour.serving.policy import Allowed, Changed, Held, Refused
from detour.specs.generation import PictureSpec
from detour.verbs.safety import check_safety_log
from tests.generation.pool import make_adapters
from tests.serving.conftest import Serve, serving

POLICY = """
version = 1
name = "house-rules"

[[terms.categories]]
name = "crowns"
terms = ["crown"]

[[terms.categories]]
name = "swords"
action = "hold"
terms = ["sword"]

[[terms.categories]]
name = "hats"
action = "change"
terms = ["tiara"]

[rewrite]
rules = [{ find = "tiara", replace = "ribbon" }]

[frames]
"""


@pytest.fixture(scope="module")
def base(tiny_base: Path) -> Base:
    return open_base(str(tiny_base))


def opened(base: Base, folder: Path, text: str = POLICY) -> LayeredPolicy:
    (folder / "policy.toml").write_text(text)
    return LayeredPolicy.open(folder / "policy.toml", base)


def job(*prompts: str, negative: str = "", adapters: tuple[str, ...] = ()) -> JobRequest:
    return JobRequest(
        prompts=prompts,
        seeds=tuple(range(len(prompts))),
        negative_prompt=negative,
        width_px=64,
        height_px=64,
        steps=2,
        scheduler="ddim",
        guidance_scale=4.0,
        adapters=tuple(PinnedAdapter(name=name, weight=1.0, sha256="0" * 64, layers=1) for name in adapters),
        width_class=4,
    )


def test_each_prompt_of_a_job_is_answered_alone(base: Base, tmp_path: Path) -> None:
    policy = opened(base, tmp_path)
    allowed, refused, held, changed = policy.check_request(
        job("a cat", "a c.r.o.w.n", "a sword", "a tiara and a sword")
    )
    assert allowed == Allowed()
    assert isinstance(refused, Refused)
    assert refused.code == "terms.crowns"
    assert "crown" not in refused.cause.replace("terms.crowns", "")
    assert "'crown'" in refused.detail
    assert isinstance(held, Held)
    assert "terms.swords" in held.cause
    assert isinstance(changed, Changed)
    assert changed.prompt == "a ribbon and a sword"
    assert "terms.swords" in str(changed.hold)


def test_negative_prompts_adapter_names_and_triggers_are_read_too(base: Base, tmp_path: Path) -> None:
    policy = opened(base, tmp_path)
    for answers in (
        policy.check_request(job("a cat", negative="crown")),
        policy.check_request(job("a cat", adapters=("crown_style",))),
        policy.check_request(job("a cat", adapters=("style",)), triggers=("sks crown",)),
    ):
        assert [type(one) for one in answers] == [Refused]
    assert policy.check_request(job("a cat", adapters=("style",)), triggers=("sks",)) == (Allowed(),)


def test_pictures_pass_the_layers_of_pictures(base: Base, tmp_path: Path) -> None:
    policy = opened(base, tmp_path)
    assert policy.checks_pictures
    plain = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    framed = plain.copy()
    framed[:12], framed[-12:] = 0, 0
    framed[:, :12], framed[:, -12:] = 0, 0
    assert policy.check_picture(plain, job("a cat")) == Allowed()
    assert not isinstance(policy.check_picture(framed, job("a cat")), Allowed)
    words_alone = opened(base, tmp_path, POLICY.replace("[frames]", ""))
    assert not words_alone.checks_pictures
    assert words_alone.check_picture(framed, job("a cat")) == Allowed()


def test_a_server_with_a_policy_refuses_holds_and_says_which_policy(
    base: Base, tmp_path: Path, serve: Serve
) -> None:
    policy = opened(base, tmp_path)
    with serve(policy=policy) as served:
        answer = served.http.post("/v1/jobs", json={"prompts": ["a crown"], "steps": 2})
        assert answer.status_code in (400, 403, 422)
        assert "terms.crowns" in answer.text
        held = served.done(served.job({"prompts": ["a sword"], "steps": 2})["id"])
        assert held["pictures"][0]["state"] == "held"
        drawn = served.done(served.job({"prompts": ["a cat"], "steps": 2})["id"])
        assert drawn["policy"] == policy.version
        assert drawn["pictures"][0]["state"] in ("done", "held", "refused")


def test_of_a_job_each_picture_is_refused_held_or_rewritten_alone(
    base: Base, tmp_path: Path, serve: Serve
) -> None:
    policy = opened(base, tmp_path, POLICY.replace("[frames]", ""))
    with serve(policy=policy) as served:
        body = {"prompts": ["a crown", "a cat", "a sword", "a tiara"], "steps": 2, "seed": 5}
        job_ = served.done(served.job(body)["id"])
        assert [one["state"] for one in job_["pictures"]] == ["refused", "done", "held", "done"]
        assert [one["code"] for one in job_["pictures"]] == ["terms.crowns", None, None, None]
        assert job_["request"]["prompts"][3] == "a ribbon"
        assert [one["seed"] for one in job_["pictures"]] == [5, 6, 7, 8]
        alone = served.done(served.job({"prompts": ["a cat"], "steps": 2, "seed": 6})["id"])
        first, second = (
            served.http.get(one["pictures"][index]["url"]).content for one, index in ((job_, 1), (alone, 0))
        )
        # Alone it is drawn at a smaller width class, which may round otherwise by one step.
        assert np.abs(pixels(first).astype(int) - pixels(second).astype(int)).max() <= 1
        entries = [one["kind"] for one in check_safety_log(served.spec.state).entries]
        assert entries == ["request-refused", "request-changed", "picture-held"]


def pixels(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image)


def test_safe_latent_diffusion_draws_what_the_engine_draws_with_it(
    base: Base, tmp_path: Path, serve: Serve, engine: PictureEngine
) -> None:
    (tmp_path / "policy.toml").write_text(
        'version = 1\nname = "away"\n[latent]\nconcept = "a crown"\nstrength = "strong"\n'
    )
    layers = Policy.open(tmp_path / "policy.toml", base)
    with serve(policy=LayeredPolicy(layers)) as served:
        body = {"prompts": ["a cat"], "steps": 12, "seed": 3, "sampler": "ddim"}
        done = served.done(served.job(body)["id"])
        data = served.http.get(done["pictures"][0]["url"]).content
        assert served.service.store.job(done["id"]).request.num_rows == 3  # type: ignore[union-attr]
    (tmp_path / "served.png").write_bytes(data)
    told = read_png_metadata(tmp_path / "served.png")
    assert told is not None
    assert told.steering is not None
    assert (told.steering.concept, told.steering.strength, told.policy) == (
        "a crown",
        "strong",
        layers.version,
    )
    request = PictureRequest(
        prompt="a cat", seed=3, how=PictureSpec(steps=12, scheduler="ddim"), width_class=told.width_class
    )
    steered = layers.check_request(request).request
    assert steered is not None
    assert np.array_equal(engine.draw([steered]).pictures[0], pixels(data))
    assert not np.array_equal(engine.draw([request]).pictures[0], pixels(data))


class RefusesAll:
    """A checker of a base that refuses every picture."""

    def flag(self, pictures: np.ndarray) -> list[bool]:
        return [True] * len(pictures)


@pytest.fixture(scope="module")
def checked(engine: PictureEngine) -> PictureEngine:
    """The engine with a checker."""
    parts = {"unet": engine.unet, "vae": engine.vae, "text": engine.text}
    return PictureEngine(engine.base, **parts, safety=RefusesAll(), prompts="written")  # type: ignore[arg-type]


CHECKER = 'version = 1\nname = "checks"\n[checker]\naction = "%s"\n'


@pytest.mark.parametrize(
    ("text", "code", "state"),
    [
        (None, "base_checker", "refused"),
        (POLICY.replace("[frames]", ""), "base_checker", "refused"),
        (CHECKER % "refuse", "checker", "refused"),
        (CHECKER % "hold", None, "held"),
    ],
)
def test_what_the_bases_checker_refuses_is_decided_by_the_policy(
    checked: PictureEngine,
    engine: PictureEngine,
    tmp_path: Path,
    text: str | None,
    code: str | None,
    state: str,
) -> None:
    policy = None
    if text is not None:
        (tmp_path / "policy.toml").write_text(text)
        policy = LayeredPolicy(Policy(PolicyFile.read(tmp_path / "policy.toml"), has_checker=True))
    with serving(checked, tmp_path, tmp_path / "state", policy=policy) as served:
        done = served.done(served.job({"prompts": ["a cat"], "steps": 2, "seed": 1})["id"])
        assert [(one["state"], one["code"]) for one in done["pictures"]] == [(state, code)]
        if state != "held":
            return
        (held,) = served.http.get("/v1/reviews").json()
        seen = pixels(served.http.get(held["url"]).content)
        request = PictureRequest(prompt="a cat", seed=1, how=PictureSpec(steps=2), width_class=2)
        assert np.array_equal(seen, engine.draw([request]).pictures[0]), "a reviewer sees what was refused"


def test_the_title_and_trigger_of_an_adapter_are_read_whatever_its_file_is_called(
    base: Base, tmp_path: Path, engine: PictureEngine
) -> None:
    shelf, made = tmp_path / "shelf", make_adapters(engine)["rank2"]
    shelf.mkdir()
    for name, told in (
        ("one", {"modelspec.trigger_phrase": "sks crown"}),
        ("two", {"ss_output_name": "crowns"}),
        ("three", {"ss_output_name": "cats"}),
    ):
        adapter = dataclasses.replace(made, metadata={**made.metadata, **told})
        write_adapter(shelf / f"{name}.safetensors", adapter, file_format="kohya", family=base.family)
    policy = opened(base, tmp_path, POLICY.replace("[frames]", ""))
    with serving(engine, shelf, tmp_path / "state", policy=policy) as served:
        for name, status in (("one", 400), ("two", 400), ("three", 202)):
            body = {"prompts": ["a cat"], "steps": 2, "adapters": [{"name": name}]}
            assert served.post("/v1/jobs", body).status_code == status, name
