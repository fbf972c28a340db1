"""Adapters by name: a folder that is scanned again and again, and copies of those that accepted jobs use."""

from __future__ import annotations

import re
import shutil
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from detour.adapter_files.fitting import check_fits
from detour.adapter_files.peft_format import is_peft_folder
from detour.adapter_files.reading import read_adapter
from detour.adapters.adapter import Adapter
from detour.bases.base import Base
from detour.errors import AdapterError, DetourError, StorageError, nearest
from detour.files import file_identity, printable, rename_durably, write_with
from detour.generation.requests import AdapterFile, AdapterInUse
from detour.safety.policy import adapter_texts
from detour.serving.jobs import PinnedAdapter
from detour.serving.refusals import BadRequest, NotFound
from detour.verbs.chosen_adapters import hashes_of

MAX_FILES = 10_000
DEPTH = 2
"""Depth of subfolders that are scanned."""
MAX_WEIGHT = 10.0
_NAME = re.compile(r"(?P<name>.+?)(?:@(?P<hash>[0-9a-f]{6,64}))?", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class ShelfEntry:
    """One adapter of the folder.

    Attributes:
        name: file or folder name without its ending.
        path: of the file or PEFT folder.
        sha256: of its content; empty where it cannot be read.
        tensor_sha256: of the tensors alone.
        layers: layers of the base that it changes.
        problem: why it cannot be asked for, or ``None``.
        alias: title in its metadata, or its name.
    """

    name: str
    path: Path
    sha256: str = ""
    tensor_sha256: str = ""
    layers: int = 0
    problem: str | None = None
    alias: str = ""


class Shelf:
    """Adapters of one folder by name; names are looked up and never turned into paths."""

    def __init__(
        self, folder: Path | None, base: Base, pinned: Path, *, network: nn.Module | None = None
    ) -> None:
        """Make an empty shelf, which :meth:`refresh` fills.

        Args:
            folder: of adapters; ``None``: there are none.
            base: that they must fit.
            pinned: folder for copies of what accepted jobs are drawn with.
            network: of the base, with its weights; ``None``: its shapes are made anew for each adapter.
        """
        self.folder, self.base, self.pinned, self._network = folder, base, pinned, network
        self._known: dict[Path, tuple[Any, ShelfEntry]] = {}
        self._lock = threading.Lock()
        self._refreshing, self._copying = threading.Lock(), threading.Lock()
        self._folders: OrderedDict[str, Adapter] = OrderedDict()
        self._texts: dict[str, tuple[str, ...]] = {}

    @property
    def entries(self) -> list[ShelfEntry]:
        """All adapters by name, including those that cannot be used."""
        with self._lock:
            return sorted(
                (entry for _, entry in self._known.values()), key=lambda one: (one.name, one.sha256)
            )

    def refresh(self) -> list[ShelfEntry]:
        """Scan the folder again, and return new and changed entries."""
        with self._refreshing:
            found = {} if self.folder is None else dict(_adapters_in(self.folder))
            with self._lock:
                known = dict(self._known)
            fresh = {}
            for path, identity in found.items():
                if path not in known or known[path][0] != identity:
                    fresh[path] = (identity, self._read(path))
            with self._lock:
                self._known = {path: fresh.get(path) or known[path] for path in found}
            return [entry for _, entry in fresh.values()]

    def _read(self, path: Path) -> ShelfEntry:
        name = path.name if path.is_dir() else path.stem
        try:
            sha256, tensor_sha256 = hashes_of(path)
            adapter = read_adapter(path)
            check_fits(adapter, self.base, called=name, network=self._network)
            if not adapter.layers and not adapter.words:
                raise AdapterError(f"{path.name}: no layer of base '{self.base.name}' is changed by it.")
        except (DetourError, OSError) as error:
            problem = str(error).replace(str(path.parent) + "/", "")
            return ShelfEntry(name=name, path=path, problem=problem, alias=name)
        self._texts[sha256] = tuple(text for _, text in adapter_texts(adapter))
        return ShelfEntry(
            name=name,
            path=path,
            sha256=sha256,
            tensor_sha256=tensor_sha256,
            layers=len(adapter.layers),
            alias=adapter.metadata.get("ss_output_name") or name,
        )

    def texts_of(self, sha256: str) -> tuple[str, ...]:
        """New words, trigger phrase and title of an adapter, which a safety policy reads as it reads a prompt.

        Args:
            sha256: of an adapter that was on the shelf, and may be gone.
        """
        return self._texts.get(sha256, ())

    def find(self, asked: str) -> ShelfEntry:
        """Find an adapter by name, or by ``name@hash`` where several have the name.

        Raises:
            NotFound: there is none.
            BadRequest: several, or it cannot be used.
        """
        match = _NAME.fullmatch(asked)
        name, prefix = (match["name"], match["hash"]) if match else (asked, None)
        entries = self.entries
        found = [
            one for one in entries if one.name == name and (prefix is None or one.sha256.startswith(prefix))
        ]
        usable = {one.sha256: one for one in found if one.problem is None}
        if not found:
            near = nearest(name, sorted({one.name for one in entries if one.problem is None}))
            raise NotFound(
                f"no adapter '{printable(asked)[:80]}' on this server.{near}",
                param="adapters",
                code="no_adapter",
            )
        if not usable:
            raise BadRequest(
                f"adapter '{name}' cannot be used: {found[0].problem}",
                param="adapters",
                code="broken_adapter",
            )
        if len(usable) > 1:
            names = ", ".join(f"{name}@{sha256[:12]}" for sha256 in sorted(usable))
            raise BadRequest(
                f"{len(usable)} adapters are called '{name}'. Ask for one of {names}.",
                param="adapters",
                code="ambiguous_adapter",
            )
        return next(iter(usable.values()))

    def pin(self, asked: str, weight: float) -> PinnedAdapter:
        """Choose an adapter for a job, and keep a copy until the job is drawn, in case the file changes.

        Raises:
            NotFound, BadRequest: as :meth:`find`; the strength is out of range; or the file has just been removed or
                replaced.
            StorageError: its copy cannot be written.
        """
        if not -MAX_WEIGHT <= weight <= MAX_WEIGHT:
            raise BadRequest(
                f"strength {weight:g} of adapter '{asked}': choose -{MAX_WEIGHT:g} to {MAX_WEIGHT:g}."
            )
        try:
            entry = self.find(asked)
        except NotFound:
            self.refresh()  # it may have come within the last second
            entry = self.find(asked)
        if not self._copy_of(entry.sha256).exists():
            with self._copying:
                if not self._copy_of(entry.sha256).exists():
                    self._copy(entry)
        return PinnedAdapter(
            name=entry.name,
            weight=weight,
            sha256=entry.sha256,
            tensor_sha256=entry.tensor_sha256,
            layers=entry.layers,
        )

    def in_use(self, pinned: PinnedAdapter) -> AdapterInUse:
        """The adapter as the engine takes it.

        Raises:
            AdapterError: its copy is gone or damaged.
        """
        path = self._copy_of(pinned.sha256)
        if not path.is_dir():
            file = AdapterFile(path=path, sha256=pinned.sha256)
            return AdapterInUse(adapter=file, weight=pinned.weight, sha256=pinned.sha256)
        if pinned.sha256 not in self._folders:
            if hashes_of(path)[0] != pinned.sha256:
                raise AdapterError(f"the copy of adapter '{pinned.name}' is damaged. Ask for it again.")
            self._folders[pinned.sha256] = read_adapter(path)
            while len(self._folders) > 8:
                self._folders.popitem(last=False)
        return AdapterInUse(adapter=self._folders[pinned.sha256], weight=pinned.weight, sha256=pinned.sha256)

    def forget_copies(self, in_use: set[str]) -> None:
        """Delete copies that no unfinished job needs."""
        for path in self.pinned.glob("*"):
            if path.stem not in in_use and not path.name.startswith("."):
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)

    def _copy_of(self, sha256: str) -> Path:
        folder = self.pinned / sha256
        return folder if folder.is_dir() else self.pinned / f"{sha256}.safetensors"

    def _copy(self, entry: ShelfEntry) -> None:
        try:
            if not entry.path.is_dir():
                target = self.pinned / f"{entry.sha256}.safetensors"
                write_with(target, lambda temporary: _copy_exactly(entry, temporary))
                return
            self.pinned.mkdir(parents=True, exist_ok=True)
            building = self.pinned / f".{entry.sha256}.building"
            shutil.rmtree(building, ignore_errors=True)
            building.mkdir()
            for source in [*entry.path.glob("*"), *entry.path.glob("*/*")]:
                if source.suffix in (".json", ".safetensors") and source.is_file():
                    _copy_durably(entry, source, building / source.relative_to(entry.path))
            _require_same(entry, building)
            rename_durably(building, self.pinned / entry.sha256)
        except OSError as error:
            raise StorageError(
                f"a copy of adapter '{entry.name}' could not be kept ({error.strerror})."
            ) from error


