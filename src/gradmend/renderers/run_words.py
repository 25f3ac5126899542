"""The sentences that every view of a watched run shares, made from the report's numbers alone."""

from __future__ import annotations

import math

from gradmend.records.finding import Finding, Severity
from gradmend.records.report import Report
from gradmend.records.watched import FirstBadValue, Spell, Watched
from gradmend.renderers import numbers
from gradmend.renderers.visible import visible
from gradmend.renderers.words import Folded, fold_findings

NOTEWORTHY = 0.05
"""Share of clipped or skipped steps from which a closing line speaks of it."""
FEW_SECONDS = 3.0
"""Cost of watching below which a share of a short run says nothing: most of it is spent once."""
NO_STEP = (
    "Rules judge training steps, and none was seen: the optimizer that is watched has to take one,"
    " of a model that is watched, before the watching ends."
)
"""What to tell of a run without a step, instead of findings."""
NO_STEP_YET = "Rules judge training steps; none has been written yet."
"""The same while it runs."""
_DIRECTIONS = {
    "forward": "on the way forward",
    "loss": "in the loss",
    "backward": "on the way back",
    "weights": "in the weights",
}


def watched_of(report: Report) -> Watched:
    """The run of a report; an empty one where it is a report on a single look."""
    if report.watched is not None:
        return report.watched
    return Watched(
        name="",
        command="",
        models=(),
        status="",
        steps=report.trace.run.step,
        seconds=0.0,
        overhead_seconds=0.0,
        setup_seconds=0.0,
        budget=0.0,
    )


def ranked(report: Report) -> tuple[list[Folded], list[Finding]]:
    """Findings that stand on their own, each with those it explains; and the notes beside them.

    A note under a graver finding stays there; a note on its own is counted with the notes, and
    what a note explains but outranks it stands on its own, for nothing grave may be hidden.
    """
    causes: list[Folded] = []
    notes: list[Finding] = []
    for entry in fold_findings(report.findings):
        if entry.finding.severity is not Severity.NOTE:
            causes.append(entry)
            continue
        notes.append(entry.finding)
        for other in entry.explains:
            if other.severity is Severity.NOTE:
                notes.append(other)
            else:
                causes.append(Folded(other))
    return causes, notes


def state_words(run: Watched) -> str:
    """How the run stands: ``finished``, ``still running``, ``killed``..."""
    words = {"running": "still running"}
    return words.get(run.status, visible(run.status) or "watched")


def verdict(report: Report) -> str:
    """What is to be said of the run, in one sentence."""
    run = watched_of(report)
    if not run.steps and run.status == "running":
        return "Waiting for the first training step."
    if not run.steps:
        return "No training step was seen, so nothing can be said of the training."
    causes, notes = ranked(report)
    if causes:
        top = causes[0].finding
        worst = max((entry.finding.severity for entry in causes), key=lambda s: s.rank)
        keeps = worst is Severity.ERROR and run.learns is not True  # a loss that falls is training
        hurt, what = ("keep", "it from training") if keeps else ("hurt", "its training")
        if len(causes) == 1:
            return f"{visible(top.name)} {hurt}s {what}."
        return f"{len(causes)} causes {hurt} {what}, {visible(top.name)} first."
    if run.first_bad is not None:
        return f"A value that is not finite was met at step {run.first_bad.step:,}."
    ends = {
        "crashed": "Nothing was found before the crash.",
        "stopped": "Nothing was found, and it was ended early.",
        "killed": "Nothing was found in what was written before it was killed.",
    }
    if run.status in ends:
        return ends[run.status]
    aside = f" ({numbers.count(len(notes), 'note')})" if notes else ""
    if run.learns is False:
        return f"Nothing found{aside}, though the loss fell by no more than its noise."
    return f"Healthy: nothing found{aside}."


def steps_words(run: Watched) -> str:
    """``1,200 steps in 34 s``."""
    return f"{numbers.count(run.steps, 'step')} in {numbers.seconds(run.seconds)}"


def loss_words(run: Watched) -> str:
    """``loss 2.31 -> 0.42``; empty where no loss was seen."""
    if run.loss_first is None or run.loss_last is None:
        return ""
    return f"loss {loss_word(run.loss_first)} -> {loss_word(run.loss_last)}"


def loss_word(loss: float | None) -> str:
    """A loss as it is told: NaN and infinity are no numbers, and none is ``n/a``."""
    known = loss is None or math.isfinite(loss)
    return numbers.number(loss) if known else "not finite"


