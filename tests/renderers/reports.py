"""Reports made by hand, without torch: every shape that a view must survive."""

from __future__ import annotations

import math
from dataclasses import replace

from gradmend.records.finding import CannotJudge, Evidence, Finding, Severity
from gradmend.records.ledger import Entry, Ledger, sum_by_cause
from gradmend.records.prescription import Advice, Change, Edit, Prediction, Prescription, Refusal
from gradmend.records.report import Report
from gradmend.records.request import Measurement, Request
from gradmend.records.stats import Stats
from gradmend.records.trace import (
    ActivationFacts,
    Input,
    Operation,
    Parameter,
    Run,
    Signal,
    Trace,
)
from gradmend.records.verdict import Arm, Checked, Verdict

HOSTILE = (
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(1)>",
    "\x1b[31mred\x1b[0m\x1b]0;title\x07",
    "[red]markup[/red] [link=http://example.com]x[/link] :smile:",
    "two\nlines\r\nand\ttab",
    "ünïcödé 层 🔥 e\u0301",
    "\u202eevil\u202c \u2066x\u2069 שלום",
    "\u2028\u2029&amp; \" ' < > %s {0}",
    "a" * 300,
    "\ud800",
)


def layer(k: int, decades: float, predicted: float | None, name: str | None = None) -> Entry:
    linear = k % 2 == 0
    return Entry(
        name=str(k) if name is None else name,
        kind="module",
        label="Linear(64, 64)" if linear else "Sigmoid",
        cause="weights" if linear else "activation-derivative",
        decades=decades,
        own_decades=decades,
        predicted=predicted,
    )


def book(children: tuple[Entry, ...], **changes: object) -> Ledger:
    total = sum(child.decades for child in children)
    root = Entry(name="", kind="module", label="Sequential", decades=total, children=children)
    by_cause = dict.fromkeys((c.cause or "other" for c in children), 0.0)
    for child in children:
        by_cause[child.cause or "other"] += child.decades
    ledger = Ledger(
        cotangent="loss",
        total_decades=total,
        unexplained_decades=1.4e-14,
        imbalance=3e-15,
        root=root,
        start="the inputs",
        log10_cotangent=-0.8,
        by_cause=by_cause,
    )
    if all(math.isfinite(c.predicted or 0.0) for c in children):
        ledger = replace(ledger, predicted_by_cause=sum_by_cause(root, predicted=True))
    return replace(ledger, **changes)  # type: ignore[arg-type]


def signal(spread: float = 0.01) -> Signal:
    return Signal(
        mean_square=0.3,
        offset_square=0.3 - spread,
        spread_square=spread,
        mean=0.5,
        max_abs=1.0,
        units=64,
        samples=32,
    )


def operations(count: int) -> tuple[Operation, ...]:
    facts = ActivationFacts(
        function="sigmoid",
        slope_rms=0.24,
        slope_max=0.25,
        flat_share=0.0,
        dead_units=0,
        units=64,
        samples=32,
        steepest_slope=0.25,
    )
    return tuple(
        Operation(
            id=k,
            name="linear" if k % 2 == 0 else "sigmoid",
            cause="weights" if k % 2 == 0 else "activation-derivative",
            module=str(k),
            decades=-0.24 if k % 2 == 0 else -0.61,
            share=1.0,
            signal=signal(10.0 ** -min(k, 30)),
            activation=None if k % 2 == 0 else facts,
        )
        for k in range(count)
    )


def deep(layers: int) -> Report:
    """A chain of [Linear, Sigmoid] with its findings; ``layers`` counts the entries."""
    children = tuple(
        layer(k, -0.24 if k % 2 == 0 else -0.61, -0.25 if k % 2 == 0 else -0.6)
        for k in range(layers)
    )
    modules = tuple(str(k) for k in range(1, layers, 2)) or ("0",)
    cause = Finding(
        code="ACT101",
        name="attenuating-activation",
        severity=Severity.ERROR,
        modules=modules,
        summary="sigmoid layers multiply the gradient by at most 0.25 each",
        evidence=(
            Evidence(quantity="decades lost", observed=61.2, limit=4.0, unit="decades"),
            Evidence(quantity="slope", observed=0.233, limit=0.5, module="1", step=3),
        ),
        source="train.py:42  nn.Sigmoid()",
        confidence=0.9,
        explains=("vanishing-gradient",),
        exculpation="a skip that pays the loss back",
        remedies=("critical-init", "replace-activation"),
    )
    symptom = Finding(
        code="GRF102",
        name="vanishing-gradient",
        severity=Severity.ERROR,
        modules=(),
        summary="the gradient loses 85.3 decades",
        explained_by="attenuating-activation",
        symptom=True,
    )
    trace = Trace(
        run=Run(model="Sequential", torch="2.13", parameters=414602, batch_size=32, loss=2.3),
        operations=operations(layers),
        ledger=book(children),
    )
    return Report(trace=trace, findings=(cause, symptom), made_at="2026-01-01T00:00:00+00:00")


