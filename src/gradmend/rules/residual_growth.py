"""RES102: a residual stream that grows by a factor at every block."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.trace import Operation, Trace
from gradmend.registry import Case, limit, rule


@dataclass(frozen=True)
class Limits:
    """When a stream grows too much."""

    decades: float = limit(
        1.2,
        unit="decades",
        source="of the stream's rms from first to last sum. Own runs on digits, He weights: 8 "
        "blocks (1.0 decade) learn at SGD 0.01, 12 (1.4) end in NaN",
    )
    error_decades: float = limit(
        2.0,
        unit="decades",
        source="own runs: 16 blocks (2 decades) start at a loss of 2,300 and learn with Adam alone",
    )
    per_block: float = limit(
        0.04,
        unit="decades",
        source="of rms; a branch as large as its stream doubles the variance, 0.15. Branches of "
        "torch's default weights add 0.02",
    )
    most_per_block: float = limit(
        0.4,
        unit="decades",
        source="branches five times as energetic as their stream are large by their own weights, "
        "and that is init-gain-too-large or a step that was too large",
    )
    late_share: float = limit(
        0.3,
        unit="share",
        source="of the growth in the second half of the blocks: one half when each multiplies; "
        "where each adds the same, log 2 / log L: 0.25 for sixteen",
    )


@rule(
    code="RES102",
    limits=Limits,
    fires_on=[
        Case.of("residual_stack", depth=16),
        Case.of("residual_stack", depth=32, convolutional=True),
        Case.of("residual_stack", depth=24, activation="gelu", width=32),
    ],
    silent_on=[
        Case.of("residual_stack", depth=4),
        Case.of("residual_stack", depth=16, activation="tanh"),
        Case.of("residual_stack", depth=32, init="fixup"),
        Case.of("residual_stack", depth=32, init="rezero"),
        Case.of("residual_stack", depth=32, norm="batch"),
        Case.of("residual_stack", depth=32, norm="layer"),
        Case.of("residual_stack", depth=16, scale=0.18),
        Case.of("residual_mlp", depth=30),
        Case.of("transformer", depth=12),
        Case.of("mlp", depth=20, activation="relu", init="normal", gain=3.0),
    ],
)
def residual_growth(trace: Trace, limits: Limits) -> Iterator[Finding]:
    """Residual branches as large as their stream, so that it grows by a factor at every block.

    What it finds:
        Residual networks without normalisation whose stream x + f(x) grows exponentially with
        depth, because every branch keeps the scale of what it reads.

    Why it matters:
        Two independent signals of one size add up to twice the variance: L blocks give 2^L, in
        the signal and again in the gradient. The first loss is in the hundreds or thousands, and
        the first step ends in NaN.

    How it is measured:
        Root mean square of the stream at each sum that all of the gradient passes, from the first
        to the last, and how much of the growth falls into the second half of the blocks.

    Silent when:
        Branches are normalised at their entrance and so add the same at each block (pre-norm
        transformers: growth with sqrt(L) is healthy); branches begin at zero or are scaled
        (Fixup, SkipInit, ReZero, 1 / sqrt(L)); a norm sets the stream's scale again.

    References:
        Zhang, Dauphin, Ma 2019 (Fixup); De and Smith 2020 (SkipInit); Hanin and Rolnick 2018;
        karpathy/minGPT#134. Growth in healthy runs: allenai/OLMo#797.
    """
    stream = [op for op in trace.operations if _is_stream(op)]
    if len(stream) < 4:
        return
    sizes = [0.5 * math.log10(op.signal.mean_square) for op in stream if op.signal is not None]
    grown = sizes[-1] - sizes[0]
    blocks = len(stream) - 1
    if not limits.decades <= grown < math.inf or not math.isfinite(sizes[blocks // 2]):
        return
    per_block = grown / blocks
    late = sizes[-1] - sizes[blocks // 2]
    if (
        not limits.per_block <= per_block <= limits.most_per_block
        or late < grown * limits.late_share
    ):
        return
    if any(
        op.cause == "normalisation" and op.share > 0.99 and op.id > stream[0].id
        for op in trace.operations
    ):
        return  # the stream's scale is set again: what it was does not reach the outputs
    modules = _modules(trace, stream)
    yield Finding(
        code="RES102",
        name="residual-growth",
        severity=Severity.ERROR if grown >= limits.error_decades else Severity.WARNING,
        modules=modules,
        source=stream[0].source,
        summary=(
            f"the residual stream grows by a factor {10.0**per_block:.2f} at each of"
            f" {len(stream)} blocks, {10.0**grown:.3g} in all: the branches are as large as what"
            " they are added to; begin them at zero, or scale them by"
            f" 1/sqrt({len(stream)}) = {len(stream) ** -0.5:.2g}"
        ),
        evidence=(
            Evidence(
                quantity="growth of the residual stream",
                observed=grown,
                limit=limits.decades,
                unit="decades",
                module=modules[0] if modules else None,
            ),
            Evidence(
                quantity="growth in each block",
                observed=per_block,
                limit=limits.per_block,
                unit="decades",
            ),
        ),
        weight=50.0 + grown,
        explains=(
            "exploding-gradient",
            "init-gain-too-large",
            "gain-unlike-theory",
            "learning-rate-too-high",
            "diverging-loss",
            "oscillating-loss",
            "loss-spike",
            "loss-plateau",
            "update-norm-spike",
            "non-finite-value",
            "dead-relu",
            "saturated-activation",
            "half-precision-overflow",
            "exponential-overflow",
        ),
        exculpation="branches that begin at zero, are scaled, or are normalised",
    )


def _is_stream(op: Operation) -> bool:
    """Whether an operation adds a branch to a stream that all of the gradient passes."""
    return (
        op.name in ("add", "add_", "sub")
        and len(op.upstream) > 1
        and op.share > 0.99
        and op.signal is not None
        and 0.0 < op.signal.mean_square < math.inf
    )


def _modules(trace: Trace, stream: list[Operation]) -> tuple[str, ...]:
    """The blocks; where the sums are no module's own, what each branch ends in."""
    own = tuple(dict.fromkeys(op.module for op in stream if op.module))
    if len(own) > 1:
        return own
    ends: list[str] = []
    for op in stream:
        branch = [trace.operations[at] for at in op.upstream]
        ends += [o.module for o in branch if o.module and (o.share < 0.99 or o.weights)][-1:]
    return tuple(dict.fromkeys(ends)) or own
