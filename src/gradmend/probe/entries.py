"""Balanced books to the tree of entries that people read."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

from torch import nn

from gradmend.probe.book import Bookkeeper, Flow, stack
from gradmend.probe.capture import Capture
from gradmend.probe.facts import Subject
from gradmend.records.ledger import Entry

NOTHING = 1e-12
"""Decades below which an operation that only rearranges is left out of the tree."""


def book_entries(
    keeper: Bookkeeper,
    flow: Flow,
    top: int,
    capture: Capture,
    subjects: dict[int, Subject],
    source_of: Callable[[Subject], str | None],
    predictions: dict[int, float | None],
) -> tuple[Entry, float]:
    """Arrange one container's books along the tree of module calls.

    Args:
        keeper: Balances the books of any span, for each entry's own gain.
        flow: The balanced books of ``top``.
        top: The span the tree starts at.
        capture: Spans of the forward pass.
        subjects: What each node is.
        source_of: Line of the user's code for a node.
        predictions: Predicted own gain of a node, in decades.

    Returns:
        The entry of ``top``, whose leaves' decades add up to its own, and the largest
        difference, over all containers, between a container's own measured gain and the sum of
        its own books.
    """
    imbalances: list[float] = []
    inside: dict[int, list[tuple[str, int]]] = {top: []}
    for key in reversed(keeper.graph.nodes):
        chain = capture.chain(subjects[key].span)
        if top not in chain:
            continue
        chain = chain[chain.index(top) :]
        for parent, child in pairwise(chain):
            if child not in inside:
                inside[child] = []
                inside[parent].append(("span", child))
        inside[chain[-1]].append(("node", key))

    def leaf(key: int) -> Entry | None:
        subject = subjects[key]
        decades = flow.operations.get(key, 0.0)
        share = flow.shares.get(key, 0.0)
        if subject.transparent and abs(decades) < NOTHING:
            return None
        predicted = predictions.get(key)
        return Entry(
            name=subject.name,
            kind="operation",
            label=subject.name,
            cause=subject.cause,
            decades=decades,
            own_decades=_own(keeper, key),
            predicted=None if predicted is None else predicted * share,
            share=share,
            source=source_of(subject),
        )

    def container(span_id: int) -> Entry:
        children: list[Entry] = []
        for kind, number in inside[span_id]:
            entry = container(number) if kind == "span" else leaf(number)
            if entry is not None:
                children.append(entry)
        joins = flow.joins.get(span_id, 0.0)
        if abs(joins) >= NOTHING:
            children.append(
                Entry(name="joins", kind="joins", label="joins", cause="joins", decades=joins)
            )
        span = capture.spans[span_id]
        label = _label(span.module)
        books = flow if span_id == top else keeper.balance(span_id)
        finite = math.isfinite(books.own)  # not so where nothing flows: a branch times zero
        if finite:
            imbalances.append(abs(books.total - books.own))
        if len(children) == 1 and children[0].kind == "operation" and span_id != top:
            only = children[0]
            return Entry(
                name=span.path,
                kind="module",
                label=label,
                cause=only.cause,
                decades=only.decades,
                own_decades=books.own if finite else None,
                predicted=only.predicted,
                share=only.share,
                call=span.call,
                source=only.source,
            )
        known = [c.predicted for c in children if c.predicted is not None]
        return Entry(
            name=span.path,
            kind="module",
            label=label,
            cause=None if children else "other",
            decades=math.fsum(c.decades for c in children),
            own_decades=books.own if finite else None,
            predicted=math.fsum(known) if known else None,
            share=1.0 if span_id == top else flow.spans.get(span_id, 0.0),
            call=span.call,
            children=tuple(children),
        )

    return container(top), max(imbalances, default=0.0)


def _own(keeper: Bookkeeper, key: int) -> float | None:
    """Gain of one operation by itself: all that it sends on against all that it receives.

    Not its decades divided by its share: those are an average over the ways through it, which
    for two inputs is less than the norm of both.
    """
    tally = keeper.tally
    sent = [tally.passed[key, p] for p, _ in keeper.graph.edges[key] if (key, p) in tally.passed]
    own = stack(sent) - stack([tally.totals[edge] for edge in keeper.outputs_of(key)])
    return own if math.isfinite(own) else None


def _label(module: nn.Module | None) -> str:
    """``Linear(64, 64)``: the class, with its sizes where it has some."""
    if module is None:
        return "everything"
    name = type(module).__name__
    for pair in (("in_features", "out_features"), ("in_channels", "out_channels")):
        sizes = [getattr(module, attribute, None) for attribute in pair]
        if all(isinstance(size, int) for size in sizes):
            return f"{name}({sizes[0]}, {sizes[1]})"
    return name