def empty() -> Report:
    return Report(trace=Trace(run=Run(model="Net")))


def healthy() -> Report:
    return replace(deep(4), findings=())


def arm(name: str, seed: int, unseen: float | None, **changes: object) -> Arm:
    losses = tuple((k, 2.3 * math.exp(-0.02 * k * (name != "original"))) for k in range(100))
    made = Arm(name=name, seed=seed, steps=100, losses=losses, unseen=unseen, seconds=1.0)
    return replace(made, **changes)  # type: ignore[arg-type]


def repaired(*, kept: bool = True) -> Report:
    predictions = (
        Prediction(quantity="total_decades", low=-2, high=2, unit="decades", sentence="it keeps"),
        Prediction(quantity="signal_lost", low=-2, high=2),
    )
    return replace(
        deep(20),
        prescription=Prescription(
            edits=(
                Edit(
                    kind="initialise",
                    targets=tuple(f"{k}.weight" for k in range(0, 20, 2)),
                    args={"scheme": "orthogonal", "seed": 0, "gains": [4.0, 4.2], "biases": [None]},
                ),
                Edit(kind="scale_learning_rate", args={"factor": 0.1}),
                Edit(kind="an_unknown_kind", targets=("x",), args={"flag": True, "rows": [["a"]]}),
            ),
            predictions=predictions,
            changes=(Change.INITIALISATION,),
            reason="draw the weights at the critical gain",
        ),
        refusals=(Refusal(remedy="add-skip", finding="x", reason="keep forbids it"),),
        verdict=Verdict(
            kept=kept,
            reason="loss on unseen data falls from 2.3 to 0.4",
            original=(arm("original", 0, 2.3), arm("original", 1, None, diverged=True)),
            winner=(arm("init", 0, 0.4), arm("init", 1, 0.42), arm("init", 2, 0.41)),
            rivals=(
                arm("relu", 0, None, error="out of memory"),
                arm("bad", 0, None, diverged=True, losses=((0, 2.3), (1, math.nan))),
                arm("none", 0, None, losses=()),
            ),
            gap_closed=0.97,
            checked=(Checked(prediction=predictions[0], observed=-0.6, held=True),),
            seconds=61.5,
            steps=4200,
        ),
        facts={"accuracy_before": 0.098, "accuracy_after": 0.912, "lines_of_python": "a = 1\nb"},
        cannot_judge=(CannotJudge(code="REC101", name="horizon", needs="a recurrent layer"),),
        undecided=(
            Request(
                code="RES103",
                name="post-norm-without-warm-up",
                measurement=Measurement.FEW_STEPS,
                why="whether the gradient is still balanced after some steps",
            ),
        ),
    )


def nothing_is_a_number() -> Report:
    report = repaired()
    nan, inf = math.nan, math.inf
    broken = (layer(0, nan, nan), layer(1, inf, None), layer(2, -inf, -inf), layer(3, -1.0, 0.0))
    ledger = book(
        broken,
        unexplained_decades=nan,
        imbalance=inf,
        log10_cotangent=nan,
        by_cause={"weights": nan, "activation-derivative": -inf, "joins": 1.0},
        predicted_by_cause={"weights": inf, "joins": nan},
    )
    blank = Signal(
        mean_square=nan,
        offset_square=nan,
        spread_square=nan,
        mean=nan,
        max_abs=inf,
        units=0,
        samples=0,
        non_finite=9,
    )
    ops = tuple(
        replace(op, decades=nan, own_decades=inf, signal=blank) for op in report.trace.operations
    )
    assert report.verdict is not None
    bad = tuple((k, nan) for k in range(5))
    return replace(
        report,
        trace=replace(
            report.trace,
            run=replace(report.trace.run, loss=nan, seconds=nan, learning_rate=inf),
            operations=ops,
            ledger=ledger,
            non_finite="3",
        ),
        findings=tuple(
            replace(
                f,
                weight=nan,
                confidence=nan,
                evidence=(Evidence(quantity="q", observed=nan, limit=inf),),
            )
            for f in report.findings
        ),
        verdict=replace(
            report.verdict,
            original=(arm("original", 0, nan, losses=bad),),
            winner=(arm("init", 0, inf, losses=((0, inf), (1, -inf))),),
            gap_closed=nan,
            seconds=inf,
            checked=(
                Checked(
                    prediction=Prediction(quantity="q", low=-inf, high=nan),
                    observed=nan,
                    held=False,
                ),
            ),
        ),
        facts={"accuracy_before": nan, "accuracy_after": inf},
    )


