r"""Text from elsewhere made safe to show: module names, source lines and messages are data.

A name may hold terminal escapes, newlines or characters that reorder what stands around them;
shown, each becomes a visible code such as ``\x1b`` and does nothing.
"""

from __future__ import annotations

import html
import json
import unicodedata
from typing import Any

_UNSAFE = frozenset({"Cc", "Cf", "Cs", "Cn", "Co", "Zl", "Zp"})
"""Unicode categories without a glyph: control, format (bidi marks), surrogates, line breaks."""

_ASCII = {
    "×": "x", "−": "-", "–": "-", "—": "-", "…": "...", "→": "->", "←": "<-", "≤": "<=",
    "≥": ">=", "≈": "~", "±": "+-", "·": "*", "′": "'", "\u2019": "'", "“": '"', "”": '"',
    "α": "alpha", "γ": "gamma", "σ": "sigma", "φ": "phi", "χ": "chi", "ρ": "rho", "ν": "nu",
    "µ": "u", "μ": "mu", "∞": "inf", "√": "sqrt", "²": "^2",
}  # fmt: skip


def visible(text: object) -> str:
    r"""One line in which every character without a glyph is written as its code.

    Example:
        >>> visible("a\x1b[31m b\nc")
        'a\\x1b[31m b\\nc'
    """
    raw = str(text)
    if raw.isascii() and raw.isprintable():
        return raw
    return "".join(_code(letter) for letter in raw)


def _code(letter: str) -> str:
    if letter == "\t":
        return " "
    if unicodedata.category(letter) in _UNSAFE:
        return letter.encode("unicode_escape").decode("ascii")
    return letter


def to_ascii(text: str) -> str:
    """The same text for terminals and files that take ASCII only."""
    if text.isascii():
        return text
    plain = "".join(_ASCII.get(letter, letter) for letter in text)
    return plain.encode("ascii", "backslashreplace").decode("ascii")


def shorten(text: str, width: int, *, mark: str = "...") -> str:
    """Cut the middle out of a text that is longer than ``width`` characters.

    Example:
        >>> shorten("encoder.layers.11.linear1", 16)
        'encoder...inear1'
    """
    if len(text) <= width:
        return text
    if width <= len(mark) + 1:
        return text[: max(width, 0)]
    rest = width - len(mark)
    head = (rest + 1) // 2
    return text[:head] + mark + text[len(text) - (rest - head) :]


class Markup(str):
    """HTML that is safe as it stands; any other string is escaped before it enters a table."""

    __slots__ = ()


def escape(text: object) -> Markup:
    """Text for HTML, in element content and in quoted attributes."""
    return Markup(html.escape(visible(text), quote=True))


def isolate(text: object) -> Markup:
    """Escaped text whose writing direction cannot reorder what stands beside it."""
    return Markup(f"<bdi>{escape(text)}</bdi>")


def as_markup(cell: str) -> Markup:
    """A cell as it may enter a page."""
    return cell if isinstance(cell, Markup) else isolate(cell)


def json_for_script(value: Any) -> str:
    """JSON that may stand inside ``<script>``: no ``<``, ``>``, ``&`` and no line separators."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
