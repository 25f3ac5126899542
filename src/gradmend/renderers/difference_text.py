"""Where two runs part, as text: a sentence, and the numbers beside each other."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from gradmend.records.difference import Difference, Parting
from gradmend.renderers import numbers
from gradmend.renderers.paper import on_paper
from gradmend.renderers.run_tables import share, size
from gradmend.renderers.tables import NARROWEST, WIDEST, Look
from gradmend.renderers.visible import visible

MOST_PARTINGS, MOST_SETTINGS, MOST_NAMES = 12, 20, 4

_WORDS = {
    ("event", "non-finite"): "a value that is not finite",
    ("step", "loss"): "loss",
    ("step", "log10_norm"): "gradient norm",
    ("step", "log10_raw_norm"): "raw gradient norm",
    ("step", "log10_update_norm"): "norm of the update",
    ("step", "unchanged_share"): "weights unchanged",
    ("step", "not_cleared"): "old gradients still there",
    ("step", "skipped"): "step skipped",
    ("step", "batch_size"): "batch size",
    ("gradient", "state"): "kind of gradient",
    ("gradient", "log10_rms"): "gradient rms",
    ("gradient", "log10_raw"): "raw gradient rms",
    ("gradient", "log10_max"): "largest gradient entry",
    ("gradient", "log10_min"): "smallest gradient entry",
    ("gradient", "mean_share"): "gradient mean over rms",
    ("gradient", "zero_share"): "gradient entries zero",
    ("gradient", "non_finite"): "gradient entries not finite",
    ("gradient", "underflow_share"): "gradient underflow",
    ("update", "log10_weight"): "weight rms",
    ("update", "log10_ratio"): "update over weight",
    ("update", "unchanged_share"): "weights unchanged",
    ("update", "lost_share"): "updates rounded away",
    ("update", "decay_share"): "weight decay's part",
    ("update", "outside_share"): "weights changed elsewhere",
    ("output", "log10_rms"): "output rms",
    ("output", "log10_max"): "largest output",
    ("output", "spread_share"): "output spread",
    ("output", "zero_share"): "outputs zero",
    ("output", "non_finite"): "outputs not finite",
    ("output", "flat_share"): "outputs saturated",
    ("output", "dead_share"): "units dead",
    ("output", "log10_grad"): "gradient of the output",
}


def difference_text(
    found: Difference,
    names: tuple[str, str] | None = None,
    *,
    width: int = 80,
    colour: bool = False,
    ascii: bool | None = None,
) -> str:
    """Draw a comparison of two runs.

    Args:
        found: The comparison.
        names: What to call the runs; their own names where not given.
        width: Columns, held between 40 and 160.
        colour: Whether to send colour codes.
        ascii: Whether to keep to ASCII; by default where there is no colour.

    Returns:
        Lines ending in newlines, none wider than ``width``.
    """
    look = Look(min(max(width, NARROWEST), WIDEST), not colour if ascii is None else ascii)
    a, b = _names(names or found.names, look)
    parts: list[Table | Text] = [Text(look.say(verdict(found, (a, b))), style="bold")]
    rest = after_words(found)
    if rest:
        parts.append(Text(look.say(rest)))
    if found.partings:
        parts += [Text(), _partings(found, (a, b), look)]
        more = len(found.partings) - MOST_PARTINGS
        if more > 0:
            told = f"and {numbers.count(more, 'more quantity', 'more quantities')} at later steps"
            parts.append(Text(told, style="dim"))
    if found.settings:
        around = [(s.name, s.a, s.b) for s in found.settings[:MOST_SETTINGS]]
        more = len(found.settings) - len(around)
        parts += [Text(), _three("what differs around them", around, (a, b), look)]
        parts += [Text(f"and {more:,} more", style="dim")] if more else []
    rows: list[tuple[str, ...]] = [("steps", *(f"{n:,}" for n in found.steps))]
    if any(loss is not None for loss in found.losses):
        rows.append(("last loss", *(numbers.number(loss, 4) for loss in found.losses)))
    if any(found.findings):
        rows.append(("findings of this run only", *(_listed(f) for f in found.findings)))
    if any(found.columns):
        names_only = (tuple(dict.fromkeys(c.partition(": ")[2] for c in s)) for s in found.columns)
        rows.append(("measured in this run only", *(_listed(one) for one in names_only)))
    if not found.same:
        parts += [Text(), _three("how they ended", rows, (a, b), look)]
    return on_paper(parts, width=look.width, colour=colour)


def verdict(found: Difference, names: tuple[str, str]) -> str:
    """Where they part, in a sentence."""
    a, b = names
    first = found.first
    if first is None:
        if not found.compared:
            return f"{a} and {b} share no measured step: there is nothing to compare."
        if found.same:
            return f"No difference in anything recorded, over {_steps(found.compared)}."
        told = "every number that both recorded is the same"
        if not found.exact:
            told = "nothing they recorded differs by more than its own variation"
        return f"{a} and {b} do not part: over {_steps(found.compared)} {told}."
    if first.table == "event":
        side = a if first.a else b
        where = f" in {visible(first.column)}" if first.column else ""
        return f"{side} meets the first value that is not finite at step {first.step:,}{where}."
    place = _place(first)
    if found.exact:
        return (
            f"{a} and {b} part at step {first.step:,}, in {place}:"
            f" {_value(first, first.a)} against {_value(first, first.b)}."
        )
    since = "from the start" if first.last_same < 0 else f"from about step {first.step:,} on"
    return (
        f"{a} and {b} part {since}, in {place}:"
        f" {_value(first, first.a)} against {_value(first, first.b)}."
    )


def after_words(found: Difference) -> str:
    """How far the verdict can be trusted, and what else there is to know of it."""
    first = found.first
    if not found.compared:
        return ""
    if not found.exact:
        return (
            "They began with different numbers (another seed, model or data), so windows are"
            " compared: what lastingly differs by more than its own variation and a factor of two."
        )
    degree = "to the last bit" if found.bitwise else f"to {found.tolerance:.0e} of their size"
    if first is None:
        return f"All numbers agree {degree}."
    words = f"What both measured before agrees {degree}."
    if first.table in ("event", "step"):
        return words
    if first.last_same < 0:
        return f"{words} It was compared there for the first time."
    if first.last_same < first.step - 1:
        words += (
            f" There it was last compared at step {first.last_same:,}, so it may have parted"
            " in between."
        )
    return words


def _partings(found: Difference, names: tuple[str, str], look: Look) -> Table:
    shown = found.partings[:MOST_PARTINGS]
    rows = [
        (
            f"{p.step:,}",
            look.say(_quantity(p)),
            look.say(_where(p)),
            _value(p, p.a),
            _value(p, p.b),
        )
        for p in shown
    ]
    heads = ("step", "what", "where it parts first", *(look.cut(name, 14) for name in names))
    widths = [max(len(head), *(len(row[at]) for row in rows)) for at, head in enumerate(heads)]
    room = look.width - widths[0] - widths[3] - widths[4] - 2 * 4
    what = min(widths[1], max(room // 2, room - widths[2]))
    wanted = {1: what, 2: min(widths[2], room - what)}
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for at, head in enumerate(heads):
        wide = wanted.get(at, widths[at])
        justify = "left" if at in wanted else "right"
        wraps = look.narrow and at in wanted  # there a cut would leave nothing to read
        table.add_column(
            head if wraps else look.cut(head, wide),
            width=wide,
            no_wrap=not wraps,
            overflow="fold",
            justify=justify,  # type: ignore[arg-type]
        )
    for row in rows:
        cells = [
            cell if look.narrow else look.cut(cell, wanted.get(at, widths[at]))
            for at, cell in enumerate(row)
        ]
        table.add_row(*(Text(cell) for cell in cells))
    return table


def _three(
    title: str, rows: Sequence[tuple[str, ...]], names: tuple[str, str], look: Look
) -> Table:
    """A label and its value in either run."""
    told = [tuple(look.say(cell or "-") for cell in row) for row in rows]
    heads = (title, *(look.cut(name, 30) for name in names))
    widths = [max(len(head), *(len(row[at]) for row in told)) for at, head in enumerate(heads)]
    label = min(widths[0], look.width * 2 // 5)
    room = look.width - label - 4
    left = min(widths[1], max(room // 2, room - widths[2]))
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for head, width in zip(heads, (label, left, min(widths[2], room - left)), strict=True):
        table.add_column(look.cut(head, width), width=width, overflow="fold")
    for row in told:
        table.add_row(*(Text(look.cut(cell, 4 * look.width)) for cell in row))
    return table


def _names(names: tuple[str, str], look: Look) -> tuple[str, str]:
    a, b = (look.cut(name, 40) for name in names)
    if not a or not b or a == b:
        return f"{a or 'run'} (first)", f"{b or 'run'} (second)"
    return a, b


def _place(parting: Parting) -> str:
    """``the output rms of layers.3 [train.py:12]``."""
    where = "" if parting.table == "step" else f" of {visible(parting.column) or 'the model'}"
    source = f" [{visible(parting.source)}]" if parting.source else ""
    return f"the {_quantity(parting)}{where}{source}"


def _quantity(parting: Parting) -> str:
    known = _WORDS.get((parting.table, parting.quantity))
    if known is not None:
        return known
    said = visible(parting.quantity).removeprefix("log10_").replace("_", " ")
    return f"attention {said}" if parting.table == "attention" else said


def _where(parting: Parting) -> str:
    name = visible(parting.column) or "(the model)"
    more = parting.columns - 1
    return f"{name} +{more:,}" if more > 0 else name


def _value(parting: Parting, value: float | None) -> str:
    if parting.table == "event":
        return "yes" if value else "no"
    if value is None:
        return numbers.UNKNOWN
    if parting.unit == "decades" and parting.quantity.startswith("log10"):
        # Close numbers need all their digits, or they would look the same.
        near = (
            parting.a is not None
            and parting.b is not None
            and abs(parting.a - parting.b) < 0.05
            and abs(value) < 99
        )
        return f"{10.0**value:.6g}" if near else size(value if value > -99 else float("-inf"))
    if parting.unit == "share":
        told = share(value)
        alike = share(parting.a or 0.0) == share(parting.b or 0.0)
        return f"{100 * value:.3f} %" if alike else told
    if parting.unit == "code":
        return {0: "None", 1: "exactly zero", 2: "finite", 3: "not finite"}.get(
            round(value), numbers.number(value)
        )
    if parting.unit == "0 or 1":
        return "yes" if value >= 0.5 else "no"
    return numbers.number(value, 6)


def _listed(items: Sequence[str]) -> str:
    shown = ", ".join(visible(item) for item in items[:MOST_NAMES])
    more = len(items) - MOST_NAMES
    return f"{shown} and {more:,} more" if more > 0 else shown


def _steps(count: int) -> str:
    return numbers.count(count, "step")
