"""Scripts without what is there for those who read them: comments and the space between words.

No name is changed and nothing is moved: what is left are the same words in the same order. Text,
templates and regular expressions are taken over as they stand, and a line break goes only where a
statement cannot end. With the space go a semicolon before a closing brace, and brackets around an
arrow's only name. The scripts are our own, so what they do not use need not be understood: comments
of several lines, and a regular expression behind a closing bracket.
"""

from __future__ import annotations

import re

_SPACE = re.compile(r"\s+")
_TEXT = re.compile(r""""(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'""")
_PATTERN = re.compile(r"/(?:\\.|\[(?:\\.|[^\]\\\n])*\]|[^/\\\[\n])+/\w*")
_WORD = re.compile(r"[\w$]+")
_LINE = re.compile(r"[^\n]*")
_OPERATOR = frozenset("(,=:[!&|?{};+-*<>~^%")
"""What a value follows: a slash behind it begins a regular expression and divides nothing."""
_BEFORE_VALUES = frozenset({"return", "typeof", "case", "in", "of", "do", "else", "void"})
_HEADS = frozenset({"for", "while", "if", "with"})
_GOES_ON = frozenset("{([,;:?=&|<>!")
"""Behind it no statement ends."""
_GOES_ON_WITH = frozenset(")]},;.:?=&|<>")
"""Before it no statement ends, or one does whatever stands between."""


def shorter(script: str) -> str:
    """A script without comments and without space that parts nothing."""
    kept: list[str] = []
    heads: list[bool] = []  # of brackets that are open: whether a loop or a condition has them
    bare = False  # whether one has just closed, so that a semicolon is a statement of its own
    gap, at = "", 0
    while at < len(script):
        if script[at].isspace():
            end = _end(_SPACE, script, at)
            gap = "\n" if "\n" in script[at:end] else gap or " "
        elif script.startswith("//", at):
            end = _end(_LINE, script, at)
        else:
            end = _piece(script, at, kept[-1] if kept else "")
            piece = script[at:end]
            if gap and kept and _parts(kept[-1][-1], piece[0], gap):
                kept.append(gap)
            if piece == "}" and kept and kept[-1] == ";" and not bare:
                kept.pop()
            if piece == "(":
                heads.append(bool(kept) and kept[-1] in _HEADS)
            if piece != ";":
                bare = piece == ")" and bool(heads) and heads.pop()
            kept.append(piece)
            if kept[-3:] == [")", "=", ">"]:
                _unbracket(kept)
            gap = ""
        at = end
    return "".join(kept)


def _unbracket(kept: list[str]) -> None:
    """``(x)=>`` as ``x=>``, where nothing before it would run into the name."""
    if len(kept) < 6 or kept[-5] != "(" or not _WORD.fullmatch(kept[-4]):
        return
    if not (_WORD.match(kept[-6][-1]) or kept[-6][-1] in ")]`\"'"):
        del kept[-5], kept[-3]


def _piece(script: str, at: int, before: str) -> int:
    """Where a word, a text or a sign ends that begins here."""
    letter = script[at]
    if letter == "`":
        return _template(script, at)
    if letter in "\"'":
        return _end(_TEXT, script, at)
    value = not before or before[-1] in _OPERATOR or before in _BEFORE_VALUES
    if letter == "/" and value:
        return _end(_PATTERN, script, at)
    return _end(_WORD, script, at) if _WORD.match(letter) else at + 1


def _parts(left: str, right: str, gap: str) -> bool:
    """Whether the space between two pieces, given by their letters at it, does anything."""
    if gap == "\n":
        return left not in _GOES_ON and right not in _GOES_ON_WITH
    words = bool(_WORD.match(left)) and bool(_WORD.match(right))
    return words or "/" in (left, right) or (left in "+-" and right in "+-")


def _template(script: str, at: int) -> int:
    at += 1
    while script[at] != "`":
        if script[at] == "\\":
            at += 2
        elif script.startswith("${", at):
            at = _inside(script, at + 2)
        else:
            at += 1
    return at + 1


def _inside(script: str, at: int) -> int:
    """Behind the brace that closes a template's expression."""
    depth, before = 0, ""
    while script[at] != "}" or depth:
        if script[at].isspace():
            at += 1
            continue
        end = _piece(script, at, before)
        before = script[at:end]
        depth += (before == "{") - (before == "}")
        at = end
    return at + 1


def _end(what: re.Pattern[str], script: str, at: int) -> int:
    found = what.match(script, at)
    if found is None:
        raise ValueError(f"a script that cannot be read at {script[at : at + 40]!r}")
    return found.end()
