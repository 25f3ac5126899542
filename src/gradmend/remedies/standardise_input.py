"""Shift and scale the inputs to mean zero and unit variance."""

from __future__ import annotations

from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import Change, Edit, Prediction, Prescription, Refusal
from gradmend.records.trace import Input, Trace
from gradmend.registry import remedy
from gradmend.theory.missing import REACH, only_wild
from gradmend.theory.outlets import trained

APART = 10.0
"""Largest over smallest deviation of a feature from which features are scaled each by itself: a
decade. Our choice; below, one figure keeps the relations between features (pixels)."""


@remedy(treats=["unscaled-input"], changes=[Change.DATA_SCALE])
def standardise_input(
    findings: tuple[Finding, ...], trace: Trace
) -> Iterator[Prescription | Refusal]:
    """Let the model read (x - mean) / std of its input.

    What it does:
        Wraps the first module that reads an out-of-scale input, with the mean and standard
        deviation measured over the batch as buffers, so that they are saved with the model and
        applied to new data alike. One pair of figures for the whole tensor, as it keeps the
        relations between features (pixels); a pair for each feature where their deviations differ
        by more than a decade, for each channel of images. Where some entries lie far out, the
        figures are those of the rest, and what is beyond ten deviations is drawn in. Of a trained
        model the first layer is changed as well, so that it computes what it did.

    Why it should work:
        First-layer pre-activations and weight gradients are proportional to the input. At unit
        scale the layer is where its initialisation expects to be.

    What it predicts:
        The input that the first layer reads has rms 1 within 20 %, where one pair of figures
        serves all and nothing is drawn in.

    When it refuses:
        The module that reads the input is unknown or reads several, or the input has no spread.

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
        others = [o for o in trace.inputs if o.floating and o.reader == item.reader]
        if item.reader is None or not item.stats.std > 0 or len(others) > 1:
            yield Refusal(
                remedy="standardise-input",
                finding="unscaled-input",
                reason=f"{item.name} has no spread, or no single module reads it alone",
            )
            continue
        if only_wild(item):
            yield Refusal(
                remedy="standardise-input",
                finding="unscaled-input",
                reason=f"{item.name} is in scale but for a few wild entries: clamp-outliers",
            )
            continue
        args, each, wild = _figures(item)
        if trained(trace) and not wild and _takes_a_scale_in(trace, item.reader, args):
            yield _prescribed(item, {**args, "compensate": True}, predicts=not each, keeps=True)
        yield _prescribed(item, args, predicts=not each and not wild, keeps=False)


def _figures(item: Input) -> tuple[dict[str, list[float] | float], bool, bool]:
    """Arguments of the edit; whether they are per feature; whether wild entries are drawn in."""
    mean, std = item.stats.mean, item.stats.std
    if item.usual_mean is not None and item.usual_std:
        mean, std = item.usual_mean, item.usual_std
    varying = [s for s in item.feature_stds if s > 0]
    each = len(varying) > 1 and max(varying) > APART * min(varying)
    found: dict[str, list[float] | float] = {"mean": [mean], "std": [std]}
    far = item.stats.max_abs > abs(mean) + REACH * std
    if item.feature_dim is not None and (each or item.feature_dim == 1 < len(item.shape) - 1):
        each = True
        found = {"mean": list(item.feature_means), "std": list(item.feature_stds)}
        trailing = len(item.shape) - 1 - item.feature_dim
        if trailing:
            found["trailing"] = trailing
        figures = zip(item.feature_means, item.feature_stds, strict=True)
        reach = max(abs(m) + REACH * s for m, s in figures)
        far = item.stats.max_abs > reach
    else:
        each = False
    if far:
        found["limit"] = REACH
    return found, each, far


def _takes_a_scale_in(trace: Trace, path: str, args: dict[str, list[float] | float]) -> bool:
    """Whether the reader is a layer that can be changed so that its function stays."""
    facts = trace.module_at.get(path)
    if facts is None or not facts.standard or facts.uses != 1 or len(facts.parameters) < 2:
        return False
    padding = facts.settings.get("padding", 0)
    padded = any(padding) if isinstance(padding, list | tuple) else padding not in (0, None)
    fits = facts.kind == "Linear" and "trailing" not in args
    images = facts.kind == "Conv2d" and not padded and facts.settings.get("groups", 1) == 1
    return fits or (images and (args.get("trailing") == 2 or len(args["mean"]) == 1))  # type: ignore[arg-type]


def _prescribed(
    item: Input, args: dict[str, list[float] | float], *, predicts: bool, keeps: bool
) -> Prescription:
    many = len(args["mean"])  # type: ignore[arg-type]
    how = f"each of the {many} features of {item.name}" if many > 1 else item.name
    assert item.reader is not None
    return Prescription(
        edits=(Edit(kind="standardise_input", targets=(item.reader,), args=dict(args)),),
        predictions=(
            Prediction(
                quantity="first_layer_input_rms",
                low=0.8,
                high=1.25,
                sentence="the first layer reads inputs of rms 1",
            ),
        )
        if predicts
        else (),
        changes=(Change.DATA_SCALE,),
        reason=f"bring {how} to mean 0 and standard deviation 1"
        + (", the first layer changed so that its outputs stay" if keeps else ""),
        keeps_function=keeps,
    )
