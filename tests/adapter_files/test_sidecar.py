"""What stands beside an adapter for programs that read triggers and pictures from there alone."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from detour.adapter_files.sidecar import write_sidecar
from detour.adapters.adapter import Adapter
from tests.adapter_files.examples import SD1, SDXL, small_adapter

PICTURE = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)


def test_the_card_says_the_trigger_under_a1111s_keys(tmp_path: Path) -> None:
    adapter = Adapter(small_adapter().layers, {"modelspec.trigger_phrase": "sks häuschen"})
    card, preview = write_sidecar(tmp_path / "neon.v1.safetensors", adapter, SDXL, PICTURE)
    assert (card.name, preview.name) == ("neon.v1.json", "neon.v1.preview.png")
    read = json.loads(card.read_text(encoding="utf-8"))
    assert (read["activation text"], read["sd version"], read["preferred weight"]) == (
        "sks häuschen",
        "SDXL",
        1.0,
    )
    with Image.open(preview) as image:
        assert np.array_equal(np.asarray(image), PICTURE)


def test_a_card_never_writes_over_a_file_of_the_run(tmp_path: Path) -> None:
    (tmp_path / "proof.json").write_text("{}")
    path = tmp_path / "proof.safetensors"
    assert write_sidecar(path, small_adapter(), SD1, None, taken=("proof.json",)) == []
    assert (tmp_path / "proof.json").read_text() == "{}"
