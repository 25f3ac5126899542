"""ACT103: a bounded activation that works on its flats."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.history import History
from gradmend.records.trace import Trace
from gradmend.registry import Case, limit, rule
from gradmend.theory import windows
from gradmend.theory.activations import KNOWN, activation


@dataclass(frozen=True)
class Limits:
    """When an activation is saturated."""

    flat_share: float = limit(
        0.5,
        unit="1",
        source="share of entries with |phi'| < 5 % of its steepest; half a layer as in SageMaker "
        "Debugger and DeepDiagnosis (Wardat et al. 2022)",
    )
    error_share: float = limit(
        0.9,
        unit="1",
        source="nine entries in ten pass less than 5 % of the gradient: chosen on our zoo",
    )


def _live(history: History, limits: Limits) -> Iterator[Finding]:
    table = history["output"]
    if not len(table):
        return
    flat = np.nan_to_num(windows.lasting(table, "flat_share", 0.25, fewest=windows.FEW))
    begin = table.first("flat_share")
    zeros = np.nan_to_num(table.first("zero_share"))
    works = windows.learned(history) is not False
    last = max(column.order for column in table.columns)
    # What became flat while the loss fell was trained to be; what was born so was not.
    born = np.nan_to_num(begin) >= limits.flat_share
    least = np.where(born | (not works), limits.flat_share, limits.error_share)
    cells = {column.module for column in history["recurrence"].columns}
    gates = {name for look in history.of_kind("look") for name in look.facts.get("gates", ())}
    guilty = []
    for at in np.flatnonzero(flat >= least):
        column = table.columns[at]
        name = column.kind.lower().rstrip("_")
        if name not in KNOWN or not activation(name).bounded:
            continue
        # An output that has learned to say 0 or 1 is flat, and right; so are gates.
        if works and (column.order == last or column.module in cells):
            continue
        if "sigmoid" in name and column.module in gates:
            continue
        # nn.ReLU6 may show as the hardtanh that it calls; exact zeros tell it from one about zero.
        capped = name == "hardtanh" and zeros[at] > 0.1
        if not flat[at] >= _least("relu6" if capped else name, limits):
            continue
        guilty.append(int(at))
    if not guilty:
        return
    worst = max(guilty, key=lambda at: float(flat[at]))
    first = min(guilty, key=lambda at: table.columns[at].order)
    column, share = table.columns[worst], float(flat[worst])
    yield Finding(
        code="ACT103",
        name="saturated-activation",
        severity=Severity.ERROR if share >= limits.error_share and not works else Severity.WARNING,
        modules=tuple(table.columns[at].module for at in guilty),
        source=table.columns[first].source,
        summary=(
            f"{windows.count_of(len(guilty), column.kind + ' layer')} on the flats:"
            f" {share:.0%} of the entries of {column.module or 'the worst'} have no slope to speak"
            f" of ({begin[worst]:.0%} at the beginning)"
        ),
        evidence=(
            Evidence(
                quantity="share of flat entries",
                observed=share,
                limit=limits.flat_share,
                unit="share",
                module=column.module,
                step=history.step,
            ),
        ),
        # A slope under 5 % of the steepest costs each flat layer more than a decade.
        weight=float(len(guilty)) * -np.log10(0.05),
        explains=("vanishing-gradient", "collapsed-signal", "stalled-layers", "loss-plateau"),
        exculpation="fewer than half of the entries flat",
    )


@rule(
    code="ACT103",
    limits=Limits,
    fires_on=[
        Case.of("mlp", depth=8, activation="tanh", init="normal", gain=12.0),
        Case.of("mlp", depth=3, activation="tanh", scale=100.0),
        Case.of("mlp", depth=4, activation="sigmoid", bad_layer=1, bad_bias=12.0),
    ],
    silent_on=[
        Case.of("mlp", depth=8, activation="tanh", init="normal", gain=1.0),
        Case.of("mlp", depth=4, activation="tanh", init="normal", gain=1.667),
        Case.of("mlp", depth=24, activation="relu"),
        Case.of("mlp", depth=4, activation="relu", init="normal", gain=12.0),
        Case.of("gated", gate_bias=12.0),
        Case.of("mlp", depth=6, activation="relu6"),
    ],
    live=_live,
    live_fires_on=[Case.of("saturating", rate=30.0)],
    live_silent_on=[
        Case.of("saturating"),
        Case.of("converged"),
        Case.of("long_memory", cell="lstm"),
    ],
)
def saturated_activation(trace: Trace, limits: Limits) -> Iterator[Finding]:
    """Bounded activation whose pre-activations lie on its flat tails.

    What it finds:
        Layers of sigmoid, tanh, hardtanh and other bounded activations in which at least half of
        the entries have nearly no slope.

    Why it matters:
        delta_l = phi'(z_l) * W^T delta_(l+1): where phi' is nearly zero the unit learns nothing
        and passes nothing on, and as its output is constant nothing changes that.

    How it is measured:
        phi' itself, from the backward node of the activation, per entry of the batch, against
        the function's steepest slope. Not |output| > 1 - eps, which calls every large linear
        output saturated. Over a run: a low rank of that share over the recent window, so that it
        has lasted.

    Silent when:
        The activation is not bounded (a ReLU's zero half is its nature: see dead-relu; so is a
        ReLU6's, of which nine tenths must be flat). Gates: a
        sigmoid that only multiplies is there to be shut or open; a recurrent layer is judged by
        all of its activations together. In a run whose loss has fallen: the last activation,
        which has learned to say 0 or 1, and layers that became flat meanwhile and keep a tenth
        of their entries; not those that were flat from the beginning.

    References:
        Glorot and Bengio 2010, section 3; Rakitianskaia and Engelbrecht 2015 (measuring
        saturation).
    """
    guilty = [
        op
        for op in trace.activations
        if op.activation is not None
        and op.activation.function in KNOWN
        and activation(op.activation.function).bounded
        and op.activation.flat_share >= _least(op.activation.function, limits)
        and (op.cause == "recurrence" or op not in trace.gates)
    ]
    cells = _flat_cells(trace, limits)
    guilty = [op for op in guilty if op.cause != "recurrence" or op.module in cells]
    if not guilty:
        return
    worst = max(guilty, key=lambda op: op.activation.flat_share if op.activation else 0.0)
    assert worst.activation is not None
    share = worst.activation.flat_share
    yield Finding(
        code="ACT103",
        name="saturated-activation",
        severity=Severity.ERROR if share >= limits.error_share else Severity.WARNING,
        modules=tuple(dict.fromkeys(op.module for op in guilty)),
        source=guilty[0].source,
        summary=(
            f"{len(guilty)} {worst.activation.function} layer(s) work on their flats:"
            f" {share:.0%} of the entries of {worst.module or 'the worst'}"
            " have no slope to speak of"
        ),
        evidence=(
            Evidence(
                quantity="share of flat entries",
                observed=share,
                limit=limits.flat_share,
                unit="share",
                module=worst.module,
            ),
        ),
        weight=-min(0.0, sum(op.decades for op in guilty)),
        explains=("vanishing-gradient", "collapsed-signal"),
        exculpation="fewer than half of the entries flat",
    )


def _least(function: str, limits: Limits) -> float:
    """Half of a rectifier's entries at zero is its nature, also where it is capped."""
    return limits.error_share if function == "relu6" else limits.flat_share


def _flat_cells(trace: Trace, limits: Limits) -> set[str]:
    """Recurrent modules all of whose activations together are flat: one gate shut is a choice."""
    shares: dict[str, list[float]] = {}
    for op in trace.activations:
        if op.cause == "recurrence" and op.activation is not None:
            shares.setdefault(op.module, []).append(op.activation.flat_share)
    return {m for m, found in shares.items() if sum(found) >= limits.flat_share * len(found)}
