"""What a rule is, and what it says when it fires."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict

Severity = Literal["error", "warning", "note"]
Subject = Literal["machine", "picture", "prompt", "adapter", "run", "data"]

ORDER: tuple[Severity, ...] = ("error", "warning", "note")


class Finding(BaseModel):
    """One thing that was found.

    Attributes:
        rule: name of the rule.
        severity: ``error`` surely makes bad pictures or stops the work, ``warning`` probably, ``note`` is good to know.
        what: was found, with its figures.
        where: the setting, file or layer.
        why: it is bad.
        mend: what to do about it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rule: str
    severity: Severity
    what: str
    where: str
    why: str
    mend: str

    @property
    def line(self) -> str:
        """All of it in one line."""
        return f"{self.where}: {self.what}. {self.why} {self.mend}"


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One rule; the table in ``docs/doctor.md`` is made of these.

    Attributes:
        name: of the rule.
        subject: what it looks at.
        severity: of its findings.
        fires: when, in words.
        why: that is bad; whole sentences.
        mend: what to do; whole sentences.
        sure: whether ``detour generate`` warns of it too.
    """

    name: str
    subject: Subject
    severity: Severity
    fires: str
    why: str
    mend: str
    sure: bool = False

    def found(self, what: str, where: str, *, mend: str | None = None) -> Finding:
        """A finding of this rule; ``mend`` where the case at hand has a better one."""
        return Finding(
            rule=self.name,
            severity=self.severity,
            what=what,
            where=where,
            why=self.why,
            mend=mend or self.mend,
        )


def gravest_first(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Errors, then warnings, then notes; otherwise as they come, each once."""
    return tuple(sorted(dict.fromkeys(findings), key=lambda finding: ORDER.index(finding.severity)))
