"""One model, lent to arm after arm: stopped where nothing moves, trained on while it improves."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

from gradmend.engine.data import TrialData
from gradmend.engine.trial import deadline
from gradmend.engine.trial.arm import Runner
from gradmend.engine.trial.deadline import Deadline
from gradmend.engine.trial.track import LEAST_RATE, RETREAT, Track
from gradmend.probe.batch import Feeder
from gradmend.records.prescription import Prescription

NOTHING = Prescription(remedies=("nothing",))


def a_track(model: nn.Module, rate: float = 0.01, *, thrifty: bool = True) -> Track:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 3, generator=generator)
    y = (x @ torch.tensor([1.0, -2.0, 0.5]) > 0).long()
    return Track(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=rate),
        feeder=Feeder(loss_fn=nn.CrossEntropyLoss()),
        data=TrialData(train=[(x[:16], y[:16]), (x[16:32], y[16:32])], unseen=[(x[32:], y[32:])]),
        deadline=Deadline(steps=200),
        thrifty=thrifty,
    )


def a_chain(layers: int, activation: type[nn.Module], other: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    parts: list[nn.Module] = []
    for _ in range(layers // 2):
        parts += [nn.Linear(3, other), activation(), nn.Linear(other, 3), activation()]
    return nn.Sequential(*parts, nn.Linear(3, 2))


@pytest.mark.parametrize("other", [2, 3], ids=["as it is", "lent"])
def test_an_arm_whose_gradient_underflows_is_stopped_at_its_first_step(other: int) -> None:
    # given sigmoid layers, of which the first get gradients of exactly zero
    track = a_track(a_chain(180, nn.Sigmoid, other))
    track.begin()
    arm = Runner(prescription=None, seed=0)
    track.train([arm], (10, 40), "")
    # then one step told it, it stays where it is, and the pace knew it too
    assert arm.still and arm.steps == 1 and not arm.unfinished(40)
    assert arm.at(10) == arm.at(40) == arm.scores[1]
    track.pace()
    assert track.lifeless


def test_an_arm_whose_gradient_arrives_is_not() -> None:
    model = a_chain(120, nn.Identity)
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.orthogonal_(layer.weight)
    track = a_track(model)
    track.begin()
    arm = Runner(prescription=None, seed=0)
    track.train([arm], (10,), "")
    assert not arm.still and arm.steps == 10
    track.pace()
    assert not track.lifeless


def test_elsewhere_every_arm_has_its_steps() -> None:
    track = a_track(a_chain(90, nn.Sigmoid), thrifty=False)
    track.begin()
    arm = Runner(prescription=None, seed=0)
    track.train([arm], (10,), "")
    assert not arm.still and arm.steps == 10


@pytest.mark.parametrize("thrifty", [True, False])
def test_sparse_and_empty_gradients_are_counted_too(thrifty: bool) -> None:
    # given a table with sparse gradients, and a parameter without a number in it
    class Lookup(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(5, 2, sparse=True)
            self.nothing = nn.Parameter(torch.zeros(0))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            rows: torch.Tensor = self.table((x[:, 0] > 0).long())
            return rows + self.nothing.sum()

    track = a_track(Lookup(), thrifty=thrifty)
    # then its pace can be told, and half of it is no "most"
    track.pace()
    assert not track.lifeless


def kept(track: Track, steps: int = 20) -> Runner:
    track.begin()
    arm = Runner(prescription=NOTHING, seed=0)
    track.train([arm], (steps,), "")
    track.keep(arm)
    return arm


def test_a_winner_trains_on_and_is_left_where_it_was_judged_best() -> None:
    track = a_track(nn.Linear(3, 2), rate=0.1)
    arm = kept(track)
    before = arm.score
    track.train_on(arm, 0.9, "")
    assert arm.steps > 20 and arm.score < before
    assert track.bench is not None
    assert track._judge(track.bench.model) == arm.score
    assert track.optimizer.param_groups[0]["lr"] == 0.1
    assert 0.85 < track.deadline.share <= 0.95


def test_what_made_it_worse_is_undone_and_the_rate_halved_until_it_is_of_no_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # given a winner that every further stretch makes worse
    track = a_track(nn.Linear(3, 2), rate=0.1)
    arm = kept(track)
    trained = [p.detach().clone() for p in track.model.parameters()]
    worse: Iterator[float] = iter([2 * arm.score] * 50)
    monkeypatch.setattr(Track, "_judge_arm", lambda self, arm, bench: next(worse))
    # when it trains on
    track.train_on(arm, 0.9, "")
    # then it stops soon, long before the budget ends, and is what it was, bit for bit
    tries = 50 - len(list(worse))
    assert RETREAT**tries < LEAST_RATE <= RETREAT ** (tries - 1)
    assert arm.steps == 20 and track.deadline.taken == 20 + 2 * tries
    for was, now in zip(trained, track.model.parameters(), strict=True):
        assert torch.equal(was, now)


def test_where_judging_is_dear_stretches_are_long_and_the_last_judgement_is_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # given steps of a second, and a judgement of ten
    track = a_track(nn.Linear(3, 2), rate=0.1)
    arm = kept(track)
    now, judged = 0.0, [0]
    monkeypatch.setattr(deadline.time, "perf_counter", lambda: now)
    track.deadline = Deadline(seconds=200.0, began=0.0)
    step, judge = Track._step, Track._judge_arm

    def slowly(self: Track, *args: Any) -> Any:
        nonlocal now
        now += 1.0
        return step(self, *args)

    def dearly(self: Track, *args: Any) -> Any:
        nonlocal now
        now += 10.0
        judged.append(track.deadline.taken)
        return judge(self, *args)

    monkeypatch.setattr(Track, "_step", slowly)
    monkeypatch.setattr(Track, "_judge_arm", dearly)
    # when it trains on for nine tenths of the budget
    track.train_on(arm, 0.9, "")
    # then after two steps, the usual tenth, each stretch is of three times as long as judging it
    stretches = [b - a for a, b in pairwise(judged)]
    assert stretches[:-1] == [2, *[30] * (len(stretches) - 2)] and 0 < stretches[-1] <= 30
    # and what is left for the last one has its judgement within them
    assert 0.85 <= track.deadline.share <= 0.9


def test_a_little_wobble_is_no_reason_to_go_back(monkeypatch: pytest.MonkeyPatch) -> None:
    track = a_track(nn.Linear(3, 2), rate=0.1)
    arm = kept(track)
    at = iter([1.01, 1.02, 0.5, *[0.51] * 200])
    base = arm.score
    monkeypatch.setattr(Track, "_judge_arm", lambda self, arm, bench: base * next(at))
    track.train_on(arm, 0.9, "")
    # the third stretch of two steps was the best, and it went on from the two before
    assert arm.steps == 26 and arm.score == 0.5 * base
