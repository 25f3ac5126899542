"""Numbers as people write them in source."""

from __future__ import annotations

import re


def figure(value: float) -> str:
    """A number as people write it: the shortest that is the same to twelve digits."""
    form = "e" if 0.0 < abs(value) < 1e-3 else "g"
    for digits in range(18):
        text = f"{value:.{digits}{form}}"
        if abs(float(text) - value) <= 1e-12 * abs(value):
            break
    text = re.sub(r"e([+-])0*(\d)", lambda found: f"e{found[1].strip('+')}{found[2]}", text)
    return text if re.search(r"[.e]", text) else f"{text}.0"
