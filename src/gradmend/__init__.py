"""gradmend finds where gradients vanish or explode, says why, and proves the fix.

The public names, imported on first use, so that ``import gradmend`` costs nothing and needs no
torch until a model is looked at.
"""

from __future__ import annotations

import importlib
import random
from typing import TYPE_CHECKING, Any

from gradmend.records.views import set_views

if TYPE_CHECKING:
    from gradmend.engine.repaired import Fix as Fix
    from gradmend.engine.session import apply as apply
    from gradmend.engine.session import check as check
    from gradmend.engine.session import fix as fix
    from gradmend.engine.watching.watch import Watch as Watch
    from gradmend.engine.watching.watch import watch as watch
    from gradmend.errors import BadInput as BadInput
    from gradmend.errors import CannotApply as CannotApply
    from gradmend.errors import GradmendError as GradmendError
    from gradmend.errors import UnknownName as UnknownName
    from gradmend.records.finding import Finding as Finding
    from gradmend.records.prescription import Edit as Edit
    from gradmend.records.prescription import Prescription as Prescription
    from gradmend.records.report import Report as Report
    from gradmend.records.verdict import Verdict as Verdict

_HOME = {
    "check": "gradmend.engine.session",
    "fix": "gradmend.engine.session",
    "apply": "gradmend.engine.session",
    "watch": "gradmend.engine.watching.watch",
    "Fix": "gradmend.engine.repaired",
    "Watch": "gradmend.engine.watching.watch",
    "Report": "gradmend.records.report",
    "Finding": "gradmend.records.finding",
    "Prescription": "gradmend.records.prescription",
    "Edit": "gradmend.records.prescription",
    "Verdict": "gradmend.records.verdict",
    "GradmendError": "gradmend.errors",
    "BadInput": "gradmend.errors",
    "CannotApply": "gradmend.errors",
    "UnknownName": "gradmend.errors",
}

__all__ = [
    "BadInput",
    "CannotApply",
    "Edit",
    "Finding",
    "Fix",
    "GradmendError",
    "Prescription",
    "Report",
    "UnknownName",
    "Verdict",
    "Watch",
    "__version__",
    "apply",
    "check",
    "fix",
    "watch",
]


set_views(lambda: importlib.import_module("gradmend.renderers.notebook"))


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("gradmend")
    if name in _HOME:
        # What is imported here may draw while it is (rich's styles do), out of the user's sequence.
        state = random.getstate()
        try:
            return getattr(importlib.import_module(_HOME[name]), name)
        finally:
            random.setstate(state)
    raise AttributeError(f"module 'gradmend' has no attribute '{name}'")


def __dir__() -> list[str]:
    return list(__all__)
