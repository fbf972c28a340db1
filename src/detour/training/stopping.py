"""Ctrl-C and SIGTERM as a wish that the loop grants after the running step."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from detour.errors import Interrupted, Terminated


@dataclass
class StopWish:
    """``wanted`` becomes true at the first signal.

    Attributes:
        wanted: stop after the running step.
        error: what the run then ends with; its exit code tells Ctrl-C from SIGTERM.
    """

    wanted: bool = False
    error: type[Interrupted] = Interrupted


@contextmanager
def stop_wish() -> Iterator[StopWish]:
    """Catch the first Ctrl-C or SIGTERM as a wish; the second one acts at once.

    Outside the main thread, where Python delivers no signals, the wish can only be set by hand.
    """
    wish = StopWish()
    if threading.current_thread() is not threading.main_thread():
        yield wish
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def first(number: int, _frame: FrameType | None) -> None:
        wish.wanted = True
        wish.error = Terminated if number == signal.SIGTERM else Interrupted
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    try:
        for number in before:
            signal.signal(number, first)
        yield wish
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
