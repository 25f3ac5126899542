"""What of a network can become the branch of a residual: h + alpha f(h)."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from gradmend.records.finding import Finding
from gradmend.records.layout import ModuleFacts
from gradmend.records.prescription import Prediction
from gradmend.records.trace import Operation, Trace
from gradmend.theory.drawing import causes as unexplained

MOST_LAYERS = 4
"""Linear maps of a module that is wrapped as a whole (our choice): a branch with more loses inside
what the skip was to save."""
WHOLE = 0.98
"""Share of the gradient from which an operation has no way around it, as in theory.stream."""

_CONTAINERS = {"Sequential", "ModuleList", "ModuleDict"}
_IDLE = {"Identity", "Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "AlphaDropout"}
_FOLLOWS = {"activation", "normalisation", "dropout"}
_RECTIFIES = {"relu", "relu6"}


@dataclass(frozen=True, slots=True)
class Run:
    """Modules that stand one behind the other, or one alone, and keep their input's shape."""

    parts: tuple[str, ...]
    layers: int
    """Linear maps in it."""


@dataclass(frozen=True, slots=True)
class Wrappable:
    """What can be wrapped, and why the rest cannot."""

    runs: tuple[Run, ...]
    layers: int
    """Linear maps in the runs."""
    chain: int
    """Linear maps that all of the gradient passes."""
    functional: Operation | None = None
    """An activation called as a function, which kept a layer of fitting shape from being one."""


def wrappable(trace: Trace) -> Wrappable:
    """Runs of layers, and modules as a whole where what they do inside is no module's."""
    layers = _runs(trace)
    inside = {part for run in layers[0] for part in run.parts}
    blocks = _blocks(trace, inside)
    held = tuple(f"{block.parts[0]}." for block in blocks)
    kept = [run for run in layers[0] if not run.parts[0].startswith(held)] if held else layers[0]
    order = {m.path: at for at, m in enumerate(trace.modules)}
    runs = tuple(sorted((*kept, *blocks), key=lambda run: order[run.parts[0]]))
    chain = sum(1 for op in trace.weights if op.share > WHOLE)
    return Wrappable(runs, sum(run.layers for run in runs), chain, layers[1])


def _runs(trace: Trace) -> tuple[list[Run], Operation | None]:
    owned = _owned(trace)
    parents = {m.path.rpartition(".")[0] for m in trace.modules if m.path}
    after: dict[str, list[ModuleFacts]] = defaultdict(list)
    for module in trace.modules:
        if module.fed_by and module.path not in parents:
            after[module.fed_by].append(module)
    found, functional = [], None
    for op in trace.weights:
        facts, first = op.weights, trace.module_at.get(op.module)
        if facts is None or first is None or not facts.module_is_plain or op.share <= WHOLE:
            continue
        if first.path in parents or not _keeps_shape(first):
            continue
        run, last = [first], op
        while len(after[run[-1].path]) == 1:
            (following,) = after[run[-1].path]
            own = owned[following.path]
            if not _may_follow(following, own) or not _only_read_by(trace, last, own):
                break
            run.append(following)
            last = own[-1] if own else last
        acts = [any(o.activation for o in owned[m.path]) for m in run]
        if any(acts):
            found.append(Run(tuple(m.path for m in run), 1))
            continue
        # A rectifier behind the sum leaves a rectified stream as it is: still the identity.
        readers = [trace.operations[at] for at in trace.readers.get(last.id, ())]
        called = next((o for o in readers if o.activation is not None), None)
        if called is None or len(readers) != 1:
            continue
        if called.activation and called.activation.function in _RECTIFIES and _rectified(trace, op):
            found.append(Run(tuple(m.path for m in run), 1))
        else:
            functional = functional or called
    return found, functional


def _blocks(trace: Trace, inside: set[str]) -> list[Run]:
    """Modules of the user's own whose linear maps stand in no run, the innermost that fit."""
    maps: dict[str, list[Operation]] = defaultdict(list)
    for op in trace.weights:
        for path in _ancestors(op.module):
            maps[path].append(op)
    every: dict[str, list[Operation]] = defaultdict(list)
    for op in trace.operations:
        for path in _ancestors(op.module):
            every[path].append(op)
    inner = {m.path for m in trace.modules if m.settings.get("inplace") is True}
    fitting: list[Run] = []
    for module in reversed(trace.modules):  # children stand behind their parents
        held, path = maps.get(module.path, []), module.path
        if not path or not held or len(held) > MOST_LAYERS or not _keeps_shape(module):
            continue
        leaf = all(op.module == path for op in held)
        if module.kind in _CONTAINERS or (leaf and module.standard):
            continue
        if all(op.module in inside for op in held) or any(op.share <= WHOLE for op in held):
            continue
        if any(block.parts[0].startswith(f"{path}.") for block in fitting):
            continue
        own = {op.id for op in every[path]}
        *early, _ = every[path]
        leaks = any(set(trace.readers.get(op.id, ())) - own for op in early)
        active = any(op.activation for op in every[path])
        writes = any(op.module in inner and not set(op.upstream) & own for op in every[path])
        if leaks or writes or not active:
            continue
        fitting.append(Run((path,), len(held)))
    return fitting