def _copy_durably(entry: ShelfEntry, source: Path, target: Path) -> None:
    write_with(target, lambda temporary: _copy(entry, source, temporary))


def _copy_exactly(entry: ShelfEntry, target: Path) -> None:
    _copy(entry, entry.path, target)
    _require_same(entry, target)


def _copy(entry: ShelfEntry, source: Path, target: Path) -> None:
    try:
        shutil.copyfile(source, target)
    except FileNotFoundError as error:
        if source.exists():
            raise
        raise _removed(entry) from error


def _require_same(entry: ShelfEntry, copied: Path) -> None:
    """Refuse a copy of something else than the entry.

    Raises:
        NotFound: its folder was empty, for it has just been removed.
        BadRequest: it has just been replaced.
    """
    if copied.is_dir() and not any(copied.iterdir()):
        raise _removed(entry)
    if hashes_of(copied)[0] != entry.sha256:
        raise BadRequest(f"adapter '{entry.name}' was replaced just now. Ask again.", code="adapter_changed")


def _removed(entry: ShelfEntry) -> NotFound:
    return NotFound(f"adapter '{entry.name}' was removed just now.", param="adapters", code="no_adapter")


def _adapters_in(folder: Path, depth: int = DEPTH) -> list[tuple[Path, Any]]:
    """Adapter files and PEFT folders, each with a mark that changes with its content; unreadable ones are left out."""
    found: list[tuple[Path, Any]] = []
    try:
        paths = sorted(folder.iterdir())[:MAX_FILES]
    except OSError:
        return []
    for path in paths:
        try:
            if path.name.startswith("."):
                continue
            if path.is_dir():
                if is_peft_folder(path):
                    found.append(
                        (path, [file_identity(one) for one in sorted(path.iterdir()) if one.is_file()])
                    )
                elif depth > 0:
                    found += _adapters_in(path, depth - 1)
            elif path.suffix == ".safetensors":
                found.append((path, file_identity(path)))
        except OSError:
            continue
    return found
