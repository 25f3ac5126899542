"""Every example runs as it stands, shortened; that they learn is said where they are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples"
EXAMPLES = {path.relative_to(FOLDER).as_posix() for path in FOLDER.glob("**/*.py")}
QUICK = {"lstm.py", "broken/tabular.py"}
SHORT = {
    "cnn_digits.py": ["--steps", "2", "--workers", "1", "--bf16"],
    "lstm.py": ["--epochs", "2", "--bptt", "400"],
    "reinforce.py": ["--episodes", "2"],
    "regression.py": ["--epochs", "2"],
    "broken/digits_classifier.py": ["--epochs", "2"],
    "broken/digits_schedule.py": ["--epochs", "2"],
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in QUICK else [pytest.mark.slow])
             for n in sorted(EXAMPLES)],
)  # fmt: skip
def test_it_runs(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / name), *SHORT.get(name, ["--steps", "3"])],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout
    assert not any(tmp_path.iterdir()), "it leaves files where it is run"


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["regression.py", "--optimizer", "lbfgs", "--epochs", "2"],
        ["lstm.py", "--optimizer", "sgd", "--epochs", "1"],
        ["cnn_digits.py", "--steps", "2", "--checkpoint", "net.pt"],
    ],
)
def test_its_options(words: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / words[0]), *words[1:]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.stderr, done.returncode) == ("", 0)
    assert (tmp_path / "net.pt").exists() == ("net.pt" in words)


def test_none_is_made_for_us() -> None:
    for name in EXAMPLES:
        text = (ROOT / "examples" / name).read_text(encoding="utf-8")
        assert "gradmend" not in text
        last = text.rstrip().splitlines()[-1]
        assert last.startswith("# Truth: ") == name.startswith(("broken/", "fix/"))


def test_the_readme_names_them_all() -> None:
    text = (ROOT / "examples/README.md").read_text(encoding="utf-8")
    listed = {line.split("`")[1] for line in text.splitlines() if line.startswith("| `")}
    shown = {Path(name).name for name in EXAMPLES if not name.startswith("broken/")}
    assert listed == shown
