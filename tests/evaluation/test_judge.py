from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPModel

from detour.errors import BaseError, ConfigError
from detour.evaluation.judge import Judge, PromptFacts
from tests.evaluation.tiny_judge import SIDE_PX, make_tiny_judge
from tests.tiny_base import write_tokenizer

SIDE = SIDE_PX


@pytest.fixture(scope="module")
def judge_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random judge beside a tokenizer, in the layout of a base folder."""
    base = tmp_path_factory.mktemp("judge")
    vocabulary = write_tokenizer(base / "tokenizer")
    return make_tiny_judge(base / "judge", vocab_size=len(vocabulary))


@pytest.fixture(scope="module")
def judge(judge_folder: Path) -> Judge:
    return Judge.load(judge_folder)


def noise(count: int, height: int = SIDE, width: int = SIDE) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def phrase(facts: PromptFacts) -> str:
    return f"a {facts.colour} {facts.object} in the {facts.place}"


def test_features_have_length_one_and_do_not_depend_on_the_batch(judge: Judge) -> None:
    pictures = noise(40)
    features = judge.picture_features(pictures)
    assert torch.allclose(features.norm(dim=1), torch.ones(40), atol=1e-6)
    assert torch.allclose(features[35:], judge.picture_features(pictures[35:]), atol=1e-5)


def test_features_are_those_of_transformers_own_model(judge: Judge, judge_folder: Path) -> None:
    pictures = noise(3)
    pixels = (torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
    reference = CLIPModel.from_pretrained(judge_folder).eval()
    with torch.no_grad():
        theirs = reference.get_image_features(pixel_values=pixels).pooler_output
    theirs = torch.nn.functional.normalize(theirs, dim=-1)
    assert torch.allclose(judge.picture_features(pictures), theirs, atol=1e-6)


def test_other_sizes_are_resized_on_the_short_side_and_cropped(judge: Judge) -> None:
    wide = np.zeros((1, 64, 128, 3), np.uint8)
    wide[:, :, 32:96] = 200
    centre = np.full((1, SIDE, SIDE, 3), 200, np.uint8)
    inside = judge._preprocessing(wide)[..., 2:-2]
    assert torch.allclose(inside, judge._preprocessing(centre)[..., 2:-2], atol=1e-5)
    assert judge.picture_features(noise(2, 50, 33)).shape == (2, 8)


def test_accuracy_counts_the_pictures_whose_true_word_scores_highest(
    judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = [
        PromptFacts(object="car", colour=colour, place="desert") for colour in ("red", "red", "blue", "blue")
    ]
    axes = {"red": torch.tensor([1.0, 0.0]), "blue": torch.tensor([0.0, 1.0])}
    seen = torch.stack([axes["red"], axes["blue"], axes["blue"], axes["blue"]])
    monkeypatch.setattr(judge, "picture_features", lambda pictures: seen)
    monkeypatch.setattr(
        judge, "text_features", lambda prompts: torch.stack([axes[prompt.split()[1]] for prompt in prompts])
    )
    assert judge.prompt_accuracy(noise(4), facts, {"colour": ("blue", "red")}, phrase) == {"colour": 0.75}


def test_a_word_outside_its_vocabulary_is_refused(judge: Judge) -> None:
    facts = [PromptFacts(object="car", colour="red", place="moon")]
    with pytest.raises(ConfigError, match="'moon'"):
        judge.prompt_accuracy(noise(1), facts, {"place": ("desert", "city")}, phrase)


def test_long_prompts_are_cut_and_not_an_error(judge: Judge) -> None:
    assert judge.text_features(["a red house " * 60]).shape == (1, 8)


def test_a_missing_judge_is_one_line_that_names_its_folder(tmp_path: Path) -> None:
    with pytest.raises(BaseError, match="judge") as caught:
        Judge.load(tmp_path / "judge")
    assert "\n" not in str(caught.value)
