"""The operations next to a loss, as a run recorded them: queries that rules share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from gradmend.records.history import Event, History

REARRANGES = frozenset(
    {"view", "unsafe_view", "reshape_alias", "reshape", "flatten", "unflatten", "squeeze"}
    | {"unsqueeze", "t", "transpose", "permute", "movedim", "swapaxes", "alias", "clone"}
    | {"contiguous", "as_strided", "slice", "select", "unbind", "split", "split_with_sizes"}
    | {"chunk", "to_copy"}
)
"""Operations that leave every number as it is."""

JOINS = frozenset(
    {"cat", "concat", "concatenate", "stack", "hstack", "vstack", "dstack", "column_stack"}
    | {"row_stack"}
)
"""Operations that put several tensors into one, and leave every number as it is."""

ELEMENTWISE = frozenset(
    {"add", "sub", "rsub", "mul", "div", "neg", "pow", "abs", "sqrt", "exp", "log", "log1p"}
    | {"mean", "sum", "expand", "where", "masked_fill", "minimum", "maximum", "clamp"}
    | {"clamp_min", "clamp_max", "hardtanh", "relu", "square"}
    | {"mse_loss", "smooth_l1_loss", "huber_loss"}
)
"""What a loss is made of after the model's last layer, where it is written by hand."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation next to a loss."""

    op: str
    shape: tuple[int, ...] | None
    reads: tuple[int, ...]
    parameters: bool = False
    module: str = ""
    """Of the parameters that enter, where known."""
    dim: int | None = None
    """Of a softmax or a gather, counted from the front."""
    limits: tuple[float | None, float | None] | None = None
    """Of a clamp."""


@dataclass(frozen=True)
class LossTail:
    """The operations next to a loss, from the newest ``loss-graph`` event of an optimizer."""

    where: str
    step: int
    operations: tuple[Operation, ...]
    flat: tuple[str, ...] = ()
    unreached: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, event: Event) -> LossTail:
        """Read an event's facts; what is missing is empty."""
        rows = event.facts.get("tail") or ()
        return cls(
            where=event.where,
            step=event.step,
            operations=tuple(
                Operation(
                    op=str(row.get("op", "")),
                    shape=None if row.get("shape") is None else tuple(row["shape"]),
                    reads=tuple(at for at in row.get("reads", ()) if 0 <= at < len(rows)),
                    parameters=bool(row.get("parameters", False)),
                    module=str(row.get("module") or ""),
                    dim=None if row.get("dim") is None else int(row["dim"]),
                    limits=_two(row.get("limits")),
                )
                for row in rows
            ),
            flat=tuple(event.facts.get("flat") or ()),
            unreached=tuple(event.facts.get("unreached") or ()),
            facts=dict(event.facts),
        )

    def reads(self, at: int) -> tuple[int, ...]:
        """What an operation reads, past those that only rearrange it."""
        found: list[int] = []
        for place in self.operations[at].reads:
            seen = {at}
            while self.operations[place].op in REARRANGES and place not in seen:
                seen.add(place)
                if len(self.operations[place].reads) != 1:
                    break
                place = self.operations[place].reads[0]
            found.append(place)
        return tuple(dict.fromkeys(found))

    def pairs(self) -> Iterator[tuple[Operation, Operation]]:
        """Each operation with each that it reads, rearrangements left out."""
        for at, place in self.places():
            yield self.operations[at], self.operations[place]

    def places(self) -> Iterator[tuple[int, int]]:
        """The same as positions in the tail.

        Where pieces are joined that the same operation has made (the steps of a decoder), each of
        them is read.
        """
        for at, operation in enumerate(self.operations):
            if operation.op not in REARRANGES:
                for place in self.reads(at):
                    for piece in self._pieces(place, frozenset({at})):
                        yield at, piece

    def _pieces(self, place: int, seen: frozenset[int]) -> tuple[int, ...]:
        """What a join joins, where the same operation made all of it; else the place itself."""
        if self.operations[place].op not in JOINS or place in seen:
            return (place,)
        joined = (p for each in self.reads(place) for p in self._pieces(each, seen | {place}))
        pieces = tuple(dict.fromkeys(joined))
        alike = len({self.operations[piece].op for piece in pieces}) == 1
        return pieces if alike else (place,)

    @property
    def root(self) -> int | None:
        """Place of the loss's own operation, past rearrangements."""
        if not self.operations:
            return None
        if self.operations[0].op in REARRANGES and (behind := self.reads(0)):
            return behind[0]
        return 0

    @cached_property
    def by_hand(self) -> tuple[int, ...]:
        """Places of the elementwise operations and reductions between the loss and the model."""
        if self.root is None:
            return ()
        found, queue = {self.root}, [self.root]
        while queue:
            at = queue.pop()
            if self.operations[at].op in ELEMENTWISE:
                fresh = [place for place in self.reads(at) if place not in found]
                found.update(fresh)
                queue.extend(fresh)
        return tuple(sorted(at for at in found if self.operations[at].op in ELEMENTWISE))

    def layer_behind(self, at: int) -> str:
        """The module of the first parameters behind an operation; empty where not known."""
        queue, seen = [at], {at}
        while queue:
            place = queue.pop(0)
            if self.operations[place].module:
                return self.operations[place].module
            fresh = [n for n in self.operations[place].reads if n not in seen]
            seen.update(fresh)
            queue.extend(fresh)
        return ""

    def down_to(self, start: int, through: frozenset[str]) -> int:
        """Follow single reads from ``start`` while the operation is one of ``through``."""
        at, seen = start, {start}
        while self.operations[at].op in through | REARRANGES:
            behind = self.reads(at)
            if len(behind) != 1 or behind[0] in seen:
                break
            at = behind[0]
            seen.add(at)
        return at


def _two(limits: Any) -> tuple[float | None, float | None] | None:
    if not isinstance(limits, list | tuple) or len(limits) != 2:
        return None
    low, high = (None if each is None else float(each) for each in limits)
    return low, high


def modules_at(history: History, tail: LossTail, at: int) -> tuple[str, ...]:
    """The modules to blame for an operation next to a loss.

    Args:
        history: The run.
        tail: The loss's.
        at: Place of the operation.

    Returns:
        The module that is nothing but this operation, where there is one, and the layer whose
        output it reads.
    """
    spelt = tail.operations[at].op.replace("_", "")
    layer = tail.layer_behind(at)
    outputs = history["output"].columns
    behind = max((c.order for c in outputs if c.module == layer), default=-1)
    own = [
        column
        for column in outputs
        if column.order >= behind
        and column.module == column.name
        and column.kind.lower().replace("_", "") == spelt
    ]
    found = (max(own, key=lambda c: c.order).module if own else "", layer)
    return tuple(dict.fromkeys(filter(None, found)))


def loss_tails(history: History) -> list[LossTail]:
    """The newest graph of each optimizer's loss; every graph where no optimizer is named."""
    newest = {
        event.where or number: event for number, event in enumerate(history.of_kind("loss-graph"))
    }
    return [LossTail.of(event) for event in newest.values()]
