"""Changes to the user's own source: what, where, the lines before and after."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.padding import Padding
from rich.text import Text

from gradmend.records.prescription import Advice
from gradmend.records.report import Report
from gradmend.renderers.tables import Look
from gradmend.renderers.visible import escape, isolate

MOST_LINES = 20
"""Lines of source shown on either side."""


def advice_parts(report: Report, look: Look) -> Iterator[RenderableType]:
    """The advice of a report for a terminal, each as a small difference of source lines."""
    if not report.advice:
        return
    yield Text()
    yield Text("CHANGE IN YOUR SOURCE", style="bold")
    for item in report.advice:
        head = Text(look.say(item.finding), style="bold")
        head.append(f": {look.say(item.text)}", style="not bold")
        yield Padding(head, (0, 0, 0, 3))
        if item.source:
            yield Padding(Text(look.say(item.source), style="cyan"), (0, 0, 0, 3))
        for mark, line in change_lines(item):
            shown = Text(f"{mark} {look.say(line)}", style="red" if mark == "-" else "green")
            yield Padding(shown, (0, 0, 0, 6))


def advice_section(report: Report) -> str:
    """The same for a page; empty where there is none."""
    parts = []
    for item in report.advice:
        place = f"<p><code>{isolate(item.source)}</code></p>" if item.source else ""
        lines = "\n".join(f"{mark} {escape(line)}" for mark, line in change_lines(item))
        code = f"<pre><code>{lines}</code></pre>" if lines else ""
        parts.append(
            f'<article class="card note"><h3>{isolate(item.finding)}</h3>'
            f"<p>{isolate(item.text)}</p>{place}{code}</article>"
        )
    return "".join(parts)


def change_lines(item: Advice) -> list[tuple[str, str]]:
    """``-`` and a line as it is, ``+`` and a line as it should be, in this order."""
    return [
        (mark, line)
        for mark, text in (("-", item.before), ("+", item.after))
        for line in text.split("\n")[:MOST_LINES]
        if text
    ]
