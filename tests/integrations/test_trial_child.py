"""The child of a trial, spoken to as its parent does."""

from __future__ import annotations

import json
import math
import os
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from gradmend.integrations.trial_words import plain as as_json
from gradmend.records.codec import to_plain
from gradmend.records.prescription import Edit, Prescription

HEAD = """
    import torch
    from torch import nn
    import torch.nn.functional as F
    torch.set_num_threads(1)
"""
MLP = (
    HEAD
    + """
    torch.manual_seed(0)
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(6, 12)
            self.act = nn.Sigmoid()
            self.last = nn.Linear(12, 2)
        def forward(self, x):
            return self.last(self.act(self.first(x)))
    model = Net()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 5)
    x = torch.randn(256, 6)
    y = (x.sum(1) > 0).long()
    for step in range(20):
        i = torch.randint(0, 256, (16,))
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x[i]), y[i])
        loss.backward()
        optimizer.step()
        scheduler.step()
        print("loss", step, repr(loss.item()), flush=True)
        if step % 4 == 3:
            model.eval()
            with torch.no_grad():
                parts = []
                for a in range(0, 256, 64):
                    parts.append(F.cross_entropy(model(x[a:a + 64]), y[a:a + 64]))
            print("eval", step + 1, repr(torch.stack(parts).double().mean().item()), flush=True)
            model.train()
"""
)


class Parent:
    """A child, its words and its orders."""

    def __init__(
        self,
        folder: Path,
        code: str,
        *edits: Edit,
        runner: str | None = None,
        environment: dict[str, str] | None = None,
        model: str = "Net",
        **spec: Any,
    ) -> None:
        work, temporary = folder / "work", folder / "temporary"
        for each in (work, temporary):
            each.mkdir(exist_ok=True)
        (work / "train.py").write_text(textwrap.dedent(code))
        paper = None
        if edits:
            paper = folder / "prescription.json"
            paper.write_text(json.dumps(to_plain(Prescription(edits=edits, model=model))))
        words_in, words_out = os.pipe()
        orders_in, self.orders = os.pipe()
        given = {
            "target": "train.py", "arguments": [], "as_module": False, "seed_shift": 0,
            "prescription": str(paper) if paper else None, "until": 100, "watch": False,
            "report_to": None, "writable": [str(work)], "words": words_out, "orders": orders_in,
        }  # fmt: skip
        (folder / "spec.json").write_text(json.dumps(given | spec))
        start = ["-m", "gradmend.integrations.trial_child"] if runner is None else ["-c", runner]
        self.output = folder / "output"
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, *start, str(folder / "spec.json")],
                cwd=work,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=(words_out, orders_in),
                env=os.environ
                | {"TMPDIR": str(temporary), "PYTHONHASHSEED": "0", "HOME": str(folder / "home")}
                | (environment or {}),
            )
        os.close(words_out)
        os.close(orders_in)
        self.words = os.fdopen(words_in)
        self.heard: list[dict[str, Any]] = []

    def until(self, *kinds: str) -> dict[str, Any]:
        """The next message of some kinds."""
        for line in self.words:
            self.heard.append(json.loads(line))
            if self.heard[-1]["kind"] in kinds:
                return self.heard[-1]
        raise AssertionError(f"{self.kinds} and no {kinds}: {self.output.read_text()}")

    @property
    def kinds(self) -> list[str]:
        return [word["kind"] for word in self.heard if word["kind"] != "progress"]

    def order(self, **order: Any) -> None:
        os.write(self.orders, json.dumps(order).encode() + b"\n")

    def end(self) -> int:
        os.close(self.orders)
        status = self.process.wait(60)
        self.words.close()
        return status

    def printed(self, word: str) -> list[tuple[int, float]]:
        rows = [line.split() for line in self.output.read_text().splitlines()]
        return [(int(row[1]), float(row[2])) for row in rows if row and row[0] == word]


def plain(folder: Path, code: str) -> str:
    """What the script prints by itself."""
    folder.mkdir()
    (folder / "train.py").write_text(textwrap.dedent(code))
    done = subprocess.run(
        [sys.executable, "train.py"],
        cwd=folder, capture_output=True, text=True, timeout=120, check=False,
        stdin=subprocess.DEVNULL, env=os.environ | {"PYTHONHASHSEED": "0"},
    )  # fmt: skip
    return done.stdout


