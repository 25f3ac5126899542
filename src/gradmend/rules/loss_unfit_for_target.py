"""LOS210: a loss that does not fit what it is handed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.history import History
from gradmend.records.loss_call import LossCall, Values
from gradmend.records.trace import Trace
from gradmend.registry import Case, limit, rule
from gradmend.theory import targets, windows
from gradmend.theory.windows import plain

EXPLAINS = (
    "loss-plateau",
    "diverging-loss",
    "vanishing-gradient",
    "learning-rate-too-high",
    "non-finite-value",
    "stalled-layers",
    "oscillating-loss",
    "saturated-activation",
    "exploding-gradient",
    "negated-loss",
    "one-unit-softmax",
    "output-range-unfit-for-target",
    "collapsed-signal",
    "init-gain-too-large",
    "loss-spike",
)
BINARY = frozenset({"binary_cross_entropy", "binary_cross_entropy_with_logits"})
SIGNED = frozenset(
    {"soft_margin_loss", "hinge_embedding_loss", "margin_ranking_loss", "cosine_embedding_loss"}
)
SQUARES = frozenset({"mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"})


@dataclass(frozen=True)
class Limits:
    """When a loss does not fit."""

    slack: float = limit(
        1e-3,
        unit="1",
        source="beyond [0, 1] for a probability: rounding of half precision is 1e-3",
    )
    share: float = limit(
        0.05,
        unit="1",
        source="of the range of targets that lies outside: interpolation overshoots by less",
    )
    classes: float = limit(
        3.0,
        unit="different targets",
        source="from which whole numbers look like classes; two are also a switch, and a game's"
        " outcome",
    )
    likely_classes: float = limit(
        5.0,
        unit="different targets",
        source="from which it is a warning before training: our choice; ratings begin at 1",
    )
    uneven: float = limit(
        2.5,
        unit="1",
        source="the commonest target's share over an even one: counts and ages are more uneven",
    )
    most_classes: float = limit(
        20.0, unit="different targets", source="beyond which they look like counts; our choice"
    )


@dataclass(frozen=True, slots=True)
class _Verdict:
    said: str
    severity: Severity
    observed: float
    limit: float
    quantity: str


def _judge(call: LossCall, limits: Limits, *, learned: bool | None) -> _Verdict | None:
    """What does not fit in a call; ``learned`` is whether the run gets on all the same."""
    target, output = call.target, call.prediction
    if target.mean != target.mean:
        return None
    exact, slow = Severity.ERROR, Severity.NOTE if learned else Severity.WARNING
    out = max(target.largest - 1.0, -target.smallest)
    masked = call.weighted or call.reduction == "none"
    if call.function in BINARY and out > limits.share and not masked:
        return _Verdict(
            f"{call.function} is handed targets from {plain(target.smallest)} to"
            f" {plain(target.largest)}: outside [0, 1] it falls without end; rescale the labels, or"
            " use another loss",
            exact,
            target.largest if target.largest > 1 else target.smallest,
            1.0 if target.largest > 1 else 0.0,
            "target beyond its range",
        )
    if (
        call.function == "cross_entropy"
        and "float" in target.dtype
        and target.shape == _shape(call)
    ):
        if target.outputs == 1:
            return _Verdict(
                "cross_entropy of one output is 0 whatever the output: use"
                " binary_cross_entropy_with_logits for two classes, or mse_loss for numbers",
                exact,
                1.0,
                2.0,
                "classes",
            )
        if out > limits.share and not masked:
            return _Verdict(
                f"cross_entropy is handed targets from {plain(target.smallest)} to"
                f" {plain(target.largest)} as probabilities: hand it class indices, or use mse_loss"
                " for numbers",
                exact,
                target.largest if target.largest > 1 else target.smallest,
                1.0 if target.largest > 1 else 0.0,
                "target beyond its range",
            )
    if call.function == "cross_entropy" and "int" in target.dtype and _shape(call)[1:2] == (1,):
        return _Verdict(
            "cross_entropy of one output is 0 whatever the output: use"
            " binary_cross_entropy_with_logits, or two outputs",
            exact,
            1.0,
            2.0,
            "classes",
        )
    if call.function == "kl_div" and output is not None and output.largest > limits.slack:
        what = "probabilities" if output.distribution else "numbers above zero"
        return _Verdict(
            f"kl_div is handed {what} where it expects their logarithm: use log_softmax",
            exact,
            output.largest,
            0.0,
            "largest input of kl_div",
        )
    if call.function == "kl_div" and not call.log_target and target.smallest < -limits.slack:
        return _Verdict(
            "kl_div is handed logarithms as targets without log_target=True",
            exact,
            target.smallest,
            0.0,
            "smallest target of kl_div",
        )
    if call.function in SIGNED and target.whole and target.smallest >= 0.0 and target.distinct <= 2:
        zeros = target.commonest == 0.0 or target.distinct == 2
        if zeros and target.largest <= 1.0:
            return _Verdict(
                f"{call.function} is handed labels 0 and 1 and expects -1 and 1: those with 0 teach"
                " nothing; use 2 y - 1",
                exact,
                0.0,
                -1.0,
                "smallest label",
            )
    if call.function == "poisson_nll_loss" and target.smallest < 0.0:
        return _Verdict(
            f"poisson_nll_loss is handed targets down to {plain(target.smallest)}: counts are never"
            " negative",
            exact,
            target.smallest,
            0.0,
            "smallest target",
        )
    behind_softmax = output is not None and output.distribution and target.one_hot
    if call.function in SQUARES and behind_softmax and target.outputs >= limits.classes:
        return _Verdict(
            f"{call.function} compares a softmax over {target.outputs} classes with one-hot"
            " labels: where it is sure and wrong its gradient is nearly 0; use cross_entropy on"
            " the logits",
            slow,
            float(target.outputs),
            limits.classes,
            "classes",
        )
    if call.function in SQUARES and _class_indices(call, limits):
        return _Verdict(
            f"{call.function} is handed the whole numbers {plain(target.smallest)} to"
            f" {plain(target.largest)} as targets: if they are classes, use cross_entropy with"
            f" {plain(target.largest - target.smallest + 1)} outputs",
            slow if learned is False or _alike(target, limits) else Severity.NOTE,
            float(target.distinct),
            limits.classes,
            "different whole targets",
        )
    return None


def _alike(target: Values, limits: Limits) -> bool:
    """Whether whole targets from 0 on are about as frequent each, as classes and no counts are."""
    return (
        target.smallest == 0.0
        and target.distinct >= limits.likely_classes
        and target.commonest_share <= limits.uneven / target.distinct
    )


def _shape(call: LossCall) -> tuple[int, ...]:
    return () if call.prediction is None else call.prediction.shape


def _class_indices(call: LossCall, limits: Limits) -> bool:
    """Whether regression targets are the whole numbers from 0 (or 1) to a few, all of them."""
    target = call.target
    if not target.whole or target.one_hot or target.outputs != 1:
        return False
    if not limits.classes <= target.distinct <= limits.most_classes:
        return False
    return target.smallest in (0.0, 1.0) and (
        target.largest - target.smallest + 1 <= 1.25 * target.distinct
    )


def _findings(
    calls: Iterable[LossCall],
    limits: Limits,
    *,
    learned: bool | None,
    modules: tuple[str, ...],
    early: bool = False,
    step: int = 0,
) -> Iterator[Finding]:
    for call in calls:
        found = _judge(call, limits, learned=learned or early)
        if found is None:
            continue
        yield Finding(
            code="LOS210",
            name="loss-unfit-for-target",
            severity=found.severity,
            modules=modules,
            summary=found.said,
            evidence=(
                Evidence(
                    quantity=found.quantity,
                    observed=found.observed,
                    limit=found.limit,
                    step=step,
                ),
            ),
            weight=1500.0 if found.severity is Severity.ERROR else 20.0,
            explains=EXPLAINS,
            exculpation="a loss made for such targets",
        )
        return


def _live(history: History, limits: Limits) -> Iterator[Finding]:
    yield from _findings(
        targets.firsts(history),
        limits,
        # Too early to say is no reason to warn of what may do well; nor is a single batch of ours.
        learned=windows.learned(history) if not history.run.rehearsal else None,
        early=not history.run.rehearsal and windows.learned(history) is None,
        modules=targets.last_linear(history),
        step=history.step,
    )


@rule(
    code="LOS210",
    limits=Limits,
    fires_on=[
        Case.of("labelled", loss="bce_on_logits", labels="signed"),
        Case.of("labelled", loss="bce_on_logits", labels="counted"),
        Case.of("labelled", loss="kl_of_probabilities"),
        Case.of("labelled", loss="soft_margin"),
        Case.of("labelled", loss="mse_of_softmax"),
        Case.of("labelled", loss="one_unit_cross_entropy"),
    ],
    silent_on=[
        Case.of("labelled"),
        Case.of("labelled", loss="bce"),
        Case.of("labelled", loss="kl"),
        Case.of("labelled", loss="soft_margin", labels="signed"),
        Case.of("labelled", loss="mse_of_outputs"),
        Case.of("labelled", loss="smoothed"),
        Case.of("fed_regressor"),
        Case.of("fed_regressor", scale=1e5, shift=2e5),
    ],
    live=_live,
    live_fires_on=[
        Case.of("fed_classifier", loss="bce_on_logits", labels="signed"),
        Case.of("fed_classifier", loss="kl_of_probabilities"),
        Case.of("fed_classifier", loss="soft_margin"),
        Case.of("fed_classifier", loss="one_unit_cross_entropy"),
    ],
    live_silent_on=[
        Case.of("fed_classifier"),
        Case.of("fed_classifier", loss="bce"),
        Case.of("fed_classifier", loss="kl"),
        Case.of("fed_classifier", loss="class_indices"),
        Case.of("adversaries"),
    ],
)
def loss_unfit_for_target(trace: Trace, limits: Limits) -> Iterator[Finding]:
    """Loss whose targets or outputs are not what it is made for.

    What it finds:
        Binary cross entropy, or cross entropy with probabilities, on targets outside [0, 1]; cross
        entropy of a single output; KL divergence of probabilities instead of their logarithm;
        margin losses on labels 0 and 1 instead of -1 and 1; Poisson's loss on negative targets;
        squared error of a softmax against one-hot labels, and on class indices.

    Why it matters:
        The loss has its minimum elsewhere, or none: it falls below zero without end, is zero from
        the start, or leaves half of the samples out. Squared error behind a softmax has a gradient
        of p (1 - p) times less where the network is sure and wrong.

    How it is measured:
        Range, type and sums of what the loss function is handed, on the first batches; exact, but
        for class indices, which only look like classes.

    Silent when:
        Samples are weighted or the loss is not reduced, so that a label may stand for none; labels
        are smoothed. Squared errors of classes are a note in a run that learns, and whole numbers
        as targets (ratings, counts) are a note until a run has not learned.

    References:
        PyTorch's documentation of each loss; Golik et al. 2013 (cross entropy against squared
        error); Hui, Belkin 2021 (squared error without a softmax does well).
    """
    yield from _findings(trace.losses, limits, learned=None, modules=targets.output_module(trace))
