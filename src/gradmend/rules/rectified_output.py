"""ACT105: a rectifier behind the last layer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.history import History
from gradmend.records.trace import Operation, Trace
from gradmend.registry import Case, limit, rule
from gradmend.theory import windows
from gradmend.theory.targets import firsts, last_linear
from gradmend.theory.wiring import loss_tails

RECTIFIERS = frozenset({"relu", "relu6", "threshold"})
_LOGITS = frozenset({"log_softmax", "cross_entropy", "binary_cross_entropy_with_logits"})


@dataclass(frozen=True)
class Limits:
    """When a rectified output is dead."""

    dead_share: float = limit(
        0.1,
        unit="share",
        source="of the outputs off on every sample: our choice; a tenth of the outputs can never "
        "be anything but zero",
    )
    samples: float = limit(
        16, unit="samples", source="as in dead-relu: fewer cannot tell off from off just now"
    )
    silent_share: float = limit(
        0.999, unit="share", source="of the outputs exactly zero, step after step, as in dead-relu"
    )


def _live(history: History, limits: Limits) -> Iterator[Finding]:
    before_logits = _reads_a_rectifier(history)
    if before_logits is None:
        return
    below = any(call.target.low < 0.0 for call in firsts(history))
    table = history["output"]
    at = [
        i
        for i, c in enumerate(table.columns)
        if c.kind.lower().rstrip("_") in RECTIFIERS and c.order >= 0
    ]
    zeros = dead = float("nan")
    module, source = "", None
    if at:
        last = max(at, key=lambda i: table.columns[i].order)
        later = [c for c in table.columns if c.order > table.columns[last].order]
        if not any(c.kind in ("Linear", "Conv1d", "Conv2d", "Conv3d") for c in later):
            zeros = float(windows.lasting(table, "zero_share", 0.25)[last])
            dead = float(windows.lasting(table, "dead_share", 0.25)[last])
            module, source = table.columns[last].module, table.columns[last].source
    modules = tuple(name for name in dict.fromkeys((module, *last_linear(history))) if name)
    stuck = windows.learned(history) is False
    if zeros >= limits.silent_share:
        yield _finding(modules, source, 1.0, limits, before_logits, history.step)
    elif below or before_logits or (stuck and dead >= limits.dead_share):
        share = dead if dead >= limits.dead_share else 0.0
        yield _finding(
            modules, source, share, limits, before_logits, history.step,
            below=below and not before_logits,
        )  # fmt: skip


def _reads_a_rectifier(history: History) -> bool | None:
    """Whether a softmax or sigmoid of the loss reads a rectified layer; ``None`` if none does."""
    for tail in loss_tails(history):
        for reader, read in tail.pairs():
            if read.op not in RECTIFIERS:
                continue
            place = tail.operations.index(read)
            if any(tail.operations[n].parameters for n in tail.reads(place)):
                return reader.op in _LOGITS
    return None


def _finding(
    modules: tuple[str, ...],
    source: str | None,
    dead: float,
    limits: Limits,
    before_logits: bool,
    step: int,
    function: str = "relu",
    *,
    below: bool = False,
) -> Finding:
    if dead >= 0.999:
        what = "every output is zero on every sample, and no gradient comes back through it"
    elif dead > 0.0:
        what = f"{dead:.0%} of the outputs are zero on every sample and get no gradient"
    elif below:
        what = "targets below zero can never be reached"
    else:
        what = "half of what the last layer says is cut off before the loss reads it"
    cure = "hand the loss the logits" if before_logits else "leave it out"
    return Finding(
        code="ACT105",
        name="rectified-output",
        severity=Severity.ERROR if dead >= 0.5 else Severity.WARNING,
        modules=modules,
        source=source,
        summary=f"the model's output passes a {function}, and {what}: {cure}",
        evidence=(
            Evidence(
                quantity="share of dead outputs",
                observed=dead,
                limit=limits.dead_share,
                unit="share",
                module=modules[0] if modules else None,
                step=step,
            ),
        ),
        weight=20.0 + 10.0 * dead,
        explains=(
            "dead-relu",
            "vanishing-gradient",
            "collapsed-signal",
            "stalled-layers",
            "loss-plateau",
            "loss-unfit-for-target",
            "output-range-unfit-for-target",
            "clamped-loss",
            "bounded-logits",
            "learning-rate-too-low",
            "gradient-underflow",
        ),
        exculpation="outputs that are alive, read by a loss of numbers that are never negative",
    )


@rule(
    code="ACT105",
    limits=Limits,
    fires_on=[
        Case.of("regressor", output="relu", offset=-4.0),
        Case.of("regressor", output="relu", offset=-4.0, handmade=True),
        Case.of("rectified_logits"),
    ],
    silent_on=[
        Case.of("regressor"),
        Case.of("regressor", output="relu", offset=2.0, targets="positive"),
        Case.of("regressor", output="softplus", targets="positive"),
        Case.of("rectified_logits", pooled=True),
        Case.of("mlp", depth=4, activation="relu", bad_layer=1, bad_bias=-30.0),
        Case.of("mlp"),
    ],
    live=_live,
    live_fires_on=[Case.of("bounded_regression", output="relu", offset=-4.0)],
    live_silent_on=[
        Case.of("regression"),
        Case.of("bounded_regression", output="relu", offset=2.0, targets="positive"),
        Case.of("huge_step"),
        Case.of("perceptron"),
    ],
)
def rectified_output(trace: Trace, limits: Limits) -> Iterator[Finding]:
    """ReLU behind the last layer, so that outputs are zero or cannot be negative.

    What it finds:
        Models whose last linear layer is followed by a rectifier: outputs that are off on every
        sample, or logits that a softmax or sigmoid of the loss reads afterwards.

    Why it matters:
        An output that is off has slope zero: a regression answers 0 for ever, and nothing at all
        gets a gradient. Of logits a ReLU takes the half that says no.

    How it is measured:
        A rectifier that reads a linear map and that no other linear map reads, its slope zero on
        all samples, or targets below zero; in a run, its outputs all zero step after step.

    Silent when:
        The outputs are alive and targets may be positive by nature; the rectifier belongs to the
        loss (a hinge); layers or a pooling follow it; a layer before it is dead already.

    References:
        keras-team/keras#3752 (a regression that always predicts 0); fault benchmarks swap the last
        activation: DeepFD (Cao et al. 2022), DeepDiagnosis (Wardat et al. 2022).
    """
    for op in trace.activations:
        facts = op.activation
        assert facts is not None
        if facts.function not in RECTIFIERS or not facts.units:
            continue
        if not op.share > 0.99 and not _is_dead(op):  # behind a dead one there are no shares
            continue
        sources = [trace.operations[at] for at in op.upstream]
        if len(sources) != 1 or sources[0].weights is None:
            continue
        after = _behind(trace, op)
        if any(o.weights is not None or o.cause == "products" for o in after):
            continue
        if any(_is_dead(o) for o in trace.activations if o.id < op.id):
            continue
        direct = [trace.operations[at] for at in trace.readers.get(op.id, ())]
        logits = bool(direct) and all(o.name in _LOGITS for o in direct)
        dead = facts.dead_share if facts.samples >= limits.samples else 0.0
        below = any(call.target.low < 0.0 for call in trace.losses)
        if dead < limits.dead_share and not logits and not below:
            continue
        yield _finding(
            tuple(dict.fromkeys((op.module or sources[0].module, sources[0].module))),
            op.source,
            dead if dead >= limits.dead_share else 0.0,
            limits,
            logits,
            trace.run.step,
            facts.function,
            below=below and not logits,
        )
        return


def _behind(trace: Trace, op: Operation) -> list[Operation]:
    """Every operation that reads this one's output, directly or not."""
    found: list[Operation] = []
    todo, seen = list(trace.readers.get(op.id, ())), {op.id}
    while todo:
        at = todo.pop()
        if at not in seen:
            seen.add(at)
            found.append(trace.operations[at])
            if trace.operations[at].weights is not None:
                return found
            todo.extend(trace.readers.get(at, ()))
    return found


def _is_dead(op: Operation) -> bool:
    facts = op.activation
    return facts is not None and facts.units > 0 and facts.dead_units == facts.units
