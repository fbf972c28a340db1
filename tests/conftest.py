"""Fixtures that tests of several tiers share."""

from pathlib import Path

import pytest

from tests.tiny_base import make_tiny_base


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random SD 1.x in miniature (64 px); read-only by agreement, copy it to change it."""
    return make_tiny_base(tmp_path_factory.mktemp("bases") / "tiny")
