"""RES103: norms on the residual stream, and first steps that are too large for them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.history import History
from gradmend.records.request import Measurement, Request
from gradmend.records.trace import Trace
from gradmend.registry import Case, limit, rule
from gradmend.theory import windows
from gradmend.theory.guessing import stays_at_a_guess
from gradmend.theory.stream import norms_on_the_stream


@dataclass(frozen=True)
class Limits:
    """When post-norm has lost the gradient."""

    norms: float = limit(
        8.0,
        unit="norms",
        source="on the stream, two in a layer: four layers. Six-layer encoders train in our runs "
        "at a rate of 1e-3, and none of fewer lost its gradient",
    )
    asked: float = limit(
        16.0,
        unit="norms",
        source="from which the question is asked before it is seen: eight layers; users meet it at "
        "12 and more (pytorch/pytorch#55270)",
    )
    decades: float = limit(
        4.0,
        unit="decades",
        source="of gradient lost after some steps. Own runs, 12 layers, 24 steps of Adam: 0.3 at "
        "1e-3, where they learn; 5 to 9 at 1e-2 and 12 to 18 at 3e-2, where they do not",
    )


_EXPLAINS = (
    "vanishing-gradient",
    "collapsed-signal",
    "stalled-layers",
    "loss-plateau",
    "saturated-attention",
    "attention-logit-growth",
    "learning-rate-too-high",
    "dead-relu",
    "init-gain-too-small",
    "depth-without-skip",
    "gain-unlike-theory",
    "update-norm-spike",
    "query-key-growth",
    "learning-rate-unscaled-with-depth",
    "unsuited-epsilon",
    "constant-input",
)


def _live(history: History, limits: Limits) -> Iterator[Finding]:
    """A deep post-norm stack whose loss stays where a guess has it."""
    looks = list(history.of_kind("look"))
    norms = [str(name) for name in (looks[0].facts.get("stream_norms") or ())] if looks else []
    if len(norms) < limits.asked or not stays_at_a_guess(history):
        return
    if windows.rate_is_passing(history, 0):
        return
    course = windows.loss_course(history)[0]
    yield Finding(
        code="RES103",
        name="post-norm-without-warm-up",
        severity=Severity.ERROR,
        modules=tuple(dict.fromkeys(norms)),
        summary=(
            f"{len(norms)} norms stand on the residual stream (post-norm), and after"
            f" {int(course.steps[-1]) + 1} steps at full rate the loss is {course.last:.3g}, that"
            " of a guess: use a warm-up of the learning rate, or norms in the branches"
            " (norm_first=True)"
        ),
        evidence=(
            Evidence(
                quantity="norms on the residual stream",
                observed=float(len(norms)),
                limit=limits.asked,
                unit="norms",
                module=norms[0],
                step=history.step,
            ),
        ),
        weight=20.0,
        explains=_EXPLAINS,
        exculpation="a loss below that of a guess, or a warm-up",
    )


@rule(
    code="RES103",
    limits=Limits,
    live=_live,
    live_fires_on=[Case.of("post_norm_transformer")],
    live_silent_on=[Case.of("post_norm_transformer", norm_first=True)],
    fires_on=[
        Case.of("encoder", steps=30, rate=2e-2),
        Case.of("encoder", layers=16, steps=30, rate=2e-2, handmade=True),
    ],
    silent_on=[
        Case.of("encoder", steps=30, rate=2e-2, norm_first=True),
        Case.of("encoder", steps=30, rate=1e-4),
        Case.of("encoder", layers=2, steps=30, rate=1e-3),
        Case.of("encoder"),
        Case.of("mlp", depth=30, activation="tanh"),
    ],
)
def post_norm_without_warm_up(trace: Trace, limits: Limits) -> Iterator[Finding | Request]:
    """Deep post-norm transformer whose gradient is there at first and gone after some steps.

    What it finds:
        Residual networks with a normalisation after each sum, as in nn.TransformerEncoderLayer
        with norm_first=False, whose gradient is lost after the first steps of training, or whose
        loss stays where a guess has it.

    Why it matters:
        A norm after every sum rescales the skip too, so nothing protects the stream. At
        initialisation that is balanced, but the first steps of Adam at full rate make the
        branches outgrow the stream, and the attention of the layers above saturates: after fifty
        steps the first layers get 1e-9 of the gradient, and the loss stays where it is.

    How it is measured:
        Norms that all of the gradient passes and that read a sum of two; and the decades lost
        from the outputs to the inputs at a look after some steps, in a run or in the few steps
        that the rule asks for.

    Silent when:
        The gradient is kept after those steps (a warm-up, a small rate, few layers), and in a run
        the loss leaves that of a guess; norms stand
        in the branches (pre-norm, norm after the sublayer). Before any step it is asked, not said.

    References:
        Xiong et al. 2020 (On layer normalization in the transformer architecture); Liu et al.
        2020 (Understanding the difficulty of training transformers); pytorch/pytorch#55270.
    """
    norms = norms_on_the_stream(trace)
    if len(norms) < limits.norms:
        return
    answer = trace.answer(Measurement.FEW_STEPS)
    later = trace if answer is None else answer.trace
    lost = _lost(trace, limits) or _lost(later, limits)
    if not lost:
        if answer is None and not trace.run.step and len(norms) >= limits.asked:
            yield Request(
                code="RES103",
                name="post-norm-without-warm-up",
                measurement=Measurement.FEW_STEPS,
                why=f"whether {len(norms)} norms on the residual stream keep the gradient",
            )
        return
    # Untrained, such a stack keeps its gradient: what is lost at a first look was lost in training.
    steps = 0 if _lost(trace, limits) else later.run.step
    when = f"after {steps} steps" if steps else "as trained so far"
    modules = tuple(dict.fromkeys(op.module for op in norms))
    yield Finding(
        code="RES103",
        name="post-norm-without-warm-up",
        severity=Severity.ERROR,
        modules=modules,
        source=norms[0].source,
        summary=(
            f"{len(norms)} norms stand on the residual stream (post-norm), and {when}"
            f" the gradient loses {lost:.1f} decades on its way back: use a warm-up of the"
            " learning rate, or norms in the branches (norm_first=True)"
        ),
        evidence=(
            Evidence(
                quantity="decades lost after the first steps",
                observed=lost,
                limit=limits.decades,
                unit="decades",
                module=modules[0],
                step=steps,
            ),
            Evidence(
                quantity="norms on the residual stream",
                observed=float(len(norms)),
                limit=limits.norms,
                unit="norms",
            ),
        ),
        weight=20.0 + min(lost, 20.0),
        explains=_EXPLAINS,
        exculpation="a gradient that survives the first steps",
    )


def _lost(trace: Trace, limits: Limits) -> float:
    """Decades lost, if as many as that; else 0."""
    ledger = trace.ledger
    if ledger is None:
        return 0.0
    if ledger.total_decades is None:
        return 99.0 if ledger.blocked_by is not None else 0.0
    lost = -ledger.total_decades
    return lost if lost >= limits.decades else 0.0
