"""docs/api.md says what the code says, and its examples run."""

import ast
import inspect
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from tests.tiny_blip import make_tiny_blip
from tests.verbs.photos import make_photos
from tests.verbs.test_push_run import Hub

import detour
from detour.cli.api_examples import EXAMPLES
from detour.cli.api_reference import entries_of, split_docstring, write_page

SLOW = {"plan", "overfit", "demo", "prove_run", "push", "evaluate_checkpoints", "EvaluationSpec", "evaluate"}
SLOW |= {"compare", "study_schedulers", "study_guidance", "study_timesteps", "study_blocks"}
"""Examples of more than four CPU seconds, and those that stand on them."""
RUN = [name for name in EXAMPLES if find_spec("sklearn") or name != "train_prompt_classifier"]
"""Examples without those whose package is not here; ``make test-extras`` has tests of what is left out."""


@pytest.fixture(scope="module")
def page() -> str:
    return write_page()


def test_the_page_is_what_the_docstrings_say(page: str) -> None:
    stale = "docs/api.md is stale: run `make docs`"
    assert (Path(__file__).parents[2] / "docs" / "api.md").read_text() == page, stale


def test_every_exported_name_is_on_the_page(page: str) -> None:
    missing = [name for name in (*detour.VERBS, *detour.TYPES) if f"### `detour.{name}`\n" not in page]
    assert missing == []


def test_every_exported_name_has_an_example_that_uses_it() -> None:
    assert set(EXAMPLES) == {*detour.VERBS, *detour.TYPES}
    for name, example in EXAMPLES.items():
        used = {node.attr for node in ast.walk(ast.parse(example)) if isinstance(node, ast.Attribute)}
        assert name in used, name


@pytest.mark.parametrize("name", sorted({*detour.VERBS, "open_base", "open_engine", "load_run_spec"}))
def test_a_function_documents_each_argument_and_what_it_raises(name: str) -> None:
    function = getattr(detour, name)
    _, sections = split_docstring(inspect.getdoc(function) or "")
    parameters = list(inspect.signature(function).parameters)
    assert list(entries_of(sections.get("Args", ""))) == parameters
    assert entries_of(sections["Raises"])


def run_examples(names: list[str], folder: Path, patch: pytest.MonkeyPatch) -> None:
    patch.chdir(folder)
    known: dict[str, Any] = {"Path": Path, "detour": detour}
    for name in names:
        exec(compile(EXAMPLES[name], f"example of {name}", "exec"), known)


def prepare(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Put what the examples find in their folder: pictures without captions, a captioning model, a hub."""
    make_tiny_blip(folder / "blip")
    for caption in make_photos(folder / "drawings", 1).glob("*.txt"):
        caption.unlink()
    hub = Hub()
    patch.setattr(huggingface_hub, "HfApi", lambda: hub)
    patch.setattr(huggingface_hub, "get_token", lambda: "a token")


def test_the_examples_run_in_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(tmp_path, monkeypatch)
    run_examples([name for name in RUN if name not in SLOW], tmp_path, monkeypatch)
    assert "a sks robot" not in capsys.readouterr().err
    made = {path.name for path in tmp_path.iterdir()}
    assert made >= {"photos", "runs", "pictures", "grid.png", "merged", "both.safetensors", "proof"}


@pytest.mark.slow
def test_all_examples_run_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(tmp_path, monkeypatch)
    run_examples(RUN, tmp_path, monkeypatch)
