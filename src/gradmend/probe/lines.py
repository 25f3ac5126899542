"""The line of plain code that an operation stands in, where the source has only one such line."""

from __future__ import annotations

import ast
import linecache
import sys
from functools import lru_cache
from pathlib import Path
from types import FrameType

from gradmend.probe.source import is_users

_SPELT = {
    "norm": {"norm", "vector_norm", "matrix_norm"},
    "cross_entropy": {"cross_entropy", "nll_loss", "CrossEntropyLoss", "NLLLoss"},
    "ctc_loss": {"ctc_loss", "CTCLoss"},
    "mean": {"mean", "nanmean"},
    "div": {"div", "true_divide", "divide", "reciprocal"},
    "acos": {"acos", "arccos"},
    "asin": {"asin", "arcsin"},
}


def users_frame() -> FrameType | None:
    """The nearest frame of the user's own code above us."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not is_users(frame.f_code.co_filename):
        frame = frame.f_back
    return frame


def line_in(frame: FrameType | None, operation: str) -> str | None:
    """``train.py:31``: where an operation is called in a frame's function, or in its file.

    ``None`` where there is none, or more than one such line: a guess would mislead.
    """
    if frame is None or not operation:
        return None
    path = frame.f_code.co_filename
    found = _places(path, operation)
    first = frame.f_code.co_firstlineno
    last = max((line for _, _, line in frame.f_code.co_lines() if line), default=first)
    inside = [line for line in found if first <= line <= last]
    called = [line for line in found if _is_called_from(path, line, first, last)]
    for lines in (inside, called, list(found)):
        if len(lines) == 1:
            return f"{Path(path).name}:{lines[0]}"
    return None


_CUTS = frozenset({"detach", "numpy", "tolist"})


def cut_lines(frame: FrameType | None) -> dict[str, str]:
    """Lines of a frame's function that end a tensor's history, by what does it; losses aside."""
    tree = _tree(frame.f_code.co_filename) if frame is not None else None
    if frame is None or tree is None:
        return {}
    first = frame.f_code.co_firstlineno
    last = max((line for _, _, line in frame.f_code.co_lines() if line), default=first)
    found: dict[str, set[int]] = {}
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and first <= node.lineno <= last):
            continue
        name = _name(node.func)
        of = ast.unparse(node.func.value) if isinstance(node.func, ast.Attribute) else ""
        if name in _CUTS and "loss" not in of.lower():
            found.setdefault(name, set()).add(node.lineno)
    file = Path(frame.f_code.co_filename).name
    return {cut: f"{file}:{min(lines)}" for cut, lines in found.items() if len(lines) == 1}


def _is_called_from(path: str, line: int, first: int, last: int) -> bool:
    """Whether a line lies in a function whose name is called between two lines."""
    tree = _tree(path)
    if tree is None:
        return False
    called = {
        _name(node.func)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and first <= node.lineno <= last
    }
    return any(
        isinstance(node, ast.FunctionDef)
        and node.name in called
        and node.lineno <= line <= (node.end_lineno or node.lineno)
        for node in ast.walk(tree)
    )


@lru_cache(maxsize=64)
def _places(path: str, operation: str) -> tuple[int, ...]:
    tree = _tree(path)
    if tree is None:
        return ()
    names = _SPELT.get(operation, {operation})
    found: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _name(node.func).rstrip("_") in names:
            found.add(node.lineno)
        elif isinstance(node, ast.BinOp):
            power = isinstance(node.op, ast.Pow) and operation in ("pow", "sqrt")
            if power and isinstance(node.right, ast.Constant) and node.right.value == 0.5:
                found.add(node.lineno)
            if isinstance(node.op, ast.Div) and operation == "div":
                found.add(node.lineno)
    return tuple(sorted(found))


@lru_cache(maxsize=16)
def _tree(path: str) -> ast.Module | None:
    text = "".join(linecache.getlines(path))
    try:
        return ast.parse(text) if text else None
    except SyntaxError:
        return None


def _name(function: ast.expr) -> str:
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""
