"""NUM221: gradients below what their format can hold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.history import History
from gradmend.registry import Case, limit, rule
from gradmend.theory import windows


@dataclass(frozen=True)
class Limits:
    """When gradients underflow."""

    share: float = limit(
        0.5,
        unit="share",
        source="of a tensor's non-zero entries below the format's smallest normal number, where "
        "digits are lost one by one",
    )
    matrices: float = limit(
        0.25, unit="share", source="of the float16 weight matrices: one layer may be at its minimum"
    )


_NARROW = ("float16", "float8_e5m2", "float8_e4m3fn")


@rule(
    code="NUM221",
    limits=Limits,
    fires_on=[Case.of("half", loss_scale=1e-4)],
    silent_on=[
        Case.of("half", loss_scale=64.0),
        Case.of("sigmoid_stack", depth=12),
        Case.of("rare_embedding"),
        Case.of("coarse"),
    ],
)
def gradient_underflow(history: History, limits: Limits) -> Iterator[Finding]:
    """Half-precision gradients that round to zero, or nearly.

    What it finds:
        Weights in float16 (or float8) most of whose gradient entries lie below the format's
        smallest normal number, 6e-5, or are exactly zero beside such ones.

    Why it matters:
        Below 6e-8 a float16 gradient is zero and the weight is not trained; above it, down from
        6e-5, it has few digits left. Nothing is wrong with the network: a loss scale brings it
        all back.

    How it is measured:
        Share of subnormal entries per tensor over the recent window; tensors that are exactly
        zero count once others are seen to underflow.

    Silent when:
        The format reaches far enough (float32, bfloat16): there so small a gradient has vanished,
        which another rule says; zeros without subnormal numbers beside them, as of rare rows.

    References:
        Micikevicius et al. 2018 (mixed precision training, section 3.2); pytorch/pytorch#40497.
    """
    table = history["gradient"]
    at = windows.matrices(table.columns)
    at = np.array([i for i in at if table.columns[i].dtype in _NARROW], dtype=np.int64)
    if not len(table) or not len(at):
        return
    share = windows.lasting(table, "underflow_share", 0.25)[at]
    low = share >= limits.share
    zero = windows.lasting(table, "state", 0.75)[at] == 1
    guilty = np.flatnonzero(low | zero) if low.any() else np.zeros(0, dtype=np.int64)
    if not len(guilty) or len(guilty) < limits.matrices * len(at):
        return
    first = table.columns[int(at[guilty[0]])]
    worst = float(np.nanmax(share[low]))
    lost = int(np.count_nonzero(zero[guilty]))
    yield Finding(
        code="NUM221",
        name="gradient-underflow",
        severity=Severity.ERROR,
        modules=tuple(dict.fromkeys(table.columns[int(at[i])].module for i in guilty)),
        source=first.source,
        summary=(
            f"{len(guilty)} of {len(at)} {first.dtype} gradients lie at the bottom of their format:"
            f" up to {worst:.0%} of their entries are below its smallest normal number"
            + (f", and {lost} are zero altogether" if lost else "")
            + "; a larger loss scale lifts them"
        ),
        evidence=(
            Evidence(
                quantity="share of entries that underflow",
                observed=worst,
                limit=limits.share,
                unit="share",
                module=first.module,
                step=history.step,
            ),
        ),
        weight=8.0,
        explains=(
            "vanishing-gradient",
            "stalled-layers",
            "loss-plateau",
            "learning-rate-too-low",
            "updates-lost-to-rounding",
            "unsuited-epsilon",
        ),
        exculpation="gradients above the format's smallest normal number",
    )
