"""What a full look knows that the rules over a run cannot see in its tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gradmend.records.trace import Trace, Use
from gradmend.theory.stream import norms_on_the_stream


def look_facts(trace: Trace, path: Callable[[str], str] = str) -> dict[str, Any]:
    """What a ``look`` event of :mod:`gradmend.records.history` holds beside its findings.

    Args:
        trace: The look.
        path: Turns a name inside the model into the one that the run's tables show.
    """
    unused = [p.name for p in trace.parameters if p.use not in (None, Use.CUT_OFF)]
    return {
        "unused": [path(name) for name in unused],
        "gates": list(dict.fromkeys(path(op.module) for op in trace.gates)),
        "stream_norms": [path(op.module) for op in norms_on_the_stream(trace)],
    }
