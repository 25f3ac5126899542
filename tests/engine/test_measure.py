"""Requested measurements: what changes, what does not, and when one is not taken."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import gradmend
from gradmend.engine import diagnose as engine
from gradmend.engine.diagnose import MOST_MEASUREMENTS, diagnose
from gradmend.engine.examine import examine
from gradmend.engine.measure import FEW, LOOK_STEPS, Measurer, step_seconds
from gradmend.engine.rehearsal import can_be_copied, rehearse
from gradmend.probe.batch import Feeder
from gradmend.probe.look import look
from gradmend.records.finding import CannotJudge, Finding, Severity
from gradmend.records.request import Answer, Measurement, Request
from gradmend.records.trace import Run, Trace
from gradmend.registry import Rule

FEEDER = Feeder(loss_fn=nn.CrossEntropyLoss())


def small(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3)
    )


def data(seed: int = 0, samples: int = 32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, 6, generator=generator)
    return x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long()


def measurer(seconds: float = 100.0, **changes: object) -> Measurer:
    return Measurer(model=small(), batch=data(), feeder=FEEDER, seconds=seconds, **changes)  # type: ignore[arg-type]


def request(measurement: Measurement, **changes: object) -> Request:
    return Request(code="X", name="x", measurement=measurement, why="y", **changes)  # type: ignore[arg-type]


def taken(measure: Measurer, measurement: Measurement, **changes: object) -> Answer | None:
    first = look(measure.model, measure.batch, measure.feeder)
    return measure(request(measurement, **changes), first)


def bits(model: nn.Module) -> list[Tensor]:
    return [t.clone() for t in model.state_dict().values()]


@pytest.mark.parametrize("measurement", list(Measurement))
def test_measuring_leaves_no_mark(measurement: Measurement) -> None:
    measure = measurer(second_batch=data(1))
    before, random = bits(measure.model), torch.get_rng_state()
    x, y = measure.batch[0].clone(), measure.batch[1].clone()
    assert taken(measure, measurement, module="0", factor=3.0) is not None
    assert all(torch.equal(a, b) for a, b in zip(before, bits(measure.model), strict=True))
    assert torch.equal(random, torch.get_rng_state())
    assert torch.equal(measure.batch[0], x) and torch.equal(measure.batch[1], y)
    assert all(p.grad is None for p in measure.model.parameters())


def test_a_scaled_layer_has_the_gain_of_a_model_that_was_built_so() -> None:
    measure = measurer()
    answer = taken(measure, Measurement.SCALED_LAYER, module="0", factor=3.0)
    twin = small()
    with torch.no_grad():
        twin[0].weight.mul_(3.0)  # type: ignore[index, union-attr, operator]
    assert answer is not None and answer.module == "0" and answer.factor == 3.0
    built = look(twin, measure.batch, FEEDER)
    assert answer.trace.run.loss == built.run.loss
    assert answer.trace.total_decades == built.total_decades
    assert taken(measure, Measurement.SCALED_LAYER, module="no such module") is None


def test_inputs_are_scaled_and_targets_are_not() -> None:
    model = nn.Sequential(nn.Linear(6, 1))
    x, y = torch.randn(16, 6), torch.randn(16, 1)
    measure = Measurer(
        model=model, batch=(x, y), feeder=Feeder(loss_fn=nn.MSELoss()), seconds=100.0
    )
    zeroed = taken(measure, Measurement.ZEROED_INPUT)
    doubled = taken(measure, Measurement.SCALED_INPUT, factor=2.0)
    assert zeroed is not None and zeroed.trace.inputs[0].stats.max_abs == 0.0
    bias = model[0].bias.detach().double()
    assert zeroed.trace.run.loss == pytest.approx(float((bias - y.double()).square().mean()))
    assert doubled is not None
    assert doubled.trace.inputs[0].stats.max_abs == pytest.approx(2.0 * float(x.abs().max()))


def test_another_seed_draws_every_module_anew_and_the_same_one_each_time() -> None:
    measure = measurer()
    once, again = (taken(measure, Measurement.ANOTHER_SEED) for _ in range(2))
    first = look(measure.model, measure.batch, FEEDER)
    assert once is not None and again is not None
    assert once.trace.run.loss == again.trace.run.loss != first.run.loss


class Bare(nn.Module):
    """Its owner wrote the weights; nothing knows how to draw them again."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(6, 3))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


