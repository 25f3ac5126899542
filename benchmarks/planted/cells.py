"""The cells of the matrix: which there are, and how one is measured."""

from __future__ import annotations

import hashlib
import math
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from types import ModuleType
from typing import Any

import torch

import gradmend
from gradmend.records.report import Report
from planted import (
    activations,
    faulty_data,
    fitted,
    graphs,
    held_out,
    initialisation,
    losses,
    numbers,
    optimisation,
    sequences,
)
from planted.benign import HABITS
from planted.plants import LOOK, PLANTS
from planted.training import Batch, Training, judged

SPLITS: dict[str, ModuleType] = {"fit": fitted, "report": held_out}
FAULTS = (
    *(initialisation, activations, sequences, numbers, optimisation),
    *(graphs, losses, faulty_data),
)
"""Imported so that their plants are in the list."""
WORSE = 0.15
"""Share of the healthy twin's progress that a fault must cost to count (our choice)."""
LEARNS = 0.3
"""Share of its first loss that a healthy training must have lost (our choice)."""
JUDGED_ON = 8
"""Batches."""
AFTER = 50
"""Steps of ``check(steps=...)``."""


@dataclass(frozen=True)
class Case:
    """One training: an architecture in a size, with an optimizer, a seed, and a fault or habit."""

    split: str
    arch: str
    size: str
    optimizer: str
    seed: int
    what: str
    planted: bool

    @property
    def name(self) -> str:
        """Unique, and where it is in the order."""
        kind = "fault" if self.planted else "healthy"
        return "/".join(
            (kind, self.what, self.arch, self.size, self.optimizer, f"seed{self.seed}", self.split)
        )

    @property
    def entries(self) -> tuple[str, ...]:
        """The entry points at which it can show."""
        return PLANTS[self.what].entries if self.planted else LOOK


def order(text: str) -> str:
    """A reshuffling that is the same everywhere."""
    return hashlib.sha1(text.encode()).hexdigest()


def settings(split: str, arch: str, what: str) -> Iterator[tuple[str, str, int]]:
    """Size, optimizer and seed, in an order of their own for each plant and architecture."""
    module = SPLITS[split]
    optimizers = module.ADAPTIVE if arch in module.ONLY_ADAPTIVE else module.OPTIMIZERS
    every = [
        (size, optimizer, seed)
        for size in module.SIZES
        for optimizer in optimizers
        for seed in module.SEEDS
    ]
    yield from sorted(every, key=lambda s: order(f"{what}{arch}{s}"))


def cases(split: str, planted: bool, per: int) -> list[Case]:
    """Every plant (or habit) times every architecture, ``per`` settings each, widest first.

    A prefix of the list is a fair sample: all plants come before any comes again.
    """
    found: list[tuple[int, str, Case]] = []
    for what in PLANTS if planted else HABITS:
        mine: list[Case] = []
        for factory in SPLITS[split].FACTORIES:
            arch = factory.__name__.replace("_", "-")
            taken = 0
            for size, optimizer, seed in settings(split, arch, what):
                case = Case(split, arch, size, optimizer, seed, what, planted)
                if taken < per and build(case) is not None:
                    mine.append(case)
                    taken += 1
        turns: dict[str, int] = defaultdict(int)
        for case in sorted(mine, key=lambda c: order(c.name)):
            round_ = turns[case.arch] * len(mine) + sum(turns.values())
            turns[case.arch] += 1
            found.append((round_, order(case.name), case))
    return [case for *_, case in sorted(found, key=lambda item: item[:2])]


def bare(case: Case) -> Training:
    """The healthy twin, before it runs."""
    module = SPLITS[case.split]
    wanted = case.arch.replace("-", "_")
    factory = next(f for f in module.FACTORIES if f.__name__ == wanted)
    torch.manual_seed(case.seed)
    training: Training = factory(*module.SIZES[case.size])
    training.optimizer_name = case.optimizer
    return training


def build(case: Case) -> tuple[Training, tuple[str, ...]] | None:
    """The training with its fault or habit, and the guilty modules; ``None`` if it has no place."""
    training = bare(case)
    if not case.planted:
        return (training, ()) if HABITS[case.what](training) else None
    guilty = PLANTS[case.what].change(training)
    return None if guilty is None else (training, tuple(sorted(set(guilty))))