def _keeps_shape(module: ModuleFacts) -> bool:
    """Whether it ran once, is registered once, and answered in the shape that it was given."""
    return (
        module.calls == module.uses == 1
        and module.takes is not None
        and (module.takes == module.gives)
    )


def _may_follow(module: ModuleFacts, own: list[Operation]) -> bool:
    """Norms, activations, dropout: what belongs to the layer in front."""
    if not _keeps_shape(module) or any(op.weights for op in own):
        return False
    if not own:
        return module.kind in _IDLE
    return all(op.activation is not None or op.cause in _FOLLOWS for op in own)


def _only_read_by(trace: Trace, op: Operation, own: list[Operation]) -> bool:
    return not own or set(trace.readers.get(op.id, ())) <= {o.id for o in own}


def _rectified(trace: Trace, op: Operation) -> bool:
    """Whether what an operation reads is nowhere negative."""
    for _ in range(4):
        if len(op.upstream) != 1:
            return False
        op = trace.operations[op.upstream[0]]
        if op.activation is not None:
            return op.activation.function in _RECTIFIES
        if op.cause not in ("pooling", "dropout"):
            return False
    return False


def _owned(trace: Trace) -> dict[str, list[Operation]]:
    found: dict[str, list[Operation]] = defaultdict(list)
    for op in trace.operations:
        found[op.module].append(op)
    return found


def _ancestors(path: str) -> list[str]:
    """The path itself and all that hold it, the root left out."""
    found = []
    while path:
        found.append(path)
        path = path.rpartition(".")[0]
    return found


SHALLOW = 5
"""Linear maps in a row that no remedy gives a skip (our choice): plain nets of ten train in
Srivastava et al. 2015, sigmoid ones of six (microsoft/CNTK#476)."""


_LOCAL = {"init-gain-too-small", "init-gain-too-large", "dead-relu", "attenuating-activation"}


def why_not(trace: Trace, found: Wrappable, findings: Iterable[Finding]) -> str | None:
    """Why a network gets no skips; ``None`` where it may."""
    if found.chain < SHALLOW:
        return f"{found.chain} layers in a row need no skip"
    findings = tuple(findings)
    if findings and not unexplained(findings):
        return f"{findings[0].name} follows from {findings[0].explained_by}: treat that"
    causes = [f for f in findings if not f.symptom and f.explained_by is None]
    blamed = {module for finding in causes for module in finding.modules}
    # A layer that is called many times counts as often; an activation's module is no linear map.
    calls = sum(op.module in blamed for op in trace.weights) or len(blamed)
    few = 0 < calls <= max(1, found.chain // 5)
    if few and all(finding.name in _LOCAL for finding in causes):
        return f"{calls} of {found.chain} layers are at fault, not the depth"
    if len(found.runs) < 2 or 2 * found.layers < found.chain:
        called = found.functional
        stuck = (
            f"; {called.name} is called as a function, and there is no module to wrap"
            if called is not None
            else ""
        )
        return (
            f"of {found.chain} layers in a row {found.layers} keep the shape and stand alone with"
            f" an activation module behind them{stuck}"
        )
    return None


def gradient_left(trace: Trace, found: Wrappable) -> Prediction:
    """The gradient's change, outputs to inputs: what the layers take that no skip passes."""
    passed = tuple(f"{part}." for run in found.runs for part in run.parts)
    whole = {part for run in found.runs for part in run.parts}
    taken = sum(
        op.decades
        for op in trace.operations
        if op.module not in whole and not op.module.startswith(passed)
    )
    taken = min(max(taken, -5.0), 5.0) if math.isfinite(taken) else 0.0
    return Prediction(
        quantity="total_decades",
        low=taken - WITHIN,
        high=taken + WITHIN,
        unit="decades",
        sentence=(
            f"the gradient changes by {taken:+.1f} decades, outputs to inputs, within {WITHIN:g}"
        ),
    )


WITHIN = 3.0
"""Decades (our choice): what stands outside the blocks reads another signal than before."""
