"""A report as one self-contained HTML page: no network, no build step, opens offline."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from importlib.resources import files
from typing import Any

from gradmend.records.codec import to_plain
from gradmend.records.finding import Evidence, Finding
from gradmend.records.layout import OptimizerFacts
from gradmend.records.ledger import CAUSES
from gradmend.records.report import Report
from gradmend.renderers import numbers, plot, words
from gradmend.renderers.advice import advice_section
from gradmend.renderers.repair import before_and_after, repair_sections
from gradmend.renderers.signal_figure import signal_figure
from gradmend.renderers.visible import escape, isolate, json_for_script, visible
from gradmend.renderers.waterfall import cause_figure, depth_fallback, ledger_figure

MOST_OPERATIONS = 600
"""Operations whose full records are embedded; beyond, the page carries the summary only."""
MOST_NAMES = 200
"""Module names embedded per finding or edit."""


def render(report: Report) -> str:
    """Draw a report as one HTML page.

    Args:
        report: What to show.

    Returns:
        A complete document with its style, script and data inside; it loads nothing.
    """
    figures, readout = _ledger(report)
    sections = [
        _hero(report),
        _section("findings", "What was found", _findings(report)),
        _section("advice", "What to change in your source", [advice_section(report)]),
        _section("ledger", "The gradient ledger", figures),
        _section("signal", "The signal on its way forward", [signal_figure(report.trace) or ""]),
        _section("repair", "The repair", repair_sections(report)),
        _section("notes", "What could not be seen or judged", _notes(report)),
        _section("circumstances", "Circumstances and cost", _circumstances(report)),
    ]
    style, script = _asset("page.css"), _asset("page.js")
    # The hash lets this one script run and no other, whatever a report's names may hold.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    title = escape(f"gradmend: {report.trace.run.model}")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{title}</title>\n<style>\n{style}</style>\n</head>\n<body>\n{_patterns()}"
        f"<main>\n{''.join(sections)}</main>\n"
        f"{_embedded('report-data', _data(report))}{_embedded('ledger-readout', readout)}"
        f"<script>{script}</script>\n</body>\n</html>\n"
    )


def _hero(report: Report) -> str:
    worst = max((f.severity for f in report.findings), key=lambda s: s.rank, default=None)
    if report.verdict is not None:
        kind, sign = ("good", "✓ repaired") if report.verdict.kept else ("open", "○ left as it was")
    elif report.healthy:
        kind, sign = "good", "✓ healthy"
    else:
        level = worst.value if worst else "note"
        kind, sign = ("bad", f"✕ {level}") if level == "error" else ("open", f"! {level}")
    sentence = words.verdict_sentence(report)
    lead = " ".join(filter(None, (words.ledger_sentence(report), words.after_sentence(report))))
    tiles, texts = [], []
    for label, value in words.fact_lines(report.facts):
        if "\n" in value or len(value) > 40:
            lines = "\n".join(escape(line) for line in value.splitlines())
            texts.append(
                f"<details><summary>{escape(label)}</summary><pre><code>{lines}</code></pre></details>"
            )
        else:
            tiles.append(f"<div><dt>{escape(label)}</dt><dd>{isolate(value)}</dd></div>")
    facts = f'<dl class="tiles">{"".join(tiles)}</dl>' if tiles else ""
    return (
        f'<header><p class="brand">gradmend <span class="badge {kind}">{escape(sign)}</span></p>'
        f"<h1>{escape(sentence)}</h1>"
        f'<p class="lead">{_powers(lead)}</p>{facts}{"".join(texts)}'
        "</header>\n"
    )


def _powers(sentence: str) -> str:
    """Escaped text with ``10^-85.3`` set as a power."""
    return re.sub(r"10\^-?([\d.]*\d)", _raised, escape(sentence))


def _raised(found: re.Match[str]) -> str:
    sign = "\N{MINUS SIGN}" if "^-" in found[0] else ""
    return f"10<sup>{sign}{found[1]}</sup>"


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def _section(name: str, title: str, parts: list[str]) -> str:
    inner = "".join(part for part in parts if part)
    if not inner:
        return ""
    return (
        f'<section aria-labelledby="{name}"><h2 id="{name}">{escape(title)}</h2>{inner}</section>\n'
    )


def _findings(report: Report) -> list[str]:
    folded = words.fold_findings(report.findings)
    if not folded:
        return ["<p>Nothing.</p>"]
    return [_card(entry, rank) for rank, entry in enumerate(folded, start=1)]


def _card(entry: words.Folded, rank: int) -> str:
    finding = entry.finding
    level = finding.severity.value
    evidence = plot.table(
        ["evidence", "observed", "limit", "where"], [_evidence(item) for item in finding.evidence]
    )
    explained = "".join(f"<li>{_explained(other)}</li>" for other in entry.explains)
    number = numbers.count(len(entry.explains), "other finding")
    symptoms = (
        f"<details><summary>Explains {number}</summary><ul>{explained}</ul></details>"
        if explained
        else ""
    )
    pairs = []
    if finding.source:
        pairs.append(("source", f"<code>{isolate(finding.source)}</code>"))
    if finding.modules:
        pairs.append(("modules", isolate(words.module_range(finding.modules))))
    if finding.confidence < 1:
        pairs.append(("confidence", numbers.percent(finding.confidence)))
    if finding.exculpation:
        pairs.append(("unless", isolate(finding.exculpation)))
    if finding.remedies:
        pairs.append(("remedies", isolate(", ".join(finding.remedies))))
    facts = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in pairs)
    return (
        f'<article class="card {level}"><h3><span class="rank">{rank}</span> '
        f'<span class="level">{level}</span> {isolate(finding.name)} '
        f'<span class="code">{isolate(finding.code)}</span></h3>'
        f"<p>{isolate(finding.summary)}</p>"
        f'<dl class="pairs">{facts}</dl>{evidence if finding.evidence else ""}{symptoms}</article>'
    )


def _evidence(item: Evidence) -> list[str]:
    place = "" if item.module is None else visible(item.module or "(the model)")
    step = f" step {item.step}" if item.step else ""
    limit = "" if item.limit is None else escape(numbers.with_unit(item.limit, item.unit))
    observed = escape(numbers.with_unit(item.observed, item.unit))
    return [isolate(item.quantity), observed, limit, place + step]


def _explained(finding: Finding) -> str:
    return (
        f"<b>{isolate(finding.name)}</b> ({isolate(finding.code)}, {finding.severity.value}): "
        f"{isolate(finding.summary)}"
    )


def _ledger(report: Report) -> tuple[list[str], list[str]]:
    """The ledger's parts, and what the pointer reads out."""
    ledger = report.ledger
    if ledger is None:
        return ["<p>No gradient ledger was kept.</p>"], []
    parts: list[str] = []
    readout: list[str] = []
    if ledger.root is not None:
        drawing, readout = ledger_figure(ledger)
        parts.append(drawing)
    if ledger.by_cause:
        parts.append(cause_figure(ledger))
    if report.prescription is None and report.verdict is None:
        parts.append(before_and_after(report) or "")
    if ledger.root is not None:
        table = depth_fallback(ledger.root)
        parts.append(f"<figure><h3>Layer by layer, like ones grouped</h3>{table}</figure>")
    parts.append(f'<p class="small">{_powers(_capital(words.books_line(ledger)))}</p>')
    parts += [f'<p class="small">Note: {isolate(note)}</p>' for note in ledger.notes]
    return parts, readout


