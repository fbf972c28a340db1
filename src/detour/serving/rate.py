"""How fast the server draws: work a second while it draws, from which waiting times are estimated."""

import threading
import time
from collections import deque


class Rate:
    """Measures work a second while something is being drawn, over the last 20 such seconds."""

    WINDOW_S = 20.0
    PAUSE_S = 2.0

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._events: deque[tuple[float, float]] = deque()
        self._busy_s = 0.0
        self._last: float | None = None
        self.total = 0.0

    def add(self, work: float, *, now: float | None = None) -> None:
        """Count work that was just finished.

        Args:
            work: rows x steps x area.
            now: seconds of a monotonic clock.
        """
        at = time.monotonic() if now is None else now
        with self._lock:
            if self._last is not None:
                self._busy_s += min(at - self._last, self.PAUSE_S)
            self._last = at
            self.total += work
            self._events.append((self._busy_s, work))
            while self._busy_s - self._events[0][0] > self.WINDOW_S:
                self._events.popleft()

    @property
    def per_second(self) -> float | None:
        """Measured rate, or ``None`` before there is one."""
        with self._lock:
            if len(self._events) < 2:
                return None
            seconds = self._events[-1][0] - self._events[0][0]
            work = sum(one for _, one in self._events) - self._events[0][1]
            return work / seconds if seconds > 0 and work > 0 else None
