"""Keep the books of one graph: run a measured pass, balance it, ask for a second opinion."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gradmend.probe import backward
from gradmend.probe.book import Bookkeeper, Flow, stack
from gradmend.probe.capture import TOP, Capture
from gradmend.probe.facts import Subject
from gradmend.probe.graph import Edge, Graph
from gradmend.records.ledger import Ledger


@dataclass(slots=True)
class Books:
    """One balanced backward pass, or the reason why there is none."""

    ledger: Ledger
    """Totals only; the tree of entries is added once theory has spoken."""
    tally: backward.Tally
    keeper: Bookkeeper
    flow: Flow | None = None


@dataclass(slots=True)
class Auditor:
    """Keeps the books of one captured graph for any cotangent."""

    graph: Graph
    subjects: dict[int, Subject]
    capture: Capture
    piece: int
    start: str
    audit: bool = True
    """Whether to run the backward passes without hooks that the books are held against."""
    top: int = field(init=False)
    """The span the books are kept for: the model's one call, or else everything."""
    _chains: dict[int, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        calls = [span.id for span in self.capture.spans[1:] if span.parent == TOP]
        whole = len(calls) == 1 and self.capture.spans[calls[0]].path == ""
        inside = whole and any(calls[0] in self.chain_of(key) for key in self.graph.nodes)
        self.top = calls[0] if inside else TOP

    def chain_of(self, key: int) -> list[int]:
        """Span ids around a node, from the outside in; leaves of the graph lie outside."""
        if key not in self._chains:
            self._chains[key] = self.capture.chain(self.capture.span_of(key) if key >= 0 else TOP)
        return self._chains[key]

    def outputs(self) -> dict[Edge, tuple[torch.Size, torch.dtype, torch.device]]:
        """Tensors made inside :attr:`top` and read outside it: the model's outputs."""
        consumers = self.graph.consumers()
        found = {}
        for key, node in self.graph.nodes.items():
            if self.top not in self.chain_of(key):
                continue
            for number, meta in enumerate(node._input_metadata):
                readers = consumers.get((key, number), [])
                if any(self.top not in self.chain_of(reader) for reader, _ in readers):
                    found[key, number] = (meta.shape, meta.dtype, meta.device)
        return found

    def keep(self, name: str, cotangents: dict[Edge, Tensor]) -> Books:
        """Run one measured backward pass and balance it.

        Args:
            name: What the cotangents are: ``loss`` or ``random``.
            cotangents: Gradient handed in, by tensor.
        """
        # Parameters only once: asking for them makes autograd walk the whole graph every piece.
        tally = backward.tally(
            self.graph,
            cotangents,
            self.chain_of,
            piece=self.piece,
            want_parameters=name == "loss",
        )
        given = {e: backward.log10(float(backward.norm(g))) for e, g in cotangents.items()}
        keeper = Bookkeeper(graph=self.graph, tally=tally, chain_of=self.chain_of, cotangents=given)
        dtype = str(next(iter(cotangents.values())).dtype).removeprefix("torch.")
        values = [*tally.totals.values(), *tally.passed.values()]
        sick = any(map(_is_sick, values))
        ends = [tally.totals.get(edge, backward.NEVER) for edge in self.graph.starts]
        if sick or all(end == backward.NEVER for end in ends):
            why = "the gradient is not finite" if sick else "the gradient becomes exactly zero"
            blocked, operation = self._spoiled(tally) if sick else self._blocked(tally)
            ledger = Ledger(
                cotangent=name,
                total_decades=None,
                unexplained_decades=None,
                root=None,
                dtype=dtype,
                start=self.start,
                blocked_by=blocked,
                blocked_operation=operation,
                notes=(f"{why} in {blocked}" if blocked else why,),
            )
            return Books(ledger=ledger, tally=tally, keeper=keeper)
        flow = keeper.balance(self.top)
        exits = keeper.exits(self.top)
        entries = [edge for edge, _ in keeper.entries(self.top)]
        second = self._second_opinion(cotangents, exits, entries) if self.audit else None
        ledger = Ledger(
            cotangent=name,
            total_decades=flow.own,
            unexplained_decades=None if second is None else abs(flow.total - second),
            root=None,
            dtype=dtype,
            start=self.start,
            log10_cotangent=stack(list(exits.values())),
        )
        return Books(ledger=ledger, tally=tally, keeper=keeper, flow=flow)

    def _second_opinion(
        self, cotangents: dict[Edge, Tensor], exits: dict[Edge, float], entries: list[Edge]
    ) -> float | None:
        """The whole gain again, by backward passes without hooks.

        From border to border, as the books are: what the loss reads past the model (an
        autoencoder's target is its input) or what was done to the input before it is not the
        model's gain. ``None`` where plain passes cannot tell the two apart.
        """
        border = stack(list(exits.values()))
        origin = cotangents
        if not any(edge in cotangents for edge in exits):
            mixed = any(edge in self.outputs_also_read_inside for edge in exits)
            grads = backward.plain_grads(self.graph, cotangents, list(exits))
            plain = backward.norm_within_range(grads, cotangents)
            if plain is not None and not mixed:
                border, origin = plain, grads
            elif self._read_outside(entries):
                return None
        inner = backward.plain_norm(self.graph, origin, entries)
        if inner is None:
            inner = backward.stepwise_norm(self.graph, origin, self.piece // 2 + 1, entries)
        return None if inner is None else inner - border

    def _read_outside(self, edges: list[Edge]) -> bool:
        consumers = self.graph.consumers()
        readers = [key for edge in edges for key, _ in consumers.get(edge, ())]
        return any(self.top not in self.chain_of(key) for key in readers)

    @property
    def outputs_also_read_inside(self) -> set[Edge]:
        """Outputs of the model that the model itself reads again."""
        consumers = self.graph.consumers()
        return {
            edge
            for edge in self.outputs()
            if any(self.top in self.chain_of(reader) for reader, _ in consumers[edge])
        }

    def _blocked(self, tally: backward.Tally) -> tuple[str | None, str | None]:
        """The first operation, in backward order, that got a gradient and passed none on."""
        for key, got, sent in self._traffic(tally):
            if got != backward.NEVER and all(value == backward.NEVER for value in sent):
                return self._place(key)
        return None, None

    def _spoiled(self, tally: backward.Tally) -> tuple[str | None, str | None]:
        """The first operation, in backward order, that got finite numbers and passed on others."""
        for key, got, sent in self._traffic(tally):
            if not _is_sick(got) and any(map(_is_sick, sent)):
                return self._place(key)
        return None, None

    def _traffic(self, tally: backward.Tally) -> Iterator[tuple[int, float, list[float]]]:
        """For each operation, loss first: what it received, and what it sent along each edge."""
        for key, edges in self.graph.edges.items():
            got = tally.totals.get((key, 0), backward.NEVER)
            yield key, got, [tally.passed.get((key, at), backward.NEVER) for at, _ in edges]

    def _place(self, key: int) -> tuple[str, str]:
        subject = self.subjects[key]
        return subject.module or subject.name, subject.name


def _is_sick(log10: float) -> bool:
    return math.isnan(log10) or log10 == math.inf
