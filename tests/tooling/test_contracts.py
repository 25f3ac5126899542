"""The project's own rules hold: format, style, types, and which room may import which."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINT_IMPORTS = ["-c", "from importlinter.cli import lint_imports_command as lint; lint()"]
CHECKS = {
    "format": ["-m", "ruff", "format", "--check", "."],
    "style": ["-m", "ruff", "check", "."],
    "types": ["-m", "mypy"],
    "imports": LINT_IMPORTS,
}


def python(*arguments: str, cwd: Path = ROOT) -> tuple[int, str]:
    """Run Python on ``arguments``; return its exit status and all that it said."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize("check", CHECKS)
def test_the_project_keeps_its_rules(check: str) -> None:
    status, output = python(*CHECKS[check])
    assert status == 0, output


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """An empty house with every room the contracts name, and the contracts themselves."""
    text = (ROOT / "pyproject.toml").read_text()
    contracts = tomllib.loads(text)["tool"]["importlinter"]["contracts"]
    layers = next(c["layers"] for c in contracts if c["type"] == "layers")
    rooms = [room.strip(" ()") for layer in layers for room in layer.replace("|", ":").split(":")]
    for room in ["", *rooms, "rules/first", "rules/second", "remedies/first", "remedies/second"]:
        folder = tmp_path / "gradmend" / room
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "__init__.py").touch()
    (tmp_path / "pyproject.toml").write_text(text)
    return tmp_path


def test_the_contracts_hold_in_an_empty_house(house: Path) -> None:
    status, output = python(*LINT_IMPORTS, cwd=house)
    assert status == 0, output


@pytest.mark.parametrize(
    ("room", "line", "broken"),
    [
        ("records", "import gradmend.theory", "Imports go downward only"),
        ("renderers", "import gradmend.engine", "Imports go downward only"),
        ("attic", "", "Imports go downward only"),
        ("rules/first", "import torch", "work without torch"),
        ("registry", "def late():\n    import torch", "work without torch"),
        ("theory", "import gradmend.layers", "Imports go downward only"),
        ("records", "import numpy", "standard library only"),
        ("rules/first", "import gradmend.rules.second", "Rules do not import one another"),
        ("remedies/first", "import gradmend.remedies.second", "Remedies do not import"),
    ],
)
def test_a_planted_import_breaks_its_contract(
    house: Path, room: str, line: str, broken: str
) -> None:
    folder = house / "gradmend" / room
    folder.mkdir(exist_ok=True)
    (folder / "__init__.py").write_text(f"{line}\n")
    status, output = python(*LINT_IMPORTS, cwd=house)
    assert status != 0
    assert any(broken in said and said.endswith("BROKEN") for said in output.splitlines()), output
