"""GRF103: the opposite symptom."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.history import History
from gradmend.records.trace import Trace
from gradmend.registry import Case, limit, rule
from gradmend.theory import windows


@dataclass(frozen=True)
class Limits:
    """When a gradient has exploded."""

    decades: float = limit(
        4.0,
        unit="decades",
        source="a gradient 10,000 times larger at one end of the model than at the other; "
        "AutoTrainer's ratio of 70 flags healthy nets",
    )
    growth: float = limit(
        2.0,
        unit="decades",
        source="a norm 100 times that of the run's own beginning while the loss has not fallen: "
        "chosen on our trainings, whose healthy ones stay below 1",
    )


def _live(history: History, limits: Limits) -> Iterator[Finding]:
    by_layer = _profile(history, limits)
    if by_layer is not None:
        yield by_layer
    elif windows.learned(history) is False:
        yield from _grown(history, limits)


def _profile(history: History, limits: Limits) -> Finding | None:
    """First layers against last, by the weights' gradients and by the outputs'.

    Where activations grow as much as gradients do, all the weights' are equally large.
    """
    table = history["gradient"]
    at = windows.matrices(table.columns)
    optimizers = {table.columns[i].facts.get("optimizer") for i in at}
    parts = [(table, "log10_rms", windows.of_optimizer(table.columns, at, o)) for o in optimizers]
    if len(optimizers) == 1:
        outputs = history["output"]
        order = sorted(range(len(outputs.columns)), key=lambda i: outputs.columns[i].order)
        parts.append((outputs, "log10_grad", np.array(order, dtype=np.int64)))
    for source, quantity, which in parts:
        # The last layers lie decades below the first: the vanishing profile from the other end.
        upper = windows.lasting(source, quantity, 0.75)[which][::-1]
        lower = windows.lasting(source, quantity, 0.25)[which][::-1]
        layers, decades = windows.lost_prefix(upper, lower, limits.decades)
        if not layers:
            continue
        later = np.where(np.isnan(lower[layers:]), -np.inf, lower[layers:])
        largest = source.columns[int(which[::-1][layers + int(np.argmax(later))])]
        return _finding(
            history,
            f"the gradient of {largest.name} stays {decades:.1f} decades above that of the last"
            " layers",
            decades,
            limits.decades,
            (largest.module,),
            largest.source,
        )
    return None


def _grown(history: History, limits: Limits) -> Iterator[Finding]:
    table = history["step"]
    for quantity in ("log10_raw_norm", "log10_norm"):
        now, begin = windows.lasting(table, quantity, 0.25), windows.early(table, quantity)
        known = np.isfinite(now) & np.isfinite(begin)
        gained = np.where(known, now, 0.0) - np.where(known, begin, 0.0)
        for column in np.flatnonzero(gained >= limits.growth):
            yield _finding(
                history,
                f"the gradient's norm has grown by {gained[column]:.1f} decades since the run's"
                " beginning, and the loss has not fallen",
                float(gained[column]),
                limits.growth,
            )
            return


def _finding(
    history: History,
    summary: str,
    decades: float,
    limit: float,
    modules: tuple[str, ...] = (),
    source: str | None = None,
) -> Finding:
    return Finding(
        code="GRF103",
        name="exploding-gradient",
        severity=Severity.ERROR,
        modules=modules,
        source=source,
        summary=summary,
        evidence=(
            Evidence(
                quantity="decades gained",
                observed=decades,
                limit=limit,
                unit="decades",
                step=history.step,
            ),
        ),
        weight=decades,
        explains=("diverging-loss", "loss-plateau"),
        exculpation="less growth",
        symptom=True,
    )


@rule(
    code="GRF103",
    limits=Limits,
    fires_on=[Case.of("mlp", depth=20, activation="relu", init="normal", gain=3.0)],
    silent_on=[
        Case.of("mlp", depth=3),
        Case.of("transformer"),
        Case.of("residual_mlp"),
        Case.of("mlp", depth=24, activation="relu", init="normal", gain=1.414),
    ],
    live=_live,
    live_fires_on=[Case.of("relu_stack", gain=10.0)],
    live_silent_on=[
        Case.of("relu_stack"),
        Case.of("perceptron"),
        Case.of("rezero"),
    ],
)
def exploding_gradient(trace: Trace, limits: Limits) -> Iterator[Finding]:
    """Gradient that grows between the outputs and the inputs.

    What it finds:
        Models whose gradient at the inputs is more than four decades larger than at the outputs.
        A symptom: it ranks below every cause that explains it.

    Why it matters:
        A learning rate small enough for the first layers moves none of the last, and one step at
        the usual rate destroys the first.

    How it is measured:
        The ledger's total, relative to the model's own outputs. Over a run: the weight matrices'
        gradients over the recent window, first layers against last, and the whole norm against
        that of the run's beginning while the loss has not fallen.

    Silent when:
        The growth is smaller than that; a norm that grows while the loss falls, as when zero
        initial branches open.

    References:
        Bengio, Simard, Frasconi 1994; Pascanu, Mikolov, Bengio 2013; Hanin 2018.
    """
    total = trace.total_decades
    if total is None or not total >= limits.decades:  # NaN convicts nobody
        return
    yield Finding(
        code="GRF103",
        name="exploding-gradient",
        severity=Severity.ERROR,
        modules=(),
        summary=f"the gradient grows by {total:.1f} decades on its way back",
        evidence=(
            Evidence(
                quantity="decades gained", observed=total, limit=limits.decades, unit="decades"
            ),
        ),
        weight=total,
        exculpation="less growth",
        symptom=True,
    )
