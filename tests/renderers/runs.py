"""Watched runs made by hand, without torch: histories and the reports on them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.history import QUANTITIES, Column, Event, History, RunFacts, Table
from gradmend.records.report import Report
from gradmend.records.trace import Run, Trace
from gradmend.records.watched import FirstBadValue, Spell, Watched

HOSTILE = (
    "\x1b[31mred\x1b[0m\x1b]0;title\x07",
    "[red]markup[/red] :smile: | `code` <script>",
    "two\nlines\r\nand\ttab",
    "ünïcödé 层 🔥",
    "\u202eevil\u202c",
    "a" * 300,
    "\ud800",
    "",
)


def table(name: str, columns: Sequence[Column], steps: Any, values: dict[str, Any]) -> Table:
    """A table; values broadcast to [rows, columns]."""
    shape = (len(steps), len(columns))
    filled = {
        quantity: np.broadcast_to(np.asarray(given, dtype=float), shape).copy()
        for quantity, given in values.items()
    }
    assert not set(filled) - set(QUANTITIES[name])
    return Table(
        name=name,
        columns=tuple(columns),
        steps=np.array(steps, dtype=np.int64),
        values=filled,
    )


def parameters(names: Sequence[str], **facts: Any) -> list[Column]:
    shared = {"optimizer": 0, "group": 0, "trainable": True, "registered": True} | facts
    return [
        Column(
            name=f"{name}.weight",
            module=name,
            kind="weight",
            order=at,
            shape=(8, 8),
            dtype="float32",
            source=f"net.py:{at + 1}  nn.Linear(8, 8)",
            facts=shared,
        )
        for at, name in enumerate(names)
    ]


def run(
    steps: int = 60,
    *,
    names: Sequence[str] = ("layers.0", "layers.1", "layers.2"),
    seed: int = 0,
    noise: float = 0.05,
    lost: float = 0.0,
    optimizer: str = "AdamW",
    rate: float = 1e-3,
    clip: bool = False,
    events: Sequence[Event] = (),
    **facts: Any,
) -> History:
    """A plausible training: a falling loss, ``lost`` decades of gradient per layer."""
    draw = np.random.default_rng(seed)
    depth = len(names)
    count = np.arange(steps)
    loss = 2.3 * np.exp(-count / (steps + 1)) * 10 ** draw.normal(0, noise / 3, steps)
    level = -2.0 - lost * np.arange(depth)[::-1]
    gradient = level + draw.normal(0, noise, (steps, depth))
    norm = 0.5 * np.log10((10 ** (2 * gradient)).sum(axis=1) * 64)
    every = count[::5]
    columns = parameters(names)
    outputs = [
        Column(name=name, module=name, kind="Linear", order=at) for at, name in enumerate(names)
    ]
    factor = 0.5 if clip else 1.0
    step = {
        "loss": loss[:, None],
        "learning_rate": rate,
        "log10_norm": (norm + math.log10(factor))[:, None],
        "log10_raw_norm": norm[:, None],
        "clip_factor": factor,
        "skipped": 0.0,
        "backwards": 1.0,
        "batch_size": 32.0,
        "seconds": 0.01,
        "log10_update_norm": -2.0,
        "unchanged_share": 0.0,
    }
    if clip:
        step["clip_limit"] = 1.0
    tables = {
        "step": table("step", [Column(name=optimizer, kind=optimizer, order=0)], count, step),
        "gradient": table(
            "gradient",
            columns,
            count,
            {"state": 2.0, "log10_rms": gradient, "zero_share": 0.0, "non_finite": 0.0},
        ),
        "update": table(
            "update",
            columns,
            every,
            {
                "log10_weight": -1.0 + draw.normal(0, noise / 10, (len(every), depth)),
                "log10_ratio": -3.0 + draw.normal(0, noise, (len(every), depth)),
                "unchanged_share": 0.01,
                "lost_share": 0.0,
                "decay_share": 0.1,
            },
        ),
        "output": table(
            "output",
            outputs,
            every,
            {
                "log10_rms": -0.3 + draw.normal(0, noise, (len(every), depth)),
                "flat_share": 0.2,
                "dead_share": 0.0,
            },
        ),
    }
    calls = outputs[:2]
    tables["attention"] = table(
        "attention",
        calls,
        every,
        {"entropy": 0.8, "largest_share": 0.1, "largest_logit": 3.2, "masked_rows": 0.0},
    )
    tables["recurrence"] = table(
        "recurrence",
        calls,
        every,
        {"log10_gain": -0.2, "log10_span": -5.0, "horizon": 2.17, "spectral_radius": 0.7,
         "forget_gate": 0.5},
    )  # fmt: skip
    known: dict[str, Any] = {
        "name": "good",
        "command": "train.py --rate 1e-3",
        "models": ("Net",),
        "started_at": "2026-01-02T03:04:05+00:00",
        "status": "finished",
        "steps": steps,
        "seconds": 34.0,
        "overhead_seconds": 0.44,
        "torch": "2.13.0",
        "python": "3.12.1",
        "gradmend": "0.1.0",
    }
    return History(run=RunFacts(**(known | facts)), tables=tables, events=tuple(events))


def finding(
    name: str = "vanishing-gradient", severity: Severity = Severity.ERROR, **changes: Any
) -> Finding:
    given: dict[str, Any] = {
        "code": "GRF102",
        "name": name,
        "severity": severity,
        "modules": ("layers.0", "layers.1"),
        "summary": "the gradient of the first 2 weight matrices of 3 stays 6.1 decades below that"
        " of the later ones, and the first one's is exactly zero in one step of ten",
        "evidence": (Evidence(quantity="decades", observed=6.1, limit=3.0, unit="decades"),),
        "source": "train.py:42  nn.Sigmoid()",
    }
    return Finding(**(given | changes))


def report(history: History, findings: Sequence[Finding] = (), **changes: Any) -> Report:
    facts = history.run
    given: dict[str, Any] = {
        "name": facts.name,
        "command": facts.command,
        "models": facts.models,
        "status": facts.status,
        "steps": facts.steps,
        "seconds": facts.seconds,
        "overhead_seconds": facts.overhead_seconds,
        "setup_seconds": 0.2,
        "budget": facts.budget,
        "loss_first": 2.31,
        "loss_last": 0.42,
        "learns": True,
    }
    trace = Trace(run=Run(model="Net"))
    return Report(trace=trace, findings=tuple(findings), watched=Watched(**(given | changes)))


BAD = FirstBadValue(
    step=40,
    direction="forward",
    module="layers.1",
    operation="log",
    source="train.py:17",
    last_good=39,
    batch=(32, 16),
    replayed=True,
)


def hostile(text: str) -> tuple[Report, History]:
    """Every string of a run is the same hostile text."""
    history = run(names=(text, f"{text}.1", f"{text}.2"), optimizer=text, command=text, name=text,
                  models=(text,), torch=text, python=text, gradmend=text, device=text,
                  started_at=text)  # fmt: skip
    bad = FirstBadValue(
        step=3, direction=text, module=text, operation=text, source=text, last_good=-1, why=text
    )
    told = report(
        history,
        [
            finding(name=text or "x", code=text, summary=text, source=text, modules=(text,),
                    remedies=(text,), exculpation=text),
            finding(name="other", explained_by=text or "x", summary=text),
            finding(name="noted", severity=Severity.NOTE, summary=text),
        ],
        first_bad=bad,
        crash=text,
        stopped=text,
        status="stopped",
        notes=(text, text + "2", text + "3"),
        spells=(Spell(code=text, name=text, severity=text, began=1),),
    )  # fmt: skip
    return told, history