def test_weights_that_no_module_draws_have_no_other_seed() -> None:
    measure = Measurer(model=Bare(), batch=data(), feeder=FEEDER, seconds=100.0)
    assert taken(measure, Measurement.ANOTHER_SEED) is None


def test_a_second_batch_is_measured_where_there_is_one() -> None:
    assert taken(measurer(), Measurement.SECOND_BATCH) is None
    answer = taken(measurer(second_batch=data(1, samples=7)), Measurement.SECOND_BATCH)
    assert answer is not None and answer.trace.run.batch_size == 7


def test_few_steps_are_looked_at_when_they_are_over() -> None:
    measure = measurer()
    answer = taken(measure, Measurement.FEW_STEPS)
    assert answer is not None and answer.trace.run.step == FEW == len(answer.losses)
    assert measure.rehearsal is not None and measure.rehearsal.losses == answer.losses


def test_the_rehearsed_steps_end_in_the_bits_of_plain_training() -> None:
    model, twin = small(), small()
    x, y = data()
    torch.manual_seed(7)
    done = rehearse(model, (x, y), FEEDER, steps=5)
    torch.manual_seed(7)
    optimizer = torch.optim.Adam(twin.parameters(), lr=1e-3)
    for _ in range(5):
        optimizer.zero_grad()
        nn.functional.cross_entropy(twin(x), y).backward()
        optimizer.step()
    named = dict(twin.named_parameters())
    for name, parameter in model.named_parameters():
        assert torch.equal(done.shadow[id(parameter)], named[name]), name
    assert done.history.run.rehearsal and done.history.run.steps == 5
    assert len(done.history["gradient"]) == 5


