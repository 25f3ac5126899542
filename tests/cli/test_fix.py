"""``gradmend fix`` as a user types it, on scripts that know nothing of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAD = """
import torch
from torch import nn
torch.manual_seed(0)
data = torch.Generator().manual_seed(1)
x = torch.randn(512, 10, generator=data)
y = (x[:, :2].prod(1) > 0).long()
"""
LOOP = """
for step in range({steps}):
    at = torch.randint(512, (32,))
    loss = nn.functional.cross_entropy(model(x[at]), y[at])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 20 == 19:
        with torch.no_grad():
            print("eval accuracy", (model(x).argmax(1) == y).float().mean().item())
torch.save(model.state_dict(), "model.pt")
"""
DEEP_SIGMOID = (
    HEAD
    + """
layers = [nn.Linear(10, 32), nn.Sigmoid()]
for _ in range(9):
    layers += [nn.Linear(32, 32), nn.Sigmoid()]
model = nn.Sequential(*layers, nn.Linear(32, 2))
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
"""
)
HEALTHY = (
    HEAD
    + """
model = nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
"""
)


def fix(home: Path, *arguments: str, timeout: int = 240) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gradmend", "fix", *arguments],
        cwd=home,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env={**os.environ, "COLUMNS": "100", "OMP_NUM_THREADS": "1"},
    )


def test_a_script_is_repaired_and_its_folder_is_as_it_was(tmp_path: Path) -> None:
    # given a script that stands still
    (tmp_path / "train.py").write_text(DEEP_SIGMOID + LOOP.format(steps=400))
    # when it is fixed
    done = fix(tmp_path, "--steps", "80", "--seeds", "1", "--json", "train.py")
    # then a prescription won by the script's own loss
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["kept"] and said["verdict"]["kept"], said["reason"]
    assert said["causes"][0] == "attenuating-activation"
    before, after = (said["verdict"][key][0]["unseen"] for key in ("original", "winner"))
    assert after < 0.9 * before
    assert {f["name"] for f in said["verdict"]["winner"][0]["figures"]} == {"eval accuracy"}
    # and what ran was said beforehand, on stderr
    assert "will run" in done.stderr and "python train.py" in done.stderr
    # and nothing but the results lies in the folder
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gradmend-fix", "train.py"]
    assert set(said["files"]) >= {"report", "prescription"}
    assert "home" not in (tmp_path / "gradmend-fix" / "prescription.json").read_text()

    # when the whole training is run with it
    ran = subprocess.run(
        [sys.executable, "-m", "gradmend", "run", "--no-record", "--with",
         said["files"]["prescription"], "train.py"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    # then it learns what it did not, and its checkpoint is the repaired model's
    assert ran.returncode == 0, ran.stderr
    assert float(ran.stdout.split()[-1]) > 0.8
    assert (tmp_path / "model.pt").exists()


def test_a_healthy_script_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(HEALTHY + LOOP.format(steps=400))
    done = fix(tmp_path, "--steps", "100", "--json", "train.py")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert not said["kept"] and "healthy" in said["reason"]
    assert said["verdict"]["winner"] == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import torch\nname = input('name? ')\n", "asks for input"),
        (HEAD + "model = nn.Linear(10, 2).cuda()\n", "needs a GPU"),
        (HEAD + "print('no training')\n", "no optimizer"),
        ("print('no torch')\n", "no optimizer"),
        ("import nothing_of_this_name\n", "nothing_of_this_name"),
        ("def (:\n", "does not compile"),
        (HEAD + "torch.save(x, '/var/tmp_of_nobody.pt')\n", "outside of its folder"),
    ],
)
def test_a_script_that_cannot_be_tried_is_refused_in_a_line(
    tmp_path: Path, text: str, said: str
) -> None:
    (tmp_path / "train.py").write_text(text)
    done = fix(tmp_path, "--steps", "20", "train.py")
    assert done.returncode == 2, done.stdout + done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("gradmend:") and said in last
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nope.py"], "no file 'nope.py'"),
        (["--budget", "soon", "train.py"], "budget='soon'"),
        (["--steps", "3", "train.py"], "3 steps are too few"),
        (["--keep", "everything", "train.py"], "keep='everything'"),
        (["--out", "train.py", "train.py"], "cannot be a folder"),
        (["-m", "nope_nope"], "no module"),
    ],
)
def test_bad_usage_is_refused_before_anything_runs(
    tmp_path: Path, arguments: list[str], said: str
) -> None:
    (tmp_path / "train.py").write_text("open('ran', 'w')\n")
    done = fix(tmp_path, *arguments)
    assert done.returncode == 2 and said in done.stderr.strip().splitlines()[-1]
    assert not (tmp_path / "ran").exists()
