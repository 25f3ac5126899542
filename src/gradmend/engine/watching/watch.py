"""``gradmend.watch``: a training is watched for the length of a ``with`` block."""

from __future__ import annotations

import os
import platform
import sys
import weakref
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn
from torch.optim import Optimizer

from gradmend.engine.diagnose import diagnose, rank
from gradmend.engine.watching.budget import read_budget
from gradmend.engine.watching.calls import HeldCall
from gradmend.engine.watching.dead import why_dead
from gradmend.engine.watching.display import SHARE, Bundle, Display, renews
from gradmend.engine.watching.live import Live
from gradmend.engine.watching.look_facts import look_facts
from gradmend.engine.watching.observer import Observer
from gradmend.engine.watching.record import Record
from gradmend.engine.watching.schedule import Schedule, Tier
from gradmend.engine.watching.summary import Look, report_of
from gradmend.errors import BadInput
from gradmend.probe.look import FLOAT64_LIMIT
from gradmend.probe.taps import StopTraining, Taps
from gradmend.records.codec import to_plain
from gradmend.records.finding import Severity
from gradmend.records.history import Event, History, RunFacts
from gradmend.records.ledger import renamed
from gradmend.records.report import Report
from gradmend.records.views import Printer, print_pretty, views
from gradmend.store.writer import RunWriter

DEAD_STATUS = 3
"""Exit status of a run that ``stop_when_dead`` ended."""
MOST_URGENT_LOOKS = 2
"""Full looks of a run that a finding may call for, beyond those the budget pays; their cost is
told apart, with what the first step took once."""

OF_THE_LOSS = ("GRF101", "GRF204", "GRF205")
"""Rules about who is reached by the real loss."""

_open: weakref.WeakSet[Record] = weakref.WeakSet()


def _leave_children() -> None:
    for record in list(_open):
        record.leave_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_children)


