"""The repair on the page: edits, predictions, and the trial's curves."""

from __future__ import annotations

import math

from gradmend.records.report import Report
from gradmend.records.verdict import Arm, Verdict
from gradmend.renderers import numbers, plot, treatment, words
from gradmend.renderers.visible import Markup, escape, isolate
from gradmend.renderers.waterfall import bins, line_key, pile, signed


def repair_sections(report: Report) -> list[str]:
    """Prescription and trial as HTML; empty where the report has neither."""
    parts = []
    if report.prescription is not None:
        parts.append(_prescription(report))
    if report.prescription is not None or report.verdict is not None:
        parts.append(before_and_after(report) or "")
    if report.verdict is not None:
        parts.append(_trial(report.verdict))
    if report.refusals:
        rows = [[isolate(r.remedy), isolate(r.finding), isolate(r.reason)] for r in report.refusals]
        parts.append("<h3>Refused</h3>" + plot.table(["remedy", "for", "because"], rows))
    return parts


def before_and_after(report: Report) -> str | None:
    """The gradient's size over depth on both looks, or ``None`` where there was one only."""
    books = [
        ("before", "on the first look", report.ledger),
        ("after", words.second_look_words(report), report.after.ledger if report.after else None),
    ]
    lines: dict[str, list[plot.Point]] = {}
    keys = []
    for style, name, ledger in books:
        if ledger is None or ledger.root is None:
            return None
        parts = bins(list(ledger.root.leaves()))
        heights = pile([part.decades for part in parts])
        # As a share of the depth: the edits may have added or taken away operations.
        lines[style] = [(k / max(len(parts), 1), v) for k, v in enumerate(heights)]
        keys.append(line_key(style, f"{name} {signed(ledger.total_decades)}"))
    frame = plot.Plot(
        x=plot.Scale(0, 1),
        y=plot.padded([v for line in lines.values() for _, v in line], zero=True),
        x_title="depth, from input to output (share of the operations booked)",
        y_title="decades gained or lost since the output",
        words="Cumulative decades of gradient over depth, on the first and on the second look.",
        x_labels=[(k / 4, f"{25 * k} %") for k in range(5)],
        height=220,
    )
    for style, line in lines.items():
        frame.line(line, style)
    inner = f'<div class="legend">{"".join(keys)}</div>{frame.html()}'
    return plot.figure(
        "The gradient, before and after",
        inner,
        "The flatter the line, the more evenly the layers are reached.",
    )


def _prescription(report: Report) -> str:
    prescription = report.prescription
    assert prescription is not None
    reason = f"<p>{isolate(prescription.reason)}</p>" if prescription.reason else ""
    edits = "".join(f"<li>{isolate(treatment.edit_words(e))}</li>" for e in prescription.edits)
    listed = f"<ol>{edits}</ol>" if edits else "<p>Nothing is to be changed.</p>"
    promised = treatment.promises(report)
    if not promised:
        return f"<h3>The prescription</h3>{reason}{listed}"
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
    return f"<h3>The prescription</h3>{reason}{listed}{table}"


def _trial(verdict: Verdict) -> str:
    parts = []
    curves = _curves(verdict)
    if curves:
        parts.append(curves)
    pairs = treatment.pairings(verdict)
    if pairs:
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
        judged = treatment.judged_words(verdict)
        change = "added" if verdict.judged_by.higher else "taken off"
        head = [judged, "steps", "original", "repaired", change]
        unseen = verdict.judged_by.name == "unseen loss"
        title = "On data not trained on" if unseen else "By its own figures"
        parts.append(f"<h3>{title}</h3>" + _strip(verdict) + plot.table(head, rows))
    said = []
    if verdict.gap_closed is not None and math.isfinite(verdict.gap_closed):
        share = numbers.percent(verdict.gap_closed)
        said.append(f"The winner reaches {share} of the best rival's gain over the original.")
    said.append(
        f"The trial took {numbers.count(verdict.steps, 'optimizer step')} and "
        f"{numbers.seconds(verdict.seconds)} on {numbers.count(verdict.threads, 'thread')}."
    )
    return "".join(parts) + f"<p>{escape(' '.join(said))}</p>"


def _curves(verdict: Verdict) -> str | None:
    groups = [
        ("rival", "rivals", verdict.rivals),
        ("before", "original", verdict.original),
        ("after", "repaired", verdict.winner),
    ]
    points = [p for _, _, arms in groups for arm in arms for p in treatment.curve(arm)]
    if not points:
        return None
    losses = [loss for _, loss in points]
    log = min(losses) > 0 and max(losses) > 50 * min(losses)
    # A log axis needs no round ends; a little room keeps the curves off the frame.
    y = plot.Scale(min(losses) / 1.2, max(losses) * 1.2, True) if log else plot.padded(losses)
    first, last = min(s for s, _ in points), max(s for s, _ in points)
    frame = plot.Plot(
        x=plot.Scale(first, last if last > first else first + 1),
        y=y,
        x_title="optimizer steps",
        y_title="training loss" + (" (logarithmic)" if log else ""),
        words="Training loss over steps for the original, the repaired model and its rivals.",
        height=260,
    )
    keys = []
    for style, name, arms in groups:
        drawn = [curve for arm in arms if (curve := treatment.curve(arm))]
        for curve in drawn:
            frame.line([(float(s), loss) for s, loss in curve], style)
        if drawn:
            amount = f" ({numbers.count(len(drawn), 'training')})" if len(drawn) > 1 else ""
            keys.append(line_key(style, name + amount))
    caption = "Same start, same batches and same budget for every training of one seed."
    gone = [arm for _, _, arms in groups for arm in arms if arm.diverged or arm.error]
    if gone:
        caption += f" {numbers.count(len(gone), 'training')} diverged or failed."
    inner = f'<div class="legend">{"".join(reversed(keys))}</div>{frame.html()}'
    return plot.figure("Training, before and after", inner, caption, _ends(verdict))


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
    judged = treatment.judged_words(verdict)
    head = ["training", "seed", "steps", "first loss", "last loss", judged]
    shown = [row(kind, arm) for kind, arm in arms[:60]]
    limit = "" if len(arms) <= 60 else f"The first 60 of {len(arms):,} trainings."
    return plot.table(head, shown, caption=limit)


def _strip(verdict: Verdict) -> str:
    """Each seed's loss on unseen data as a dot, original above repaired."""
    rows = [("before", "original", verdict.original), ("after", "repaired", verdict.winner)]
    known = {
        style: [a.unseen for a in arms if a.unseen is not None and math.isfinite(a.unseen)]
        for style, _, arms in rows
    }
    values = [v for found in known.values() for v in found]
    if not values:
        return ""
    scale = plot.padded(values, zero=min(values) >= 0)
    judged = treatment.judged_words(verdict)
    frame = plot.Plot(
        x=scale,
        y=plot.Scale(0, 2),
        x_title=f"{judged}, one dot per seed",
        y_title="",
        words=f"{judged} per seed, original and repaired.",
        height=72,
    )
    for height, (style, _, _) in zip((1.5, 0.5), rows, strict=True):
        found = known[style]
        if len(found) > 1:
            frame.line([(min(found), height), (max(found), height)], f"{style} thin")
        for value in found:
            frame.dot((value, height), style)
    keys = "".join(line_key(style, name) for style, name, _ in rows)
    return f'<div class="legend">{keys}</div><div class="strip">{frame.html()}</div>'
