"""Leave samples out that hold NaN or infinity."""

from __future__ import annotations

from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import Advice, Change, Edit, Prescription, Refusal
from gradmend.records.trace import Trace
from gradmend.registry import remedy
from gradmend.theory.missing import fillable, filled, gappy_inputs, gappy_targets
from gradmend.theory.outlets import output_place


@remedy(treats=["non-finite-batch"], changes=[Change.DATA_SCALE])
def drop_non_finite_samples(
    findings: tuple[Finding, ...], trace: Trace
) -> Iterator[Prescription | Refusal | Advice]:
    """Train without the samples whose inputs or targets are not finite.

    What it does:
        Leaves such samples out of every batch, along its first dimension, in tuples, dicts and
        nested batches alike. And where targets are missing, puts a module behind the model's last
        one that stops a NaN of the loss from coming back: in a loop that is not gradmend's, what
        is missing then does not count, though the loss that it prints is NaN. Inputs that are
        missing beside them are read as the mean of their feature.

    Why it should work:
        One NaN in a batch makes every weight NaN at the next step. The other samples are sound.

    What it predicts:
        Nothing that one look can check: it is made on the whole batch. The trial decides.

    When it refuses:
        Only inputs are missing and their gaps can be filled: that keeps the rest of the sample.
        An additive mask of zeros and minus infinity is not taken for a fault.

    What it costs:
        Smaller batches; what the samples would have taught. A loss over parts of a sample (a mask
        per pixel) is better made with a mask.

    References:
        Little and Rubin 2019 (complete-case analysis).
    """
    targets, gaps = gappy_targets(trace), gappy_inputs(trace)
    if gaps and not targets and all(fillable(trace, item) for item in gaps):
        yield Refusal(
            remedy="drop-non-finite-samples",
            finding=findings[0].name,
            reason="only inputs are missing: impute-missing-values keeps the rest of the sample",
        )
        return
    edits = [Edit(kind="drop_non_finite_samples")]
    edits += [filled(item) for item in gaps if fillable(trace, item)]
    if targets:
        edits.append(
            Edit(
                kind="follow_module",
                targets=(output_place(trace),),
                args={"module": "FiniteGradient"},
            )
        )
    yield Prescription(
        edits=tuple(edits),
        changes=(Change.DATA_SCALE,),
        reason="samples with NaN or infinity are left out",
        keeps_function=True,
    )
    what = "x" if gaps and not targets else "y"
    yield Advice(
        remedy="drop-non-finite-samples",
        finding=findings[0].name,
        text="leave such samples out where the batch is made",
        before="x, y = batch",
        after=f"x, y = batch\ngood = torch.isfinite({what}).reshape(len({what}), -1).all(dim=1)\n"
        "x, y = x[good], y[good]",
    )
