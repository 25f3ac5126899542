"""From a captured forward pass to a Trace: graph, books, operations, parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

from gradmend.probe import backward
from gradmend.probe.batch import Batch, Feeder, batch_size
from gradmend.probe.book import stack
from gradmend.probe.books import Auditor, Books
from gradmend.probe.capture import TOP, Capture
from gradmend.probe.entries import book_entries
from gradmend.probe.facts import Describer, upstream_of
from gradmend.probe.graph import Edge, Graph, accumulators, key_of, postorder, walk
from gradmend.probe.layout import modules_of
from gradmend.probe.predict import with_predictions
from gradmend.probe.statistics import input_record, stats_of
from gradmend.probe.wiring import loss_graph
from gradmend.records.ledger import Ledger, sum_by_cause
from gradmend.records.trace import Cut, Operation, Parameter, Run, Signal, Trace

PIECES = {torch.float64: 24, torch.float32: 6}
"""Booked nodes between two rescalings. One operation rarely changes a gradient by more than
six decades; 24 of them stay inside float64's 308 and 6 inside float32's 38."""


@dataclass
class Assembler:
    """Everything one look holds between its forward pass and its trace."""

    model: nn.Module
    loss: Tensor
    capture: Capture
    leaves: list[Tensor]
    """Differentiable copies of the floating inputs."""
    names: dict[int, str]
    """Parameter name by ``id`` of the shadow leaf."""
    shadow: Mapping[int, Tensor]
    frugal: bool = False
    """Leave out what only doubles the books: the passes they are held against, and the second
    book from a random cotangent. Of a large model these take longer than the book itself."""

    def trace(self, batch: Batch, feeder: Feeder, fed: Batch, step: int) -> Trace:
        """Book the gradient and write everything down.

        Args:
            batch: The user's batch.
            feeder: How batch and model make a loss.
            fed: The copies of the batch that the model ran on.
            step: Optimizer steps behind the tensors looked at.
        """
        graph, start = self._graph()
        loss = float(self.loss.detach())
        describer = Describer(self.model, self.capture, self.names)
        auditor = Auditor(
            graph=graph,
            subjects={key: describer.describe(graph, key) for key in graph.nodes},
            capture=self.capture,
            piece=PIECES.get(self.loss.dtype, 4),
            start=start,
            audit=not self.frugal,
        )
        books: Books | None = None
        random: Ledger | None = None
        if graph.nodes and math.isfinite(loss):
            books = auditor.keep("loss", {graph.root: torch.ones_like(self.loss)})
            spared = self.frugal or len(graph.nodes) > MANY or _is_dear(auditor)
            random = None if spared else self._random_ledger(auditor)
        trace = with_predictions(
            Trace(
                run=self._run(batch, loss, step),
                operations=self._operations(auditor, describer, books),
                parameters=self._parameters(graph, books),
                cuts=self._cuts(graph),
                inputs=tuple(
                    input_record(name, tensor.detach(), self.capture.readers.get(id(tensor)))
                    for name, tensor in feeder.inputs(fed).items()
                    if tensor.layout is torch.strided  # a sparse one is structure: no features
                ),
                ledger_random=random,
                non_finite=self.capture.non_finite or (None if math.isfinite(loss) else "loss"),
                notes=self._notes(graph, loss, books),
                loss_graph=_next_to_the_loss(self.loss),
                modules=modules_of(self.model, self.capture.spans),
            )
        )
        return replace(trace, ledger=self._ledger(trace, auditor, describer, books))

    def _ledger(
        self, trace: Trace, auditor: Auditor, describer: Describer, books: Books | None
    ) -> Ledger | None:
        """The books as people read them: the tree of entries, theory beside measurement."""
        if books is None or books.flow is None:
            return books.ledger if books else None
        shown = _shown(auditor)
        root, imbalance = book_entries(
            books.keeper,
            books.flow,
            auditor.top,
            self.capture,
            auditor.subjects,
            describer.source,
            {key: op.predicted for key, op in zip(shown, trace.operations, strict=True)},
        )
        contradiction = books.keeper.contradiction
        note = (
            f"two measurements of one gradient differ by {contradiction:.2g} decades:"
            " a hook on a tensor changes it on its way"
        )
        return replace(
            books.ledger,
            notes=(*books.ledger.notes, *((note,) if contradiction > 0.01 else ())),
            root=root,
            imbalance=max(imbalance, contradiction),
            by_cause=sum_by_cause(root),
            predicted_by_cause=sum_by_cause(root, predicted=True),
        )

    def _graph(self) -> tuple[Graph, str]:
        """The booked graph: back to the inputs, or as deep as the gradient goes."""
        inputs = [get_gradient_edge(leaf) for leaf in self.leaves]
        made = [get_gradient_edge(tensor) for tensor, _ in self.capture.sources]
        starts = [(edge.node, edge.output_nr) for edge in (*inputs, *made)]
        graph = walk(self.loss, starts)
        read = self._read_by_modules(graph)
        if read and read != graph.starts:
            # A mapping holds targets beside inputs. What only the loss reads is no input of the
            # model: its gradient is not the model's, and would end the chain at the loss.
            graph = walk(self.loss, [s for s in starts if (key_of(s[0]), s[1]) in read])
        if graph.nodes:
            return graph, "the inputs"
        led_to, _ = postorder(self.loss.grad_fn)
        for edge in self.capture.first_outputs:
            if key_of(edge.node) not in led_to:
                continue  # a walk for each of a thousand layers in front of a cut takes too long
            graph = walk(self.loss, [(edge.node, edge.output_nr)])
            if graph.nodes:
                return graph, "the first module the loss reaches"
        return graph, "nothing"

    def _read_by_modules(self, graph: Graph) -> set[Edge]:
        """The starts that some module reads, directly or through operations outside of all."""
        consumers = graph.consumers()
        found: set[Edge] = set()
        for start in graph.starts:
            todo, seen = [start], {start}
            while todo and start not in found:
                for key, _ in consumers.get(todo.pop(), ()):
                    if self.capture.span_of(key) != TOP:
                        found.add(start)
                    onward = {(key, n) for n in range(len(graph.nodes[key]._input_metadata))}
                    todo.extend(onward - seen)
                    seen |= onward
        return found

    def _random_ledger(self, auditor: Auditor) -> Ledger | None:
        """A second book, from a random unit cotangent at the model's outputs (Hutchinson)."""
        if auditor.top == TOP:
            return None
        generator = torch.Generator().manual_seed(0)
        drawn: dict[Edge, Tensor] = {}
        for edge, (shape, dtype, device) in auditor.outputs().items():
            noise = torch.randn(tuple(shape), generator=generator, dtype=torch.float64)
            drawn[edge] = noise.to(device, dtype)
        if not drawn:
            return None
        size = math.hypot(*(float(backward.norm(grad)) for grad in drawn.values()))
        return auditor.keep("random", {edge: grad / size for edge, grad in drawn.items()}).ledger

    def _operations(
        self, auditor: Auditor, describer: Describer, books: Books | None
    ) -> tuple[Operation, ...]:
        graph, subjects = auditor.graph, auditor.subjects
        upstream = upstream_of(graph, lambda key: subjects[key].transparent)
        shown = _shown(auditor)
        signals = _signals(auditor)
        ids = {key: number for number, key in enumerate(shown)}
        tally = books.tally if books else backward.Tally()
        flow = books.flow if books else None
        found = []
        for key in shown:
            subject = subjects[key]
            sent = [tally.passed[key, p] for p, _ in graph.edges[key] if (key, p) in tally.passed]
            total = tally.totals.get((key, 0))
            found.append(
                Operation(
                    id=ids[key],
                    name=subject.name,
                    cause=subject.cause,
                    module=subject.module,
                    call=self.capture.spans[subject.span].call,
                    source=describer.source(subject),
                    upstream=tuple(ids[source] for source in upstream[key]),
                    own_decades=stack(sent) - total if sent and total is not None else None,
                    decades=flow.operations.get(key, 0.0) if flow else 0.0,
                    share=flow.shares.get(key, 0.0) if flow else 0.0,
                    log10_grad=total,
                    signal=signals.get(key),
                    shape=subject.call.shape if subject.call is not None else None,
                    activation=subject.activation,
                    weights=subject.weights,
                    inside=subject.span != TOP,
                )
            )
        return tuple(found)

    def _parameters(self, graph: Graph, books: Books | None) -> tuple[Parameter, ...]:
        owners = {
            f"{path}.{name}" if path else name: (path, module)
            for path, module in self.model.named_modules()
            for name in module._parameters
        }
        leaves = {id(tensor): tensor for tensor in self.shadow.values()}
        found = []
        unrecorded: dict[int, str] = {}
        for span in self.capture.spans:
            if span.module is not None:
                unrecorded.setdefault(id(span.module), span.unrecorded)
        underflowed = books is not None and books.tally.underflowed
        for key, name in self.names.items():
            leaf = leaves[key]
            log10_grad = books.tally.parameters.get(key) if books else None
            path, module = owners.get(name, ("", self.model))
            found.append(
                Parameter(
                    name=name,
                    shape=tuple(leaf.shape),
                    trainable=leaf.requires_grad,
                    reached=key in graph.reached,
                    log10_grad=log10_grad,
                    exact_zero=log10_grad == backward.NEVER and not underflowed,
                    stats=stats_of(leaf.detach()),
                    module=path,
                    module_called=id(module) in self.capture.called,
                    unrecorded=unrecorded.get(id(module), ""),
                )
            )
        return tuple(found)

    def _cuts(self, graph: Graph) -> tuple[Cut, ...]:
        """The calls that ended the history of parameters that the loss does not reach."""
        leaves = {id(tensor): tensor for tensor in self.shadow.values()}
        lost = {
            key: name
            for key, name in self.names.items()
            if key not in graph.reached and leaves[key].requires_grad
        }
        found = []
        for cut in self.capture.cuts if lost else ():
            behind = {id(leaf.variable) for leaf in accumulators(cut.node)}
            names = tuple(name for key, name in lost.items() if key in behind)
            if names:
                before = self.capture.spans[self.capture.span_of(key_of(cut.node))].path
                found.append(
                    Cut(
                        operation=cut.name,
                        module=cut.path,
                        source=cut.source,
                        before=before,
                        lost=names,
                    )
                )
        return tuple(found)

    def _run(self, batch: Batch, loss: float, step: int) -> Run:
        return Run(
            model=type(self.model).__name__,
            torch=torch.__version__,
            probe_dtype=str(self.loss.dtype).removeprefix("torch."),
            training=self.model.training,
            batch_size=batch_size(batch),
            parameters=sum(p.numel() for p in self.model.parameters()),
            loss=loss,
            step=step,
        )

    def _notes(self, graph: Graph, loss: float, books: Books | None) -> tuple[str, ...]:
        notes = []
        if books is not None and books.tally.underflowed:
            notes.append(
                "some gradients fell out of the range of floats where nothing could be rescaled"
                " (a skip runs past all of it): there, underflow and zero look alike"
            )
        if self.frugal and books is not None:
            notes.append(
                "a large model: one pass only, so the books are not checked against another one"
                " without hooks, and no random cotangent is sent through"
            )
        elif len(graph.nodes) > MANY:
            notes.append(
                f"a deep model, {len(graph.nodes):,} operations: no random cotangent is sent"
                " through; the books of the loss are complete and were checked"
            )
        opaque = sorted(
            {
                n.name()
                for n in graph.nodes.values()
                if "Rnn" in n.name() or "CopySlices" in n.name()
            }
        )
        if opaque:
            notes.append(f"booked as one entry, opaque inside: {', '.join(opaque)}")
        if not math.isfinite(loss):
            notes.append(f"the loss is {loss}: no gradient could be booked")
        return tuple(notes)


