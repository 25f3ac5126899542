"""A watched run as a short block for a forum or an issue, without private paths."""

from __future__ import annotations

import re
import textwrap

from gradmend.records.history import History
from gradmend.records.report import Report
from gradmend.renderers import numbers, run_words
from gradmend.renderers.run_profile import layers
from gradmend.renderers.run_tables import share, size
from gradmend.renderers.visible import shorten, visible
from gradmend.theory.fates import Fate, counted, fates

MOST_FINDINGS, MOST_LAYERS = 5, 8
LONGEST_TEXT, LONGEST_NAME = 300, 60

_QUOTED_PATH = re.compile(r"""(['"])(?:~|file:|[A-Za-z]:[\\/]|[\\/])[^'"]*\1""")
_URL = re.compile(r"\b[A-Za-z][A-Za-z0-9+.-]*://\S+")
_AT = re.compile(r"[^\s@]*@[^\s@]+")
_PATH = re.compile(
    r"(?:(?<![\w.])(?:~[\w.-]*|[A-Za-z]:|\\)?[\\/]|(?<!\S)\.{1,2}[\\/])[^\s'\"<>|:*?()\[\],;]+"
)
_FOLDER = re.compile(r"[^\s'\"<>|:*?()\[\],;/\\]+(?:[\\/][^\s'\"<>|:*?()\[\],;/\\]+)+\.\w{1,8}\b")
_FILE = re.compile(
    r"[^/\\]+\.(?:py|pyi|pyx|ipynb|txt|csv|tsv|json|jsonl|yaml|yml|toml|cfg|ini|log|sh|pt|pth|ckpt|bin"
    r"|npz|npy|pkl|h5|safetensors|parquet|arrow|zip|gz|tar|db|png|jpg|so|c|cc|cpp|cu|h|hpp)$"
)
"""What is a file's name; anything else at the end of a path may be a person's."""
_SPECIAL = re.compile(r"([\\`*_{}\[\]#|~$])")


def markdown(report: Report, history: History) -> str:
    """The report as Markdown: what was run, verdict, findings, a small table, versions.

    Of paths only the file's name is kept; there are no user or host names and no environment
    beyond versions. Text of the run's own is escaped, so that it shows as it is.

    Args:
        report: On the run.
        history: The run itself.

    Returns:
        At most some 40 lines of GitHub-flavoured Markdown.
    """
    run = run_words.watched_of(report)
    lines = [f"**gradmend: {plain(run_words.verdict(report))}**", ""]
    what = [f"{code(public(run.command, every=True))}" if run.command else "a training"]
    what.append(plain(", ".join(run.models)) if run.models else "")
    what.append(run_words.steps_words(run) + f" ({plain(run_words.state_words(run))})")
    what.append(plain(run_words.loss_words(run)))
    what.append(plain("; ".join(_optimizers(history))))
    lines.append(", ".join(part for part in what if part))
    handled = [run_words.still_words(run), *run_words.handled_words(run)]
    lines += [plain("; ".join(part for part in handled if part))] if any(handled) else []
    if run.crash:
        lines.append(f"It ended with {plain(public(run.crash, every=True))}")
    if run.first_bad is not None:
        bad = f"{run_words.bad_words(run.first_bad)}; {run_words.bad_circumstances(run.first_bad)}"
        lines.append(f"First bad value: {plain(public(bad))}")
    lines += ["", *_findings(report)]
    lines += _layers(history)
    became = counted(fates(history))
    if set(became) - {Fate.APPLIED, Fate.FROZEN, Fate.UNKNOWN}:
        told = ", ".join(f"{fate.value} {count:,}" for fate, count in became.items())
        lines += [f"Gradients by parameter: {told}", ""]
    facts = history.run
    versions = [("gradmend", facts.gradmend), ("torch", facts.torch), ("Python", facts.python)]
    said = [f"{name} {plain(value)}" for name, value in versions if value]
    lines.append("<sub>" + " | ".join([*said, plain(facts.device)]).replace("|", "·") + "</sub>")
    return "\n".join(lines) + "\n"


