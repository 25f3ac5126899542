"""What makes sure that a changed source is the old one but for the lines that were meant."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Sequence

from gradmend.rewriting.facts import Unclear


def check(old: str, new: str, touched: Sequence[tuple[int, int]]) -> None:
    """Compare a source with the changed one.

    Args:
        old: As it was.
        new: As changed.
        touched: First and last line, in the old one, of the statements that were changed; lines
            may be inserted anywhere.

    Raises:
        Unclear: If the new one does not compile, or another line is not what it was.
    """
    try:
        old, new = old.removeprefix("\ufeff"), new.removeprefix("\ufeff")
        compile(new, "changed", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise Unclear(f"the changed source would not compile ({type(error).__name__})") from None
    allowed = {line for first, last in touched for line in range(first, last + 1)}
    before, after = old.split("\n"), new.split("\n")
    matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
    kept: set[int] = set()
    for tag, i, j, _, _ in matcher.get_opcodes():
        if tag == "equal":
            kept |= set(range(i + 1, j + 1))
        elif tag in ("replace", "delete") and not set(range(i + 1, j + 1)) <= allowed:
            raise Unclear(f"line {i + 1} would change as well")
    everything = set(range(1, len(after) + 1))
    behind = iter(_statements(new, everything))
    if not all(text in behind for text in _statements(old, kept - allowed)):  # each, in order
        raise Unclear("other statements would mean something else")


def _statements(source: str, kept: set[int]) -> list[str]:
    """What the simple statements mean that stand on some lines alone, in order."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.stmt) and not hasattr(node, "body"):
            lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
            if kept.issuperset(lines):
                found.append((node.lineno, node.col_offset, ast.dump(node)))
    return [text for _, _, text in sorted(found)]