class Watch:
    """Watches a training without changing a bit of it.

    Between entering and leaving, what the loop does is measured: gradients, updates, module
    outputs, the loss, clipping and scaling. Weights, random numbers, flags and hooks are left as
    they are, and a failure in here never reaches the training.

    Args:
        model: The model, or several; ``None`` to find them (see :mod:`.discovery`).
        optimizer: The optimizer, or several; ``None`` watches every one that steps.
        run: Folder to write the run to; ``None`` writes nothing.
        budget: Share of the training's time that watching may take, ``"2%"`` or ``0.02``; ``"all"``
            measures everything as often as it makes sense.
        looks: Whether to look at the model in full (as :func:`gradmend.check` does, on copies) at
            the first step and when something begins to go wrong.
        stop_when_dead: End a training that cannot recover, by :class:`StopTraining`.
        show: Show it in the notebook as the block begins, and keep that up to date.
        name: Of the run; the folder's where not given.
        command: What was run, for the record.

    Raises:
        BadInput: If ``model`` or ``optimizer`` is none, or the budget or folder cannot be used.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> with Watch(model, optimizer) as seen:
        ...     for _ in range(3):
        ...         optimizer.zero_grad()
        ...         model(torch.ones(4, 2)).square().mean().backward()
        ...         optimizer.step()
        >>> seen.history().run.steps
        3
    """

    def __init__(
        self,
        model: nn.Module | list[nn.Module] | tuple[nn.Module, ...] | None = None,
        optimizer: Optimizer | list[Optimizer] | tuple[Optimizer, ...] | None = None,
        *,
        run: str | Path | None = None,
        budget: str | float = "2%",
        looks: bool = True,
        stop_when_dead: bool = False,
        show: bool = False,
        name: str = "",
        command: str = "",
    ) -> None:
        models = _several(model, nn.Module, "model")
        optimizers = _several(optimizer, Optimizer, "optimizer")
        share = read_budget(budget)
        everything = share == float("inf")
        self.folder = None if run is None else Path(run)
        facts = RunFacts(
            name=name or (self.folder.name if self.folder else ""),
            command=command,
            models=tuple(type(m).__name__ for m in models or ()),
            started_at=datetime.now(UTC).isoformat(timespec="seconds"),
            budget=share,
            python=platform.python_version(),
            torch=torch.__version__,
            rank=int(os.environ.get("RANK", "0")),
            ranks=int(os.environ.get("WORLD_SIZE", "1")),
            gradmend=version("gradmend"),
        )
        self.record = Record(facts, self._writer(facts))
        self.observer = self._observer(everything, share, optimizers)
        self.taps = Taps(self.observer)
        self.live = Live(self.record.event, self.observer.failed)
        self.display = Display(self._panel, self._page, self.observer.failed)
        self.looks: list[Look] = []
        self.closed = False
        self._wants_display = show
        self._wants_looks, self._stop_when_dead = looks, stop_when_dead
        self._urgent_looks = 0
        self._asked_for_uses = False
        for each in models or ():
            self.observer.roster.add_model(each)
        self._models = models
        _open.add(self.record)

    _kind: type[Observer] = Observer

    def _writer(self, facts: RunFacts) -> RunWriter | None:
        if self.folder is None:
            return None
        return RunWriter.create(self.folder, facts, rank=facts.rank)

    def _observer(
        self, everything: bool, share: float, optimizers: list[Optimizer] | None
    ) -> Observer:
        tiers = {
            "pulse": Tier(share=0.30),
            "rows": Tier(
                share=0.28, stride=1 if everything else 10, cost_in_steps=0.2, warms_up=True
            ),
            "outputs": Tier(
                share=0.15, stride=5 if everything else 20, cost_in_steps=3.0, warms_up=True
            ),
            "looks": Tier(share=0.10, stride=200, cost_in_steps=30.0),
            "graph": Tier(share=0.03, stride=25, cost_in_steps=0.1),
            "histograms": Tier(
                share=0.03, stride=1 if everything else 20, cost_in_steps=0.1, warms_up=True
            ),
            # With the outputs, or not at all: where several models take turns, each has its own.
            "output-histograms": Tier(
                share=0.04, stride=5 if everything else 20, cost_in_steps=0.2, warms_up=True
            ),
            "rules": Tier(share=0.07, stride=10 if everything else 25, cost_in_steps=1.0),
        }
        return self._kind(
            self.record,
            Schedule(share, tiers),
            optimizers=optimizers,
            exact=everything,
            after_iteration=self._after_iteration,
            look_now=self._look,
        )

    def __enter__(self) -> Self:
        """Begin to watch."""
        self.taps.open()
        self.observer.interventions.open()
        self.taps.follow_roots(self.observer.roster.models())
        if self._wants_display and not self._show():
            self.record.note(0, "show=True shows nothing here: this is no notebook")
        return self

    @property
    def trained(self) -> bool:
        """Whether an optimizer has stepped."""
        return self.observer.step > 0

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop watching; an exception of the training's is noted and goes on."""
        self.close(error)

    def close(self, error: BaseException | None = None) -> None:
        """Stop watching, put everything back, write what is left."""
        if self.closed:
            return
        self.closed = True
        self.taps.close()
        self.observer.interventions.close()
        try:
            self.observer.finish()
            status = "finished"
            if isinstance(error, StopTraining):
                status = "stopped"
            elif error is not None and not isinstance(error, SystemExit):
                status = "crashed"
                said = " ".join(str(error).split())[:300]
                self.record.event(
                    Event(
                        step=self.observer.step,
                        kind="crash",
                        text=f"{type(error).__name__}: {said}",
                        facts={"error": type(error).__name__},
                    )
                )
            self._judge()
            self.record.run = replace(self.record.run, status=status)
        except Exception as ours:
            self.observer.failed(ours)
        finally:
            self.record.close()
        self.display.close()

    def log(self, *, loss: float | torch.Tensor) -> None:
        """Hand over the loss of the step that is going on, where it cannot be picked up."""
        self.observer.handed_loss = float(loss)

    def history(self) -> History:
        """What is known of the run so far."""
        if not self.closed:
            self.record.run = self.observer.run_so_far()
        return self.record.history()

    def report(self) -> Report:
        """Findings and figures so far; also after the block has ended."""
        return report_of(self.history(), self.looks)

    # ---- called by a notebook

    def _ipython_display_(self) -> None:
        if not self._show():
            print(self._words())

    def _repr_html_(self) -> str:
        return (self._page if self.closed else self._panel)()["text/html"]

    def _repr_pretty_(self, printer: Printer, cycle: bool) -> None:
        del cycle  # unused: a watch does not hold itself
        print_pretty(printer, self._words, f"Watch at step {self.observer.step}")

    def _show(self) -> bool:
        shown = self.display.show()
        if self.display.shown:
            self.observer.schedule.make_room("display", Tier(share=SHARE))
        return shown

    def _words(self) -> str:
        return (self._page if self.closed else self._panel)()["text/plain"]

    def _panel(self) -> Bundle:
        history = self.history()
        # Drawn at an iteration's end, when it is not counted yet.
        steps = max(history.run.steps, history.step + 1)
        history = replace(history, run=replace(history.run, steps=steps))
        found = [spell.finding for spell in self.live.open]
        return {
            "text/html": views().panel(history, found),
            "text/plain": views().panel_words(history, found),
        }

    def _page(self) -> Bundle:
        report, history = self.report(), self.history()
        kept = "" if self.folder is None else str(self.folder)
        with self.record.as_folder(self.folder) as folder:
            html = views().page(report, history, folder=str(folder), kept=kept)
        return {"text/html": html, "text/plain": views().words(report, history)}

    # ---- called by the observer, inside the training

    def _after_iteration(self, step: int) -> None:
        self._judge_if_due(step)
        if self.display.due() and self.observer.due("display"):
            with self.observer.tier("display"):
                self.display.renew()

    def _judge_if_due(self, step: int) -> None:
        if not self.observer.due("rules") or step == 0:
            return
        with self.observer.tier("rules"):
            begun = self._judge()
            for spell in begun:
                if spell.finding.severity is not Severity.NOTE:
                    self.observer.schedule.hurry("rows", "outputs")
                    if self._wants_looks and self._urgent_looks < MOST_URGENT_LOOKS:
                        self._urgent_looks += 1
                        self.observer.schedule.once("looks")
            if self._stop_when_dead:
                why = why_dead(self.history())
                if why is not None:
                    self.record.event(Event(step=step, kind="stopped", text=why))
                    self.observer.stop = StopTraining(DEAD_STATUS)

    def _judge(self) -> list[Any]:
        return self.live.judge(self.history())

    def _look(self, call: HeldCall) -> None:
        root = call.root()
        if not self._wants_looks or root is None or call.why_not() is not None:
            return
        if sum(p.numel() for p in root.parameters()) > FLOAT64_LIMIT:
            self.record.note(
                self.observer.step,
                f"models beyond {FLOAT64_LIMIT:,} parameters are not looked at in full",
            )
            self._ask_for_uses(call, root)
            return
        step = self.observer.step
        try:
            trace = call.look_again(precision="auto", step=step)
        except Exception as error:  # the user's forward, on copies and in another number format
            text = " ".join(str(error).split())[:160]
            self.record.note(step, f"no full look: {type(error).__name__}: {text}")
            self._wants_looks = False
            return
        for cut in trace.cuts:
            where = self.observer.roster.path(root, cut.module)
            lost = [self.observer.roster.path(root, name) for name in cut.lost]
            facts = {**to_plain(cut), "lost": lost}
            self.record.event(Event(step=step, kind="cut", where=where, facts=facts))
        # The look's loss is a stand-in on the outputs that are tensors; who is reached by the real
        # one is known exactly from its own graph and from the gradients themselves.
        said = [f for f in diagnose(trace).findings if f.code not in OF_THE_LOSS]
        if not call.has_data(self.observer.calls):
            said = [f for f in said if not f.code.startswith("DAT")]  # it judges a model's output
        found = tuple(rank(said))
        look = Look(step=step, trace=trace, findings=found)
        self.looks = [*self.looks[:1], look]

        def path(name: str) -> str:
            return self.observer.roster.path(root, name)

        if trace.ledger is not None and not trace.not_finite:
            self.record.books(step, renamed(trace.ledger, path))
        facts = {
            "findings": [to_plain(finding) for finding in found],
            **look_facts(trace, path),
        }
        self.record.event(Event(step=step, kind="look", facts=facts))

    def _ask_for_uses(self, call: HeldCall, root: nn.Module) -> None:
        """Whether the loss depends on what got no gradient; some forward passes tell."""
        lost = [n for n, p in root.named_parameters() if p.requires_grad and p.grad is None]
        if not lost or self._asked_for_uses:
            return
        self._asked_for_uses = True
        try:
            unused = [self.observer.roster.path(root, name) for name in call.unused(lost)]
        except Exception as error:  # as above
            text = " ".join(str(error).split())[:160]
            self.record.note(self.observer.step, f"no second pass: {type(error).__name__}: {text}")
            return
        facts = {"findings": [], "unused": unused}
        self.record.event(Event(step=self.observer.step, kind="look", facts=facts))


