"""Kinds of edit by name, and the applying of many edits."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from gradmend.edits.bench import Bench
from gradmend.errors import CannotApply, GradmendError
from gradmend.records.prescription import Edit

EditFunction = Callable[[Bench, Edit], None]

KINDS: dict[str, EditFunction] = {}
"""Every kind of edit there is; a function each, by its own name."""


def edit_kind(function: EditFunction) -> EditFunction:
    """Put a function into the closed set of edits; only files of this package do."""
    if function.__name__ in KINDS:
        raise ValueError(f"two kinds of edit are called {function.__name__}")
    KINDS[function.__name__] = function
    return function


def apply_edits(bench: Bench, edits: Iterable[Edit]) -> Bench:
    """Apply edits in order; on any failure undo those already made.

    Raises:
        CannotApply: If an edit does not fit; the model is then as it was.
    """
    try:
        for edit in edits:
            if edit.kind not in KINDS:
                raise CannotApply(
                    f"there is no edit of kind '{edit.kind}'",
                    "edits are a closed set, so that every one can be undone",
                    f"known kinds: {', '.join(sorted(KINDS))}",
                )
            KINDS[edit.kind](bench, edit)
    except (GradmendError, torch.OutOfMemoryError):
        bench.undo()
        raise
    except Exception as error:  # hostile values, or the user's model on the way through it
        bench.undo()
        raise CannotApply(
            f"the edit '{edit.kind}' failed: {' '.join(str(error).split())[:300]}",
            "it does not fit this model, which was left as it was",
            "prescribe anew with gradmend.fix",
        ) from error
    except BaseException:
        bench.undo()
        raise
    return bench