def _notes(report: Report) -> list[str]:
    lines = [
        f"<li><b>{isolate(item.name)}</b> ({isolate(item.code)}) needs {isolate(item.needs)}</li>"
        for item in report.cannot_judge
    ]
    lines += [f"<li>Undecided: {isolate(line)}</li>" for line in words.undecided_lines(report)]
    if report.trace.non_finite is not None:
        place = isolate(report.trace.non_finite or "(the model)")
        lines.insert(0, f"<li>The first output that is not finite: {place}</li>")
    lines += [f"<li>{isolate(note)}</li>" for note in report.trace.notes]
    return [f"<ul>{''.join(lines)}</ul>"] if lines else []


def _circumstances(report: Report) -> list[str]:
    run = report.trace.run
    pairs = [
        ("model", isolate(run.model)),
        ("parameters", f"{run.parameters:,}"),
        ("trained in", isolate(run.dtype)),
        ("books kept in", isolate(run.probe_dtype)),
        ("device", isolate(run.device)),
        ("batch", f"{run.batch_size:,} samples"),
        ("loss", numbers.number(run.loss)),
        ("look took", numbers.seconds(run.seconds)),
    ]
    if run.optimizer:
        pairs.append(("optimizer", isolate(run.optimizer)))
    if run.learning_rate is not None:
        pairs.append(("learning rate", numbers.number(run.learning_rate)))
    if run.step:
        pairs.append(("steps before the look", f"{run.step:,}"))
    if report.verdict is not None:
        pairs.append(("trial took", numbers.seconds(report.verdict.seconds)))
    if run.torch:
        pairs.append(("torch", isolate(run.torch)))
    if report.made_at:
        pairs.append(("made", isolate(report.made_at)))
    facts = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in pairs)
    kept = (
        "The page holds the whole report as JSON."
        if _small(report)
        else "The page holds the report as JSON without its per-operation records, which are "
        f"more than {MOST_OPERATIONS}; `gradmend` writes them with --json."
    )
    link = '<a id="download" download="gradmend-report.json" href="#report-data">Download it</a>'
    return [f'<dl class="pairs">{facts}</dl><p class="small">{escape(kept)} {link}</p>']


