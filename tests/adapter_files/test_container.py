import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detour.adapter_files.container import decode, encode, read_file
from detour.adapter_files.hashes import file_hashes
from detour.adapter_files.limits import DEFAULT_LIMITS, Limits
from detour.errors import AdapterError

TENSORS = {
    "b.weight": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "a.weight": torch.ones(3, 2, dtype=torch.float16),
    "c.weight": torch.full((4,), 0.5, dtype=torch.bfloat16),
    "a.alpha": torch.tensor(2.0),
}
METADATA = {"ss_x": 'é"\n', "a": "1", "format": "pt"}


def raw(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def refused(data: bytes, words: str, limits: Limits = DEFAULT_LIMITS) -> None:
    with pytest.raises(AdapterError, match=words):
        decode(data, limits, where="x.safetensors")


def test_encoded_tensors_are_what_safetensors_reads_and_would_have_written() -> None:
    ours, theirs = encode(TENSORS, METADATA), safetensors.torch.save(TENSORS, METADATA)
    assert len(ours) == len(theirs)
    start = 8 + int.from_bytes(theirs[:8], "little")
    assert ours[:8] == theirs[:8]
    assert ours[start:] == theirs[start:]
    back = safetensors.torch.load(ours)
    assert all(torch.equal(back[name], tensor) for name, tensor in TENSORS.items())


def test_decode_gives_back_tensors_and_metadata() -> None:
    tensors, metadata = decode(encode(TENSORS, METADATA), DEFAULT_LIMITS, where="x")
    assert metadata == METADATA
    assert all(torch.equal(tensors[name], tensor) for name, tensor in TENSORS.items())


def test_bytes_are_the_same_in_every_process_and_order() -> None:
    script = (
        "import torch, hashlib; from detour.adapter_files.container import encode;"
        "print(hashlib.sha256(encode({'a': torch.ones(2)}, {f'k{i}': str(i) for i in range(9)})).hexdigest())"
    )
    here = encode({"a": torch.ones(2)}, {f"k{i}": str(i) for i in reversed(range(9))})
    other = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    assert other.stdout.strip() == hashlib.sha256(here).hexdigest()


@pytest.mark.parametrize("training", [{"ss_a": "1"}, {}])
def test_hashes_are_those_of_kohyas_own_computation(training: dict[str, str]) -> None:
    """Its steps: serialise with the ss_ metadata alone, an empty table where there are none; SHA-256 behind the
    header; 64 KiB at 1 MiB, which the length of the header shifts."""
    tensors = {"x": torch.arange(400_000, dtype=torch.float32), "y": torch.ones(3)}
    metadata = {"modelspec.title": "not part of it", **training}
    data = safetensors.torch.save(tensors, training)
    start = 8 + int.from_bytes(data[:8], "little")
    hashes = file_hashes(tensors, metadata)
    assert hashes["sshs_model_hash"] == hashlib.sha256(data[start:]).hexdigest()
    assert hashes["sshs_legacy_hash"] == hashlib.sha256(data[0x100000:0x110000]).hexdigest()[:8]
    assert hashes["modelspec.hash_sha256"] == "0x" + hashes["sshs_model_hash"]


ENTRY = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "0 bytes are no safetensors"),
        (b"\x01", "1 bytes"),
        ((1 << 60).to_bytes(8, "little") + b"{}", "claims a header of"),
        ((100).to_bytes(8, "little") + b"{}", "ends within its header"),
        (raw(b"[1]"), "is a list, not a table"),
        (raw(b"{"), "not valid"),
        (raw(b"\xff\xfe"), "not valid"),
        (raw(b"[" * 100_000), "not valid"),
        (raw(b'{"a": NaN}'), "no number"),
        (raw(b'{"a": ' + b"9" * 5000 + b"}"), "not valid"),
        (
            raw(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{}}', bytes(4)),
            "'a' stands there twice",
        ),
        (raw({"__metadata__": {"a": 1}}), "table of strings"),
        (raw({"__metadata__": []}), "table of strings"),
        (raw({"a": 1}), "not described by"),
        (raw({"a": {**ENTRY, "more": 1}}, bytes(4)), "not described by"),
        (raw({"a": {**ENTRY, "dtype": "F8_E4M3"}}, bytes(4)), "has dtype F8_E4M3"),
        (raw({"a": {**ENTRY, "dtype": []}}, bytes(4)), "has dtype"),
        (raw({"a": {**ENTRY, "shape": [-1]}}, bytes(4)), "has the shape"),
        (raw({"a": {**ENTRY, "shape": [True]}}, bytes(4)), "has the shape"),
        (raw({"a": {**ENTRY, "shape": [1] * 6}}, bytes(4)), "has the shape"),
        (raw({"a": {**ENTRY, "shape": [2]}}, bytes(4)), "not what its shape needs"),
        (raw({"a": {**ENTRY, "data_offsets": [4, 0]}}, bytes(4)), "not what its shape needs"),
        (raw({"a": {**ENTRY, "data_offsets": [0]}}, bytes(4)), "a begin and an end"),
        (raw({"a": {**ENTRY, "data_offsets": [4, 8]}}, bytes(8)), "starts at byte 4"),
        (raw({"a": ENTRY, "b": ENTRY}, bytes(4)), "starts at byte 0 of the data, expected 4"),
        (raw({"a": ENTRY}, bytes(3)), "need 4 bytes, the file holds 3"),
        (raw({"a": ENTRY}, bytes(5)), "need 4 bytes, the file holds 5"),
        (raw({"a": ENTRY}, b"\x00\x00\xc0\x7f"), "'a' holds NaN"),
        (raw({"a": ENTRY}, b"\x00\x00\x80\xff"), "'a' holds NaN or infinity"),
    ],
)
def test_a_lying_file_is_refused_with_its_lie_named(data: bytes, words: str) -> None:
    refused(data, words)


