"""The list of runs, which refreshes itself as runs begin, grow and end."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from urllib.parse import quote

from gradmend.live.shelf import Row, Shelf
from gradmend.live.source import Source
from gradmend.live.work import aside
from gradmend.records.finding import Severity
from gradmend.renderers import numbers, run_words
from gradmend.renderers.run_list import age_words
from gradmend.renderers.visible import escape, isolate

PAUSE = 1.0
"""Seconds between two looks at the folder."""
SECTION = "runs"
_LEFT = ' style="text-align:left"'
_WORDS = ' style="text-align:left;padding-left:18px;white-space:normal;min-width:15em"'
_HEADS = (
    ("run", _LEFT),
    ("status", _LEFT),
    ("steps", ""),
    ("time", ""),
    ("last loss", ""),
    ("open findings", _WORDS),
    ("begun", ""),
)
_COMPARE = ("compare", "")
_SIGNS = {"running": "●", "finished": "✓", "crashed": "✕", "killed": "✕", "stopped": "■"}
_KINDS = {"finished": "good", "crashed": "bad", "killed": "bad"}


class Roster(Source):
    """The runs of a folder."""

    def __init__(self, shelf: Shelf) -> None:
        super().__init__()
        self.shelf = shelf

    async def html(self) -> str:
        """The list as it is now."""
        rows = await aside(self.shelf.rows)
        return list_html(rows, str(self.shelf.place), datetime.now(UTC))

    async def follow(self) -> None:
        """List the folder once a second."""
        while True:
            rows = await aside(self.shelf.rows)
            html = list_html(rows, str(self.shelf.place), datetime.now(UTC))
            if self.snapshot.sections.get(SECTION) != html:
                self.publish(sections={SECTION: html})
            state = list_state(rows)
            if self.snapshot.state != state:
                self.publish(state=state)
            await asyncio.sleep(PAUSE)


def list_state(rows: Sequence[Row]) -> dict[str, object]:
    """For the status line of the list."""
    running = sum(row.summary.run.status == "running" for row in rows)
    return {"runs": len(rows), "running": running}


def list_html(rows: Sequence[Row], place: str, now: datetime) -> str:
    """The list, or what is waited for."""
    if not rows:
        return (
            "<h1>Waiting for a run</h1>"
            f"<p>There is none in {isolate(place)} yet. It is shown here as soon as it begins.</p>"
            "<p>Watch a script with <code>gradmend run train.py</code>, or a model in your own"
            ' code with <code>gradmend.watch(model, run="gradmend-runs/NAME")</code>.</p>'
        )
    several = sum(not row.summary.problem for row in rows) > 1
    columns = (*_HEADS, _COMPARE) if several else _HEADS
    heads = "".join(f'<th scope="col"{style}>{head}</th>' for head, style in columns)
    lines = "".join(_line(row, now, several=several) for row in rows)
    # The script fills it in; a form would need a page that may send forms.
    link = '<p style="margin-top:16px"><a id="compare" data-keep hidden></a></p>' if several else ""
    return (
        f'<h1>{numbers.count(len(rows), "run")}</h1><p class="small">In {isolate(place)}.</p>'
        '<div class="scroll"><table class="runs" style="white-space:nowrap">'
        f"<thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table></div>{link}"
    )


def address(name: str) -> str:
    """The path of a run on the server."""
    return f"/run/{quote(name, safe='')}"


def status_html(status: str) -> str:
    """A status by sign, word and colour."""
    kind = ' style="color:var(--after)"' if status == "running" else ""
    kind = kind or f' class="{_KINDS.get(status, "open")}"'
    return f"<span{kind}>{_SIGNS.get(status, '○')} {escape(status or 'unknown')}</span>"


def _line(row: Row, now: datetime, *, several: bool) -> str:
    summary, run = row.summary, row.summary.run
    name = escape(summary.name)
    link = f'<td><a href="{escape(address(summary.name))}">{isolate(summary.name)}</a></td>'
    if summary.problem:
        wide = len(_HEADS) - 1 + several
        style = ' style="text-align:left;white-space:normal"'
        problem = f'<td colspan="{wide}"{style}>{isolate(summary.problem)}</td>'
        return f'<tr data-key="{name}">{link}{problem}</tr>'
    cells = (
        status_html(run.status),
        f"{run.steps:,}",
        escape(numbers.seconds(run.seconds) if run.steps else numbers.UNKNOWN),
        escape(run_words.loss_word(row.loss)),
        _findings(row),
        escape(age_words(run.started_at, now)),
    )
    shown = "".join(
        f"<td{style}>{cell}</td>" for cell, (_, style) in zip(cells, _HEADS[1:], strict=True)
    )
    box = f'<td><input type="checkbox" data-run="{name}" aria-label="compare {name}"></td>'
    return f'<tr data-key="{name}">{link}{shown}{box if several else ""}</tr>'


def _findings(row: Row) -> str:
    """How many of each severity are open, and the gravest by name."""
    counts = row.summary.open_findings
    parts = [numbers.count(counts[s], s.value) for s in reversed(Severity) if counts.get(s)]
    worst = f" ({isolate(row.summary.worst)})" if row.summary.worst else ""
    return f"{escape(', '.join(parts))}{worst}" if parts else "none"
