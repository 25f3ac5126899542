"""From findings to candidates: every fitting remedy, alone and combined, smallest change first."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import product

from gradmend.errors import UnknownName
from gradmend.records.finding import Finding, Severity
from gradmend.records.prescription import KEEPS, Advice, Change, Prescription, Refusal
from gradmend.records.trace import Trace
from gradmend.registry import remedies


@dataclass(frozen=True, slots=True)
class Candidates:
    """What could be tried, smallest change first, and what could not."""

    prescriptions: tuple[Prescription, ...]
    refusals: tuple[Refusal, ...]
    advice: tuple[Advice, ...] = ()
    """What only the source can mend."""


def prescribe(findings: tuple[Finding, ...], trace: Trace, keep: Iterable[str] = ()) -> Candidates:
    """Ask every remedy that treats a finding.

    Args:
        findings: What is to be treated; notes are not.
        trace: The look they came from.
        keep: Words of :data:`gradmend.records.prescription.KEEPS`: what must not change.

    Raises:
        UnknownName: If ``keep`` holds a word that nobody knows.
    """
    keep = tuple(keep)  # read twice: an iterator would be used up when the reason is told
    forbidden = forbidden_changes(keep)
    serious = tuple(f for f in findings if f.severity is not Severity.NOTE)
    alone: dict[str, list[Prescription]] = {}
    companions: list[Prescription] = []
    refusals: list[Refusal] = []
    advice: list[Advice] = []
    for remedy in remedies():
        treated = tuple(f for f in serious if f.name in remedy.treats)
        if not treated:
            continue
        blocked = forbidden & set(remedy.changes)
        if blocked:
            words = [word for word in keep if KEEPS[word] & blocked]
            refusals.append(
                Refusal(remedy=remedy.name, finding=treated[0].name,
                        reason=f"keep={', '.join(words)} forbids it")
            )  # fmt: skip
            continue
        for answer in remedy(treated, trace):
            if isinstance(answer, Refusal):
                refusals.append(answer)
                continue
            if isinstance(answer, Advice):
                advice.append(answer)
                continue
            if forbidden & set(answer.changes):  # more than the remedy declares: a plug-in's slip
                refusals.append(
                    Refusal(
                        remedy=remedy.name,
                        finding=treated[0].name,
                        reason=f"it would change what keep={', '.join(keep)} forbids",
                    )
                )
                continue
            named = replace(
                answer,
                remedies=(remedy.name,),
                treats=tuple(dict.fromkeys(f.name for f in treated)),
                model=trace.run.model,
            )
            (companions if remedy.companion else alone.setdefault(remedy.name, [])).append(named)
    return Candidates(_combine(alone, companions), tuple(refusals), tuple(advice))


def forbidden_changes(keep: Iterable[str]) -> frozenset[Change]:
    """The kinds of change that ``keep`` rules out."""
    found: set[Change] = set()
    for word in keep:
        if word not in KEEPS:
            raise UnknownName(
                f"keep='{word}' names nothing that can be kept",
                "",
                f"use any of {', '.join(KEEPS)}",
            )
        found |= KEEPS[word]
    return frozenset(found)


def _combine(
    alone: dict[str, list[Prescription]], companions: list[Prescription]
) -> tuple[Prescription, ...]:
    """Each prescription alone, with each companion, and data scaling with each of the rest.

    A companion (the learning rate) is also tried alone. Two remedies that set the same weights
    are rivals and never combined.
    """
    single = [p for options in alone.values() for p in options]
    scaling = [p for p in single if p.changes == (Change.DATA_SCALE,)]
    others = [p for p in single if p not in scaling]
    bases = [*single, *(data.plus(other) for data, other in product(scaling, others))]
    both = [base.plus(companion) for base, companion in product(bases, companions)]
    return tuple(sorted([*bases, *companions, *both], key=lambda p: p.size))
