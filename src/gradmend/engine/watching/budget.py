"""How much of a training's time watching may take."""

from __future__ import annotations

import re

from gradmend.errors import BadInput


def read_budget(budget: str | float) -> float:
    """A share of time from ``"2%"``, ``0.02`` or ``"all"`` (everything, at any cost).

    Raises:
        BadInput: If it is none of these.
    """
    if budget == "all":
        return float("inf")
    if isinstance(budget, str):
        found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*%\s*", budget)
        value = float(found.group(1)) / 100 if found else float("nan")
    else:
        value = float(budget)
    if not 0 < value <= 10:
        raise BadInput(
            f"budget={budget!r} is no share of time",
            "it bounds what watching may cost",
            "write '2%', 0.02, or 'all' for everything at every step",
        )
    return value
