"""The Report: the one object that every view takes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gradmend.records.codec import to_plain
from gradmend.records.finding import CannotJudge, Finding, Severity
from gradmend.records.ledger import Ledger
from gradmend.records.prescription import Advice, Prescription, Refusal
from gradmend.records.request import Request
from gradmend.records.script import ScriptFacts
from gradmend.records.trace import Trace
from gradmend.records.verdict import Verdict
from gradmend.records.views import Printer, print_pretty, views
from gradmend.records.watched import Watched


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was measured, found, prescribed and proven, in one place."""

    trace: Trace
    findings: tuple[Finding, ...] = ()
    cannot_judge: tuple[CannotJudge, ...] = ()
    undecided: tuple[Request, ...] = ()
    """What the evidence left open, each with the measurement that would decide it."""
    prescription: Prescription | None = None
    refusals: tuple[Refusal, ...] = ()
    advice: tuple[Advice, ...] = ()
    """What to change in the source by hand."""
    verdict: Verdict | None = None
    after: Trace | None = None
    """A second look: after the kept edits, or after ``steps`` on a shadow."""
    watched: Watched | None = None
    """The run, where this is a report on one."""
    script: ScriptFacts | None = None
    """Where things stand in its source, where the run was the beginning of a script."""
    facts: dict[str, float | str] = field(default_factory=dict)
    """Figures a caller adds for the views, such as accuracies."""
    made_at: str = ""

    @property
    def ledger(self) -> Ledger | None:
        """The books of the first look, with the loss's own cotangent."""
        return self.trace.ledger

    @property
    def healthy(self) -> bool:
        """Whether nothing at or above a warning was found."""
        return not self.at_least(Severity.WARNING)

    def at_least(self, severity: Severity | str) -> tuple[Finding, ...]:
        """The findings at or above a severity."""
        floor = Severity(severity).rank
        return tuple(f for f in self.findings if f.severity.rank >= floor)

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists and numbers, ready for JSON; NaN and infinity become null."""
        plain: dict[str, Any] = to_plain(self)
        plain["healthy"] = self.healthy
        plain["ledger"] = to_plain(self.ledger) if self.ledger else None
        return plain

    def __str__(self) -> str:
        """The verdict in a line per finding; :mod:`gradmend.renderers` has the long form."""
        open_ = [f"  undecided {r.code} {r.name}: {r.why}" for r in self.undecided]
        if not self.findings:
            said = "nothing found" if open_ else "healthy, nothing found."
            return "\n".join([f"{self.trace.run.model}: {said}", *open_])
        lines = [f"{self.trace.run.model}: {len(self.findings)} finding(s)"]
        for f in self.findings:
            where = f" [{f.source}]" if f.source else ""
            lines.append(f"  {f.severity.value:<7} {f.code} {f.name}: {f.summary}{where}")
        return "\n".join([*lines, *open_])

    def _repr_html_(self) -> str:
        return views().page(self)

    def _repr_pretty_(self, printer: Printer, cycle: bool) -> None:
        del cycle  # unused: a report does not hold itself
        name = f"Report on {self.trace.run.model}: {len(self.findings)} finding(s)"
        print_pretty(printer, lambda: views().words(self), name)