def cost_words(run: Watched) -> str:
    """``watching cost 1.3 % (budget 2 %)``; of a short run in seconds, as some are spent once."""
    if not run.seconds > 0:
        return ""
    if run.overhead_seconds < FEW_SECONDS and run.overhead > run.budget:
        return f"watching cost {numbers.seconds(run.overhead_seconds)}"
    cost = 100 * run.overhead
    words = f"watching cost {cost:.1f} %" if cost < 10 else f"watching cost {cost:,.0f} %"
    if math.isfinite(run.budget) and run.budget > 0:
        words += f" (budget {100 * run.budget:.3g} %)"
    return words


def still_words(run: Watched) -> str:
    """What did not move; empty where everything did."""
    parts = []
    if _some(run.still_steps):
        took = f" ({numbers.seconds(run.still_seconds)})" if run.still_seconds > 0 else ""
        parts.append(f"in {_share(run.still_steps)} of the steps{took}")
    if _some(run.still_parameters) and run.still_parameters >= 0.005:  # a bias or two may rest
        parts.append(f"in {_share(run.still_parameters)} of the parameters")
    return f"nothing moved {' and '.join(parts)}" if parts else ""


def handled_words(run: Watched) -> list[str]:
    """Shares of the steps that were clipped or skipped, where noteworthy."""
    parts = []
    if run.clipped_steps is not None and run.clipped_steps >= NOTEWORTHY:
        parts.append(f"{_share(run.clipped_steps)} of the steps clipped")
    if run.skipped_steps >= NOTEWORTHY:
        parts.append(f"{_share(run.skipped_steps)} of the steps skipped")
    return parts


def stopped_words(run: Watched, planned: int | None = None) -> str:
    """Why a run was ended early, when, and what that saved; empty where it was not."""
    if not run.stopped and run.status != "stopped":
        return ""
    why = visible(run.stopped).rstrip(".") or "the training cannot recover"
    words = f"ended early after {steps_words(run)}: {why}"
    left = (planned or 0) - run.steps
    if left > 0 and run.steps and run.seconds > 0:
        spared = left * run.seconds / run.steps
        return (
            f"{words}; saved about {numbers.seconds(spared)} ({numbers.count(left, 'step')} of the"
            f" {planned:,} planned)"
        )
    return f"{words}; saved the rest of the run"


def bad_words(bad: FirstBadValue) -> str:
    """Where the first value that is not finite arose: ``step 40, in the loss: log <- mul``."""
    where, operation = visible(bad.module), operation_words(bad.operation)
    place = f"{where} ({operation})" if where and operation else where or operation
    place = place or "an operation outside the modules"
    words = f"step {bad.step:,}, {_DIRECTIONS.get(bad.direction, visible(bad.direction))}: {place}"
    return f"{words} [{visible(bad.source)}]" if bad.source else words


def operation_words(operation: str) -> str:
    """An operation, or the first of a chain of them: ``log <- softmax <- addmm <- ...``."""
    chain = visible(operation).split(" <- ")
    return " <- ".join(chain if len(chain) <= 3 else [*chain[:3], "..."])


def bad_circumstances(bad: FirstBadValue) -> str:
    """``batch 32 x 16; last good step 39``."""
    good = f"last good step {bad.last_good:,}" if bad.last_good >= 0 else "no step before was good"
    batch = " x ".join(str(size) for size in bad.batch)
    return f"batch {batch}; {good}" if batch else good


def spell_words(spells: list[Spell], steps: int) -> str:
    """When a finding held: ``steps 120 to 340, and since step 900``."""
    parts = []
    for spell in spells[-4:]:
        if spell.cleared is None:
            lasted = max(steps - spell.began, 0)
            parts.append(f"since step {spell.began:,} ({numbers.count(lasted, 'step')})")
        else:
            parts.append(f"steps {spell.began:,} to {spell.cleared:,}")
    more = len(spells) - len(parts)
    before = f"{numbers.count(more, 'earlier time')}, " if more else ""
    return before + ", ".join(parts)


def next_command(folder: str | None) -> str:
    """What to type next; without a folder, how to get one."""
    if folder:
        return f"gradmend report {shell_word(folder)}"
    return 'watch with run="runs/x" to keep the numbers'


def shell_word(text: str) -> str:
    """A path as it is typed in a shell: quoted where it must be."""
    shown = visible(text)
    plain = shown and all(letter.isalnum() or letter in "_./-+=:,@%~" for letter in shown)
    return shown if plain else "'" + shown.replace("'", "'\\''") + "'"


def _some(share: float) -> bool:
    return math.isfinite(share) and share > 0


def _share(share: float) -> str:
    """A share for a sentence: ``100 %``, ``12 %``, ``0.4 %``."""
    return f"{100 * share:.2g} %" if share < 0.0995 else f"{100 * share:.0f} %"