MANY = 10_000
"""Booked operations above which no random cotangent is sent through: it takes a tenth of a look,
here a second and more, and tells the same where there is but one way through the model."""
DEAR = 1_000_000_000
"""Multiplications of one forward pass above which no random cotangent is sent through: about a
tenth of a second of a common core, and the pass back takes several times as long."""


def _is_dear(auditor: Auditor) -> bool:
    maps = [s for s in auditor.subjects.values() if s.weights is not None and s.call is not None]
    products = sum(
        math.prod(s.weights.shape) * s.call.signal.samples
        for s in maps
        if s.weights is not None and s.call is not None and s.call.signal is not None
    )
    return products > DEAR


def _next_to_the_loss(loss: Tensor) -> dict[str, Any] | None:
    graph = loss_graph(loss)
    return None if graph is None else {"tail": list(graph.tail), "flat": list(graph.flat)}


def _shown(auditor: Auditor) -> list[int]:
    """Booked nodes that do more than rearrange, in forward order: the trace's operations."""
    return [key for key in reversed(auditor.graph.nodes) if not auditor.subjects[key].transparent]


_RESHAPES = frozenset({"View", "UnsafeView", "ReshapeAlias", "Transpose", "T", "Permute"})
"""Nodes that keep every number."""


def _signals(auditor: Auditor) -> dict[int, Signal]:
    """What each call returned, by the node that computed it: a reshape behind it is nobody's.

    ``F.linear`` on [B, T, I] without bias ends in a view of what its matrix product made.
    """
    graph, subjects = auditor.graph, auditor.subjects
    found: dict[int, Signal] = {}
    for key, subject in subjects.items():
        call, at = subject.call, key
        if call is None or call.signal is None or call.output != key:
            continue
        while subjects[at].kind in _RESHAPES:
            behind = [child for _, (child, _) in graph.edges[at] if child in subjects]
            if len(behind) != 1 or subjects[behind[0]].call is not call:
                break
            at = behind[0]
        found.setdefault(at, call.signal)
    return found
