"""Traces and findings by hand, for remedies that read nothing but numbers."""

import math
from typing import Any

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.layout import GroupFacts, OptimizerFacts, Rehearsed
from gradmend.records.ledger import Ledger
from gradmend.records.prescription import Advice, Prescription, Refusal
from gradmend.records.stats import Stats
from gradmend.records.trace import Parameter, Run, Trace
from gradmend.registry import Remedy, find

FAN_IN, FAN_OUT = 64, 32


def parameter(name: str, rms: float = 0.1, log10_grad: float = -1.0, **changes: Any) -> Parameter:
    count = FAN_IN * FAN_OUT
    fields: dict[str, Any] = {
        "shape": (FAN_OUT, FAN_IN),
        "trainable": True,
        "reached": True,
        "exact_zero": False,
        "module": name.rpartition(".")[0],
        "stats": Stats(count=count, sum_of_squares=count * rms**2, max_abs=rms),
    }
    return Parameter(name=name, log10_grad=log10_grad, **{**fields, **changes})


def trace(
    optimizer: str = "SGD",
    *,
    parameters: tuple[Parameter, ...] | None = None,
    norms: tuple[float, ...] = (),
    losses: tuple[float, ...] | None = None,
    options: dict[str, Any] | None = None,
    facts: dict[str, Any] | None = None,
    decades: float | None = 0.0,
    **run: Any,
) -> Trace:
    every = parameters or (parameter("0.weight"), parameter("2.weight"), parameter("4.weight"))
    group = GroupFacts(
        options={"lr": 0.1, **(options or {})}, parameters=tuple(p.name for p in every)
    )
    return Trace(
        run=Run(model="M", batch_size=64, **run),
        parameters=every,
        optimizer=OptimizerFacts(name=optimizer, groups=(group,), **(facts or {})),
        ledger=Ledger(cotangent="loss", total_decades=decades, unexplained_decades=0.0, root=None),
        rehearsed=Rehearsed(
            losses=losses if losses is not None else (1.0,) * len(norms),
            log10_norms=norms,
            own_optimizer=True,
        ),
    )


def finding(name: str, quantity: str = "", observed: float = 0.0, **more: Any) -> Finding:
    return Finding(
        code="X",
        name=name,
        severity=Severity.ERROR,
        modules=more.pop("modules", ()),
        summary="",
        evidence=(Evidence(quantity=quantity, observed=observed, **more),),
    )


def ask(remedy: str, of: Trace, *findings: Finding | str) -> list[Prescription | Refusal | Advice]:
    found = find(remedy)
    assert isinstance(found, Remedy)
    given = tuple(f if isinstance(f, Finding) else finding(f) for f in findings)
    assert all(f.name in found.treats for f in given)
    return list(found(given, of))


def edits(answers: list[Any]) -> list[dict[str, Any]]:
    assert all(isinstance(answer, Prescription) for answer in answers), answers
    return [dict(answer.edits[0].args) for answer in answers]


def refusal(answers: list[Any]) -> str:
    (answer,) = answers
    assert isinstance(answer, Refusal), answer
    assert answer.reason
    return answer.reason


def weight_norm(rms: float = 0.1) -> float:
    return rms * math.sqrt(FAN_IN * FAN_OUT)
