"""Where in a model an activation, or a norm in front of one, can be changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from gradmend.records.finding import Finding
from gradmend.records.trace import ActivationFacts, Operation, Trace, WeightFacts

FEW = 1 / 3
"""Share of a network's layers up to which only the guilty ones are changed (our choice)."""

_PASSED = frozenset({"pooling", "dropout", "normalisation"})


@dataclass(frozen=True, slots=True)
class Place:
    """An activation and the linear map that feeds it."""

    layer: Operation
    act: Operation
    normed: bool
    """Whether a norm stands between the two."""

    @property
    def weights(self) -> WeightFacts:
        """Of the layer."""
        assert self.layer.weights is not None
        return self.layer.weights

    @property
    def facts(self) -> ActivationFacts:
        """Of the activation."""
        assert self.act.activation is not None
        return self.act.activation


def places(trace: Trace) -> Iterator[Place]:
    """Every activation that a linear map feeds, through norms, pooling and dropout."""
    gates = {op.id for op in trace.gates}
    for act in trace.activations:
        if act.id in gates or act.cause == "recurrence" or len(act.upstream) != 1:
            continue
        op, normed = trace.operations[act.upstream[0]], False
        while op.weights is None and op.cause in _PASSED and len(op.upstream) == 1:
            normed = normed or op.cause == "normalisation"
            op = trace.operations[op.upstream[0]]
        if op.weights is not None:
            yield Place(op, act, normed)


def guilty(findings: Iterable[Finding], found: Iterable[Place]) -> list[Place]:
    """The places that the findings speak of, by the activation's module or by the layer's."""
    blamed = {module for finding in findings for module in finding.modules}
    return [place for place in found if blamed & {place.act.module, place.layer.module}]


def to_change(findings: Iterable[Finding], found: list[Place]) -> list[Place]:
    """The guilty places where they are few; else all of them."""
    named = guilty(findings, found)
    few = max(1, int(FEW * len(found)))
    return named if 0 < len(named) <= few else found


def own_layer(trace: Trace, place: Place, uses: Counter[str]) -> bool:
    """Whether the layer is a plain module that is called once and registered once."""
    module = trace.module_at.get(place.layer.module)
    return (
        place.weights.module_is_plain
        and uses[place.layer.module] == 1
        and (module is None or module.uses == 1)
    )


def times_used(trace: Trace) -> Counter[str]:
    """How often each module of the trace's linear maps is called; counted once, for deep nets."""
    return Counter(op.module for op in trace.weights)
