"""Watching leaves nothing behind, and nothing of ours reaches the training."""

import copy
import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from loops import data, net, train, unwatched
from torch import nn
from torch.nn.modules import module as torch_module
from torch.nn.utils import clip_grad
from torch.optim import optimizer as torch_optimizer

import gradmend
from gradmend.engine.watching.observer import Observer
from gradmend.engine.watching.summary import report_of
from gradmend.engine.watching.watch import Watch
from gradmend.errors import BadInput, GradmendError
from gradmend.probe import kernels
from gradmend.probe.taps import Listener
from gradmend.store.errors import StoreError
from gradmend.store.reader import open_run
from gradmend.store.writer import RunWriter


def places() -> dict[str, Any]:
    """Everything of torch's that a tap may hold on to."""
    scaler = torch.amp.GradScaler
    return {
        "backward": torch.autograd.backward,
        "clip": clip_grad._clip_grads_with_norm_,
        "value": (clip_grad.clip_grad_value_, nn.utils.clip_grad_value_),
        "scaler": (scaler.scale, scaler.unscale_, scaler.step, scaler.update),
        "init": (nn.Module.__init__, torch.optim.Optimizer.__init__),
        "call": (nn.Module.__call__, nn.Sequential.__call__, "__call__" in vars(nn.Sequential)),
        "hooks": [
            dict(getattr(holder, name))
            for holder in (torch_module, torch_optimizer)
            for name in vars(holder)
            if name.startswith("_global_") and isinstance(getattr(holder, name), dict)
        ],
        "modes": torch.overrides._get_current_function_mode_stack(),
        "grad": torch.is_grad_enabled(),
    }


def test_torch_is_as_it_was() -> None:
    before = places()
    model = net()
    train(model, torch.optim.SGD(model.parameters(), 0.1), gradmend.watch)
    assert places() == before


def test_torch_is_as_it_was_after_an_exception() -> None:
    before, model = places(), net()
    opt = torch.optim.SGD(model.parameters(), 0.1)
    watching = gradmend.watch(model, opt, budget="all")
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), watching:
        model(torch.ones(2, 5))
    assert places() == before


def test_the_model_holds_nothing_of_ours_meanwhile() -> None:
    model = net()
    opt = torch.optim.Adam(model.parameters())
    keys = [set(vars(m)) for m in model.modules()]
    with gradmend.watch(model, opt, budget="all"):
        for step in range(3):
            opt.zero_grad()
            F.cross_entropy(model(data(step)[0]), data(step)[1]).backward()
            opt.step()
        assert [set(vars(m)) for m in model.modules()] == keys
        assert not any(
            getattr(m, name) for m in model.modules() for name in vars(m) if name.endswith("_hooks")
        )
        assert not opt._optimizer_step_pre_hooks and not opt._optimizer_step_post_hooks
        saved = pickle.dumps((model, opt.state_dict()))
        file = io.BytesIO()
        torch.save(model, file)
        copy.deepcopy(model)
    assert b"gradmend" not in saved and b"gradmend" not in file.getvalue()


def test_what_a_user_wrapped_meanwhile_stays_wrapped(monkeypatch: pytest.MonkeyPatch) -> None:
    original = torch.autograd.backward
    model = net()
    with gradmend.watch(model):
        ours = torch.autograd.backward

        def theirs(*args: Any, **kwargs: Any) -> Any:
            return ours(*args, **kwargs)

        torch.autograd.backward = theirs
    try:
        assert torch.autograd.backward is theirs
        train(model, torch.optim.SGD(model.parameters(), 0.1), unwatched)  # passes on, deaf
    finally:
        torch.autograd.backward = original


HEARD = [n for n, value in vars(Listener).items() if not n.startswith("_") and callable(value)]


