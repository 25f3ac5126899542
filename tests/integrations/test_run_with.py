"""``gradmend run --with prescription.json``: a full training with the edits in it."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch

import gradmend
from gradmend.records.codec import to_plain
from gradmend.records.prescription import Edit, Prescription
from gradmend.store.reader import open_run

SCRIPT = """
    import sys
    import torch
    from torch import nn
    torch.set_num_threads(1)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(6, 12)
            self.act = nn.Sigmoid()
            self.last = nn.Linear(12, 2)
        def forward(self, x):
            return self.last(self.act(self.first(x)))

    def main():
        torch.manual_seed(0)
        model = Net()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        x = torch.randn(64, 6)
        y = (x.sum(1) > 0).long()
        for step in range(8):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            print(repr(loss.item()))
        torch.save({"model": model.state_dict()}, "model.pt")
        torch.save({"out": model(x), "x": x}, "out.pt")
        sys.exit(5)

    if __name__ == "__main__":
        main()
"""
NORM = Edit(
    kind="insert_norm",
    targets=("first",),
    args={"norm": "LayerNorm", "features": [12], "dims": [0], "groups": [1]},
)
WHOLE = Edit(kind="standardise_input", targets=("",), args={"mean": [0.5], "std": [2.0]})
RELU = Edit(kind="replace_module", targets=("act",), args={"module": "ReLU"})
GONE = Edit(kind="replace_module", targets=("gone",), args={"module": "ReLU"})


def run(
    folder: Path, *edits: Edit, code: str = SCRIPT, model: str = "Net", ours: bool = True
) -> subprocess.CompletedProcess[str]:
    (folder / "train.py").write_text(textwrap.dedent(code))
    (folder / "paper.json").write_text(
        json.dumps(to_plain(Prescription(edits=edits, model=model, remedies=("a-remedy",))))
    )
    start = ["-m", "gradmend", "run", "--with", "paper.json"] if ours else []
    return subprocess.run(
        [sys.executable, *start, "train.py"],
        cwd=folder, capture_output=True, text=True, timeout=250, check=False,
        env=os.environ | {"COLUMNS": "100"},
    )  # fmt: skip


def built(folder: Path) -> Any:
    spec = importlib.util.spec_from_file_location("their_script", folder / "train.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.manual_seed(0)
    return module.Net()


@pytest.mark.parametrize(
    "edits", [(RELU, NORM, WHOLE), pytest.param((NORM,), marks=pytest.mark.slow)]
)
def test_checkpoints_load_after_apply(edits: tuple[Edit, ...], tmp_path: Path) -> None:
    # when a script trains with the edits in it
    done = run(tmp_path, *edits)
    # then its output and status are its own, and one line says what was done
    assert done.returncode == 5, done.stderr
    lines = done.stderr.splitlines()
    assert lines[0] == "gradmend: applied a-remedy to Net and its Adam; 2 new parameter(s) joined" \
        " the optimizer in a group of their own"  # fmt: skip
    assert "Traceback" not in done.stderr and (tmp_path / "gradmend-runs" / "train").is_dir()
    # and the run tells it where it happened
    history = open_run(tmp_path / "gradmend-runs" / "train").history()
    (event,) = history.of_kind("intervention")
    assert (event.step, event.text) == (0, "a-remedy applied to Net and its Adam")
    assert event.facts["count"] == len(edits)
    # and the same by hand is the same training, and its checkpoint loads
    fixed = gradmend.apply(tmp_path / "paper.json", built(tmp_path))
    optimizer = torch.optim.Adam(fixed.model.parameters(), lr=1e-2)
    stored = torch.load(tmp_path / "out.pt")
    x = stored["x"]
    for said in done.stdout.splitlines():
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(fixed.model(x), (x.sum(1) > 0).long())
        assert float(said) == pytest.approx(loss.item(), rel=1e-5)
        loss.backward()
        optimizer.step()
    again = gradmend.apply(tmp_path / "paper.json", built(tmp_path)).model
    again.load_state_dict(torch.load(tmp_path / "model.pt")["model"])
    assert torch.equal(again(x), stored["out"])


def test_what_does_not_fit_is_not_run_on(tmp_path: Path) -> None:
    done = run(tmp_path, GONE)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1 and "Net has no 'gone'" in done.stderr
    assert "othing was trained" in done.stderr and not (tmp_path / "model.pt").exists()
    assert not (tmp_path / "gradmend-runs").exists()


@pytest.mark.slow
def test_a_model_that_never_comes_is_said(tmp_path: Path) -> None:
    done = run(tmp_path, RELU, code="import torch\nprint('x')\n")
    assert (done.returncode, done.stdout) == (2, "x\n")
    assert "trained no Net, so the prescription was not applied" in done.stderr


def test_a_prescription_that_is_none_is_refused_before_the_script(tmp_path: Path) -> None:
    for text, said in (("{", "not JSON"), ("{}", "edits"), ('{"edits": []}', "no edit")):
        (tmp_path / "bad.json").write_text(text)
        done = subprocess.run(
            [sys.executable, "-m", "gradmend", "run", "--with", "bad.json", "train.py"],
            cwd=tmp_path, capture_output=True, text=True, timeout=250, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (2, "") and said in done.stderr
        assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_untreated_it_is_itself(tmp_path: Path) -> None:
    """The script's own figures differ from those with edits: the comparison compares."""
    one = run(tmp_path, NORM)
    other = run(tmp_path, NORM, ours=False)
    assert one.stdout != other.stdout and one.returncode == other.returncode == 5
