"""Traces built by hand of networks that begin, or are put together, in odd ways."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from traces import activation, chain, ledger, signal, stats, weights

from gradmend.records.loss_call import LossCall, Values
from gradmend.records.request import Answer, Measurement
from gradmend.records.trace import Operation, Trace


def answered(trace: Trace, later: Trace, losses: tuple[float, ...] = (1.0,) * 24) -> Trace:
    answer = Answer(measurement=Measurement.FEW_STEPS, trace=later, losses=losses)
    return replace(trace, answers=(answer,))


def begun_at_zero(*, moves: bool = False, zero: tuple[int, ...] = (1,)) -> Trace:
    """A chain in which some parameters are zero, with or without a gradient."""
    trace = chain(3)
    parameters = list(trace.parameters)
    for at in zero:
        parameters[at] = replace(
            parameters[at],
            stats=replace(stats(0.0), sum_of_squares=0.0, max_abs=0.0, zeros=1000),
            exact_zero=not moves,
            log10_grad=0.0 if moves else None,
        )
    return replace(trace, parameters=tuple(parameters))


def alike(units: float = 0.0, readers: float = 0.0, bias: float = 0.0) -> Trace:
    trace = chain(3)
    ops = list(trace.operations)
    ops[2] = replace(
        ops[2], weights=weights("2", unit_spread=units, bias_mean_square=bias, mean_square=0.1)
    )
    ops[4] = replace(ops[4], weights=weights("4", unit_spread=1.0, reader_spread=readers))
    return replace(trace, operations=tuple(ops))


def normed(count: int = 40, per_norm: float = 0.083, **changes: Any) -> Trace:
    """Linear, batch norm, ReLU, ``count`` times."""
    ops: list[Operation] = []
    for number in range(count):
        for name, cause in (
            ("linear", "weights"), ("batch_norm", "normalisation"), ("relu", "activation"),
        ):  # fmt: skip
            at = len(ops)
            ops.append(
                Operation(
                    id=at, name=name, cause=cause, module=f"{number}.{name}",
                    upstream=(at - 1,) if at else (), share=1.0,
                    decades=per_norm if name == "batch_norm" else 0.0,
                    weights=weights(f"{number}") if name == "linear" else None,
                    activation=activation("relu") if name == "relu" else None,
                )
            )  # fmt: skip
    return replace(chain(), operations=tuple(ops), **changes)


def streamed(
    growth: float = 0.15, blocks: int = 16, *, normed_after: bool = False, law: str = "geometric"
) -> Trace:
    """A stem, and sums of the stream with a branch each."""
    ops = [Operation(id=0, name="linear", cause="weights", module="stem", share=1.0,
                     weights=weights("stem"))]  # fmt: skip
    at_stream = 0
    for number in range(blocks):
        branch, at = len(ops), len(ops) + 1
        size = growth * number if law == "geometric" else 0.5 * math.log10(number + 1)
        ops.append(Operation(id=branch, name="linear", cause="weights", share=0.5,
                             module=f"blocks.{number}.fc", upstream=(at_stream,),
                             weights=weights(f"{number}")))  # fmt: skip
        ops.append(Operation(id=at, name="add", cause="joins", share=1.0,
                             module=f"blocks.{number}", upstream=(at_stream, branch),
                             signal=signal(mean_square=10.0 ** (2 * size))))  # fmt: skip
        at_stream = at
    if normed_after:
        ops.append(Operation(id=len(ops), name="layer_norm", cause="normalisation", share=1.0,
                             module="norm", upstream=(at_stream,)))  # fmt: skip
    return replace(chain(), operations=tuple(ops))


def post_norm(
    norms: int = 16, total: float | None = -0.5, step: int = 0, share: float = 1.0
) -> Trace:
    ops = [Operation(id=0, name="linear", cause="weights", module="embed", share=1.0)]
    for number in range(norms):
        at = len(ops)
        ops.append(Operation(id=at, name="add", cause="joins", module="", share=1.0,
                             upstream=(at - 1, at - 1)))  # fmt: skip
        ops.append(Operation(id=at + 1, name="layer_norm", cause="normalisation", share=share,
                             module=f"norm{number}", upstream=(at,)))  # fmt: skip
    trace = chain()
    return replace(
        trace, operations=tuple(ops), ledger=ledger(total), run=replace(trace.run, step=step)
    )


def rectified(dead: int = 100, samples: int = 32, low: float = math.nan) -> Trace:
    trace = chain(2, "relu")
    last = len(trace.operations)
    out = Operation(
        id=last, name="relu", cause="activation-derivative", module="out", share=1.0,
        upstream=(last - 1,), activation=activation("relu", dead_units=dead, samples=samples),
    )  # fmt: skip
    calls = (LossCall(function="mse_loss", target=Values(low=low)),)
    return replace(trace, operations=(*trace.operations, out), losses=calls)


E = 1e-6
LIMITS: dict[str, tuple[str, Callable[[float], Trace], float, int]] = {
    "zero, steps": (
        "zero-initialisation",
        lambda d: replace(begun_at_zero(), run=replace(chain().run, step=2 + int(d + 0.5))), 1, 1,
    ),
    "alike, begun": ("symmetric-initialisation", lambda d: alike(units=1e-6 - d), 1e-9, 1),
    "alike, kept": (
        "symmetric-initialisation",
        lambda d: answered(alike(bias=1.0), alike(units=1e-3 - d)), E, 1,
    ),
    "norms, decades": ("batch-norm-explosion", lambda d: normed(41, (2.5 + d) / 40), E, 1),
    "norms, each": ("batch-norm-explosion", lambda d: normed(101, 0.04 + d), E, 1),
    "stream, decades": ("residual-growth", lambda d: streamed((1.2 + d) / 16, 17), E, 1),
    "stream, each": ("residual-growth", lambda d: streamed(0.04 + d, 41), E, 1),
    "stream, at most": ("residual-growth", lambda d: streamed(0.4 - d, 9), E, 1),
    "post-norm, decades": (
        "post-norm-without-warm-up", lambda d: post_norm(total=-4.0 - d, step=9), E, 1,
    ),
    "post-norm, norms": (
        "post-norm-without-warm-up", lambda d: post_norm(7 + int(d), total=-9.0), 1, 1,
    ),
    "rectified, dead": ("rectified-output", lambda d: rectified(10 + int(d)), 1, 1),
    "rectified, samples": ("rectified-output", lambda d: rectified(samples=16 + int(d)), 1, 1),
}  # fmt: skip
"""As in test_traces.py: (rule, trace at a distance from the limit, distance, side that fires)."""
