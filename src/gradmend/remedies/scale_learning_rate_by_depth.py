"""Take smaller steps in deeper plain networks."""

from __future__ import annotations

from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import Change, Prescription, Refusal
from gradmend.records.trace import Trace
from gradmend.registry import remedy
from gradmend.theory.depth_rate import LOW_ENOUGH, rate_edits, rate_factor


@remedy(treats=["depth-without-skip"], changes=[Change.OPTIMIZER], companion=True)
def scale_learning_rate_by_depth(
    findings: tuple[Finding, ...], trace: Trace
) -> Iterator[Prescription | Refusal]:
    """Lower the learning rate in proportion to one over the depth.

    What it does:
        Multiplies every group's rate by a factor that brings Adam's to 0.03 / depth, and other
        optimizers' to 10 / depth of what it was. The layers that read the data and those that put
        out the answer learn at an ordinary rate: Adam's default, or what the other had.

    Why it should work:
        One step changes every layer by an amount proportional to the rate, and in a plain
        network the changes of all layers multiply. The best rates measured fall like 1/L. The
        layers at the ends are one each: at the rate of the row they would hardly move.

    What it predicts:
        Nothing that one look can check: a single step shows no divergence. The trial decides.

    When it refuses:
        The rate is unknown or low enough already.

    What it costs:
        Slower early progress where the rate was not too high.

    References:
        Best Adam rates of plain isometric nets: 2e-4 to 1e-3 at 100 layers, 3e-5 at 1,000, 3e-6
        at 10,000 (our measurements, docs/benchmarks.md); of ReLU and GELU nets in mirrored pairs
        1e-3 at 30, 3e-4 at 100 and 300, 3e-5 to 1e-4 at 1,000. SGD with momentum 0.9: 1e-2 at 10
        and 30, 1e-3 at 100, 3e-4 to 1e-3 at 300. Pennington, Schoenholz, Ganguli 2017
        find learning times that grow with depth.
    """
    depth, rate = max(1, trace.chain_depth), trace.run.learning_rate
    factor = rate_factor(trace)
    if not rate or factor is None:
        yield Refusal(
            remedy="scale-learning-rate-by-depth",
            finding=findings[0].name if findings else "",
            reason="the learning rate is not known",
        )
        return
    if factor >= LOW_ENOUGH:
        yield Refusal(
            remedy="scale-learning-rate-by-depth",
            finding=findings[0].name if findings else "",
            reason=f"a rate of {rate:g} is low enough for {depth} layers",
        )
        return
    yield Prescription(
        edits=rate_edits(trace, factor),
        changes=(Change.OPTIMIZER,),
        reason=f"learning rate {rate:g} -> {rate * factor:.3g} for {depth} layers",
    )
