"""Try the mutants: apply one at a time to a copy of the tree, run its tests, and say which ones nothing noticed.

``python tests/mutants/run.py`` (``make mutants``) tries all of them. The libraries are imported once; each mutant is
a fork of that process, which imports this project from the copy, so that it costs its tests alone. A fork's time limit
is processor time: on a busy machine no mutant is taken for an endless one. Results are kept in ``build/mutants.jsonl``,
each for an entry, its source file and its test files as they are, so that a later call tries only what is new.
"""

import argparse
import contextlib
import hashlib
import importlib
import json
import math
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # as a script its folder is the first on the path; ``tests`` lies two above
    sys.path[0] = str(Path(__file__).parents[2])

from tests.mutants.mutant import LISTS, ROOT, Mutant, alternating, read_mutants

RESULTS = ROOT / "build" / "mutants.jsonl"
ENOUGH = 0.95
"""Share of the mutants that must be noticed; those that survive with a reason do not count."""

HEAVY = (
    "torch",
    "numpy",
    "PIL.ImageFont",
    "pydantic.main",
    "safetensors.torch",
    "click",
    "rich.progress",
    "jinja2",
    "matplotlib.pyplot",
    "accelerate",
    "peft",
    "diffusers",
    "diffusers.models.unets.unet_2d_condition",
    "diffusers.models.autoencoders.autoencoder_kl",
    "diffusers.schedulers.scheduling_ddim",
    "diffusers.loaders.single_file",
    "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion",
    "diffusers.training_utils",
    "transformers.models.clip.modeling_clip",
    "transformers.models.clip.tokenization_clip",
    "pytest",
)
"""What takes seconds to import and is none of ours."""

IMPORT = " (import)"
"""Stands behind the name of a test file that could not be imported."""

WALL_FACTOR = 15
"""Wall time, in units of the limit on processor time, after which a fork that waits for something is ended."""

OUTCOMES = ("killed", "survived", "expected", "timed out", "not tried")


@dataclass(frozen=True)
class Result:
    """What became of one mutant.

    Attributes:
        name: of the mutant.
        outcome: ``killed``: a test failed. ``survived``: all passed. ``expected``: so, and the list says why.
            ``timed out``: its tests used up their processor time, or waited for ever. ``not tried``: no test ran, or
            pytest could not run them.
        by: the first test that failed.
        seconds: processor time of its tests, with the processes that they started.
        note: the last lines that pytest wrote, where something is wrong.
    """

    name: str
    outcome: str
    by: str = ""
    seconds: float = 0.0
    note: str = ""


@dataclass
class Running:
    """A child that runs a mutant's tests in its own copy of the tree."""

    mutant: Mutant
    copy: Path
    pid: int
    begun: float  # of time.monotonic


class Seen:
    """A plugin of pytest that remembers how many tests passed, and which failed."""

    def __init__(self) -> None:
        self.passed = 0
        self.failed: list[str] = []

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.passed += report.when == "call" and report.passed
        if report.failed:
            self.failed.append(report.nodeid)

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.failed.append(f"{report.nodeid}{IMPORT}")


def copy_tree(place: Path) -> Path:
    """Everything that tests read, at ``place``."""
    place.mkdir(parents=True)
    for name in ("src", "tests", "docs", "benchmarks"):
        ignore = shutil.ignore_patterns("__pycache__", "*.egg-info", ".hypothesis")
        shutil.copytree(ROOT / name, place / name, ignore=ignore)
    for path in ROOT.glob("*"):
        if path.is_file():
            shutil.copy2(path, place / path.name)
    return place


