"""The whole flow on one page: check, fix, apply."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gradmend.edits import Bench, apply_edits
from gradmend.engine.budget import (
    DEFAULT_STEPS,
    FEWEST_STEPS,
    affordable_steps,
    deadline_of,
)
from gradmend.engine.data import MOST_BATCHES, Batches, TrialData, trial_data
from gradmend.engine.examine import examine
from gradmend.engine.files import read_prescription
from gradmend.engine.measure import Measurer
from gradmend.engine.predictions import check_predictions
from gradmend.engine.prescribe import forbidden_changes, prescribe
from gradmend.engine.progress import shown_progress
from gradmend.engine.rehearsal import LEARNING_RATE
from gradmend.engine.repaired import Fix, edited_batches, edited_loss
from gradmend.engine.trial import Tell, Track, Trial
from gradmend.engine.watching.interventions import tell_applied
from gradmend.errors import BadInput, GradmendError
from gradmend.probe.batch import Batch, Feeder, Forward, LossFn, check_module, map_tensors
from gradmend.probe.look import look
from gradmend.records.finding import Severity
from gradmend.records.prescription import Prescription
from gradmend.records.report import Report
from gradmend.records.trace import Run, Trace
from gradmend.records.verdict import Verdict
from gradmend.theory.guessing import loss_of_guessing

REHEARSED_STEPS = 50
"""Of the user's own optimizer before a repair: what is balanced at step 0 may be gone by then
(a deep post-norm transformer; Xiong et al. 2020)."""
DEEP = 200
"""Layers from which a trial is thrifty: a step is dear, a rate must be small, so a training takes
more of them (our choice: the depth beyond which remedies-and-theory.md 4 had to scale the rate)."""
MOST_STEPS = 1000
"""Steps of a training in a thrifty race, at most."""
ENOUGH_STEPS = 60
"""Steps of a thrifty training below which other seeds are left out for longer ones (our choice);
the verdict says so."""
RACE_SHARE = 0.35
"""Share of what is left of the budget that a thrifty race takes; the rest trains the winner on."""
TRAIN_UNTIL = 0.9
"""Share of the budget after which the winner is not trained on: the report takes time, too."""
REHEARSAL_SECONDS = 20.0
"""What those steps may take, as they are expected to: a sixth of the usual budget (our choice)."""
LAST_LOOKS = 1.2
"""Times what the first examination took that is kept for looks at the repaired network."""
LAST_OPENINGS = 3.0
"""Times what applying the edits took that is kept for that look, too: the network is taken
apart, made anew, and put together again (at 100,000 layers 280 s in all, after a first look of
136)."""
LONG_LOOK = 30.0
"""Seconds from which the repaired network is looked at once: before its training, where the
predictions were made for."""
CHEAP_SECONDS = 0.35
"""What measurements beyond the first look may take in a check that was not asked for steps: with
the look, a small model is checked within a second."""


def check(
    model: nn.Module,
    batch: Batch,
    loss_fn: LossFn | None = None,
    *,
    steps: int = 0,
    forward: Forward | None = None,
    precision: str = "auto",
    learning_rate: float = LEARNING_RATE,
    optimizer: torch.optim.Optimizer | None = None,
    second_batch: Batch | None = None,
    tell: Callable[[str, float | None], None] | None = None,
) -> Report:
    """Look at a model on one batch and say what keeps its gradient from flowing.

    The model is left as it was, bit for bit: parameters, buffers, gradients, random state,
    train/eval flags and hooks.

    Args:
        model: Any ``nn.Module``.
        batch: ``(x, y)``: ``loss_fn(model(x), y)``, a tuple x is unpacked; or a mapping:
            ``loss_fn(model(**batch), batch)``; or anything, with ``forward``.
        loss_fn: The loss, one number.
        steps: Also take this many steps on copies of the weights and look again, for what only
            shows after a while. Without it a few are taken where that is cheap.
        forward: ``(model, batch) -> loss``, instead of ``loss_fn``.
        precision: ``auto``, ``float64`` or ``native``; see :func:`gradmend.probe.look.look`.
        learning_rate: Of those steps, which Adam takes where no ``optimizer`` is given.
        optimizer: The one that trains the model: its copy takes those steps, and is judged too.
        second_batch: Another batch, for what one batch cannot decide.
        tell: Called with a line on what is going on; silent where not given.

    Returns:
        The report; ``report.findings`` is ranked, the cause to start with first.

    Raises:
        BadInput: If model, batch and loss do not fit together; in one line what and why.
    """
    feeder = Feeder(loss_fn=loss_fn, forward=forward)
    if not isinstance(steps, int) or steps < 0:
        raise BadInput(f"steps={steps!r} is no number of steps", "", "pass 0 or more")
    if optimizer is not None:
        _check_optimizer(model, optimizer)
    return examine(
        Measurer(
            model=model,
            batch=batch,
            feeder=feeder,
            precision=precision,
            second_batch=second_batch,
            optimizer=optimizer,
            learning_rate=learning_rate,
            steps=steps or None,
            seconds=CHEAP_SECONDS,
        ),
        tell or (lambda text, share: None),
    )


def fix(
    model: nn.Module,
    batches: Batches,
    loss_fn: LossFn | None = None,
    *,
    optimizer: torch.optim.Optimizer,
    val: Batches | None = None,
    steps: int | None = None,
    keep: Iterable[str] = (),
    budget: str = "120 s",
    seed: int = 0,
    seeds: int = 3,
    forward: Forward | None = None,
    tell: Tell | None = None,
) -> Fix:
    """Find the cause, race the remedies on the user's own data, keep the smallest that works.

    Edits are made in place. If nothing beats the model as it is, or anything raises, it comes
    back bit for bit as it was; a healthy model is not touched at all.

    Args:
        model: Any ``nn.Module``; trained or not.
        batches: Training batches: re-iterable, a zero-argument callable, or an iterator.
        loss_fn: The loss, one number.
        optimizer: The live optimizer of the model's parameters; trials use it and put it back.
        val: Unseen batches to judge on; split off where not given.
        steps: How long a training is, in optimizer steps; chosen to fit the budget where not
            given (300 at most).
        keep: What must not change: any of "activations", "architecture", "parameters",
            "optimizer", "data".
        budget: Of the whole trial: ``"120 s"`` or ``"500 steps"``.
        seed: Of batch order and of everything drawn anew.
        seeds: Trainings of original and winner that must agree.
        forward: ``(model, batch) -> loss``, instead of ``loss_fn``.
        tell: Called with a line on what is going on and the share of the budget used; a live
            line on stderr where not given and that is a terminal.

    Returns:
        The fix; ``fix.prescription`` is false when nothing was changed, and ``fix.verdict``
        says why.

    Raises:
        BadInput: If model, data, loss, optimizer or budget do not fit together.
    """
    if tell is None:
        with shown_progress() as shown:
            return fix(
                model, batches, loss_fn, optimizer=optimizer, val=val, steps=steps, keep=keep,
                budget=budget, seed=seed, seeds=seeds, forward=forward, tell=shown,
            )  # fmt: skip
    keep = (keep,) if isinstance(keep, str) else tuple(keep)
    forbidden_changes(keep)
    deadline = deadline_of(budget)
    if steps is not None and steps < 1:
        raise BadInput(f"steps={steps} is no training", "", "pass at least 1, or leave it out")
    check_module(model)
    _check_optimizer(model, optimizer)
    feeder = Feeder(loss_fn=loss_fn, forward=forward)
    if isinstance(batches, Iterator):  # used up by one pass: keep what it gave
        batches = list(islice(batches, MOST_BATCHES))
    data = trial_data(batches, val)
    tell("looking at the gradient", 0.0)
    with _users_errors_as_one_line(model):
        report = examine(
            Measurer(
                model=model,
                batch=data.train[0],
                feeder=feeder,
                second_batch=data.train[1] if len(data.train) > 1 else None,
                more=data.train[1:REHEARSED_STEPS],
                optimizer=optimizer,
                steps=min(REHEARSED_STEPS, steps or DEFAULT_STEPS),
                seconds=CHEAP_SECONDS,
                allowance=REHEARSAL_SECONDS,
            )
        )
    trace, looked = report.trace, deadline.elapsed
    kept = LAST_LOOKS * looked

    def unchanged(reason: str, verdict: Verdict | None = None, **more: Any) -> Fix:
        verdict = verdict or Verdict(kept=False, reason=reason, seconds=deadline.elapsed)
        return Fix(
            model=model,
            optimizer=optimizer,
            loss_fn=loss_fn,
            batches=batches,
            forward=forward,
            prescription=Prescription(model=trace.run.model),
            verdict=verdict,
            report=replace(report, verdict=verdict, **more),
        )

    if report.healthy:
        return unchanged("healthy: nothing was found that a repair could mend; nothing was changed")
    candidates = prescribe(report.at_least(Severity.WARNING), trace, keep)
    report = replace(report, advice=candidates.advice)
    if not candidates.prescriptions:
        reason = (
            f"only the source can be mended: {candidates.advice[0].text}"
            if candidates.advice
            else "no remedy fits what was found"
        )
        return unchanged(f"{reason}; nothing was changed", refusals=candidates.refusals)
    track = Track(
        model=model,
        optimizer=optimizer,
        feeder=feeder,
        data=data,
        deadline=deadline,
        seed=seed,
        tell=tell,
        thrifty=steps is None and len(trace.weights) >= DEEP,
    )
    trial = Trial(
        trainer=track,
        steps=steps or DEFAULT_STEPS,
        deadline=deadline,
        seed=seed,
        seeds=seeds,
        tell=tell,
        combine=candidates.combined,
        guess=loss_of_guessing(trace),
        thrifty=track.thrifty,
    )
    with _users_errors_as_one_line(model):
        trial.steps = steps or _planned_steps(trial, track, len(candidates.prescriptions), kept)
    if trial.steps < FEWEST_STEPS and steps is None:
        return unchanged(
            f"a budget of {budget} allows {trial.steps} steps per training, too few to prove"
            " anything; nothing was changed"
        )
    with _users_errors_as_one_line(model):
        winner, verdict = trial.run(candidates.prescriptions, candidates.local)
        if winner is not None and trial.thrifty and trial.kept is not None:
            kept += LAST_OPENINGS * track.opening
            rest = min(0.5, kept / deadline.seconds) if deadline.seconds else 0.0
            until = min(TRAIN_UNTIL, 1.0 - rest)
            track.train_on(trial.kept, until, "training the repaired network on")
    refusals = (*candidates.refusals, *track.refusals)
    if winner is None or track.bench is None:
        return unchanged(verdict.reason, verdict, refusals=refusals)
    try:
        fresh = _look_untrained(track, winner, feeder, data)
        long = looked > LONG_LOOK
        after = fresh if long else look(track.bench.model, data.train[0], feeder)
    except BaseException:  # also Ctrl-C: nobody holds the Fix yet that would say what changed
        track.take_back()
        raise
    verdict = replace(verdict, checked=check_predictions(winner.predictions, fresh))
    return Fix(
        model=track.bench.model,
        optimizer=optimizer,
        loss_fn=edited_loss(track.bench, loss_fn),
        batches=edited_batches(track.bench, batches),
        forward=edited_loss(track.bench, forward),
        prescription=winner,
        verdict=verdict,
        report=replace(
            report, prescription=winner, refusals=refusals, verdict=verdict, after=after
        ),
        steps_trained=trial.kept.steps if trial.kept is not None else trial.steps,
        notes=(*track.bench.notes, *((data.note,) if data.note else ())),
    )


def apply(
    prescription: Prescription | Mapping[str, Any] | str | Path,
    model: nn.Module,
    *,
    optimizer: torch.optim.Optimizer | None = None,
    batches: Batches | None = None,
    loss_fn: LossFn | None = None,
    forward: Forward | None = None,
    seed: int = 0,
) -> Fix:
    """Make a prescription's edits on a freshly built model, without a trial.

    Args:
        prescription: The record, its dict, or the path of its JSON file.
        model: A model of the same structure as the one it was written for.
        optimizer: The optimizer to edit along (learning rate, new parameters).
        batches: Data, for edits that measure it.
        loss_fn: The loss, for those edits.
        forward: ``(model, batch) -> loss``, instead of ``loss_fn``.
        seed: Added to the seeds of what the edits draw.

    Returns:
        The fix, untrained.

    Raises:
        CannotApply: If an edit does not fit the model; it is then as it was.
        BadInput: If the prescription is not one.
    """
    if not isinstance(prescription, Prescription):
        prescription = read_prescription(prescription)
    run_batch = None
    if batches is not None and (loss_fn is not None or forward is not None):
        feeder = Feeder(loss_fn=loss_fn, forward=forward)
        first = _first(batches)

        def run_batch(edited: nn.Module) -> Any:
            # A copy: the model may write into its input, and this batch is the user's own.
            return feeder.loss(edited, map_tensors(first, lambda t: t.detach().clone()))

    state = torch.get_rng_state()
    try:
        bench = apply_edits(
            Bench(model=model, optimizer=optimizer, run_batch=run_batch, seed=seed),
            prescription.edits,
        )
    finally:
        torch.set_rng_state(state)
    tell_applied(prescription, model, optimizer)
    return Fix(
        model=bench.model,
        optimizer=optimizer,
        loss_fn=edited_loss(bench, loss_fn),
        batches=edited_batches(bench, batches),
        forward=edited_loss(bench, forward),
        prescription=prescription,
        report=Report(
            trace=Trace(run=Run(model=type(model).__name__)),
            prescription=prescription,
        ),
        notes=tuple(bench.notes),
    )


def _first(batches: Batches) -> Batch:
    source = batches() if callable(batches) else batches
    for batch in source:
        return batch
    raise BadInput("batches holds no batch", "an edit measures the data", "pass some")


def _planned_steps(trial: Trial, track: Track, candidates: int, kept: float) -> int:
    """How long the trainings of a race can be; where steps are dear, with one seed if need be."""
    if not trial.thrifty:
        return affordable_steps(trial.deadline, track.pace, candidates, trial.seeds)
    pace = track.pace() if trial.deadline.steps is None else 1.0
    for seeds, share in ((trial.seeds, RACE_SHARE), (1, 2 * RACE_SHARE)):
        trial.seeds = seeds
        steps = affordable_steps(
            trial.deadline,
            lambda: pace,
            candidates,
            trial.seeds,
            most=MOST_STEPS,
            share=share,
            kept=kept,
            thrifty=True,
            lifeless=track.lifeless,
        )
        if steps >= ENOUGH_STEPS:
            break
    return steps


def _look_untrained(track: Track, winner: Prescription, feeder: Feeder, data: TrialData) -> Trace:
    """Look at the repaired model before its training, where the predictions were made for."""
    with track.untrained(winner) as model:
        return look(model, data.train[0], feeder)


@contextmanager
def _users_errors_as_one_line(model: nn.Module) -> Iterator[None]:
    """What the user's model, loss or data raise in a trial, told like any other bad input.

    The trial has put everything back by then; the original error stays attached as the cause.
    """
    try:
        yield
    except (GradmendError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise BadInput(
            f"{type(model).__name__} or its loss raised {type(error).__name__} while training:"
            f" {' '.join(str(error).split())[:300]}",
            "a trial trains on every batch, and one of them does not fit; nothing was changed",
            "run your own loop over all batches once to see which",
        ) from error


def _check_optimizer(model: nn.Module, optimizer: Any) -> None:
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise BadInput(
            f"optimizer is a {type(optimizer).__name__}, not a torch optimizer",
            "trials train with the user's own",
            "pass the instance, for example torch.optim.Adam(model.parameters())",
        )
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if not any(id(p) in held for p in model.parameters()):
        raise BadInput(
            "the optimizer holds none of the model's parameters",
            "its steps would change nothing",
            "build it from this model's parameters()",
        )
