"""Findings: a cause, the module to blame, and the numbers that say so."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from gradmend.records.codec import to_plain


class Severity(StrEnum):
    """How bad it is. An error keeps a network from training; a warning hurts it."""

    NOTE = "note"
    WARNING = "warning"
    ERROR = "error"

    @property
    def rank(self) -> int:
        """0 for a note, 2 for an error."""
        return list(Severity).index(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One number that carries a finding, beside the limit it crossed."""

    quantity: str
    observed: float
    limit: float | None = None
    unit: str = "1"
    module: str | None = None
    step: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A rule's verdict on a trace.

    ``explains`` names the findings (by rule name) that this one accounts for; the engine
    ranks those below it. ``exculpation`` says what would have silenced the rule.
    """

    code: str
    name: str
    severity: Severity
    modules: tuple[str, ...]
    summary: str
    evidence: tuple[Evidence, ...] = ()
    source: str | None = None
    confidence: float = 1.0
    """The rule's own belief that this is the cause, in [0, 1]."""
    weight: float = 0.0
    """Decades of gradient (or signal) it accounts for; orders findings of one severity."""
    explains: tuple[str, ...] = ()
    explained_by: str | None = None
    exculpation: str = ""
    remedies: tuple[str, ...] = ()
    symptom: bool = False
    """A consequence rather than a cause; ranked below every cause."""

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists and numbers, ready for JSON."""
        plain: dict[str, Any] = to_plain(self)
        return plain


@dataclass(frozen=True, slots=True, kw_only=True)
class CannotJudge:
    """A rule's answer when the trace lacks what it needs."""

    code: str
    name: str
    needs: str
