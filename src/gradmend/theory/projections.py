"""The projections of attention: what makes its queries and keys, and how wide its heads are."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from gradmend.records.finding import Finding
from gradmend.records.trace import Operation, Trace

_PRODUCTS = {"bmm", "mm", "matmul", "baddbmm", "einsum", "__matmul__"}
_NORMS = {"norm", "vector_norm", "linalg_vector_norm", "rsqrt", "normalize"}
_FUSED = "scaled_dot_product"
_STEPS = 40
"""Operations followed back from the logits to a projection: rotations and norms are a dozen."""


FACTOR = "factor on q k^T, times sqrt(width)"
"""Evidence of unscaled-attention, for each module."""
DEVIATION = "standard deviation of a row's logits"
"""Evidence of saturated-attention, for each module."""


@dataclass(frozen=True, slots=True)
class Projections:
    """One call of attention in a model."""

    module: str
    """Path of the module that attends."""
    query: Operation | None
    key: Operation | None
    """The linear maps; the same one where it is packed."""
    width: int | None
    """Of a head."""
    normed: bool = False
    """Whether a norm stands between the maps and their product."""
    source: str | None = None
    """The line that calls the softmax."""

    @property
    def packed(self) -> bool:
        """Whether one map makes queries and keys (and values)."""
        return self.query is not None and self.key is not None and self.query.id == self.key.id


def projections(trace: Trace, module: str) -> Projections | None:
    """Of the attention in a module, or in one inside it; ``None`` where it shows none."""
    prefix = f"{module}."
    for op in trace.operations:
        if op.module != module and not (module and op.module.startswith(prefix)):
            continue
        if op.name.startswith(_FUSED):
            return _fused(trace, op)
        if op.name in ("softmax", "_softmax") and (found := _by_hand(trace, op)) is not None:
            return found
    return None


def _fused(trace: Trace, op: Operation) -> Projections:
    ways = [_maker(trace, at) for at in op.upstream[:2]]
    if len(op.upstream) == 1:  # queries, keys and values are parts of one tensor
        ways *= 2
    (query, one), (key, other) = (*ways, (None, False), (None, False))[:2]
    width = op.shape[-1] if op.shape is not None and len(op.shape) >= 3 else None
    return Projections(op.module, query, key, width, one or other, op.source)


def _by_hand(trace: Trace, softmax: Operation) -> Projections | None:
    op = softmax
    for _ in range(_STEPS):
        if op.name in _PRODUCTS and len(op.upstream) in (1, 2):
            break
        if not op.upstream or op.weights is not None:
            return None
        op = trace.operations[op.upstream[0]]  # what is added (a mask, a bias) comes second
    else:
        return None
    (query, one), (key, other) = (_maker(trace, at) for at in (op.upstream * 2)[:2])
    width = _width(trace, op, query, key)
    return Projections(softmax.module, query, key, width, one or other, softmax.source)


def _maker(trace: Trace, at: int) -> tuple[Operation | None, bool]:
    """The one linear map that everything behind an operation comes from, and whether normed."""
    todo, seen, found, normed = [at], {at}, set[int](), False
    for _ in range(_STEPS):
        if not todo:
            break
        op = trace.operations[todo.pop()]
        if op.weights is not None:
            found.add(op.id)
            continue
        if op.cause == "attention-softmax" or op.name in _PRODUCTS:
            return None, normed
        normed = normed or op.cause == "normalisation" or op.name in _NORMS
        onward = set(op.upstream) - seen
        seen |= onward
        todo.extend(onward)
    sole = len(found) == 1 and not todo
    return (trace.operations[found.pop()] if sole else None), normed


def _width(
    trace: Trace, product: Operation, query: Operation | None, key: Operation | None
) -> int | None:
    """Units of a head: those of the queries over the heads that the logits' shape shows."""
    if query is None or query.weights is None or product.shape is None:
        return None
    units, shape = query.weights.shape[0], product.shape
    if key is not None and key.id == query.id:
        if units % 3:
            return None
        units //= 3
    batch = trace.run.batch_size
    if len(shape) == 4:
        heads = shape[1]
    elif len(shape) == 3 and batch and shape[0] % batch == 0:
        heads = shape[0] // batch
    else:
        return None
    return units // heads if heads and units % heads == 0 else None


def logits_rms(trace: Trace) -> float | None:
    """The largest rms of what a softmax of attention is given, masks left out."""
    found = []
    for softmax in trace.operations:
        if softmax.cause != "attention-softmax" or softmax.name not in ("softmax", "_softmax"):
            continue
        op = softmax
        for _ in range(_STEPS):
            if not op.upstream:
                break
            op = trace.operations[op.upstream[0]]
            signal = op.signal
            if op.cause in ("products", "scaling") and signal is not None:
                found.append(math.sqrt(signal.mean_square))
                break
            if op.weights is not None:
                break
    return max(found, default=None)


def figures_of(findings: Iterable[Finding], quantity: str) -> dict[str, float]:
    """A piece of evidence by module, the largest where there are several."""
    found: dict[str, float] = {}
    for finding in findings:
        for item in finding.evidence:
            if item.quantity == quantity and item.module is not None and item.observed > 0.0:
                found[item.module] = max(item.observed, found.get(item.module, 0.0))
    return found


def attends(trace: Trace, findings: Iterable[Finding]) -> tuple[str, ...]:
    """Modules that attend, of findings that name them or one of their projections."""
    found: dict[str, None] = {}
    for finding in findings:
        for path in finding.modules:
            linear = any(op.module == path for op in trace.weights)
            facts = trace.module_at.get(path)
            whole = facts is None or facts.kind == "MultiheadAttention" or not linear
            found[path if whole else path.rpartition(".")[0]] = None
    return tuple(found)


def rows_of_queries_and_keys(
    trace: Trace, module: str, found: Projections | None
) -> list[tuple[str, list[int]]]:
    """Parameters that queries and keys are proportional to, with their rows (none: all)."""
    facts = trace.module_at.get(module)
    if facts is not None and facts.kind == "MultiheadAttention":
        names = {name.rpartition(".")[2]: name for name in facts.parameters}
        width = facts.settings.get("embed_dim")
        if not isinstance(width, int) or "bias_k" in names:
            return []
        both = [0, 2 * width]
        packed = [(names[n], both) for n in ("in_proj_weight", "in_proj_bias") if n in names]
        apart: list[tuple[str, list[int]]] = [
            (names[n], []) for n in ("q_proj_weight", "k_proj_weight") if n in names
        ]
        return apart + packed
    if found is None or found.query is None or found.key is None or found.normed:
        return []
    query, key = found.query.weights, found.key.weights
    if query is None or key is None or query.kind != "linear" or key.kind != "linear":
        return []
    rows: list[int] = []
    if found.packed:
        if query.shape[0] % 3:
            return []
        rows = [0, 2 * query.shape[0] // 3]
    parameters = [query.parameter, query.bias, key.parameter, key.bias]
    return [(name, rows) for name in dict.fromkeys(parameters) if name is not None]
