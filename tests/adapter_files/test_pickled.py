"""Pickles: refused unless they are asked for, and then tensors alone come out of them, soon and in bounded memory."""

import io
import os
import pickle
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from detour.adapter_files import Limits, read_adapter, write_adapter
from detour.adapter_files.kohya import to_kohya
from detour.adapter_files.pickled import read_pickled
from detour.adapters.delta import largest_relative_difference
from detour.cli.main import cli
from detour.errors import AdapterError
from tests.adapter_files.examples import SD1, small_adapter

LONGEST_S = 1.0
RAN = "DETOUR_TEST_PICKLE_RAN"
NAME = "lora_unet_conv_in"


def tensors() -> dict[str, Tensor]:
    return to_kohya(small_adapter(text=True), SD1, torch.float32)


def saved(path: Path, value: Any, **options: Any) -> Path:
    torch.save(value, path, **options)
    return path


@pytest.mark.parametrize("suffix", [".pt", ".bin", ".ckpt", ".PT"])
def test_a_pickle_is_refused_with_the_name_of_the_option_and_read_with_it(
    tmp_path: Path, suffix: str
) -> None:
    path = saved(tmp_path / f"a{suffix}", tensors())
    with pytest.raises(AdapterError, match=r"can run code when it is opened.*--allow-pickle"):
        read_adapter(path)
    back = read_adapter(path, allow_pickle=True)
    assert largest_relative_difference(small_adapter(text=True), back) == 0.0
    assert back.layers.keys() == small_adapter(text=True).layers.keys()


def test_precision_and_a_table_under_state_dict_are_understood(tmp_path: Path) -> None:
    half = {name: torch.nn.Parameter(tensor.half()) for name, tensor in tensors().items()}
    back = read_adapter(saved(tmp_path / "a.ckpt", {"state_dict": half, "epoch": 3}), allow_pickle=True)
    assert back.file_dtype == "fp16"
    assert back.file_format == "kohya"


def test_a_peft_folder_with_pickled_weights_is_read_where_it_is_allowed(tmp_path: Path) -> None:
    import safetensors.torch

    folder = write_adapter(tmp_path / "a", small_adapter(), file_format="peft", family=SD1)
    weights = folder / "adapter_model.safetensors"
    saved(folder / "adapter_model.bin", safetensors.torch.load(weights.read_bytes()))
    weights.unlink()
    with pytest.raises(AdapterError, match="--allow-pickle"):
        read_adapter(folder)
    for place in (folder, folder / "adapter_model.bin"):
        assert largest_relative_difference(small_adapter(), read_adapter(place, allow_pickle=True)) == 0.0


def test_no_kind_of_file_is_tried_after_another_has_failed(tmp_path: Path) -> None:
    disguised = saved(tmp_path / "a.safetensors", tensors())
    with pytest.raises(AdapterError, match="a pickle, which can run code"):
        read_adapter(disguised, allow_pickle=True)
    whole = write_adapter(tmp_path / "b.safetensors", small_adapter(), family=SD1)
    with pytest.raises(AdapterError, match=r"no archive of torch\.save"):
        read_adapter(whole.rename(tmp_path / "b.pt"), allow_pickle=True)


