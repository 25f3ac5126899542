"""The verdict in a sentence, and the figures that stand beside it."""

from __future__ import annotations

import re

from gradmend.records.report import Report
from gradmend.renderers import numbers, run_words, words
from gradmend.renderers.visible import escape, isolate

MOST_OF_A_TILE = 40
"""Characters; longer facts are folded."""

JUDGED = {"error": "needs a repair", "warning": "could train better"}
"""What the gravest finding means, by its severity."""

CUT_OFF = "Its process is gone without an end of the run; what it had written is shown."
"""Of a run that is told as killed: by whom cannot be known."""


def hero(report: Report) -> str:
    """The first section: verdict, lead, figures."""
    kind, sign = _badge(report)
    facts = [*words.fact_lines(report.facts), *_run_facts(report)]
    tiles, texts = [], []
    for label, value in facts:
        if "\n" in value or len(value) > MOST_OF_A_TILE:
            lines = "\n".join(escape(line) for line in value.splitlines())
            texts.append(
                f"<details><summary>{escape(label)}</summary><pre><code>{lines}</code></pre></details>"
            )
        else:
            tiles.append(f"<div><dt>{escape(label)}</dt><dd>{isolate(arrows(value))}</dd></div>")
    shown = f'<dl class="tiles">{"".join(tiles)}</dl>' if tiles else ""
    return (
        f'<p class="brand"><span class="badge {kind}">{escape(sign)}</span></p>'
        f"<h1>{escape(arrows(_sentence(report)))}</h1>"
        f'<p class="lead">{powers(_lead(report))}</p>{shown}{"".join(texts)}\n'
    )


def _badge(report: Report) -> tuple[str, str]:
    if report.verdict is not None:
        return ("good", "✓ repaired") if report.verdict.kept else ("open", "○ left as it was")
    causes = report.findings
    if report.watched is not None:  # as the sentence below it: by what stands on its own
        causes = tuple(entry.finding for entry in run_words.ranked(report)[0]) or causes
    worst = max((f.severity for f in causes), key=lambda s: s.rank, default=None)
    if report.healthy:
        run = report.watched
        if run is not None and (not run.steps or run.status in ("crashed", "killed")):
            waits = "○ no step yet" if run.status == "running" else "○ no step seen"
            return "open", f"○ {run_words.state_words(run)}" if run.steps else waits
        return "good", "✓ healthy"
    level = worst.value if worst else "note"
    sign, kind = ("✕", "bad") if level == "error" else ("!", "open")
    return kind, f"{sign} {JUDGED.get(level, level)}"


def _sentence(report: Report) -> str:
    if report.watched is not None and report.verdict is None:
        return run_words.verdict(report)
    return words.verdict_sentence(report)


def _lead(report: Report) -> str:
    parts: list[str | None] = []
    run = report.watched
    if run is not None and report.verdict is None:
        name = run.name or report.trace.run.model or "The run"
        parts.append(f"{name} ({run_words.state_words(run)}).")
        stopped = run_words.stopped_words(run)
        parts += [f"{stopped[:1].upper()}{stopped[1:]}."] if stopped else []
        parts += [f"It ended with {run.crash.rstrip('.')}."] if run.crash else []
        parts += [CUT_OFF] if run.status == "killed" else []
        if run.first_bad is not None:
            parts.append(
                f"The first value that is not finite: {run_words.bad_words(run.first_bad)}."
            )
        still = run_words.still_words(run)
        parts += [f"{still[:1].upper()}{still[1:]}."] if still else []
    if report.ledger is not None or run is None:
        parts += [words.ledger_sentence(report), words.after_sentence(report)]
    return " ".join(filter(None, parts))


def _run_facts(report: Report) -> list[tuple[str, str]]:
    run = report.watched
    if run is None:
        return []
    facts = [("steps", f"{run.steps:,}"), ("time", numbers.seconds(run.seconds))]
    loss = run_words.loss_words(run).removeprefix("loss ")
    before = " before the repair" if report.verdict is not None and report.verdict.kept else ""
    facts += [(f"loss{before}, first → last", loss)] if loss else []
    handled = run_words.handled_words(run)
    facts += [("clipped or skipped", "; ".join(handled))] if handled else []
    facts += [("rank", f"{run.rank} of {run.ranks}")] if run.ranks > 1 else []
    return facts if run.steps else []


def arrows(sentence: str) -> str:
    """``2.3 -> 0.4`` as it is set, not as it is typed."""
    return sentence.replace(" -> ", " → ")


def powers(sentence: str) -> str:
    """Escaped text with ``10^-85.3`` set as a power."""
    return re.sub(r"10\^-?([\d.]*\d)", _raised, escape(sentence))


def _raised(found: re.Match[str]) -> str:
    sign = "\N{MINUS SIGN}" if "^-" in found[0] else ""
    return f"10<sup>{sign}{found[1]}</sup>"
