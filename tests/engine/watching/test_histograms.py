"""Histograms of a watched training: what they count, when, and within which budget."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradmend
from gradmend.probe.sample import thin
from gradmend.renderers.run_figures import catalogue
from gradmend.store.reader import open_run

Counts = dict[int, int]


def by_hand(x: Tensor) -> Counts:
    """How many numbers lie in each power of two, one after the other."""
    counts: Counts = {}
    for value in x.detach().double().reshape(-1).tolist():
        if math.isfinite(value) and value != 0.0:
            exponent = math.frexp(value)[1] - 1
            counts[exponent] = counts.get(exponent, 0) + 1
    return dict(sorted(counts.items()))


def net(width: int = 16) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 3))


def train(
    folder: Path | None, steps: int, *, budget: str = "all", width: int = 16
) -> tuple[nn.Sequential, list[dict[str, Any]]]:
    """Train, watched where a folder is given; returns what a plain forward pass gave each step."""
    model = net(width)
    opt = torch.optim.SGD(model.parameters(), 0.1)
    twin, expected = net(width), []
    generator = torch.Generator().manual_seed(1)
    watch = gradmend.watch(model, opt, run=folder, budget=budget, looks=False)
    with watch:
        for _ in range(steps):
            x = torch.randn(32, 8, generator=generator)
            twin.load_state_dict(model.state_dict())
            with torch.no_grad():
                first = twin[0](x)
                expected.append({"0": first, "1": first.relu(), "2": twin[2](first.relu())})
            opt.zero_grad()
            F.cross_entropy(model(x), x[:, :3].argmax(dim=1)).backward()
            opt.step()
    assert watch.observer.failures == []
    return model, expected


def test_outputs_are_counted_as_by_hand(tmp_path: Path) -> None:
    # given a watched training of everything
    _, expected = train(tmp_path / "run", 12)
    reader = open_run(tmp_path / "run")
    # then every output has its histograms, at the steps at which outputs are measured
    for name in ("0", "1", "2"):
        found = reader.histograms("output", name)
        measured, _ = reader.series("output", "log10_rms", name)
        assert [step for step, _ in found] == measured.tolist() == [0, 5, 10]
        for step, histogram in found:
            assert dict(histogram.counts) == by_hand(expected[step][name])
            assert histogram.stride == 1
    assert len(reader.histograms("gradient", "0.weight")) == 12
    # and the figures are there
    assert catalogue.figures(reader)["histograms"] == (
        "hist-gradient-depth", "hist-gradient-time", "hist-output-depth", "hist-output-time",
    )  # fmt: skip
    figure = catalogue.build(reader, "hist-output-time:1")
    assert figure is not None and "ReLU" not in figure.title


def test_big_outputs_are_counted_in_part(tmp_path: Path) -> None:
    _, expected = train(tmp_path / "run", 1, width=4096)
    ((step, histogram),) = open_run(tmp_path / "run").histograms("output", "0")
    whole = expected[step]["0"]
    part = thin(whole, -1)
    assert dict(histogram.counts) == by_hand(part)
    assert histogram.stride == whole.numel() // part.numel() == 4


def test_outputs_that_are_no_numbers_or_zero_count_nothing(tmp_path: Path) -> None:
    model = net()
    opt = torch.optim.SGD(model.parameters(), 0.1)
    with torch.no_grad():
        model[0].bias.fill_(-1e3)  # type: ignore[union-attr, operator]
        model[2].bias.fill_(math.nan)  # type: ignore[union-attr, operator]
    with gradmend.watch(model, opt, run=tmp_path / "run", budget="all", looks=False):
        model(torch.randn(4, 8)).sum().backward()
        opt.step()
    told = open_run(tmp_path / "run").last_histograms("output")
    names = open_run(tmp_path / "run").table_columns("output")
    assert [names[at].name for at in told] == ["0"]


@pytest.mark.parametrize("budget", ["all", "2%"])
def test_a_run_with_a_folder_ends_with_the_same_bits(tmp_path: Path, budget: str) -> None:
    model = net()
    opt = torch.optim.SGD(model.parameters(), 0.1)
    generator = torch.Generator().manual_seed(1)
    for _ in range(45):
        x = torch.randn(32, 8, generator=generator)
        opt.zero_grad()
        F.cross_entropy(model(x), x[:, :3].argmax(dim=1)).backward()
        opt.step()
    watched, _ = train(tmp_path / "run", 45, budget=budget)
    for key, value in model.state_dict().items():
        assert torch.equal(value, watched.state_dict()[key])


def test_what_histograms_take_is_on_their_own_bill(tmp_path: Path) -> None:
    # given a run on disk and one in memory
    for folder in (tmp_path / "run", None):
        model = net()
        opt = torch.optim.SGD(model.parameters(), 0.1)
        watch = gradmend.watch(model, opt, run=folder, budget="all", looks=False)
        with watch:
            for _ in range(6):
                opt.zero_grad()
                model(torch.randn(4, 8)).sum().backward()
                opt.step()
        tiers = watch.observer.schedule.tiers
        # then only the first one counts, and pays for it
        for name in ("histograms", "output-histograms"):
            assert (tiers[name].spent > 0) == (folder is not None)
    assert sum(tier.share for tier in tiers.values()) == pytest.approx(1.0)
