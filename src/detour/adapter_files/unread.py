"""What of a file cannot be read: an error at once, or, where the user asks for the rest, a list."""

from detour.errors import AdapterError


class Unread:
    """Collects refusals. By default the first one is raised; never is one passed over.

    Args:
        where: the file, named in errors and left out of the list.
        allowed: keep a list instead of raising.
    """

    def __init__(self, where: str, *, allowed: bool = False) -> None:
        self.where = where
        self.allowed = allowed
        self._reasons: list[str] = []

    def refuse(self, error: AdapterError) -> None:
        """Raise ``error``, or note it where a partial reading is allowed."""
        if not self.allowed:
            raise error
        reason = str(error).removeprefix(f"{self.where}: ")
        if reason not in self._reasons[-1:]:
            self._reasons.append(reason)

    def take(self, other: "Unread") -> None:
        """Add the list of another file of the same adapter."""
        self._reasons += other._reasons

    def listed(self) -> tuple[str, ...]:
        """One sentence for each tensor or layer that was left out, in a stable order, none twice."""
        return tuple(sorted(set(self._reasons)))
