"""A tiny base that goes for one of the package's own, whose world is known."""

import json
import shutil
from pathlib import Path

import pytest

from detour.bases.embedded import EMBEDDED, EmbeddedBase
from tests.evaluation.tiny_judge import make_tiny_judge


def embedded_base(
    tiny_base: Path, folder: Path, patch: pytest.MonkeyPatch, *, with_judge: bool = False
) -> Path:
    """The tiny base as an embedded one while the patch holds; its judge is random, or an empty folder."""
    copy = folder / "tiny-embedded"
    shutil.copytree(tiny_base, copy)
    if with_judge:
        vocabulary = json.loads((copy / "tokenizer" / "vocab.json").read_text())
        make_tiny_judge(copy / "judge", vocab_size=len(vocabulary))
    else:
        (copy / "judge").mkdir()
    embed(copy, patch)
    return copy


def embed(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Make the package's own of a base's folder while the patch holds."""
    known = EmbeddedBase(name=str(folder), folder=folder, identity=folder.name, defaults="pocket")
    patch.setitem(EMBEDDED, str(folder), known)