def run_tests(copy: Path, tests: Sequence[str], *, stop_at_first: bool, limit_s: float) -> None:
    """In a fork: run tests of the copy, write what was found to ``copy/found.json``, and end the process.

    The limit is seconds of processor time, for this process and for each one that it starts.
    """
    os.setsid()
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(limit_s), math.ceil(limit_s) + 5))
    log = os.open(copy / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(copy)
    for name in [name for name in sys.modules if name.partition(".")[0] in ("tests", "detour")]:
        del sys.modules[name]
    sys.path[:1] = [str(copy), str(copy / "src")]
    os.environ |= {"PYTHONPATH": str(copy / "src"), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    os.environ.pop("PYTEST_CURRENT_TEST", None)
    import pytest

    seen = Seen()
    flags = ["-p", "no:cacheprovider", "--tb=line", f"--basetemp={copy / 'tmp'}", *(["-x"] * stop_at_first)]
    code = int(pytest.main([*flags, *tests], plugins=[seen]))
    first = seen.failed[0] if seen.failed else ""
    found = {"code": code, "passed": seen.passed, "failed": first, "all_failed": seen.failed}
    (copy / "found.json").write_text(json.dumps(found), encoding="utf-8")
    os._exit(0)


def start(mutant: Mutant, copy: Path, *, limit_s: float) -> Running:
    """Apply the mutant to the copy and fork."""
    path = copy / mutant.file
    source = (ROOT / mutant.file).read_text(encoding="utf-8")
    path.write_text(mutant.mutated(source), encoding="utf-8")
    # Python tells stale bytecode by the source's size and whole second: give each mutant a second of its own.
    second = 1_000_000_000 + int(hashlib.sha256(mutant.name.encode()).hexdigest()[:7], 16)
    os.utime(path, (second, second))
    (copy / "found.json").unlink(missing_ok=True)
    pid = _forked(copy, mutant.tests, stop_at_first=True, limit_s=limit_s)
    return Running(mutant, copy, pid, time.monotonic())


def _forked(copy: Path, tests: Sequence[str], *, stop_at_first: bool, limit_s: float) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        try:
            run_tests(copy, tests, stop_at_first=stop_at_first, limit_s=limit_s)
        finally:
            os._exit(1)
    return pid


def finish(running: Running, *, seconds: float, timed_out: bool) -> Result:
    """Put the copy back and read what the child found."""
    mutant, copy = running.mutant, running.copy
    shutil.copy2(ROOT / mutant.file, copy / mutant.file)
    shutil.rmtree(copy / "tmp", ignore_errors=True)
    seconds = round(seconds, 2)
    if timed_out:
        return Result(mutant.name, "timed out", seconds=seconds)
    note = " | ".join((copy / "log.txt").read_text(encoding="utf-8", errors="replace").splitlines()[-3:])
    try:
        found = json.loads((copy / "found.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # of no memory or no disk as well as of the change, so it says nothing
        return Result(mutant.name, "not tried", seconds=seconds, note=f"the process died: {note}")
    if found["failed"]:
        return Result(mutant.name, "killed", by=found["failed"], seconds=seconds)
    if found["code"] != 0 or not found["passed"]:
        return Result(mutant.name, "not tried", seconds=seconds, note=note)
    return Result(mutant.name, "expected" if mutant.survives else "survived", seconds=seconds)


def end(pid: int) -> None:
    """Kill a child with everything that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def try_all(
    mutants: Sequence[Mutant], copies: Sequence[Path], *, limit_s: float, until: float
) -> Iterator[Result]:
    """Results as they come; ends early at ``until`` (of ``time.monotonic``), what runs then is left out.

    Args:
        mutants: in the order of trying.
        copies: of the tree; as many mutants are tried at a time.
        limit_s: seconds of processor time for the tests of one mutant.
        until: when to end.
    """
    waiting, free, running = list(mutants), list(copies), list[Running]()
    while waiting or running:
        while waiting and free and time.monotonic() < until:
            running.append(start(waiting.pop(0), free.pop(), limit_s=limit_s))
        if not running:
            return
        time.sleep(0.02)
        for one in list(running):
            now = time.monotonic()
            late = now > min(one.begun + WALL_FACTOR * limit_s, until)
            if late:
                end(one.pid)
            pid, status, usage = os.wait4(one.pid, 0 if late else os.WNOHANG)
            if not pid:
                continue
            end(one.pid)  # what its tests may have left running
            running.remove(one)
            free.append(one.copy)
            spent = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU
            result = finish(one, seconds=usage.ru_utime + usage.ru_stime, timed_out=late or spent)
            if not (late and now > until):
                yield result


def failing_unchanged(tests: Sequence[str], copy: Path, *, limit_s: float) -> dict[str, str]:
    """Tests that fail though nothing was changed → why: what they say of a mutant says nothing.

    Args:
        tests: pytest's names.
        copy: of the tree, unchanged.
        limit_s: seconds of processor time for all of them.
    """
    if not tests:
        return {}
    (copy / "found.json").unlink(missing_ok=True)
    pid = _forked(copy, tests, stop_at_first=False, limit_s=limit_s)
    os.waitpid(pid, 0)
    end(pid)
    log = (copy / "log.txt").read_text(encoding="utf-8", errors="replace")
    try:
        found = json.loads((copy / "found.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return dict.fromkeys(tests, f"the process died: {log[-300:]}")
    if found["code"] not in (0, 1):
        return dict.fromkeys(tests, log[-300:])
    return dict.fromkeys(found["all_failed"], "it fails though nothing was changed")


def confirmed(results: Sequence[Result], copy: Path) -> list[Result]:
    """The same results, those whose test fails without the mutant too as not tried."""
    tests = sorted({result.by.removesuffix(IMPORT) for result in results if result.outcome == "killed"})
    red = failing_unchanged(tests, copy, limit_s=1800)
    return [
        replace(result, outcome="not tried", note=red[result.by]) if result.by in red else result
        for result in results
    ]


def git(*arguments: str) -> str | None:
    """What git says, or ``None`` where it fails: no git, no repository, no such revision."""
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def base_of_change() -> str | None:
    """The commit that this tree is a change to: where it left main, or on main itself the commit before.

    Of a merge that is the first parent, so that everything counts which it brought. ``None`` where the history says
    nothing, as in a clone of one commit.
    """
    head = git("rev-parse", "HEAD")
    left = git("merge-base", "HEAD", "origin/main")
    return left if left not in (None, head) else git("rev-parse", "--verify", "--quiet", "HEAD~1")


def changed_since(revision: str) -> set[str]:
    """Paths of the files that changed since a revision.

    Raises:
        ValueError: there is no such revision.
    """
    told = git("diff", "--name-only", "--relative", revision, "--")
    if told is None:
        raise ValueError(f"git knows no revision '{revision}'")
    return set(told.splitlines())


def entries_of(revision: str) -> set[Mutant]:
    """The mutants that stood in the lists at a revision; none where a list cannot be read any more."""
    found: set[Mutant] = set()
    for path in sorted(LISTS.glob("*.toml")):
        text = git("show", f"{revision}:./{path.relative_to(ROOT)}")
        with contextlib.suppress(ValueError, TypeError):
            for entry in tomllib.loads(text or "").get("mutant", []):
                found.add(Mutant(**{**entry, "tests": tuple(entry.get("tests", ()))}))
    return found


def touches(mutant: Mutant, files: set[str]) -> bool:
    """Whether a mutant's file is among ``files``, or one of the test files that should notice it."""
    return bool(files & {mutant.file, *(test.partition("::")[0] for test in mutant.tests)})


def in_turn(mutants: Sequence[Mutant]) -> list[Mutant]:
    """Files take turns; which of a file's mutants go first is drawn anew for every commit, the same again for one."""
    drawn = random.Random(git("rev-parse", "HEAD") or "")
    return alternating(drawn.sample(list(mutants), len(mutants)))


def of_change(mutants: Sequence[Mutant], revision: str | None) -> list[Mutant]:
    """All mutants, those that a change since ``revision`` concerns first.

    First entries that are new or were edited and those whose source file changed, then those whose tests changed, then
    all others: what of them there is time for differs from commit to commit, so that none is never tried.
    """
    if revision is None:
        print("no commit before this one is known here: any mutants, as many as there is time for")
        return in_turn(mutants)
    files, before = changed_since(revision), entries_of(revision)
    near = [mutant for mutant in mutants if mutant.file in files or mutant not in before]
    beside = [mutant for mutant in mutants if mutant not in near and touches(mutant, files)]
    rest = [mutant for mutant in mutants if mutant not in near and mutant not in beside]
    print(
        f"{len(near)} mutants are new or in files that changed since {revision[:12]}, {len(beside)} are of tests that "
        f"changed; {len(rest)} others take turns in the time that is left",
        flush=True,
    )
    return [*in_turn(near), *in_turn(beside), *in_turn(rest)]


def chosen_mutants(arguments: argparse.Namespace) -> list[Mutant]:
    """Those that the options ask for, files taking turns."""
    mutants = read_mutants()
    if arguments.names:
        unknown = set(arguments.names) - {mutant.name for mutant in mutants}
        if unknown:
            raise ValueError(f"no mutant is called {', '.join(sorted(unknown))}")
        mutants = [mutant for mutant in mutants if mutant.name in arguments.names]
    if arguments.files:
        wanted = {Path(os.path.relpath(Path(name).resolve(), ROOT)).as_posix() for name in arguments.files}
        mutants = [mutant for mutant in mutants if mutant.file in wanted]
    if arguments.changed is None:
        return alternating(mutants)
    return of_change(mutants, arguments.changed or base_of_change())


def kept_results() -> tuple[dict[str, Result], set[str]]:
    """Key of a mutant → its result from before; and the keys whose tests passed without the mutant."""
    found: dict[str, Result] = {}
    sure: set[str] = set()
    lines = RESULTS.read_text(encoding="utf-8").splitlines() if RESULTS.exists() else []
    for line in lines:
        with contextlib.suppress(ValueError, TypeError, KeyError):
            entry = json.loads(line)
            result = Result(**entry["result"])
            if result.outcome != "not tried":
                found[entry["key"]] = result
                if entry["confirmed"]:
                    sure.add(entry["key"])
            else:
                found.pop(entry["key"], None)
    return found, sure


def keep(key: str, result: Result, *, confirmed: bool) -> None:
    """Add a result to the file; a later one of the same key counts."""
    RESULTS.parent.mkdir(exist_ok=True)
    entry = {"key": key, "result": asdict(result), "confirmed": confirmed}
    with RESULTS.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(entry) + "\n")


def key_of(mutant: Mutant) -> str:
    """Hex SHA-256 of an entry, the file that it changes, and the files of its tests.

    A result can change without them, through a fixture or through another module; ``--again`` tries everything anew.
    """
    digest = hashlib.sha256(json.dumps(asdict(mutant), sort_keys=True).encode())
    for name in (mutant.file, *sorted({test.partition("::")[0] for test in mutant.tests})):
        digest.update(hashlib.sha256((ROOT / name).read_bytes()).digest())
    return digest.hexdigest()


def report(mutants: Sequence[Mutant], results: Sequence[Result], *, seconds: float, wanted: float) -> int:
    """Print the table; the exit code is 0 when the wanted share was noticed and everything could be tried."""
    file_of = {mutant.name: mutant.file for mutant in mutants}
    counts: dict[str, Counter[str]] = {}
    for result in results:
        counts.setdefault(file_of[result.name], Counter())[result.outcome] += 1
    width = max(map(len, counts), default=4)
    print(f"\n{'file':<{width}}  " + "  ".join(f"{outcome:>9}" for outcome in OUTCOMES))
    for file, of_file in sorted(counts.items()):
        print(f"{file:<{width}}  " + "  ".join(f"{of_file[outcome] or '':>9}" for outcome in OUTCOMES))
    whys = {mutant.name: mutant.survives for mutant in mutants}
    for result in results:
        if result.outcome != "killed":
            print(f"{result.outcome}: {result.name}. {whys[result.name] or result.note}")
        elif whys[result.name]:
            print(f"killed though the list says that it survives: {result.name}, by {result.by}")
    total = Counter(result.outcome for result in results)
    asked = len(results) - total["expected"]
    share = total["killed"] / asked if asked else 1.0
    left = len(mutants) - len(results)
    print(f"{total['killed']} of {asked} killed ({share:.1%}; {wanted:.0%} are wanted), {seconds:.0f} s")
    if left:
        print(f"{left} of {len(mutants)} were left out, for time or number: `make mutants` tries all of them")
    return 0 if share >= wanted and not total["not tried"] else 1


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--names", nargs="+", help="of mutants: only these")
    parser.add_argument("--files", nargs="+", help="only mutants of these source files")
    parser.add_argument(
        "--changed",
        nargs="?",
        const="",
        metavar="REVISION",
        help="first those that concern what changed since a git revision, without one since this branch left main; "
        "every one that survives fails the call",
    )
    parser.add_argument(
        "--limit-s", type=float, default=float("inf"), help="of the whole; the rest is left out"
    )
    parser.add_argument("--most", type=int, help="number of mutants; the rest is left out")
    parser.add_argument(
        "--timeout-s", type=float, default=120.0, help="processor time for the tests of one mutant"
    )
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="mutants at a time")
    parser.add_argument(
        "--no-baseline",
        action="store_true",
        help="the tests are known to pass unchanged: do not run those that failed without the mutant",
    )
    parser.add_argument("--again", action="store_true", help="do not use results kept from before")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Try what the options ask for; exit code 1 when too much survived, 2 when the lists do not fit the source."""
    begun = time.monotonic()
    asked = parsed(arguments)
    try:
        mutants = chosen_mutants(asked)
    except ValueError as error:
        print(f"error: {error}")
        return 2
    if problems := [problem for mutant in mutants for problem in mutant.problems()]:
        print("\n".join(f"error: {problem}" for problem in problems))
        return 2
    if not mutants:
        print("no mutant is of what was asked for")
        return 0
    keys = {mutant.name: key_of(mutant) for mutant in mutants}
    kept, sure = ({}, set[str]()) if asked.again else kept_results()
    results = {mutant.name: kept[keys[mutant.name]] for mutant in mutants if keys[mutant.name] in kept}
    new = [mutant for mutant in mutants if mutant.name not in results][: asked.most]
    print(f"{len(mutants)} mutants, {len(results)} of them known from before", flush=True)
    unsure = [name for name in results if keys[name] not in sure]
    if new or (unsure and not asked.no_baseline):
        import_libraries()
        with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
            copies = [copy_tree(Path(folder) / f"{index}") for index in range(max(1, asked.jobs))]
            print(f"ready after {time.monotonic() - begun:.0f} s", flush=True)
            for result in try_all(new, copies, limit_s=asked.timeout_s, until=begun + asked.limit_s):
                results[result.name] = result
                unsure.append(result.name)
                keep(keys[result.name], result, confirmed=False)
                print(
                    f"{result.outcome:>9}  {result.seconds:6.1f} s  {result.name}  {result.by or result.note}",
                    flush=True,
                )
            if not asked.no_baseline:
                for result in confirmed([results[name] for name in unsure], copies[0]):
                    results[result.name] = result
                    keep(keys[result.name], result, confirmed=True)
    wanted = ENOUGH if asked.changed is None else 1.0
    return report(mutants, list(results.values()), seconds=time.monotonic() - begun, wanted=wanted)


def import_libraries() -> None:
    """Import what every fork needs and what is not this project's."""
    os.environ["OMP_NUM_THREADS"] = "1"
    for name in HEAVY:
        importlib.import_module(name)
    assert "detour" not in sys.modules


if __name__ == "__main__":
    sys.exit(main())
