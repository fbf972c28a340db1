"""A partial reading takes whole layers only and lists the rest; by default nothing is left out."""

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch

from detour.adapter_files import read_adapter, write_adapter
from detour.errors import AdapterError
from tests.adapter_files.examples import SD1, assert_same, small_adapter

GOOD, BAD = "lora_unet_conv_out", "lora_unet_conv_in"
WHOLE = {f"{GOOD}.lora_down.weight": torch.ones(2, 3), f"{GOOD}.lora_up.weight": torch.ones(4, 2)}


def save(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    path.write_bytes(safetensors.torch.save(tensors))  # ours writes nothing that is not finite
    return path


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"some.thing": torch.ones(1)}, ["'some.thing' cannot be read"]),
        ({f"{BAD}.lora_down.weight": torch.ones(2, 3)}, ["'unet.conv_in' has no up factor"]),
        (
            {f"{BAD}.lora_down.weight": torch.ones(2, 3), f"{BAD}.lora_up.weight": torch.ones(4, 3)},
            ["'unet.conv_in': factors of shape"],
        ),
        (
            {
                f"{BAD}.lora_down.weight": torch.full((2, 3), float("nan")),
                f"{BAD}.lora_up.weight": torch.ones(4, 2),
            },
            [f"'{BAD}.lora_down.weight' holds NaN", "'unet.conv_in' is left out whole"],
        ),
        (
            {
                f"{BAD}.lora_down.weight": torch.ones(2, 3),
                f"{BAD}.lora_up.weight": torch.ones(4, 2),
                f"{BAD}.diff_b": torch.ones(4),
            },
            [f"'{BAD}.diff_b' cannot be read: changes of biases", "'unet.conv_in' is left out whole"],
        ),
        (
            {f"{BAD}.alpha": torch.ones(1), "lora_unet_input_blocks_0_0.alpha": torch.ones(1)},
            ["'unet.conv_in' is left out whole", "'unet.conv_in' stands there twice"],
        ),
        ({f"{BAD}.oft_blocks": torch.ones(1)}, ["OFT and BOFT are not supported", "is left out whole"]),
    ],
)
def test_what_cannot_be_read_is_an_error_or_listed(
    tmp_path: Path, more: dict[str, torch.Tensor], words: list[str]
) -> None:
    path = save(tmp_path / "a.safetensors", WHOLE | more)
    with pytest.raises(AdapterError):
        read_adapter(path)
    adapter = read_adapter(path, allow_partial=True)
    assert set(adapter.layers) == {"unet.conv_out"}
    assert len(adapter.left_out) == len(words)
    for word in words:
        assert any(word in line for line in adapter.left_out), (word, adapter.left_out)
    assert not any(str(tmp_path) in line for line in adapter.left_out)


def test_a_whole_file_leaves_nothing_out(tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "a.safetensors", small_adapter(text=True), family=SD1)
    adapter = read_adapter(path, allow_partial=True)
    assert adapter.left_out == ()
    assert_same(adapter, small_adapter(text=True))


def test_a_file_of_which_nothing_can_be_read_is_an_error_even_so(tmp_path: Path) -> None:
    path = save(tmp_path / "a.safetensors", {"some.thing": torch.ones(1)})
    with pytest.raises(
        AdapterError, match=r"no adapter layers \(1 things were left out, the first: 'some.thing'"
    ):
        read_adapter(path, allow_partial=True)


def test_peft_and_diffusers_are_read_in_part_too(tmp_path: Path) -> None:
    for file_format in ("peft", "diffusers"):
        path = write_adapter(tmp_path / file_format, small_adapter(), file_format=file_format, family=SD1)  # type: ignore[arg-type]
        file = path / "adapter_model.safetensors" if path.is_dir() else path
        data = file.read_bytes()
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        name = next(name for name in header if name.endswith("conv_in.lora_B.weight"))
        header[name.replace("conv_in", "conv_im")] = header.pop(name)
        text = json.dumps(header).encode()
        file.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
        with pytest.raises(AdapterError, match=r"conv_im.lora_B.weight' cannot be read"):
            read_adapter(path)
        adapter = read_adapter(path, allow_partial=True)
        assert len(adapter.layers) == 2
        assert len(adapter.left_out) == 2


def test_a_lying_container_is_refused_even_in_part(tmp_path: Path) -> None:
    path = save(tmp_path / "a.safetensors", WHOLE)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(AdapterError, match="the file holds"):
        read_adapter(path, allow_partial=True)
