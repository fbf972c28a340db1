"""Layer 2: what is stored scores as scikit-learn does, is calibrated, and hostile files are refused."""

import csv
import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from detour.errors import ConfigError, DataError
from detour.safety.classifier import NUMBERS, SETTINGS, PromptClassifier, classifier_of, vectorizers
from detour.safety.normalising import normalised
from detour.verbs.safety.training import calibration_error, read_labelled, train_prompt_classifier

WANTED = ["house", "car", "boat", "cat", "duck", "key", "chair", "rocket"]
UNWANTED = ["crown", "tiara", "diadem", "coronet"]


def write(path: Path, rows: list[tuple[str, object]]) -> Path:
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([("text", "unwanted"), *rows])
    return path


def rows(num: int, seed: int) -> list[tuple[str, object]]:
    """Prompts of which one in twenty has the other label, so that probabilities have something to say."""
    draw = random.Random(seed)
    found: dict[str, tuple[str, object]] = {}
    while len(found) < num:
        unwanted = draw.random() < 0.5
        thing = draw.choice(UNWANTED if unwanted else WANTED)
        text = f"a {draw.choice(['red', 'blue', 'old'])} {thing} number {draw.randrange(1000)} in the city"
        found[text] = (text, int(unwanted != (draw.random() < 0.05)))
    return list(found.values())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("sklearn", reason="an extra (detour-lora[safety])")
    folder = tmp_path_factory.mktemp("classifier")
    train_prompt_classifier(write(folder / "labelled.csv", rows(240, 1)), out=folder / "made")
    return folder


def test_scores_are_those_of_scikit_learn() -> None:
    pytest.importorskip("sklearn", reason="an extra (detour-lora[safety])")
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import FeatureUnion

    examples = rows(80, 2)
    texts = [normalised(str(text)) for text, _ in examples]
    union = FeatureUnion(list(vectorizers(len(texts))))
    features = union.fit_transform(texts)
    model = LogisticRegression(C=10.0).fit(features, [int(str(label)) for _, label in examples])
    ours = classifier_of(union, model, slope=-1.0, offset=0.0, facts={})
    asked = ["a red crown", "CRÖWN  crown crown", "", "a", "zzz", "a b", texts[3] * 3, "ü é ß 王冠 a_b"]
    expected = model.predict_proba(union.transform([normalised(text) for text in asked]))[:, 1]
    assert np.abs(np.array([ours.probability(text) for text in asked]) - expected).max() < 1e-9


def test_it_is_calibrated_and_tells_new_prompts_apart(trained: Path) -> None:
    classifier = PromptClassifier.load(trained / "made")
    new = rows(300, 9)
    scores = np.array([classifier.probability(str(text)) for text, _ in new])
    labels = np.array([int(str(label)) for _, label in new])
    assert ((scores > 0.5) == labels).mean() > 0.9
    assert calibration_error(scores, labels) < 0.06
    # Without the calibration it would be sure of itself, and wrong one time in twenty.
    assert scores.max() < 0.995


def test_loading_needs_no_scikit_learn(trained: Path) -> None:
    code = (
        "import sys; sys.modules['sklearn'] = None\n"
        "from pathlib import Path\nfrom detour.safety.classifier import PromptClassifier\n"
        f"print(PromptClassifier.load(Path({str(trained / 'made')!r})).probability('a crown') > 0.5)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "True"


def broken(folder: Path, kind: str) -> None:
    stored = json.loads((folder / SETTINGS).read_text())
    numbers = dict(np.load(folder / NUMBERS))
    if kind == "pickle":
        numbers["idf"] = np.array([{"a": 1}], dtype=object)
    elif kind == "short":
        numbers["idf"] = numbers["idf"][:-1]
    elif kind == "nan":
        numbers["weights"][3] = np.nan
    elif kind == "more":
        numbers["other"] = np.zeros(3)
    elif kind == "bias":
        stored["bias"] = "x"
    elif kind == "schema":
        stored["schema"] = 99
    elif kind == "deep":
        (folder / SETTINGS).write_text("[" * 100_000)
        return
    elif kind == "cut":
        (folder / NUMBERS).write_bytes((folder / NUMBERS).read_bytes()[:100])
        return
    elif kind == "gone":
        (folder / NUMBERS).unlink()
        return
    np.savez(folder / NUMBERS, **numbers)
    (folder / SETTINGS).write_text(json.dumps(stored))


@pytest.mark.parametrize("kind", ["pickle", "short", "nan", "more", "bias", "schema", "deep", "cut", "gone"])
def test_a_broken_or_hostile_file_is_refused_in_one_line(trained: Path, tmp_path: Path, kind: str) -> None:
    import shutil

    folder = Path(shutil.copytree(trained / "made", tmp_path / "made"))
    broken(folder, kind)
    with pytest.raises(ConfigError, match="Train it again") as caught:
        PromptClassifier.load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("text\na\n", "needs the columns"),
        ("text,unwanted\na,perhaps\n", "line 2"),
        ("text,unwanted\n,1\n", "no text"),
        ("text,unwanted\na crown,1\nA  CROWN,0\n", "both labels"),
        ('text,unwanted\n"a,1\n', "line"),
        ("text,unwanted\na,1\nb,0\n", "at least 20"),
    ],
)
def test_examples_that_cannot_be_learned_from_are_refused(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "labelled.csv"
    path.write_text(content)
    with pytest.raises(DataError, match=said):
        train_prompt_classifier(path, out=tmp_path / "made")
    assert not (tmp_path / "made" / SETTINGS).exists()


def test_repeated_rows_count_once(tmp_path: Path) -> None:
    examples, repeated = read_labelled(
        write(tmp_path / "x.csv", [("a crown", "yes"), ("A crown", 1), ("b", "no")])
    )
    assert (len(examples), repeated) == (2, 1)
