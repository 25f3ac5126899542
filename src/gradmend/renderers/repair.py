"""The repair on the page: what changed, what was promised, and the trial that judged it."""

from __future__ import annotations

import math

from gradmend.records.codec import to_plain
from gradmend.records.prescription import Prescription
from gradmend.records.report import Report
from gradmend.records.verdict import Arm, Verdict
from gradmend.renderers import numbers, plot, treatment
from gradmend.renderers.before_after import before_after_figure, before_and_after
from gradmend.renderers.how_to_apply import FILE, apply_box
from gradmend.renderers.page.figure import Lines
from gradmend.renderers.script_figures import figure_table
from gradmend.renderers.trial_figure import trial_curves, trial_figure
from gradmend.renderers.unseen_dots import unseen_dots
from gradmend.renderers.visible import Markup, escape, isolate, json_for_script

MOST_BYTES = 300_000
"""Of a prescription that the page carries; larger ones name tens of thousands of parameters."""
FEW = 6
"""Refusals that stand open."""
MOST_ROWS = 60
"""Trainings in the table."""

__all__ = ["before_and_after", "repair_figures", "repair_sections"]


def repair_sections(report: Report) -> list[str]:
    """Prescription and trial as HTML; empty where the report has neither."""
    parts = []
    if report.prescription is not None:
        parts.append(_prescription(report, report.prescription))
    if report.prescription is not None or report.verdict is not None:
        parts.append(before_and_after(report) or "")
    if report.verdict is not None:
        parts.append(_trial(report.verdict))
    if report.refusals:
        rows = [[isolate(r.remedy), isolate(r.finding), isolate(r.reason)] for r in report.refusals]
        table = plot.table(["remedy", "for", "because"], rows)
        number = numbers.count(len(rows), "remedy", "remedies")
        parts.append(
            f"<details{' open' if len(rows) <= FEW else ''}><summary>{number} refused, and why"
            f'</summary><div class="words">{table}</div></details>'
        )
    return parts


def repair_figures(report: Report) -> tuple[Lines, ...]:
    """What the page's script draws: the gradient on both looks, and the trial's curves."""
    trial = trial_figure(report.verdict) if report.verdict is not None else None
    return tuple(figure for figure in (before_after_figure(report), trial) if figure is not None)


def _prescription(report: Report, prescription: Prescription) -> str:
    reason = f"<p>{isolate(prescription.reason)}</p>" if prescription.reason else ""
    edits = "".join(f"<li>{isolate(treatment.edit_words(e))}</li>" for e in prescription.edits)
    listed = f'<ol class="edits">{edits}</ol>' if edits else "<p>Nothing is to be changed.</p>"
    head = f"<h3>What changed</h3>{reason}{listed}"
    if prescription.edits:
        head += f'<div class="apply-box">{_saved(prescription)}{apply_box(report)}</div>'
    promised = treatment.promises(report)
    if not promised:
        return head
    marks = {True: ("✓", "good"), False: ("✕", "bad"), None: ("○", "open")}
    rows = [
        [
            isolate(p.words),
            p.interval,
            p.observed or "–",
            Markup(f'<span class="{marks[p.held][1]}">{marks[p.held][0]} {p.outcome}</span>'),
        ]
        for p in promised
    ]
    table = plot.table(["it predicts", "range", "observed", "outcome"], rows)
    return f"{head}<h3>What it predicted</h3>{table}"


def _saved(prescription: Prescription) -> str:
    """The prescription itself, and a button that saves it as the file the lines below read."""
    data = json_for_script(to_plain(prescription))
    if len(data) > MOST_BYTES:
        size = numbers.bytes_words(len(data))
        return f'<p class="small">The prescription is too large for this page ({size}).</p>'
    return (
        f'<script type="application/json" id="prescription-data">{data}</script>'
        '<p class="save"><button type="button" class="copy" data-save="prescription-data" '
        f'data-name="{FILE}">Save {FILE}</button></p>'
    )


def _trial(verdict: Verdict) -> str:
    parts = [trial_curves(verdict) or ""]
    dots = unseen_dots(verdict)
    if dots:
        unseen = verdict.judged_by.name == "unseen loss"
        title = "On data not trained on" if unseen else "By its own figures"
        parts.append(f"<h3>{title}</h3>{dots}{figure_table(verdict)}{_pairs(verdict)}")
    said = []
    if verdict.gap_closed is not None and math.isfinite(verdict.gap_closed):
        share = numbers.percent(verdict.gap_closed)
        said.append(f"The winner reaches {share} of the best rival's gain over the original.")
    said.append(
        f"The trial took {numbers.count(verdict.steps, 'optimizer step')} and "
        f"{numbers.seconds(verdict.seconds)} on {numbers.count(verdict.threads, 'thread')}."
    )
    parts.append(f"<p>{escape(' '.join(said))}</p>")
    ends = _ends(verdict)
    if ends:
        parts.append(f"<details><summary>Every training in figures</summary>{ends}</details>")
    return "".join(parts)


def _pairs(verdict: Verdict) -> str:
    """Original beside winner, seed by seed."""
    pairs = treatment.pairings(verdict)
    if not pairs:
        return ""
    rows = [
        [
            f"seed {pair.seed}",
            pair.steps,
            escape(treatment.unseen_words(pair.original)),
            escape(treatment.unseen_words(pair.winner)),
            treatment.taken_off_words([pair], verdict),
        ]
        for pair in pairs
    ]
    if len(pairs) > 1:
        over_all = Markup(f"<b>{treatment.taken_off_words(pairs, verdict)}</b>")
        rows.append([Markup("<b>mean (range)</b>"), "", "", "", over_all])
    change = "added" if verdict.judged_by.higher else "taken off"
    head = [treatment.judged_words(verdict), "steps", "original", "repaired", change]
    return f"<h4>Seed by seed</h4>{plot.table(head, rows)}"


def _ends(verdict: Verdict) -> str:
    def row(kind: str, arm: Arm) -> list[str]:
        curve = treatment.curve(arm)
        ends = [numbers.number(curve[k][1]) for k in (0, -1)] if curve else ["n/a", "n/a"]
        unseen = escape(treatment.unseen_words(arm))
        return [isolate(f"{kind}: {arm.name}"), str(arm.seed), f"{arm.steps:,}", *ends, unseen]

    arms = [
        *(("original", arm) for arm in verdict.original),
        *(("repaired", arm) for arm in verdict.winner),
        *(("rival", arm) for arm in verdict.rivals),
    ]
    if not arms:
        return ""
    judged = treatment.judged_words(verdict)
    head = ["training", "seed", "steps", "first loss", "last loss", judged]
    shown = [row(kind, arm) for kind, arm in arms[:MOST_ROWS]]
    limit = "" if len(arms) <= MOST_ROWS else f"The first {MOST_ROWS} of {len(arms):,} trainings."
    return plot.table(head, shown, caption=limit)
