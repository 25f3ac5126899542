"""INI102: weights too large for the activation they feed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.history import History
from gradmend.records.trace import Operation, Trace
from gradmend.registry import Case, limit, rule
from gradmend.theory import windows
from gradmend.theory.activations import KNOWN, activation
from gradmend.theory.guessing import (
    first_loss,
    last_loss,
    loss_beside_wide_outputs,
    loss_of_a_guess,
    loss_over_guess,
)
from gradmend.theory.loudness import gains, loudest, taken_back


@dataclass(frozen=True)
class Limits:
    """When a gain is too large."""

    ratio: float = limit(
        1.2,
        unit="1",
        source="sigma_w / largest critical sigma_w; sampling noise of a 64 x 64 weight's gain is "
        "1 %, and torch's calculate_gain('tanh') = 5/3 lies inside the range",
    )
    decades: float = limit(
        4.0,
        unit="decades",
        source="AutoTrainer's explosion ratio of 70 (Zhang et al. 2021) is 1.8 decades and flags "
        "healthy nets; four is a gradient 10,000 times larger at one end",
    )
    flat_share: float = limit(
        0.5,
        unit="1",
        source="half of a layer on its flats: SageMaker Debugger SaturatedActivation, "
        "DeepDiagnosis (Wardat et al. 2022)",
    )
    readout_gain: float = limit(
        3.0,
        unit="1",
        source="sigma_w of the layer that makes the logits: He's 1.41 and LeCun's 1 are usual, and "
        "an untrained net has nothing to be sure of",
    )
    loss_over_chance: float = limit(
        7.0,
        unit="1",
        source="first loss over ln(classes), below which it is no rule's business: makemore part 3 "
        "has 27 over 3.3; published models that draw their logits' weights at 1 (mt5, funnel,"
        " cpmant, built small) begin at 4.3 to 5.8, most others at 1.0 to 1.4",
    )
    logits: float = limit(
        5.0,
        unit="1",
        source="standard deviation of the first logits: the largest of ten normal ones is 1.54 "
        "deviations, which is 3.3 ln(10); tells a summed loss from a sure one",
    )
    alone: float = limit(
        0.5,
        unit="share",
        source="of the excess, by which one layer is named before all others: more than all of "
        "them together",
    )
    product: float = limit(
        1.5,
        unit="decades",
        source="by which gains exceed what they should be, all together, and the signal with them, "
        "where no norm takes it back. A rectified net's other layers then have gradients 30 times "
        "larger, and the rate that suits one suits no other: our choice; no usual scheme reaches a "
        "third of it",
    )
    left: float = limit(
        0.9,
        unit="1",
        source="of the loss of a guess, below which a run has learned something (our choice)",
    )
    entropy: float = limit(
        0.3,
        unit="share",
        source="of the log of the keys, at the run's beginning: saturated-attention's limit for "
        "rows whose logits are tens apart; sound encoders have 0.95 and more",
    )
    deviation: float = limit(
        20.0,
        unit="1",
        source="of a row's logits at the run's beginning: saturated-attention's limit; drawn at "
        "theory's scale they have 0.3 to 0.5",
    )
    most: float = limit(
        0.5,
        unit="share",
        source="of the matrices that are too large, from which the way all are drawn is to blame "
        "for such attention, and not the projections of queries and keys alone (our choice)",
    )


_EXPLAINS = (
    "exploding-gradient",
    "saturated-activation",
    "dead-relu",
    "collapsed-signal",
    "vanishing-gradient",
    "depth-without-skip",
    "uncentred-activation",
    "attenuating-activation",
    "non-finite-value",
    "exponential-overflow",
    "half-precision-overflow",
    "logarithm-of-zero",
    "division-by-zero",
    "learning-rate-too-high",
    "diverging-loss",
    "loss-spike",
    "update-norm-spike",
    "oscillating-loss",
    "loss-plateau",
    "stalled-layers",
    "saturated-attention",
    "attention-logit-growth",
)


def _live(history: History, limits: Limits) -> Iterator[Finding]:
    """Weights that were large at the beginning, and show: in the first loss, or in attention."""
    table = history["update"]
    first, guess = first_loss(history), loss_beside_wide_outputs(history, limits.logits)
    if guess is None:
        guess = _of_large_logits(history, limits)
    sure = guess is not None and first is not None and first >= limits.loss_over_chance * guess
    if sure and windows.learned(history) and last_loss(history) <= limits.left * (guess or 0.0):
        sure = False
    large, judged = _large(history, limits)
    if not large:
        return
    sharp = {} if sure or len(large) < limits.most * judged else _one_hot(history, limits)
    if not sure and not any(_inside(table.columns[i].module, sharp) for i in large):
        return
    worst = max(large, key=lambda i: large[i])
    which = list(large)
    if large[worst] > limits.alone * sum(large.values()):
        which.sort(key=lambda i: i != worst)
    yield Finding(
        code="INI102",
        name="init-gain-too-large",
        severity=Severity.ERROR if sure else Severity.WARNING,
        modules=tuple(dict.fromkeys(table.columns[i].module for i in which)),
        source=table.columns[which[0]].source,
        summary=(
            f"{len(large)} layer(s) start with weight gain up to"
            f" {windows.times(large[worst]) * limits.readout_gain:.3g}, where 1 to 2 is usual: "
            + (
                f"the first loss is {first:.3g}, and that of a guess {guess:.3g}"
                if sure
                else "attention begins with nearly all weight on one key, so queries and keys get"
                " no gradient"
            )
        ),
        evidence=(
            Evidence(
                quantity="first loss, beside that of a guess",
                observed=first or 0.0,
                limit=guess,
                unit="nats",
            )
            if sure
            else Evidence(
                quantity="entropy of attention, at first",
                observed=min(sharp.values()),
                limit=limits.entropy,
                unit="share",
                module=min(sharp, key=lambda module: sharp[module]),
            ),
        ),
        weight=sum(large.values()),
        explains=_EXPLAINS,
        exculpation="a loss that has fallen below that of a guess"
        if sure
        else "rows of attention that spread over several keys",
    )


def _large(history: History, limits: Limits) -> tuple[dict[int, float], int]:
    """(decades above a sensible gain at the run's beginning, by matrix; matrices judged)."""
    table = history["update"]
    begin = table.first("log10_weight")
    looked_up = {c.module for c in history["output"].columns if c.kind.startswith("Embedding")}
    judged = [
        int(i)
        for i in windows.matrices(table.columns)  # a row of an embedding is looked up, not summed
        if table.columns[i].module not in looked_up and table.columns[i].order >= 0
    ]
    gains = {
        i: float(begin[i]) + 0.5 * math.log10(math.prod(table.columns[i].shape[1:])) for i in judged
    }
    least = math.log10(limits.ratio * limits.readout_gain)
    usual = math.log10(limits.readout_gain)
    return {i: gain - usual for i, gain in gains.items() if gain >= least}, len(judged)


def _one_hot(history: History, limits: Limits) -> dict[str, float]:
    """Entropy at the run's beginning of attention that looks at one key, by module."""
    table = history["attention"]
    if not len(table):
        return {}
    entropy, deviation = windows.early(table, "entropy"), windows.early(table, "logit_std")
    guilty = np.flatnonzero((entropy <= limits.entropy) & (deviation >= limits.deviation))
    return {table.columns[int(i)].module: float(entropy[i]) for i in guilty}


def _inside(module: str, attention: Mapping[str, float]) -> bool:
    """Whether a module is one of attention's, or the attention itself."""
    return any(module == each or module.startswith(f"{each}.") for each in attention)


def _of_large_logits(history: History, limits: Limits) -> float | None:
    """ln(classes), where the last module's first outputs are large."""
    outputs = history["output"]
    logits = outputs.first("log10_rms")
    known = np.flatnonzero(~np.isnan(logits))
    if not len(known):
        return None
    last = max(known, key=lambda i: outputs.columns[i].order)
    wide = bool(logits[last] >= math.log10(limits.logits))
    return loss_of_a_guess(history) if wide else None


@rule(
    code="INI102",
    limits=Limits,
    fires_on=[
        Case.of("mlp", depth=8, activation="tanh", init="normal", gain=12.0),
        Case.of("mlp", depth=20, activation="relu", init="normal", gain=3.0),
        Case.of("mlp", depth=12, activation="gelu", init="normal", gain=6.0),
        Case.of(
            "mlp", depth=8, activation="relu", init="normal", gain=1.4, bad_layer=3, bad_gain=1e5
        ),
        Case.of("loud_logits", std=5.0),
    ],
    silent_on=[
        Case.of("loud_logits"),
        Case.of("loud_logits", std=1e-4),
        Case.of("mlp", depth=8, activation="tanh", init="normal", gain=1.0),
        Case.of("mlp", depth=4, activation="tanh", init="normal", gain=1.667),
        Case.of("mlp", depth=24, activation="relu", init="normal", gain=1.414),
        Case.of("mlp", depth=3, activation="tanh", scale=100.0),
        Case.of("mlp", depth=100, activation="sigmoid"),
    ],
    live=_live,
    live_fires_on=[Case.of("relu_stack", gain=10.0)],
    live_silent_on=[Case.of("relu_stack"), Case.of("perceptron"), Case.of("convolutions")],
)
def init_gain_too_large(trace: Trace, limits: Limits) -> Iterator[Finding]:
    """Weights initialised too large for the activation they feed.

    What it finds:
        Layers whose weight gain is far above the critical one, where that shows: the gradient
        or the signal grows by decades, a bounded activation works on its flats, or a classifier
        begins far surer, and wronger, than a guess. The layer that makes the logits is among
        them.

    Why it matters:
        With unbounded activations chi > 1 multiplies the gradient at every layer until it
        overflows or one step destroys the weights. With bounded ones the pre-activations land
        on the flats, where phi' = 0 and single units cannot learn.

    How it is measured:
        sigma_w against the largest critical gain of the activation; and, to convict, decades
        gained in the ledger, growth of the signal, the share of entries with |phi'| below 5 %
        of its steepest value, or the first cross entropy over ln(classes); in a run
        the latter, or attention that begins one-hot where most layers are so, beside the weights
        as they were before the first step.

    Silent when:
        Nothing grows and nothing saturates: a large gain that the next layer, a norm or a skip
        absorbs is nobody's trouble. Inputs that saturate the first layer are unscaled-input. In
        a look after training steps.

    References:
        Glorot and Bengio 2010; Poole et al. 2016; Pennington, Schoenholz, Ganguli 2017. The
        makemore lecture (Karpathy) shows the saturated case.
    """
    if trace.run.step:
        return  # trained weights are no initialisation
    large = [
        (weights, act, ratio)
        for weights, act, ratio in gains(trace, limits.readout_gain)
        if ratio > limits.ratio
    ]
    if not large:
        return
    total = trace.total_decades or 0.0
    growth = max(total, -(trace.signal_lost or 0.0))
    chance = loss_over_guess(trace, limits.logits)
    flat = [
        weights
        for weights, act, _ in large
        if act is not None
        and act.function in KNOWN
        and activation(act.function).bounded
        and act.flat_share > limits.flat_share
        and _fed_by_a_layer(trace, weights)
    ]
    excess = sum(math.log10(r) for _, _, r in large)
    grows, sure = growth >= limits.decades, chance >= limits.loss_over_chance
    told = [r for w, _, r in large if w.share > 0.99 and not taken_back(trace, w)]
    product = sum(math.log10(r) for r in told)
    loud = product >= limits.product and loudest(trace) >= limits.logits
    if not (grows or sure or loud) and len(flat) < max(1, len(large) // 2):
        return
    weights, act, ratio = max(large, key=lambda item: item[2])
    if math.log10(ratio) > limits.alone * excess:
        large.sort(key=lambda item: item[0] is not weights)  # one place does it: named first
    assert weights.weights is not None
    if grows:
        shown = f"{growth:.1f} decades of growth"
    elif sure:
        shown = f"the first loss is {chance:.3g} times that of a guess"
    elif loud:
        shown = f"together {10.0 ** min(product, 300.0):.3g} times, which no norm takes back"
    else:
        shown = f"{len(flat)} layers on their flats"
    needs = act.function if act is not None else "a layer without activation"
    yield Finding(
        code="INI102",
        name="init-gain-too-large",
        severity=Severity.ERROR,
        modules=tuple(dict.fromkeys(w.module for w, _, _ in large)),
        source=large[0][0].source,
        summary=(
            f"{len(large)} layer(s) start with weight gain up to {weights.weights.sigma_w:.3g},"
            f" {ratio:.2g} times what {needs} needs: {shown}"
        ),
        evidence=(
            Evidence(
                quantity="weight gain over critical gain",
                observed=ratio,
                limit=limits.ratio,
                module=weights.module,
            ),
            Evidence(
                quantity="growth of gradient or signal",
                observed=growth,
                limit=limits.decades,
                unit="decades",
            ),
            *(
                (
                    Evidence(
                        quantity="first loss, beside that of a guess",
                        observed=trace.run.loss or 0.0,
                        limit=(trace.run.loss or 0.0) / chance,
                        unit="nats",
                    ),
                )
                if chance > 0
                else ()
            ),
        ),
        weight=max(growth, float(len(flat)), excess),
        explains=_EXPLAINS,
        exculpation="neither growth nor saturation",
    )


def _fed_by_a_layer(trace: Trace, weights: Operation) -> bool:
    """Whether a layer reads other layers, so that its own gain and no input scale is to blame."""
    scale = max((i.stats.rms for i in trace.inputs if i.floating), default=1.0)
    return bool(weights.upstream) or scale < 3.0
