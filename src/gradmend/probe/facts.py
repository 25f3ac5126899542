"""What each booked operation is: its name, cause, weights, slope, and what it reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gradmend.probe import kinds
from gradmend.probe.capture import Call, Capture
from gradmend.probe.graph import Graph, Node
from gradmend.probe.source import module_line
from gradmend.records.trace import ActivationFacts, WeightFacts
from gradmend.theory.activations import KNOWN, activation

FLAT = 0.05
"""An entry is flat where |phi'| < 5 % of the activation's steepest slope (mean-field probe 1 of
the reference: saturation is a statement about slopes, not about values)."""


@dataclass(slots=True)
class Subject:
    """One booked node, described."""

    key: int
    kind: str
    name: str
    cause: str
    span: int
    module: str
    call: Call | None
    transparent: bool
    weights: WeightFacts | None = None
    activation: ActivationFacts | None = None


class Describer:
    """Describes booked nodes; knows the model's names and the shadow's leaves."""

    def __init__(self, model: nn.Module, capture: Capture, names: dict[int, str]) -> None:
        self.model = model
        self.capture = capture
        self.names = names
        """Parameter name by ``id`` of the shadow leaf."""
        self._lines: dict[str, str | None] = {}

    def describe(self, graph: Graph, key: int) -> Subject:
        """Name a node, book its cause, and measure what it holds."""
        node = graph.nodes[key]
        capture = self.capture
        kind = kinds.short(node.name())
        span_id = capture.span_of(key)
        span = capture.spans[span_id]
        call = capture.call_of(key)
        called = call.name if call else None
        leaves = [found.variable for found in graph.parameters.get(key, ())]
        subject = Subject(
            key=key,
            kind=kind,
            name=kinds.operation_name(kind, called if call and call.output == key else None),
            cause=kinds.cause_of(kind, called, has_parameter=bool(leaves)),
            span=span_id,
            module=span.path,
            call=call,
            transparent=kinds.is_transparent(kind),
        )
        if isinstance(span.module, nn.RNNBase | nn.RNNCellBase) and not subject.transparent:
            subject.cause = "recurrence"
        if subject.cause == "weights":
            subject.weights = self._weights(node, kind, span.module)
        elif kinds.is_activation(kind):
            subject.activation = self._activation(node, subject, span.module)
        return subject

    def source(self, subject: Subject) -> str | None:
        """Line of the module if it can be known, else of the call that ran the operation."""
        path = subject.module
        if path not in self._lines:
            self._lines[path] = module_line(self.model, path) if path else None
        return self._lines[path] or (subject.call.source if subject.call else None)

    def _weights(self, node: Node, kind: str, module: nn.Module | None) -> WeightFacts | None:
        direct = [_direct_leaf(child) for child, _ in node.next_functions]
        found = [leaf for leaf in direct if leaf is not None and id(leaf[0]) in self.names]
        matrices = [leaf for leaf in found if leaf[0].dim() >= 2]
        if len(matrices) != 1:
            return None  # composed on the fly (weight norm, LoRA): no single tensor to speak of
        weight, transposed = matrices[0]
        vectors = [leaf[0] for leaf in found if leaf[0].dim() == 1]
        bias = vectors[0] if vectors else None
        convolution = bool(kinds.CONVOLUTIONS.match(kind))
        fan_out, fan_in = _fans(weight, convolution, transposed, module)
        plain = type(module) in _PLAIN and getattr(module, "weight", None) is weight
        values = _wide_of(weight)
        centring, residual = _centring(values, bias, fan_out)
        return WeightFacts(
            parameter=self.names[id(weight)],
            kind="convolution" if convolution else "linear",
            shape=tuple(weight.shape),
            fan_in=fan_in,
            fan_out=fan_out,
            mean_square=float(values.square().mean()),
            bias=self.names[id(bias)] if bias is not None else None,
            bias_mean_square=float(_wide_of(bias).square().mean()) if bias is not None else 0.0,
            bias_centring=centring,
            bias_residual_square=residual,
            trainable=weight.requires_grad,
            module_is_plain=plain,
        )

    def _activation(
        self, node: Node, subject: Subject, module: nn.Module | None
    ) -> ActivationFacts | None:
        metadata = node._input_metadata[0]
        with torch.no_grad():
            ones = torch.ones(metadata.shape, dtype=metadata.dtype, device=metadata.device)
            slope = node(ones)  # elementwise: the gradient of ones is phi' itself
        slope = (slope[0] if isinstance(slope, tuple) else slope).abs()
        channel_dim = subject.call.channel_dim if subject.call else -1
        rows = slope.movedim(channel_dim, -1).reshape(-1, slope.shape[channel_dim])
        name = subject.name if subject.name in KNOWN else kinds.ACTIVATIONS[subject.kind]
        parameter = getattr(module, "negative_slope", None)
        parameter = float(parameter) if isinstance(parameter, int | float) else None
        steepest = (
            activation(name, negative_slope=parameter).max_slope if name in KNOWN else None
        )
        largest = float(rows.max())
        flat = FLAT * (steepest if steepest else largest)
        return ActivationFacts(
            function=name,
            slope_rms=float(rows.to(_wide(rows)).square().mean().sqrt()),
            slope_max=largest,
            flat_share=float((rows < flat).to(_wide(rows)).mean()),
            dead_units=int((rows == 0).all(dim=0).sum()),
            units=rows.shape[1],
            samples=rows.shape[0],
            steepest_slope=steepest,
            replaceable=type(module).__module__ == "torch.nn.modules.activation",
            negative_slope=parameter,
        )


_PLAIN = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def _wide(x: Tensor) -> torch.dtype:
    return torch.float64 if x.device.type == "cpu" else torch.float32


def _wide_of(x: Tensor) -> Tensor:
    return x.detach().to(_wide(x))


def _centring(weight: Tensor, bias: Tensor | None, fan_out: int) -> tuple[float, float]:
    """Least-squares fit b = r - a W 1: (a, E[r^2]).

    Only for weights stored [out, in, ...]; other layouts are taken to have no such structure.
    """
    if bias is None:
        return 0.0, 0.0
    b = _wide_of(bias)
    if weight.shape[0] != fan_out or b.numel() != fan_out:
        return 0.0, float(b.square().mean())
    sums = weight.reshape(fan_out, -1).sum(dim=1)
    norm = float(sums.square().sum())
    a = -float((b * sums).sum()) / norm if norm > 0 else 0.0
    return a, float((b + a * sums).square().mean())


def _direct_leaf(node: Node | None) -> tuple[Tensor, bool] | None:
    """(leaf, whether transposed) if an edge leads to a leaf through at most one transpose."""
    if node is None:
        return None
    if hasattr(node, "variable"):
        return node.variable, False
    if kinds.short(node.name()) in ("T", "Transpose", "Permute"):
        child = node.next_functions[0][0]
        if child is not None and hasattr(child, "variable"):
            return child.variable, True
    return None


def _fans(
    weight: Tensor, convolution: bool, transposed: bool, module: nn.Module | None
) -> tuple[int, int]:
    """(fan_out, fan_in): outputs, and inputs summed into one output."""
    if convolution:
        kernel = weight[0, 0].numel()
        groups = getattr(module, "groups", 1)
        if getattr(module, "transposed", False):
            return weight.shape[1] * groups, weight.shape[0] * kernel // groups
        return weight.shape[0], weight.shape[1] * kernel
    out_first = transposed  # F.linear stores [out, in] and multiplies by its transpose
    rows, columns = weight.shape[-2], weight.shape[-1]
    return (rows, columns) if out_first else (columns, rows)


def upstream_of(graph: Graph, is_transparent: Callable[[int], bool]) -> dict[int, list[int]]:
    """For each booked node: the nodes whose outputs it reads, looking through rearrangements."""
    found: dict[int, list[int]] = {}
    for key in reversed(graph.nodes):
        sources: list[int] = []
        for _, (child, _) in graph.edges[key]:
            if child not in graph.nodes:
                continue
            sources.extend(found[child] if is_transparent(child) else [child])
        found[key] = list(dict.fromkeys(sources))
    return found
