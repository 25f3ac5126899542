"""Arguments of edits, which may come from a file, read with care."""

from __future__ import annotations

import math
from typing import Any

from gradmend.errors import CannotApply
from gradmend.records.prescription import Edit


def list_of(edit: Edit, key: str) -> list[Any]:
    """A list among an edit's arguments."""
    value = edit.args.get(key)
    if not isinstance(value, list):
        raise CannotApply(f"the edit '{edit.kind}' lacks its list '{key}'")
    return value


def rows_of(edit: Edit, key: str) -> list[list[Any]]:
    """A list of lists among an edit's arguments."""
    rows = list_of(edit, key)
    if not all(isinstance(row, list) for row in rows):
        raise CannotApply(f"the edit '{edit.kind}' needs lists inside its list '{key}'")
    return rows


def number(value: Any) -> float:
    """A finite number; a boolean is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise CannotApply(f"{value!r} stands where an edit needs a finite number")
    return value
