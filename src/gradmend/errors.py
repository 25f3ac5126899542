"""The errors a user can meet, each a sentence: what was found, why it matters, what to do."""

from __future__ import annotations


class GradmendError(Exception):
    """A user's mistake or a limit of ours, told in one clear line and never as a traceback.

    Args:
        found: What was found.
        why: Why it matters.
        todo: What to do about it.
    """

    def __init__(self, found: str, why: str = "", todo: str = "") -> None:
        self.found, self.why, self.todo = found, why, todo
        # What was found may begin with a name of the user's, which keeps its case.
        parts = [found, *(part[0].upper() + part[1:] for part in (why, todo) if part)]
        text = ". ".join(part.rstrip(".") for part in parts)
        super().__init__(text if text.endswith("?") else text + ".")


class BadInput(GradmendError, ValueError):
    """The model, batch, loss or file handed over cannot be used as it is."""


class UnknownName(BadInput, LookupError):
    """A name that no rule, remedy, zoo model or file bears."""


class CannotApply(GradmendError):
    """An edit does not fit the model it was asked to change; nothing was changed."""