def told(message: dict[str, Any], optimizer: int = 0) -> list[tuple[int, float]]:
    return [(int(step), float(loss)) for step, loss in message["losses"][optimizer]]


def test_losses_and_evaluations_are_those_the_script_sees(tmp_path: Path) -> None:
    # given the script by itself
    alone = plain(tmp_path / "alone", MLP)
    # when it stops twice on its way to its end
    child = Parent(tmp_path, MLP, until=8)
    first = child.until("stop")
    seen = child.printed("loss"), child.printed("eval")
    child.order(kind="go", until=11)
    second = child.until("stop")
    child.order(kind="go", until=1000)
    ended = child.until("ended")
    status = child.end()
    # then nothing is different, and all was told once: the step that began has not trained
    assert child.output.read_text() == alone and status == 0
    assert child.kinds == ["torch", "stop", "stop", "ended"]
    assert (first["step"], second["step"], ended["step"]) == (8, 11, 20)
    assert len(seen[0]) == 8 and len(seen[1]) == 2
    assert told(first) == seen[0]
    assert told(first) + told(second) + told(ended) == child.printed("loss")
    found = [*first["evaluations"], *second["evaluations"], *ended["evaluations"]]
    assert {each["name"] for each in found} == {"cross_entropy"}
    assert [each["step"] for each in first["evaluations"]] == [4, 8]
    assert [(each["step"], pytest.approx(each["value"])) for each in found] == child.printed("eval")
    assert first["optimizers"] == ["Adam"] and first["models"] == ["Net"]
    assert (ended["how"], ended["status"], ended["error"]) == ("finished", 0, "")
    assert 0 < first["t"] <= ended["t"]


def test_a_prescription_is_injected_and_trains_as_by_hand(tmp_path: Path) -> None:
    edits = (
        Edit(kind="replace_module", targets=("act",), args={"module": "Tanh"}),
        Edit.initialise([("first.weight", "first.bias")], [1.2]),
        Edit(kind="scale_learning_rate", args={"factor": 0.5}),
    )
    child = Parent(tmp_path, MLP, *edits, until=100)
    ended = child.until("ended")
    child.end()
    paper = repr(str(tmp_path / "prescription.json"))
    by_hand = MLP.replace(
        "    scheduler =",
        "    import gradmend\n"
        f"    gradmend.apply({paper}, model, optimizer=optimizer)\n    scheduler =",
    )
    assert "apply" in by_hand
    expected = plain(tmp_path / "alone", by_hand).splitlines()
    assert child.kinds == ["torch", "injected", "ended"]
    injected = next(word for word in child.heard if word["kind"] == "injected")
    assert injected["model"] == "Net" and "0.5 times the learning rate" in injected["notes"][0]
    # A half of a rate times a tenth is not always a tenth of its half: within a last bit or two.
    values = [float(line.split()[2]) for line in expected if line.startswith("loss")]
    assert [loss for _, loss in told(ended)] == pytest.approx(values, rel=1e-5)
    assert [loss for _, loss in told(ended)][:5] == values[:5]


@pytest.mark.slow
def test_it_leaves_at_once_when_told_or_left_alone(tmp_path: Path) -> None:
    code = MLP + "\n    import atexit\n"
    code = code.replace(
        "import torch\n", "import torch, atexit; atexit.register(print, 'late')\n", 1
    )
    for number, quits in enumerate((True, False)):
        (folder := tmp_path / str(number)).mkdir()
        child = Parent(folder, code, until=3)
        child.until("stop")
        if quits:
            child.order(kind="quit")
        assert child.end() == 0
        assert len(child.printed("loss")) == 3 and "late" not in child.output.read_text()


@pytest.mark.slow
def test_a_limit_of_time_waits_for_as_many_steps_as_say_something(tmp_path: Path) -> None:
    # given a limit that is over at once, and steps that are to be seen all the same
    child = Parent(tmp_path, MLP, until=1000, seconds=1e-9, fewest=7, patience=1e12)
    # then it stops with the last of them, and tells what they took without the watching
    word = child.until("stop")
    assert word["step"] == 7
    steps, seconds = word["trained"]
    assert steps == 6 and seconds > 0.0  # the first is no measure: much is set up in it
    child.end()
    # and a patience that is over waits for no more
    (tmp_path / "again").mkdir()
    child = Parent(tmp_path / "again", MLP, until=1000, seconds=1e-9, fewest=7, patience=2.0)
    assert child.until("stop")["step"] == 1
    child.end()


