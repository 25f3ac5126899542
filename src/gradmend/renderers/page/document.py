"""The document around the sections: one file with its style, script and data; it loads nothing.

The same document is a report on disk, a page of the live server (which says where figures and
changes come from) and the content of a notebook's frame.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import rcssmin

from gradmend.records.ledger import CAUSES
from gradmend.renderers.page.figure import Figure
from gradmend.renderers.page.shorter import shorter
from gradmend.renderers.visible import escape, json_for_script

STYLES = {
    "base.css": (),
    "findings.css": (),
    "figures.css": (),
    "heat.css": ("heat",),
    "ledger.css": ("ledger",),
}
SCRIPTS: dict[str, tuple[str, ...]] = {
    "js/core.js": (),
    "js/mount.js": (),
    "js/page.js": (),
    "js/buttons.js": (),
    "js/tools.js": ("lines", "heat", "ledger"),
    "js/pens.js": ("lines", "heat"),
    "js/stage.js": ("lines", "heat"),
    "js/marks.js": ("lines", "heat"),
    "js/series.js": ("lines",),
    "js/panels.js": ("lines",),
    "js/lines.js": ("lines",),
    "js/colours.js": ("heat",),
    "js/matrix.js": ("heat",),
    "js/cells.js": ("heat",),
    "js/choices.js": ("heat", "ledger"),
    "js/heat.js": ("heat",),
    "js/books.js": ("ledger",),
    "js/waterfall.js": ("ledger",),
    "js/treegrid.js": ("ledger",),
    "js/ledger.js": ("ledger",),
    "js/live.js": ("live",),
}
"""Each file with the kinds of figures that need it, none where every page does; in this order in
the one script of a page."""
DRAWN = ("lines", "heat", "ledger")
"""Kinds of figures that a watched run has."""
ICON = '<link rel="icon" href="data:,">\n'
"""None: a browser asks a server for one unless told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of the page under a heading of its own."""

    id: str
    title: str
    """Empty for the first, which has a sentence of its own."""
    html: str
    """Escaped markup; a section without any is left out."""

    def inner(self) -> str:
        """What is replaced when the section changes."""
        if not self.html:
            return ""
        if not self.title:
            return self.html
        return f'<h2 id="{self.id}">{escape(self.title)}</h2>{self.html}'


def place(figure: str, title: str = "") -> str:
    """Where a figure is drawn; what it shows is embedded or fetched by its id."""
    name = escape(figure)
    return (
        f'<figure class="fig" data-figure="{name}" id="fig-{name}">'
        f"<figcaption>{escape(title)}</figcaption></figure>"
    )


def document(
    title: str,
    sections: Sequence[Section],
    *,
    figures: Sequence[Figure] = (),
    islands: Mapping[str, Any] | None = None,
    source: str = "",
    draws: Collection[str] = DRAWN,
) -> str:
    """Put a page together.

    Args:
        title: Of the window.
        sections: From the top; the first holds the verdict.
        figures: Those whose numbers the page holds; drawn wherever :func:`place` says.
        islands: Further JSON values the script reads, by element id.
        source: Path on the live server from which figures and changes come; empty for a file.
        draws: Kinds of figures that may come from there.

    Returns:
        A complete document.
    """
    kinds = frozenset(figure.kind for figure in figures).union(("live", *draws) if source else ())
    # At the head of the whole: that of each file would mean nothing in the middle.
    style, script = _together(STYLES, kinds), f'"use strict";\n{_together(SCRIPTS, kinds)}'
    data = "".join(_island(name, value) for name, value in (islands or {}).items())
    data += "".join(_island(f"spec-{figure.id}", figure.plain()) for figure in figures)
    shown = [section for section in sections if section.html or source]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy(script, live=bool(source))}">'
        '\n<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"{ICON if source else ''}"
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n"
        f'<body data-source="{escape(source)}">\n{_patterns()}{_bar(shown, live=bool(source))}'
        f"<main>\n{''.join(map(_block, shown))}</main>\n{data}"
        f"<script>{script}</script>\n</body>\n</html>\n"
    )


def policy(script: str, *, live: bool) -> str:
    """What the page may do: run this one script, whatever a report's names hold; load nothing.

    A live page may speak with the server it came from.
    """
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    allowed = (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none';"
        f" form-action 'none'; script-src 'sha256-{digest}'"
    )
    return f"{allowed}; connect-src 'self'" if live else allowed


def _bar(sections: Sequence[Section], *, live: bool) -> str:
    links = "".join(
        f'<a href="#section-{s.id}">{escape(s.title)}</a>' for s in sections if s.title and s.html
    )
    home = '<a class="home" href="/">gradmend</a>' if live else '<span class="home">gradmend</span>'
    status = '<p id="status" role="status"></p>' if live else ""
    return (
        f'<header class="topbar"><div class="topbar-in">{home}'
        f'<nav aria-label="On this page">{links}</nav>'
        '<div class="tools"><input id="search" type="search" list="layers" '
        'placeholder="Find a layer" aria-label="Find a layer" autocomplete="off" hidden>'
        '<datalist id="layers"></datalist>'
        '<button id="theme" type="button" hidden></button>'
        '<button id="help" type="button" aria-label="Keys" title="Keys (?)" hidden>?</button>'
        f"</div></div>{status}"
        '<p id="selection" role="status" aria-live="polite"></p></header>\n'
    )


def _block(section: Section) -> str:
    label = f' aria-labelledby="{section.id}"' if section.title else ""
    empty = "" if section.html else " hidden"
    return f'<section id="section-{section.id}"{label}{empty}>{section.inner()}</section>\n'


def _island(name: str, value: Any) -> str:
    return (
        f'<script type="application/json" id="{escape(name)}">{json_for_script(value)}</script>\n'
    )


def _together(assets: Mapping[str, tuple[str, ...]], kinds: frozenset[str]) -> str:
    return "\n".join(
        _asset(name) for name, needed in assets.items() if not needed or kinds.intersection(needed)
    )


@cache
def _asset(name: str) -> str:
    """A file of the page without comments and needless space: they are for those who read it.

    Nor with ``"use strict"``, which a page says once.
    """
    text = files("gradmend.renderers.page").joinpath("assets", name).read_text(encoding="utf-8")
    if name.endswith(".js"):
        return shorter(text.removeprefix('"use strict";\n'))
    return str(rcssmin.cssmin(text))


def _patterns() -> str:
    """One hatch per cause, so that causes differ without colour too."""
    drawn = []
    for cause, mark in zip(CAUSES, _HATCHES, strict=True):
        drawn.append(
            f'<pattern id="p-{cause}" class="c-{cause}" width="8" height="8" '
            f'patternUnits="userSpaceOnUse"><rect class="tint" width="8" height="8"/>{mark}'
            "</pattern>"
        )
    return (
        '<svg class="defs" width="0" height="0" aria-hidden="true"><defs>'
        f"{''.join(drawn)}</defs></svg>\n"
    )


_HATCHES = (
    '<path d="M-2 2l4-4M0 8l8-8M6 10l4-4"/>',
    '<circle cx="2" cy="2" r="1.3"/><circle cx="6" cy="6" r="1.3"/>',
    '<path d="M0 2H8M0 6H8"/>',
    '<path d="M2 0V8M6 0V8"/>',
    '<path d="M-2 6l4 4M0 0l8 8M6-2l4 4"/>',
    '<path d="M0 4H8M4 0V8"/>',
    '<circle cx="4" cy="4" r="1"/>',
    '<path d="M0 4H8"/>',
    '<path d="M4 0V8"/>',
    '<path d="M0 0l8 8M8 0L0 8"/>',
    '<path d="M0 6l4-4 4 4"/>',
    '<path d="M3 4h2"/>',
)
"""In the order of :data:`gradmend.records.ledger.CAUSES`."""
