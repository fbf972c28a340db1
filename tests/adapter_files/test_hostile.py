"""Broken and hostile files, made from valid ones: an error of one line or a sound adapter, soon, in small memory."""

import json
import math
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detour.adapter_files import Limits, read_adapter, write_adapter
from detour.adapter_files.container import encode
from detour.adapters.adapter import Adapter
from detour.adapters.layers import Layer
from detour.adapters.lycoris_layers import LokrLayer
from detour.bases.families import FAMILIES
from detour.errors import AdapterError
from tests.adapter_files.examples import SD1, small_adapter
from tests.adapters.kinds import (
    CONV,
    LINEAR,
    dora,
    loha,
    loha_tucker,
    lokr,
    lokr_both,
    lokr_tucker,
    lokr_whole,
    lora,
    numbers,
)

FUZZ = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
LONGEST_S = 1.0
PLACES = "unet.mid_block.attentions.0.transformer_blocks.{}.attn1.to_q"


def every_kind() -> Adapter:
    linear = [dora(LINEAR), loha(LINEAR), lokr(LINEAR), lokr_both(LINEAR), lokr_whole(LINEAR)]
    conv = [dora(CONV), loha_tucker(CONV), lokr_tucker(CONV)]
    layers = {PLACES.format(index): layer for index, layer in enumerate([*linear, *conv])}
    return Adapter({**layers, **small_adapter(text=True).layers})


def fused() -> Adapter:
    """Parts of one layer of Flux and SD 3 in kohya's format, and a T5's layer."""
    block = "transformer.transformer_blocks.0"
    square = (8, 8)
    layers: dict[str, Layer] = {f"{block}.attn.to_{name}": lora(square) for name in "qk"}
    layers |= {f"{block}.attn.add_{name}_proj": lora(square) for name in "qkv"}
    layers |= {f"{block}.ff.net.2": lora(square), "transformer.norm_out.linear": lora((16, 8))}
    return Adapter({**layers, "text_encoder_2.encoder.block.0.layer.0.SelfAttention.q": lora(square)})


def only(kind: str) -> Adapter:
    if kind == "lokr":
        layer = LokrLayer(w1=numbers(2, 2), w2_a=numbers(4, 1), w2_b=numbers(1, 3), alpha=2.0)
        return Adapter({PLACES.format(index): layer for index in (0, 1)})
    make = {"dora": dora, "loha": loha}[kind]
    return Adapter({PLACES.format(0): make(LINEAR), PLACES.format(1): make(CONV)})


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[bytes, str | None]]:
    """Whole files, each with the text of the config beside it where it has one."""
    folder = tmp_path_factory.mktemp("valid")
    found: list[tuple[bytes, str | None]] = []
    for index, (adapter, file_format, family) in enumerate(
        [
            (every_kind(), "kohya", "sd1"),
            (small_adapter(text=True), "diffusers", "sd1"),
            (only("dora"), "diffusers", "sd1"),
            (only("dora"), "peft", "sd1"),
            (only("loha"), "peft", "sd1"),
            (only("lokr"), "peft", "sd1"),
            (fused(), "kohya", "flux"),
            (fused(), "kohya", "sd3"),
            (fused(), "diffusers", "sd3"),
        ]
    ):
        path = write_adapter(
            folder / f"{index}.safetensors",
            adapter,
            file_format=file_format,  # type: ignore[arg-type]
            family=FAMILIES[family],  # type: ignore[index]
        )
        if path.is_dir():
            config = (path / "adapter_config.json").read_text()
            found.append(((path / "adapter_model.safetensors").read_bytes(), config))
        else:
            found.append((path.read_bytes(), None))
    return found


def put(folder: Path, data: bytes, config: str | None) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "adapter_model.safetensors").write_bytes(data)
    if config is None:
        return (folder / "adapter_model.safetensors").rename(folder / "a.safetensors")
    (folder / "adapter_config.json").write_text(config)
    return folder


def judge(folder: Path, data: bytes, config: str | None, *, partial: bool) -> None:
    for old in folder.glob("*"):
        old.unlink()
    path = put(folder, data, config)
    start = time.process_time()
    message, adapter = "", None
    try:
        adapter = read_adapter(path, allow_partial=partial)
    except AdapterError as error:
        message = str(error)
    assert "\n" not in message
    assert len(message) < 1000
    if adapter is not None:
        assert adapter.layers
        for layer in adapter.layers.values():
            assert math.isfinite(layer.alpha)
            assert 0 < layer.rank <= Limits().max_rank
            assert all(bool(torch.isfinite(tensor).all()) for tensor in layer.tensors.values())
            assert layer.in_features * layer.out_features <= Limits().max_change_elements
    assert time.process_time() - start < LONGEST_S


