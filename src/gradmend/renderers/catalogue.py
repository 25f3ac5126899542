"""A rule's and a remedy's page: for the terminal, for docs/, for machines. One text each."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from gradmend.registry import FAMILIES, Remedy, Rule, remedies, rules

WIDTH = 100
"""Columns of a page at most: longer lines are hard to read."""
NARROWEST = 40
BESIDE = 70
"""Columns from which the words of the list stand beside the names, not below them."""


def list_text(every_rule: Sequence[Rule], every_remedy: Sequence[Remedy]) -> str:
    """The catalogue, a line each."""
    lines = [*textwrap.wrap("Rules: what gradmend finds", _width()), ""]
    for rule in every_rule:
        lines += _row(f"{rule.code}  {rule.name}", rule.summary)
    head = textwrap.wrap("Remedies: what it tries, smallest change first", _width())
    lines += ["", *head, ""]
    for remedy in every_remedy:
        lines += _row(remedy.name, remedy.summary)
    lines += ["", "gradmend explain CODE prints a page."]
    return "\n".join(lines)


def page_text(found: Rule | Remedy) -> str:
    """One page as plain text."""
    width = _width()
    lines = [_title(found), "", *textwrap.wrap(found.summary, width), ""]
    for fact in _facts(found):
        lines += textwrap.wrap(
            fact, width, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False
        )
    lines.append("")
    for heading, body in found.sections.items():
        lines += [heading, *(f"  {line}".rstrip() for line in reflowed(body, width - 2)), ""]
    if isinstance(found, Rule):
        lines += ["Limits", *_limit_lines(found, width), ""]
        lines += ["Cases", *_case_lines(found, width)]
    return "\n".join(lines).rstrip()


def reflowed(body: str, width: int) -> list[str]:
    """Paragraphs and lists wrapped anew; what is set in (formulas, code) keeps its lines."""
    lines: list[str] = []
    for block in re.split(r"\n[ \t]*\n", body.strip("\n")):
        if lines:
            lines.append("")
        items = re.split(r"\n(?=[-*] )", block)
        for item in items:
            rest = item.split("\n")[1:]
            hang = "  " if re.match(r"[-*] ", item) else ""
            if any(len(line) - len(line.lstrip()) != len(hang) for line in rest if line):
                lines += [part for line in item.split("\n") for part in _kept(line, width)]
            else:
                lines += textwrap.wrap(
                    " ".join(item.split()), width, subsequent_indent=hang, break_on_hyphens=False
                )
    return lines


def _kept(line: str, width: int) -> list[str]:
    """A line as it stands, only cut where it is too long."""
    indent = line[: len(line) - len(line.lstrip())]
    if len(line) <= width:
        return [line]
    return textwrap.wrap(line, width, subsequent_indent=f"{indent}  ", break_on_hyphens=False)


def _width() -> int:
    return max(NARROWEST, min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns))


def page_markdown(found: Rule | Remedy) -> str:
    """One page of docs/, generated from the file that holds the code."""
    lines = [
        "<!-- Generated from the source by tools/docs.py; edit the docstring instead. -->",
        "",
        f"# {_title(found)}",
        "",
        found.summary,
        "",
        *(f"- {line}" for line in _facts(found)),
        "",
    ]
    for heading, body in found.sections.items():
        lines += [f"## {heading}", "", body, ""]
    if isinstance(found, Rule):
        rows = found.limit_rows()
        lines += ["## Limits", ""]
        if rows:
            lines += ["| limit | default | unit | source |", "| --- | --- | --- | --- |"]
            lines += [f"| `{n}` | {v:g} | {u} | {s} |" for n, v, u, s in rows]
        else:
            lines += ["None: it states a fact."]
        lines += ["", "## Cases", "", "Fires on:", ""]
        lines += [f"- `{case}`" for case in (*found.fires_on, *found.live_fires_on)]
        lines += ["", "Silent on:", ""]
        lines += [f"- `{case}`" for case in (*found.silent_on, *found.live_silent_on)] + [""]
    return "\n".join(lines)


def plain_page(found: Rule | Remedy) -> dict[str, Any]:
    """One page as plain values, ready for JSON."""
    page: dict[str, Any] = {
        "name": found.name,
        "summary": found.summary,
        "sections": found.sections,
        "since": found.since,
    }
    if isinstance(found, Rule):
        names = ("name", "default", "unit", "source")
        page["code"] = found.code
        judges = {"one look": found.function, "a run": found.live}
        page["judges"] = [what for what, function in judges.items() if function is not None]
        page["limits"] = [dict(zip(names, row, strict=True)) for row in found.limit_rows()]
        page["remedies"] = [r.name for r in remedies() if found.name in r.treats]
    else:
        page["treats"] = list(found.treats)
        page["changes"] = [_words(change.name) for change in found.changes]
    return page


def _row(name: str, summary: str) -> list[str]:
    """A name and what it is, the words wrapped beside it to the terminal's width."""
    width = _width()
    if width < BESIDE:
        told = textwrap.wrap(
            _short(summary), width, initial_indent=" " * 4, subsequent_indent=" " * 4
        )
        return [
            *textwrap.wrap(name, width - 2, initial_indent="  ", subsequent_indent=" " * 10),
            *told,
        ]
    head = f"  {name:<32} "
    return textwrap.wrap(
        _short(summary), width, initial_indent=head, subsequent_indent=" " * len(head)
    )


def _title(found: Rule | Remedy) -> str:
    return f"{found.code} {found.name}" if isinstance(found, Rule) else found.name


def _facts(found: Rule | Remedy) -> Iterable[str]:
    if isinstance(found, Rule):
        treated = [r.name for r in remedies() if found.name in r.treats]
        yield f"family: {FAMILIES[found.code[:3]]}"
        looks, runs = found.function is not None, found.live is not None
        yield "judges: " + " and ".join(["one look"] * looks + ["a run as it grows"] * runs)
        yield f"remedies: {', '.join(treated) or 'none; the finding says what to change'}"
    else:
        codes = {r.name: r.code for r in rules()}
        yield "treats: " + ", ".join(f"{codes.get(name, '?')} {name}" for name in found.treats)
        yield "changes: " + ", ".join(_words(change.name) for change in found.changes)
    yield f"since: {found.since}"


def _limit_lines(found: Rule, width: int) -> list[str]:
    rows = found.limit_rows()
    if not rows:
        return ["  none: it states a fact"]
    lines = []
    for name, value, unit, source in rows:
        told = f"{name} = {value:g} ({unit})"
        lines += textwrap.wrap(told, width, initial_indent="  ", subsequent_indent="      ")
        lines += textwrap.wrap(source, width, initial_indent="    ", subsequent_indent="    ")
    return lines


def _case_lines(found: Rule, width: int) -> list[str]:
    fires, silent = found.fires_on + found.live_fires_on, found.silent_on + found.live_silent_on
    told = [f"fires on   {case}" for case in fires] + [f"silent on  {case}" for case in silent]
    return [
        part
        for line in told
        for part in textwrap.wrap(
            line, width, initial_indent="  ", subsequent_indent=" " * 13, drop_whitespace=True
        )
    ]


def _short(summary: str) -> str:
    return summary.rstrip(".")


def _words(name: str) -> str:
    return name.lower().replace("_", " ")
