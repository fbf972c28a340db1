"""A policy file decides on jobs and their pictures as it does for ``detour generate``."""

from pathlib import Path

import numpy as np
import pytest

from detour.bases.base import Base, open_base
from detour.errors import ConfigError
from detour.safety.policy import Policy
from detour.serving.jobs import JobRequest, PinnedAdapter
from detour.serving.layered_policy import LayeredPolicy
from detour.serving.policy import Allowed, Changed, Held, Refused
from tests.serving.conftest import Serve

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


def test_the_hardest_answer_of_a_jobs_prompts_counts(base: Base, tmp_path: Path) -> None:
    policy = opened(base, tmp_path)
    assert policy.check_request(job("a cat", "a dog")) == Allowed()
    refused = policy.check_request(job("a cat", "a c.r.o.w.n", "a sword"))
    assert isinstance(refused, Refused)
    assert refused.code == "terms.crowns"
    assert "crown" not in refused.cause.replace("terms.crowns", "")
    held = policy.check_request(job("a cat", "a sword"))
    assert isinstance(held, Held)
    assert "terms.swords" in held.cause


def test_negative_prompts_and_adapter_names_are_read_too(base: Base, tmp_path: Path) -> None:
    policy = opened(base, tmp_path)
    assert isinstance(policy.check_request(job("a cat", negative="crown")), Refused)
    assert isinstance(policy.check_request(job("a cat", adapters=("crown_style",))), Refused)


def test_a_rewritten_prompt_is_drawn_and_the_others_stay(base: Base, tmp_path: Path) -> None:
    changed = opened(base, tmp_path).check_request(job("a cat", "a tiara"))
    assert isinstance(changed, Changed)
    assert changed.request == job("a cat", "a ribbon")


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


def test_layers_that_act_while_a_picture_is_drawn_are_refused_at_the_start(
    base: Base, tmp_path: Path
) -> None:
    (tmp_path / "policy.toml").write_text('version = 1\nname = "away"\n[latent]\nconcept = "crowns"\n')
    Policy.open(tmp_path / "policy.toml", base)
    with pytest.raises(ConfigError, match=r"cannot ask its layer latent\. Delete \[latent\]"):
        LayeredPolicy.open(tmp_path / "policy.toml", base)


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
