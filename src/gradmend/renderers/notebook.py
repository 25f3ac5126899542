"""What a notebook shows: the page of a report in a frame, and the panel of a training.

The page is the very file that ``report.html`` is, inside an ``<iframe srcdoc>``: its style and its
script cannot touch the notebook, nor the notebook's the page. It loads nothing and needs no server.
Viewers that take frames out (GitHub, an untrusted notebook) still show the words below it.
"""

from __future__ import annotations

import html

from gradmend.records.finding import Finding
from gradmend.records.history import History
from gradmend.records.report import Report
from gradmend.renderers import numbers
from gradmend.renderers import words as looked
from gradmend.renderers.html import render
from gradmend.renderers.panel import panel_of, panel_words_of
from gradmend.renderers.run_page import render_run_page
from gradmend.renderers.run_text import render_run
from gradmend.renderers.run_words import shell_word, verdict
from gradmend.renderers.text import render as as_text
from gradmend.renderers.visible import escape
from gradmend.store.reader import open_run

MOST_BYTES = 2_000_000
"""Of a page inside a notebook, which keeps it with its cells (our choice: a tenth of what GitHub
still shows of a notebook)."""
MOST_WORDS = 60_000
"""Characters of the text below it."""
HEIGHT = 760
"""Pixels of the frame: a screen's height in a notebook; it can be pulled larger."""
COLUMNS = 100
"""Of text in a notebook's output."""


def page(
    report: Report, history: History | None = None, *, folder: str = "", kept: str = ""
) -> str:
    """The page of a report in a frame; without it, and said so, where it is too large.

    Args:
        report: What to show.
        history: The run, where it is a report on one: its text is fuller.
        folder: Where the run can be read while this is drawn: its figures are made from it.
        kept: Where it can be read afterwards, if it can.
    """
    text = words(report, history)
    short = text if len(text) <= MOST_WORDS else text[:MOST_WORDS] + "\n(cut here)\n"
    told = f"<pre style='overflow-x:auto'>{html.escape(short)}</pre>"
    whole = render_run_page(report, open_run(folder)) if folder else render(report)
    size = len(whole.encode())
    if size > MOST_BYTES:
        where = (
            f"gradmend live {shell_word(kept)}"
            if kept
            else "open('report.html', 'w').write(gradmend.renderers.html.render(report))"
        )
        return (
            f"<p>{escape(_sentence(report))}</p>"
            f"<p>The page is {numbers.bytes_words(size)}, too large to keep in a notebook"
            f" (at most {numbers.bytes_words(MOST_BYTES)}). <code>{escape(where)}</code> shows it"
            f" outside; here are its words.</p>{told}"
        )
    title = escape(f"gradmend: {_sentence(report)}")
    return (
        f'<iframe title="{title}" srcdoc=\'{_quoted(_framed(whole))}\' sandbox="allow-scripts'
        ' allow-downloads" style="width:100%;height:' + f"{HEIGHT}px;border:1px solid"
        ' rgba(128,128,128,.35);border-radius:8px;resize:vertical"></iframe>'
        f"<details><summary>As text: {escape(_sentence(report))} (The page above is"
        f" {numbers.bytes_words(size)}.)</summary>{told}</details>"
    )


def words(report: Report, history: History | None = None) -> str:
    """A report, or the run it is on, as plain text."""
    if history is not None:
        return render_run(report, history, width=COLUMNS, colour=False, ascii=False)
    if report.watched is not None:  # the numbers are with the run; the sentences are here
        return f"{report.watched.name or report.trace.run.model}: {_sentence(report)}\n" + as_text(
            report, width=COLUMNS, colour=False, ascii=False
        )
    return as_text(report, width=COLUMNS, colour=False, ascii=False)


def panel(history: History, findings: list[Finding]) -> str:
    """A training as it stands: a status line, what was found, four small pictures."""
    return panel_of(history, findings)


def panel_words(history: History, findings: list[Finding]) -> str:
    """The same in a few lines of text."""
    return panel_words_of(history, findings)


def _sentence(report: Report) -> str:
    return verdict(report) if report.watched is not None else looked.verdict_sentence(report)


def _framed(document: str) -> str:
    """A page whose links to its own places stay inside of it.

    In a frame without an address ``#place`` counts from the notebook's, which would then be loaded
    in the page's stead. The script, behind all links, is left as it is: its hash lets it run.
    """
    body, mark, rest = document.partition("<script")
    return body.replace('href="#', 'href="about:srcdoc#') + mark + rest


def _quoted(document: str) -> str:
    """HTML for a single-quoted attribute: a page holds many more double quotes than single ones."""
    return document.replace("&", "&amp;").replace("'", "&#39;")
