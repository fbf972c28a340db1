"""A failed write of tensors is a storage error with a cause, whatever the library makes of it."""

import ast
import errno
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors import SafetensorError

import detour
from detour import tensor_files
from detour.errors import StorageError
from detour.tensor_files import write_tensors

TENSORS = {"a": torch.arange(4.0)}


def test_what_is_written_is_what_the_library_reads(tmp_path: Path) -> None:
    write_tensors(tmp_path / "new" / "a.safetensors", TENSORS, {"format": "pt"})
    read = safetensors.torch.load_file(tmp_path / "new" / "a.safetensors")
    assert torch.equal(read["a"], TENSORS["a"])


@pytest.fixture
def small_files() -> Iterator[None]:
    """Files of this process may not grow beyond 64 KiB: a write fails in the system, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("small_files")
def test_a_write_that_the_system_refuses_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"a.safetensors: could not be written \(File too large\)"):
        write_tensors(tmp_path / "a.safetensors", {"a": torch.zeros(1 << 16)}, {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("code", "words"), [(errno.ENOSPC, "disk full"), (errno.EROFS, "not writable")])
def test_the_systems_code_becomes_the_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, words: str
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise SafetensorError(f"Error while serializing: I/O error: … (os error {code})")

    monkeypatch.setattr(tensor_files, "save_file", fails)
    with pytest.raises(StorageError, match=words):
        write_tensors(tmp_path / "a.safetensors", TENSORS, {})
    assert list(tmp_path.iterdir()) == []


def test_nobody_else_saves_tensors_with_the_library() -> None:
    package = Path(detour.__file__).parent
    for path in package.rglob("*.py"):
        if path.name == "tensor_files.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [one.name for one in node.names] if isinstance(node, ast.ImportFrom) else []
            assert "save_file" not in names, f"{path}: use detour.tensor_files.write_tensors"
