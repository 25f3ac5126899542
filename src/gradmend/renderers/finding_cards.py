"""A card for each finding: what it is, what says so, where, and what to do about it."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from gradmend.errors import UnknownName
from gradmend.records.finding import Evidence, Finding
from gradmend.records.report import Report
from gradmend.registry import Remedy, Rule, find
from gradmend.renderers import numbers, plot, run_words, words
from gradmend.renderers.how_to_apply import apply_box
from gradmend.renderers.limit_bar import beyond, limit_bar
from gradmend.renderers.visible import Markup, escape, isolate, shorten, visible

MOST_BUTTONS = 6
"""Modules in sight; the others are folded."""
MOST_MODULES = 200
"""Modules that a card names."""
MOST_REMEDIES = 3
"""Remedies in sight where none was chosen; the others are folded."""
MOST_EVIDENCE = 40
"""Rows of evidence."""

FIGURES = {
    "ledger": "the gradient ledger",
    "heat-flat": "flat units over layers and steps",
    "heat-dead": "dead units over layers and steps",
    "heat-gradient": "gradients over layers and steps",
    "heat-output": "outputs over layers and steps",
    "ratio": "updates over weights",
    "training": "loss, norms and what happened",
    "attention-entropy": "attention entropy",
    "attention-logits": "attention logits",
    "through-time": "the gradient through time",
    "through-time-look": "the gradient through time",
    "books": "from raw gradient to update",
}
"""Figures that a finding may point at, as they stand in a sentence."""

SHOWN_BY = {
    "ACT103": ("heat-flat", "ledger"),
    "ACT104": ("heat-dead", "ledger"),
    "GRF104": ("heat-output", "ledger"),
    "ATT221": ("attention-logits", "attention-entropy"),
    "ATT": ("attention-entropy", "attention-logits", "ledger"),
    "REC": ("through-time", "through-time-look", "ledger"),
    "OPT22": ("ratio", "books", "training"),
    "OPT": ("training", "ratio"),
    "LOS": ("training",),
    "DAT": ("training",),
    "NUM221": ("heat-gradient", "training"),
    "NUM": ("training", "heat-gradient"),
    "GRF20": ("training", "ledger"),
    "GRF221": ("ratio", "ledger"),
    "": ("ledger", "heat-gradient", "training"),
}
"""By the longest beginning of a code: the figures that show it, best first."""


def finding_cards(report: Report, figures: Collection[str] = frozenset()) -> list[str]:
    """One card for each cause, in the report's order, with what it explains folded into it.

    Args:
        report: What was found.
        figures: Ids of the figures on the page, for the cards to point at.
    """
    folded = words.fold_findings(report.findings)
    if not folded:
        run = report.watched
        if run is not None and not run.steps:
            waits = run.status == "running"
            return [f"<p>{escape(run_words.NO_STEP_YET if waits else run_words.NO_STEP)}</p>"]
        seen = f" in {numbers.count(run.steps, 'step')}" if run is not None else ""
        return [f"<p>No rule found anything{seen}.</p>"]
    return [_card(entry, rank, report, figures) for rank, entry in enumerate(folded, start=1)]


def _card(entry: words.Folded, rank: int, report: Report, figures: Collection[str]) -> str:
    finding = entry.finding
    level = finding.severity.value
    page = _page(finding.code)
    code = f'<span class="code">{isolate(finding.code)}</span>'
    if isinstance(page, Rule):
        code = f'<a class="code" href="#explain-{rank}">{isolate(finding.code)}</a>'
    parts = [
        f'<article class="card {level}"><h3><span class="rank">{rank}</span> '
        f'<span class="level">{level}</span> <span class="name">{isolate(finding.name)}</span> '
        f"{code}</h3>",
        f'<p class="summary">{isolate(finding.summary)}</p>',
        _facts(finding, figures),
        _evidence(finding),
        _treatment(finding, report),
        _explains(entry.explains),
        _explanation(page, rank) if isinstance(page, Rule) else "",
        "</article>",
    ]
    return "".join(parts)


def _facts(finding: Finding, figures: Collection[str]) -> str:
    pairs = []
    if finding.modules:
        pairs.append(("module" if len(finding.modules) == 1 else "modules", _modules(finding)))
    if finding.source:
        pairs.append(("source", f"<code>{isolate(finding.source)}</code>"))
    if finding.confidence < 1:
        pairs.append(("confidence", numbers.percent(finding.confidence)))
    if finding.exculpation:
        pairs.append(("unless", isolate(finding.exculpation)))
    figure = figure_for(finding.code, figures)
    if figure is not None:
        link = f'<a href="#fig-{escape(figure)}">{escape(FIGURES[figure])}</a>'
        pairs.append(("shown in", link))
    facts = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in pairs)
    return f'<dl class="pairs">{facts}</dl>' if facts else ""


def figure_for(code: str, figures: Collection[str]) -> str | None:
    """The figure on the page that shows what a rule of this code finds."""
    known = max((key for key in SHOWN_BY if code.startswith(key)), key=len)
    return next((name for name in SHOWN_BY[known] if name in figures), None)


def _modules(finding: Finding) -> str:
    shown, rest = finding.modules[:MOST_BUTTONS], finding.modules[MOST_BUTTONS:MOST_MODULES]
    more = len(finding.modules) - MOST_MODULES
    tail = f'<span class="small">and {more:,} more</span>' if more > 0 else ""
    folded = (
        f"<details><summary>and {len(finding.modules) - MOST_BUTTONS:,} more, to "
        f"{isolate(shorten(visible(finding.modules[-1]), 60))}</summary>"
        f'<div class="layers">{_buttons(rest)}{tail}</div></details>'
        if rest
        else ""
    )
    return f'<div class="layers">{_buttons(shown)}</div>{folded}'


def _buttons(paths: Sequence[str]) -> str:
    return "".join(
        f'<button type="button" class="layer" data-layer="{escape(path)}">'
        f"{isolate(shorten(visible(path), 60) or '(the model)')}</button>"
        for path in paths
    )


def _evidence(finding: Finding) -> str:
    if not finding.evidence:
        return ""
    rows = [_row(item, finding.severity.value) for item in finding.evidence[:MOST_EVIDENCE]]
    limits = any(item.limit is not None for item in finding.evidence)
    places = any(item.module is not None or item.step for item in finding.evidence)
    keep = [0, 1, *([2, 3] if limits else []), *([4] if places else [])]
    head = ["evidence", "observed", "limit", "against the limit", "where"]
    cut = len(finding.evidence) > MOST_EVIDENCE
    caption = f"The first {MOST_EVIDENCE} of {len(finding.evidence):,} figures." if cut else ""
    table = plot.table([head[k] for k in keep], [[r[k] for k in keep] for r in rows],
                       caption=caption)  # fmt: skip
    return f'<div class="evidence">{table}</div>'


def _row(item: Evidence, level: str) -> list[str]:
    place = "" if item.module is None else _buttons([item.module])
    step = f"step {item.step:,}" if item.step else ""
    limit = "" if item.limit is None else escape(numbers.with_unit(item.limit, item.unit))
    observed = escape(numbers.with_unit(item.observed, item.unit))
    against = "" if item.limit is None else f"{limit_bar(item, level)}{escape(beyond(item))}"
    where = Markup(" ".join(part for part in (place, step) if part))
    return [isolate(item.quantity), observed, limit, Markup(against), where]


def _treatment(finding: Finding, report: Report) -> str:
    """The remedies that answer it, what each changes, and the line that tries or makes them."""
    if not finding.remedies:
        return ""
    chosen = report.prescription.remedies if report.prescription else ()
    refused = {r.remedy: r.reason for r in report.refusals if r.finding == finding.name}
    # What was chosen stands first, what was refused last; else the order is that of the rule.
    order = sorted(finding.remedies, key=lambda name: (name not in chosen, name in refused))
    items = [_remedy(name, name in chosen, refused.get(name)) for name in order]
    open_ = max(sum(1 for name in order if name in chosen), 0 if chosen else MOST_REMEDIES)
    open_ = open_ or MOST_REMEDIES
    rest = "".join(items[open_:])
    number = numbers.count(len(items) - open_, "other remedy", "other remedies")
    folded = (
        f'<details><summary>{number}</summary><ul class="remedies">{rest}</ul></details>'
        if rest
        else ""
    )
    return (
        f'<h4>Remedies</h4><ul class="remedies">{"".join(items[:open_])}</ul>{folded}'
        f'<div class="apply-box">{apply_box(report)}</div>'
    )


def _remedy(name: str, chosen: bool, refused: str | None) -> str:
    page = _page(name)
    said = ""
    if isinstance(page, Remedy):
        listed = ", ".join(change.name.lower().replace("_", " ") for change in page.changes)
        said = f' {escape(page.summary)} <span class="changes">Changes: {escape(listed)}.</span>'
    mark = ' <span class="good">✓ prescribed</span>' if chosen else ""
    if refused is not None:
        mark = f' <span class="open">○ refused: {isolate(refused)}</span>'
    return f"<li><b>{isolate(name)}</b>{mark}{said}</li>"


def _explains(others: Sequence[Finding]) -> str:
    if not others:
        return ""
    listed = "".join(
        f"<li><b>{isolate(other.name)}</b> ({isolate(other.code)}, {other.severity.value}): "
        f"{isolate(other.summary)}</li>"
        for other in others
    )
    number = numbers.count(len(others), "other finding")
    return f"<details><summary>Explains {number}</summary><ul>{listed}</ul></details>"


def _page(word: str) -> Rule | Remedy | None:
    """What the catalogue says; nothing of a rule of another version or of somebody's own."""
    try:
        return find(word)
    except UnknownName:
        return None


def _explanation(rule: Rule, rank: int) -> str:
    """The rule's page: the same text as ``gradmend explain CODE``."""
    sections = "".join(
        f"<h4>{escape(heading)}</h4><p>{escape(' '.join(body.split()))}</p>"
        for heading, body in rule.sections.items()
    )
    rows = [
        [Markup(f"<code>{escape(name)}</code>"), numbers.with_unit(value, unit), escape(source)]
        for name, value, unit, source in rule.limit_rows()
    ]
    limits = f"<h4>Limits</h4>{plot.table(['limit', 'value', 'source'], rows)}" if rows else ""
    command = f"gradmend explain {rule.code}"
    return (
        f'<details class="explain"><summary>What {escape(rule.code)} is, and how it is judged'
        f'</summary><div id="explain-{rank}"><p>{escape(rule.summary)}</p>{sections}{limits}'
        f'<div class="apply"><span class="apply-words">in a terminal</span>'
        f"<code>{escape(command)}</code>"
        f'<button type="button" class="copy" data-copy="{escape(command)}">Copy</button></div>'
        "</div></details>"
    )