def test_the_files_to_break_are_whole(tmp_path: Path, valid: list[tuple[bytes, str | None]]) -> None:
    for index, (data, config) in enumerate(valid):
        assert len(read_adapter(put(tmp_path / str(index), data, config)).layers) >= 2


@FUZZ
@given(st.data())
def test_bytes_cut_flipped_and_put_in(tmp_path: Path, valid: list[Any], data: st.DataObject) -> None:
    whole, config = data.draw(st.sampled_from(valid))
    broken = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        kind = data.draw(st.sampled_from(["flip", "cut", "insert", "drop"]))
        place = data.draw(st.integers(0, max(len(broken) - 1, 0)))
        if kind == "flip" and broken:
            broken[place] ^= 1 << data.draw(st.integers(0, 7))
        elif kind == "cut":
            del broken[place:]
        elif kind == "insert":
            broken[place:place] = data.draw(st.binary(min_size=1, max_size=9))
        elif kind == "drop":
            del broken[place : place + data.draw(st.integers(1, 9))]
    judge(tmp_path, bytes(broken), config, partial=data.draw(st.booleans()))


SIZES = st.sampled_from([0, 1, 2, 3, 6, 8, 255, 1 << 16, 1 << 31, 1 << 40, 1 << 61, -1, 1 << 70])
VALUES = st.one_of(SIZES, st.none(), st.floats(), st.text(max_size=4), st.lists(SIZES, max_size=5))


@FUZZ
@given(st.data())
def test_headers_that_lie_about_shapes_regions_kinds_and_names(
    tmp_path: Path, valid: list[Any], data: st.DataObject
) -> None:
    """Huge shapes, overlaps, gaps, exchanged dtypes, and names that belong to another tensor or to none."""
    whole, config = data.draw(st.sampled_from(valid))
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    names = sorted(name for name in header if name != "__metadata__")
    for _ in range(data.draw(st.integers(1, 3))):
        name, other = data.draw(st.sampled_from(names)), data.draw(st.sampled_from(names))
        lie = data.draw(
            st.sampled_from(["shape", "overlap", "dtype", "swap", "rename", "transpose", "offsets"])
        )
        if name not in header or other not in header:
            continue
        if lie == "shape":
            header[name]["shape"] = data.draw(st.lists(SIZES, max_size=5))
        elif lie == "overlap":
            header[name]["data_offsets"] = header[other]["data_offsets"]
        elif lie == "dtype":
            header[name]["dtype"] = data.draw(
                st.sampled_from(["F64", "F16", "BF16", "I64", "I32", "BOOL", "", "F8"])
            )
        elif lie == "swap":
            header[name], header[other] = header[other], header[name]
        elif lie == "rename":
            header[data.draw(st.text(max_size=12)) or "x"] = header.pop(name)
        elif lie == "transpose" and isinstance(header[name]["shape"], list):
            header[name]["shape"] = header[name]["shape"][::-1]
        elif lie == "offsets":
            header[name]["data_offsets"] = data.draw(st.lists(SIZES, min_size=2, max_size=2))
    text = json.dumps(header).encode()
    judge(
        tmp_path,
        len(text).to_bytes(8, "little") + text + whole[8 + length :],
        config,
        partial=data.draw(st.booleans()),
    )


@FUZZ
@given(st.data())
def test_configs_that_lie(tmp_path: Path, valid: list[Any], data: st.DataObject) -> None:
    whole, config = data.draw(st.sampled_from([one for one in valid if one[1] is not None]))
    values = json.loads(config)
    keys = st.sampled_from(
        [*values, "use_dora", "use_rslora", "bias", "lora_alpha", "alpha", "r", "rank_pattern"]
    )
    for _ in range(data.draw(st.integers(1, 4))):
        values[data.draw(keys)] = data.draw(
            VALUES | st.dictionaries(st.text(max_size=6) | st.just("conv_in"), VALUES, max_size=3)
        )
    judge(tmp_path, whole, json.dumps(values), partial=False)


