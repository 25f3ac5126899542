"""The race: paired, fair, and without a trace where nothing is kept."""

import random
from typing import Any

import numpy as np
import pytest
import torch
from regression import batches, linear, mse, rate, trial
from test_state import Frozen, Noisy
from torch import Tensor, nn

from gradmend.engine.data import TrialData, trial_data
from gradmend.engine.trial import FINALISTS, FIRST_ROUND, Deadline, goals
from gradmend.engine.trial.track import Track
from gradmend.records.prescription import Change, Edit, Prescription

BETTER = rate(30.0)  # the given rate is far too small, so thirty times it trains better
BROKEN = Prescription(
    edits=(Edit(kind="replace_module", targets=("nowhere",), args={"module": "Tanh"}),),
    remedies=("broken",),
    changes=(Change.DATA_SCALE,),
)


def slow(model: nn.Module, momentum: float = 0.9) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=1e-3, momentum=momentum)


def warm(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for x, y in batches(3):
        optimizer.zero_grad()
        mse(model(x), y).backward()
        optimizer.step()


def naive(model: nn.Module, optimizer: torch.optim.Optimizer, data: TrialData, steps: int,
          seed: int) -> list[float]:  # fmt: skip
    """The training of an arm, as anybody would write it."""
    generator = torch.Generator().manual_seed(seed)
    order: list[int] = []
    while len(order) < steps:
        order += torch.randperm(len(data.train), generator=generator).tolist()
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)
    losses = []
    for number in order[:steps]:
        x, y = data.train[number]
        optimizer.zero_grad()
        loss = mse(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("seed", [0, 5])
def test_an_arm_is_the_naive_training_bit_for_bit(seed: int) -> None:
    # GIVEN a winner that only changes the rate
    model = linear()
    optimizer = slow(model)
    warm(model, optimizer)
    twin = linear()
    twin_optimizer = slow(twin)
    warm(twin, twin_optimizer)
    data = trial_data(batches(), None)
    race = trial(model, optimizer, data=data, seed=seed)
    # WHEN the race is run
    winner, verdict = race.run((BETTER,))
    assert winner == BETTER
    # THEN the kept model is the twin trained by hand on the same batches at that rate
    twin_optimizer.param_groups[0]["lr"] *= 30.0
    losses = naive(twin, twin_optimizer, data, 24, seed)
    assert [loss for _, loss in verdict.winner[0].losses] == losses
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a, b)
        assert torch.equal(
            optimizer.state[a]["momentum_buffer"], twin_optimizer.state[b]["momentum_buffer"]
        )
    # AND so is the original's arm
    again = linear()
    again_optimizer = slow(again)
    warm(again, again_optimizer)
    assert [loss for _, loss in verdict.original[0].losses] == naive(
        again, again_optimizer, data, 24, seed
    )
    # AND the loss it was judged by is the mean over the unseen batches
    twin.eval()
    unseen = [float(mse(twin(x), y).detach()) for x, y in data.unseen]
    assert verdict.winner[0].unseen == pytest.approx(sum(unseen) / len(unseen), rel=1e-6)


def test_arms_do_not_depend_on_the_order_they_run_in() -> None:
    # GIVEN a model whose forward draws from Python, NumPy and torch, counts, and has running
    # statistics, and four candidates
    def scores(order: list[float]) -> dict[str, list[tuple[int, float]]]:
        torch.manual_seed(1)
        model = Noisy()
        optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)
        data = TrialData(
            train=[(torch.randn(8, 4), torch.arange(8) % 2) for _ in range(4)],
            unseen=[(torch.randn(8, 4), torch.arange(8) % 2)],
        )
        random.seed(len(order))
        race = trial(model, optimizer, data=data, loss=nn.functional.cross_entropy, steps=18)
        _, verdict = race.run(tuple(rate(f) for f in order))
        arms = (*verdict.original[:1], *verdict.winner[:1], *verdict.rivals)
        return {arm.name: list(arm.losses) for arm in arms}

    # WHEN they are raced in different orders THEN every arm is the same training
    first = scores([1.0, 3.0, 10.0, 0.1])
    torch.manual_seed(0)
    assert scores([0.1, 10.0, 3.0, 1.0]) == first
    # and a candidate that changes nothing is the original itself, judged more often on the way
    assert first["rate-times-1"][:3] == first["original"][:3]


