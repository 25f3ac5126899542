"""Copies of the folder that a script runs in: what a trial writes must not meet what is there."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from gradmend.errors import BadInput

LARGE_FILE = 16 * 2**20
"""Bytes from which a file is linked instead of copied (our choice: data, not code or settings)."""
MOST_BYTES = 256 * 2**20
"""Bytes copied at most; the largest files are linked until the rest is below (our choice: every
training of a trial has a copy of its own)."""
FULL_FOLDER = 1000
"""Files directly in a folder from which it is linked as a whole: pictures of a data set."""
MOST_FILES = 20_000
"""Files of a folder that is still copied; beyond it is hardly the folder of one script."""
LINKED = frozenset({".git", ".hg", ".svn", "node_modules", "site-packages"})
"""Folders that a training reads at most."""
LEFT_OUT = frozenset(
    {"__pycache__", ".mypy_cache", ".pytest_cache", ".ruff_cache", "gradmend-runs", "gradmend-fix"}
)
"""Folders that no training reads."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or folder of the copy."""

    name: str
    """Relative to the folder."""
    size: int
    linked: bool = False
    """Whether the copy holds a link to the original, which must not be written to."""


@dataclass(frozen=True, slots=True)
class Listing:
    """What a copy of a folder will hold."""

    folder: Path
    entries: tuple[Entry, ...]

    @property
    def copied(self) -> tuple[Entry, ...]:
        """Files that are copied."""
        return tuple(entry for entry in self.entries if not entry.linked)

    @property
    def linked(self) -> tuple[Entry, ...]:
        """Files and folders that are linked, largest first."""
        return tuple(sorted((e for e in self.entries if e.linked), key=lambda entry: -entry.size))


def listing(folder: Path) -> Listing:
    """What to copy of a folder and what to link.

    Raises:
        BadInput: If it cannot be read, or holds far more than a script's folder does.
    """
    found: list[Entry] = []
    try:
        _walk(folder, "", found)
    except OSError as error:
        raise BadInput(
            f"{error.filename or folder} cannot be read ({error.strerror})",
            "a trial runs in a copy of the working folder",
            "run where everything can be read",
        ) from None
    total = sum(entry.size for entry in found if not entry.linked)
    for at, entry in sorted(enumerate(found), key=lambda item: -item[1].size):
        if total <= MOST_BYTES:
            break
        if not entry.linked:
            found[at] = replace(entry, linked=True)
            total -= entry.size
    return Listing(folder, tuple(found))


def _walk(folder: Path, inside: str, found: list[Entry]) -> None:
    with os.scandir(folder / inside) as scanned:
        entries = sorted(scanned, key=lambda entry: entry.name)
    files = sum(entry.is_file(follow_symlinks=False) for entry in entries)
    if inside and files >= FULL_FOLDER:
        found.append(Entry(inside, files, linked=True))
        return
    for entry in entries:
        name = f"{inside}/{entry.name}" if inside else entry.name
        if entry.is_symlink():
            found.append(Entry(name, 0, linked=True))
        elif entry.is_dir():
            if entry.name in LINKED or (Path(entry.path) / "pyvenv.cfg").is_file():
                found.append(Entry(name, 0, linked=True))
            elif entry.name not in LEFT_OUT:
                _walk(folder, name, found)
        elif stat.S_ISREG(entry.stat().st_mode):  # no socket, no pipe
            size = entry.stat().st_size
            found.append(Entry(name, size, linked=size >= LARGE_FILE))
        if len(found) > MOST_FILES:
            raise BadInput(
                f"{folder} holds more than {MOST_FILES:,} files",
                "every training of a trial runs in a copy of the working folder",
                "run it in the folder that holds the script and what it needs",
            )


@contextmanager
def copy_of(listed: Listing) -> Iterator[Path]:
    """A copy of a folder in the place for temporary files, removed afterwards."""
    # realpath: a temporary folder may itself be a link, and paths are compared later.
    base = Path(os.path.realpath(tempfile.mkdtemp(prefix="gradmend-")))
    try:
        work = base / (listed.folder.name or "root")
        work.mkdir()
        for entry in listed.entries:
            new, old = work / entry.name, listed.folder / entry.name
            new.parent.mkdir(parents=True, exist_ok=True)
            if entry.linked:
                new.symlink_to(os.path.realpath(old))
            else:
                shutil.copy2(old, new)
        yield work
    finally:
        shutil.rmtree(base, ignore_errors=True)
