"""Where a row of the books stands in the model, and what it is, in a few words."""

from __future__ import annotations

from gradmend.records.ledger import Entry
from gradmend.renderers.grouping import Group, Row


def where(row: Row) -> str:
    """The places a row spans: ``2 .. 199``; inside containers only the part below them."""
    group, above = row.group, row.inside
    if above is None:
        return _span(_place(group.first), _place(group.last))
    # Pooled over like containers: the first container's children stand for all.
    last = group.entries[len(group.entries) // above.repeats - 1]
    prefix = f"{above.first.name}." if above.first.name else ""
    first_place, last_place = _place(group.first), _place(last)
    return _span(
        first_place.replace(prefix, ".", 1) if prefix else first_place,
        last_place.replace(prefix, ".", 1) if prefix else last_place,
    )


def _span(first: str, last: str) -> str:
    if first == last:
        return first
    return f"{first or '(operation)'} .. {_tail_of(first, last) or '(operation)'}"


def what(group: Group) -> str:
    """What a group is: ``[Linear(64, 64), Sigmoid] x 99``."""
    labels = [entry.label or entry.name or "(the model)" for entry in group.pattern]
    if group.mixed:
        kinds = list(dict.fromkeys(labels))
        shown = ", ".join(kinds[:3]) + (", ..." if len(kinds) > 3 else "")
        return f"{len(labels)} entries: {shown}"
    text = labels[0] if len(labels) == 1 else f"[{', '.join(labels)}]"
    return text if group.repeats == 1 else f"{text} x {group.repeats:,}"


def _place(entry: Entry) -> str:
    """A module's path; operations have none of their own."""
    if entry.kind != "module":
        return ""
    return (entry.name or "(the model)") + (f" (call {entry.call + 1})" if entry.call else "")


def _tail_of(first: str, last: str) -> str:
    """The part of ``last`` after the dotted parents both share: ``layers.0 .. 11``."""
    a, b = first.split("."), last.split(".")
    shared = 0
    while shared < min(len(a), len(b)) - 1 and a[shared] == b[shared]:
        shared += 1
    return ".".join(b[shared:])
