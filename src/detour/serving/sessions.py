"""Sessions of the review page: a cookie for the browser, and a token that only the page itself can read."""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

COOKIE = "detour_review"
CSRF_HEADER = "x-csrf-token"
LIFE_S = 8 * 3600.0
MOST = 1000
"""Sessions that are kept; the oldest go first."""


@dataclass(frozen=True, kw_only=True)
class Session:
    """Somebody who signed in with a key.

    Attributes:
        key: id of the key; it is looked up again at each request.
        csrf: token that changes must carry in a header, which a page of another site cannot read.
        ends: seconds of a monotonic clock.
    """

    key: str
    csrf: str
    ends: float


class Sessions:
    """The sessions of one server, in memory: a restart signs everybody out. Safe from any thread."""

    def __init__(self, *, now: Callable[[], float] = time.monotonic) -> None:
        """Start with nobody signed in.

        Args:
            now: seconds of a clock that never goes back.
        """
        self._now, self._lock = now, threading.Lock()
        self._open: OrderedDict[str, Session] = OrderedDict()

    def begin(self, key: str) -> tuple[str, Session]:
        """Sign a key in.

        Args:
            key: its id.

        Returns:
            what the cookie holds, with 256 random bits, and the session.
        """
        name = secrets.token_urlsafe(32)
        made = Session(key=key, csrf=secrets.token_urlsafe(32), ends=self._now() + LIFE_S)
        with self._lock:
            self._open[name] = made
            while len(self._open) > MOST:
                self._open.popitem(last=False)
        return name, made

    def find(self, name: str) -> Session | None:
        """Look up the session of a cookie; ``None``: unknown or over."""
        with self._lock:
            found = self._open.get(name)
            if found is not None and found.ends <= self._now():
                del self._open[name]
                return None
            return found

    def end(self, name: str) -> None:
        """Sign out; an unknown name changes nothing."""
        with self._lock:
            self._open.pop(name, None)