def test_header_and_tensor_count_are_capped() -> None:
    many = encode({f"t{index}": torch.ones(1) for index in range(5)}, {})
    refused(many, "claims a header", Limits(max_header_bytes=64))
    refused(many, "5 tensors, the limit is 4", Limits(max_tensors=4))


def test_names_from_a_file_are_cut_and_made_printable_in_messages() -> None:
    data = raw({"\x1b[31m" + "x" * 500: 1})
    with pytest.raises(AdapterError) as caught:
        decode(data, DEFAULT_LIMITS, where="f")
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("name", ["a.pt", "a.bin", "a.ckpt", "a.safetensors"])
def test_pickles_are_refused_by_name_or_content(tmp_path: Path, name: str) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / name)
    with pytest.raises(AdapterError, match="a pickle, which can run code"):
        read_file(tmp_path / name, DEFAULT_LIMITS)


@pytest.mark.parametrize("length", [640, 896, 1152, 1408])
def test_a_header_whose_length_looks_like_a_pickle_is_read_all_the_same(tmp_path: Path, length: int) -> None:
    for spaces in range(length):
        data = encode({"a": torch.ones(1)}, {"a": " " * spaces})
        if int.from_bytes(data[:8], "little") == length:
            break
    assert data.startswith(b"\x80")
    (tmp_path / "a.safetensors").write_bytes(data)
    assert read_file(tmp_path / "a.safetensors", DEFAULT_LIMITS) == data


def test_what_is_no_readable_file_of_sane_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="cannot be read"):
        read_file(tmp_path / "gone.safetensors", DEFAULT_LIMITS)
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(AdapterError, match="not a file"):
        read_file(tmp_path / "pipe.safetensors", DEFAULT_LIMITS)
    (tmp_path / "big.safetensors").write_bytes(bytes(2000))
    with pytest.raises(AdapterError, match="larger than an adapter"):
        read_file(tmp_path / "big.safetensors", Limits(max_file_bytes=1000))


GOOD = encode(TENSORS, METADATA)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.data())
def test_damaged_files_give_an_adapter_error_or_tensors_and_nothing_else(data: st.DataObject) -> None:
    broken = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 4))):
        kind = data.draw(st.sampled_from(["flip", "cut", "insert", "zero"]))
        place = data.draw(st.integers(0, max(len(broken) - 1, 0)))
        if kind == "flip" and broken:
            broken[place] ^= 1 << data.draw(st.integers(0, 7))
        elif kind == "cut":
            del broken[place:]
        elif kind == "insert":
            broken[place:place] = data.draw(st.binary(min_size=1, max_size=8))
        elif broken:
            broken[place] = 0
    try:
        tensors, metadata = decode(bytes(broken), DEFAULT_LIMITS, where="x")
    except AdapterError:
        return
    assert all(isinstance(tensor, torch.Tensor) for tensor in tensors.values())
    assert all(isinstance(text, str) for text in metadata.values())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FIELDS = {"dtype": JSON | st.just("F32"), "shape": JSON, "data_offsets": JSON}


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.dictionaries(st.text(max_size=8), JSON | st.fixed_dictionaries(FIELDS), max_size=4) | JSON, st.binary()
)
def test_any_header_at_all_gives_an_adapter_error_or_tensors(header: object, tail: bytes) -> None:
    message = ""
    try:
        decode(raw(header, tail), DEFAULT_LIMITS, where="x")
    except AdapterError as error:
        message = str(error)
    assert "\n" not in message


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_nothing_that_is_not_finite_is_encoded(value: float) -> None:
    with pytest.raises(AdapterError, match="'b' would hold NaN or infinity"):
        encode({"a": torch.ones(2), "b": torch.tensor([1.0, value]).half()}, {})
