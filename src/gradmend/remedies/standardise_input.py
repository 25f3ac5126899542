"""Shift and scale the inputs to mean zero and unit variance."""

from __future__ import annotations

from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import Change, Edit, Prediction, Prescription, Refusal
from gradmend.records.trace import Trace
from gradmend.registry import remedy


@remedy(treats=["unscaled-input"], changes=[Change.DATA_SCALE])
def standardise_input(
    findings: tuple[Finding, ...], trace: Trace
) -> Iterator[Prescription | Refusal]:
    """Let the model read (x - mean) / std of its input.

    What it does:
        Wraps the first module that reads an out-of-scale input, with the mean and standard
        deviation measured over the batch as buffers, so that they are saved with the model and
        applied to new data alike. One pair of figures for the whole tensor: it keeps the
        relations between features (pixels) as they are.

    Why it should work:
        First-layer pre-activations and weight gradients are proportional to the input. At unit
        scale the layer is where its initialisation expects to be.

    What it predicts:
        The input that the first layer reads has rms 1 within 20 %.

    When it refuses:
        The module that reads the input is unknown, or the input has no spread.

    What it costs:
        One subtraction and division per batch; two buffers. Folds into a linear first layer on
        export. Parameter names of the wrapped module change.

    References:
        LeCun, Bottou, Orr, Mueller 1998 (Efficient BackProp), section 4.3.
    """
    blamed = {module for finding in findings for module in finding.modules}
    # A finding without a module is about an input that no single module reads.
    nobody = any(not finding.modules for finding in findings)
    for item in trace.inputs:
        if not item.floating or not (item.reader in blamed or (nobody and item.reader is None)):
            continue
        if item.reader is None or not item.stats.std > 0:
            yield Refusal(
                remedy="standardise-input",
                finding="unscaled-input",
                reason=f"{item.name} has no spread, or no single module reads it",
            )
            continue
        yield Prescription(
            edits=(
                Edit(
                    kind="standardise_input",
                    targets=(item.reader,),
                    args={"mean": [item.stats.mean], "std": [item.stats.std]},
                ),
            ),
            predictions=(
                Prediction(
                    quantity="first_layer_input_rms",
                    low=0.8,
                    high=1.25,
                    sentence="the first layer reads inputs of rms 1",
                ),
            ),
            changes=(Change.DATA_SCALE,),
            reason=f"bring {item.name} to mean 0 and standard deviation 1",
        )
