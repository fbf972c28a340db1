from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from detour.errors import ConfigError
from detour.evaluation.held_out import AccuracyTask, StyleTask, score_held_out
from detour.evaluation.judge import PromptFacts
from detour.evaluation.pixels import Pictures


class ColourJudge:
    """Sees the mean colour of a picture and calls it red or blue."""

    def picture_features(self, pictures: Pictures) -> torch.Tensor:
        colours = torch.from_numpy(pictures.mean(axis=(1, 2))).float()
        return torch.nn.functional.normalize(colours, dim=-1)

    def prompt_hits(
        self, pictures: Pictures, facts: Any, vocabulary: Any, phrase: Any
    ) -> dict[str, list[bool]]:
        seen = ["red" if picture[..., 0].mean() > picture[..., 2].mean() else "blue" for picture in pictures]
        right = [fact.colour == colour for fact, colour in zip(facts, seen, strict=True)]
        return {"object": [True] * len(right), "colour": right, "place": [True] * len(right)}

    def text_features(self, prompts: Any) -> torch.Tensor:
        directions = {"red": [1.0, 0.0, 0.0], "blue": [0.0, 0.0, 1.0]}
        return torch.tensor([directions[prompt] for prompt in prompts])


JUDGE: Any = ColourJudge()


def tinted(red: int, blue: int, count: int = 8, seed: int = 0) -> Pictures:
    noise = np.random.default_rng(seed).integers(0, 20, (count, 8, 8, 3))
    return (noise + np.array([red, 40, blue])).astype(np.uint8)


STYLE = StyleTask(references=tinted(200, 20, seed=1), others=tinted(200, 20, seed=2))
ACCURACY = AccuracyTask(
    facts=[PromptFacts(object="cat", colour="red", place="city")] * 8,
    vocabulary={"colour": ("red", "blue")},
    phrase=lambda facts: facts.colour,
    truths=tinted(200, 20),
)


def test_an_adapter_in_the_style_lies_near_the_ceiling_and_the_base_far_away() -> None:
    scores = score_held_out(JUDGE, tinted(20, 200), tinted(200, 20, seed=3), style=STYLE, accuracy=ACCURACY)
    distance = scores.figures.style_distance
    assert distance is not None
    assert distance.adapter < 0.1 * distance.base
    assert distance.ceiling < 0.1 * distance.base
    assert scores.style_p_value is not None
    assert scores.style_p_value < 0.05


def test_accuracy_is_measured_on_each_side_and_on_true_pictures() -> None:
    half_red = np.concatenate([tinted(200, 20, count=4), tinted(20, 200, count=4)])
    scores = score_held_out(JUDGE, half_red, tinted(20, 200), style=STYLE, accuracy=ACCURACY)
    accuracy = scores.figures.prompt_accuracy
    assert accuracy is not None
    assert (accuracy.base.colour, accuracy.adapter.colour, accuracy.ceiling.colour) == (0.5, 0.0, 1.0)


def test_a_fall_is_counted_against_the_lower_of_base_and_true_pictures() -> None:
    half_red = np.concatenate([tinted(200, 20, count=4), tinted(20, 200, count=4)])
    falls = score_held_out(JUDGE, half_red, tinted(20, 200), style=None, accuracy=ACCURACY).falls
    assert falls["colour"].mean == 0.5
    hidden = replace(ACCURACY, truths=tinted(20, 200))
    assert (
        score_held_out(JUDGE, half_red, tinted(20, 200), style=None, accuracy=hidden).falls["colour"].mean
        == 0
    )


def test_the_same_pictures_on_both_sides_are_not_told_apart() -> None:
    scores = score_held_out(JUDGE, tinted(20, 200), tinted(20, 200), style=STYLE, accuracy=None)
    assert scores.style_p_value is not None
    assert scores.style_p_value > 0.5


@pytest.mark.parametrize("judge", [None, JUDGE])
def test_what_cannot_be_measured_is_none_and_not_zero(judge: Any) -> None:
    few = replace(STYLE, references=STYLE.references[:3])
    scores = score_held_out(judge, tinted(1, 2), tinted(2, 1), style=few, accuracy=None)
    assert scores.figures.prompts == 8
    assert scores.figures.style_distance is None
    assert scores.figures.prompt_accuracy is None
    assert scores.style_p_value is None


def test_sides_of_different_length_are_refused() -> None:
    with pytest.raises(ConfigError, match="cannot be compared"):
        score_held_out(JUDGE, tinted(1, 2), tinted(1, 2, count=7), style=STYLE, accuracy=None)


def test_pictures_that_ignore_their_prompts_follow_nothing() -> None:
    prompts = ["red", "blue"] * 4
    fitting = np.concatenate(
        [
            tinted(200, 20, count=1, seed=i) if i % 2 == 0 else tinted(20, 200, count=1, seed=i)
            for i in range(8)
        ]
    )
    kept = score_held_out(JUDGE, fitting, fitting, style=None, accuracy=None, prompts=prompts).following
    lost = score_held_out(
        JUDGE, fitting, tinted(90, 90), style=None, accuracy=None, prompts=prompts
    ).following
    assert kept is not None
    assert lost is not None
    assert kept.lost.low < 0 < lost.lost.low
    assert kept.expected == lost.expected == kept.adapter
    assert (
        score_held_out(JUDGE, fitting, fitting, style=None, accuracy=None, prompts=["red"] * 8).following
        is None
    )
