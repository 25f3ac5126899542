"""What is measured of a training, step by step, inside the user's own loop.

An *iteration* is a stretch of the training in which no optimizer steps twice: one step of an
ordinary loop, a discriminator's and a generator's step of a GAN. Rows are numbered by it. At its
beginning the schedule says which tiers are due; at its end rows are written and everything held
of the user's is let go.
"""

from __future__ import annotations

import functools
import math
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer
from typing_extensions import override

from gradmend.engine.watching.batches import MOST_LOSSES, Batches, HeardLoss, Level, bad_data
from gradmend.engine.watching.calls import MOST_CALLS, HeldCall
from gradmend.engine.watching.firstbad import FirstBad
from gradmend.engine.watching.interventions import Interventions
from gradmend.engine.watching.record import Record
from gradmend.engine.watching.schedule import Schedule
from gradmend.engine.watching.sheets import Sheets
from gradmend.probe import accounts, kernels
from gradmend.probe.lines import cut_lines, users_frame
from gradmend.probe.outputs import OutputWatch
from gradmend.probe.roster import Roster, unwrap
from gradmend.probe.taps import Listener
from gradmend.probe.wiring import LossGraph, loss_graph
from gradmend.records.history import QUANTITIES, Event, RunFacts

PULSE = 4096
"""Entries of each gradient that the cheapest tier looks at; the places move from step to step."""
SAMPLE = 4096
"""Entries of each parameter that are compared before and after a step (monitoring-cost.md 4)."""
MOST_GRAPHS = 16
"""Changes of a loss's graph that are told for each optimizer: batches of all sizes change it."""

MOST_MARKED = 16
"""Small gradients that are tried for one that is not zero."""

Row = dict[str, np.ndarray]
_Kept = TypeVar("_Kept")
_ByOptimizer: TypeAlias = WeakKeyDictionary[Optimizer, _Kept]
# By the optimizer itself: one made anew may be given the ``id`` of one that is gone.


