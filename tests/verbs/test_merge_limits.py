"""How far a merge may be off: by rounding in its weights, by one step of 255 in its pictures."""

from pathlib import Path

import pytest

from detour.adapter_files.writing import write_adapter
from detour.bases.base import open_base
from detour.errors import ProofFailed
from detour.verbs.adapter_tools import merged_weights
from detour.verbs.adapter_tools.merging import merge_adapters
from tests.evaluation.flat_pictures import FlatPainter
from tests.verbs.flat_runs import painted_weight
from tests.verbs.test_prove_run import trained_adapter


@pytest.fixture(scope="module")
def lora(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("loras") / "a.safetensors"
    return write_adapter(path, trained_adapter(tiny_base), family=open_base(str(tiny_base)).family)


def test_a_change_that_is_off_by_a_twenty_thousandth_is_refused(
    tiny_base: Path, lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = merged_weights.merged_tensor
    monkeypatch.setattr(
        merged_weights,
        "merged_tensor",
        lambda weight, pieces: true(weight, [(layer, strength * (1 + 5e-5)) for layer, strength in pieces]),
    )
    with pytest.raises(ProofFailed, match="off by"):
        merge_adapters(str(tiny_base), [str(lora)], out=tmp_path / "m", pictures=0)
    assert list(tmp_path.iterdir()) == []


def test_a_merged_base_may_draw_one_step_of_255_otherwise_and_not_two(
    tiny_base: Path, lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = trained_adapter(tiny_base)
    painter = FlatPainter(adapter=adapter, weight=painted_weight(tiny_base, adapter), merged_shift=1)
    painter.install(monkeypatch)
    found = merge_adapters(str(tiny_base), [str(lora)], out=tmp_path / "m", pictures=1).pictures
    assert found is not None
    assert found.merged_max == 1
    assert found.effect > 90
    painter.merged_shift = 2
    with pytest.raises(ProofFailed, match="by up to 2 of 255"):
        merge_adapters(str(tiny_base), [str(lora)], out=tmp_path / "n", pictures=1)
    assert not (tmp_path / "n").exists()