def test_halving_cuts_those_that_close_less_than_half_and_keeps_three_at_most() -> None:
    model = linear()
    factors = [0.5, 1.0, 2.0, 10.0, 12.0, 14.0, 16.0, 18.0, 20.0]
    race = trial(model, slow(model), steps=60)
    _, verdict = race.run(tuple(rate(f, f"f{f:g}") for f in factors))
    arms = {arm.name: arm for arm in (*verdict.winner[:1], *verdict.rivals)}
    # THEN as many start as a first round holds, as one of them gains something
    assert list(arms) == [f"f{f:g}" for f in factors][:FIRST_ROUND] or len(arms) == FIRST_ROUND
    first, second, last = goals(60)
    assert {arm.steps for arm in arms.values()} <= {first, second, last}
    # AND the three that barely move lose the first round
    assert all(arms[f"f{f:g}"].steps == first for f in (0.5, 1.0, 2.0))
    # AND at most three run the second round, at most two the last
    assert sum(arm.steps >= second for arm in arms.values()) <= FINALISTS
    assert 1 <= sum(arm.steps == last for arm in arms.values()) <= 2


def test_the_others_start_only_if_nothing_of_the_first_round_gains() -> None:
    # GIVEN a first round of candidates that throw the training back, and a good one behind them
    model = linear()
    bad = tuple(rate(1e-3 * (k + 1), f"bad{k}") for k in range(FIRST_ROUND))
    race = trial(model, slow(model), steps=60)
    winner, verdict = race.run((*bad, BETTER))
    assert winner == BETTER
    assert len(verdict.rivals) == FIRST_ROUND


def test_where_the_guilty_layers_alone_suffice_no_larger_change_is_tried() -> None:
    # GIVEN a change to the guilty layer alone, and one to all that is a little better
    model = linear()
    one, all_ = rate(20.0, "one", Change.INITIALISATION), rate(30.0, "all", Change.NORMALISATION)
    race = trial(model, slow(model), steps=120)
    winner, verdict = race.run((one, all_), local=1)
    # THEN the larger one does not even start
    assert winner == one
    assert not verdict.rivals
    # but where the first does little, it does
    model = linear()
    race = trial(model, slow(model), steps=120)
    winner, verdict = race.run((rate(1.01, "one", Change.INITIALISATION), all_), local=1)
    assert winner == all_
    assert [arm.name for arm in verdict.rivals] == ["one"]


def test_what_goes_with_the_best_is_tried_and_wins_only_if_it_closes_more() -> None:
    # GIVEN a rate that helps, and a second one that only helps beside it
    model = linear()
    half = rate(4.0, "half")
    asked: list[Prescription] = []

    def combine(best: Prescription) -> tuple[Prescription, ...]:
        asked.append(best)
        return (best.plus(rate(8.0, "rest")), best.plus(rate(1.01, "nothing")))

    race = trial(model, slow(model), steps=120, combine=combine)
    winner, verdict = race.run((rate(0.1, "worse"), half))
    assert asked == [half]
    assert winner is not None
    assert winner.remedies == ("half", "rest")
    assert {arm.name for arm in verdict.rivals} == {"worse", "half", "half + nothing"}
    # AND where it adds nothing the smaller one is kept
    model = linear()
    race = trial(
        model, slow(model), steps=120, combine=lambda best: [best.plus(rate(1.0, "nothing"))]
    )
    winner, _ = race.run((BETTER,))
    assert winner == BETTER


