"""``gradmend run``, ``report``, ``ls`` and ``diff`` as a user calls them."""

import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from gradmend.cli import main
from gradmend.records.history import Column, RunFacts
from gradmend.store.writer import RunWriter

EXAMPLES = Path(__file__).parents[2] / "examples"
HEALTHY = """
    import sys, torch
    from torch import nn
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    opt = torch.optim.Adam(model.parameters(), lr=1e-2)
    x = torch.randn(256, 8)
    y = (x.sum(1) > 0).long()
    for step in range(120):
        i = torch.randint(0, 256, (32,))
        opt.zero_grad()
        loss = nn.functional.cross_entropy(model(x[i]), y[i])
        loss.backward()
        opt.step()
    print(sum(p.double().sum().item() for p in model.parameters()), sys.argv, __name__)
"""


def write(folder: Path, code: str, name: str = "train.py") -> Path:
    path = folder / name
    path.write_text(textwrap.dedent(code))
    return path


def call(*words: str | Path, cwd: Path, plain: bool = False) -> subprocess.CompletedProcess[str]:
    start = [] if plain else ["-m", "gradmend"]
    return subprocess.run(
        [sys.executable, *start, *map(str, words)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"COLUMNS": "100", "PYTHONWARNINGS": "default"},
        check=False,
    )


def test_a_healthy_script_is_one_quiet_line_and_its_own_output(tmp_path: Path) -> None:
    script = write(tmp_path, HEALTHY)
    plain = call(script, "--lr", "3", cwd=tmp_path, plain=True)
    seen = call("run", script, "--lr", "3", cwd=tmp_path)
    assert (seen.returncode, seen.stdout) == (0, plain.stdout)
    assert seen.stderr.startswith("gradmend: healthy"), seen.stderr
    assert len(seen.stderr.splitlines()) <= 3
    runs = list((tmp_path / "gradmend-runs").iterdir())
    assert [run.name for run in runs] == ["train"]

    report = call("report", runs[0], cwd=tmp_path)
    assert report.returncode == 0 and "healthy" in report.stdout.lower() and not report.stderr
    plain_report = json.loads(call("report", runs[0], "--json", cwd=tmp_path).stdout)
    assert plain_report["watched"]["steps"] == 120
    assert plain_report["watched"]["status"] == "finished"
    assert [f for f in plain_report["findings"] if f["severity"] != "note"] == []
    block = call("report", runs[0], "--markdown", cwd=tmp_path).stdout
    assert len(block.splitlines()) < 45 and str(tmp_path) not in block

    listed = call("ls", cwd=tmp_path)
    assert "train" in listed.stdout and "finished" in listed.stdout
    assert json.loads(call("ls", "--json", cwd=tmp_path).stdout)[0]["name"] == "train"


def test_a_sick_script_is_named_with_its_line_and_fails_the_gate(tmp_path: Path) -> None:
    script = EXAMPLES / "broken" / "mnist_mlp.py"
    seen = call("run", "--run", "sick", "--fail-on", "error", script, cwd=tmp_path)
    assert seen.returncode == 1
    assert "attenuating-activation" in seen.stderr and "mnist_mlp.py:" in seen.stderr
    assert len(seen.stderr.splitlines()) < 30
    names = [
        f["name"]
        for f in json.loads(call("report", "sick", "--json", cwd=tmp_path).stdout)["findings"]
    ]
    assert "attenuating-activation" in names and "vanishing-gradient" in names


def test_a_crash_keeps_its_traceback_and_status_and_gets_three_lines(tmp_path: Path) -> None:
    script = write(
        tmp_path,
        HEALTHY.replace("loss.backward()", "loss.backward()\n        if step == 60: 1 / 0"),
    )
    plain = call(script, cwd=tmp_path, plain=True)
    seen = call("run", script, cwd=tmp_path)
    assert seen.returncode == plain.returncode == 1
    assert seen.stderr.startswith(plain.stderr)
    ours = seen.stderr.removeprefix(plain.stderr).strip().splitlines()
    assert 1 <= len(ours) <= 3 and all("gradmend" in line or line for line in ours)
    watched = json.loads(call("report", "gradmend-runs/train", "--json", cwd=tmp_path).stdout)[
        "watched"
    ]
    assert watched["status"] == "crashed" and "ZeroDivisionError" in watched["crash"]


def test_a_nan_is_told_by_module_and_step(tmp_path: Path) -> None:
    script = write(
        tmp_path,
        HEALTHY.replace(
            "opt.zero_grad()", "opt.zero_grad()\n        if step == 60: x[i[0], 0] = float('inf')"
        ),
    )
    seen = call("run", script, cwd=tmp_path)
    assert seen.returncode == 0
    assert "non-finite-value" in seen.stderr and "60" in seen.stderr


def test_a_dead_run_is_ended_when_asked(tmp_path: Path) -> None:
    code = HEALTHY.replace(
        "nn.Linear(16, 2))", "nn.Linear(16, 2), nn.ReLU())\n    model[2].bias.data.fill_(-1e4)"
    )
    script = write(tmp_path, code.replace("range(120)", "range(5000)").replace("Adam", "SGD"))
    seen = call("run", "--stop-when-dead", script, cwd=tmp_path)
    assert seen.returncode == 3, seen.stderr
    assert "ended early" in seen.stderr and seen.stdout == ""
    assert len(seen.stderr.splitlines()) < 12


