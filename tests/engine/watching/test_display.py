"""A watch in a notebook: shown, renewed while it trains, replaced by the page; never in the way."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

import gradmend
from gradmend.engine.progress import Pace, left_words, line, shown_progress
from gradmend.engine.watching import display as module
from gradmend.engine.watching.display import EVERY, MOST_SHOWN, Display, renews
from gradmend.engine.watching.schedule import Schedule, Tier

IPython = pytest.importorskip("IPython")


class Published:
    """What a notebook would show, in order: (output, new, data)."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, bool, dict[str, str]]] = []
        self.breaks = False

    def publish(
        self,
        data: dict[str, str],
        *,
        transient: dict[str, Any] | None = None,
        update: bool = False,
        **rest: Any,
    ) -> None:
        if self.breaks:
            raise ConnectionError("the notebook went away")
        self.sent.append(((transient or {}).get("display_id", ""), not update, data))

    def data(self) -> list[dict[str, str]]:
        return [data for _, _, data in self.sent]


@pytest.fixture
def notebook() -> Iterator[Published]:
    """A real IPython shell, without a terminal, that publishes to a list."""
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    published = Published()
    shell.display_pub.publish = published.publish
    yield published
    InteractiveShell.clear_instance()


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def parts() -> tuple[nn.Sequential, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1))
    return model, torch.optim.SGD(model.parameters(), lr=0.1)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    torch.manual_seed(1)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model(torch.randn(8, 4)).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


# ---- a watch in a notebook


