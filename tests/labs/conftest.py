"""What tests that run lessons in this process share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from detour.labs import predictions
from detour.labs.checking import check


@pytest.fixture
def as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Lessons set gradients, threads and the folder; afterwards all three are as they were."""
    threads, gradients = torch.get_num_threads(), torch.is_grad_enabled()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("IPython.display.display", lambda *_: None)
    check._results.clear()
    yield
    torch.set_num_threads(threads)
    torch.set_grad_enabled(gradients)
    check._results.clear()
    predictions._PREDICTIONS.clear()
