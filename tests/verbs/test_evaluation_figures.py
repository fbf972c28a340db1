from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from detour.evaluation.judge import PromptFacts
from detour.evaluation.pixels import Pictures
from detour.verbs.judge.figures import Figures, measure_sides
from detour.verbs.judge.material import EvaluationMaterial, PromptGroup
from detour.verbs.judge.side_pictures import Drawn


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

    def too_long(self, prompts: Any) -> tuple[str, ...]:
        return ()

    def text_features(self, prompts: Any) -> torch.Tensor:
        directions = {"red": [1.0, 0.0, 0.0], "blue": [0.0, 0.0, 1.0]}
        return torch.tensor([directions[prompt] for prompt in prompts])


JUDGE: Any = ColourJudge()


def tinted(red: int, blue: int, count: int = 8, seed: int = 0) -> Pictures:
    noise = np.random.default_rng(seed).integers(0, 20, (count, 16, 16, 3))
    return (noise + np.array([red, 40, blue])).astype(np.uint8)


REFERENCES, OTHERS = tinted(200, 20, seed=1), tinted(200, 20, seed=2)
FACTS = tuple(PromptFacts(object="cat", colour="red", place="city") for _ in range(8))


def measured(
    base: Pictures,
    adapter: Pictures,
    *,
    judge: Any = JUDGE,
    references: Pictures | None = None,
    truths: Pictures | None = None,
    prompts: Sequence[str] = ("red",) * 8,
) -> Figures:
    facts = FACTS if truths is not None else ()
    group = PromptGroup(prompts=tuple(prompts), plain=tuple(prompts), facts=facts)
    material = EvaluationMaterial(
        held_out=(),
        new_prompts=group,
        unrelated=(),
        trigger="",
        references=references,
        others=OTHERS,
        truths=truths,
    )
    drawn = Drawn(pictures={"held_out": {"base": base, "adapter": adapter}})
    return measure_sides(judge, drawn, material, None, seeds=1)


def test_an_adapter_in_the_style_lies_near_the_ceiling_and_the_base_far_away() -> None:
    fidelity = measured(tinted(20, 200), tinted(200, 20, seed=3), references=REFERENCES).fidelity
    assert fidelity is not None
    distance = fidelity.style_distance
    assert distance.adapter < 0.1 * distance.base
    assert distance.ceiling is not None
    assert distance.ceiling < 0.1 * distance.base
    assert fidelity.nearer_p < 0.05


def test_accuracy_is_measured_on_each_side_and_on_true_pictures() -> None:
    half_red = np.concatenate([tinted(200, 20, count=4), tinted(20, 200, count=4)])
    kept = measured(half_red, tinted(20, 200), truths=tinted(200, 20)).prompt_keeping
    assert kept is not None
    assert kept.parts is not None
    share = kept.parts["colour"].share
    assert (share.base, share.adapter, share.ceiling) == (0.5, 0.0, 1.0)


def test_the_same_pictures_on_both_sides_are_not_told_apart() -> None:
    fidelity = measured(tinted(20, 200), tinted(20, 200), references=REFERENCES).fidelity
    assert fidelity is not None
    assert fidelity.nearer_p > 0.5


@pytest.mark.parametrize("judge", [None, JUDGE])
def test_what_cannot_be_measured_is_none_and_not_zero(judge: Any) -> None:
    found = measured(tinted(1, 2), tinted(2, 1), judge=judge, references=REFERENCES[:3])
    assert found.fidelity is None
    assert found.prompt_keeping is None or found.prompt_keeping.parts is None
