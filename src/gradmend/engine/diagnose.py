"""From a Trace to ranked findings: causes before symptoms, wiring before statistics."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from gradmend.records.finding import CannotJudge, Finding
from gradmend.records.trace import Trace
from gradmend.registry import remedies, rules


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What the rules said."""

    findings: tuple[Finding, ...]
    cannot_judge: tuple[CannotJudge, ...]

    def joined(self, later: Diagnosis, *, step: int) -> Diagnosis:
        """Add what only a later look found, marked with the step it was found at."""
        known = {finding.code for finding in self.findings}
        new = [
            replace(
                finding,
                summary=f"after {step} steps: {finding.summary}",
                evidence=tuple(replace(item, step=step) for item in finding.evidence),
            )
            for finding in later.findings
            if finding.code not in known
        ]
        return Diagnosis(tuple(sorted((*self.findings, *new), key=_rank)), self.cannot_judge)


def diagnose(trace: Trace) -> Diagnosis:
    """Ask every rule, mark what one finding explains of another, and rank.

    Order: findings that no other explains; causes before symptoms; errors before warnings;
    wiring (family GRF, exact) before statistics; then by the decades they account for.
    """
    findings: list[Finding] = []
    unable: list[CannotJudge] = []
    for rule in rules():
        for answer in rule(trace):
            if isinstance(answer, Finding):
                treated_by = tuple(r.name for r in remedies() if answer.name in r.treats)
                findings.append(replace(answer, remedies=treated_by))
            else:
                unable.append(answer)
    return Diagnosis(tuple(rank(findings)), tuple(unable))


def rank(findings: Iterable[Finding]) -> list[Finding]:
    """Mark what one finding explains of another, and order them, the one to start with first."""
    every = list(findings)
    explained = [replace(finding, explained_by=_explainer(finding, every)) for finding in every]
    return sorted(explained, key=_rank)


def _explainer(finding: Finding, others: list[Finding]) -> str | None:
    """The weightiest finding that accounts for this one; never one that it itself explains."""
    candidates = [
        other
        for other in others
        if finding.name in other.explains
        and other.name not in finding.explains
        and other.severity.rank >= finding.severity.rank - 1
        and other.severity.value != "note"
    ]
    return max(candidates, key=lambda f: f.weight).name if candidates else None


def _rank(finding: Finding) -> tuple[object, ...]:
    wiring = finding.code.startswith("GRF") and not finding.symptom
    return (
        finding.symptom,
        finding.explained_by is not None,
        -finding.severity.rank,
        not wiring,
        -finding.weight,
        finding.code,
    )
