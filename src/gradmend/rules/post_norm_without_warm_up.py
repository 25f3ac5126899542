"""RES103: norms on the residual stream, and first steps that are too large for them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.request import Measurement, Request
from gradmend.records.trace import Operation, Trace
from gradmend.registry import Case, limit, rule


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


@rule(
    code="RES103",
    limits=Limits,
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
        with norm_first=False, whose gradient is lost after the first steps of training.

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
        The gradient is kept after those steps (a warm-up, a small rate, few layers); norms stand
        in the branches (pre-norm, norm after the sublayer). Before any step it is asked, not said.

    References:
        Xiong et al. 2020 (On layer normalization in the transformer architecture); Liu et al.
        2020 (Understanding the difficulty of training transformers); pytorch/pytorch#55270.
    """
    norms = _norms_on_the_stream(trace)
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
        explains=(
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
            "unsuited-epsilon",
            "constant-input",
        ),
        exculpation="a gradient that survives the first steps",
    )


def _norms_on_the_stream(trace: Trace) -> list[Operation]:
    """Normalisations that all of the gradient passes right behind a sum of two."""
    return [
        op
        for op in trace.operations
        if op.cause == "normalisation"
        and op.name != "batch_norm"
        and op.share > 0.98
        and any(
            # A sum that something else reads too has a skip past the norm: pre-norm.
            _is_sum(trace.operations[at]) and trace.readers.get(at) == (op.id,)
            for at in op.upstream
        )
    ]


def _is_sum(op: Operation) -> bool:
    return op.name in ("add", "add_") and len(op.upstream) > 1


def _lost(trace: Trace, limits: Limits) -> float:
    """Decades lost, if as many as that; else 0."""
    ledger = trace.ledger
    if ledger is None:
        return 0.0
    if ledger.total_decades is None:
        return 99.0 if ledger.blocked_by is not None else 0.0
    lost = -ledger.total_decades
    return lost if lost >= limits.decades else 0.0
