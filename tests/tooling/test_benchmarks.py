"""``benchmarks/overhead.py`` runs, on tiny nets, and prints tables that hold what they should.

Nothing here judges a time: on a busy machine none means anything.
"""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "overhead.py"
WARM = "import torch; from gradmend.probe import kernels; kernels.warm()"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    env = dict(os.environ, OMP_NUM_THREADS="1")
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=600)


def tables(text: str) -> list[list[list[str]]]:
    """Every markdown table, as rows of cells, without the line of dashes."""
    found: list[list[list[str]]] = []
    before = ""
    for line in text.splitlines():
        if line.startswith("|"):
            if not before.startswith("|"):
                found.append([])
            if not line.startswith("| ---"):
                found[-1].append([cell.strip() for cell in line.strip("|").split("|")])
        before = line
    return found


@pytest.fixture
def overhead(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    spec = importlib.util.spec_from_file_location("overhead_under_test", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def test_bench_sets_up_what_it_compares_with() -> None:
    spec = importlib.util.spec_from_file_location("dev_under_test", ROOT / "dev.py")
    assert spec is not None
    assert spec.loader is not None
    dev = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(dev)
    assert dev.JOBS["bench"].extra == "bench"
    # It holds all that the other jobs need: a change of job sets nothing up again.
    assert {extra for extra, covered in dev.COVERED_BY.items() if "bench" in covered} == {
        job.extra for job in dev.JOBS.values()
    }


def test_no_gpu_package_is_pinned() -> None:
    names = re.findall(r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text(), re.M)
    assert not [n for n in names if n.startswith(("cuda-", "nvidia-", "pytorch-triton", "triton"))]


def test_a_ratio_is_to_the_plain_steps_of_the_same_chunks(overhead: ModuleType) -> None:
    """10 steps in 30 s beside plain ones of 2 s, and in 90 s beside 4 s: 120 s and not 60."""
    chunks = [
        {"wall": 30.0, "cpu": 20.0, "plain": [2.0, 1.0]},
        {"wall": 90.0, "cpu": 20.0, "plain": [4.0, 1.0]},
    ]
    assert overhead.ratio(chunks, "wall", 10) == 2.0
    assert overhead.ratio(chunks, "cpu", 10) == 2.0
    assert overhead.ratio(chunks[:1], "wall", 10) == 1.5


@pytest.mark.slow
def test_it_prints_what_it_measured() -> None:
    subprocess.run([sys.executable, "-c", WARM], check=True, timeout=600)
    done = run("--quick", "--variants", "foreach-norm,gradmend-all-folder,wandb-1")
    assert done.returncode == 0, done.stderr
    measured, tiers = tables(done.stdout)
    assert [len(row) for row in measured] == [len(measured[0])] * len(measured)
    rows = {row[0]: dict(zip(measured[0], row, strict=True)) for row in measured[1:]}
    for title, row in rows.items():
        if "wandb" in title and importlib.util.find_spec("wandb") is None:
            assert row["time (quartiles)"] == "not installed"
        elif "derived" not in title:
            assert re.fullmatch(r"\d+\.\d{3} \(.*–.*\)", row["CPU time (quartiles)"]), row
            assert int(row["steps"]) >= 2
    (ours,) = (row for title, row in rows.items() if title.startswith("gradmend"))
    assert float(ours["counted"]) >= 1.0
    assert float(ours["on disk, KB/step"]) > 0
    # "Everything" measures the gradients at every step.
    everything = dict(zip(tiers[0], tiers[-1], strict=True))
    assert int(everything["rows"].split(" x")[0]) == int(ours["steps"])
    assert str(ROOT) not in done.stdout


@pytest.mark.slow
def test_an_unknown_name_is_refused() -> None:
    done = run("--variants", "weights-and-wishes")
    assert done.returncode == 2
    assert "there is no weights-and-wishes" in done.stderr