@pytest.mark.slow
def test_a_limit_of_time_stops_short(tmp_path: Path) -> None:
    child = Parent(tmp_path, MLP, until=1000, seconds=1e-9)
    assert child.until("stop")["step"] == 1
    child.order(kind="go", until=6)
    assert child.until("stop")["step"] == 6
    child.end()


GAN = (
    HEAD
    + """
    torch.manual_seed(0)
    G = nn.Sequential(nn.Linear(4, 8), nn.Sigmoid(), nn.Linear(8, 2))
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.act, self.last = nn.Linear(2, 8), nn.Sigmoid(), nn.Linear(8, 1)
        def forward(self, x):
            return self.last(self.act(self.first(x)))
    D = Net()
    of_g, of_d = torch.optim.Adam(G.parameters()), torch.optim.SGD(D.parameters(), lr=0.1)
    loss = nn.BCEWithLogitsLoss()
    one, zero = torch.ones(16, 1), torch.zeros(16, 1)
    for step in range(12):
        fake = G(torch.randn(16, 4))
        of_d.zero_grad()
        d = loss(D(torch.randn(16, 2) + 3), one) + loss(D(fake.detach()), zero)
        d.backward(); of_d.step()
        of_g.zero_grad()
        g = loss(D(fake), one)
        g.backward(); of_g.step()
        print("d", step, repr(d.item())); print("g", step, repr(g.item()), flush=True)
"""
)


def test_each_optimizer_of_a_gan_has_its_losses(tmp_path: Path) -> None:
    edit = Edit(kind="replace_module", targets=("act",), args={"module": "ReLU"})
    child = Parent(tmp_path, GAN, edit, until=6)
    stop = child.until("stop")
    child.order(kind="go", until=100)
    ended = child.until("ended")
    child.end()
    assert stop["optimizers"] == ["SGD", "Adam"]
    for number, word in enumerate("dg"):
        losses = [loss for _, loss in told(stop, number) + told(ended, number)]
        assert losses == pytest.approx([loss for _, loss in child.printed(word)])
    assert stop["step"] == 6 and abs(len(told(stop, 1)) - 6) <= 1
    assert next(w for w in child.heard if w["kind"] == "injected")["model"] == "Net"


def test_a_closure_an_accumulation_and_a_loss_without_number(tmp_path: Path) -> None:
    closure = (
        HEAD
        + """
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=4)
    x = torch.randn(32, 3); y = x @ torch.tensor([[1.0], [2.0], [3.0]])
    first = []
    def closure():
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), y)
        loss.backward()
        first.append(loss.item())
        return loss
    for step in range(3):
        first.clear()
        optimizer.step(closure)
        print("loss", step, repr(first[0]))
"""
    )
    (tmp_path / "a").mkdir()
    child = Parent(tmp_path / "a", closure)
    ended = child.until("ended")
    child.end()
    assert told(ended) == child.printed("loss") and ended["step"] == 3

    accumulating = (
        HEAD
        + """
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(5):
        total = 0.0
        for part in range(4):
            loss = model(torch.randn(8, 3)).square().mean() / 4
            if step == 3 and part == 2:
                loss = loss * float("nan")
            loss.backward()
            total += loss.item()
        optimizer.step()
        optimizer.zero_grad()
        print("loss", step, repr(total))
"""
    )
    (tmp_path / "b").mkdir()
    child = Parent(tmp_path / "b", accumulating)
    ended = child.until("ended")
    child.end()
    assert [loss for _, loss in ended["losses"][0]][3:] == ["nan", "nan"]
    assert told(ended)[:3] == [
        (step, pytest.approx(loss)) for step, loss in child.printed("loss")[:3]
    ]


