"""The watcher's numbers are the optimizer's, computed here a second time by plain means."""

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from loops import LOOPS, data, net, run
from torch import Tensor, nn

import gradmend
from gradmend.engine.watching.watch import Watch
from gradmend.records.history import History


class Twin:
    """Trains and writes down by hand what a watcher should have seen."""

    def __init__(self, **options: Any) -> None:
        torch.manual_seed(0)
        self.model = net(nn.Tanh, 0.0)
        self.opt = torch.optim.SGD(self.model.parameters(), **({"lr": 0.1} | options))
        self.rows: list[dict[str, Any]] = []

    def watched(self, steps: int = 6, **how: Any) -> History:
        with gradmend.watch(self.model, self.opt, budget="all", looks=False) as watch:
            for step in range(steps):
                self.step(step, **how)
        assert watch.observer.failures == []
        return watch.history()

    def step(
        self,
        step: int,
        *,
        clip: float | None = None,
        parts: int = 1,
        clear: bool = True,
        late: bool = False,
    ) -> None:
        if clear:
            self.opt.zero_grad()
        losses = []
        for part in range(parts):
            x, y = data(parts * step + part)
            loss = F.cross_entropy(self.model(x), y) / parts
            loss.backward()
            losses.append(loss.item())
        raw = norm(self.model)
        if clip is not None and not late:
            nn.utils.clip_grad_norm_(self.model.parameters(), clip)
        grads = [p.grad.clone() for p in self.model.parameters() if p.grad is not None]
        presented = norm(self.model)
        before = [p.detach().clone() for p in self.model.parameters()]
        self.opt.step()
        if clip is not None and late:
            nn.utils.clip_grad_norm_(self.model.parameters(), clip)
        after = [p.detach().clone() for p in self.model.parameters()]
        self.rows.append(
            {"loss": sum(losses), "raw": raw, "norm": presented, "grads": grads,
             "before": before, "after": after}
        )  # fmt: skip


def norm(model: nn.Module) -> float:
    return math.sqrt(sum(float(p.grad.double().square().sum()) for p in model.parameters()))  # type: ignore[union-attr]


def rms(x: Tensor) -> float:
    return math.sqrt(float(x.double().square().mean()))


def close(a: Any, b: Any) -> None:
    np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)


def test_losses_norms_and_rates() -> None:
    twin = Twin()
    steps = twin.watched()["step"]
    assert list(steps.steps) == list(range(6))
    close(steps["loss"][:, 0], [row["loss"] for row in twin.rows])
    close(steps["log10_norm"][:, 0], np.log10([row["norm"] for row in twin.rows]))
    close(steps["learning_rate"][:, 0], [0.1] * 6)
    close(steps["batch_size"][:, 0], [16.0] * 6)
    assert (steps["backwards"] == 1).all() and (steps["skipped"] == 0).all()
    assert np.isnan(steps["clip_limit"]).all() and (steps["not_cleared"][1:] == 0).all()


def test_gradients_by_parameter() -> None:
    twin = Twin()
    table = twin.watched()["gradient"]
    assert table.names == tuple(name for name, _ in twin.model.named_parameters())
    for row, seen in enumerate(twin.rows):
        close(table["log10_rms"][row], [math.log10(rms(g)) for g in seen["grads"]])
        close(table["log10_max"][row], [math.log10(float(g.abs().max())) for g in seen["grads"]])
        close(table["mean_share"][row], [float(g.double().mean()) / rms(g) for g in seen["grads"]])
    assert (table["state"] == 2).all()
    close(table["log10_raw"], table["log10_rms"])


