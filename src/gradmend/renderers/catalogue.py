"""A rule's and a remedy's page: for the terminal, for docs/, for machines. One text each."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from gradmend.registry import FAMILIES, Remedy, Rule, remedies, rules

WIDTH = 100


def list_text(every_rule: Sequence[Rule], every_remedy: Sequence[Remedy]) -> str:
    """The catalogue, a line each."""
    lines = ["Rules: what gradmend finds", ""]
    for rule in every_rule:
        lines += _row(f"{rule.code}  {rule.name}", rule.summary)
    lines += ["", "Remedies: what it tries, smallest change first", ""]
    for remedy in every_remedy:
        lines += _row(remedy.name, remedy.summary)
    lines += ["", "gradmend explain CODE prints a page."]
    return "\n".join(lines)


def page_text(found: Rule | Remedy) -> str:
    """One page as plain text."""
    lines = [_title(found), "", *textwrap.wrap(found.summary, WIDTH), ""]
    lines += [f"  {line}" for line in _facts(found)] + [""]
    for heading, body in found.sections.items():
        lines += [heading, textwrap.indent(body, "  "), ""]
    if isinstance(found, Rule):
        lines += ["Limits", *_limit_lines(found), ""]
        lines += ["Cases", *_case_lines(found)]
    return "\n".join(lines).rstrip()


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
    width = max(60, min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns))
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


def _limit_lines(found: Rule) -> list[str]:
    rows = found.limit_rows()
    if not rows:
        return ["  none: it states a fact"]
    lines = []
    for name, value, unit, source in rows:
        lines.append(f"  {name} = {value:g} ({unit})")
        lines += textwrap.wrap(source, WIDTH, initial_indent="    ", subsequent_indent="    ")
    return lines


def _case_lines(found: Rule) -> list[str]:
    fires, silent = found.fires_on + found.live_fires_on, found.silent_on + found.live_silent_on
    return [f"  fires on   {case}" for case in fires] + [f"  silent on  {case}" for case in silent]


def _short(summary: str) -> str:
    return summary.rstrip(".")


def _words(name: str) -> str:
    return name.lower().replace("_", " ")
