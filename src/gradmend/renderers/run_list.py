"""A list of runs: a row each, for people and as plain values for programs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from rich.table import Table
from rich.text import Text

from gradmend.records.codec import to_plain
from gradmend.records.finding import Severity
from gradmend.renderers import numbers
from gradmend.renderers.paper import on_paper
from gradmend.renderers.tables import NARROWEST, WIDEST, Look
from gradmend.store.folders import RunSummary

_STYLE = {"crashed": "red", "stopped": "yellow", "killed": "red", "running": "cyan"}


def run_list(
    summaries: Sequence[RunSummary],
    *,
    width: int = 80,
    colour: bool = False,
    ascii: bool | None = None,
    now: datetime | None = None,
) -> str:
    """The runs of a folder as a table.

    Args:
        summaries: As :func:`gradmend.store.folders.list_runs` gives them.
        width: Columns, held between 40 and 160.
        colour: Whether to send colour codes.
        ascii: Whether to keep to ASCII; by default where there is no colour.
        now: What ages are counted from; the clock's time where not given.

    Returns:
        Lines ending in newlines; what cannot be read stands below the table, with the reason.
    """
    look = Look(min(max(width, NARROWEST), WIDEST), not colour if ascii is None else ascii)
    if not summaries:
        return "No runs here.\n"
    now = now or datetime.now(UTC)
    readable = [summary for summary in summaries if not summary.problem]
    rows = [
        (
            look.say(summary.name),
            look.say(summary.run.status or "?"),
            f"{summary.run.steps:,}",
            numbers.seconds(summary.run.seconds),
            age_words(summary.run.started_at, now),
            bytes_words(summary.bytes),
            look.say(_found(summary)),
        )
        for summary in readable
    ]
    heads = ("run", "status", "steps", "time", "begun", "size", "worst finding")
    widths = [max(len(head), *(len(row[at]) for row in rows), 0) for at, head in enumerate(heads)]
    dropped: list[int] = []
    for at in (5, 4, 3):  # where names would be cut, what matters least gives way
        rest = [width for column, width in enumerate(widths) if column not in dropped]
        if sum(rest) + 2 * (len(rest) - 1) > look.width:
            dropped.append(at)
    kept = [at for at in range(len(heads)) if at not in dropped]
    room = look.width - sum(widths[at] for at in kept[1:-1]) - 2 * (len(kept) - 1)
    name_width = min(widths[0], max(room // 2, room - widths[6]))
    last_width = min(widths[6], room - name_width)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for at in kept:
        wide = {0: name_width, 6: last_width}.get(at, widths[at])
        right = at in (2, 3, 5)
        table.add_column(heads[at], width=wide, no_wrap=True, justify="right" if right else "left")
    for row in rows:
        cells = [Text(cell) for cell in row]
        cells[0], cells[6] = Text(look.cut(row[0], name_width)), Text(look.cut(row[6], last_width))
        cells[1].stylize(_STYLE.get(row[1], ""))
        table.add_row(*(cells[at] for at in kept))
    parts: list[Table | Text] = [table] if rows else []
    for summary in summaries:
        if summary.problem:
            parts.append(Text(look.say(f"{summary.name}: {summary.problem}"), style="dim"))
    return on_paper(parts, width=look.width, colour=colour)


def run_list_plain(summaries: Sequence[RunSummary]) -> list[dict[str, Any]]:
    """The same as plain values, ready for JSON."""
    return [
        {
            "name": summary.name,
            "path": str(summary.path),
            "status": summary.run.status,
            "steps": summary.run.steps,
            "seconds": to_plain(summary.run.seconds),
            "started_at": summary.run.started_at,
            "models": list(summary.run.models),
            "open_findings": {s.value: n for s, n in summary.open_findings.items()},
            "worst": summary.worst,
            "bytes": summary.bytes,
            "problem": summary.problem,
        }
        for summary in summaries
    ]


def age_words(started_at: str, now: datetime) -> str:
    """``just now``, ``12 min ago``, ``3 h ago``, ``8 days ago``; ``?`` for no time."""
    try:
        begun = datetime.fromisoformat(started_at)
    except ValueError:
        return "?"
    begun = begun if begun.tzinfo else begun.replace(tzinfo=UTC)
    seconds = (now - begun).total_seconds()
    if seconds < 90:  # a clock may run a little ahead
        return "just now" if seconds > -86400 else "?"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min ago"
    if seconds < 129600:
        return f"{seconds / 3600:.0f} h ago"
    return f"{seconds / 86400:,.0f} days ago"


def bytes_words(count: int) -> str:
    """``812 B``, ``4.2 kB``, ``1.3 MB``."""
    size, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 999.5 or unit == "TB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "B" or size >= 99.5 else f"{size:.1f} {unit}"


def _found(summary: RunSummary) -> str:
    """The worst open finding, and how many there are beside it."""
    grave = sum(n for s, n in summary.open_findings.items() if s is not Severity.NOTE)
    if not summary.worst or not grave:
        notes = summary.open_findings.get(Severity.NOTE, 0)
        return numbers.count(notes, "note") if notes else "-"
    return summary.worst + (f" (+{grave - 1})" if grave > 1 else "")
