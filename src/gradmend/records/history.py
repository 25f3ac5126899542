"""A run as it was watched: tables of numbers over steps, and what happened meanwhile.

A *row* belongs to a step, a *column* to a thing that is measured again and again: an optimizer, a
parameter, a module's output. Not every step has a row in every table: dear measurements are taken
rarely, and long runs are thinned. A number that was not measured is NaN, so rules must treat NaN
as "not known".
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradmend.records.ledger import Booked

SCHEMA = 1
"""Version of a run folder."""

Floats = NDArray[np.float64]
Steps = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number that a table holds."""

    name: str
    unit: str
    meaning: str


def _quantities(*rows: tuple[str, str, str]) -> tuple[Quantity, ...]:
    return tuple(Quantity(*row) for row in rows)


TABLES: dict[str, tuple[Quantity, ...]] = {
    "step": _quantities(
        ("loss", "1", "sum of the losses handed to backward since the last step, unscaled"),
        ("learning_rate", "1", "of the first parameter group"),
        ("log10_norm", "decades", "log10 |gradient| over all parameters, as the optimizer got it"),
        ("log10_raw_norm", "decades", "log10 |gradient| before clipping, unscaled"),
        ("clip_factor", "1", "what clipping multiplied the gradient with; 1 when it did nothing"),
        ("clip_limit", "1", "the norm or value that clipping was asked to keep to"),
        ("loss_scale", "1", "of the gradient scaler"),
        ("skipped", "0 or 1", "the scaler left the step out, for a non-finite gradient"),
        ("backwards", "1", "backward passes since the last step"),
        ("batch_size", "1", "first dimension of the first tensor that the model was fed"),
        ("seconds", "s", "since the step before"),
        ("log10_update_norm", "decades", "log10 |change of the weights| over all parameters"),
        ("unchanged_share", "share", "of all weights, those bitwise the same after the step"),
        ("not_cleared", "0 or 1", "the last step's gradients were there when backward began"),
        ("clip_late", "0 or 1", "clipping came after the step, where it does nothing"),
        ("clip_scaled", "0 or 1", "clipping came before the loss scale was taken out"),
    ),
    "gradient": _quantities(
        ("state", "code", "0 None, 1 exactly zero, 2 finite, 3 holds NaN or infinity"),
        ("log10_rms", "decades", "log10 of the root mean square, as the optimizer got it"),
        ("log10_max", "decades", "log10 of the largest |g|"),
        ("log10_min", "decades", "log10 of the smallest non-zero |g|"),
        ("mean_share", "1", "mean over root mean square, in [-1, 1]"),
        ("zero_share", "share", "entries that are exactly zero"),
        ("non_finite", "1", "NaN and infinite entries"),
        ("log10_raw", "decades", "log10 rms after backward: before unscaling and clipping"),
        ("underflow_share", "share", "non-zero entries below the dtype's smallest normal number"),
    ),
    "update": _quantities(
        ("log10_weight", "decades", "log10 of the weights' root mean square, before the step"),
        ("log10_ratio", "decades", "log10 rms(change) / rms(weights)"),
        ("unchanged_share", "share", "weights bitwise the same after the step"),
        ("lost_share", "share", "weights unchanged although gradient and rate are not zero"),
        ("decay_share", "1", "rms(rate x decay x weights) / rms(change)"),
        ("outside_share", "share", "weights changed by something else since the step before"),
        ("log10_outside", "decades", "log10 rms(that change) / rms(weights)"),
    ),
    "output": _quantities(
        ("log10_rms", "decades", "log10 of the output's root mean square"),
        ("log10_max", "decades", "log10 of the largest |x|"),
        ("spread_share", "share", "of the energy, what differs between samples"),
        ("zero_share", "share", "entries that are exactly zero"),
        ("non_finite", "1", "NaN and infinite entries"),
        ("flat_share", "share", "entries where the activation's slope is below 5 % of its most"),
        ("dead_share", "share", "units whose slope was zero on every sample so far"),
        ("log10_grad", "decades", "log10 rms of the loss's gradient with respect to the output"),
    ),
    "attention": _quantities(
        ("entropy", "share", "mean entropy of a row over the log of its keys"),
        ("largest_share", "share", "mean over rows of the largest probability"),
        ("largest_logit", "1", "largest |logit| before the softmax, scale included"),
        ("masked_rows", "share", "rows without a single key to look at"),
        ("logit_std", "1", "standard deviation of a row's logits"),
        ("scale_ratio", "1", "factor on q k^T times sqrt(width): 1 as published"),
    ),
    "recurrence": _quantities(
        ("log10_gain", "decades per time step", "slope of log10 |dL/dh_t|, going back in time"),
        ("log10_span", "decades", "log10 |dL/dh| at the first time step less that at the last"),
        ("horizon", "time steps", "until the gradient has fallen to 1/e; infinite if it does not"),
        ("spectral_radius", "1", "of the recurrent weights; the largest over gates"),
        ("forget_gate", "share", "mean opening of an LSTM's forget gate"),
    ),
}
"""What is measured, by table. Columns are optimizers, parameters (twice), outputs, attention calls
and recurrent layers."""