def test_updates_by_parameter() -> None:
    twin = Twin(momentum=0.9)
    history = twin.watched()
    table = history["update"]
    for row, seen in enumerate(twin.rows):
        changes = [a - b for a, b in zip(seen["after"], seen["before"], strict=True)]
        ratio = [math.log10(rms(c) / rms(b)) for c, b in zip(changes, seen["before"], strict=True)]
        close(table["log10_ratio"][row], ratio)
        close(table["log10_weight"][row], [math.log10(rms(b)) for b in seen["before"]])
        same = [
            float((a == b).double().mean())
            for a, b in zip(seen["after"], seen["before"], strict=True)
        ]
        close(table["unchanged_share"][row], same)
        total = math.sqrt(sum(float(c.double().square().sum()) for c in changes))
        close(history["step"]["log10_update_norm"][row, 0], math.log10(total))


def test_clipping_is_booked_before_and_after() -> None:
    twin = Twin()
    history = twin.watched(clip=0.05)
    steps = history["step"]
    raw = np.array([row["raw"] for row in twin.rows])
    close(steps["log10_raw_norm"][:, 0], np.log10(raw))
    close(steps["clip_factor"][:, 0], np.minimum(1, 0.05 / (raw + 1e-6)))
    close(steps["log10_norm"][:, 0], np.log10([row["norm"] for row in twin.rows]))
    assert (steps["clip_limit"] == np.float32(0.05)).all() and (steps["clip_late"] == 0).all()
    table = history["gradient"]
    # The books: raw + clipping = what the optimizer got, for every parameter.
    close(table["log10_raw"] + np.log10(steps["clip_factor"]), table["log10_rms"])


def test_clipping_after_the_step_is_told() -> None:
    steps = Twin().watched(clip=0.05, late=True)["step"]
    assert (steps["clip_late"][1:] == 1).all()


def test_accumulated_parts_are_one_step() -> None:
    twin = Twin()
    steps = twin.watched(parts=4)["step"]
    assert (steps["backwards"] == 4).all() and len(steps) == 6
    close(steps["loss"][:, 0], [row["loss"] for row in twin.rows])
    assert (steps["not_cleared"][1:] == 0).all()


def test_gradients_that_were_not_cleared_are_told() -> None:
    steps = Twin(lr=1e-3).watched(clear=False)["step"]
    assert (steps["not_cleared"][1:] == 1).all()


def test_gradients_that_were_not_cleared_are_told_where_they_have_become_nan() -> None:
    # GIVEN a run that the sum of all gradients has blown up, as it does sooner or later
    twin = Twin(lr=1e38)
    steps = twin.watched(clear=False)["step"]
    assert np.isnan(steps["loss"][-1, 0])
    # THEN NaN is no gradient that somebody has replaced
    assert (steps["not_cleared"][1:] == 1).all()


def test_the_loss_can_be_handed_over() -> None:
    model, weight = net(), nn.Parameter(torch.ones(3))
    opt = torch.optim.SGD([weight], 0.1)
    with gradmend.watch(model, opt, budget="all", looks=False) as watch:
        for step in range(3):
            weight.grad = torch.ones(3)  # nothing calls backward
            watch.log(loss=float(step))
            opt.step()
    steps = watch.history()["step"]
    assert list(steps["loss"][:, 0]) == [0, 1, 2]
    assert watch.history()["gradient"].columns[-1].facts["registered"] is False


def history_of(name: str) -> History:
    seen: list[Watch] = []

    def watched(models: Any, optimizers: Any) -> Watch:
        seen.append(gradmend.watch(models, optimizers, budget="all", looks=False))
        return seen[0]

    run(LOOPS[name], watched)
    assert seen[0].observer.failures == []
    return seen[0].history()


@pytest.mark.parametrize("name", ["scaler", "scaler-alone"])
def test_scaled_training_is_told_in_true_units(name: str) -> None:
    steps = history_of(name)["step"]
    assert len(steps) == 24
    assert np.nansum(steps["skipped"]) == 1 and steps["skipped"][5, 0] == 1
    assert 0.1 < np.nanmax(steps["loss"]) < 10, "unscaled"
    assert -3 < np.nanmedian(steps["log10_norm"]) < 1, "unscaled"
    assert steps["loss_scale"][0, 0] == 2.0**14 and (steps["loss_scale"] > 2.0**14).any()
    assert (steps["clip_scaled"] == 0).all()


