"""The closed set of reversible edits; the only place that writes to a user's model.

An edit is data (:class:`gradmend.records.prescription.Edit`): a kind, targets by name, and
arguments. Each kind is one function of :mod:`gradmend.edits.kinds`, made of the primitives of
:class:`~gradmend.edits.bench.Bench`, each of which knows its way back: always a saved copy or the
old object itself, never an inverse computation, so that undoing restores every bit and the same
``Parameter`` objects. A kind nobody knows is refused.
"""

from gradmend.edits.bench import Bench
from gradmend.edits.export import export_plain
from gradmend.edits.kinds import KINDS, apply_edits, draw_weight

__all__ = ["KINDS", "Bench", "apply_edits", "draw_weight", "export_plain"]