class Calls:
    """Pickles as a call of a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


@pytest.mark.parametrize(
    "call",
    [
        Calls(os.putenv, RAN, "1"),
        Calls(eval, f"__import__('os').environ.setdefault('{RAN}', '1')"),
        Calls(bytearray, 1 << 40),
        Calls(torch.Tensor, 1 << 14, 1 << 14),
        Calls(set, [1]),
        Calls(torch.sparse_coo_tensor, [[0]], [1.0]),
    ],
    ids=["putenv", "eval", "bytearray", "tensor", "set", "sparse"],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_nothing_is_called_and_nothing_is_built_for_a_hostile_pickle(
    tmp_path: Path, call: Calls, protocol: int
) -> None:
    path = saved(tmp_path / "a.pt", {f"{NAME}.alpha": torch.ones(1), "x": call}, pickle_protocol=protocol)
    start = time.process_time()
    with pytest.raises(AdapterError, match=r"does more than hold tensors|which no adapter needs"):
        read_adapter(path, allow_pickle=True)
    assert time.process_time() - start < LONGEST_S
    assert RAN not in os.environ


def repacked(path: Path, change: Callable[[dict[str, bytes]], None], **options: Any) -> Path:
    """The archive of a whole file, written again with other entries."""
    source = io.BytesIO()
    torch.save({f"{NAME}.lora_down.weight": torch.ones(4, 8)}, source)
    with zipfile.ZipFile(source) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    change(entries)
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return path


def pickle_of(entries: dict[str, bytes]) -> str:
    return next(name for name in entries if name.endswith("data.pkl"))


def more_numbers(entries: dict[str, bytes]) -> None:
    """The storage claims 2^24 numbers where the archive has 32."""
    name = pickle_of(entries)
    entries[name] = entries[name].replace(b"K tq", b"J\x00\x00\x00\x01tq")


def second_pickle(entries: dict[str, bytes]) -> None:
    entries["other/data.pkl"] = entries[pickle_of(entries)]


def large_pickle(entries: dict[str, bytes]) -> None:
    entries[pickle_of(entries)] += b"N" * (3 << 20)


def many_instructions(entries: dict[str, bytes]) -> None:
    entries[pickle_of(entries)] = b"\x80\x02" + b"N" * ((2 << 20) - 3) + b"."


def large_memo(entries: dict[str, bytes]) -> None:
    entries[pickle_of(entries)] = b"\x80\x02}r\xff\xff\xff\x7f."


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        (lambda entries: None, {"compression": zipfile.ZIP_DEFLATED}, "compressed entries"),
        (more_numbers, {}, "record size"),
        (second_pickle, {}, "2 pickles"),
        (large_pickle, {}, "a pickle of 3,"),
        (many_instructions, {}, "does more than hold tensors"),
        (large_memo, {}, "not a file|holds no adapter layers"),
    ],
)
def test_archives_that_lie_are_refused_soon(
    tmp_path: Path, change: Callable[[dict[str, bytes]], None], options: dict[str, Any], words: str
) -> None:
    path = repacked(tmp_path / "a.pt", change, **options)
    start = time.process_time()
    with pytest.raises(AdapterError, match=words) as caught:
        read_adapter(path, allow_pickle=True)
    assert time.process_time() - start < 2 * LONGEST_S
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"a": torch.ones(()).expand(1 << 20, 1 << 20)}, "more numbers than the file holds"),
        (
            {str(index): torch.ones(300)[:] for index in range(3)} | {"x": torch.ones(1).expand(900_000)},
            "more numbers",
        ),
        ({"a": torch.full((2, 2), float("nan"))}, "'a' holds NaN"),
        ({"a": torch.ones(1, 1, 1, 1, 1, 1)}, "at most 5 sizes"),
        ({"a": torch.ones(2, dtype=torch.bool)}, "names 'torch BoolStorage'"),
        ({"a": 3}, "holds no table of tensors"),
        ([torch.ones(1)], "holds no table of tensors"),
        ({3: torch.ones(1)}, "holds no table of tensors"),
        ({}, "no adapter layers"),
    ],
)
def test_what_is_no_table_of_plain_tensors_is_refused(tmp_path: Path, value: Any, words: str) -> None:
    with pytest.raises(AdapterError, match=words):
        read_adapter(saved(tmp_path / "a.pt", value), allow_pickle=True)


def test_views_of_one_large_tensor_cannot_stand_for_many(tmp_path: Path) -> None:
    large = torch.zeros(1 << 16)
    path = saved(tmp_path / "a.pt", {str(index): large for index in range(50)})
    with pytest.raises(AdapterError, match="more numbers than the file holds"):
        read_adapter(path, allow_pickle=True)


def test_older_pickles_and_files_beyond_the_limits_are_refused(tmp_path: Path) -> None:
    old = saved(tmp_path / "old.pt", tensors(), _use_new_zipfile_serialization=False)
    with pytest.raises(AdapterError, match="an older kind of pickle"):
        read_adapter(old, allow_pickle=True)
    (tmp_path / "plain.pt").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(AdapterError, match="no archive"):
        read_adapter(tmp_path / "plain.pt", allow_pickle=True)
    whole = saved(tmp_path / "a.pt", tensors())
    with pytest.raises(AdapterError, match="larger than an adapter can be"):
        read_pickled(whole, Limits(max_file_bytes=1000))
    with pytest.raises(AdapterError, match="It is no adapter"):
        read_pickled(whole, Limits(max_tensors=2))
    with pytest.raises(AdapterError, match="cannot be read"):
        read_adapter(tmp_path / "none.pt", allow_pickle=True)


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.data())
def test_broken_pickles_are_an_error_of_one_line_or_a_sound_adapter(
    tmp_path: Path, data: st.DataObject
) -> None:
    path = saved(tmp_path / "a.pt", tensors())
    broken = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, max(len(broken) - 1, 0)))
        kind = data.draw(st.sampled_from(["flip", "cut", "insert", "drop", "pickle"]))
        if kind == "flip" and broken:
            broken[place] ^= 1 << data.draw(st.integers(0, 7))
        elif kind == "pickle" and len(broken) > 400:  # the instructions stand first in the archive
            broken[64 + place % 300] = data.draw(st.integers(0, 255))
        elif kind == "cut":
            del broken[place:]
        elif kind == "insert":
            broken[place:place] = data.draw(st.binary(min_size=1, max_size=9))
        else:
            del broken[place : place + data.draw(st.integers(1, 9))]
    path.write_bytes(bytes(broken))
    start = time.process_time()
    message, layers = "", {}
    try:
        layers = dict(read_adapter(path, allow_pickle=True, allow_partial=data.draw(st.booleans())).layers)
    except AdapterError as error:
        message = str(error)
    assert "\n" not in message
    assert len(message) < 1000
    assert all(bool(t.isfinite().all()) for layer in layers.values() for t in layer.tensors.values())
    assert time.process_time() - start < LONGEST_S


def test_every_command_that_reads_adapters_has_the_option(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", tensors())
    run = CliRunner()
    shown = run.invoke(cli, ["show", str(path)])
    assert isinstance(shown.exception, AdapterError)
    assert "--allow-pickle" in str(shown.exception)
    assert "kohya, fp32" in run.invoke(cli, ["show", str(path), "--allow-pickle"]).output
    out = str(tmp_path / "b.safetensors")
    assert run.invoke(cli, ["convert", str(path), out, "--to", "diffusers", "--allow-pickle"]).exit_code == 0
    for command in ("merge", "compose", "resize", "grid", "generate"):
        assert "--allow-pickle" in run.invoke(cli, [command, "--help"]).output