def test_other_seeds_are_trained_no_longer_than_it_takes_to_see_that_they_agree() -> None:
    better = rate(30.0, change=Change.INITIALISATION)
    model = linear()
    _, verdict = trial(model, slow(model), steps=60).run((better,))
    assert [arm.seed for arm in verdict.winner] == [0, 1, 2]
    assert verdict.winner[0].steps == 60
    for again, twin in zip(verdict.original[1:], verdict.winner[1:], strict=True):
        assert again.steps == twin.steps < 60
        assert twin.unseen is not None
        assert again.unseen is not None
        assert twin.unseen < again.unseen
    # so that the whole takes less than three trainings
    assert verdict.steps <= 3 * 60


def test_a_mere_rate_is_trained_to_the_end_with_every_seed() -> None:
    # GIVEN a repair of the optimizer alone, whose beginning says little
    model = linear()
    _, verdict = trial(model, slow(model), steps=60).run((BETTER,))
    assert [arm.steps for arm in verdict.winner] == [60, 60, 60]
    # while the original need not be seen failing to the end again
    assert all(arm.steps < 60 for arm in verdict.original[1:])


def test_a_loss_with_the_wrong_sign_is_judged_the_right_way_up() -> None:
    # GIVEN a loss that is minimised although it should be maximised
    model = linear()
    turn = Prescription(
        edits=(Edit(kind="maximise"),),
        remedies=("turn",),
        changes=(Change.WIRING,),
        mends_loss=True,
    )
    race = trial(
        model, torch.optim.SGD(model.parameters(), lr=0.02), steps=60, loss=lambda a, b: -mse(a, b)
    )
    winner, verdict = race.run((turn,))
    assert winner == turn
    assert verdict.winner[0].unseen is not None
    assert 0 < verdict.winner[0].unseen < 1


def test_where_the_loss_is_mended_the_original_is_judged_by_it_as_well() -> None:
    # GIVEN bare outputs handed to a loss that expects log-probabilities, which falls without end
    class Scores(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.layer(x)
            return result

    noisy = [torch.rand(32) < 0.2 for _ in range(10)]
    data = [
        (x, torch.where(n, 2, (x[:, 0] > 0).long()))
        for (x, _), n in zip(batches(10, 32), noisy, strict=True)
    ]
    model = Scores()
    mended = Prescription(
        edits=(
            Edit(kind="follow_module", targets=("layer",), args={"module": "LogSoftmax", "dim": 1}),
        ),
        remedies=("log",),
        changes=(Change.WIRING,),
        mends_loss=True,
    )
    race = trial(
        model, torch.optim.SGD(model.parameters(), lr=0.5), steps=60,
        data=trial_data(data, None), loss=nn.functional.nll_loss,
    )  # fmt: skip
    winner, verdict = race.run((rate(3.0), mended))
    # THEN the mended one wins, although the loss as it was is far below zero
    assert winner == mended
    assert verdict.original[0].losses[-1][1] < -1
    assert verdict.original[0].unseen is not None
    assert verdict.original[0].unseen > verdict.winner[0].unseen
    # AND what leaves the loss as it is was not even tried
    assert not verdict.rivals


def test_the_best_is_never_cut_while_nobody_gains() -> None:
    # GIVEN a candidate that throws the training back at first: drawn anew, at the same rate as a
    # model that already knows something, so at a sixth of the way it is far behind
    model = linear(seed=2)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    anew = Prescription(
        edits=(
            Edit(kind="initialise", targets=("0.weight", "2.weight"), args={
                "biases": [None, None], "gains": [8.0, 8.0], "centres": [0.0, 0.0],
                "bias_stds": [0.0, 0.0]}),
        ),
        remedies=("anew",), changes=(Change.INITIALISATION,),
    )  # fmt: skip
    race = trial(model, optimizer, steps=60)
    winner, verdict = race.run((anew,))
    # THEN it is trained to the end before anybody says that it is no good
    assert winner is None
    assert verdict.rivals[0].steps == 60
    assert verdict.rivals[0].unseen > verdict.original[0].unseen


def test_the_smallest_change_that_closes_ninety_percent_wins() -> None:
    # GIVEN three remedies that work about equally well, and a small one that does not suffice
    candidates = (
        rate(25.0, "residual", Change.RESIDUAL),
        rate(30.0, "activation", Change.ACTIVATION),
        rate(1.5, "too-little", Change.DATA_SCALE),
        rate(29.0, "initialisation", Change.INITIALISATION),
    )
    model = linear()
    race = trial(model, slow(model), steps=200)
    winner, verdict = race.run(candidates)
    assert winner is not None
    # THEN the smallest that comes close to the best wins, also where another is a little better
    assert winner.remedies == ("initialisation",)
    assert verdict.gap_closed is not None
    assert 0.9 <= verdict.gap_closed <= 1.0
    assert "initialisation" in verdict.reason


def test_of_finite_candidates_beside_a_diverging_original_a_good_one_wins() -> None:
    # GIVEN an original that diverges, a tiny change that survives it badly, and a larger good one
    model = linear()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e4)
    race = trial(model, optimizer, steps=60)
    winner, verdict = race.run(
        (rate(1e-9, "hardly-moves", Change.DATA_SCALE), rate(5e-6, "good", Change.RESIDUAL))
    )
    assert verdict.original[0].diverged
    assert winner is not None
    assert winner.remedies == ("good",)
    # AND its other seeds count although the original diverged with them as well
    assert len(verdict.winner) == 3
    assert "3 seeds" in verdict.reason


