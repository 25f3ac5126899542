"""What gradmend did to a training is told: edits when they are made, controls when they act."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import SGD, Adam, Optimizer

import gradmend
from gradmend.controls import ClipByNorm, LiftSmallGradients, LossScale, WarmUp, hang
from gradmend.engine.watching.interventions import MOST_TOLD, Interventions
from gradmend.records.history import Event
from gradmend.records.prescription import Edit, Prescription
from gradmend.renderers.run_figures.training import over_steps
from gradmend.renderers.run_text import render_run
from gradmend.store.reader import open_run


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))


def train(model: nn.Module, optimizer: Optimizer, sizes: list[float], begun: int = 0) -> None:
    draw = torch.Generator().manual_seed(begun)
    for size in sizes:
        x = torch.randn(8, 4, generator=draw)
        loss = F.cross_entropy(model(x), (x.sum(1) > 0).long()) * size
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def told(watch: Any) -> list[tuple[int, str]]:
    return [(e.step, e.text) for e in watch.history().of_kind("intervention")]


def test_clipping_is_told_when_it_begins_and_begins_again() -> None:
    # Given a clip that acts at steps 3, 4 and 150 of 200,
    model = net()
    optimizer = SGD(model.parameters(), 1e-3)
    hang(ClipByNorm(50.0), optimizer)
    sizes = [1e4 if step in (3, 4, 150) else 1.0 for step in range(200)]
    with gradmend.watch(model, optimizer, budget="all", looks=False) as watch:
        train(model, optimizer, sizes)
    # then it is told twice: where it began, and where it did after a long time without.
    assert told(watch) == [
        (3, "clip-by-norm scales the gradient for the first time"),
        (150, "clip-by-norm scales the gradient again, after 146 steps"),
    ]


def test_a_clip_that_acts_at_every_step_is_one_event() -> None:
    model = net()
    optimizer = SGD(model.parameters(), 1e-3)
    hang(ClipByNorm(1e-6), optimizer)
    hang(LiftSmallGradients(1e-30), optimizer)
    with gradmend.watch(model, optimizer, budget="all", looks=False) as watch:
        train(model, optimizer, [1.0] * 250)
    assert told(watch) == [(0, "clip-by-norm scales the gradient for the first time")]


def test_a_warm_up_is_told_when_it_is_over() -> None:
    model = net()
    optimizer = SGD(model.parameters(), 1e-3)
    hang(WarmUp(7), optimizer)
    with gradmend.watch(model, optimizer, budget="all", looks=False) as watch:
        train(model, optimizer, [1.0] * 20)
    assert told(watch) == [(7, "warm-up is over after 7 steps: the full rate from here on")]


def test_a_step_left_out_and_a_scale_that_falls_are_told() -> None:
    model = net()
    optimizer = SGD(model.parameters(), 1e-3)
    control = LossScale(1024.0)
    hang(control, optimizer)
    with gradmend.watch(model, optimizer, budget="all", looks=False) as watch:
        for step in range(6):
            loss = model(torch.ones(4, 4)).square().mean() * (torch.inf if step == 3 else 1.0)
            optimizer.zero_grad()
            control.change(loss, optimizer).backward()
            optimizer.step()
    assert told(watch) == [
        (3, "loss-scale leaves out a step that is not finite for the first time"),
        (3, "loss-scale goes from 1024 to 512"),
    ]


def test_of_two_optimizers_each_is_named() -> None:
    one, two = net(), net()
    first, second = SGD(one.parameters(), 1e-3), Adam(two.parameters(), 1e-3)
    hang(ClipByNorm(1e-6), second)
    with gradmend.watch([one, two], [first, second], budget="all", looks=False) as watch:
        for begun in range(3):
            train(one, first, [1.0], begun)
            train(two, second, [1.0], begun)
    assert told(watch) == [(0, "clip-by-norm of Adam scales the gradient for the first time")]


def test_a_control_from_a_checkpoint_is_told_of_what_it_does_now() -> None:
    # Given a control that has clipped before anybody watched,
    model = net()
    optimizer = SGD(model.parameters(), 1e-3)
    hang(ClipByNorm(50.0), optimizer)
    train(model, optimizer, [1e4, 1e4, 1.0])
    # when the training is watched, then what it did is not told, and what it does is.
    with gradmend.watch(model, optimizer, budget="all", looks=False) as watch:
        train(model, optimizer, [1.0, 1.0, 1e4])
    assert told(watch) == [(2, "clip-by-norm scales the gradient for the first time")]


def test_a_control_is_told_so_often_and_no_more() -> None:
    # Given a scale that changes at each of a thousand steps,
    events: list[Event] = []
    at = [0]
    seen = Interventions(events.append, lambda: at[0])
    optimizer = SGD(net().parameters(), 1e-3)
    for step in range(1000):
        at[0] = step
        scale = {"scale": 2.0 ** (step % 7), "steps": step}
        optimizer.param_groups[0]["gradmend"] = {"loss-scale": scale}
        seen.stepped(optimizer, "")
    # then the first ones are told, the last of them says so, and steps unheard are said.
    assert len(events) == MOST_TOLD
    assert events[-1].text.endswith("what it does from here on is not told")
    at[0] = 2000
    fresh = Interventions(events.append, lambda: at[0])
    optimizer.param_groups[0]["gradmend"] = {"clip-by-norm": {"steps": 1, "clipped": 0}}
    fresh.stepped(optimizer, "")
    at[0] = 2050
    optimizer.param_groups[0]["gradmend"] = {"clip-by-norm": {"steps": 51, "clipped": 1}}
    fresh.stepped(optimizer, "")
    assert events[-1].text.endswith("for the first time (between steps 2,001 and 2,050)")


def prescription() -> Prescription:
    edits = (
        Edit(kind="clip_gradients", targets=(), args={"method": "norm", "limit": 1e-6}),
        Edit(kind="replace_module", targets=("1",), args={"module": "ReLU"}),
    )
    return Prescription(model="Sequential", remedies=("clip-by-norm",), edits=edits)


def test_edits_made_while_it_is_watched_are_told_and_shown(tmp_path: Path) -> None:
    # Given a training in which a prescription is applied after five steps,
    model, stranger = net(), net()
    optimizer = SGD(model.parameters(), 1e-3)
    with gradmend.watch(model, optimizer, run=tmp_path / "run", budget="all", looks=False) as watch:
        train(model, optimizer, [1.0] * 5)
        other = SGD(stranger.parameters(), 1e-3)
        gradmend.apply(prescription(), stranger, optimizer=other)  # it is not watched
        fixed = gradmend.apply(prescription(), model, optimizer=optimizer)
        train(fixed.model, optimizer, [1.0] * 5)
    another = SGD(net().parameters(), 1e-3)
    gradmend.apply(prescription(), net(), optimizer=another)  # nobody watches any more
    # then it is told when, and to what;
    assert told(watch) == [
        (5, "clip-by-norm applied to Sequential and its SGD"),
        (5, "clip-by-norm scales the gradient for the first time"),
    ]
    facts = next(watch.history().of_kind("intervention")).facts
    named = {"kind": "replace_module", "targets": ["1"], "of": 1}
    assert facts["count"] == 2 and facts["edits"][1] == named
    # and it stands on the one time axis and in the text.
    reader = open_run(tmp_path / "run")
    figure = over_steps(reader)
    assert figure is not None
    assert [(m.x, m.text) for m in figure.marks if m.kind == "intervention"] == told(watch)
    said = render_run(watch.report(), reader.history(), width=100)
    assert "WHAT GRADMEND CHANGED" in said and "replace module: 1" in said


@pytest.mark.parametrize("edits", [1, 40])
def test_a_long_prescription_is_told_in_short(edits: int) -> None:
    events: list[Event] = []
    seen = Interventions(events.append, lambda: 0)
    every = tuple(
        Edit(kind="initialise", targets=tuple(f"l{k}" for k in range(200)), args={})
        for _ in range(edits)
    )
    seen.applied(Prescription(remedies=(), edits=every), "Net", "")
    (event,) = events
    assert event.text == ("1 edit applied to Net" if edits == 1 else "40 edits applied to Net")
    assert event.facts["count"] == edits and len(event.facts["edits"]) == min(edits, 16)
    assert event.facts["edits"][0]["targets"] == ["l0", "l1", "l2"]