@pytest.mark.parametrize("name", [n for n in HEARD if n != "failed"])
def test_a_failure_of_ours_never_reaches_the_step(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any) -> None:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(Observer, name, broken)
    model = net(drop=0.0)
    start = copy.deepcopy(model.state_dict())
    watch = gradmend.watch(model, torch.optim.SGD(model.parameters(), 0.1), budget="all")
    train(model, torch.optim.SGD(model.parameters(), 0.1), lambda m, o: watch)
    after = copy.deepcopy(model.state_dict())
    model.load_state_dict(start)
    train(model, torch.optim.SGD(model.parameters(), 0.1), unwatched)
    assert all(torch.equal(after[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["sweep", "sample", "compare", "exponents"])
def test_a_failing_kernel_is_noted_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(kernels, name, broken)
    model = net().half().float()
    opt = torch.optim.SGD(model.parameters(), 0.1)
    with gradmend.watch(model, opt, budget="all") as watch:
        train(model, opt, unwatched)
    report = watch.report()
    assert report.watched is not None and report.watched.steps == 24
    told = [note for note in report.watched.notes if "no room" in note]
    assert len(told) == (0 if name == "exponents" else 1)  # only a folder keeps histograms


def test_a_disk_that_fails_in_the_middle_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = net()
    opt = torch.optim.SGD(model.parameters(), 0.1)
    with gradmend.watch(model, opt, run=tmp_path / "run", budget="all") as watch:
        train(model, opt, unwatched)
        watch.record.flush()

        def full(self: RunWriter) -> None:
            raise StoreError("the disk is full", "", "make room")

        monkeypatch.setattr(RunWriter, "flush", full)
        monkeypatch.setattr(RunWriter, "due", lambda self: True)
        train(model, opt, unwatched)
    report = watch.report()
    assert report.watched is not None and report.watched.steps == 48
    assert [n for n in report.watched.notes if "disk is full" in n] != []
    monkeypatch.undo()
    assert open_run(tmp_path / "run").history()["step"].steps[-1] == 23, "what was flushed"


def test_a_run_on_disk_says_what_memory_says(tmp_path: Path) -> None:
    model = net()
    opt = torch.optim.Adam(model.parameters(), 1e-2)
    with gradmend.watch(model, opt, run=tmp_path / "run", budget="all") as watch:
        train(model, opt, unwatched)
    disk, memory = open_run(tmp_path / "run").history(), watch.history()
    assert disk.tables.keys() == memory.tables.keys()
    for name, table in memory.tables.items():
        assert disk[name].names == table.names and (disk[name].steps == table.steps).all()
        for quantity, values in table.values.items():
            np.testing.assert_array_equal(disk[name][quantity], values)
    assert [(e.kind, e.step, e.where) for e in disk.events] == [
        (e.kind, e.step, e.where) for e in memory.events
    ]
    assert report_of(disk).to_dict()["findings"] == watch.report().to_dict()["findings"]
    assert open_run(tmp_path / "run").histograms("gradient", "0.weight")


def test_a_forked_child_is_not_watched(tmp_path: Path) -> None:
    model = net()
    opt = torch.optim.SGD(model.parameters(), 0.1)
    with gradmend.watch(model, opt, run=tmp_path / "run") as watch:
        train(model, opt, unwatched)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                train(model, opt, unwatched)
                status = 0 if watch.record.writer is None and watch.taps.away else 2
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        train(model, opt, unwatched)
    assert watch.history().run.steps == 48


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"model": None}, "model is None"),
        ({"model": "net"}, "model is a str"),
        ({"model": []}, "model is empty"),
        ({"optimizer": 3}, "optimizer is a int"),
        ({"budget": "fast"}, "budget='fast'"),
        ({"budget": 0}, "budget=0"),
        ({"budget": float("nan")}, "budget=nan"),
    ],
)
def test_bad_arguments_are_told_in_a_line(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        gradmend.watch(**{"model": net(), **arguments})


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    with pytest.raises(GradmendError, match="it is a file"):
        gradmend.watch(net(), run=tmp_path / "run")
    assert (tmp_path / "run").read_text() == "mine"


def test_watching_twice_at_once_hears_twice() -> None:
    model = net()
    opt = torch.optim.SGD(model.parameters(), 0.1)
    with gradmend.watch(model, opt) as outer, gradmend.watch(model, opt) as inner:
        train(model, opt, unwatched)
    assert outer.history().run.steps == inner.history().run.steps == 24


def test_the_watch_object_is_public() -> None:
    assert gradmend.Watch is Watch
