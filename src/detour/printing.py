"""Foreign text made safe for a terminal: what would move the cursor, change colours or reorder signs is escaped."""

import unicodedata

_UNSAFE = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
"""Unicode categories: controls (C0, C1, DEL), formats (bidirectional marks, joiners), surrogates, private, unassigned,
line and paragraph separators."""


def printable(text: str, *, keep: str = "", longest: int | None = None) -> str:
    """The text with every sign that steers a terminal written as ``\\uNNNN``.

    Args:
        text: from a file, a name or a caption that somebody else wrote.
        keep: signs that stay as they are, e.g. line ends of a text of several lines.
        longest: characters of ``text`` that are shown; what is cut is told by ``…``.

    Returns:
        Text that is still valid inside a TOML string.
    """
    shown = text if longest is None or len(text) <= longest else f"{text[:longest]}…"
    if shown.isascii() and shown.isprintable():
        return shown
    return "".join(_escaped(sign) if _is_unsafe(sign) and sign not in keep else sign for sign in shown)


def printable_json(text: str) -> str:
    """A JSON document with the same signs escaped: another spelling of the same document."""
    if text.isascii() and text.replace("\n", "").isprintable():
        return text
    return "".join(_in_json(sign) if _is_unsafe(sign) and sign not in "\n\r\t" else sign for sign in text)


def _is_unsafe(sign: str) -> bool:
    return unicodedata.category(sign) in _UNSAFE


def _escaped(sign: str) -> str:
    code = ord(sign)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _in_json(sign: str) -> str:
    """JSON has 16 bits an escape: a sign beyond them is two."""
    units = sign.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))
