"""What is installed here, and what there is to work with."""

import contextlib
import importlib
import importlib.util
import os
import re
import shutil
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from pydantic import BaseModel, ConfigDict

import detour
from detour.bases.hardware import drawing_dtype, pick_device
from detour.verbs.doctor.machine_rules import FLOORS, MachineFacts

DISTRIBUTION = "detour-lora"
LOCK = "requirements.lock"


class Machine(BaseModel):
    """What ``detour doctor`` shows of the machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    detour: str
    device: str
    """Device that ``auto`` takes."""
    dtype: str
    """Precision that drawing takes on that device."""
    memory_free_bytes: int
    """Free memory in bytes: of the GPU on cuda, else of the machine; 0 where it cannot be told."""
    ram_free_bytes: int
    disk_free_bytes: int
    threads: int
    cores: int
    installed: Mapping[str, str | None]
    needed: Mapping[str, str]
    locked: Mapping[str, str]
    torchvision_breaks: bool

    def facts(self) -> MachineFacts:
        """What the rules look at."""
        return MachineFacts(
            installed=self.installed,
            needed=self.needed,
            locked=self.locked,
            torchvision_breaks=self.torchvision_breaks,
            device=self.device,
            disk_free_bytes=self.disk_free_bytes,
            memory_free_bytes=self.ram_free_bytes,
            threads=self.threads,
            cores=self.cores,
        )


def gather_machine() -> Machine:
    """Versions, device, memory, disk and threads, as they are now."""
    import torch

    device = pick_device()
    needed = needed_versions()
    ram = _free_ram()
    return Machine(
        detour=detour.__version__,
        device=device,
        dtype=drawing_dtype("auto", device),
        memory_free_bytes=torch.cuda.mem_get_info()[0] if device == "cuda" else ram,
        ram_free_bytes=ram,
        disk_free_bytes=shutil.disk_usage(Path.cwd()).free,
        threads=torch.get_num_threads(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        installed={name: _installed(name) for name in sorted({*needed, *FLOORS})},
        needed=needed,
        locked=locked_versions(Path(detour.__file__).parents[2] / LOCK),
        torchvision_breaks=_torchvision_breaks(),
    )


def needed_versions() -> dict[str, str]:
    """Package → lowest version, of what detour itself requires; empty where it runs without being installed."""
    try:
        lines = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return {}
    found = (re.match(r"([\w.-]+)\s*>=\s*([\d.]+)$", line) for line in lines)  # extras have a marker behind
    return {match[1].lower(): match[2] for match in found if match}


def locked_versions(lock: Path) -> dict[str, str]:
    """Package → version, of a lock file; empty where there is none, as in an installed wheel."""
    if not lock.is_file():
        return {}
    found = re.findall(r"^([\w.-]+)==([^\s;]+)", lock.read_text(encoding="utf-8"), re.MULTILINE)
    return {name.lower(): version for name, version in found}


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _torchvision_breaks() -> bool:
    if importlib.util.find_spec("torchvision") is None:
        return False
    try:
        importlib.import_module("torchvision")
    except Exception:  # it registers operators against the torch it was built for: many kinds of failure
        return True
    return False


def _free_ram() -> int:
    """Bytes that a new process may take; 0 where the system does not tell."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return 0
