"""Traces built by hand, without torch: a plain chain of any depth, to be changed at will."""

from dataclasses import replace
from typing import Any

from gradmend.records.ledger import Ledger
from gradmend.records.stats import Stats
from gradmend.records.trace import (
    ActivationFacts,
    Input,
    Operation,
    Parameter,
    Run,
    Signal,
    Trace,
    WeightFacts,
)  # fmt: skip


def signal(spread: float = 1.0, **changes: Any) -> Signal:
    base = Signal(
        mean_square=2.0, offset_square=1.0, spread_square=spread, mean=0.1, max_abs=3.0, units=8,
        samples=32,
    )  # fmt: skip
    return replace(base, **changes)


def stats(rms: float = 1.0, count: int = 1000) -> Stats:
    return Stats(
        count=count, total=0.0, sum_of_squares=rms**2 * count, max_abs=3 * rms, min_abs_nonzero=0.1
    )


def weights(name: str = "0", gain: float = 1.0, **changes: Any) -> WeightFacts:
    base = WeightFacts(
        parameter=f"{name}.weight", kind="linear", shape=(8, 8), fan_in=8, fan_out=8,
        mean_square=gain**2 / 8, bias=f"{name}.bias", module_is_plain=True,
    )  # fmt: skip
    return replace(base, **changes)


SLOPES = {"sigmoid": 0.25, "tanh": 1.0, "relu": 1.0, "hardsigmoid": 1 / 6, "softplus": 1.0}


def activation(function: str = "tanh", **changes: Any) -> ActivationFacts:
    base = ActivationFacts(
        function=function, slope_rms=0.2, slope_max=SLOPES.get(function, 1.0), flat_share=0.0,
        dead_units=0, units=100, samples=32, steepest_slope=SLOPES.get(function),
        replaceable=True,
    )  # fmt: skip
    return replace(base, **changes)


def chain(
    depth: int = 4,
    function: str = "tanh",
    *,
    gain: float = 1.3,
    total: float | None = -1.0,
    act_decades: float = 0.0,
    weight_decades: float = 0.0,
    signal_lost: float = 0.0,
    names: str = "{}",
    facts: dict[str, Any] | None = None,
    input_rms: float = 1.0,
) -> Trace:
    """``depth`` pairs of a linear layer and an activation, then a linear head."""
    ops: list[Operation] = []
    last = depth * 2
    for number in range(depth * 2 + 1):
        name = names.format(number)
        is_act = number % 2 == 1
        ops.append(
            Operation(
                id=number,
                name=function if is_act else "linear",
                cause="activation-derivative" if is_act else "weights",
                module=name,
                upstream=(number - 1,) if number else (),
                decades=(act_decades if is_act else weight_decades) / max(1, depth),
                share=1.0,
                signal=signal(10.0 ** (-2 * signal_lost * number / last) if last else 1.0),
                activation=activation(function, **(facts or {})) if is_act else None,
                weights=None if is_act else weights(name, gain),
            )
        )
    return Trace(
        run=Run(model="ByHand", optimizer="Adam", learning_rate=1e-3, batch_size=32),
        operations=tuple(ops),
        parameters=tuple(
            Parameter(name=f"{op.module}.weight", shape=(8, 8), trainable=True, reached=True,
                      log10_grad=0.0, exact_zero=False, stats=stats(), module=op.module)
            for op in ops if op.weights
        ),
        inputs=(Input(name="input", shape=(32, 8), dtype="float32", floating=True,
                      stats=stats(input_rms), reader=names.format(0)),),
        ledger=ledger(total),
    )  # fmt: skip


def ledger(total: float | None = -1.0, **changes: Any) -> Ledger:
    base = Ledger(cotangent="loss", total_decades=total, unexplained_decades=0.0, root=None)
    return replace(base, **changes)
