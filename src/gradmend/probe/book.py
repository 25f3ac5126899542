"""From measured norms to balanced books: every decade on one entry, on any graph.

Along one path of the graph the logarithms of norms telescope, so its gains add up exactly.
Where a tensor has several consumers the path forks. The books follow *all* paths at once, as
a unit of flow that starts at the inputs and splits, at each fork, in proportion to the energy
|gradient|^2 that each consumer sends back; the step from one consumer's contribution to the
sum of all is booked under ``joins``. For weights w that add up to one,

    log|G| = sum_j w_j (log|C_j| + (log|G| - log|C_j|)),

so the entries add up exactly whatever the graph's shape, the order of execution does not
matter, every branch appears with the share of the gradient that uses it, and on a chain every
entry is simply the module's own gain.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from gradmend.probe.backward import NEVER, Tally
from gradmend.probe.graph import Edge, Graph


@dataclass(slots=True)
class Flow:
    """What one container's books hold, as sums over the flow through it."""

    operations: dict[int, float] = field(default_factory=dict)
    """Decades of each node inside, weighted by its share."""
    joins: dict[int, float] = field(default_factory=dict)
    """Decades of joins, by the span they happen in."""
    shares: dict[int, float] = field(default_factory=dict)
    """Flow through each node."""
    spans: dict[int, float] = field(default_factory=dict)
    """Flow into each module call inside."""
    own: float = math.nan
    """The container's own measured gain, from the tensors at its border."""

    @property
    def total(self) -> float:
        """Sum of the entries; equals :attr:`own` if the books balance."""
        return math.fsum([*self.operations.values(), *self.joins.values()])


