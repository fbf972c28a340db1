"""One thing that was found in a data set, with its cause and what to do about it."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

Severity = Literal["error", "warning", "note"]
ORDER: tuple[Severity, ...] = ("error", "warning", "note")

Kind = Literal[
    "unreadable",
    "no caption",
    "not read",
    "left out",
    "colours",
    "same caption",
    "same words",
    "long caption",
    "unrelated",
    "copies",
    "leak",
    "small",
    "cut away",
    "blurred",
    "border",
    "mark",
    "amount",
    "no trigger",
]

MAX_NAMES = 20
SHOWN_NAMES = 3


class Finding(BaseModel):
    """A remark on the data, with its cause, its fix and the pictures that it is about.

    Attributes:
        severity: ``error`` stops training, ``warning`` makes it worse, ``note`` is good to know.
        kind: of the finding; stable, for programs.
        cause: what was found, in one line, with its figures.
        fix: what to do about it, in one line.
        pictures: names, at most 20.
    """

    model_config = ConfigDict(frozen=True)

    severity: Severity
    kind: Kind
    cause: str
    fix: str
    pictures: tuple[str, ...] = ()

    @property
    def line(self) -> str:
        """Say all of it in one line, with the first names."""
        fix = self.fix[:1].upper() + self.fix[1:]
        return f"{self.severity}: {self.cause}{self.some_names}. {fix}."

    @property
    def some_names(self) -> str:
        """The first three names in brackets; empty without any, or where the cause names them itself."""
        named = [name for name in self.pictures[:SHOWN_NAMES] if name not in self.cause]
        if not named or len(named) < len(self.pictures[:SHOWN_NAMES]):
            return ""
        return f" ({', '.join(named)}{' …' if len(self.pictures) > SHOWN_NAMES else ''})"


def gravest_first(findings: list[Finding]) -> tuple[Finding, ...]:
    """Errors, then warnings, then notes; otherwise as they come."""
    return tuple(sorted(findings, key=lambda finding: ORDER.index(finding.severity)))


def counted(number: int, one: str, many: str = "") -> str:
    """``1 picture``, ``2 pictures``, ``3 entries``."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def some(names: list[str]) -> str:
    """The first three names, and how many more there are."""
    more = f" and {len(names) - SHOWN_NAMES:,} more" if len(names) > SHOWN_NAMES else ""
    return ", ".join(names[:SHOWN_NAMES]) + more
