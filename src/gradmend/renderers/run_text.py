"""A watched run as text: verdict, figures, findings, depth, books, what could not be seen."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from gradmend.records.history import Floats, History
from gradmend.records.report import Report
from gradmend.renderers import numbers, run_words
from gradmend.renderers.bars import sparkline
from gradmend.renderers.paper import drawn, put
from gradmend.renderers.run_books import step_books
from gradmend.renderers.run_profile import layers
from gradmend.renderers.run_tables import (
    attention_table,
    books_table,
    depth_table,
    fate_table,
    recurrence_table,
    share,
    size,
)
from gradmend.renderers.tables import Look
from gradmend.renderers.text import finding_parts, ledger_parts
from gradmend.theory.fates import fates

MOST_OPTIMIZERS = 4
MOST_UNSEEN = 20
MOST_INTERVENTIONS = 20


def render_run(
    report: Report,
    history: History,
    *,
    width: int | None = None,
    colour: bool | None = None,
    ascii: bool | None = None,
) -> str:
    """Draw the report on a run as text.

    Args:
        report: On the run.
        history: The run itself.
        width: Columns, held between 40 and 160; by default those of the terminal.
        colour: Whether to send colour codes; by default only to a terminal, and not where
            ``NO_COLOR`` is set.
        ascii: Whether to keep to ASCII; by default where the output is no terminal that takes
            more, unless colour is asked for.

    Returns:
        Lines ending in newlines, none wider than ``width``.
    """
    return drawn(
        lambda look: run_parts(report, history, look), width=width, colour=colour, ascii=ascii
    )


def print_run(
    report: Report, history: History, console: Console, *, ascii: bool | None = None
) -> None:
    """Print the report on a run on a console, at the console's width.

    Args:
        report: On the run.
        history: The run itself.
        console: Where to; its width is used up to 160 columns.
        ascii: Keep to ASCII; by default where the console's encoding takes nothing else.
    """
    look = Look.of(console, ascii=ascii)
    put(console, run_parts(report, history, look), look)


def run_parts(report: Report, history: History, look: Look) -> Iterator[RenderableType]:
    """The parts in reading order: verdict, figures, findings, depth, books, small print."""
    run = run_words.watched_of(report)
    name = run.name or report.trace.run.model or "run"
    state = run_words.state_words(run)
    yield Text(look.say(f"{name} ({state}): {run_words.verdict(report)}"), style="bold")
    stopped = run_words.stopped_words(run, history.run.planned_steps)
    if stopped:
        yield Text(look.say(f"{stopped[:1].upper()}{stopped[1:]}."))
    if run.crash:
        yield Text(look.say(f"It ended with {run.crash}"))
    yield Text()
    yield from _figures(report, history, look)
    yield from _findings(report, look)
    yield from _interventions(history, look)
    yield from _depth(history, look)
    if report.ledger is not None:
        yield from (Text(), _title("The gradient ledger"), *ledger_parts(report, look))
    yield from _applied(history, look)
    for title, table in (
        ("Attention, newest", attention_table(history, look)),
        ("Through time, newest", recurrence_table(history, look)),
    ):
        if table is not None:
            yield from (Text(), _title(title), table)
    yield from _small_print(report, history, look)


def _figures(report: Report, history: History, look: Look) -> Iterator[RenderableType]:
    run = run_words.watched_of(report)
    lines: list[tuple[str, str]] = [("steps", run_words.steps_words(run))]
    if run.command:
        lines.append(("command", run.command))
    if run.models:
        lines.append(("model", ", ".join(run.models)))
    steps = history["step"]
    room = min(look.width - 41, 60)
    for at, column in enumerate(steps.columns[:MOST_OPTIMIZERS]):
        several = len(steps.columns) > 1
        if several:
            lines.append((f"{column.name}", ""))
        for label, value in _optimizer(history, at, room, look):
            lines.append((f"  {label}" if several else label, value))
    if len(steps.columns) > MOST_OPTIMIZERS:
        more = len(steps.columns) - MOST_OPTIMIZERS
        lines.append(("and", numbers.count(more, "more optimizer")))
    if run.skipped_steps > 0:
        lines.append(("skipped", f"{share(run.skipped_steps)} of the steps, by the loss scaler"))
    still = run_words.still_words(run)
    if still:
        lines.append(("still", still))
    if run.first_bad is not None:
        bad = run.first_bad
        lines.append(("first bad", run_words.bad_words(bad)))
        lines.append(("", run_words.bad_circumstances(bad)))
        why = bad.why if not bad.replayed else ""
        lines += [("", why)] if why else []
    yield _labelled([(look.say(a), look.say(b)) for a, b in lines])


def _optimizer(history: History, at: int, room: int, look: Look) -> Iterator[tuple[str, str]]:
    """Figures of one optimizer, those that change over time with a picture of it."""
    steps = history["step"]
    _, loss = steps.series("loss", at)
    finite = loss[np.isfinite(loss)]
    if len(finite):
        values = np.log10(finite) if (finite > 0).all() else finite
        edge = max(1, min(20, len(finite) // 5))  # medians: one batch says little
        ends = [float(np.median(part)) for part in (finite[:edge], finite[-edge:])]
        words = f"{numbers.number(ends[0])} -> {numbers.number(ends[1])}"
        yield "loss", _with_picture(words, values, room, look)
    _, rate = steps.series("learning_rate", at)
    if len(rate):
        yield "learning rate", _range(rate)
    _, norm = steps.series("log10_norm", at)
    norm = norm[np.isfinite(norm)]
    if len(norm):
        words = f"{size(float(norm.min()))} to {size(float(norm.max()))}"
        yield "gradient norm", _with_picture(words, norm, room, look)
    _, limit = steps.series("clip_limit", at)
    _, factor = steps.series("clip_factor", at)
    if len(limit):
        clipped = factor[factor < 1.0]
        words = f"{share(len(clipped) / len(factor))} of the steps" if len(factor) else "by value"
        words += f", to {numbers.number(float(np.median(limit)))}"
        if len(clipped):
            words += f"; then to {numbers.number(float(np.median(clipped)))} of the gradient"
        yield "clipped", words
    _, scale = steps.series("loss_scale", at)
    if len(scale):
        yield "loss scale", _range(scale)
    _, batch = steps.series("batch_size", at)
    if len(batch):
        yield "batch size", _range(batch)


def _range(values: Floats) -> str:
    low, high = float(values.min()), float(values.max())
    if low == high:
        return numbers.number(low)
    first, last = float(values[0]), float(values[-1])
    words = f"{numbers.number(low)} to {numbers.number(high)}"
    return f"{words} (first {numbers.number(first)}, last {numbers.number(last)})"


def _with_picture(words: str, values: Floats, room: int, look: Look) -> str:
    low, high = float(values.min()), float(values.max())
    picture = sparkline(list(values), room, look.glyphs, low=low, high=high)
    return f"{words:<22}  {picture}" if len(values) > 3 and high > low else words


def _findings(report: Report, look: Look) -> Iterator[RenderableType]:
    run = run_words.watched_of(report)
    causes, notes = run_words.ranked(report)
    for rank, entry in enumerate(causes, start=1):
        yield Text()
        yield from finding_parts(entry, rank, look)
        spells = [spell for spell in run.spells if spell.name == entry.finding.name]
        if spells:
            words = look.say(run_words.spell_words(spells, run.steps))
            yield _labelled([("   held", words)], width=12)
    if notes:
        yield Text()
    for note in notes:
        yield Text(look.say(f"note: {note.code} {note.name}: {note.summary}"), style="dim")
    shown = {finding.name for finding in report.findings}
    past = [spell for spell in run.spells if spell.name not in shown]
    if past:
        yield Text()
        yield _title("Cleared since")
        for name in dict.fromkeys(spell.name for spell in past):
            mine = [spell for spell in past if spell.name == name]
            words = run_words.spell_words(mine, run.steps)
            yield Text(look.say(f"{mine[0].code} {name} ({mine[0].severity}): {words}"))


def _interventions(history: History, look: Look) -> Iterator[RenderableType]:
    """What gradmend itself did: edits, and controls that began to act."""
    events = list(history.of_kind("intervention"))
    if not events:
        return
    yield Text()
    yield _title("What gradmend changed")
    for event in events[:MOST_INTERVENTIONS]:
        yield _labelled([(f"step {event.step:,}", look.say(event.text))])
        for edit in event.facts.get("edits") or ():
            named = [str(name) or "(the model)" for name in edit.get("targets") or ()]
            more = int(edit.get("of") or 0) - len(named)
            where = ", ".join([*named, f"{more:,} more"] if more > 0 else named)
            kind = str(edit.get("kind", "")).replace("_", " ")
            yield _labelled([("", look.say(f"{kind}: {where}" if where else kind))])
    if len(events) > MOST_INTERVENTIONS:
        left = numbers.count(len(events) - MOST_INTERVENTIONS, "more event")
        yield Text(f"and {left}, which the page marks", style="dim")


def _depth(history: History, look: Look) -> Iterator[RenderableType]:
    rows = layers(history)
    if not rows:
        return
    gradient = history["gradient"]
    yield Text()
    yield _title("Over depth")
    measured = numbers.count(len(gradient), "measured step")
    yield Text(
        look.say(
            f"root mean square of each gradient as the optimizer got it, at the first and the last"
            f" of {measured}"
        ),
        style="dim",
    )
    yield depth_table(rows, look)


def _applied(history: History, look: Look) -> Iterator[RenderableType]:
    """The books of a step, and what became of every parameter's gradient."""
    for at in range(min(len(history["step"].columns), MOST_OPTIMIZERS)):
        books = step_books(history, at)
        if books is None:
            continue
        yield Text()
        yield _title(f"From gradient to weights: {look.say(books.optimizer)}, step {books.step:,}")
        yield books_table(books, look)
        if books.decay_share > 0:
            words = f"weight decay's part is {share(books.decay_share)} of the change"
            yield Text(look.say(words), style="dim")
    columns = history["gradient"].columns
    if columns:
        yield Text()
        yield fate_table(columns, fates(history), look)


