"""What a rule is, and what it says when it fires."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict

Severity = Literal["error", "warning", "note"]
Subject = Literal["machine", "picture", "prompt", "adapter", "run", "data"]

ORDER: tuple[Severity, ...] = ("error", "warning", "note")


class Finding(BaseModel):
    """Something that makes bad pictures, with its cause and its fix.

    Attributes:
        rule: name of the rule.
        severity: ``error`` surely makes bad pictures or stops the work, ``warning`` probably, ``note`` is good to know.
        what: was found, with its figures.
        where: the setting, file or layer.
        cause: it is bad.
        fix: what to do about it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rule: str
    severity: Severity
    what: str
    where: str
    cause: str
    fix: str

    @property
    def line(self) -> str:
        """Say all of it in one line."""
        return f"{self.where}: {self.what}. {self.cause} {self.fix}"


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One rule; the table in ``docs/doctor.md`` is made of these.

    Attributes:
        name: of the rule.
        subject: what it looks at.
        severity: of its findings.
        fires: when, in words.
        cause: that is bad; whole sentences.
        fix: what to do; whole sentences.
        sure: whether ``detour generate`` warns of it too.
    """

    name: str
    subject: Subject
    severity: Severity
    fires: str
    cause: str
    fix: str
    sure: bool = False

    def found(self, what: str, where: str, *, fix: str | None = None) -> Finding:
        """A finding of this rule; ``fix`` where the case at hand has a better one."""
        return Finding(
            rule=self.name,
            severity=self.severity,
            what=what,
            where=where,
            cause=self.cause,
            fix=fix or self.fix,
        )


def gravest_first(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Errors, then warnings, then notes; otherwise as they come, each once."""
    return tuple(sorted(dict.fromkeys(findings), key=lambda finding: ORDER.index(finding.severity)))