def test_scripts_that_never_train_say_so_and_leave_no_folder(tmp_path: Path) -> None:
    seen = call("run", write(tmp_path, "print('hello')"), cwd=tmp_path)
    assert (seen.returncode, seen.stdout) == (0, "hello\n")
    assert "no torch" in seen.stderr
    seen = call("run", write(tmp_path, "import torch; print(1); raise SystemExit(7)"), cwd=tmp_path)
    assert (seen.returncode, seen.stdout) == (7, "1\n") and "no optimizer" in seen.stderr
    assert not (tmp_path / "gradmend-runs").exists()


def test_a_folder_that_cannot_be_written_does_not_stop_the_training(tmp_path: Path) -> None:
    script = write(tmp_path, HEALTHY)
    plain = call(script, cwd=tmp_path, plain=True)
    (tmp_path / "gradmend-runs").write_text("a file")
    seen = call("run", script, cwd=tmp_path)
    assert (seen.returncode, seen.stdout) == (0, plain.stdout)
    assert "not written to disk" in seen.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("run", "missing.py"), "missing.py"),
        (("run", "-m", "no.such.module"), "no module"),
        (("run", "--budget", "fast", "train.py"), "budget='fast'"),
        (("run", "--fail-on", "bad", "train.py"), "bad"),
        (("run", "--run", "full", "train.py"), "full"),
        (("run",), "SCRIPT"),
        (("report", "nowhere"), "nowhere"),
        (("report", "full"), "full"),
        (("diff", "full", "nowhere"), "full"),
        (("ls", "nowhere"), "nowhere"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    words: tuple[str, ...], says: str, tmp_path: Path
) -> None:
    write(tmp_path, HEALTHY)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("precious")
    seen = call(*words, cwd=tmp_path)
    assert seen.returncode == 2 and not seen.stdout
    assert len(seen.stderr.splitlines()) == 1 and says in seen.stderr, seen.stderr
    assert (tmp_path / "full" / "mine.txt").read_text() == "precious"


def test_two_runs_are_compared(tmp_path: Path) -> None:
    write(tmp_path, HEALTHY, "good.py")
    write(
        tmp_path,
        HEALTHY.replace("lr=1e-2", "lr=1e-2 if 1 else 0").replace(
            "opt.step()", "opt.step()\n        if step == 40: opt.param_groups[0]['lr'] = 1.0"
        ),
        "bad.py",
    )
    for name in ("good", "bad"):
        assert (
            call("run", "--budget", "all", "--run", name, f"{name}.py", cwd=tmp_path).returncode
            == 0
        )
    said = call("diff", "good", "bad", cwd=tmp_path)
    assert said.returncode == 0 and "41" in said.stdout, said.stdout
    same = call("diff", "good", "good", cwd=tmp_path)
    assert "no difference" in same.stdout.lower()
    assert json.loads(call("diff", "good", "bad", "--json", cwd=tmp_path).stdout)


def test_a_killed_run_can_be_read_and_followed(tmp_path: Path) -> None:
    script = write(tmp_path, HEALTHY.replace("range(120)", "range(10**9)"))
    command = [sys.executable, "-m", "gradmend", "run", "--run", "killed", str(script)]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL) as process:
        steps = 0
        for _ in range(600):
            time.sleep(0.1)
            if (tmp_path / "killed" / "manifest.json").exists():
                seen = call("report", "killed", "--json", cwd=tmp_path)
                if seen.returncode == 0 and json.loads(seen.stdout)["watched"]["steps"] > 0:
                    watched = json.loads(seen.stdout)["watched"]
                    steps = watched["steps"]
                    assert watched["status"] == "running"
                    break
        process.kill()
        process.wait()
    watched = json.loads(call("report", "killed", "--json", cwd=tmp_path).stdout)["watched"]
    assert watched["status"] == "killed" and watched["steps"] >= steps > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "finding"),
    [
        ("tabular", "gradients-not-cleared"),
        ("digits_classifier", "doubled-softmax"),
        ("multilabel", "non-finite-value"),
        ("mnist_cnn", "dead-relu"),
        ("finetune", "stale-optimizer"),
        ("two_spirals", "overwritten-weights"),
        ("adding_problem", "non-finite-value"),
        ("contrastive", "detached-parameters"),
        ("digits_schedule", "learning-rate-zero"),
        ("half_precision", "loss-scale-collapse"),
    ],
)
def test_broken_examples_are_named(script: str, finding: str, tmp_path: Path) -> None:
    seen = call("run", "--run", "r", EXAMPLES / "broken" / f"{script}.py", cwd=tmp_path)
    names = [
        f["name"]
        for f in json.loads(call("report", "r", "--json", cwd=tmp_path).stdout)["findings"]
    ]
    assert finding in names, (seen.stderr, names)


def test_a_report_tells_of_the_rank_that_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Given a training of two processes, the second of which took three steps,
    for rank, steps in enumerate((5, 3)):
        facts = RunFacts(status="finished", steps=steps, rank=rank, ranks=2)
        writer = RunWriter.create(tmp_path / "run", facts, rank=rank)
        writer.columns("step", [Column(name="SGD", kind="SGD")], at=0)
        for step in range(steps):
            writer.append("step", step, {"loss": [2.0 - rank]})
        writer.close()
    # when its report is asked for, then it is the first one's unless another is named;
    for words, steps, rank in (((), 5, 0), (("--rank", "1"), 3, 1)):
        assert main(["report", str(tmp_path / "run"), "--json", *words]) == 0
        watched = json.loads(capsys.readouterr().out)["watched"]
        assert (watched["steps"], watched["rank"], watched["ranks"]) == (steps, rank, 2)
    # and one that is not there is said in a line.
    assert main(["report", str(tmp_path / "run"), "--rank", "2"]) == 2
    said = capsys.readouterr().err
    assert "no database of rank 2" in said and said.count("\n") == 1