@pytest.mark.parametrize("kind", ["SGD", "AdamW", "RMSprop"])
def test_the_users_optimizer_steps_on_copies_with_its_own_state(kind: str) -> None:
    model, twin = small(), small()
    x, y = data()
    make = getattr(torch.optim, kind)
    optimizers = [make(m.parameters(), lr=0.01, weight_decay=0.1) for m in (model, twin)]
    torch.optim.lr_scheduler.StepLR(optimizers[0], 1)  # puts its own step() on the instance
    for m, optimizer in zip((model, twin), optimizers, strict=True):
        torch.manual_seed(3)
        nn.functional.cross_entropy(m(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    state = str(optimizers[0].state_dict())
    before = bits(model)
    torch.manual_seed(7)
    done = rehearse(model, (x, y), FEEDER, steps=3, optimizer=optimizers[0])
    assert all(torch.equal(a, b) for a, b in zip(before, bits(model), strict=True))
    assert str(optimizers[0].state_dict()) == state
    torch.manual_seed(7)
    for _ in range(3):
        optimizers[1].zero_grad()
        nn.functional.cross_entropy(twin(x), y).backward()
        optimizers[1].step()
    named = dict(twin.named_parameters())
    for name, parameter in model.named_parameters():
        assert torch.equal(done.shadow[id(parameter)], named[name]), name
    assert not done.history.run.rehearsal, "these are the user's own steps"


def test_parameters_of_another_model_are_not_stepped() -> None:
    model, other = small(), small(1)
    optimizer = torch.optim.SGD([*model.parameters(), *other.parameters()], lr=1.0)
    before = bits(other)
    for p in other.parameters():
        p.grad = torch.ones_like(p)
    rehearse(model, data(), FEEDER, steps=2, optimizer=optimizer)
    assert all(torch.equal(a, b) for a, b in zip(before, bits(other), strict=True))


def test_optimizers_that_cannot_be_copied_are_replaced_by_adam() -> None:
    model = small()

    class Own(torch.optim.SGD):
        pass

    lbfgs = torch.optim.LBFGS(model.parameters())
    assert not can_be_copied(lbfgs)
    assert not can_be_copied(Own(model.parameters(), lr=0.1))
    assert rehearse(model, data(), FEEDER, steps=2, optimizer=lbfgs).steps == 2


def test_what_is_not_cheap_is_not_taken_and_steps_that_were_asked_for_are() -> None:
    poor = measurer(seconds=0.0)
    assert [taken(poor, m) for m in Measurement] == [None] * len(Measurement)
    asked = measurer(seconds=0.0, steps=30)
    answer = taken(asked, Measurement.FEW_STEPS)
    first = look(asked.model, asked.batch, FEEDER)
    assert asked.rehearse(first) is not None
    assert answer is None or len(answer.losses) == 30


def test_the_price_of_a_step_is_counted_and_not_timed() -> None:
    first, again = (look(small(), data(), FEEDER) for _ in range(2))
    assert step_seconds(first) == step_seconds(again) > 0.0
    wide = replace(first, run=replace(first.run, parameters=10**9))
    assert step_seconds(wide) > 1.0


def rule_that(asks: Measurement, seen: list[object]) -> Rule:
    def judge(trace: Trace, limits: object) -> Iterator[Finding | CannotJudge | Request]:
        del limits
        answer = trace.answer(asks)
        seen.append(answer)
        if answer is None:
            yield request(asks)
        else:
            yield Finding(code="X", name="x", severity=Severity.ERROR, modules=(), summary="s")

    return Rule(code="X", name="x", limits=None, since="", summary="", sections={}, function=judge)


def test_a_request_is_taken_and_the_rule_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []
    monkeypatch.setattr(engine, "rules", lambda: (rule_that(Measurement.ZEROED_INPUT, seen),))
    measure = measurer()
    found = diagnose(look(measure.model, measure.batch, FEEDER), measure)
    assert [f.name for f in found.findings] == ["x"] and found.undecided == ()
    assert seen[0] is None and isinstance(seen[1], Answer)


def test_what_is_not_answered_is_undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "rules", lambda: (rule_that(Measurement.SECOND_BATCH, []),))
    report = gradmend.check(small(), data(), nn.CrossEntropyLoss())
    assert report.findings == () and [r.name for r in report.undecided] == ["x"]
    assert "undecided X x: y" in str(report) and "healthy" not in str(report)
    assert report.to_dict()["undecided"][0]["measurement"] == "second-batch"


def test_a_rule_that_never_has_enough_is_not_asked_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[float] = []

    def ask(one: Request, first: Trace) -> Answer:
        asked.append(one.factor)
        return Answer(
            measurement=one.measurement, trace=first, module=one.module, factor=one.factor
        )

    def judge(trace: Trace, limits: object) -> Iterator[Request]:
        del limits
        yield request(Measurement.SCALED_INPUT, factor=float(len(trace.answers) + 2))

    greedy = Rule(
        code="X", name="x", limits=None, since="", summary="", sections={}, function=judge
    )
    monkeypatch.setattr(engine, "rules", lambda: (greedy,))
    found = diagnose(Trace(run=Run(model="m")), ask)
    assert len(asked) == MOST_MEASUREMENTS and len(found.undecided) == 1


def test_the_same_model_gets_the_same_diagnosis() -> None:
    reports = [gradmend.check(small(), data(), nn.CrossEntropyLoss()) for _ in range(2)]
    plain = [report.to_dict()["findings"] for report in reports]
    assert plain[0] == plain[1]


def test_a_rehearsal_in_half_precision_makes_no_nan_of_its_own() -> None:
    x, y = data()
    done = rehearse(small().half(), (x.half(), y), FEEDER, steps=5)
    assert all(bool(torch.isfinite(t).all()) for t in done.shadow.values())


def test_steps_that_were_asked_for_keep_to_their_allowance() -> None:
    # GIVEN a model whose steps are expected to take a while, and fifty of them wanted
    first = look(small(), data(), FEEDER)
    each = step_seconds(first)
    # WHEN there is room for seven of them beside the look that follows
    measure = measurer(0.0, steps=50, allowance=(7.5 + LOOK_STEPS) * each)
    done = measure.rehearse(first)
    # THEN seven are taken, and it is said
    assert done is not None
    assert done.steps == 7
    assert len(measure.left_out) == 1
    assert "7 of 50 steps" in measure.left_out[0]
    # WHEN there is room for all, or no limit at all, THEN all are taken and nothing is said
    for allowance in (60 * each, math.inf):
        measure = measurer(0.0, steps=50, allowance=allowance)
        again = measure.rehearse(first)
        assert again is not None
        assert again.steps == 50
        assert not measure.left_out


def test_where_no_step_fits_none_is_begun_and_the_report_says_so() -> None:
    # GIVEN room for less than a step
    report = examine(measurer(0.0, steps=50, allowance=1e-9))
    # THEN there is no rehearsal and no second look, and one line says why
    assert report.after is None
    assert report.trace.rehearsed is None
    assert [note for note in report.trace.notes if "0 of 50 steps" in note]
