"""The report as the page carries it: whole where it is small, without its bulk where it is not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gradmend.records.codec import to_plain
from gradmend.records.layout import OptimizerFacts
from gradmend.records.report import Report

MOST_OPERATIONS = 600
"""Operations whose full records are embedded; beyond, the page carries the summary only."""
MOST_NAMES = 200
"""Module names embedded per finding or edit."""


def is_small(report: Report) -> bool:
    """Whether the whole report is embedded."""
    return len(report.trace.operations) <= MOST_OPERATIONS and not any(
        k >= MOST_OPERATIONS
        for book in (report.trace.ledger, report.trace.ledger_random)
        if book is not None and book.root is not None
        for k, _ in enumerate(book.root.walk())
    )


def report_data(report: Report) -> Any:
    """The report as JSON values, without its bulk where there is too much of it."""
    if is_small(report):
        return report.to_dict()
    trace = report.trace

    def slim(ledger: Any) -> Any:
        return None if ledger is None else replace(ledger, root=None)

    small = replace(
        report,
        trace=replace(
            trace,
            operations=(),
            parameters=(),
            modules=(),
            answers=(),
            cuts=trace.cuts[:MOST_NAMES],
            optimizer=_slim_optimizer(trace.optimizer),
            ledger=slim(trace.ledger),
            ledger_random=slim(trace.ledger_random),
        ),
        after=None,
        findings=tuple(replace(f, modules=f.modules[:MOST_NAMES]) for f in report.findings),
        prescription=None,
    )
    plain = small.to_dict()
    plain["left_out"] = (
        "operations, parameters, modules, ledger entries, prescription, answers, second look"
    )
    return to_plain(plain)


def _slim_optimizer(facts: OptimizerFacts | None) -> OptimizerFacts | None:
    """Its groups by their options and their first parameters."""
    if facts is None:
        return None
    groups = tuple(
        replace(group, parameters=group.parameters[:MOST_NAMES]) for group in facts.groups
    )
    return replace(facts, groups=groups, missing=facts.missing[:MOST_NAMES])
