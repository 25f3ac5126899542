"""Missing and wild values in a batch: where they are, and whether a module can mend them."""

from __future__ import annotations

from gradmend.records.prescription import Edit
from gradmend.records.trace import Input, Trace

REACH = 10.0
"""Deviations from the mean beyond which an entry is wild. Of a normal sample none lies so far out;
the rule outlier-batch speaks from thirty on."""


def only_wild(item: Input) -> bool:
    """Whether an input is in scale but for a few entries far out."""
    mean, std = item.usual_mean, item.usual_std
    if mean is None or std is None or not std > 0:
        return False
    usual = abs(mean) <= IN_SCALE * std and 1 / IN_SCALE <= std <= IN_SCALE
    return usual and item.stats.max_abs > abs(mean) + REACH * std


IN_SCALE = 3.0
"""Deviation (or its inverse, or mean over it) up to which layers take an input as it is: our
choice."""


def gappy_inputs(trace: Trace) -> tuple[Input, ...]:
    """The inputs that hold NaN or infinity and are no additive mask of zeros and infinities."""
    return tuple(
        item
        for item in trace.inputs
        if item.floating
        and item.stats.non_finite
        and not (item.stats.max_abs == 0.0 and item.stats.count > 0)
    )


def gappy_targets(trace: Trace) -> bool:
    """Whether a loss was handed targets that are not finite."""
    return any(call.target.non_finite for call in trace.losses)


def fillable(trace: Trace, item: Input) -> bool:
    """Whether one module reads an input, and no other input with it."""
    others = [o for o in trace.inputs if o.floating and o.reader == item.reader]
    return item.reader is not None and len(others) == 1 and item.stats.count > 0


def filled(item: Input) -> Edit:
    """The edit that lets an input's reader see the mean of the feature in every gap."""
    args: dict[str, list[float] | float] = {"value": [item.stats.mean]}
    if item.feature_dim is not None and item.feature_means:
        args["value"] = list(item.feature_means)
        trailing = len(item.shape) - 1 - item.feature_dim
        args |= {"trailing": trailing} if trailing else {}
    assert item.reader is not None
    return Edit(kind="impute_input", targets=(item.reader,), args=dict(args))