def _small_print(report: Report, history: History, look: Look) -> Iterator[RenderableType]:
    run, facts = run_words.watched_of(report), history.run
    if run.notes:
        yield Text()
        yield _title("Could not be seen")
        yield from (Text(look.say(f"- {note}")) for note in run.notes[:MOST_UNSEEN])
        if len(run.notes) > MOST_UNSEEN:
            yield Text(f"- and {len(run.notes) - MOST_UNSEEN:,} more", style="dim")
    parts = [run_words.cost_words(run)]
    if run.overhead_seconds > 0:
        took = numbers.seconds(run.overhead_seconds)
        beside = f"beside {numbers.seconds(run.seconds)} of training"
        parts = [f"{parts[0]} {beside}" if took in parts[0] else f"{parts[0]}, {took} {beside}"]
    if run.setup_seconds > 0:
        parts.append(f"{numbers.seconds(run.setup_seconds)} to set up, once")
    versions = [
        f"{name} {value}"
        for name, value in (
            ("torch", facts.torch), ("Python", facts.python), ("gradmend", facts.gradmend),
        )
        if value
    ]  # fmt: skip
    where = f"rank {facts.rank} of {facts.ranks}" if facts.ranks > 1 else ""
    begun = f"begun {facts.started_at}" if facts.started_at else ""
    yield Text()
    cost = ", ".join(part for part in parts if part)
    if cost:
        yield Text(look.say(f"{cost[:1].upper()}{cost[1:]}."), style="dim")
    last = [*versions, facts.device, where, begun]
    yield Text(look.say(" | ".join(part for part in last if part)), style="dim")


def _title(text: str) -> Text:
    return Text(text.upper(), style="bold")


def _labelled(lines: list[tuple[str, str]], *, width: int | None = None) -> Table:
    """Labels on the left, values beside them, wrapped under themselves."""
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(width=width or max([10, *(min(len(a), 24) for a, _ in lines)]), no_wrap=True)
    table.add_column(overflow="fold")
    for label, value in lines:
        table.add_row(Text(label, style="dim"), Text(value))
    return table
