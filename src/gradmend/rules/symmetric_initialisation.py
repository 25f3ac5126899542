"""INI104: units that begin alike and stay alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.request import Measurement, Request
from gradmend.records.trace import Operation, Trace
from gradmend.registry import Case, limit, rule


@dataclass(frozen=True)
class Limits:
    """When units are alike."""

    begun: float = limit(
        1e-6,
        unit="1",
        source="rms difference between units over their size: equal numbers in float32; a random "
        "initialisation has 1",
    )
    kept: float = limit(
        1e-3,
        unit="1",
        source="the same after a few steps: sums in another order leave 1e-7 a step, one step of "
        "Adam in different directions 1",
    )
    steps: float = limit(
        8.0,
        unit="steps",
        source="our choice: units that are still alike then have had the same gradient eight times",
    )


def _finding(modules: tuple[str, ...], source: str | None, summary: str, step: int) -> Finding:
    return Finding(
        code="INI104",
        name="symmetric-initialisation",
        severity=Severity.ERROR,
        modules=modules,
        source=source,
        summary=summary,
        evidence=(
            Evidence(
                quantity="layers whose units are all alike",
                observed=float(len(modules)),
                limit=0.0,
                unit="layers",
                module=modules[0] if modules else None,
                step=step,
            ),
        ),
        weight=900.0,
        explains=(
            "vanishing-gradient",
            "exploding-gradient",
            "collapsed-signal",
            "init-gain-too-small",
            "init-gain-too-large",
            "depth-without-skip",
            "gain-unlike-theory",
            "uncentred-activation",
            "attenuating-activation",
            "saturated-activation",
            "dead-relu",
            "stalled-layers",
            "loss-plateau",
            "learning-rate-too-low",
            "learning-rate-too-high",
            "oscillating-loss",
            "diverging-loss",
        ),
        exculpation="units that come to differ within the first steps",
    )


@rule(
    code="INI104",
    limits=Limits,
    fires_on=[
        Case.of("begun", init="constant"),
        Case.of("begun", init="constant", activation="tanh", depth=2),
        Case.of("begun", init="constant", convolutional=True),
    ],
    silent_on=[
        Case.of("begun"),
        Case.of("begun", init="zero head"),
        Case.of("begun", init="constant layer"),
        Case.of("begun", init="constant", dropout=0.5),
        Case.of("begun", init="zeros"),
        Case.of("residual_stack", init="fixup"),
    ],
)
def symmetric_initialisation(trace: Trace, limits: Limits) -> Iterator[Finding | Request]:
    """Units of a layer that begin alike, get the same gradient, and so stay alike.

    What it finds:
        Layers initialised with a constant (ones, 0.5, a row repeated), read by layers that do not
        tell their units apart either.

    Why it matters:
        Equal units with equal gradients make equal steps, for ever: a layer of 512 units computes
        what one unit would. The loss falls a little, to what the classes' frequencies give, and
        stays there; the gradients look healthy.

    How it is measured:
        Rms difference between the units' weights over their size, in the layer and over the
        inputs of the layers that read it. Where that does not decide, a few steps are taken and
        the units are compared again.

    Silent when:
        The units come apart: another layer reads them differently, dropout or biases tell them
        apart, it is a zero head. Single units, groups that read different channels, gains and
        biases of norms, frozen layers.

    References:
        Goodfellow, Bengio, Courville 2016, section 8.4 (breaking symmetry); TheDeepChecker (Ben
        Braiek and Khomh 2022) checks for it before training.
    """
    told = trace.run.step >= limits.steps
    alike = [op for op in trace.weights if _alike(op, limits.kept if told else limits.begun)]
    if not alike:
        return
    answer = trace.answer(Measurement.FEW_STEPS)
    when = ""
    if told:
        guilty, when = alike, f" after {trace.run.step} steps"
    elif answer is not None and len(answer.losses) >= limits.steps:
        later = {
            op.weights.parameter: op.weights.unit_spread
            for op in answer.trace.weights
            if op.weights is not None and op.weights.unit_spread is not None
        }
        guilty = [
            op for op in alike if op.weights and later.get(op.weights.parameter, 1.0) <= limits.kept
        ]
        when = f" after {len(answer.losses)} steps"
    else:
        guilty = [op for op in alike if _read_alike(trace, op, limits)]
        open_ = [op for op in alike if op not in guilty and trace.readers.get(op.id)]
        if not guilty and any(_next_weights(trace, op)[0] for op in open_):
            yield Request(
                code="INI104",
                name="symmetric-initialisation",
                measurement=Measurement.FEW_STEPS,
                why=f"whether the equal units of {open_[0].module or 'the model'} come to differ",
            )
    if not guilty:
        return
    first = guilty[0]
    assert first.weights is not None
    units = first.weights.fan_out
    modules = tuple(dict.fromkeys(op.module for op in guilty))
    summary = (
        f"the {units} units of {first.module or 'the model'} have the same weights and get the same"
        f" gradient{', still' + when if when else ''}"
        + (f"; so in {len(modules)} layers" if len(modules) > 1 else "")
        + ": each layer is as good as one unit; initialise at random"
    )
    yield _finding(modules, first.source, summary, trace.run.step)


def _alike(op: Operation, limit: float) -> bool:
    facts = op.weights
    if facts is None or facts.unit_spread is None or not facts.trainable:
        return False
    return facts.mean_square > 0 and facts.unit_spread <= limit


def _next_weights(trace: Trace, op: Operation) -> tuple[list[Operation], bool]:
    """The linear maps that read a layer next, and whether nothing between tells units apart."""
    found: list[Operation] = []
    todo, seen, plain = list(trace.readers.get(op.id, ())), {op.id}, True
    while todo:
        at = todo.pop()
        if at in seen:
            continue
        seen.add(at)
        reader = trace.operations[at]
        if reader.weights is not None:
            found.append(reader)
            continue
        if reader.cause in ("dropout", "joins", "products", "recurrence", "attention-softmax"):
            plain = False
        todo.extend(trace.readers.get(at, ()))
    return found, plain


def _read_alike(trace: Trace, op: Operation, limits: Limits) -> bool:
    """Whether everything behind a layer treats its units alike, so that nothing parts them."""
    facts = op.weights
    if facts is None or facts.bias_mean_square != 0.0:
        return False
    readers, plain = _next_weights(trace, op)
    return (
        plain
        and bool(readers)
        and all(
            r.weights is not None
            and r.weights.reader_spread is not None
            and r.weights.reader_spread <= limits.begun
            for r in readers
        )
    )
