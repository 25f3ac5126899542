"""INI103: weights that begin at zero and stay there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.history import History
from gradmend.records.request import Measurement, Request
from gradmend.records.trace import Parameter, Trace
from gradmend.registry import Case, limit, rule

ZERO = 1
"""Code of the gradient table's ``state``: exactly zero."""


@dataclass(frozen=True)
class Limits:
    """When a weight of zero will not move."""

    steps: float = limit(
        3.0,
        unit="steps",
        source="derivation: a zero factor moves at the first step in which the other factor does; "
        "a zero classifier behind zero branches (Fixup) needs two",
    )
    alike: float = limit(
        1e-3,
        unit="1",
        source="rms difference between units over their size: rounding in float32 leaves 1e-7, one "
        "step of Adam in different directions 1",
    )


def _live(history: History, limits: Limits) -> Iterator[Finding]:
    gradients, updates = history["gradient"], history["update"]
    if len(gradients.columns) != len(updates.columns) or not len(gradients) or not len(updates):
        return
    state, sizes = gradients["state"], updates["log10_weight"]
    known = ~np.isnan(state)
    # FEWEST rows are for statistics; exact zeros at a handful of steps are no chance.
    enough = np.count_nonzero(known, axis=0) > limits.steps
    enough &= np.count_nonzero(~np.isnan(sizes), axis=0) > 1
    still = enough & np.all((state == ZERO) | ~known, axis=0)
    still &= np.all(np.isneginf(sizes) | np.isnan(sizes), axis=0)
    columns = gradients.columns
    mine = [
        at
        for at, column in enumerate(columns)
        if len(column.shape) > 1
        and column.facts.get("trainable", True)
        and column.facts.get("optimizer") is not None
    ]
    stuck = [at for at in mine if still[at]]
    if not stuck:
        return
    # Layers that are not zero, and get no gradient because these are.
    without = [at for at in mine if enough[at] and np.all((state[:, at] == ZERO) | ~known[:, at])]
    cut = [at for at in without if at not in stuck]
    yield _finding(
        names=[columns[at].name for at in stuck],
        modules=tuple(dict.fromkeys(columns[at].module for at in stuck)),
        source=columns[stuck[0]].source,
        severity=Severity.ERROR if cut or len(without) == len(mine) else Severity.WARNING,
        cut=len(cut),
        when=f"after {int(gradients.steps[-1]) + 1} steps",
        step=history.step,
    )


def _finding(
    *,
    names: list[str],
    modules: tuple[str, ...],
    source: str | None,
    severity: Severity,
    cut: int,
    when: str,
    step: int,
    alike: bool = False,
) -> Finding:
    more = f" and {len(names) - 1} more weights are" if len(names) > 1 else " is"
    what = "all of its units are alike" if alike else "its gradient is exactly zero"
    others = f", and so is that of {cut} other weights" if cut and not alike else ""
    return Finding(
        code="INI103",
        name="zero-initialisation",
        severity=severity,
        modules=modules,
        source=source,
        summary=(
            f"{names[0]}{more} initialised to zero, and {when} {what}{others}: of two factors that"
            " are multiplied only one may begin at zero"
        ),
        evidence=(
            Evidence(
                quantity="weights of zero that nothing moves",
                observed=float(len(names)),
                limit=0.0,
                unit="weights",
                module=modules[0] if modules else None,
                step=step,
            ),
        ),
        weight=1000.0,
        explains=(
            "symmetric-initialisation",
            "dead-relu",
            "vanishing-gradient",
            "collapsed-signal",
            "init-gain-too-small",
            "depth-without-skip",
            "gain-unlike-theory",
            "stalled-layers",
            "loss-plateau",
            "weight-collapse",
            "learning-rate-too-low",
            "gradient-underflow",
            "non-differentiable-operation",
        ),
        exculpation="a gradient that is not zero within the first steps",
    )