def test_nothing_better_leaves_the_model_as_if_never_touched() -> None:
    model = linear()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    warm(model, optimizer)
    before = Frozen(model, optimizer)
    race = trial(model, optimizer)
    winner, verdict = race.run((rate(1e-6), rate(0.5)))
    assert winner is None
    assert not verdict.kept
    assert "nothing was changed" in verdict.reason
    before.assert_same()


def test_candidates_that_diverge_lose_and_say_so() -> None:
    model = linear()
    race = trial(model, slow(model))
    winner, verdict = race.run((rate(1e30, "explodes", Change.DATA_SCALE), BETTER))
    assert winner == BETTER
    exploded = next(arm for arm in verdict.rivals if arm.name == "explodes")
    assert exploded.diverged
    assert exploded.unseen is None
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())


def test_an_edit_that_does_not_fit_is_refused_and_the_rest_go_on() -> None:
    model = linear()
    race = trial(model, slow(model))
    winner, _ = race.run((BROKEN, BETTER))
    assert winner == BETTER
    assert [r.remedy for r in race.trainer.refusals] == ["broken"]
    assert "nowhere" in race.trainer.refusals[0].reason


@pytest.mark.parametrize("error", [RuntimeError, ValueError, AttributeError, AssertionError])
def test_a_candidate_that_raises_in_the_middle_is_refused_and_the_rest_go_on(
    error: type[Exception],
) -> None:
    # GIVEN a model that will not do without its tanh
    class Proud(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inp, self.act, self.out = nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1)

        def forward(self, x: Tensor) -> Tensor:
            if not isinstance(self.act, nn.Tanh):
                raise error("I am\na tanh net")
            result: Tensor = self.out(self.act(self.inp(x)))
            return result

    swap = Prescription(
        edits=(Edit(kind="replace_module", targets=("act",), args={"module": "ReLU"}),),
        remedies=("swap",), changes=(Change.ACTIVATION,),
    )  # fmt: skip
    torch.manual_seed(0)
    model = Proud()
    race = trial(model, slow(model))
    winner, verdict = race.run((swap, BETTER))
    # THEN the other wins, and the report says what the first one ran into, in one line
    assert winner == BETTER
    failed = next(arm for arm in verdict.rivals if arm.name == "swap")
    assert failed.error == f"{error.__name__}: I am a tanh net"
    assert [r.remedy for r in race.trainer.refusals] == ["swap"]
    assert isinstance(model.act, nn.Tanh)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
