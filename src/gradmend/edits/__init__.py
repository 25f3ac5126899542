"""The closed set of reversible edits; the only place that writes to a user's model.

An edit is data (:class:`gradmend.records.prescription.Edit`): a kind, targets by name, and
arguments. Each kind is one function of a file of this package, made of the primitives of
:class:`~gradmend.edits.bench.Bench`, each of which knows its way back: always a saved copy or the
old object itself, never an inverse computation, so that undoing restores every bit and the same
``Parameter`` objects. A kind nobody knows is refused.
"""

import importlib
import pkgutil

from gradmend.edits.bench import Bench
from gradmend.edits.draws import draw_weight
from gradmend.edits.export import export_plain
from gradmend.edits.kind import KINDS, apply_edits

for _file in pkgutil.iter_modules(__path__):  # each adds its kinds to the set
    importlib.import_module(f"{__name__}.{_file.name}")

__all__ = ["KINDS", "Bench", "apply_edits", "draw_weight", "export_plain"]
