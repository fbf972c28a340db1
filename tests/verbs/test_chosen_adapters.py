from pathlib import Path

import pytest

from detour.errors import AdapterError
from detour.verbs.chosen_adapters import parse_lora


def test_lora_names_may_hold_colons_and_end_in_numbers(tmp_path: Path) -> None:
    for name in ("plain.safetensors", "odd:0.5"):
        (tmp_path / name).touch()
    assert parse_lora(f"{tmp_path}/plain.safetensors") == (tmp_path / "plain.safetensors", 1.0)
    assert parse_lora(f"{tmp_path}/plain.safetensors:-0.5") == (tmp_path / "plain.safetensors", -0.5)
    assert parse_lora(f"{tmp_path}/odd:0.5") == (tmp_path / "odd:0.5", 1.0)
    for bad in ("plain.safetensors:strong", "plain.safetensors:nan", "plain.safetensors:inf"):
        with pytest.raises(AdapterError, match="is no weight"):
            parse_lora(f"{tmp_path}/{bad}")
