"""The list of runs, which refreshes itself as runs begin, grow and end."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from gradmend.live.judge import Judge
from gradmend.live.places import address
from gradmend.live.shelf import Row, Shelf
from gradmend.live.source import Source
from gradmend.live.work import aside
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
    ("verdict", _WORDS),
    ("begun", ""),
)
_COMPARE = ("compare", "")
_SIGNS = {"running": "●", "finished": "✓", "crashed": "✕", "killed": "✕", "stopped": "■"}
_KINDS = {"finished": "good", "crashed": "bad", "killed": "bad"}


class Roster(Source):
    """The runs of a folder.

    Args:
        shelf: The folder.
        judge: Knows the verdicts.
    """

    def __init__(self, shelf: Shelf, judge: Judge) -> None:
        super().__init__()
        self.shelf, self.judge = shelf, judge

    async def html(self) -> str:
        """The list as it is now."""
        return self._html(await aside(self.shelf.rows))

    async def follow(self) -> None:
        """List the folder once a second, and judge what was written meanwhile."""
        judging: asyncio.Task[None] | None = None
        try:
            while True:
                rows = await aside(self.shelf.rows)
                if judging is None or judging.done():
                    if judging is not None:
                        judging.result()
                    judging = asyncio.create_task(self.judge.catch_up(rows))
                    await asyncio.sleep(0)
                html = self._html(rows)
                if self.snapshot.sections.get(SECTION) != html:
                    self.publish(sections={SECTION: html})
                state = list_state(rows)
                if self.snapshot.state != state:
                    self.publish(state=state)
                await asyncio.sleep(PAUSE)
        finally:
            if judging is not None:
                judging.cancel()

    def _html(self, rows: Sequence[Row]) -> str:
        verdicts = self.judge.verdicts(rows)
        return list_html(rows, str(self.shelf.place), datetime.now(UTC), verdicts)


def list_state(rows: Sequence[Row]) -> dict[str, object]:
    """For the status line of the list."""
    running = sum(row.summary.run.status == "running" for row in rows)
    return {"runs": len(rows), "running": running}


def list_html(rows: Sequence[Row], place: str, now: datetime, verdicts: Mapping[str, str]) -> str:
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
    lines = "".join(
        _line(row, now, verdicts.get(row.summary.name), several=several) for row in rows
    )
    # The script fills it in; a form would need a page that may send forms.
    link = '<p style="margin-top:16px"><a id="compare" data-keep hidden></a></p>' if several else ""
    return (
        f'<h1>{numbers.count(len(rows), "run")}</h1><p class="small">In {isolate(place)}.</p>'
        '<div class="scroll"><table class="runs" style="white-space:nowrap">'
        f"<thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table></div>{link}"
    )


def status_html(status: str) -> str:
    """A status by sign, word and colour."""
    kind = ' style="color:var(--after)"' if status == "running" else ""
    kind = kind or f' class="{_KINDS.get(status, "open")}"'
    return f"<span{kind}>{_SIGNS.get(status, '○')} {escape(status or 'unknown')}</span>"


def _line(row: Row, now: datetime, verdict: str | None, *, several: bool) -> str:
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
        escape("being read" if verdict is None else verdict),
        escape(age_words(run.started_at, now)),
    )
    shown = "".join(
        f"<td{style}>{cell}</td>" for cell, (_, style) in zip(cells, _HEADS[1:], strict=True)
    )
    box = f'<td><input type="checkbox" data-run="{name}" aria-label="compare {name}"></td>'
    return f'<tr data-key="{name}">{link}{shown}{box if several else ""}</tr>'
