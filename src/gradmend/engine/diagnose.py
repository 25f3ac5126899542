"""From a Trace to ranked findings: causes before symptoms, wiring before statistics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from gradmend.probe.collecting import collecting_later
from gradmend.records.finding import CannotJudge, Finding, Severity
from gradmend.records.request import Answer, Request
from gradmend.records.trace import Trace
from gradmend.registry import remedies, rules

MOST_MEASUREMENTS = 6
"""Measurements taken for one diagnosis; each is about one more look."""

Ask = Callable[[Request, Trace], Answer | None]
"""Takes a requested measurement; ``None`` where it is not cheap or not possible."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What the rules said."""

    findings: tuple[Finding, ...]
    cannot_judge: tuple[CannotJudge, ...]
    undecided: tuple[Request, ...] = ()
    """Measurements that would have decided something and were not taken."""
    trace: Trace | None = None
    """What was judged: the look, with the answers to what rules asked for."""

    def joined(self, others: Iterable[Finding]) -> Diagnosis:
        """Add what only another look or a run showed."""
        known = {finding.name for finding in self.findings}
        new = [finding for finding in others if finding.name not in known]
        return replace(self, findings=tuple(rank((*self.findings, *new))))


def dated(findings: Iterable[Finding], step: int) -> Iterator[Finding]:
    """Findings of a later look, marked with the step they were found at."""
    for finding in findings:
        yield replace(
            finding,
            summary=f"after {step} steps: {finding.summary}",
            evidence=tuple(replace(item, step=step) for item in finding.evidence),
        )


def diagnose(trace: Trace, ask: Ask | None = None) -> Diagnosis:
    """Ask every rule, measure what they ask for, mark what explains what, and rank.

    Order: notes last; causes before symptoms; findings that no other explains; errors before
    warnings; wiring (family GRF, exact) before statistics; then by the decades they account for.

    Args:
        trace: One look.
        ask: Takes the measurements that rules request; without it those stay undecided.
    """
    findings, unable, requests = _judge(trace)
    asked: set[object] = set()
    while ask is not None:
        fresh = {r.key: r for r in requests if r.key not in asked}
        room = MOST_MEASUREMENTS - len(asked)
        if not fresh or room <= 0:
            break
        taken = [ask(request, trace) for request in list(fresh.values())[:room]]
        asked.update(list(fresh)[:room])
        answers = tuple(answer for answer in taken if answer is not None)
        if not answers:
            break
        trace = replace(trace, answers=(*trace.answers, *answers))
        findings, unable, requests = _judge(trace)
    answered = {answer.key for answer in trace.answers}
    return Diagnosis(
        findings=tuple(rank(findings)),
        cannot_judge=tuple(unable),
        undecided=tuple(request for request in requests if request.key not in answered),
        trace=trace,
    )


@collecting_later()
def _judge(trace: Trace) -> tuple[list[Finding], list[CannotJudge], list[Request]]:
    findings: list[Finding] = []
    unable: list[CannotJudge] = []
    requests: list[Request] = []
    for rule in rules():
        for answer in rule(trace):
            if isinstance(answer, Finding):
                treated_by = tuple(r.name for r in remedies() if answer.name in r.treats)
                findings.append(replace(answer, remedies=treated_by))
            elif isinstance(answer, Request):
                requests.append(answer)
            else:
                unable.append(answer)
    return findings, unable, requests


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
        finding.severity is Severity.NOTE,
        finding.symptom,
        finding.explained_by is not None,
        -finding.severity.rank,
        not wiring,
        -finding.weight,
        finding.code,
    )