@pytest.mark.slow
def test_an_evaluation_that_keeps_gradients_is_one_and_a_training_in_eval_mode_is_none(
    tmp_path: Path,
) -> None:
    forgetful = MLP.replace("with torch.no_grad():", "if True:")
    (tmp_path / "a").mkdir()
    child = Parent(tmp_path / "a", forgetful)
    ended = child.until("ended")
    child.end()
    assert [(e["step"], pytest.approx(e["value"])) for e in ended["evaluations"]] == (
        child.printed("eval")
    )
    frozen = MLP.replace("model.train()", "pass").replace(
        "for step in range(20)", "model.eval()\n    for step in range(7)"
    )
    (tmp_path / "b").mkdir()
    child = Parent(tmp_path / "b", frozen)
    ended = child.until("ended")
    child.end()
    assert [e["step"] for e in ended["evaluations"]] == [4]
    assert ended["evaluations"][0]["value"] == pytest.approx(child.printed("eval")[0][1])


UNSEEDED = (
    HEAD
    + """
    import random
    import numpy as np
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    F.mse_loss(model(torch.ones(2, 3)), torch.zeros(2, 1)).backward()
    optimizer.step()
    print("loss", 0, random.random()); print("loss", 1, np.random.rand())
    print("loss", 2, torch.rand(()).item()); print("loss", 3, np.random.default_rng(5).random())
"""
)


@pytest.mark.slow
def test_seeds_are_shifted_and_what_has_none_gets_one(tmp_path: Path) -> None:
    def draws(name: str, code: str, shift: int) -> list[float]:
        (tmp_path / name).mkdir()
        child = Parent(tmp_path / name, code, seed_shift=shift)
        child.until("ended")
        child.end()
        return [value for _, value in child.printed("loss")]

    # given a script that seeds nothing: shifted, it repeats itself
    one, again, two = (draws(f"u{n}", UNSEEDED, s) for n, s in enumerate((1, 1, 2)))
    assert one == again and all(a != b for a, b in zip(one, two, strict=True))
    # given one that seeds itself: without a shift it is itself, with one another
    seeding = (
        "torch.manual_seed(3); torch.cuda.manual_seed_all(3); random.seed(3); np.random.seed(3)"
    )
    seeded = UNSEEDED.replace("import numpy as np\n", f"import numpy as np; {seeding}\n")
    alone = plain(tmp_path / "alone", seeded)
    same, other = draws("s0", seeded, 0), draws("s1", seeded, 1)
    assert same == [float(line.split()[2]) for line in alone.splitlines()]
    assert all(a != b for a, b in zip(same, other, strict=True))
    # and it is the same as one that sets the shifted seeds by itself
    moved = seeded.replace("(3)", "(1000006)").replace("default_rng(5)", "default_rng(1000008)")
    assert other == draws("m0", moved, 0)


@pytest.mark.parametrize("torch", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_write_outside_is_told_and_ends_it(torch: bool, tmp_path: Path) -> None:
    # given a file of somebody's
    (kept := tmp_path / "kept").write_text("kept")
    write = "import torch; torch.save([1], path)" if torch else "open(path, 'w')"
    code = f"open('fine', 'w').close()\npath = {str(kept)!r}\n{write}\nprint('on')\n"
    # when a script would write it
    child = Parent(tmp_path, code)
    outside = child.until("outside", "ended")
    # then the child is gone before anything has happened
    assert child.end() == 2
    assert (outside["kind"], outside["path"]) == ("outside", str(kept))
    assert kept.read_text() == "kept" and (tmp_path / "work" / "fine").exists()
    assert "on" not in child.output.read_text()


@pytest.mark.slow
def test_what_stays_inside_is_let_be(tmp_path: Path) -> None:
    code = """
        import os, pathlib, shutil, sqlite3, subprocess, sys, tempfile
        import torch
        from torch.utils.data import DataLoader
        torch.save({"a": 1}, "model.pt"); torch.load("model.pt")
        os.makedirs("runs/a"); os.rename("runs/a", "runs/b"); shutil.rmtree("runs")
        sqlite3.connect(":memory:"); sqlite3.connect("mine.db").execute("create table t (a)")
        with tempfile.TemporaryDirectory() as folder:
            pathlib.Path(folder, "x").write_text("x")
        pathlib.Path.home().joinpath(".cache/thing").mkdir(parents=True)
        open(os.devnull, "w").close(); open(__file__).close()
        print([int(b) for b in DataLoader([1, 2, 3], num_workers=1)])
        print(subprocess.run([sys.executable, "-c", "print(1)"], capture_output=True).stdout)
    """
    (tmp_path / "home").mkdir()
    child = Parent(tmp_path, code)
    ended = child.until("ended", "outside")
    child.end()
    assert ended["kind"] == "ended" and ended["how"] == "finished", (
        ended,
        child.output.read_text(),
    )
    assert "[1, 2, 3]" in child.output.read_text()


ENDS = {
    "it asks": ("input('name? ')", "raised", "EOFError", 1),
    "it raises": ("1 / 0", "raised", "ZeroDivisionError: division by zero", 1),
    "it exits": ("import sys; sys.exit(3)", "exited", "SystemExit: 3", 3),
    "it is no Python": ("x = (", "raised", "", 1),
    "it has no torch": ("print('x')", "finished", "", 0),
    "it wants a device": ("import torch; torch.ones(1).to('cuda:7')", "raised", "", 1),
    "nothing steps": ("import torch; torch.nn.Linear(1, 1)", "finished", "", 0),
}


DEAR = {"it exits", "it wants a device", "nothing steps"}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n in DEAR else []) for n in ENDS]
)
def test_how_it_ended_is_told(name: str, tmp_path: Path) -> None:
    code, how, error, status = ENDS[name]
    child = Parent(tmp_path, code)
    ended = child.until("ended")
    assert child.end() == status
    assert (ended["how"], ended["status"], ended["step"]) == (how, status, 0)
    assert error in ended["error"]