def _embedded(name: str, value: Any) -> str:
    return f'<script type="application/json" id="{name}">{json_for_script(value)}</script>\n'


def _small(report: Report) -> bool:
    return len(report.trace.operations) <= MOST_OPERATIONS and not any(
        k >= MOST_OPERATIONS
        for book in (report.trace.ledger, report.trace.ledger_random)
        if book is not None and book.root is not None
        for k, _ in enumerate(book.root.walk())
    )


def _data(report: Report) -> Any:
    """The report as JSON values, without its bulk where there is too much of it."""
    if _small(report):
        return report.to_dict()
    trace = report.trace

    def slim(ledger: Any) -> Any:
        return None if ledger is None else replace(ledger, root=None)

    small = replace(
        report,
        trace=replace(
            trace,
            operations=(),
            parameters=(),
            modules=(),
            answers=(),
            cuts=trace.cuts[:MOST_NAMES],
            optimizer=_slim_optimizer(trace.optimizer),
            ledger=slim(trace.ledger),
            ledger_random=slim(trace.ledger_random),
        ),
        after=None,
        findings=tuple(replace(f, modules=f.modules[:MOST_NAMES]) for f in report.findings),
        prescription=None,
    )
    plain = small.to_dict()
    plain["left_out"] = (
        "operations, parameters, modules, ledger entries, prescription, answers, second look"
    )
    return to_plain(plain)


def _slim_optimizer(facts: OptimizerFacts | None) -> OptimizerFacts | None:
    """Its groups by their options and their first parameters."""
    if facts is None:
        return None
    groups = tuple(
        replace(group, parameters=group.parameters[:MOST_NAMES]) for group in facts.groups
    )
    return replace(facts, groups=groups, missing=facts.missing[:MOST_NAMES])


def _patterns() -> str:
    """One hatch per cause, so that causes differ without colour too."""
    drawn = []
    for cause, mark in zip(CAUSES, _HATCHES, strict=True):
        drawn.append(
            f'<pattern id="p-{cause}" class="c-{cause}" width="8" height="8" '
            f'patternUnits="userSpaceOnUse"><rect class="tint" width="8" height="8"/>{mark}'
            "</pattern>"
        )
    return (
        '<svg class="defs" width="0" height="0" aria-hidden="true"><defs>'
        f"{''.join(drawn)}</defs></svg>\n"
    )


_HATCHES = (
    '<path d="M-2 2l4-4M0 8l8-8M6 10l4-4"/>',
    '<circle cx="2" cy="2" r="1.3"/><circle cx="6" cy="6" r="1.3"/>',
    '<path d="M0 2H8M0 6H8"/>',
    '<path d="M2 0V8M6 0V8"/>',
    '<path d="M-2 6l4 4M0 0l8 8M6-2l4 4"/>',
    '<path d="M0 4H8M4 0V8"/>',
    '<circle cx="4" cy="4" r="1"/>',
    '<path d="M0 4H8"/>',
    '<path d="M4 0V8"/>',
    '<path d="M0 0l8 8M8 0L0 8"/>',
    '<path d="M0 6l4-4 4 4"/>',
    '<path d="M3 4h2"/>',
)
"""In the order of :data:`gradmend.records.ledger.CAUSES`."""


def _asset(name: str) -> str:
    return files("gradmend.renderers").joinpath(name).read_text(encoding="utf-8")
