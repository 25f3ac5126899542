"""Every figure of a run, in the order of the page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from gradmend.errors import UnknownName
from gradmend.renderers.page.figure import Figure, Heat
from gradmend.renderers.run_figures import (
    attention,
    books,
    depth,
    heat,
    histograms,
    ratio,
    through_time,
    training,
)
from gradmend.renderers.run_figures.smaller import smaller
from gradmend.store.reader import RunReader

Measured = dict[str, frozenset[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A figure that a run may have."""

    id: str
    section: str
    title: str
    build: Callable[[RunReader], Figure | None]
    needs: tuple[tuple[str, str], ...]
    """(table, quantity): it is there as soon as one of them is."""
    choices: tuple[tuple[str, str], ...] = ()
    """(id, label) of the figures that share its place, itself among them."""

    def there(self, measured: Measured) -> bool:
        """Whether a run holds anything of it."""
        return any(quantity in measured.get(table, ()) for table, quantity in self.needs)


def _needs(table: str, *quantities: str) -> tuple[tuple[str, str], ...]:
    return tuple((table, quantity) for quantity in quantities)


_HEAT_CHOICES = tuple((each.id, each.label) for each in heat.MAPS)

CATALOGUE: tuple[Entry, ...] = (
    *(
        Entry(
            id=each.id,
            section="heat",
            title=each.title,
            build=each,
            needs=_needs(each.table, each.quantity),
            choices=_HEAT_CHOICES,
        )
        for each in heat.MAPS
    ),
    *(
        Entry(
            id=id,
            section="histograms",
            title=title,
            build=build,
            needs=_needs(each.table, "histogram"),
        )
        for each in histograms.SHOWN
        for id, title, build in (
            (each.depth, each.depth_title, each.over_depth),
            (each.time, each.time_title, each.over_time),
        )
    ),
    Entry(
        id=ratio.ID,
        section="ratio",
        title="Update over weight, over time",
        build=ratio.over_steps,
        needs=_needs("update", "log10_ratio"),
    ),
    Entry(
        id=training.ID,
        section="training",
        title="Training over time",
        build=training.over_steps,
        needs=_needs("step", *training.SHOWN),
    ),
    Entry(
        id=books.ID,
        section="books",
        title="From raw gradient to update",
        build=books.over_depth,
        needs=(*_needs("gradient", "log10_rms", "log10_raw"), *_needs("update", "log10_weight")),
    ),
    Entry(
        id=depth.ID,
        section="depth",
        title="Gradient flow over depth",
        build=depth.gradient_flow,
        needs=_needs("gradient", "log10_rms"),
    ),
    Entry(
        id=through_time.ID,
        section="time",
        title="Gradient through time",
        build=through_time.over_steps,
        needs=_needs("recurrence", *through_time.SHOWN),
    ),
    Entry(
        id=attention.ENTROPY.id,
        section="attention",
        title=attention.ENTROPY.title,
        build=attention.ENTROPY,
        needs=_needs("attention", "entropy"),
    ),
    Entry(
        id=attention.LOGITS,
        section="attention",
        title="Attention logits",
        build=attention.logits,
        needs=_needs("attention", "largest_logit"),
    ),
)


def figures(reader: RunReader) -> dict[str, tuple[str, ...]]:
    """Ids of the figures that a run has, by section; none is built.

    Raises:
        BadInput: If the run cannot be read.
    """
    return _sections(_there(reader))


def places(reader: RunReader) -> dict[str, tuple[str, ...]]:
    """The same, of figures that share a place only the first: what a page shows at first."""
    there = _there(reader)
    first = {entry.choices: entry.id for entry in reversed(there) if entry.choices}
    return _sections(
        [entry for entry in there if not entry.choices or first[entry.choices] == entry.id]
    )


def build(reader: RunReader, id: str, *, most_cells: int | None = None) -> Figure | None:
    """A figure of a run.

    Args:
        reader: The run.
        id: As in the catalogue, or ``hist-gradient-time:COLUMN`` or
            ``hist-output-time:COLUMN``, by position or name.
        most_cells: Of a heat map, where a report holds all figures of the catalogue in one file,
            and nothing else is offered in their places. Where not given, what a screen can show.

    Returns:
        The figure; ``None`` where the run holds nothing of it.

    Raises:
        UnknownName: If there is no such figure, or no such column.
        BadInput: If the run cannot be read.
    """
    name, colon, which = id.partition(":")
    entry = next((entry for entry in CATALOGUE if entry.id == name), None)
    over_time = {each.time: each.over_time for each in histograms.SHOWN}
    if entry is None or (colon and name not in over_time):
        raise UnknownName("there is no such figure", "", "choose one of the run's figures")
    figure = over_time[name](reader, which) if colon else entry.build(reader)
    if not isinstance(figure, Heat):
        return figure
    if entry.choices:
        there = {each.id for each in _there(reader)}
        choices = tuple(choice for choice in entry.choices if choice[0] in there)
        figure = replace(figure, choices=choices if len(choices) > 1 else ())
    if most_cells is None:
        return figure
    ids = {each.id for each in CATALOGUE}
    choices = tuple(choice for choice in figure.choices if choice[0] in ids)
    figure = replace(figure, choices=choices if len(choices) > 1 else ())
    return smaller(figure, most_cells)


def _there(reader: RunReader) -> list[Entry]:
    measured = reader.measured()
    return [entry for entry in CATALOGUE if entry.there(measured)]


def _sections(entries: list[Entry]) -> dict[str, tuple[str, ...]]:
    sections: dict[str, tuple[str, ...]] = {}
    for entry in entries:
        sections[entry.section] = (*sections.get(entry.section, ()), entry.id)
    return sections