@cache
def twin(case: Case, steps: int) -> tuple[float, float]:
    """The healthy loss before and after as many steps; by the case with its fault left out."""
    training = bare(case)
    batches = [training.draw() for _ in range(JUDGED_ON)]
    healthy = bare(case)
    before = normal(judged(training, batches, healthy), batches, training)
    training.steps = steps
    training.begin()
    training.run()
    return before, normal(judged(training, batches, healthy), batches, training)


def normal(loss: float, batches: list[Batch], training: Training) -> float:
    """A regression's loss over the spread of its targets, which a fault may change."""
    if training.task not in ("regress", "rebuild"):
        return loss
    spread = float(torch.cat([y for _, y in batches]).float().var())
    return loss / max(spread, 1e-12)


def harm(case: Case, trained: Training) -> str:
    """What became of the training: ``worse`` or ``harmless``, ``learns`` or ``idle``.

    A fault counts by what it costs against the healthy twin, on data like its own; where the twin
    itself does not learn (``twin idle``), nothing is known.
    """
    fresh = build(case)
    assert fresh is not None
    batches = [fresh[0].draw() for _ in range(JUDGED_ON)]
    healthy = bare(case)
    after = normal(judged(trained, batches, healthy), batches, healthy)
    if not case.planted:
        before = normal(judged(fresh[0], batches, healthy), batches, healthy)
        enough = before if healthy.critic is None else math.inf  # a maker's score may rise
        return "learns" if after < (1 - LEARNS) * enough else "idle"
    first, last = twin(replace(case, what="", planted=False), trained.steps)
    if not last < (1 - LEARNS) * first and healthy.critic is None:
        return "twin idle"
    if healthy.critic is not None:  # a maker's score is noisy: it must end where it began
        return "worse" if not after < max(first, 2 * last) else "harmless"
    return "worse" if not after < last + WORSE * abs(first - last) else "harmless"


def said(report: Report) -> list[dict[str, Any]]:
    """What a report warns of, the first first."""
    return [
        {"name": f.name, "severity": f.severity.value, "modules": list(f.modules[:4])}
        for f in report.at_least("warning")
    ]


def notes(report: Report) -> list[str]:
    """Names of what a report mentions without a warning, the first first."""
    return [f.name for f in report.findings if f.severity.value == "note"][:3]


def place(module: str, guilty: tuple[str, ...]) -> bool:
    """Whether a module is one of the guilty; in several models a name begins with the model's."""
    return module in guilty or any(g and module.endswith(f".{g}") for g in guilty)


def measure(case: Case, entries: tuple[str, ...]) -> list[dict[str, Any]]:
    """One row an entry point."""
    rows = []
    state = ""
    for entry in sorted(entries, key=lambda e: e != "watch"):  # a watch says what the harm is
        made = build(case)
        assert made is not None
        training, guilty = made
        began = time.process_time()
        report, failed = None, ""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                report = look(training, entry) if entry != "watch" else watched(training)
            except Exception as error:
                failed = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            seconds = time.process_time() - began
            if entry == "watch":
                state = harm(case, training)
        named = [] if report is None else said(report)
        first = named[0] if named else {"name": "", "modules": []}
        fault = PLANTS[case.what] if case.planted else None
        rows.append(
            {
                "case": case.name,
                "entry": entry,
                "planted": case.planted,
                "what": case.what,
                "arch": case.arch,
                "cause": fault.cause if fault else "",
                "accepted": [fault.cause, *fault.also] if fault else [],
                "guilty": list(guilty),
                "exact": fault.exact if fault else False,
                "harm": state,
                "first": first["name"],
                "module_right": any(place(m, guilty) for m in first["modules"][:1]),
                "named": named,
                "notes": [] if report is None else notes(report),
                "error": failed,
                "seconds": round(seconds, 2),
            }
        )
    return rows


def look(training: Training, entry: str) -> Report:
    """``check`` on the first batch."""
    batch = training.draw()
    return gradmend.check(
        training.model, batch, training.loss_fn, steps=AFTER if entry == "steps" else 0
    )


def watched(training: Training) -> Report:
    """A training under ``watch``, as a user has it; what the training raises ends it."""
    training.begin()
    watch = gradmend.watch(training.models, training.optimizers)
    try:
        with watch:
            training.run()
    except (RuntimeError, ValueError, IndexError):
        training.losses.append(float("nan"))
    return watch.report()