def test_clipping_before_unscaling_is_told() -> None:
    model = net()
    opt = torch.optim.SGD(model.parameters(), 0.1)
    amp = torch.amp.GradScaler("cpu", init_scale=1024.0)
    with gradmend.watch(model, opt, budget="all", looks=False) as watch:
        for step in range(4):
            x, y = data(step)
            opt.zero_grad()
            amp.scale(F.cross_entropy(model(x), y)).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            amp.step(opt)
            amp.update()
    assert (watch.history()["step"]["clip_scaled"] == 1).all()


def test_two_optimizers_are_one_iteration() -> None:
    history = history_of("gan")
    steps = history["step"]
    assert len(steps) == 24 and steps.names == ("Adam", "Adam#2")
    assert not np.isnan(steps["loss"]).any()
    names = history["gradient"].names
    assert names[0].startswith("Sequential.") and any(n.startswith("Sequential#2.") for n in names)
    assert (history["gradient"]["state"] == 2).all()


def test_a_closure_counts_once_a_step() -> None:
    steps = history_of("lbfgs")["step"]
    assert len(steps) == 6
    loss = steps["loss"][:, 0]
    assert loss[-1] < loss[0] and 0 < loss[0] < 3, "the loss of one evaluation, not of all"


def test_columns_follow_the_cast() -> None:
    history = history_of("changing-cast")
    table = history["gradient"]
    first = table.names.index("0.weight")
    assert (table["state"][:6, first] != 2).all() and (table["state"][7:, first] == 2).all()
    assert table.columns[first].facts["trainable"] is True
    assert [c.kind for c in history["step"].columns] == ["Adam", "SGD"]


def test_weights_changed_by_somebody_else_are_told() -> None:
    model = net(drop=0.0)
    opt = torch.optim.SGD(model.parameters(), 0.1)
    with gradmend.watch(model, opt, budget="all", looks=False) as watch:
        for step in range(6):
            x, y = data(step)
            with torch.no_grad():
                model[0].weight.normal_()
            opt.zero_grad()
            F.cross_entropy(model(x), y).backward()
            opt.step()
    table = watch.history()["update"]
    shares = dict(zip(table.names, table.last("outside_share"), strict=True))
    assert shares["0.weight"] == 1.0 and shares["3.weight"] == 0.0


def test_parameters_that_nobody_steps_are_told() -> None:
    model = net(drop=0.0)
    opt = torch.optim.SGD(model[3:].parameters(), 0.1)
    with gradmend.watch(model, opt, budget="all", looks=False) as watch:
        for step in range(4):
            x, y = data(step)
            model.zero_grad()
            F.cross_entropy(model(x), y).backward()
            opt.step()
    table = watch.history()["gradient"]
    lost = [c.name for c in table.columns if c.facts["optimizer"] is None]
    assert lost == ["0.weight", "0.bias"]
    assert (table["state"][:, : len(lost)] == 2).all()


def test_sampled_figures_are_close_to_exact_ones() -> None:
    torch.manual_seed(0)
    model = nn.Linear(300, 300)
    opt = torch.optim.SGD(model.parameters(), 0.1)
    with gradmend.watch(model, opt, looks=False) as watch:  # samples 4,096 of 90,000
        watch.observer.schedule.tiers["pulse"].share = 1e9
        watch.observer.schedule.tiers["rows"].stride = 10**9
        truth = []
        for step in range(8):
            x = torch.randn(64, 300, generator=torch.Generator().manual_seed(step))
            opt.zero_grad()
            model(x).square().mean().backward()
            truth.append(math.log10(norm(model)))
            opt.step()
    seen = watch.history()["step"]["log10_norm"][:, 0]
    assert np.abs(seen[1:] - truth[1:]).max() < 0.05
