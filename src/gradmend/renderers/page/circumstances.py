"""What could not be seen, under which circumstances, and what it cost."""

from __future__ import annotations

from gradmend.records.report import Report
from gradmend.records.watched import Watched
from gradmend.renderers import numbers, run_words, words
from gradmend.renderers.page.data import MOST_OPERATIONS, is_small
from gradmend.renderers.visible import escape, isolate


def notes(report: Report) -> list[str]:
    """What no rule could judge, and what the probe could not see."""
    lines = [
        f"<li><b>{isolate(item.name)}</b> ({isolate(item.code)}) needs {isolate(item.needs)}</li>"
        for item in report.cannot_judge
    ]
    lines += [f"<li>Undecided: {isolate(line)}</li>" for line in words.undecided_lines(report)]
    if report.trace.non_finite is not None:
        place = isolate(report.trace.non_finite or "(the model)")
        lines.insert(0, f"<li>The first output that is not finite: {place}</li>")
    lines += [f"<li>{isolate(note)}</li>" for note in report.trace.notes]
    if report.watched is not None:
        lines += [f"<li>{isolate(note)}</li>" for note in report.watched.notes]
    return [f"<ul>{''.join(lines)}</ul>"] if lines else []


def circumstances(report: Report) -> list[str]:
    """Model, machine, versions, and what looking and trying took."""
    run, watched = report.trace.run, report.watched
    looked = watched is None or run.batch_size > 0  # the circumstances of the look itself
    pairs = [
        ("model", isolate(run.model)),
        ("parameters", f"{run.parameters:,}" if run.parameters else "not counted"),
        ("device", isolate(run.device)),
    ]
    if looked:
        pairs += [
            ("trained in", isolate(run.dtype)),
            ("books kept in", isolate(run.probe_dtype)),
            ("batch", f"{run.batch_size:,} samples"),
            ("loss", numbers.number(run.loss)),
            ("look took", numbers.seconds(run.seconds)),
        ]
    if watched is not None:
        pairs += _of_run(watched)
    if run.optimizer:
        pairs.append(("optimizer", isolate(run.optimizer)))
    if run.learning_rate is not None:
        pairs.append(("learning rate", numbers.number(run.learning_rate)))
    if run.step and watched is None:
        pairs.append(("steps before the look", f"{run.step:,}"))
    if report.verdict is not None:
        pairs.append(("trial took", numbers.seconds(report.verdict.seconds)))
    if run.torch:
        pairs.append(("torch", isolate(run.torch)))
    if report.made_at:
        pairs.append(("made", isolate(report.made_at)))
    facts = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in pairs)
    kept = (
        "without its per-operation records, which are more than"
        f" {MOST_OPERATIONS}; `gradmend` writes them with --json"
    )
    less = "" if is_small(report) else f", {kept}"
    link = (
        '<a id="download" download="gradmend-report.json" href="#circumstances">Download the report'
        " as JSON</a>"
    )
    return [f'<dl class="pairs">{facts}</dl><p class="small">{link}{escape(less)}.</p>']


def _of_run(run: Watched) -> list[tuple[str, str]]:
    """What was run, how it ended and what watching it cost."""
    pairs = [("command", f"<code>{isolate(run.command)}</code>")] if run.command else []
    pairs.append(("status", escape(run_words.state_words(run))))
    watched = run_words.steps_words(run) if run.steps else "no step"
    pairs.append(("watched", escape(watched)))
    cost = run_words.cost_words(run).removeprefix("watching cost ")
    pairs += [("cost of watching", escape(cost))] if cost else []
    if run.setup_seconds > 0:
        pairs.append(("set up, once", numbers.seconds(run.setup_seconds)))
    return pairs
