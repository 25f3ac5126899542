"""The lines that try or make a repair: what a person copies into a shell or a script."""

from __future__ import annotations

from dataclasses import dataclass

from gradmend.records.report import Report
from gradmend.renderers.run_words import shell_word
from gradmend.renderers.visible import escape, visible

FILE = "prescription.json"
"""As ``fix``, ``demo`` and the page's own button write it."""


@dataclass(frozen=True, slots=True)
class Line:
    """Something to type, and what it does."""

    words: str
    code: str


def lines_for(report: Report) -> list[Line]:
    """What to type to have this report's causes treated.

    A report that holds a prescription says how to make its edits; any other, how to have the
    remedies tried.
    """
    script = script_of(report)
    if report.prescription:
        found = []
        if script:
            found.append(Line("train with it", f"gradmend run --with {FILE} {script}"))
        found.append(
            Line("in Python", f'gradmend.apply("{FILE}", model, optimizer=optimizer)'),
        )
        return found
    if script:
        return [Line("try them on the script", f"gradmend fix {script}")]
    call = "gradmend.fix(model, batches, loss_fn, optimizer=optimizer)"
    return [Line("try them in Python", call)]


def script_of(report: Report) -> str:
    """The script a run was of, as it is typed; empty where there is none."""
    if report.watched is not None:
        name = visible(report.watched.command).removeprefix("gradmend run ").strip()
        return shell_word(name) if name.endswith(".py") else ""
    if report.script is not None and report.script.model_place is not None:
        name = report.script.model_place.file.replace("\\", "/").rpartition("/")[2]
        return shell_word(name) if name.endswith(".py") else ""
    return ""


def apply_box(report: Report) -> str:
    """The lines as HTML, each with a button that copies it."""
    rows = "".join(
        f'<div class="apply"><span class="apply-words">{escape(line.words)}</span>'
        f"<code>{escape(line.code)}</code>"
        f'<button type="button" class="copy" data-copy="{escape(line.code)}">Copy</button></div>'
        for line in lines_for(report)
    )
    more = script_of(report) and '<p class="small">With the script\'s own arguments behind it.</p>'
    return f"{rows}{more}"
