import json
import shutil
from pathlib import Path

import pytest

from tests.evaluation.tiny_judge import make_tiny_judge


@pytest.fixture(scope="session")
def judged(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tiny base with a judge beside it."""
    folder = tmp_path_factory.mktemp("judged") / "tiny"
    shutil.copytree(tiny_base, folder)
    vocabulary = json.loads((folder / "tokenizer" / "vocab.json").read_text())
    make_tiny_judge(folder / "judge", vocab_size=len(vocabulary))
    return str(folder)
