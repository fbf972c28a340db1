"""Held against LyCORIS 4.1.3 itself: what its modules save, and what their forward pass makes of a frozen weight."""

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from detour.adapter_files import read_adapter, write_adapter
from detour.adapter_files.container import encode
from detour.adapters.adapter import Adapter
from tests.adapter_files.examples import SD1
from tests.adapter_files.lycoris_reference import make

CASES = json.loads(make.PLACE.read_text(encoding="utf-8"))
NAMES = {
    "linear": "lora_unet_mid_block_attentions_0_transformer_blocks_0_ff_net_2",
    "conv": "lora_unet_conv_in",
}


def file_of(case: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {f"{NAMES[case['layer']]}.{suffix}": torch.tensor(value) for suffix, value in case["file"].items()}


def read_back(folder: Path, case: dict[str, Any]) -> Adapter:
    path = folder / "a.safetensors"
    path.write_bytes(encode(file_of(case), {}))
    return read_adapter(path)


@pytest.mark.parametrize("name", CASES)
def test_the_change_is_that_of_lycoris_forward_pass(tmp_path: Path, name: str) -> None:
    case = CASES[name]
    (layer,) = read_back(tmp_path, case).layers.values()
    frozen, merged = torch.tensor(case["frozen"]), torch.tensor(case["merged"])
    expected = merged - frozen
    assert expected.norm() > 0.02 * frozen.norm()
    off = (layer.delta(frozen).reshape(frozen.shape) - expected).norm() / expected.norm()
    assert off < 2e-6


@pytest.mark.parametrize("name", [name for name in CASES if not name.endswith("cp")])
def test_what_is_written_is_what_lycoris_wrote(tmp_path: Path, name: str) -> None:
    """CP form is left out: it is folded, and written as a plain convolution."""
    adapter = read_back(tmp_path, CASES[name])
    written = safetensors.torch.load(
        write_adapter(tmp_path / "b.safetensors", adapter, family=SD1).read_bytes()
    )
    expected = file_of(CASES[name])
    assert {key: tensor.shape for key, tensor in written.items()} == {
        key: tensor.shape for key, tensor in expected.items()
    }
    for key, tensor in expected.items():
        if not (key.endswith("alpha") and "whole" in name):  # there LyCORIS's alpha says nothing
            torch.testing.assert_close(written[key], tensor, rtol=1e-6, atol=0)


def test_the_numbers_are_those_that_lycoris_gives_where_it_is_installed() -> None:
    pytest.importorskip("lycoris", reason="lycoris-lora is not installed; the stored numbers stand for it")
    for name, case in make.make_all().items():
        for key in ("frozen", "merged"):
            torch.testing.assert_close(
                torch.tensor(case[key]), torch.tensor(CASES[name][key]), rtol=1e-5, atol=1e-6
            )
        assert case["file"].keys() == CASES[name]["file"].keys()
