"""What goes wrong with a run folder."""

from __future__ import annotations

from pathlib import Path

from gradmend.errors import BadInput, GradmendError


class StoreError(GradmendError):
    """A run folder cannot be written: full, read-only, removed or locked.

    What was flushed before stays readable, and the writer can be closed.
    """


class Damaged(ValueError):
    """Bytes of a run folder are not what a writer writes; readers turn it into a BadInput."""


def damaged(path: Path, reason: object) -> BadInput:
    """A file of a run that is cut off, overwritten or not ours."""
    return BadInput(
        f"{path} is damaged ({reason})",
        "what it says cannot be believed",
        "copy the run folder anew from where it was written, or watch the training again",
    )
