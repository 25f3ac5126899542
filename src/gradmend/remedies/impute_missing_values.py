"""Read the feature's mean where an input is NaN or infinite."""

from __future__ import annotations

from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import Advice, Change, Prediction, Prescription, Refusal
from gradmend.records.trace import Trace
from gradmend.registry import remedy
from gradmend.theory.missing import fillable, filled, gappy_inputs, gappy_targets

FINITE = Prediction(
    quantity="loss", low=-1e30, high=1e30, sentence="the loss of a batch with gaps is finite"
)


@remedy(treats=["non-finite-batch"], changes=[Change.DATA_SCALE])
def impute_missing_values(
    findings: tuple[Finding, ...], trace: Trace
) -> Iterator[Prescription | Refusal | Advice]:
    """Fill what is missing in the inputs with the mean of its feature.

    What it does:
        Wraps the module that reads the input, with the means of the finite entries as buffers:
        per feature, or one for inputs without such (an image's channels each). They are saved
        with the model, and applied to new data alike.

    Why it should work:
        One NaN in a batch makes every weight NaN at the next step. The mean of a feature says
        nothing about the sample, and the rest of the sample is kept.

    What it predicts:
        The loss of the same batch is finite.

    When it refuses:
        The NaN are in the targets; no single module reads the input; the model reads several
        inputs at once.

    What it costs:
        One comparison per entry. Values that are missing for a reason lose it.

    References:
        Little and Rubin 2019 (mean imputation and what it costs).
    """
    gaps = gappy_inputs(trace)
    if not gaps:
        yield Refusal(
            remedy="impute-missing-values",
            finding=findings[0].name,
            reason="no input is missing: what a target was cannot be guessed",
        )
    for item in gaps:
        if not fillable(trace, item):
            yield Refusal(
                remedy="impute-missing-values",
                finding=findings[0].name,
                reason=f"no single module reads {item.name} alone, or it has no finite entry",
            )
            continue
        if gappy_targets(trace):
            yield Refusal(
                remedy="impute-missing-values",
                finding=findings[0].name,
                reason="targets are missing as well: drop-non-finite-samples fills and drops",
            )
            return
        yield Prescription(
            edits=(filled(item),),
            predictions=(FINITE,),
            changes=(Change.DATA_SCALE,),
            reason=f"{item.stats.non_finite} missing values of {item.name} read as their mean",
            keeps_function=True,
        )
        yield Advice(
            remedy="impute-missing-values",
            finding=findings[0].name,
            text="clean the data once, with the means of the training set",
            before="x, y = batch",
            after="x, y = batch\nx = torch.where(torch.isfinite(x), x, mean)  # of each feature",
        )
