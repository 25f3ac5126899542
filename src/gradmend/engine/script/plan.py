"""What is said before anything runs: the command, the copy, what can be known to go wrong."""

from __future__ import annotations

import ast
import importlib.util
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gradmend.engine.script.scratch import Listing, listing
from gradmend.errors import BadInput

OFFLINE = {
    "WANDB_MODE": "offline",
    "NEPTUNE_MODE": "offline",
    "SWANLAB_MODE": "offline",
    "CLEARML_OFFLINE_MODE": "1",
    "MLFLOW_TRACKING_URI": "file:mlruns",
}
"""What keeps trackers from uploading a trial, by their own documentation."""
TRACKERS = {"wandb", "neptune", "swanlab", "clearml", "mlflow"}
ONLINE = {"comet_ml", "aim", "dvclive"}
"""Trackers that no variable of the environment keeps to themselves."""
MOST_PLACES = 5
"""Paths outside of the folder that are told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A training script as its user starts it."""

    target: str
    """File, or module where ``as_module``."""
    arguments: tuple[str, ...] = ()
    as_module: bool = False
    home: Path
    """The working folder."""

    def __str__(self) -> str:
        """``python train.py --epochs 3``."""
        words = ("python", *(("-m",) if self.as_module else ()), self.target, *self.arguments)
        return " ".join(words)

    @property
    def script(self) -> Path | None:
        """The file whose code runs first, if there is one of one's own."""
        if not self.as_module:
            path = self.home / self.target
            return path / "__main__.py" if path.is_dir() else path
        return self._module_file()

    def _module_file(self) -> Path | None:
        parts = self.target.split(".")
        for end in ("__main__.py", ""):
            path = self.home.joinpath(*parts, end) if end else self.home.joinpath(*parts)
            path = path if end else path.with_suffix(".py")
            if path.is_file():
                return path
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What will run, and what is known of it beforehand."""

    command: Command
    listed: Listing
    warnings: tuple[str, ...] = ()
    """What could go wrong, each a sentence."""
    trackers: tuple[str, ...] = ()
    """Trackers the script imports, which are kept offline."""


def plan_of(command: Command) -> Plan:
    """Look at a script without running it.

    Raises:
        BadInput: If there is no such script, or its folder cannot be copied.
    """
    if not command.as_module and not os.path.lexists(command.home / command.target):
        raise BadInput(
            f"there is no file '{command.target}'", "nothing was run", "name a training script"
        )
    script = command.script
    if command.as_module and script is None and not _importable(command.target):
        raise BadInput(
            f"there is no module '{command.target}'", "nothing was run",
            "run where it can be imported",
        )  # fmt: skip
    listed = listing(command.home)
    if script is not None and not script.resolve().is_relative_to(command.home.resolve()):
        raise BadInput(
            f"{command.target} lies outside of the working folder {command.home.name}",
            "a trial runs in a copy of the working folder, and the script must be in it",
            "change to the folder that holds the script, and name it from there",
        )
    tree = _parsed(script)
    imported = set(_imports(tree)) if tree is not None else set()
    warnings = list(_warnings(command, tree, imported))
    if listed.linked:
        names = ", ".join(entry.name for entry in listed.linked[:3])
        more = f" and {len(listed.linked) - 3} more" if len(listed.linked) > 3 else ""
        warnings.append(f"{names}{more}: linked, not copied, so writing there will be refused")
    return Plan(
        command=command,
        listed=listed,
        warnings=tuple(warnings),
        trackers=tuple(sorted(imported & TRACKERS)),
    )


def _importable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module.partition(".")[0]) is not None
    except (ImportError, ValueError):
        return False


def _parsed(script: Path | None) -> ast.Module | None:
    """The script's syntax, or ``None``: what is wrong with it, its own run will say."""
    try:
        return ast.parse(script.read_bytes()) if script is not None else None
    except (OSError, SyntaxError, ValueError, RecursionError):
        return None


def _warnings(command: Command, tree: ast.Module | None, imported: set[str]) -> Iterator[str]:
    texts = [*command.arguments]
    if tree is not None:
        texts += [
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        ]
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        if "input" in names and _calls_input(tree):
            yield "it calls input(), and nobody answers in a trial"
    outside = list(dict.fromkeys(t for t in texts if _is_outside(t, command.home)))
    for path in outside[:MOST_PLACES]:
        yield f"it names {path}, outside of its folder: reading is fine, writing will be refused"
    for name in sorted(imported & ONLINE):
        yield f"it imports {name}, which cannot be kept offline from here: a trial may upload"


def _calls_input(tree: ast.Module) -> bool:
    return any(
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "input"
        for node in ast.walk(tree)
    )


def _is_outside(text: str, home: Path) -> bool:
    """Whether a string names a path outside of the folder: from a root, a home, or above."""
    text = text.partition("=")[2] if text.startswith("-") else text
    if not text.startswith(("/", "~", "../")) or len(text) > 200 or any(c.isspace() for c in text):
        return False
    path = os.path.normpath(home / os.path.expanduser(text))  # noqa: PTH111
    if len(Path(path).parts) < 3 or text.startswith(("/dev/", "/proc/", "/tmp/")):
        return False
    near = Path(path)
    return not near.is_relative_to(home) and (near.exists() or near.parent.exists())


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        names: Sequence[str] = ()
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module]
        yield from (name.partition(".")[0] for name in names)