def watch(
    model: nn.Module | list[nn.Module] | tuple[nn.Module, ...],
    optimizer: Optimizer | list[Optimizer] | tuple[Optimizer, ...] | None = None,
    *,
    run: str | Path | None = None,
    budget: str | float = "2%",
    looks: bool = True,
    stop_when_dead: bool = False,
    show: bool = False,
) -> Watch:
    """Watch a training for the length of a ``with`` block; see :class:`Watch`.

    A plain ``loss.backward()`` is picked up; where there is none, hand the loss over with
    ``.log(loss=...)``. ``.report()`` says what was found, at any time and after the block.
    Without ``run`` nothing is written to disk. In a notebook ``show=True``, or displaying the
    watch, shows the training while it goes on and the whole report when it is over.

    Raises:
        BadInput: If an argument cannot be used.
    """
    if model is None:
        raise BadInput("model is None", "there is nothing to watch", "pass the model")
    return Watch(
        model,
        optimizer,
        run=run,
        budget=budget,
        looks=looks,
        stop_when_dead=stop_when_dead,
        show=show,
        command=_command(),
    )


def _command() -> str:
    """What was run; nothing where that is a notebook, whose kernel's own file says nothing."""
    return "" if renews() or not sys.argv else Path(sys.argv[0]).name


def _several(value: Any, kind: type, name: str) -> list[Any] | None:
    if value is None:
        return None
    items = list(value) if isinstance(value, list | tuple) else [value]
    wrong = next((item for item in items if not isinstance(item, kind)), None)
    if wrong is not None or not items:
        found = "empty" if not items else f"a {type(wrong).__name__}"
        raise BadInput(f"{name} is {found}, no {kind.__name__}", "", f"pass the {name} itself")
    return items