@rule(
    code="INI103",
    limits=Limits,
    fires_on=[
        Case.of("begun", init="zeros"),
        Case.of("begun", init="zeros", activation="tanh", depth=2),
        Case.of("begun", init="zeros", convolutional=True),
    ],
    silent_on=[
        Case.of("begun"),
        Case.of("begun", init="zero head"),
        Case.of("begun", init="constant"),
        Case.of("adapter", zero="second"),
        Case.of("residual_stack", init="fixup"),
        Case.of("residual_stack", init="rezero"),
        Case.of("mlp", depth=4, activation="relu", bad_layer=1, bad_bias=-30.0),
    ],
    live=_live,
    live_fires_on=[
        Case.of("begun_training", init="zeros"),
        Case.of("begun_training", init="zero layer"),
    ],
    live_silent_on=[
        Case.of("begun_training"),
        Case.of("begun_training", init="zero head"),
        Case.of("fixup"),
        Case.of("low_rank_adapter"),
        Case.of("rezero"),
    ],
)
def zero_initialisation(trace: Trace, limits: Limits) -> Iterator[Finding | Request]:
    """Weights that are all zero and get a gradient of exactly zero, step after step.

    What it finds:
        Weight matrices and kernels that begin at zero, where what they are multiplied with is zero
        too: a whole network set to zero, a zero layer in front of a ReLU, both factors of an
        adapter.

    Why it matters:
        The gradient of a product's factor is the other factor. Where both are zero neither ever
        moves, at any learning rate; and no gradient passes to the layers before them. Under a
        sigmoid the weights do move, but all units of a layer alike, so that a layer is one unit.

    How it is measured:
        Weights without a single entry that is not zero and whose gradient is exactly zero; where
        that may be the first step's alone, a few steps are taken and they are looked at again.
        In a run: the same in every row.

    Silent when:
        One factor moves: LoRA's B, a last layer, branch or gain that begins at zero (Fixup,
        ReZero, zero-gamma), biases. Also while no step was taken that could tell.

    References:
        Fixup (Zhang, Dauphin, Ma 2019), LoRA (Hu et al. 2021): one factor of two is zero;
        LAVT-RIS#25 (both were). Goodfellow, Bengio, Courville 2016, section 8.4.
    """
    matrices = [p for p in trace.parameters if p.trainable and p.reached and len(p.shape) > 1]
    zero = [p for p in matrices if _is_zero(p)]
    stuck = [p for p in zero if p.exact_zero]
    if not stuck:
        return
    without = [p for p in matrices if p.exact_zero]
    when, alike = "", False
    answer = trace.answer(Measurement.FEW_STEPS)
    if trace.run.step >= limits.steps:
        when = f"after {trace.run.step} steps"
    elif answer is not None and len(answer.losses) >= limits.steps:
        when = f"after {len(answer.losses)} steps"
        later = {p.name: p for p in answer.trace.parameters}
        stuck = [p for p in stuck if p.name in later and _is_zero(later[p.name])]
        without = [p for p in without if p.name in later and later[p.name].exact_zero]
        if not stuck:
            units = {
                op.weights.parameter: op.weights.unit_spread
                for op in answer.trace.weights
                if op.weights is not None and op.weights.unit_spread is not None
            }
            stuck = [p for p in zero if units.get(p.name, 1.0) <= limits.alike]
            alike = True
            if not stuck:
                return
    elif len(without) == len(matrices) > 1 and len(zero) > 1:
        when = "now"  # no weight moves, so nothing that it is multiplied with does
    else:
        yield Request(
            code="INI103",
            name="zero-initialisation",
            measurement=Measurement.FEW_STEPS,
            why=f"whether {stuck[0].name}, which is zero, ever moves",
        )
        return
    cut = [p for p in without if not _is_zero(p)]
    grave = alike or bool(cut) or len(without) == len(matrices)
    yield _finding(
        names=[p.name for p in stuck],
        modules=tuple(dict.fromkeys(p.module for p in stuck)),
        source=next((op.source for op in trace.operations if op.module == stuck[0].module), None),
        severity=Severity.ERROR if grave else Severity.WARNING,
        cut=len(cut),
        when=when,
        step=trace.run.step,
        alike=alike,
    )


def _is_zero(parameter: Parameter) -> bool:
    stats = parameter.stats
    return stats.count > 0 and stats.zeros == stats.count