def test_a_displayed_watch_is_renewed_while_it_trains_and_ends_as_the_page(
    notebook: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a watch that a cell displays, and renewals whenever they are due
    monkeypatch.setattr(module, "EVERY", 0.0)
    model, optimizer = parts()
    with gradmend.watch(model, optimizer, looks=False, budget="all") as seen:
        IPython.display.display(seen)
        train(model, optimizer, 5)
    # then one output was made and replaced each step; the last time by the page
    names = {name for name, _, _ in notebook.sent}
    assert len(names) == 1 and [new for _, new, _ in notebook.sent] == [True] + [False] * 6
    first, *panels, page = notebook.data()
    assert "waiting for the first step" in first["text/plain"]
    assert [f"step {k}" in panel["text/plain"] for k, panel in enumerate(panels, 1)] == [True] * 5
    assert "<svg" in panels[-1]["text/html"] and "<iframe" not in panels[-1]["text/html"]
    assert "<iframe" in page["text/html"] and "finished" in page["text/plain"]


def test_show_true_shows_it_as_the_block_begins(notebook: Published) -> None:
    model, optimizer = parts()
    with gradmend.watch(model, optimizer, looks=False, show=True):
        assert len(notebook.sent) == 1
        train(model, optimizer, 2)
    assert "<iframe" in notebook.data()[-1]["text/html"]


def test_show_true_outside_of_a_notebook_says_so_in_the_record() -> None:
    model, optimizer = parts()
    with gradmend.watch(model, optimizer, looks=False, show=True) as seen:
        train(model, optimizer, 2)
    assert any("no notebook" in event.text for event in seen.history().events)


def test_a_watch_that_nobody_displays_sends_nothing_and_has_no_tier(notebook: Published) -> None:
    model, optimizer = parts()
    with gradmend.watch(model, optimizer, looks=False) as seen:
        train(model, optimizer, 5)
    assert notebook.sent == [] and "display" not in seen.observer.schedule.tiers


def test_the_training_is_the_same_to_the_bit_whether_it_is_shown_or_not(
    notebook: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given the same training, shown at every step and not watched at all
    monkeypatch.setattr(module, "EVERY", 0.0)
    model, optimizer = parts()
    plain = train(model, optimizer, 6)
    random.seed(5)
    wanted = random.random()
    random.seed(5)
    model, optimizer = parts()
    with gradmend.watch(model, optimizer, looks=False, budget="all", show=True):
        shown = train(model, optimizer, 6)
    # then its losses are the same, and Python's random numbers are where they were
    assert shown == plain and random.random() == wanted


def test_a_notebook_that_goes_away_ends_the_display_and_not_the_training(
    notebook: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EVERY", 0.0)
    model, optimizer = parts()
    with gradmend.watch(model, optimizer, looks=False, budget="all", show=True) as seen:
        train(model, optimizer, 2)
        notebook.breaks = True
        assert len(train(model, optimizer, 3)) == 3
    assert any("went away" in text for text in seen.observer.failures)
    assert not seen.display.shown


def test_a_training_that_raises_leaves_the_page_and_its_own_error(notebook: Published) -> None:
    model, optimizer = parts()
    with (
        pytest.raises(ZeroDivisionError),
        gradmend.watch(model, optimizer, looks=False, show=True),
    ):
        train(model, optimizer, 2)
        raise ZeroDivisionError("on purpose")
    assert "crashed" in notebook.data()[-1]["text/plain"]


def test_what_showing_takes_is_booked_on_the_watching_budget(
    notebook: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EVERY", 0.0)
    model, optimizer = parts()
    with gradmend.watch(model, optimizer, looks=False, budget="all", show=True) as seen:
        train(model, optimizer, 4)
    tiers = seen.observer.schedule.tiers
    assert tiers["display"].spent > 0.0 and tiers["display"].last == 3
    assert sum(tier.share for tier in tiers.values()) <= 1.0 + 1e-9


def test_after_the_block_a_watch_is_its_page(notebook: Published) -> None:
    model, optimizer = parts()
    with gradmend.watch(model, optimizer, looks=False) as seen:
        assert "<iframe" not in seen._repr_html_()
        train(model, optimizer, 2)
    assert "<iframe" in seen._repr_html_()
    IPython.display.display(seen)
    assert "<iframe" in notebook.data()[-1]["text/html"] and not seen.display.shown


def test_the_last_line_of_a_cell_shows_a_report_with_its_text_beside_it() -> None:
    # given what IPython itself makes of an object at the end of a cell
    from IPython.core.formatters import DisplayFormatter

    formatter = DisplayFormatter()
    formatter.active_types = ["text/plain", "text/html"]
    model, _ = parts()
    report = gradmend.check(model, (torch.randn(8, 4), torch.randn(8, 1)), nn.functional.mse_loss)
    data, _ = formatter.format(report)
    # then there are both forms; in a terminal, which asks for no HTML, the text alone
    assert "<iframe" in data["text/html"] and "GRADIENT LEDGER" in data["text/plain"]
    formatter.active_types = ["text/plain"]
    assert set(formatter.format(report)[0]) == {"text/plain"}


@pytest.mark.parametrize("written", [False, True])
def test_the_page_of_a_watch_holds_the_runs_figures_wherever_it_was_kept(
    written: bool, tmp_path: Path
) -> None:
    # given a run in memory, or one on disk
    model, optimizer = parts()
    run = tmp_path / "run" if written else None
    with gradmend.watch(model, optimizer, run=run, looks=False, budget="all") as seen:
        train(model, optimizer, 8)
    # then the page draws its loss, and nothing is left behind
    shown = seen._repr_html_()
    assert 'data-figure="training"' in shown and 'id="spec-training"' in shown
    assert seen.history().run.steps == 8 and seen.history().run.status == "finished"
    assert [each.name for each in tmp_path.iterdir()] == (["run"] if written else [])


# ---- the display itself


def shown_display(clock: Clock, panel: Any = None) -> Display:
    bundle = {"text/html": "<b>panel</b>", "text/plain": "panel"}
    page = {"text/html": "<b>page</b>", "text/plain": "page"}
    failures: list[Exception] = []
    made = Display(panel or (lambda: bundle), lambda: page, failures.append, clock)
    assert made.show()
    return made


def test_it_is_due_every_two_seconds_and_not_before(notebook: Published) -> None:
    clock = Clock()
    shown = shown_display(clock)
    assert EVERY == 2.0 and not shown.due()
    clock.now += 1.99
    assert not shown.due()
    clock.now += 0.02
    assert shown.due()
    shown.renew()
    assert not shown.due()


def test_several_outputs_move_together_up_to_a_number(notebook: Published) -> None:
    shown = shown_display(Clock())
    for _ in range(9):
        shown.show()
    notebook.sent.clear()
    shown.renew()
    assert len({name for name, _, _ in notebook.sent}) == MOST_SHOWN


def test_a_terminal_is_no_notebook_though_it_runs_ipython(monkeypatch: pytest.MonkeyPatch) -> None:
    class TerminalInteractiveShell:
        pass

    class Colab(TerminalInteractiveShell):
        pass

    fake = ModuleType("IPython")
    monkeypatch.setitem(sys.modules, "IPython", fake)
    for shell, wanted in ((None, False), (Colab(), False), (object(), True)):
        fake.get_ipython = lambda shell=shell: shell  # type: ignore[attr-defined]
        assert renews() is wanted


def test_without_ipython_nothing_is_imported_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert not Display(dict, dict, print).show() and "IPython" not in sys.modules


def test_room_for_the_display_comes_from_the_other_tiers_once() -> None:
    # given two tiers that take the whole budget
    schedule = Schedule(0.02, {"a": Tier(share=0.75), "b": Tier(share=0.25)})
    # when room is made twice
    for _ in range(2):
        schedule.make_room("display", Tier(share=0.2))
    # then all still add up to one
    assert [t.share for t in schedule.tiers.values()] == pytest.approx([0.6, 0.2, 0.2])


# ---- the line of long work


def test_the_time_left_is_what_a_steady_pace_leaves() -> None:
    # given work that does a hundredth each second
    clock = Clock()
    pace = Pace(clock)
    for second in range(1, 51):
        pace.tell(0.0 if second == 1 else (second - 1) / 100)
        clock.now += 1.0
    # then half way in, half is left (the clock has gone one second beyond the last word)
    assert pace.left == pytest.approx(50.0, abs=1.0)


def test_the_time_left_counts_down_between_words_and_does_not_jump() -> None:
    clock = Clock()
    pace = Pace(clock)
    pace.tell(0.0)
    clock.now += 10.0
    pace.tell(0.1)
    assert pace.left == pytest.approx(90.0)
    # when nothing is said for a while, the time goes on
    clock.now += 10.0
    assert pace.left == pytest.approx(80.0)
    # when the pace halves at once, the word moves by a part of it: 10 % more took 30 s
    clock.now += 20.0
    pace.tell(0.2)
    assert 60.0 < pace.left < 90.0  # type: ignore[operator]


def test_nothing_is_promised_before_a_pace_is_known() -> None:
    clock = Clock()
    pace = Pace(clock)
    assert pace.left is None
    pace.tell(0.5)
    assert pace.left is None  # where it began, no pace of it
    clock.now += 1.0
    pace.tell(0.6)
    assert pace.left is None  # a second says little
    pace.tell(None)
    assert pace.left is None


def test_another_piece_of_work_is_counted_anew() -> None:
    clock = Clock()
    pace = Pace(clock)
    for share in (0.0, 0.5, 1.0):
        pace.tell(share)
        clock.now += 100.0
    pace.tell(0.0)
    assert pace.left is None
    clock.now += 4.0
    pace.tell(0.5)
    assert pace.left == pytest.approx(4.0)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, ""),
        (0.0, "a few seconds left"),
        (4.9, "a few seconds left"),
        (38.0, "about 40 s left"),
        (59.9, "about 60 s left"),
        (83.0, "about 80 s left"),
        (170.0, "about 3 min left"),
        (7260.0, "about 2 h 0 min left"),
    ],
)
def test_the_time_left_in_words(seconds: float | None, words: str) -> None:
    assert left_words(seconds) == words


@pytest.mark.parametrize("width", [1, 20, 40, 60, 80, 200])
@pytest.mark.parametrize("ascii", [False, True])
def test_the_line_is_one_line_never_wider_than_the_terminal(width: int, ascii: bool) -> None:
    for text in ("short", "a" * 500, "\x1b[31mred\x1b[0m\r\nevil \u202e", "層" * 3):
        drawn = line(text, 0.34, 12.0, 38.0, width=width, ascii=ascii)
        assert len(drawn) <= width and drawn.isprintable()
        assert drawn.isascii() or not ascii


def test_the_line_says_what_share_and_time_left() -> None:
    said = line("racing scale-sigmoid", 0.34, 20.0, 38.0, width=100, ascii=True)
    assert said == "racing scale-sigmoid  #####...........  34 %, about 40 s left"
    assert line("building", None, 12.3, None) == "building  12 s"
    assert line("building", None, 0.3, None) == "building"


def test_nothing_is_shown_in_a_pipe_even_where_colour_is_forced(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with shown_progress() as tell:
        tell("working", 0.5)
        tell("working", None)
    assert capsys.readouterr() == ("", "")


def test_in_a_notebook_the_line_stands_in_the_cell_and_is_taken_away(
    notebook: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gradmend.engine.progress.EVERY", 0.0)
    with shown_progress() as tell:
        tell("racing", 0.5)
    assert [data["text/plain"][:6] for data in notebook.data()] == ["", "racing", ""]
    assert len({name for name, _, _ in notebook.sent}) == 1
