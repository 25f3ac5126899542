"""The verdicts of several runs in columns."""

from __future__ import annotations

from collections.abc import Sequence

from gradmend.live.places import address
from gradmend.live.roster import status_html
from gradmend.records.report import Report
from gradmend.renderers import numbers, run_words
from gradmend.renderers.visible import escape, isolate

MOST_FINDINGS = 5
"""Of a run: the gravest, as its own page tells them all."""
_TEXT = ' style="text-align:left"'


def columns_html(runs: Sequence[tuple[str, Report | None, str]]) -> str:
    """A column for each run.

    Args:
        runs: Name, report, and why there is none.
    """
    heads = "".join(
        f'<th scope="col"{_TEXT}><a href="{escape(address(name))}">{isolate(name)}</a></th>'
        for name, _, _ in runs
    )
    cells = [_cells(report, problem) for _, report, problem in runs]
    lines = "".join(
        f'<tr><th scope="row">{label}</th>'
        + "".join(f"<td{_TEXT}>{column[at]}</td>" for column in cells)
        + "</tr>"
        for at, label in enumerate(_LABELS)
    )
    return (
        f"<h1>{numbers.count(len(runs), 'run')} side by side</h1>"
        f'<div class="scroll"><table class="compared"><thead><tr><td></td>{heads}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div>"
    )


_LABELS = ("verdict", "status", "steps", "time", "first loss", "last loss", "findings")


def _cells(report: Report | None, problem: str) -> list[str]:
    if report is None:
        return [escape(problem), *[""] * (len(_LABELS) - 1)]
    run = run_words.watched_of(report)
    return [
        f"<strong>{escape(run_words.verdict(report))}</strong>",
        status_html(run.status),
        f"{run.steps:,}",
        escape(numbers.seconds(run.seconds)),
        escape(run_words.loss_word(run.loss_first)),
        escape(run_words.loss_word(run.loss_last)),
        _findings(report),
    ]


def _findings(report: Report) -> str:
    causes, notes = run_words.ranked(report)
    lines = [
        f"<li>{escape(entry.finding.severity.value)}: {isolate(entry.finding.name)}</li>"
        for entry in causes[:MOST_FINDINGS]
    ]
    left = len(causes) - MOST_FINDINGS
    if left > 0:
        lines.append(f"<li>and {left:,} more</li>")
    if notes:
        lines.append(f"<li>{numbers.count(len(notes), 'note')}</li>")
    return f"<ul>{''.join(lines)}</ul>" if lines else "none"
