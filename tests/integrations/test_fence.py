"""What a fenced process may write: every way in one process, as a hook is for good."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

RUNNER = """
import json, os, pathlib, shutil, sqlite3, sys, threading
from gradmend.integrations.fence import Fence
home, cases = sys.argv[1], json.loads(sys.argv[2])
import numpy as np
class Refused(BaseException):
    pass
told = []
def outside(path, what):
    told.append(path)
    raise Refused(path)
fence = Fence([os.getcwd()], outside)
fence.close_in()
if any("torch" in code for code in cases.values()):
    import torch
    from torch import nn
found = {}
for name, code in cases.items():
    told.clear()
    try:
        exec(code)
        how = ""
    except Refused:
        how = "refused"
    except Exception as error:
        how = repr(error)
    found[name] = [how, list(told)]
print(json.dumps(found))
"""

OUTSIDE = {
    "open": "open(home + '/x', 'w')",
    "append": "open(home + '/kept', 'a')",
    "update": "open(home + '/kept', 'r+')",
    "bytes": "open(os.fsencode(home + '/x'), 'wb')",
    "path": "pathlib.Path(home, 'x').write_text('x')",
    "touch": "pathlib.Path(home, 'x').touch()",
    "low level": "os.open(home + '/x', os.O_WRONLY | os.O_CREAT)",
    "numpy": "np.save(home + '/x.npy', np.ones(2))",
    "to file": "np.ones(2).tofile(home + '/x')",
    "mapped": "np.memmap(home + '/x', mode='w+', shape=(2,))",
    "mkdir": "os.makedirs(home + '/x/y')",
    "remove": "os.remove(home + '/kept')",
    "unlink": "pathlib.Path(home, 'kept').unlink()",
    "truncate": "os.truncate(home + '/kept', 0)",
    "rename away": "os.rename(home + '/kept', 'mine')",
    "rename over": "open('mine', 'w').close(); os.replace('mine', home + '/kept')",
    "tree": "shutil.rmtree(home)",
    "copy": "open('mine', 'w').close(); shutil.copy('mine', home + '/x')",
    "move": "shutil.move('mine', home + '/x')",
    "link": "os.link('mine', home + '/x')",
    "database": "sqlite3.connect(home + '/x.db')",
    "database by uri": "sqlite3.connect('file://' + home + '/x.db?cache=shared', uri=True)",
    "through a link": "os.symlink(home, 'inside'); open('inside/x', 'w')",
    "remove through a link": "os.remove('inside/kept')",
    "up": "open('../up', 'w')",
    "chmod": "os.chmod(home + '/kept', 0o777)",
    "times": "os.utime(home + '/kept', (0, 0))",
    "relative to a folder": ("f = os.open(home, os.O_RDONLY)\nos.mkdir('x', dir_fd=f)"),
}
WITH_TORCH = {
    "torch": "torch.save({'a': 1}, home + '/x')",
    "torch with a path": "torch.save({'a': 1}, pathlib.Path(home) / 'x')",
    "old torch": "torch.save([1], home + '/x', _use_new_zipfile_serialization=False)",
    "script": "torch.jit.script(nn.Linear(1, 1)).save(home + '/x')",
    "jit": "torch.jit.save(torch.jit.script(nn.Linear(1, 1)), home + '/x')",
}
INSIDE = {
    "open": "open('y', 'w').close(); open('y', 'a').close()",
    "read outside": "open(home + '/kept').close(); os.listdir(home); os.stat(home)",
    "remove a link": "os.symlink(home, 'link'); os.remove('link')",
    "tree": "os.makedirs('a/b'); os.rename('a', 'c'); shutil.rmtree('c')",
    "database": "sqlite3.connect(':memory:'); sqlite3.connect('z.db').execute('create table t(a)')",
    "database to read": "sqlite3.connect('file:' + home + '/no.db?mode=ro', uri=True)",
    "temporary": "import tempfile; tempfile.TemporaryDirectory().cleanup()",
    "nowhere": "open(os.devnull, 'w').close()",
    "a file that is open": "f = open('y', 'w'); os.truncate(f.fileno(), 0)",
    "ours": "exec('with fence.opened(): open(home + \\'/ours\\', \\'w\\').close()')",
    "compiled": "os.makedirs(home + '/__pycache__')",
}


def run(cases: dict[str, str], folder: Path) -> tuple[dict[str, tuple[str, list[str]]], Path]:
    home, work, temporary = folder / "theirs", folder / "work", folder / "temporary"
    for each in (home, work, temporary):
        each.mkdir()
    (home / "kept").write_text("kept")
    done = subprocess.run(
        [sys.executable, "-c", RUNNER, str(home), json.dumps(cases)],
        cwd=work, capture_output=True, text=True, timeout=200, check=False,
        env=os.environ | {"TMPDIR": str(temporary), "HOME": str(folder / "nobody")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    return {name: (how, told) for name, (how, told) in found.items()}, home


@pytest.mark.parametrize("cases", [OUTSIDE, pytest.param(WITH_TORCH, marks=pytest.mark.slow)])
def test_nothing_is_written_outside(cases: dict[str, str], tmp_path: Path) -> None:
    found, home = run(cases, tmp_path)
    assert {name: how for name, (how, _) in found.items()} == dict.fromkeys(cases, "refused")
    assert all(Path(told[0]).is_absolute() for _, told in found.values())
    kept = home / "kept"
    assert [path.name for path in home.iterdir()] == ["kept"] and kept.read_text() == "kept"
    assert kept.stat().st_mode & 0o777 != 0o777 and kept.stat().st_mtime > 1
    assert not (tmp_path / "up").exists()


def test_what_stays_inside_and_what_only_reads_is_let_be(tmp_path: Path) -> None:
    found, home = run(INSIDE, tmp_path)
    assert all(not told for _, told in found.values()), found
    how = {name: said for name, (said, _) in found.items() if name != "database to read"}
    assert set(how.values()) == {""}, how
    assert (home / "ours").exists()