def kohya(name: str, **factors: tuple[int, ...]) -> dict[str, torch.Tensor]:
    return {f"{name}.{suffix.replace('__', '.')}": torch.ones(shape) for suffix, shape in factors.items()}


@pytest.mark.parametrize(
    ("factors", "words"),
    [
        (
            {
                "lora_down__weight": (1, 200_000, 1, 1),
                "lora_mid__weight": (1, 1, 99, 99),
                "lora_up__weight": (1, 1, 1, 1),
            },
            "folds to more than",
        ),
        (
            {"lora_down__weight": (1, 90_000), "lora_up__weight": (90_000, 1)},
            "changes a weight of 8,100,000,000 numbers",
        ),
        (
            {"hada_w1_a": (90_000, 1), "hada_w1_b": (1, 90_000), "hada_w2_a": (90_000, 1), "hada_w2_b": (1, 90_000)},
            "changes a weight of 8,100,000,000 numbers",
        ),
        ({"lokr_w1": (300, 300), "lokr_w2": (300, 300)}, "changes a weight of 8,100,000,000 numbers"),
        (
            {"lokr_w1": (3, 3), "lokr_w2_a": (1, 20_000), "lokr_w2_b": (1, 20_000), "lokr_t2": (1, 1, 9, 9)},
            "changes a weight of",
        ),
        ({"lokr_w1": (3, 3), "lokr_w2_a": (3, 5_000), "lokr_w2_b": (5_000, 3)}, "has rank 5,000, the limit is 4,096"),
    ],
)  # fmt: skip
def test_small_files_that_stand_for_huge_changes_are_refused_before_anything_is_made(
    tmp_path: Path, factors: dict[str, tuple[int, ...]], words: str
) -> None:
    (tmp_path / "a.safetensors").write_bytes(encode(kohya("lora_unet_conv_in", **factors), {}))
    start = time.process_time()
    with pytest.raises(AdapterError, match=words):
        read_adapter(tmp_path / "a.safetensors")
    assert time.process_time() - start < LONGEST_S


def test_a_config_of_many_patterns_costs_no_more_than_the_layers(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a", small_adapter(), file_format="peft", family=SD1)
    config = json.loads((folder / "adapter_config.json").read_text())
    config["alpha_pattern"] = {f"layer{index}": 1 for index in range(20_000)}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(AdapterError, match="alpha_pattern has 20,000 entries"):
        read_adapter(folder)


def filled(head: bytes, unit: bytes, tail: bytes) -> bytes:
    count = (Limits().max_header_bytes - len(head) - len(tail)) // len(unit)
    return head + unit * count + tail


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            b"{" + b",".join(b'"%d":0' % index for index in range(540_000)) + b"}",
            "540,000 tensors, the limit is",
        ),
        (filled(b'{"a":[', b"[],", b"0]}"), "tables and lists"),
        (filled(b'{"a":[', b"{},", b"0]}"), "tables and lists"),
        (filled(b'{"a":[', b"0,", b"0]}"), "not described by dtype"),
        (filled(b'{"__metadata__":{"a":"', b"[:]", b'"}}'), "tables and lists"),
    ],
    ids=["names", "lists", "tables", "numbers", "metadata"],
)
def test_the_largest_headers_are_refused_soon(tmp_path: Path, text: bytes, words: str) -> None:
    assert 0.9 * Limits().max_header_bytes < len(text) <= Limits().max_header_bytes
    (tmp_path / "a.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
    start = time.process_time()
    with pytest.raises(AdapterError, match=words):
        read_adapter(tmp_path / "a.safetensors")
    assert time.process_time() - start < 2 * LONGEST_S  # half of it where it was measured


def test_a_lie_of_gigabytes_is_refused_without_reading_them(tmp_path: Path) -> None:
    """The file has holes, so that it takes no space here; read whole, it would take 3 GiB of memory."""
    entry = {"dtype": "F32", "shape": [1 << 29], "data_offsets": [0, 4 << 29]}
    text = json.dumps({"lora_unet_conv_in.lora_down.weight": entry}).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    with path.open("r+b") as stream:
        stream.truncate(3 << 30)
    start = time.process_time()
    with pytest.raises(AdapterError, match="the tensors need 2,147,483,648 bytes, the file holds 3,"):
        read_adapter(path)
    assert time.process_time() - start < LONGEST_S