REFUSED = {
    "a name that is not there": (
        Edit(kind="set_dropout", targets=("gone",), args={"p": 0.1}),
        "gone",
    ),
    "batches": (Edit(kind="drop_non_finite_samples"), "batches"),
    "another kind": (Edit(kind="set_dropout", targets=("act",), args={"p": 0.1}), "dropout"),
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n == "batches" else []) for n in REFUSED]
)
def test_what_does_not_fit_is_refused_before_a_step(name: str, tmp_path: Path) -> None:
    edit, said = REFUSED[name]
    child = Parent(tmp_path, MLP, edit)
    refused = child.until("refused", "ended")
    assert child.end() == 2
    assert said in refused["reason"] and "loss" not in child.output.read_text()


@pytest.mark.slow
def test_a_script_without_the_model_is_refused_in_the_end(tmp_path: Path) -> None:
    child = Parent(tmp_path, "import torch", Edit(kind="train_mode", targets=("a",)))
    assert "trained no Net" in child.until("refused", "ended")["reason"]
    assert child.end() == 2


STUB = """
import sys
from gradmend.integrations.trial_child import main
def diagnose(watch):
    history = watch.history()
    watch.report()
    return {"steps": history.run.steps, "looks": len(watch.looks), "models": watch.beginnings != []}
main(sys.argv[1:], diagnose)
"""


@pytest.mark.parametrize(
    ("until", "tail"),
    [(5, ""), pytest.param(1000, "\n    1 / 0\n", marks=pytest.mark.slow)],
)
def test_a_diagnosis_is_written_at_the_goal_or_the_end(
    until: int, tail: str, tmp_path: Path
) -> None:
    where = tmp_path / "report"
    alone = plain(tmp_path / "alone", MLP)
    child = Parent(tmp_path, MLP + tail, runner=STUB, until=until, watch=True, report_to=str(where))
    message = child.until("stop", "ended")
    assert message["report"] == str(where)
    report = pickle.loads(where.read_bytes())
    assert report["steps"] == message["step"] == min(until, 20)
    assert report["looks"] >= 1 and report["models"]
    if message["kind"] == "stop":
        child.order(kind="go", until=1000)
        message = child.until("ended")
    child.end()
    # the diagnosis has not touched the training
    assert child.output.read_text().startswith(alone)
    assert message["how"] == ("raised" if tail else "finished")


@pytest.mark.slow
def test_a_failing_diagnosis_is_told_and_no_report_named(tmp_path: Path) -> None:
    runner = STUB.replace("watch.report()", "raise ValueError('no')")
    child = Parent(tmp_path, MLP, runner=runner, watch=True, report_to=str(tmp_path / "report"))
    assert child.until("ended")["report"] is None
    child.end()
    assert "no diagnosis (ValueError: no)" in child.output.read_text()


def test_numbers_of_json() -> None:
    value = {"a": [math.nan, math.inf, -math.inf, (1, 2.5)], "b": None}
    assert as_json(value) == {"a": ["nan", "inf", "-inf", [1, 2.5]], "b": None}
    json.dumps(as_json(value), allow_nan=False)
