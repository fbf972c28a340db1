"""Runs a notebook in a kernel of its own, and measures time, memory and passed tasks."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from detour.errors import DetourError, MissingExtra
from detour.labs.grading import graders_of

CELL_TIMEOUT_S = 600
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
"""Environment with one thread, which is faster for layers as small as pocket's and makes figures comparable."""

SHARED_OVER = 1.25
"""Seconds on the clock over CPU seconds from which other work is taken to have shared the machine.

Starting the kernel and passing its outputs on takes one to two seconds of 15 or more.
"""

REPORT = """
def _report(number):
    import json, resource, sys, time
    from pathlib import Path
    from detour.labs import check
    status = Path("/proc/self/status")
    if status.is_file():  # ru_maxrss would count the parent's memory too, from before exec
        peak = next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if "VmHWM" in line)
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(json.dumps({"core_seconds": time.process_time(), "peak_bytes": peak, "results": check.results(number)}))
_report(%d)
"""


RESET = """
%reset -f
from detour.labs.checking import check
check.forget()
del check
"""


class Executed(BaseModel):
    """Result of running a notebook."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lab: int
    seconds: float
    """Wall-clock seconds from the start of the kernel to the last cell."""
    core_seconds: float
    """CPU seconds of the kernel, equal to :attr:`seconds` on an idle machine with one thread."""
    peak_bytes: int
    """Largest resident memory of the kernel; 0 where the kernel died."""
    results: dict[str, bool]
    """Task → whether it was passed, in the order of the notebook."""
    error: str | None
    """Class of the error that stopped the notebook; ``None`` where it ran to its end."""
    message: str | None
    feedback: str
    """Output of the check that stopped it; empty where none did."""

    @property
    def shared(self) -> bool:
        """Whether the kernel waited for a core: it took much less CPU time than time passed on the clock."""
        return self.seconds > SHARED_OVER * self.core_seconds

    @property
    def cost(self) -> str:
        """Time and memory as text."""
        return (
            f"{self.seconds:.1f} s ({self.core_seconds:.1f} s of a core), "
            f"at most {self.peak_bytes / 2**20:.0f} MiB of memory"
        )

    @property
    def done(self) -> bool:
        """Whether the notebook ran to its end and every task was passed."""
        return self.error is None and all(self.results.values())

    def to_json(self) -> str:
        """The result as indented JSON."""
        return self.model_dump_json(indent=2)


Run = Callable[[Any], Executed]
"""Runs a notebook up to the first cell that fails, and stores the outputs in it."""


def execute(notebook: Any, *, folder: Path | None = None) -> Executed:
    """Run every cell up to the first that fails, in a kernel of its own, and store the outputs in ``notebook``.

    Args:
        notebook: of :func:`detour.labs.sources.notebook_of`, or a learner's own.
        folder: where it runs; a temporary one without.

    Raises:
        MissingExtra: nbclient or ipykernel is not installed.
        DetourError: the notebook is not one of the labs.
    """
    with kernel(folder) as run:
        return run(notebook)


@contextlib.contextmanager
def kernel(folder: Path | None = None) -> Iterator[Run]:
    """Start a kernel that runs one notebook after the other, each without the names of the one before.

    What was imported stays imported, which is most of the time that an exercise takes to its first check.

    Args:
        folder: where notebooks run; a temporary one without.

    Yields:
        what runs a notebook, as :func:`execute` does.

    Raises:
        MissingExtra: nbclient or ipykernel is not installed.
    """
    try:
        import ipykernel  # noqa: F401  # what the kernel's process will import
        from nbclient import NotebookClient
        from nbformat.v4 import new_notebook
    except ModuleNotFoundError as error:
        raise MissingExtra("labs need nbclient and ipykernel: pip install 'detour-lora[labs]'.") from error
    with tempfile.TemporaryDirectory(prefix="detour-lab-") as temporary:
        place = temporary if folder is None else str(folder)
        client = NotebookClient(
            new_notebook(),
            timeout=CELL_TIMEOUT_S,
            kernel_name="python3",
            resources={"metadata": {"path": place}},
            # The kernel talks over this machine's own loopback, signed; its advice to encrypt that is not for us.
            extra_arguments=["--log-level=40"],
        )
        spent, began = 0.0, time.perf_counter()

        def run(notebook: Any) -> Executed:
            nonlocal spent, began
            number = lab_number(notebook)
            if spent > 0:
                began = time.perf_counter()
                _ask(client, RESET)
            one = _run(client, notebook, number, began=began, spent=spent)
            spent += one.core_seconds
            return one

        with client.setup_kernel(env={**os.environ, **ONE_THREAD}):
            yield run


def _run(client: Any, notebook: Any, number: int, *, began: float, spent: float) -> Executed:
    """Run a notebook in a kernel that has taken ``spent`` CPU seconds before, from ``began`` on the clock."""
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    failed: Exception | None = None
    report: dict[str, Any] = {
        "core_seconds": spent,
        "peak_bytes": 0,
        "results": dict.fromkeys(graders_of(number), False),
    }
    client.nb = notebook
    try:
        for index, cell in enumerate(notebook.cells):
            client.execute_cell(cell, index, execution_count=None)
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        failed = error
    seconds = time.perf_counter() - began
    # A kernel that died or hangs has nothing to tell, nor has one that cannot import detour.
    if not isinstance(failed, CellTimeoutError | DeadKernelError):
        with contextlib.suppress(CellExecutionError):
            report = json.loads(_ask(client, REPORT % number))
    return Executed(
        lab=number,
        seconds=round(seconds, 2),
        core_seconds=round(report["core_seconds"] - spent, 2),
        peak_bytes=report["peak_bytes"],
        results=report["results"],
        error=None if failed is None else getattr(failed, "ename", "") or type(failed).__name__,
        message=None if failed is None else getattr(failed, "evalue", "") or str(failed),
        feedback=_feedback(notebook) if failed is not None else "",
    )


def _feedback(notebook: Any) -> str:
    """Output of the last cell that ran, where its check failed."""
    texts = [
        output["text"]
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if output.get("name") == "stdout" and ": not yet." in output["text"]
    ]
    return texts[-1].strip() if texts else ""


def lab_number(notebook: Any) -> int:
    """Number of the lab that a notebook belongs to.

    Raises:
        DetourError: it is none of them.
    """
    number = notebook.metadata.get("detour", {}).get("lab")
    if not isinstance(number, int):
        raise DetourError(
            "this notebook is none of the labs (its metadata names no lab). See `detour labs list`."
        )
    return number


def _ask(client: Any, source: str) -> str:
    """Run a cell that is part of no notebook; what it printed."""
    from nbformat.v4 import new_code_cell, new_notebook

    asked = new_notebook(cells=[new_code_cell(source)])
    client.nb = asked
    cell = client.execute_cell(asked.cells[0], 0)
    return "".join(output["text"] for output in cell.outputs if output.get("name") == "stdout")