@dataclass(slots=True)
class Bookkeeper:
    """Balances the books of any container from one backward pass's tally."""

    graph: Graph
    tally: Tally
    chain_of: Callable[[int], list[int]]
    """Node key -> span ids, from the outside in."""
    cotangents: dict[Edge, float] = field(default_factory=dict)
    """log10 |gradient| handed in from outside, by tensor."""
    _consumers: dict[Edge, list[tuple[int, int]]] = field(init=False)
    _outputs: dict[int, list[Edge]] = field(init=False)
    _chains: dict[int, list[int]] = field(init=False)
    _members: dict[int, list[int]] = field(init=False)
    """Nodes inside each span, in forward order."""

    def __post_init__(self) -> None:
        nodes = self.graph.nodes
        self._chains = {key: self.chain_of(key) for key in nodes}
        for key, _ in self.graph.starts:
            self._chains.setdefault(key, self.chain_of(key))
        self._consumers = {}
        self._outputs = {key: [] for key in nodes}
        for key, edges in self.graph.edges.items():
            for position, target in edges:
                if (key, position) in self.tally.passed:
                    self._consumers.setdefault(target, []).append((key, position))
        for edge in self.tally.totals:
            if edge[0] in self._outputs:
                self._outputs[edge[0]].append(edge)
        self._members = {}
        for key in reversed(nodes):
            for span in self._chains[key]:
                self._members.setdefault(span, []).append(key)

    def outputs_of(self, key: int) -> list[Edge]:
        """The tensors an operation made that got a gradient."""
        return self._outputs[key]

    @property
    def contradiction(self) -> float:
        """Largest difference between two measurements of one gradient, in decades.

        What an operation sends to a tensor that nothing else reads is what the tensor receives.
        Every inner norm cancels out of the sums, so a wrong one moves decades between
        neighbours without unbalancing any container: only this sees it.
        """
        found = 0.0
        for edge, readers in self._consumers.items():
            if edge in self.cotangents or edge not in self.tally.totals:
                continue
            everything = 0  # the outermost span holds all readers
            whole = (
                self.tally.passed[readers[0]]
                if len(readers) == 1
                else self.tally.groups.get(edge, {}).get(everything, math.nan)
            )
            difference = abs(whole - self.tally.totals[edge])
            if math.isfinite(difference):
                found = max(found, difference)
        return found

    def balance(self, span: int) -> Flow:
        """Follow the gradient through one container.

        Args:
            span: Id of the module call (or of the top span) to keep books for.

        Returns:
            Its entries and its own gain, measured independently of them at its border.
        """
        flow = Flow()
        incoming: dict[tuple[int, int], float] = {}
        entries = self.entries(span)
        exits: dict[Edge, float] = {}
        border_in = stack([norm for _, norm in entries])
        for (edge, norm), weight in zip(entries, weights([n for _, n in entries]), strict=True):
            if weight:
                add(flow.joins, span, weight * (border_in - norm))
                self._descend(edge, span, weight, norm, incoming, flow)
        for key in self._members.get(span, ()):
            self._pass_node(key, span, incoming, exits, flow)
        leaving = [(edge, norm) for edge, norm in self.exits(span).items()]
        border_out = stack([norm for _, norm in leaving])
        norms = dict(leaving)
        for edge, amount in exits.items():
            add(flow.joins, span, amount * (norms[edge] - border_out))
        flow.own = border_in - border_out
        return flow

    def _pass_node(
        self,
        key: int,
        span: int,
        incoming: dict[tuple[int, int], float],
        exits: dict[Edge, float],
        flow: Flow,
    ) -> None:
        passed = self.tally.passed
        used = [
            (incoming[key, position], passed[key, position])
            for position, _ in self.graph.edges[key]
            if incoming.get((key, position))
        ]
        amount = math.fsum(part for part, _ in used)
        if not amount:
            return
        outputs = self._outputs[key]
        totals = [self.tally.totals[edge] for edge in outputs]
        split = weights(totals)
        after = math.fsum(w * total for w, total in zip(split, totals, strict=True) if w)
        before = math.fsum(part * norm for part, norm in used)
        flow.operations[key] = before - amount * after
        flow.shares[key] = amount
        for edge, weight in zip(outputs, split, strict=True):
            if weight:
                self._leave(edge, span, amount * weight, incoming, exits, flow)

    def _leave(
        self,
        edge: Edge,
        span: int,
        amount: float,
        incoming: dict[tuple[int, int], float],
        exits: dict[Edge, float],
        flow: Flow,
    ) -> None:
        """Send flow on from a tensor made inside: out of the container, or to its readers."""
        total = self.tally.totals[edge]
        readers = self._consumers.get(edge, ())
        if len(readers) == 1 and edge not in self.cotangents:  # along a chain: all in, or all out
            if span in self._chains[readers[0][0]]:
                self._descend(edge, span, amount, total, incoming, flow)
            else:
                add(exits, edge, amount)
            return
        inside = self._inside(edge, span)
        outer = self._outer_norm(edge, span)
        if inside is None:
            add(exits, edge, amount)
            add(flow.joins, span, amount * (total - (total if outer is None else outer)))
            return
        if outer is None:
            self._descend(edge, span, amount, total, incoming, flow)
            return
        for norm, weight, leaves in zip(
            (inside, outer), weights([inside, outer]), (False, True), strict=True
        ):
            if not weight:
                continue
            part = amount * weight
            add(flow.joins, span, part * (total - norm))
            if leaves:
                add(exits, edge, part)
            else:
                self._descend(edge, span, part, norm, incoming, flow)

    def _descend(
        self,
        edge: Edge,
        span: int,
        amount: float,
        norm: float,
        incoming: dict[tuple[int, int], float],
        flow: Flow,
    ) -> None:
        """Split flow among the readers of a tensor inside a span, one nesting level at a time."""
        readers = self._consumers.get(edge, ())
        if len(readers) == 1 and math.isfinite(self.tally.passed[readers[0]]):
            self._hand_down(edge, span, amount, norm, incoming, flow)
            return
        todo = [(span, amount, norm)]
        while todo:
            inner, part, before = todo.pop()
            groups: dict[tuple[str, object], tuple[float, int | tuple[int, int]]] = {}
            for reader in readers:
                chain = self._chains[reader[0]]
                if inner not in chain:
                    continue
                below = chain[chain.index(inner) + 1 :]
                if below:
                    groups["span", below[0]] = (self._group_norm(edge, below[0]), below[0])
                else:
                    groups["node", reader] = (self.tally.passed[reader], reader)
            norms = [value for value, _ in groups.values()]
            for (value, where), weight in zip(groups.values(), weights(norms), strict=True):
                if not weight:
                    continue
                add(flow.joins, inner, part * weight * (before - value))
                if isinstance(where, tuple):
                    add(incoming, where, part * weight)
                else:
                    if edge in self.graph.starts or where not in self._chains[edge[0]]:
                        add(flow.spans, where, part * weight)
                    todo.append((where, part * weight, value))

    def _hand_down(
        self,
        edge: Edge,
        span: int,
        amount: float,
        norm: float,
        incoming: dict[tuple[int, int], float],
        flow: Flow,
    ) -> None:
        """The same where one operation reads the tensor: nothing is split at any level."""
        (reader,) = self._consumers[edge]
        chain = self._chains[reader[0]]
        if span not in chain:
            return
        add(flow.joins, span, amount * (norm - self.tally.passed[reader]))
        start = edge in self.graph.starts
        for inner in chain[chain.index(span) + 1 :]:
            if start or inner not in self._chains[edge[0]]:
                add(flow.spans, inner, amount)
        add(incoming, reader, amount)

    def entries(self, span: int) -> list[tuple[Edge, float]]:
        """Tensors made outside a container and read inside, with what it sends them back."""
        read = {
            target: None
            for key in self._members.get(span, ())
            for position, target in self.graph.edges[key]
            if (key, position) in self.tally.passed
        }
        return [
            (edge, self._group_norm(edge, span))
            for edge in read
            if edge in self.graph.starts or span not in self._chains[edge[0]]
        ]

    def exits(self, span: int) -> dict[Edge, float]:
        """Tensors made inside a container and read outside, with what they receive there."""
        found = {}
        for key in self._members.get(span, ()):
            for edge in self._outputs[key]:
                outer = self._outer_norm(edge, span)
                if outer is not None:
                    found[edge] = outer
        return found

    def _inside(self, edge: Edge, span: int) -> float | None:
        """log10 of what the readers inside ``span`` send back to a tensor, summed."""
        if not any(span in self._chains[key] for key, _ in self._consumers.get(edge, ())):
            return None
        return self._group_norm(edge, span)

    def _group_norm(self, edge: Edge, span: int) -> float:
        grouped = self.tally.groups.get(edge)
        if grouped is not None and span in grouped:
            return grouped[span]
        reader = next(r for r in self._consumers[edge] if span in self._chains[r[0]])
        return self.tally.passed[reader]

    def _outer_norm(self, edge: Edge, span: int) -> float | None:
        """log10 of what a tensor receives from outside ``span``; ``None`` if nothing."""
        if edge in self.cotangents:
            return self.cotangents[edge]
        readers = self._consumers.get(edge, ())
        outside = [reader for reader in readers if span not in self._chains[reader[0]]]
        if not outside:
            return None
        if len(outside) == len(readers):
            return self.tally.totals[edge]
        return self.tally.outside[edge][span]


def weights(logs: list[float]) -> list[float]:
    """Shares of energy, from base-10 logarithms of norms; they add up to one.

    Exactly zero norms get no share; if all are zero, nothing flows on.
    """
    if len(logs) == 1 and math.isfinite(logs[0]):
        return [1.0]
    top = max((value for value in logs if not math.isnan(value)), default=NEVER)
    if top == NEVER:
        return [0.0] * len(logs)
    energies = [10.0 ** (2 * (value - top)) if not math.isnan(value) else 0.0 for value in logs]
    total = math.fsum(energies)
    return [energy / total for energy in energies]


def stack(logs: list[float]) -> float:
    """log10 of the norm of several vectors stacked, from the logarithms of their norms."""
    if len(logs) == 1:
        return logs[0]
    top = max(logs, default=NEVER)
    if top == NEVER:
        return NEVER
    return top + 0.5 * math.log10(math.fsum(10.0 ** (2 * (value - top)) for value in logs))


def add(table: dict, key: object, amount: float) -> None:  # type: ignore[type-arg]
    """Add to an entry of a table of sums."""
    table[key] = table.get(key, 0.0) + amount
