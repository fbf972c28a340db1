import shutil
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from transformers import CLIPModel, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from detour.bases.embedded import EMBEDDED
from detour.errors import BaseError, ConfigError
from detour.evaluation.feature_cache import FeatureCache
from detour.evaluation.judge import DEFAULT_JUDGE, Judge, PromptFacts, judge_of
from tests.evaluation.tiny_judge import SIDE_PX, make_tiny_judge
from tests.tiny_base import write_tokenizer

POCKET = EMBEDDED["pocket"].folder
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


OLD_KEYS: dict[str, object] = {"size": SIDE, "crop_size": SIDE}


@pytest.mark.parametrize(
    ("width", "patch_px", "settings"), [(8, 8, None), (24, 4, OLD_KEYS), (5, 16, None)], ids=str
)
def test_features_are_those_of_transformers_own_model(
    tmp_path: Path, width: int, patch_px: int, settings: dict[str, object] | None
) -> None:
    vocabulary = write_tokenizer(tmp_path)
    make_tiny_judge(
        tmp_path, vocab_size=len(vocabulary), width=width, patch_px=patch_px, preprocessing=settings
    )
    judge, pictures, prompts = Judge.load(tmp_path), noise(3, 50, 41), ["a red house", "a boat", "x " * 90]
    reference = CLIPModel.from_pretrained(tmp_path).eval()
    pixels = CLIPImageProcessorPil.from_pretrained(tmp_path)(images=list(pictures), return_tensors="pt")
    # Padded to the longest, with a mask: what the padding is must not matter.
    tokens = CLIPTokenizer.from_pretrained(tmp_path)(
        prompts, padding=True, truncation=True, max_length=77, return_tensors="pt"
    )
    with torch.no_grad():
        seen = reference.get_image_features(**pixels).pooler_output
        read = reference.get_text_features(**tokens).pooler_output
    assert judge.width == width
    assert torch.allclose(
        judge.picture_features(pictures), torch.nn.functional.normalize(seen, dim=-1), atol=1e-5
    )
    assert torch.allclose(
        judge.text_features(prompts), torch.nn.functional.normalize(read, dim=-1), atol=1e-5
    )
    assert judge.too_long(prompts) == (prompts[2],)


def test_pockets_own_pair_agrees_with_transformers_on_pictures_of_other_sizes() -> None:
    folder = judge_of(POCKET)
    pictures = noise(2, 300, 200)
    reference = CLIPModel.from_pretrained(folder).float().eval()
    pixels = CLIPImageProcessorPil.from_pretrained(folder)(images=list(pictures), return_tensors="pt")
    with torch.no_grad():
        seen = reference.get_image_features(**pixels).pooler_output
    expected = torch.nn.functional.normalize(seen, dim=-1)
    assert torch.allclose(Judge.load(folder).picture_features(pictures), expected, atol=1e-5)


def test_other_sizes_of_picture_are_judged_too(judge: Judge) -> None:
    assert judge.picture_features(noise(2, 50, 33)).shape == (2, 8)
    assert judge.picture_features(noise(0)).shape == (0, 8)


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


def test_a_picture_is_embedded_once_whoever_asks_again(
    judge_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = noise(4)
    plain = Judge.load(judge_folder).picture_features(pictures)
    first = Judge.load(judge_folder, cache=FeatureCache(tmp_path))
    assert torch.allclose(first.picture_features(pictures[[0, 1, 0, 1]]), plain[[0, 1, 0, 1]], atol=1e-6)
    seen: list[int] = []
    again = Judge.load(judge_folder, cache=FeatureCache(tmp_path))
    looked_at = again._looked_at
    monkeypatch.setattr(again, "_looked_at", lambda some: seen.append(len(some)) or looked_at(some))
    assert torch.allclose(again.picture_features(pictures), plain, atol=1e-6)
    assert torch.equal(again.picture_features(pictures[:2]), first.picture_features(pictures[:2]))
    assert again.picture_features(pictures[:0]).shape == (0, 8)
    assert seen == [2, 0, 0]


def test_another_judge_does_not_find_the_features_of_this_one(judge_folder: Path, tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    Judge.load(judge_folder, cache=cache).picture_features(noise(1))
    copy = shutil.copytree(judge_folder.parent, tmp_path / "copy") / "judge"
    assert Judge.load(copy).fingerprint == Judge.load(judge_folder).fingerprint
    tensors = load_file(copy / "model.safetensors")
    tensors["visual_projection.weight"] *= -1
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    other = Judge.load(copy, cache=cache)
    assert other.fingerprint != Judge.load(judge_folder).fingerprint
    assert torch.allclose(
        other.picture_features(noise(1)), -Judge.load(judge_folder).picture_features(noise(1))
    )


def test_a_judge_without_one_of_its_tensors_is_refused_and_not_filled_with_noise(
    judge_folder: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(judge_folder.parent, tmp_path / "copy") / "judge"
    whole = load_file(copy / "model.safetensors")
    tensors = {name: tensor for name, tensor in whole.items() if "projection" not in name}
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(BaseError, match="lacks 2 of its tensors"):
        Judge.load(copy)


def test_other_models_and_pickles_are_refused_by_name(judge_folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(judge_folder.parent, tmp_path / "copy") / "judge"
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(BaseError, match="pickles"):
        Judge.load(copy)
    (copy / "config.json").write_text('{"model_type": "siglip"}')
    with pytest.raises(BaseError, match="'siglip', not 'clip'"):
        Judge.load(copy)


def test_a_hub_id_is_fetched_as_a_base_is(judge_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, object]] = []

    def snapshot_download(repo_id: str, **options: object) -> str:
        asked.append({"repo_id": repo_id, **options})
        return str(judge_folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert Judge.load("owner/clip", revision="main").width == 8
    assert (asked[0]["repo_id"], asked[0]["revision"]) == ("owner/clip", "main")
    assert "pytorch_model.bin" not in str(asked[0]["allow_patterns"])


def test_offline_with_an_empty_cache_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(BaseError, match=r"judge 'owner/clip'.*HF_HUB_OFFLINE") as caught:
        Judge.load("owner/clip")
    assert "\n" not in str(caught.value)


def test_a_base_without_a_judge_of_its_own_gets_the_usual_clip(tmp_path: Path) -> None:
    assert judge_of(POCKET) == POCKET / "judge"
    assert judge_of(tmp_path) == DEFAULT_JUDGE
