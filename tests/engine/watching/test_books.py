"""A watched run keeps the gradient ledgers of its looks, and takes no look for them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import gradmend
from gradmend.engine.watching.record import Record
from gradmend.engine.watching.script import ScriptWatch
from gradmend.engine.watching.summary import report_of
from gradmend.engine.watching.watch import Watch
from gradmend.records.history import RunFacts
from gradmend.records.ledger import Entry, Ledger
from gradmend.renderers.run_page import render_run_page
from gradmend.renderers.run_text import render_run
from gradmend.store.reader import open_run


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(8, 8), nn.Sigmoid(), nn.Linear(8, 8), nn.Sigmoid(), nn.Linear(8, 3)
    )


def steps(model: nn.Module, optimizer: Any, count: int, *, spoilt: int = -1) -> None:
    draw = torch.Generator().manual_seed(1)
    for step in range(count):
        x = torch.randn(16, 8, generator=draw)
        loss = F.cross_entropy(model(x), x[:, :3].argmax(1))
        loss = loss * torch.nan if 0 <= spoilt <= step else loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def looking(model: nn.Module, folder: Path | None, *, at: tuple[int, ...] = ()) -> Watch:
    """A watch that looks at the first step and at those named, and at no other."""
    watch = gradmend.watch(model, run=folder, budget="all")
    watch.observer.schedule.tiers["looks"].stride = 1_000_000
    asked = watch._after_iteration

    def after(step: int) -> None:
        asked(step)
        if step + 1 in at:
            watch.observer.schedule.once("looks")

    watch.observer._after_iteration = after
    watch._urgent_looks = 99  # and none because something goes wrong
    return watch


def trained(folder: Path | None, count: int = 12, **options: Any) -> Watch:
    spoilt = options.pop("spoilt", -1)
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    with looking(model, folder, **options) as watch:
        steps(model, optimizer, count, spoilt=spoilt)
    return watch


def test_the_first_and_the_newest_look_are_kept(tmp_path: Path) -> None:
    # Given a run that was looked at three times, when it is read back,
    watch = trained(tmp_path / "run", at=(4, 8))
    history = open_run(tmp_path / "run").history()
    # then the books of the first look and of the newest are there, as they were in memory.
    assert [b.step for b in history.books] == [0, 8] == [b.step for b in watch.history().books]
    for read, kept in zip(history.books, watch.history().books, strict=True):
        assert read.ledger.total_decades == kept.ledger.total_decades
        assert read.ledger.root is not None and kept.ledger.root is not None
        names = [entry.name for entry in read.ledger.root.walk()]
        assert names == [entry.name for entry in kept.ledger.root.walk()]
        assert "0" in names and "4" in names
        total = sum(entry.decades for entry in read.ledger.root.leaves())
        assert total == pytest.approx(read.ledger.total_decades)
    # And no look was taken for it.
    looked = [event.step for event in history.of_kind("look")]
    assert looked == [0, 4, 8]


def test_the_report_has_both_wherever_it_is_made(tmp_path: Path) -> None:
    watch = trained(tmp_path / "run", at=(6,))
    reader = open_run(tmp_path / "run")
    there, here = report_of(reader.history()), watch.report()
    for report in (there, here):
        assert report.ledger is not None and report.after is not None
        assert report.after.run.step == 6
    assert there.ledger and here.ledger and there.ledger.by_cause == here.ledger.by_cause


def test_a_look_at_numbers_that_are_none_is_not_the_newest(tmp_path: Path) -> None:
    # Given a loss that is no number from step 5 on, and a look after that,
    watch = trained(tmp_path / "run", at=(3, 7), spoilt=5)
    # then the books are those of the last look that could keep any.
    assert [e.step for e in watch.history().of_kind("look")] == [0, 3, 7]
    assert [b.step for b in open_run(tmp_path / "run").history().books] == [0, 3]


def test_a_folder_that_is_made_after_the_first_step_has_them_too(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    watch = ScriptWatch(
        folder=lambda: folder, budget="2%", looks=True, stop_when_dead=False, name="", command=""
    )
    with watch:
        model = net()
        steps(model, torch.optim.SGD(model.parameters(), 0.5), 3)
    assert [b.step for b in open_run(folder).history().books] == [0]


@pytest.mark.parametrize("looks", [True, False])
def test_keeping_them_leaves_no_mark_on_the_training(looks: bool, tmp_path: Path) -> None:
    # Given the same training, watched to disk and not at all,
    ends = []
    for folder in (None, tmp_path / "run"):
        model = net()
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        if folder is None:
            steps(model, optimizer, 30)
        else:
            with gradmend.watch(model, optimizer, run=folder, looks=looks, budget="all"):
                steps(model, optimizer, 30)
        ends.append([p.detach().clone() for p in model.parameters()])
    # then every bit is the same.
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))
    assert bool(open_run(tmp_path / "run").history().books) is looks


def test_of_several_models_the_books_of_the_first_are_kept() -> None:
    record = Record(RunFacts(), None)

    def book(name: str, step: int) -> None:
        root = Entry(name=name, kind="module", decades=0.0)
        record.books(step, Ledger(cotangent="loss", total_decades=0.0, unexplained_decades=0.0,
                                  root=root))  # fmt: skip

    for name, step in (("one", 0), ("two", 0), ("two", 5), ("one", 9), ("one", 9), ("one", 12)):
        book(name, step)
    kept = record.history().books
    named = [(b.step, b.ledger.root.name) for b in kept if b.ledger.root]
    assert named == [(0, "one"), (12, "one")]
    empty = replace(kept[0].ledger, root=None)
    record.books(20, empty)
    assert [b.step for b in record.history().books] == [0, 12]


def test_a_run_shows_its_books_on_the_page_and_in_text(tmp_path: Path) -> None:
    watch = trained(tmp_path / "run", at=(6,))
    reader = open_run(tmp_path / "run")
    html = render_run_page(watch.report(), reader)
    # One place, whose figure can be exchanged for that of the first look.
    assert html.count('data-figure="ledger"') == 1
    assert 'id="spec-ledger"' in html and 'id="spec-ledger-first"' in html
    assert "After 6 steps it arrives" in html
    said = render_run(watch.report(), reader.history(), width=100)
    assert "THE GRADIENT LEDGER" in said and "The books after 6 steps:" in said
    without = trained(None).report()
    said = render_run(replace(without, trace=replace(without.trace, ledger=None)),
                      trained(None).history(), width=100)  # fmt: skip
    assert "LEDGER" not in said