def hostile(text: str) -> Report:
    """The same foreign text in every place that takes one."""
    report = repaired()
    assert report.verdict is not None and report.prescription is not None
    children = (
        *(layer(k, -0.5, None, name=f"{text}.{k}") for k in range(4)),
        Entry(name=text, kind="operation", label=text, cause=text, decades=-1.0, source=text),
        Entry(name=text, kind=text, label=text, cause=None, decades=0.5, call=2),
    )
    run = Run(model=text, torch=text, dtype=text, probe_dtype=text, device=text, optimizer=text)
    ops = tuple(replace(op, module=text, name=text, source=text) for op in operations(6))
    param = Parameter(
        name=text,
        shape=(1,),
        trainable=True,
        reached=True,
        log10_grad=None,
        exact_zero=False,
        stats=Stats(),
    )
    read = Input(name=text, shape=(1,), dtype=text, floating=True, stats=Stats())
    return replace(
        report,
        trace=Trace(
            run=run,
            operations=ops,
            parameters=(param,),
            inputs=(read,),
            ledger=book(children, start=text, dtype=text, cotangent=text, notes=(text,)),
            non_finite=text,
            notes=(text,),
        ),
        findings=(
            Finding(
                code=text,
                name=text,
                severity=Severity.WARNING,
                modules=(text, text, text, text),
                summary=text,
                evidence=(
                    Evidence(quantity=text, observed=1.0, limit=2.0, unit=text, module=text),
                ),
                source=text,
                exculpation=text,
                remedies=(text,),
                explained_by=text,
            ),
            replace(deep(2).findings[1], explained_by=text, summary=text),
        ),
        cannot_judge=(CannotJudge(code=text, name=text, needs=text),),
        undecided=(
            Request(
                code=text, name=text, measurement=Measurement.SCALED_LAYER, why=text, module=text
            ),
        ),
        prescription=Prescription(
            edits=(Edit(kind=text, targets=(text,), args={text: text}),),
            predictions=(Prediction(quantity=text, low=0, high=1, unit=text, sentence=text),),
            reason=text,
        ),
        refusals=(Refusal(remedy=text, finding=text, reason=text),),
        advice=(
            Advice(
                remedy=text,
                finding=text,
                text=text,
                before=text,
                after=f"{text}\n{text}",
                source=text,
            ),
        ),
        verdict=replace(
            report.verdict,
            reason=text,
            rivals=(arm(text, 0, None, error=text),),
            checked=(),
        ),
        facts={text: text, "accuracy": text},
        made_at=text,
    )


def blocked() -> Report:
    report = deep(6)
    ledger = Ledger(
        cotangent="loss",
        total_decades=None,
        unexplained_decades=None,
        root=None,
        blocked_by="3.relu",
        notes=("every unit of 3.relu is dead",),
    )
    return replace(report, trace=replace(report.trace, ledger=ledger))


def ledger_without_total() -> Report:
    report = deep(6)
    assert report.ledger is not None
    ledger = replace(report.ledger, total_decades=None, unexplained_decades=None)
    return replace(report, trace=replace(report.trace, ledger=ledger))


def looked_again(report: Report) -> Report:
    after = book(tuple(layer(k, -0.01, -0.02) for k in range(30)))
    run = replace(report.trace.run, step=50)
    return replace(report, after=replace(report.trace, run=run, ledger=after))


REPORTS = {
    "empty": empty,
    "healthy": healthy,
    "one layer": lambda: deep(1),
    "two layers": lambda: deep(2),
    "100 layers": lambda: deep(201),
    "10,000 layers": lambda: deep(20_001),
    "repaired": repaired,
    "repaired, looked at again": lambda: looked_again(repaired()),
    "looked at again": lambda: looked_again(deep(4)),
    "not repaired": lambda: repaired(kept=False),
    "NaN everywhere": nothing_is_a_number,
    "blocked": blocked,
    "no total": ledger_without_total,
    "verdict without arms": lambda: replace(
        empty(), verdict=Verdict(kept=False, reason=""), prescription=Prescription()
    ),
    **{f"hostile {k}": (lambda text=text: hostile(text)) for k, text in enumerate(HOSTILE)},
}
