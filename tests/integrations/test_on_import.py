"""A module's import is noticed once, and nobody else notices that."""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import os
import subprocess
import sys
import textwrap
import threading
import traceback
import zipfile
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from gradmend.integrations.on_import import when_imported


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with modules; the import system is put back afterwards."""
    (tmp_path / "pear.py").write_text("import sys\nVALUE = 1\n")
    (tmp_path / "plum").mkdir()
    (tmp_path / "plum/__init__.py").write_text("from plum import stone\nimport plum.stone\n")
    (tmp_path / "plum/stone.py").write_text("VALUE = 2\n")
    (tmp_path / "rotten.py").write_text("def f():\n    raise ImportError('bad')\nf()\n")
    (tmp_path / "sour.py").write_text("def f():\n    raise ValueError('bad')\nf()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    before, finders = set(sys.modules), list(sys.meta_path)
    yield tmp_path
    sys.meta_path[:] = finders
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_called_once_after_the_import(shelf: Path) -> None:
    seen: list[Any] = []
    finders = list(sys.meta_path)
    when_imported("pear", lambda: seen.append(sys.modules["pear"].VALUE))
    assert seen == []
    importlib.import_module("pear")
    assert seen == [1]
    assert sys.meta_path == finders
    importlib.reload(sys.modules["pear"])
    del sys.modules["pear"]
    importlib.import_module("pear")
    assert seen == [1]


def test_called_at_once_if_imported_already() -> None:
    seen: list[int] = []
    finders = list(sys.meta_path)
    when_imported("json", lambda: seen.append(1))
    assert seen == [1]
    assert sys.meta_path == finders


def test_a_package_is_imported_when_its_init_has_run(shelf: Path) -> None:
    seen: list[bool] = []
    when_imported("plum", lambda: seen.append(hasattr(sys.modules["plum"], "stone")))
    import plum.stone  # type: ignore[import-not-found]

    assert seen == [True]
    assert plum.stone.VALUE == 2


def test_the_callback_may_import_it(shelf: Path) -> None:
    seen: list[Any] = []
    when_imported("plum", lambda: seen.append(importlib.import_module("plum.stone").VALUE))
    when_imported("plum.stone", lambda: seen.append("stone"))
    importlib.import_module("plum")
    assert seen == ["stone", 2]


def test_spec_and_loader_are_the_others(shelf: Path) -> None:
    plain = importlib.util.find_spec("pear")
    when_imported("pear", lambda: None)
    found = importlib.util.find_spec("pear")
    assert plain is not None and found is not None
    assert type(found.loader) is type(plain.loader) is importlib.machinery.SourceFileLoader
    assert (found.name, found.origin, found.cached) == (plain.name, plain.origin, plain.cached)
    assert importlib.util.find_spec("no_such_module") is None
    module = importlib.import_module("pear")
    assert module.__spec__ == plain  # equal loaders too: no mark is left on it
    assert module.__spec__ is not None and module.__spec__.loader is module.__loader__


def test_looking_is_no_import(shelf: Path) -> None:
    seen: list[int] = []
    when_imported("pear", lambda: seen.append(1))
    for _ in range(3):
        importlib.util.find_spec("pear")
    assert seen == []
    importlib.import_module("pear")
    assert seen == [1]


def test_a_name_that_is_nowhere(shelf: Path) -> None:
    seen: list[int] = []
    when_imported("no_such_module", lambda: seen.append(1))
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        importlib.import_module("no_such_module")
    assert seen == []


@pytest.mark.parametrize("name", ["rotten", "sour"])
def test_a_failed_import_looks_as_ever_and_does_not_count(name: str, shelf: Path) -> None:
    def told() -> str:
        try:
            exec(f"import {name}")
        except (ImportError, ValueError):
            return traceback.format_exc()
        raise AssertionError("imported")

    plain = told()
    seen: list[int] = []
    when_imported(name, lambda: seen.append(1))
    assert told() == plain
    assert seen == []
    (shelf / f"{name}.py").write_text("VALUE = 'a longer text than before, so it is read again'\n")
    importlib.invalidate_caches()
    importlib.import_module(name)
    assert seen == [1]


def test_a_failing_callback_is_one_line(shelf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise RuntimeError("two\nlines")

    when_imported("pear", fail)
    assert importlib.import_module("pear").VALUE == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert "RuntimeError: two lines" in said.err


@pytest.mark.parametrize("order", [("pear", "pear"), ("pear", "plum")])
def test_several_waiters(order: tuple[str, str], shelf: Path) -> None:
    seen: list[int] = []
    for number, name in enumerate(order):
        when_imported(name, lambda number=number: seen.append(number))  # type: ignore[misc]
    importlib.util.find_spec("pear")
    for name in order:
        importlib.import_module(name)
    assert sorted(seen) == [0, 1]
    assert "exec_module" not in vars(sys.modules["pear"].__loader__)


def test_one_loader_for_a_whole_archive(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(tmp_path / "fruit.zip", "w") as archive:
        archive.writestr("fig.py", "import date\nVALUE = 3\n")
        archive.writestr("date.py", "VALUE = 4\n")
    monkeypatch.syspath_prepend(str(tmp_path / "fruit.zip"))
    seen: list[str] = []
    when_imported("fig", lambda: seen.append("fig"))
    when_imported("date", lambda: seen.append("date"))
    importlib.util.find_spec("fig")
    importlib.import_module("fig")
    assert seen == ["date", "fig"]
    assert "exec_module" not in vars(sys.modules["fig"].__loader__)


def test_among_finders_that_start_the_search_anew(shelf: Path) -> None:
    """Other import hooks ask for the spec themselves, and so ask us again."""

    class Hook:
        busy = False

        def find_spec(
            self, name: str, path: Any = None, target: ModuleType | None = None
        ) -> ModuleSpec | None:
            if self.busy or name != "pear":
                return None
            self.busy = True
            try:
                return importlib.util.find_spec(name)
            finally:
                self.busy = False

    seen: list[int] = []
    sys.meta_path.insert(0, Hook())
    when_imported("pear", lambda: seen.append(1))
    sys.meta_path.insert(0, Hook())
    importlib.import_module("pear")
    assert seen == [1]


def test_lazy_modules_count_when_they_run(shelf: Path) -> None:
    seen: list[int] = []
    when_imported("pear", lambda: seen.append(1))
    spec = importlib.util.find_spec("pear")
    assert spec is not None and spec.loader is not None
    spec.loader = importlib.util.LazyLoader(spec.loader)
    module = importlib.util.module_from_spec(spec)
    sys.modules["pear"] = module
    assert spec.loader is not None
    spec.loader.exec_module(module)
    assert seen == []
    assert module.VALUE == 1
    assert seen == [1]


def test_two_threads_import_at_once(shelf: Path) -> None:
    seen: list[int] = []
    (shelf / "slow_pear.py").write_text("import time\ntime.sleep(0.05)\nVALUE = 5\n")
    when_imported("slow_pear", lambda: seen.append(1))
    work = [threading.Thread(target=importlib.import_module, args=("slow_pear",)) for _ in "ab"]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    assert seen == [1]


def test_a_finder_that_was_thrown_out(shelf: Path) -> None:
    seen: list[int] = []
    finders = list(sys.meta_path)
    when_imported("pear", lambda: seen.append(1))
    sys.meta_path[:] = finders
    importlib.import_module("pear")
    assert seen == []


def test_a_forked_child_is_another_process(shelf: Path) -> None:
    code = """
        import os
        from gradmend.integrations.on_import import when_imported
        when_imported("pear", lambda: print("imported", flush=True))
        pid = os.fork()
        import pear
        if pid:
            os.waitpid(pid, 0)
        """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(shelf), *sys.path])},
    )
    assert (done.stdout, done.stderr, done.returncode) == ("imported\n", "", 0)


@pytest.mark.slow
def test_torch_itself() -> None:
    """Nothing is imported for it, and torch is whole when we are called."""
    code = """
        import importlib.util, sys
        from gradmend.integrations.on_import import when_imported
        when_imported("torch", lambda: print(sys.modules["torch"].nn.Linear(1, 1)))
        print("torch" in sys.modules, "numpy" in sys.modules)
        print(importlib.util.find_spec("torch").name)
        import torch
        print(type(torch.__loader__).__name__, type(sys.meta_path[0]).__module__)
        """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True
    )
    assert done.stdout.splitlines()[:3] == [
        "False False",
        "torch",
        "Linear(in_features=1, out_features=1, bias=True)",
    ]
    loader, _, finder = done.stdout.splitlines()[3].partition(" ")
    assert loader == "SourceFileLoader"
    assert "gradmend" not in finder
