import pytest
import torch

from detour.errors import ShapeMismatch
from detour.evaluation.similarity import clip_scores, picture_similarity
from tests.evaluation.looks import looks


def test_the_clip_score_is_a_hundred_times_the_cosine_with_the_pictures_own_prompt() -> None:
    prompt_features = torch.eye(2)
    pictures = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.6, 0.8], [-0.8, -0.6]])
    assert clip_scores(pictures, prompt_features, seeds=2).tolist() == pytest.approx([100, 60, 80, -60])
    with pytest.raises(ShapeMismatch, match="seeds"):
        clip_scores(pictures, prompt_features, seeds=1)


def test_picture_similarity_is_the_mean_over_all_pairs() -> None:
    x, y = looks(5, 0), looks(7, 1)
    assert picture_similarity(x, y) == pytest.approx(float((x @ y.T).mean()), abs=1e-6)
    with pytest.raises(ShapeMismatch):
        picture_similarity(x, y[:0])
