import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from detour.adapter_files.layer_file import LayerFile
from detour.adapters.layers import Layer, LoraLayer
from detour.errors import ProofFailed
from detour.verbs.adapter_tools.adapter_output import Written, write_layers_proved
from tests.adapter_files.examples import SD1, small_adapter

LAYERS = small_adapter().layers


def written(out: Path, make: Callable[[str], Layer] = LAYERS.__getitem__, dtype: str = "fp32") -> Written:
    return write_layers_proved(
        out, LAYERS, make, metadata={}, file_format="kohya", family=SD1, dtype=dtype, force=False  # type: ignore[arg-type]
    )  # fmt: skip


def test_numbers_too_small_for_half_precision_leave_no_output(tmp_path: Path) -> None:
    def tiny(key: str) -> Layer:
        layer = LAYERS[key]
        assert isinstance(layer, LoraLayer)
        return LoraLayer(down=layer.down, up=layer.up * 1e-9, alpha=layer.alpha)

    with pytest.raises(ProofFailed, match=r"would differ by 1 .*--dtype fp32"):
        written(tmp_path / "a.safetensors", tiny, "fp16")
    assert not list(tmp_path.iterdir())
    assert written(tmp_path / "a.safetensors", tiny).largest_difference == 0.0


def test_a_file_that_holds_another_layer_than_was_asked_for_leaves_no_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = LayerFile.layer

    def changed(self: LayerFile, key: str) -> Layer:
        layer = read(self, key)
        assert isinstance(layer, LoraLayer)
        return LoraLayer(down=layer.down, up=layer.up * 1.001, alpha=layer.alpha)

    monkeypatch.setattr(LayerFile, "layer", changed)
    with pytest.raises(ProofFailed, match=r"would differ by 0\.001"):
        written(tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())


_COMPOSING = """
import resource, sys
from pathlib import Path
import torch
from detour.adapter_files.layer_writer import LayerWriter
from detour.adapters.layers import LoraLayer
from detour.bases.families import FAMILIES
from detour.verbs.adapter_tools.composition import compose_adapters

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

torch.set_num_threads(1)
folder, places = Path(sys.argv[1]), [f"unet.down_blocks.2.attentions.{i}.transformer_blocks.{j}.attn1.to_{e}"
                                     for i in range(2) for j in range(25) for e in "qkv"]
for name in "ab":
    with LayerWriter(folder / f"{name}.safetensors", file_format="kohya", family=FAMILIES["sd1"], dtype="fp16") as out:
        for place in places:
            out.add(place, LoraLayer(down=torch.randn(64, 1280), up=torch.randn(1280, 64), alpha=8.0))
        out.finish({})
before = peak()
compose_adapters([str(folder / "a.safetensors"), str(folder / "b.safetensors")], out=folder / "c.safetensors")
print(peak() - before)
"""


@pytest.mark.slow
def test_composing_takes_the_memory_of_a_layer_and_not_of_the_adapters(tmp_path: Path) -> None:
    """Two times 150 layers are 187 MiB in fp32, and as much again composed."""
    done = subprocess.run(
        [sys.executable, "-c", _COMPOSING, str(tmp_path)], check=True, capture_output=True, text=True
    )
    assert float(done.stdout) < 80
