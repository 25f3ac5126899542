"""Reading, explaining and showing results works on machines without torch.

The import contracts see what is written; these tests see what happens.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from gradmend.records.history import Column, RunFacts
from gradmend.store.writer import RunWriter

WITHOUT_TORCH = "import sys; sys.modules['torch'] = None\n"  # any `import torch` now raises
EVERY_MODULE_OF = """
import importlib, pkgutil
room = importlib.import_module("gradmend.{room}")
for found in pkgutil.walk_packages(getattr(room, "__path__", ()), room.__name__ + "."):
    importlib.import_module(found.name)
"""


def python(code: str) -> subprocess.CompletedProcess[str]:
    """Run ``code`` in a fresh interpreter."""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )


def without_torch(code: str) -> str:
    """Run ``code`` where torch cannot be imported; fail with its words if it fails."""
    done = python(WITHOUT_TORCH + code)
    assert done.returncode == 0, done.stderr
    return done.stdout


REPORT = """
from gradmend.records.report import Report
from gradmend.records.trace import Run, Trace
report = Report(trace=Trace(run=Run(model="a-small-net")))
"""


@pytest.mark.parametrize("code", ["import torch", "import torch.nn", "import gradmend.layers"])
def test_this_check_can_fail(code: str) -> None:
    with pytest.raises(AssertionError, match="torch"):
        without_torch(code)


def test_the_package_imports() -> None:
    without_torch("import gradmend, gradmend.cli")


@pytest.mark.parametrize(
    "room", ["errors", "records", "registry", "remedies", "renderers", "rules", "store", "theory"]
)
def test_every_module_of_a_torch_free_room_imports(room: str) -> None:
    without_torch(EVERY_MODULE_OF.format(room=room))


def test_explain_runs() -> None:
    name = "attenuating-activation"
    said = without_torch(f"from gradmend.cli import main; sys.exit(main(['explain', {name!r}]))")
    assert name in said


@pytest.mark.parametrize("view", ["text", "html"])
def test_a_report_is_rendered(view: str) -> None:
    show = f"from gradmend.renderers import {view}; print({view}.render(report))"
    assert "a-small-net" in without_torch(REPORT + show)


def test_a_report_becomes_json() -> None:
    said = without_torch(REPORT + "import json; print(json.dumps(report.to_dict()))")
    assert "a-small-net" in said


def test_runs_are_reported_compared_and_listed(tmp_path: Path) -> None:
    writer = RunWriter.create(tmp_path / "a", RunFacts(name="a-small-run"))
    writer.columns("step", [Column(name="Adam")], at=0)
    for step in range(30):
        writer.append("step", step, {"loss": [1.0 / (step + 1)]})
    writer.close()
    for words in (["report", "a"], ["report", "a", "--markdown"], ["diff", "a", "a"], ["ls", "."]):
        code = f"import os; os.chdir({str(tmp_path)!r})\nfrom gradmend.cli import main\n"
        assert without_torch(code + f"sys.exit(main({words!r}))")


def test_torch_is_not_even_tried() -> None:
    """Guards against ``try: import torch``, which the tests above would not see."""
    done = python("import gradmend, gradmend.cli, sys; sys.exit('torch' in sys.modules)")
    assert done.returncode == 0, done.stderr
