"""Lift half-precision gradients over the bottom of their format."""

from __future__ import annotations

import math
from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import Advice, Change, Edit, Prescription, Refusal
from gradmend.records.trace import Trace
from gradmend.registry import remedy
from gradmend.theory.formats import UnknownNumberFormat, number_format
from gradmend.theory.gradient_norms import scale_free

LARGEST = 2.0**16
"""Where torch's gradient scaler begins."""
ROOM = 2.0**-4
"""Of the format's largest number that the largest gradient may reach, as batches differ. Ours."""


@remedy(treats=["gradient-underflow"], changes=[Change.OPTIMIZER])
def scale_loss(
    findings: tuple[Finding, ...], trace: Trace
) -> Iterator[Prescription | Refusal | Advice]:
    """Multiply the loss, and divide the gradients again before the optimizer uses them.

    What it does:
        Multiplies the loss by a power of two that lifts the typical gradient entry to a
        thousandth, as far as the largest one has room; steps whose gradient overflows are left
        out, and the scale is halved. Adam and its kin get the gradient as it is: its size is
        nothing to them, and divided it would be too small for float16 again.

    Why it should work:
        float16 has no number below 6e-8, and few digits below 6e-5. Backward passes are linear in
        the loss, so a factor moves all gradients into the format's range and nothing else.

    What it predicts:
        Nothing that one look can check: the look scales gradients itself, so that none is lost.

    When it refuses:
        The parameters are of a format that reaches far enough, in which so small a gradient has
        vanished and a scale changes nothing.

    What it costs:
        One multiplication a step. Where gradmend.apply is used the loop must train on
        ``fix.loss(loss)``; torch.amp.GradScaler does the same for parameters in float32.

    References:
        Micikevicius et al. 2018, section 3.2; torch.amp.GradScaler.
    """
    first = findings[0].name if findings else ""
    try:
        form = number_format(trace.run.dtype)
    except UnknownNumberFormat:
        form = None
    if form is None or form.min_normal < 1e-10:
        yield Refusal(
            remedy="scale-loss",
            finding=first,
            reason=f"{trace.run.dtype} reaches far below these gradients: they have vanished, and a"
            " scale changes nothing",
        )
        return
    sizes = [
        p.log10_grad - 0.5 * math.log10(max(1, p.stats.count))
        for p in trace.parameters
        if p.log10_grad is not None and math.isfinite(p.log10_grad)
    ]
    wanted = LARGEST
    if sizes:
        largest = 10.0 ** max(sizes) * 10.0  # an entry may be ten times the rms of its tensor
        typical = 10.0 ** sorted(sizes)[len(sizes) // 2]
        wanted = min(1e-3 / typical, ROOM * form.max / largest, LARGEST**2)
    factor = 2.0 ** math.floor(math.log2(wanted)) if wanted > 0.0 else 1.0
    if factor <= 1.0:
        yield Refusal(
            remedy="scale-loss",
            finding=first,
            reason="the largest gradient would overflow before the smallest is lifted: train in"
            " float32 or bfloat16",
        )
        return
    divide = not scale_free(trace)
    yield Prescription(
        edits=(Edit(kind="scale_loss", args={"factor": factor, "divide": divide}),),
        changes=(Change.OPTIMIZER,),
        reason=f"the loss times {factor:g}, so that gradients are numbers of {trace.run.dtype}",
        keeps_function=True,
    )
    yield Advice(
        remedy="scale-loss",
        finding=first,
        text="keep the parameters in float32 and let autocast choose the format, with a scaler",
        before="model.half()\nloss.backward()\noptimizer.step()",
        after="with torch.autocast('cuda', torch.float16):\n    loss = loss_fn(model(x), y)\n"
        "scaler.scale(loss).backward()\nscaler.step(optimizer)\nscaler.update()",
    )
