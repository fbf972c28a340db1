"""Whether this machine and what is installed on it can do the work."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from detour.verbs.doctor.finding import Finding, Rule

FLOORS: Mapping[str, str] = {
    "torch": "2.10",
    "diffusers": "0.38",
    "transformers": "5.5",
    "pillow": "12.2",
    "starlette": "1.5.1",
}
"""Package → the first version without the security holes that are known of the ones before."""

LEAST_DISK_BYTES = 5 << 30
"""A base of SD 1.5's size, and a run beside it."""

LEAST_MEMORY_BYTES = 2 << 30
"""What the embedded base and its proof take, with some air."""

HOLE = Rule(
    name="version-with-holes",
    subject="machine",
    severity="error",
    fires="a package older than " + ", ".join(f"{name} {floor}" for name, floor in FLOORS.items()),
    cause="Older versions have known security holes, through which a file from somebody else can run code.",
    fix="Upgrade it: pip install --upgrade PACKAGE.",
)
MISSING = Rule(
    name="package-missing",
    subject="machine",
    severity="error",
    fires="a package that detour needs is not installed",
    cause="Commands that need it end with an error.",
    fix="Install what is missing: pip install -r requirements.lock.",
)
TOO_OLD = Rule(
    name="version-too-old",
    subject="machine",
    severity="error",
    fires="a package older than detour asks for",
    cause="detour was never run with it.",
    fix="Upgrade it: pip install --upgrade PACKAGE.",
)
OFF_THE_LOCK = Rule(
    name="version-off-the-lock",
    subject="machine",
    severity="note",
    fires="a package of another version than requirements.lock says",
    cause="Figures and bytes in the docs were made with the versions of the lock.",
    fix="To be exact: pip install -r requirements.lock.",
)
TORCHVISION = Rule(
    name="torchvision-mismatched",
    subject="machine",
    severity="error",
    fires="torchvision is installed and cannot be imported",
    cause="transformers imports it when it is installed, and fails when that import fails.",
    fix="detour does not need it: pip uninstall torchvision.",
)
DISK = Rule(
    name="disk-short",
    subject="machine",
    severity="warning",
    fires=f"less than {LEAST_DISK_BYTES >> 30} GiB free where you are",
    cause="Bases, caches and checkpoints take gigabytes; a full disk ends a run.",
    fix="Make room, or work on another disk.",
)
RAM = Rule(
    name="ram-short",
    subject="machine",
    severity="warning",
    fires=f"less than {LEAST_MEMORY_BYTES >> 30} GiB of memory free",
    cause="Even the embedded base and its proof can be killed.",
    fix="Close other programs; detour plan says what a run takes.",
)
THREADS = Rule(
    name="threads-over-cores",
    subject="machine",
    severity="warning",
    fires="more threads than cores that may be used",
    cause="Threads then wait for each other at every operation.",
    fix="Unset OMP_NUM_THREADS, or set it to the number of cores.",
)
ONE_THREAD = Rule(
    name="one-thread",
    subject="machine",
    severity="note",
    fires="one thread where there are more cores, on a machine without a GPU",
    cause="The other cores are not used.",
    fix="Unset OMP_NUM_THREADS, unless other work wants the cores.",
)
RULES = (HOLE, MISSING, TOO_OLD, OFF_THE_LOCK, TORCHVISION, DISK, RAM, THREADS, ONE_THREAD)


@dataclass(frozen=True, kw_only=True)
class MachineFacts:
    """What the rules look at.

    Attributes:
        installed: package → version; ``None`` where it is not installed.
        needed: package → lowest version that detour asks for.
        locked: package → version of ``requirements.lock``; empty where there is none.
        torchvision_breaks: it is installed and cannot be imported.
        device: that ``auto`` takes.
        disk_free_bytes: where the command runs.
        memory_free_bytes: of the machine; 0 where it cannot be told.
        threads: that torch uses.
        cores: that this process may use.
    """

    installed: Mapping[str, str | None]
    needed: Mapping[str, str] = field(default_factory=dict)
    locked: Mapping[str, str] = field(default_factory=dict)
    torchvision_breaks: bool = False
    device: str = "cpu"
    disk_free_bytes: int
    memory_free_bytes: int
    threads: int
    cores: int


def version_of(text: str) -> tuple[int, ...]:
    """``"2.13.0+cpu"`` → ``(2, 13)``: the numbers of a release without trailing zeros; a pre-release is its release."""
    numbers = [int(number) for number in re.findall(r"\d+", (re.match(r"[\d.]*", text) or [""])[0])]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def examine_machine(facts: MachineFacts) -> Iterator[Finding]:
    """Findings on what is installed and what there is to work with."""
    yield from _versions(facts)
    if facts.torchvision_breaks:
        yield TORCHVISION.found("torchvision is installed and cannot be imported", "torchvision")
    if facts.disk_free_bytes < LEAST_DISK_BYTES:
        yield DISK.found(f"{facts.disk_free_bytes / 2**30:.1f} GiB are free", "disk")
    if 0 < facts.memory_free_bytes < LEAST_MEMORY_BYTES:
        yield RAM.found(f"{facts.memory_free_bytes / 2**30:.1f} GiB are free", "memory")
    if facts.threads > facts.cores:
        yield THREADS.found(f"{facts.threads} threads on {facts.cores} cores", "threads")
    elif facts.threads == 1 < facts.cores and facts.device == "cpu":
        yield ONE_THREAD.found(f"one thread, and {facts.cores} cores", "threads")


def _versions(facts: MachineFacts) -> Iterator[Finding]:
    for name, found in facts.installed.items():
        needed, floor, locked = (some.get(name) for some in (facts.needed, FLOORS, facts.locked))
        if found is None:
            if needed is not None:
                yield MISSING.found(f"{name} is not installed; {needed} or newer is needed", name)
            continue
        if floor is not None and version_of(found) < version_of(floor):
            yield HOLE.found(
                f"{name} {found}", name, fix=f"Upgrade it: pip install --upgrade '{name}>={floor}'."
            )
        elif needed is not None and version_of(found) < version_of(needed):
            yield TOO_OLD.found(
                f"{name} {found}; detour asks for {needed}",
                name,
                fix=f"Upgrade it: pip install --upgrade '{name}>={needed}'.",
            )
        elif locked is not None and version_of(found) != version_of(locked):
            yield OFF_THE_LOCK.found(f"{name} {found}, {locked} in the lock", name)
