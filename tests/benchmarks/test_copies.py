"""The curve of found copies over false alarms, from distances that are known."""

import numpy as np
import pytest
from benchmarks.copies_plots import _recall


def test_copies_count_as_found_below_the_distance_at_which_so_many_new_pictures_lie() -> None:
    groups = {
        "planted": [0.1, 0.2, 0.3, 0.9],
        "autoencoder": [0.05],
        "new renders": [0.25, 0.5, 0.6, 0.7],
        "adapter, new prompts": [0.01],
    }
    rates = np.array([0.0, 0.25, 1.0])
    found = _recall(groups, ("new renders", "adapter, new prompts"), rates, memorised=True)
    assert found == pytest.approx([0.6, 0.8, 1.0])
    assert _recall(groups, ("new renders", "adapter, new prompts"), rates, memorised=False)[0] == 0.0
