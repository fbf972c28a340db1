"""Ctrl-C, SIGTERM and a closed terminal as a request to stop, which the loop obeys after the running step."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from detour.errors import Interrupted, Terminated


@dataclass
class StopRequest:
    """``wanted`` becomes true at the first signal.

    Attributes:
        wanted: stop after the running step.
        error: what the run then ends with; its exit code tells Ctrl-C from SIGTERM.
    """

    wanted: bool = False
    error: type[Interrupted] = Interrupted


def _stops() -> list[int]:
    """Signals that ask a run to stop; a terminal that closes asks too, unless ``nohup`` told it not to."""
    numbers: list[int] = [signal.SIGINT, signal.SIGTERM]
    hangup = getattr(signal, "SIGHUP", None)  # not on Windows
    if hangup is not None and signal.getsignal(hangup) != signal.SIG_IGN:
        numbers.append(hangup)
    return numbers


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Catch the first Ctrl-C, SIGTERM or SIGHUP as a request to stop; the second one acts at once.

    Outside the main thread, where Python delivers no signals, the request can only be set by hand.
    """
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in _stops()}

    def first(number: int, _frame: FrameType | None) -> None:
        stop.wanted = True
        stop.error = Interrupted if number == signal.SIGINT else Terminated
        for one in before:
            signal.signal(one, signal.default_int_handler if one == signal.SIGINT else signal.SIG_DFL)

    try:
        for number in before:
            signal.signal(number, first)
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
