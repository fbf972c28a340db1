"""``sample.policy`` of a run: a refused prompt before anything is trained, and withheld sample pictures in no file."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detour.errors import ConfigError, Withheld
from detour.generation.png import read_png_metadata
from detour.specs import RunSpec, load_run_spec
from detour.verbs.train import run as train_recipe
from detour.verbs.train.run import train_adapter
from detour.verbs.train.run_plan import plan_run
from tests.safety.policies import RULES, TERMS, rendered, write_pictures, write_policy
from tests.verbs.photos import make_photos, quick_flags


def run_of(base: Path, photos: Path, policy: Path | None, *prompts: str) -> RunSpec:
    values = quick_flags(str(base), photos) | {
        "train.steps": 1, "sample.every": 1, "sample.steps": 2, "sample.prompts": prompts, "name": "one",
    }  # fmt: skip
    return load_run_spec(flags=values | ({} if policy is None else {"sample.policy": str(policy)}))


@pytest.mark.parametrize("prompt", ["a cr0wn", "a bowler hat"])
def test_a_sample_prompt_that_may_not_be_drawn_stops_the_run_before_it_trains(
    tiny_base: Path, tmp_path: Path, prompt: str
) -> None:
    policy = write_policy(tmp_path, terms=TERMS, rewrite=RULES)
    photos = make_photos(tmp_path / "photos")
    with pytest.raises(Withheld, match=f"nothing was drawn.*'{prompt}'"):
        plan_run(run_of(tiny_base, photos, policy, "a house", prompt))
    steering = write_policy(tmp_path, latent={"concept": "a crown", "strength": "medium"})
    with pytest.raises(ConfigError, match="latent"):
        plan_run(run_of(tiny_base, photos, steering, "a house"))


def test_a_withheld_sample_is_in_no_file_and_the_others_are_as_they_were(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_recipe, "_prove", lambda *_: None)
    photos, prompts = make_photos(tmp_path / "photos"), ("a house", "a dog")
    train_adapter(run_of(tiny_base, photos, None, *prompts), runs=tmp_path / "plain")
    (sheet,) = (tmp_path / "plain").glob("*/samples/*1")
    first, second = sorted(sheet.glob("*.png"))
    write_pictures(
        tmp_path / "works", [np.asarray(Image.open(first)), rendered("house", 3), rendered("duck", 5)]
    )
    policy = write_policy(tmp_path, copies={"references": "works", "margin": 0.0})
    train_adapter(run_of(tiny_base, photos, policy, *prompts), runs=tmp_path / "screened")
    (screened,) = (tmp_path / "screened").glob("*/samples/*1")
    assert [one.name for one in screened.glob("*.png")] == [second.name]
    assert np.array_equal(Image.open(screened / second.name), Image.open(second))
    said = read_png_metadata(screened / second.name)
    assert said is not None
    assert said.policy.startswith("test")
    (withheld,) = json.loads((screened / "withheld.json").read_text())
    assert (withheld["number"], withheld["code"]) == (0, "copies")