def _heard(method: Callable[..., Any]) -> Callable[..., Any]:
    """Count the time a tap takes as watching, not as training."""

    @functools.wraps(method)
    def timed(self: Observer, *args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        try:
            return method(self, *args, **kwargs)
        finally:
            self.own_seconds += time.perf_counter() - began

    return timed


class Observer(Listener):
    """Measures a training into a :class:`Record`, within a :class:`Schedule`.

    Args:
        record: Where rows and events go.
        schedule: When the dear tiers may run.
        optimizers: Those to watch; ``None`` watches every one that steps.
        exact: Look at every entry of every gradient at every step.
        after_iteration: Called with the iteration's number when its rows are written.
        look_now: Called with a held call before the weights change, when a look is due.
    """

    def __init__(
        self,
        record: Record,
        schedule: Schedule,
        *,
        optimizers: list[Optimizer] | None,
        exact: bool,
        after_iteration: Callable[[int], None],
        look_now: Callable[[HeldCall], None],
    ) -> None:
        self.record = record
        self.schedule = schedule
        self.roster = Roster()
        self.exact = exact
        self.step = 0
        self.own_seconds = self.setup_seconds = 0.0
        self.failures: list[str] = []
        self.handed_loss: float | None = None
        self.firstbad = FirstBad(record, self.roster.module_of, self.roster.path)
        self.interventions = Interventions(record.event, lambda: self.step, self._trains)
        self._only = None if optimizers is None else weakref.WeakSet(optimizers)
        self._known: list[weakref.ref[Optimizer]] = [weakref.ref(o) for o in optimizers or []]
        self._after_iteration, self._look_now = after_iteration, look_now
        self._cast: _ByOptimizer[tuple[tuple[int, ...], list[Tensor], np.ndarray]]
        self._cast = WeakKeyDictionary()
        self._outputs: OutputWatch | None = None
        self._sheets = Sheets(record, self.roster)
        self._batches = Batches(record)
        self._root_began = 0.0
        self._root_seconds: WeakKeyDictionary[nn.Module, float] = WeakKeyDictionary()
        self._altered = False  # something stands between backward and step: clipping, a scale
        self._graphs_told: dict[str, tuple[int, Any]] = {}
        self._in_eval = False
        self._last_end: float | None = None
        self._own_at_end = 0.0
        self._norms = Level()
        self._loss_level = Level()
        self._after: _ByOptimizer[Any] = WeakKeyDictionary()
        self._stale = False
        self._stale_gradients: _ByOptimizer[_Stale] = WeakKeyDictionary()
        self._steps_heard: _ByOptimizer[int] = WeakKeyDictionary()
        self._steps_scaled: _ByOptimizer[int] = WeakKeyDictionary()
        self._open: list[list[Any]] = []
        self._clear()

    # ---- one iteration

    def _clear(self) -> None:
        self.plan: frozenset[str] | None = None
        self.calls: list[HeldCall] = []
        self._heard: list[HeardLoss] = []
        self._blocks: dict[str, np.ndarray] = {}
        self._rows: dict[str, Row] = {}  # the blocks' lines, by quantity
        self._stepped: set[int] = set()
        self._cost: dict[str, float] = {}
        self._reset_step()

    def _reset_step(self) -> None:
        """Forget what belongs to one optimizer's step."""
        self._losses: list[float] = []
        self._backwards = 0
        self._raw: _ByOptimizer[tuple[np.ndarray, np.ndarray]] = WeakKeyDictionary()
        self._clip: tuple[str, float, float] | None = None
        self._clip_scaled = self._clip_late = False
        self._scale: float | None = None
        self._unscaled = False
        self._loss_is_scaled = False
        self._closure_heard = False
        self._before: Any = None
        self._graph: LossGraph | None = None

    def _begin(self) -> None:
        if self.plan is not None:
            return
        step = self.step
        self.plan = frozenset(name for name in self.schedule.tiers if self.schedule.due(name, step))
        self._stale = "graph" in self.plan  # now and then: has anything been frozen or added?

    @contextmanager
    def tier(self, name: str) -> Iterator[None]:
        """Book the block's time on a tier."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._cost[name] = self._cost.get(name, 0.0) + time.perf_counter() - began

    @property
    def stepping(self) -> Optimizer | None:
        """The optimizer whose step is going on."""
        return self._open[-1][0] if self._open else None

    @property
    def heard_losses(self) -> list[HeardLoss]:
        """Loss calls of the iteration so far."""
        return self._heard

    @property
    def backward_losses(self) -> list[float]:
        """What backward was called on since the last step, unscaled."""
        return list(self._losses)

    def due(self, name: str) -> bool:
        """Whether a tier measures in this iteration."""
        return self.plan is not None and name in self.plan

    def _end_iteration(self) -> None:
        now = time.perf_counter()
        if self._last_end is not None:
            net = now - self._last_end - (self.own_seconds - self._own_at_end)
            self.schedule.passed(max(0.0, net))
            self._row("step")["seconds"][:] = max(0.0, net)
        for table in ("step", "gradient", "update"):
            if table in self._blocks:
                self.record.append(table, self.step, self._blocks[table])
        first = self._last_end is None
        self._after_iteration(self.step)
        for name, seconds in self._cost.items():
            free = self.schedule.is_free(name)
            self.schedule.took(name, self.step, seconds, once=first or free)
            if free and not first:
                self.own_seconds, self.setup_seconds = (
                    self.own_seconds - seconds,
                    self.setup_seconds + seconds,
                )
        self.step += 1
        if first:  # kernels were compiled, and the model looked at: not what a step costs
            self.setup_seconds, self.own_seconds = self.own_seconds, 0.0
        self.schedule.heard += 1
        self.schedule.base = self.own_seconds - self.schedule.spent
        # What a row asks (was the gradient cleared, has somebody written?) the next step answers.
        awake = self.firstbad.is_bad or self.due("rows")
        self.sleeps = 0 if awake else self.schedule.sleeps(self.step)
        if self.record.due():
            self.record.run = self.run_so_far()
            self.record.flush()
        self._clear()
        self._last_end, self._own_at_end = time.perf_counter(), self.own_seconds

    def _row(self, table: str) -> Row:
        if table not in self._rows:
            names = QUANTITIES[table]
            block = self._blocks[table] = np.empty((len(names), self._width(table)))
            block.fill(np.nan)
            self._rows[table] = dict(zip(names, block, strict=True))
        return self._rows[table]

    @override
    def slept(self, steps: int) -> None:
        """So many steps of the training went by unheard: they cost more to hear than to take."""
        now = time.perf_counter()
        if self._last_end is not None:
            self.schedule.passed(now - self._last_end, steps)
        self.step += steps
        self._last_end = now
        self._after.clear()
        self._stale_gradients.clear()

    def run_so_far(self) -> RunFacts:
        """The run's circumstances as they are now."""
        return replace(
            self.record.run,
            steps=self.step,
            models=tuple(type(unwrap(m)).__name__ for m in self.roster.models())
            or self.record.run.models,
            seconds=self.schedule.trained,
            overhead_seconds=self.own_seconds,
            setup_seconds=self.setup_seconds,
        )

    def finish(self) -> None:
        """The training is over: write what is left of the last iteration."""
        if self._outputs is not None:
            self._outputs.__exit__(None, None, None)
            self._outputs.close()
        if self._stepped:
            self._end_iteration()
        self.record.run = self.run_so_far()

    # ---- who is there

    @override
    def module_made(self, module: nn.Module) -> None:
        """Overridden by the watcher of scripts."""

    @property
    def _optimizers(self) -> list[Optimizer]:
        """Those that are alive; a script may make many, one after the other."""
        return [optimizer for ref in self._known if (optimizer := ref()) is not None]

    def _follows(self, optimizer: Optimizer) -> bool:
        return self._only is None or optimizer in self._only

    def _trains(self, model: nn.Module) -> bool:
        """Whether a model is watched: any is, where nobody said which."""
        return self._only is None or any(
            unwrap(model) is unwrap(each) for each in self.roster.models()
        )

    def _cast_of(self, optimizer: Optimizer) -> tuple[list[Tensor], np.ndarray]:
        """An optimizer's parameters and their columns; looked up anew when they changed."""
        key = tuple(len(group["params"]) for group in optimizer.param_groups)
        known = self._cast.get(optimizer)
        if known is None or known[0] != key or self._stale:
            self._stale = False
            self.roster.optimizer(optimizer)
            if known is None:
                alive = self._optimizers
                if all(optimizer is not other for other in alive):
                    alive.append(optimizer)
                self._known = [weakref.ref(each) for each in alive]
            if self.roster.refresh(self._optimizers, self.step) or known is None:
                for table in ("gradient", "update"):
                    self.record.columns(table, self.roster.columns)
                self.record.columns("step", self.roster.optimizers)
                for table in list(self._blocks):
                    self._widen(table)
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            indices = [self.roster.index(p) for p in parameters]
            kept = [p for p, i in zip(parameters, indices, strict=True) if i is not None]
            known = (key, kept, np.array([i for i in indices if i is not None], dtype=np.intp))
            self._cast[optimizer] = known
        return known[1], known[2]

    def _widen(self, table: str) -> None:
        """The cast has grown in the middle of an iteration."""
        narrow, _ = self._blocks.pop(table), self._rows.pop(table)
        for name, values in zip(QUANTITIES[table], narrow, strict=True):
            self._row(table)[name][: len(values)] = values

    def _width(self, table: str) -> int:
        return len(self.roster.optimizers if table == "step" else self.roster.columns)

    # ---- the forward pass

    @override
    @_heard
    def root_begins(
        self, root: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        if not torch.is_grad_enabled():
            self._ungraded(root)
            return
        self._begin()
        if len(self.calls) < MOST_CALLS:
            self.calls.append(HeldCall.of(root, args, kwargs))
        # An evaluation that forgot no_grad is not what is trained; a training in eval mode is.
        trains = root.training or self._in_eval
        if self.due("outputs") and self._outputs is None and trains and self._turn(root):
            # Only a folder keeps histograms.
            counts = self.record.writer is not None and self.due("output-histograms")
            self._outputs = OutputWatch(root, self._sheets.dead, histograms=counts)
            self._outputs.__enter__()
        self._root_began = time.perf_counter()

    def _ungraded(self, root: nn.Module) -> None:
        """A whole model was called without recording: in an evaluation, or in training."""
        path = self.roster.path(root, "")
        if path and root.training:
            why = "inference_mode" if torch.is_inference_mode_enabled() else "no_grad"
            self._sheets.unrecorded(self.step, root, "", why)

    def _turn(self, root: nn.Module) -> bool:
        """Whether it is this root's turn: each of several is watched now and then."""
        self._root_seconds.setdefault(root, math.nan)
        turns = list(self._root_seconds)
        return turns[self.step // self.schedule.tiers["outputs"].stride % len(turns)] is root

    @override
    def root_ended(self, root: nn.Module, output: object) -> None:
        seconds = time.perf_counter() - self._root_began
        watch = self._outputs
        usual = self._root_seconds.get(root, math.nan)
        if watch is not None and watch.root is root:
            watch.__exit__(None, None, None)
            # Hooks ran inside the user's forward pass: what it took longer than usual is ours.
            counting = watch.histogram_seconds
            extra = max(0.0, seconds - usual - counting) if usual == usual else 0.0
            self.own_seconds += extra + counting
            self._cost["outputs"] = self._cost.get("outputs", 0.0) + extra
            if counting:
                self._cost["output-histograms"] = counting
        else:
            self._root_seconds[root] = seconds if usual != usual else 0.9 * usual + 0.1 * seconds
        if self.calls and self.calls[-1].root() is root:
            self.calls[-1].ended(output)
            if self.due("looks"):
                self.calls[-1].catch_cotangents(output)

    @override
    @_heard
    def loss_called(self, name: str, args: Any, kwargs: Any) -> None:
        if self.plan is None or not torch.is_grad_enabled() or len(self._heard) >= MOST_LOSSES:
            return
        if self.due("outputs"):
            with self.tier("outputs"):
                heard = HeardLoss.of(name, args, kwargs, measure=True)
        else:
            heard = HeardLoss.of(name, args, kwargs, measure=False)
        if heard is not None:
            self._heard.append(heard)

    def _emit_outputs(self) -> None:
        """Before the weights change: recurrent layers are unrolled with those that ran."""
        if self.due("outputs"):
            self._batches.losses(self.step, self._heard)
        watch, self._outputs = self._outputs, None
        if watch is None:
            return
        watch.__exit__(None, None, None)  # again, should the call's end have gone unheard
        with self.tier("outputs"):
            scale = math.log10(self._scale) if self._scale and self._loss_is_scaled else 0.0
            sheet = watch.finish()
            failure = self._sheets.add(self.step, watch.root, sheet, scale)
        if watch.histogram_seconds:
            with self.tier("output-histograms"):
                self._sheets.histograms(self.step, watch.root, sheet)
        if failure is not None:
            self.failed(RuntimeError(failure.strip().splitlines()[-1]))

    # ---- the backward pass

    @override
    @_heard
    def scaled(self, scaler: GradScaler) -> None:
        self._loss_is_scaled = scaler.is_enabled()
        self._scale = float(scaler.get_scale()) if scaler.is_enabled() else None

    @override
    @_heard
    def backward_begins(self, losses: tuple[Tensor, ...]) -> None:
        self._begin()
        for stale in self._stale_gradients.values():
            stale.look()
        if self._closure_heard:
            return
        self.firstbad.begins(losses)
        for loss in losses:
            if loss.numel() == 1 and (loss.device.type == "cpu" or self.due("rows")):
                value = float(loss.detach())
                self._losses.append(value / (self._scale or 1.0) if self._loss_is_scaled else value)
                if not math.isfinite(value):
                    self.firstbad.loss(value, loss, self.calls)
        if self.due("graph") and self._graph is None:
            with self.tier("graph"):
                self._graph = loss_graph(losses[0])

    def _tell_graph(self, optimizer: Optimizer) -> None:
        """Say what the loss's graph looks like, where it has changed."""
        graph, self._graph = self._graph, None
        if graph is None:
            return
        facts: dict[str, Any] = {
            "tail": graph.told(self.roster.module_of),
            "flat": list(graph.flat),
        }
        if graph.whole:
            facts["unreached"] = [
                column.name
                for at, column in enumerate(self.roster.columns)
                if column.facts["trainable"]
                and column.facts["registered"]
                and (p := self.roster.parameter(at)) is not None
                and id(p) not in graph.reached
            ]
            if facts["unreached"]:
                facts["cut_lines"] = cut_lines(users_frame())
            facts["strangers"] = sum(not self.roster.knows(each) for each in graph.parameters)
            if hidden := self.roster.hidden(graph.reached):
                facts["hidden"] = list(hidden)
        where = self.roster.optimizers[self.roster.optimizer(optimizer)].name
        times, before = self._graphs_told.get(where, (0, None))
        if facts != before and times < MOST_GRAPHS:
            self._graphs_told[where] = (times + 1, facts)
            self.record.event(Event(step=self.step, kind="loss-graph", where=where, facts=facts))

    @override
    @_heard
    def backward_ended(self) -> None:
        self._backwards += 1
        if not (self.due("rows") and (self.step < 2 or self._altered)):
            return
        with self.tier("rows"):
            for optimizer in self._optimizers:
                parameters, indices = self._cast_of(optimizer)
                stats = kernels.sweep([p.grad for p in parameters], most=PULSE)
                self._raw[optimizer] = (indices, stats)

    @override
    @_heard
    def clipped(self, kind: str, limit: float, norm: Tensor | None) -> None:
        self._altered = True
        late = not self._backwards and bool(self._stepped or self.step)
        self._clip_late = self._clip_late or late
        self._clip_scaled = self._clip_scaled or (
            self._loss_is_scaled and not self._unscaled and (self._scale or 1.0) != 1.0
        )
        value = float(norm) if norm is not None and norm.device.type == "cpu" else math.nan
        self._clip = (kind, limit, value)

    @override
    @_heard
    def unscaled(self, scaler: GradScaler, optimizer: Optimizer) -> None:
        del scaler, optimizer  # unused: what matters is when it happened
        self._altered = True
        self._unscaled = True

    # ---- the step

    @override
    @_heard
    def step_begins(self, optimizer: Optimizer, has_closure: bool) -> None:
        if not self._follows(optimizer):
            return
        if self._open:  # a wrapper's step around the real one: only the inner one counts
            self._open[-1][1] = False
        at = self.roster.optimizer(optimizer)
        if at in self._stepped:
            self._end_iteration_of_several()
        self._begin()
        self._open.append([optimizer, True])
        self._steps_heard[optimizer] = self._steps_heard.get(optimizer, 0) + 1
        if self.calls and (called := self.calls[-1].root()) is not None:
            self._in_eval = not called.training
        self._cast_of(optimizer)
        self._tell_graph(optimizer)
        self._look_into_the_first_bad()
        if not has_closure:
            self._emit_outputs()
            self._measure_gradients(optimizer)
        self._sample_weights(optimizer)

    def _end_iteration_of_several(self) -> None:
        """A new iteration has begun with what was heard since the last step."""
        kept = {
            name: getattr(self, name)
            for name in (
                "_losses", "_backwards", "_raw", "_clip", "_clip_scaled", "_clip_late",
                "_scale", "_unscaled", "_loss_is_scaled", "_graph", "calls", "_heard",
            )
        }  # fmt: skip
        self._end_iteration()
        for name, value in kept.items():
            setattr(self, name, value)

    @override
    @_heard
    def closure_ended(self, optimizer: Optimizer, loss: object) -> None:
        if self._closure_heard or not self._open or self._open[-1][0] is not optimizer:
            return
        if not self._losses and isinstance(loss, int | float | Tensor):
            self._losses.append(float(loss.detach() if isinstance(loss, Tensor) else loss))
        self._emit_outputs()
        self._measure_gradients(optimizer)
        self._closure_heard = True

    def _measure_gradients(self, optimizer: Optimizer) -> None:
        parameters, indices = self._cast_of(optimizer)
        if not (self.due("pulse") or self.due("rows")) or not parameters:
            return
        thorough = self.due("rows")
        with self.tier("rows" if thorough else "pulse"):
            grads = [p.grad for p in parameters]
            if not thorough and any(g is not None and g.device.type != "cpu" for g in grads[:1]):
                return  # a pulse must not wait for a device
            most = None if thorough or self.exact else PULSE
            stats = kernels.sweep(grads, most=most, turn=self.step)
            pending = getattr(optimizer, "grad_scale", None)
            factor = 1.0 / float(pending) if isinstance(pending, Tensor) else 1.0
            quantities = accounts.gradient_row(stats, grads, factor)
            row = self._row("gradient")
            for name, values in quantities.items():
                row[name][indices] = values
            raw = self._raw.get(optimizer)
            scale = math.log10(self._scale) if self._scale and self._loss_is_scaled else 0.0
            if raw is not None and len(raw[0]) == len(indices):
                row["log10_raw"][indices] = kernels.log10_rms(raw[1]) - scale
            elif thorough and not self._altered:
                row["log10_raw"][indices] = quantities["log10_rms"]
            norm = accounts.log10_norm(stats, [p.numel() for p in parameters], factor)
            self._row("step")["log10_norm"][self.roster.optimizer(optimizer)] = norm
            self._orphans()
            if thorough:
                row["underflow_share"][indices] = accounts.underflow_share(grads)
        if thorough:
            self._histograms(grads, indices)
        self._notice(norm, quantities["state"], indices)
        if self.due("looks") and self.calls:
            with self.tier("looks"):
                caught = [call for call in self.calls if call.was_trained]
                self._look_now((caught or self.calls)[-1])

    def _orphans(self) -> None:
        """Gradients of parameters that no optimizer holds: they are computed and never used."""
        if self._stepped:
            return
        lost = [
            (at, p)
            for at, column in enumerate(self.roster.columns)
            if column.facts["optimizer"] is None and (p := self.roster.parameter(at)) is not None
        ]
        if lost:
            grads = [p.grad for _, p in lost]
            row = self._row("gradient")
            for name, values in accounts.gradient_row(
                kernels.sweep(grads, most=PULSE), grads, 1.0
            ).items():
                row[name][[at for at, _ in lost]] = values

    def _histograms(self, grads: list[Tensor | None], indices: np.ndarray) -> None:
        if self.record.writer is None or not self.due("histograms"):
            return
        with self.tier("histograms"):
            counts = kernels.exponents(grads, stride=8)
            self.record.histogram(
                "gradient",
                self.step,
                {int(i): c for i, c in zip(indices, counts, strict=True) if c.counts},
            )

    def _notice(self, norm: float, state: np.ndarray, indices: np.ndarray) -> None:
        """Look closer where something jumps, and at the first value that is no number."""
        skipping = self._loss_is_scaled and all(math.isfinite(x) for x in self._losses)
        if (state == 3).any() and not skipping:
            names = [self.roster.columns[int(i)] for i in indices[state == 3]]
            self.firstbad.gradient(names)
            self._look_into_the_first_bad()
        if not math.isfinite(norm):
            return
        jumps = self._norms.jumps(norm)
        self._norms = self._norms.with_value(norm)
        loss = abs(_sum(self._losses))
        if math.isfinite(loss) and loss > 0.0:
            jumps = jumps or self._loss_level.jumps(math.log10(loss))
            self._loss_level = self._loss_level.with_value(math.log10(loss))
        if jumps:
            self.schedule.hurry("rows", "outputs")
            self._batches.jumped(self.step, self.calls, self._heard)

    def _look_into_the_first_bad(self) -> None:
        if self.firstbad.fresh:
            with self.tier("looks"):
                data = bad_data(self.calls, self._heard)
                self.firstbad.find(self.step, self.calls, data)
            self.schedule.hurry("rows", "outputs", "rules")

    def _sample_weights(self, optimizer: Optimizer) -> None:
        after = self._after.get(optimizer)
        if not self.due("rows") and (after is None or after[2] != self.step - 1):
            return
        with self.tier("rows"):
            parameters, indices = self._cast_of(optimizer)
            after = self._after.pop(optimizer, None)
            if after is not None and after[2] == self.step - 1 and len(after[1]) == len(indices):
                moved = kernels.compare(after[0], parameters)
                row = self._row("update")
                row["outside_share"][indices] = accounts.changed_share(moved)
                row["log10_outside"][indices] = accounts.changed_ratio(moved)
            if self.due("rows"):
                self._before = kernels.sample(parameters, SAMPLE)

    @override
    @_heard
    def step_ended(self, optimizer: Optimizer) -> None:
        if not self._open or self._open[-1][0] is not optimizer:
            return
        _, innermost = self._open.pop()
        if innermost:
            self._stepped_by(optimizer, skipped=_found_inf(optimizer))

    def _stepped_by(self, optimizer: Optimizer, *, skipped: bool) -> None:
        at = self.roster.optimizer(optimizer)
        step = self._row("step")
        values = {
            "loss": self.handed_loss if self.handed_loss is not None else _sum(self._losses),
            "learning_rate": _rate(optimizer),
            "loss_scale": math.nan if self._scale is None else self._scale,
            "skipped": float(skipped),
            "backwards": float(self._backwards),
            "batch_size": self._batch_size(),
            "not_cleared": self._not_cleared(optimizer),
            "clip_late": float(self._clip_late),
            "clip_scaled": float(self._clip_scaled),
            "clip_factor": 1.0,
            "log10_raw_norm": step["log10_norm"][at],
        }
        if self._clip is not None:
            kind, limit, norm = self._clip
            values["clip_limit"] = limit
            if kind == "norm":
                values["clip_factor"] = min(1.0, limit / (norm + 1e-6))
                values["log10_raw_norm"] = math.log10(norm) if norm > 0 else -math.inf
            else:
                values["clip_factor"] = math.nan
        for name, value in values.items():
            step[name][at] = value
        self.handed_loss = None
        several = len(self.roster.optimizers) > 1
        self.interventions.stepped(optimizer, self.roster.optimizers[at].name if several else "")
        self.firstbad.passed(self.step)
        try:
            if self._before is not None and not skipped:
                with self.tier("rows"):
                    self._compare_weights(optimizer, at)
            self._mark(optimizer)
        finally:  # whatever fails above, the step is over
            self._stepped.add(at)
            self._reset_step()
            if len(self._stepped) >= len(self._known):
                self._end_iteration()

    def _compare_weights(self, optimizer: Optimizer, at: int) -> None:
        parameters, indices = self._cast_of(optimizer)
        grads = [p.grad for p in parameters]
        moved = kernels.compare(self._before, parameters, grads)
        row = self._row("update")
        gradient_rms = 10.0 ** self._row("gradient")["log10_rms"][indices]
        for name, values in accounts.update_row(moved, optimizer, parameters, gradient_rms).items():
            row[name][indices] = values
        sizes = np.array([p.numel() for p in parameters], dtype=np.float64)
        step = self._row("step")
        step["log10_update_norm"][at], step["unchanged_share"][at] = accounts.overall(moved, sizes)
        # Has somebody else written by the next step?
        self._after[optimizer] = (kernels.sample(parameters, SAMPLE), indices, self.step)

    def _not_cleared(self, optimizer: Optimizer) -> float:
        stale = self._stale_gradients.pop(optimizer, None)
        return math.nan if stale is None or not stale.looked else float(not stale.cleared)

    def _mark(self, optimizer: Optimizer) -> None:
        """Remember one small gradient, to see whether it is cleared before the next step."""
        if not self.due("rows"):
            return
        parameters, _ = self._cast_of(optimizer)
        for parameter in sorted(parameters, key=Tensor.numel)[:MOST_MARKED]:
            grad = parameter.grad
            if grad is None or grad.layout != torch.strided or grad.device.type != "cpu":
                continue
            if bool(grad.any()):
                self._stale_gradients[optimizer] = _Stale(parameter)
                return

    def _batch_size(self) -> float:
        for call in self.calls:
            if call.shape:
                return float(call.shape[0])
        return math.nan

    @override
    @_heard
    def scaler_stepped(self, scaler: GradScaler, optimizer: Optimizer) -> None:
        heard = self._steps_heard.get(optimizer, 0)
        if heard == self._steps_scaled.get(optimizer, 0) and self._follows(optimizer):
            self._begin()
            self._cast_of(optimizer)
            self._scale = float(scaler.get_scale())
            self._stepped_by(optimizer, skipped=True)
        self._steps_scaled[optimizer] = heard

    @override
    def failed(self, error: Exception) -> None:
        """Something of ours went wrong: note it once, and let the training go on."""
        text = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        if text not in self.failures and len(self.failures) < 20:
            self.failures.append(text)
            self.record.event(
                Event(step=self.step, kind="note", text=f"gradmend failed to measure: {text}")
            )


class _Stale:
    """A gradient that has been used: is it cleared before its optimizer steps again?"""

    def __init__(self, parameter: Tensor) -> None:
        assert parameter.grad is not None
        self.parameter = weakref.ref(parameter)
        self.copy = parameter.grad.detach().clone()
        self.looked = self.cleared = False

    def look(self) -> None:
        """Another backward pass begins, and will add to what is there."""
        parameter = self.parameter()
        grad = parameter.grad if parameter is not None else None
        gone = grad is None or not bool(grad.any())
        # The first time it must be what it was; later other losses may have been added to it.
        replaced = not self.looked and grad is not None and not _same_bits(grad, self.copy)
        self.cleared = self.cleared or gone or replaced
        self.looked = True


def _same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether nobody has written: NaN, which equals nothing, is left as it was too."""
    return torch.equal(one.isnan(), other.isnan()) and torch.equal(
        one.nan_to_num(nan=0.0), other.nan_to_num(nan=0.0)
    )


def _sum(losses: list[float]) -> float:
    return (
        math.fsum(losses)
        if losses and all(map(math.isfinite, losses))
        else (sum(losses) if losses else math.nan)
    )


def _rate(optimizer: Optimizer) -> float:
    rate = optimizer.param_groups[0].get("lr", math.nan) if optimizer.param_groups else math.nan
    return float(rate)


def _found_inf(optimizer: Optimizer) -> bool:
    found = getattr(optimizer, "found_inf", None)
    return isinstance(found, Tensor) and found.device.type == "cpu" and bool(found)
