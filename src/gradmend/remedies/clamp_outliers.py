"""Draw wild entries of the input in."""

from __future__ import annotations

from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import Change, Edit, Prescription, Refusal
from gradmend.records.trace import Trace
from gradmend.registry import remedy
from gradmend.theory.missing import REACH, only_wild


@remedy(treats=["outlier-batch", "unscaled-input"], changes=[Change.DATA_SCALE])
def clamp_outliers(findings: tuple[Finding, ...], trace: Trace) -> Iterator[Prescription | Refusal]:
    """Hold the inputs within ten deviations of their mean.

    What it does:
        Wraps the module that reads the input; each entry is held between mean minus and mean plus
        ten standard deviations, both of the data without their far entries, per feature where
        there are such.

    Why it should work:
        A corrupt sample then throws the weights about as far as an ordinary one.

    What it predicts:
        Nothing that one look can check; the trial decides.

    When it refuses:
        No single module reads the input, it is the targets that are wild, or the input is out of
        scale as a whole.

    What it costs:
        Sound entries so far out are changed as well.

    References:
        Winsorising: Tukey 1962; Huber 1981.
    """
    asked = {finding.name for finding in findings}
    wild_targets = all("target of" in finding.summary for finding in findings)
    for item in trace.inputs:
        if not item.floating or wild_targets:
            continue
        if "outlier-batch" not in asked and not only_wild(item):
            continue  # as a whole out of scale: another remedy's
        others = [o for o in trace.inputs if o.floating and o.reader == item.reader]
        means, stds = item.feature_means, item.feature_stds
        if item.feature_dim is None and item.usual_mean is not None and item.usual_std is not None:
            means, stds = (item.usual_mean,), (item.usual_std,)
        if item.reader is None or len(others) > 1 or not means or not max(stds) > 0:
            continue
        # A feature without spread in this batch: the widest one's reach, rather than none.
        reach = [REACH * (std if std > 0 else max(stds)) for std in stds]
        args: dict[str, list[float] | float] = {
            "low": [m - r for m, r in zip(means, reach, strict=True)],
            "high": [m + r for m, r in zip(means, reach, strict=True)],
        }
        trailing = 0 if item.feature_dim is None else len(item.shape) - 1 - item.feature_dim
        args |= {"trailing": trailing} if trailing else {}
        yield Prescription(
            edits=(Edit(kind="clamp_input", targets=(item.reader,), args=dict(args)),),
            changes=(Change.DATA_SCALE,),
            reason=f"{item.name} is held within {REACH:g} deviations of its mean",
        )
        return
    yield Refusal(
        remedy="clamp-outliers",
        finding=findings[0].name,
        reason="it is targets that are wild: use Huber's loss, or clean them"
        if wild_targets
        else "no input that one module reads alone is wild in a few entries only",
    )