@pytest.mark.parametrize("call", [1, 10, 26, 40, 90])
def test_whatever_happens_in_the_users_loss_the_model_comes_back(
    error: type[BaseException], call: int
) -> None:
    # GIVEN a loss that raises at some call: in the original, an arm, or the confirmation
    model = linear()
    optimizer = slow(model)
    warm(model, optimizer)
    before = Frozen(model, optimizer)
    calls = 0

    def loss(output: Tensor, y: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls >= call:
            raise error
        return mse(output, y)

    race = trial(model, optimizer, loss=loss)
    # WHEN it does THEN all is as before; an arm's own error is the arm's, Ctrl-C is everybody's
    try:
        winner, _ = race.run((rate(2.0), BETTER))
        assert error is ZeroDivisionError
        assert winner is None
    except error:
        pass
    assert calls >= call
    before.assert_same()


def test_a_budget_that_ends_early_changes_nothing_and_says_so() -> None:
    for deadline, said in (
        (Deadline(steps=1), "before the original was trained once"),
        (Deadline(seconds=0.0), "before the original was trained once"),
        (Deadline(steps=24), "before any candidate could be tried"),
        (Deadline(steps=30), "too small to prove anything"),
    ):
        model = linear()
        optimizer = slow(model)
        warm(model, optimizer)
        before = Frozen(model, optimizer)
        winner, verdict = trial(model, optimizer, deadline=deadline).run((BETTER, rate(20.0)))
        assert winner is None
        assert said in verdict.reason
        assert "nothing was changed" in verdict.reason
        before.assert_same()


def test_a_winner_of_one_seed_only_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    # GIVEN a candidate that helps with the first seed alone
    opened: list[int] = []
    original = Track.open

    def open_with_luck(self: Track, arm: Any) -> None:
        original(self, arm)
        if arm.prescription is not None:
            opened.append(arm.seed)
            self.optimizer.param_groups[0]["lr"] = 3e-2 if arm.seed == 0 else 1e-9

    monkeypatch.setattr(Track, "open", open_with_luck)
    model = linear()
    winner, verdict = trial(model, slow(model), steps=20).run((rate(1.0, "lucky"),))
    assert 1 in opened
    assert winner is None
    assert "every seed" in verdict.reason


def test_the_unseen_batches_survive_a_model_that_writes_into_its_input() -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(5, 1)

        def forward(self, x: Tensor) -> Tensor:
            x.mul_(0.5)
            result: Tensor = self.layer(x)
            return result

    model = InPlace()
    given = batches()
    kept = [(x.clone(), y.clone()) for x, y in given]
    race = trial(model, slow(model), data=trial_data(given, None))
    race.run((BETTER,))
    assert all(
        torch.equal(a, b) and torch.equal(c, d) for (a, c), (b, d) in zip(given, kept, strict=True)
    )


def test_the_untrained_repair_can_be_looked_at_and_the_trained_one_comes_back() -> None:
    model = linear()
    optimizer = slow(model)
    start = [p.detach().clone() for p in model.parameters()]
    race = trial(model, optimizer)
    winner, _ = race.run((BETTER,))
    assert winner is not None
    trained = Frozen(model, optimizer)
    for error in (None, KeyError):
        try:
            with race.trainer.untrained(winner) as fresh:
                assert all(
                    torch.equal(a, b) for a, b in zip(fresh.parameters(), start, strict=True)
                )
                assert optimizer.param_groups[0]["lr"] == pytest.approx(0.03)
                if error:
                    raise error
        except KeyError:
            pass
        for p, (_, bits) in zip(model.parameters(), trained.tensors, strict=True):
            assert torch.equal(p, bits)
        assert all(bool(state) for state in optimizer.state.values())


def test_measuring_the_pace_leaves_no_mark() -> None:
    model = linear()
    optimizer = slow(model)
    warm(model, optimizer)
    before = Frozen(model, optimizer)
    assert trial(model, optimizer).trainer.pace() > 0
    before.assert_same()


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "rmsprop", "lbfgs"])
def test_every_optimizer_can_race(optimizer: str) -> None:
    from test_state import OPTIMIZERS

    model = linear()
    live = OPTIMIZERS[optimizer](model.parameters())
    live.param_groups[0]["lr"] = 1e-4
    before = [p.detach().clone() for p in model.parameters()]
    winner, verdict = trial(model, live, steps=12).run((rate(100.0),))
    assert verdict.kept == (winner is not None)
    changed = any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert changed == verdict.kept
    assert verdict.kept
