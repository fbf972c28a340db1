"""The IP-Adapter in the package: the base ``pocket`` draws what a reference shows and the prompt does not say."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detour.bases.base import open_base
from detour.evaluation.judge import Judge, PromptFacts, judge_of
from detour.generation.engine import PictureEngine
from detour.generation.references import ReferenceInUse
from detour.generation.requests import PictureRequest
from detour.pocket.world import HOUSE, VOCABULARY, compose_scene, place_phrase, plain_prompt, render
from detour.specs.generation import GenerateSpec, PictureSpec
from detour.verbs.draw.pictures import generate_pictures
from detour.verbs.draw.provenance import verify_picture
from detour.verbs.draw.reference_pictures import open_reference_tool

SHOWN = (("house", "red"), ("cup", "blue"), ("boat", "green"), ("fish", "orange"))
FACTS = [PromptFacts(object=kind, colour=colour, place="desert") for kind, colour in SHOWN]


@pytest.fixture(scope="module")
def shown() -> list[np.ndarray]:
    """A render of each thing in the city."""
    scenes = [compose_scene(seed=number, things=[thing], place="city") for number, thing in enumerate(SHOWN)]
    return [render(scene, HOUSE) for scene in scenes]


def test_what_the_prompt_leaves_out_comes_from_the_reference(shown: list[np.ndarray]) -> None:
    base = open_base("pocket")
    spec = GenerateSpec(prompts=("a house",), device="cpu")
    tool, file = open_reference_tool(spec, base, device="cpu", dtype=torch.float32)
    assert file.parent == base.folder / "reference"
    plain = [
        PictureRequest(prompt=place_phrase("desert"), seed=number, how=PictureSpec(steps=6))
        for number in range(len(SHOWN))
    ]
    seen = [
        ReferenceInUse(tool=tool, picture=one, sha256=str(n), strength=1.0) for n, one in enumerate(shown)
    ]
    with_it = [replace(request, references=(one,)) for request, one in zip(plain, seen, strict=True)]
    drawn = PictureEngine.load(base).draw([*plain, *with_it], batch=8).pictures
    judge = Judge.load(judge_of(base.folder))
    words = {"object": VOCABULARY.objects, "colour": VOCABULARY.colours}
    without, shown_it = (
        judge.prompt_hits(
            pictures, FACTS, words, lambda fact: plain_prompt(fact.object, fact.colour, fact.place)
        )
        for pictures in (drawn[: len(SHOWN)], drawn[len(SHOWN) :])
    )
    assert all(sum(without[slot]) <= 1 for slot in words), without
    assert all(sum(shown_it[slot]) >= 3 for slot in words), shown_it


def test_a_picture_is_verified_without_being_told_of_the_file(
    shown: list[np.ndarray], tmp_path: Path
) -> None:
    Image.fromarray(shown[0]).save(tmp_path / "shown.png")
    spec = GenerateSpec(
        prompts=("a house in the desert",),
        references=(str(tmp_path / "shown.png"),),
        device="cpu",
        picture=PictureSpec(steps=2),
    )
    drawn = generate_pictures(spec, out=tmp_path / "out").files[0].path
    assert verify_picture(drawn, files=tmp_path).state == "equal"