def public(text: str, *, every: bool = False) -> str:
    """Text without what is private: of paths the file's name, no addresses, no user at a host.

    Args:
        text: From the run.
        every: Take any word with a slash for a path, as on a command line.
    """
    text = visible(text)
    text = _QUOTED_PATH.sub(lambda m: m[1] + _basename(m[0][1:-1]) + m[1], text)
    text = _URL.sub("(address)", text)
    text = _AT.sub("(name)", text)
    text = _PATH.sub(lambda m: _basename(m[0]), text)
    text = _FOLDER.sub(lambda m: _basename(m[0]), text)
    if every:
        text = " ".join(_argument(word) for word in text.split(" "))
    return text


def plain(text: str) -> str:
    """Text that Markdown and HTML show as it is, on one line."""
    shown = visible(text)
    shown = shown if len(shown) <= LONGEST_TEXT else textwrap.shorten(shown, LONGEST_TEXT)
    shown = shorten(shown, LONGEST_TEXT)
    escaped = _SPECIAL.sub(r"\\\1", shown).replace("&", "&amp;").replace("<", "&lt;")
    return escaped.replace(">", "&gt;").replace("@", "(at)")


def code(text: str) -> str:
    """Text as code, also inside a table; names stay names whatever they hold."""
    shown = shorten(visible(text), LONGEST_NAME).replace("|", "\\|").strip()
    if not shown:
        return ""
    fence = "`" * (max((len(run) for run in re.findall("`+", shown)), default=0) + 1)
    pad = " " if shown[0] == "`" or shown[-1] == "`" else ""
    return f"{fence}{pad}{shown}{pad}{fence}"


def _basename(path: str) -> str:
    """The file's name; a folder's name may be a person's, so it is not told."""
    last = re.split(r"[\\/]", path)[-1]
    return last if _FILE.match(last) else "(path)"


def _argument(word: str) -> str:
    name, equals, value = word.partition("=")
    if "/" not in word and "\\" not in word:
        return word
    return f"{name}={_basename(value)}" if equals and "/" not in name else _basename(word)


def _optimizers(history: History) -> list[str]:
    said = []
    for at, column in enumerate(history["step"].columns[:3]):
        _, rates = history["step"].series("learning_rate", at)
        rate = f", learning rate {numbers.number(float(rates[0]))}" if len(rates) else ""
        said.append(f"{column.kind or column.name}{rate}")
    return said


def _findings(report: Report) -> list[str]:
    causes, notes = run_words.ranked(report)
    lines = []
    for rank, entry in enumerate(causes[:MOST_FINDINGS], start=1):
        finding = entry.finding
        head = f"{rank}. **{plain(finding.code)} {plain(finding.name)}** ({finding.severity.value})"
        said = f"{head}: {plain(public(finding.summary))}"
        if finding.source:
            said += f" {code(public(finding.source))}"
        lines.append(said)
        if entry.explains:
            names = ", ".join(dict.fromkeys(other.name for other in entry.explains))
            lines.append(f"   explains {plain(names)}")
    more = len(causes) - MOST_FINDINGS
    beside = [numbers.count(more, "more finding")] if more > 0 else []
    beside += [numbers.count(len(notes), "note")] if notes else []
    if beside:
        lines += ["", f"And {' and '.join(beside)}."]
    return [*lines, ""] if lines else []


def _layers(history: History) -> list[str]:
    rows = layers(history, MOST_LAYERS)
    if not rows:
        return []
    lines = [
        "| module | gradient, first | last | update/weight | unchanged |",
        "|:--|--:|--:|--:|--:|",
    ]
    for row in rows:
        cells = [
            code(row.name) or "(the model)",
            size(row.log10_first),
            row.state or size(row.log10_last),
            size(row.log10_ratio),
            share(row.unchanged),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]
