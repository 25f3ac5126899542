"""The manifest of a run: what it is, in a file that is readable without a database."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gradmend.errors import BadInput
from gradmend.records.history import SCHEMA, RunFacts
from gradmend.store.errors import Damaged, damaged
from gradmend.store.plain import parse, run_of, to_json

NAME = "manifest.json"
_LARGEST = 1 << 20  # bytes


@dataclass(frozen=True, slots=True)
class Writer:
    """The process that writes, so that a reader can tell whether it is still there."""

    pid: int
    began: int | None
    """When the process began, in the kernel's ticks: process ids are used again."""
    place: str
    """Digest of the machine and the container, which are nobody's business by name."""

    @classmethod
    def here(cls) -> Writer:
        """This process."""
        return cls(os.getpid(), _process(os.getpid())[1], _place())

    @property
    def dead(self) -> bool:
        """Whether the process is known to be gone; False where that cannot be told."""
        if self.place != _place() or not 0 < self.pid < 1 << 31 or os.name != "posix":
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except OSError:  # there, and somebody else's
            return False
        state, began = _process(self.pid)
        return state in ("Z", "X") or (None not in (began, self.began) and began != self.began)


def _process(pid: int) -> tuple[str, int | None]:
    """State and beginning of a process, where the system has a /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return fields[0], int(fields[19])
    except (OSError, ValueError, IndexError):
        return "", None


def _place() -> str:
    try:
        container = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        container = ""
    return hashlib.sha256(f"{platform.node()} {container}".encode()).hexdigest()[:16]


def write(folder: Path, text: str) -> None:
    """Replace the manifest; a reader finds the old or the new one, never half of one.

    Raises:
        OSError: If the folder cannot be written.
    """
    temporary = folder / (NAME + ".tmp")
    temporary.write_text(text + "\n", encoding="utf-8")
    temporary.replace(folder / NAME)


def compose(run: RunFacts, writer: Writer) -> str:
    """The manifest as JSON."""
    return to_json(
        {
            "format": "gradmend run",
            "schema": SCHEMA,
            "run": run,
            "writer": {"pid": writer.pid, "began": writer.began, "place": writer.place},
        }
    )


def read(folder: Path) -> RunFacts:
    """The circumstances of the run in a folder; ``killed`` if it runs and its writer is gone.

    Raises:
        BadInput: If the folder is not there, is no run, is of another version, or is damaged.
    """
    path = folder / NAME
    if not folder.is_dir():
        raise BadInput(f"there is no folder {folder}", "", "pass the folder of a watched run")
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST + 1)
    except FileNotFoundError:
        raise BadInput(
            f"{folder} is not a run: it has no {NAME}",
            "a watched run writes one",
            "pass the folder that gradmend run or gradmend.watch wrote",
        ) from None
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror})", "", "") from None
    if len(data) > _LARGEST:
        raise damaged(path, "larger than any manifest")
    try:
        return facts(data.decode("utf-8"), str(folder))
    except (Damaged, UnicodeDecodeError) as error:
        reason = error if isinstance(error, Damaged) else "no text"
        raise damaged(path, reason) from None


def facts(text: str, name: str) -> RunFacts:
    """The circumstances that a manifest tells.

    Raises:
        BadInput: If it is of another version.
        Damaged: If it is no manifest.
    """
    content = parse(text)
    schema = content.get("schema")
    if not isinstance(schema, int):
        raise Damaged("it has no schema")
    if schema != SCHEMA:
        raise BadInput(
            f"{name} has schema {json.dumps(schema)}, this gradmend reads {SCHEMA}",
            "its numbers may mean something else",
            "use the gradmend that wrote it",
        )
    run = run_of(content.get("run"))
    writer = _writer(content.get("writer"))
    if run.status == "running" and writer is not None and writer.dead:
        return replace(run, status="killed")
    return run


def _writer(content: Any) -> Writer | None:
    if not isinstance(content, Mapping):
        return None
    pid, began, place = (content.get(key) for key in ("pid", "began", "place"))
    if not isinstance(pid, int) or not isinstance(began, int | None):
        return None
    return Writer(pid, began, str(place))