QUANTITIES: dict[str, tuple[str, ...]] = {
    table: tuple(q.name for q in quantities) for table, quantities in TABLES.items()
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A thing that is measured again and again."""

    name: str
    """``layers.0.weight``, ``layers.0``, ``AdamW``; unique within its table."""
    module: str = ""
    """Path of the module it belongs to."""
    kind: str = ""
    """Optimizer's class; parameter's own name; module's class or activation's name."""
    order: int = -1
    """Place in forward order; -1 where not known."""
    shape: tuple[int, ...] = ()
    """Of a parameter."""
    dtype: str = ""
    source: str | None = None
    """``train.py:42  nn.Sigmoid()``: the line that made it, where known."""
    since: int = 0
    """First step at which it was there."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """JSON values. Parameters: ``optimizer`` (column of the step table or None), ``group``,
    ``trainable``, ``registered`` (whether a model holds it), ``as_drawn`` (of a matrix without an
    optimizer: whether it is as torch's own layers draw it). Optimizers: ``betas``, ``eps``,
    ``weight_decay``, ``momentum``..."""

    @property
    def size(self) -> int:
        """Entries of a parameter."""
        return math.prod(self.shape) if self.shape else 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened at a step.

    Kinds, and what ``facts`` holds:

    - ``note``: what cannot be seen, and why.
    - ``loss-graph``: ``tail`` (operations next to the loss, each with ``op``, ``shape`` and
      ``reads``), ``flat`` (operations without a derivative), ``unreached`` (trainable parameters
      that the loss does not depend on), ``strangers`` (how many parameters it depends on that no
      model or optimizer holds), ``hidden`` (modules kept in lists and the like, untrained). When it
      changes; ``where`` is the optimizer stepping next.
    - ``module-state``: ``class``, ``training``, and ``p`` of a dropout or ``values_per_channel`` of
      a batch norm; ``function`` where it is a dropout called as one. When it changes; ``where`` is
      the module, or ``module:function``.
    - ``input``: ``shape``, ``dtype``, ``mean``, ``std``, ``largest`` |x|, ``constant_share``
      (features that are the same in every sample); ``why``: ``jump`` where the step stood out.
    - ``loss-call``: what a loss function was handed, as in :class:`gradmend.records.loss_call`;
      ``where`` is the function; ``why`` as above.
    - ``cells``: a recurrent cell called in a loop: ``calls``, and ``detached``, those whose state
      had no history although it was no zero state.
    - ``non-finite``: ``direction`` (forward, loss, backward, weights), ``operation``, ``source``,
      ``last_good``, ``replayed``, ``why`` it was not; ``data``: inputs and targets of that step
      that are bad themselves, each with ``what``, ``shape`` and ``bad`` (how many numbers).
    - ``unrecorded``: ``why`` (``no_grad``, ``inference_mode``, ``reentrant_checkpoint``): a module
      with trainable parameters ran without recording a graph.
    - ``cut``: ``operation``, ``source``, ``before``, ``lost`` (parameters): a call in a look's
      forward pass that ended the history of these.
    - ``look``: findings of a full look: ``findings`` (as dicts), and ``unused`` (parameters
      without a gradient that the loss does not depend on), ``gates`` (modules with a sigmoid
      that only multiplies), and ``stream_norms`` (norms that read the sum of skip and branch).
    - ``intervention``: what gradmend itself did. Edits made: ``model``, ``remedies``, ``edits``
      (``kind``, the first ``targets`` ``of`` how many), ``count`` and ``notes``. A control that
      begins to act, or a scale that changes: ``control``.
    - ``crash``: ``error``. ``stopped``: ``reason``.
    - ``finding-begins``, ``finding-clears``: ``code``, ``name``, ``severity``.
    """

    step: int
    kind: str
    where: str = ""
    text: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Table:
    """Numbers over steps: ``values[quantity][row, column]``, NaN where not measured."""

    name: str
    columns: tuple[Column, ...] = ()
    steps: Steps = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    """Step of each row, ascending."""
    values: Mapping[str, Floats] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, quantity: str) -> Floats:
        """The numbers of a quantity, shape [rows, columns]."""
        if quantity in self.values:
            return self.values[quantity]
        return np.full((len(self.steps), len(self.columns)), np.nan)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The columns' names."""
        return tuple(column.name for column in self.columns)

    def series(self, quantity: str, column: int | str) -> tuple[Steps, Floats]:
        """The measured values of one column: (steps, values), without NaN."""
        at = self.names.index(column) if isinstance(column, str) else column
        values = self[quantity][:, at]
        known = ~np.isnan(values)
        return self.steps[known], values[known]

    def last(self, quantity: str) -> Floats:
        """The newest measured value of each column, shape [columns]; NaN where there is none."""
        return _newest(self[quantity])

    def first(self, quantity: str) -> Floats:
        """The oldest measured value of each column, shape [columns]; NaN where there is none."""
        return _newest(self[quantity][::-1])

    def between(self, first: int, last: int) -> Table:
        """The rows of steps ``first`` to ``last``, both included."""
        rows = (self.steps >= first) & (self.steps <= last)
        return self._take(rows)

    def tail(self, rows: int) -> Table:
        """The last rows."""
        return self._take(np.arange(len(self.steps)) >= len(self.steps) - rows)

    def _take(self, rows: NDArray[np.bool_]) -> Table:
        return Table(
            name=self.name,
            columns=self.columns,
            steps=self.steps[rows],
            values={name: values[rows] for name, values in self.values.items()},
        )


def _newest(values: Floats) -> Floats:
    newest = np.full(values.shape[1], np.nan)
    for row in values:
        np.copyto(newest, row, where=~np.isnan(row))
    return newest


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """The circumstances of a watched run."""

    name: str = ""
    """Name of the folder, or of the script."""
    command: str = ""
    """What was run, without private paths."""
    models: tuple[str, ...] = ()
    started_at: str = ""
    """UTC, ISO 8601."""
    status: str = "running"
    """``running``, ``finished``, ``crashed``, ``stopped``; a run killed stays ``running``."""
    steps: int = 0
    seconds: float = 0.0
    """From the first step's beginning to the last one's end."""
    overhead_seconds: float = 0.0
    """What watching took while training, measured."""
    setup_seconds: float = 0.0
    """What it took once: compiling kernels, a full look at the first step, and up to two more
    when something began to go wrong."""
    budget: float = 0.02
    """Share of the run's time that watching may take."""
    python: str = ""
    torch: str = ""
    device: str = "cpu"
    rank: int = 0
    ranks: int = 1
    gradmend: str = ""
    schema: int = SCHEMA
    rehearsal: bool = False
    """Whether gradmend took these steps itself, on copies of the weights and one batch."""
    planned_steps: int | None = None
    """Steps the run meant to take, where a schedule or a loop says so."""


@dataclass(frozen=True, kw_only=True)
class History:
    """All that is known of a run: what live rules judge, and what a report is made of."""

    run: RunFacts = field(default_factory=RunFacts)
    tables: Mapping[str, Table] = field(default_factory=dict)
    events: tuple[Event, ...] = ()
    books: tuple[Booked, ...] = ()
    """The gradient ledgers of its first look and of its newest one; one where these are the same,
    none where nothing was looked at."""

    def __getitem__(self, table: str) -> Table:
        """A table by name; an empty one where nothing was measured."""
        return self.tables.get(table, Table(name=table))

    def of_kind(self, *kinds: str) -> Iterator[Event]:
        """Events of some kinds, in order."""
        return (event for event in self.events if event.kind in kinds)

    @property
    def step(self) -> int:
        """The last step of which anything is known; -1 before the first."""
        known = [int(t.steps[-1]) for t in self.tables.values() if len(t)]
        return max(known, default=-1)
