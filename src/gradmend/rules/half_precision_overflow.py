"""NUM102: a number above 65504 in float16."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gradmend.records.badvalue import BadValue
from gradmend.records.finding import Finding
from gradmend.records.history import Event, History
from gradmend.records.trace import Trace
from gradmend.registry import Case, limit, rule
from gradmend.theory import badvalues

NAME = "half-precision-overflow"


@dataclass(frozen=True)
class Limits:
    """Where float16 ends."""

    largest: float = limit(65504.0, unit="1", source="the largest number of IEEE 754 binary16")


def _live(history: History, limits: Limits) -> Iterator[Finding]:
    for event, bad, present in badvalues.of_run(history, NAME):
        yield _finding(bad, limits, event, present)


def _finding(
    bad: BadValue, limits: Limits, event: Event | None = None, present: bool = True
) -> Finding:
    wide = bad.wide_largest
    size = f": {wide:.5g} in a wider format, and" if wide is not None else ", and"
    what = "the gradient at " if bad.direction == "backward" else ""
    return badvalues.found(
        bad,
        code="NUM102",
        name=NAME,
        summary=(
            f"{what}{badvalues.place(bad)} overflows float16{size} float16 ends at"
            f" {limits.largest:g}: use bfloat16, which has float32's range, or keep this module in"
            " float32"
        ),
        quantity="largest output, computed in float64",
        observed=wide if wide is not None else float("nan"),
        limit=limits.largest,
        # In a wider format such weights are large and no more than that.
        explains=("init-gain-too-large",),
        exculpation="outputs and gradients below 65504",
        event=event,
        present=present,
    )


@rule(
    code="NUM102",
    limits=Limits,
    fires_on=[Case.of("arithmetic", half=True)],
    silent_on=[
        Case.of("arithmetic"),
        Case.of("arithmetic", operation="exponential"),
        Case.of("arithmetic", operation="logarithm"),
        Case.of("mlp", depth=20, activation="relu", init="normal", gain=3.0),
    ],
    live=_live,
    live_fires_on=[Case.of("growing_half")],
    live_silent_on=[
        Case.of("growing_half", dtype="bfloat16"),
        Case.of("growing_half", growth=1.0),
        Case.of("breaking_arithmetic", fault="exponential"),
    ],
)
def half_precision_overflow(trace: Trace, limits: Limits) -> Iterator[Finding]:
    """An output or a gradient above 65504, the largest number of float16.

    What it finds:
        The operation from which infinity spread to the loss or through the gradient, where it works
        in float16, by the model's own type or under autocast, and the same operation in a wider
        format gives a finite number above 65504.

    Why it matters:
        The same model trains in float32 and bfloat16. A loss scaler cannot help: it lowers the
        scale for ever, and the forward pass overflows without it.

    How it is measured:
        The first operation with finite operands and an infinite result, computed once more in
        float64. In a run, its call is made again on copies, under the same autocast.

    Silent when:
        The wider format overflows as well, where exponential-overflow and its like judge; a loss
        scaler looks for its scale.

    References:
        huggingface/transformers#5651 and #9295 (66246 in T5's wo); Micikevicius et al. 2018.
    """
    bad = badvalues.of_trace(trace, NAME)
    if bad is not None:
        yield _finding(bad, limits)
