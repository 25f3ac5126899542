"""A script run by us is compared with the same script run by Python: bytes, status, signal."""

from __future__ import annotations

import os
import py_compile
import runpy
import subprocess
import sys
import textwrap
import zipfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from gradmend.errors import BadInput
from gradmend.integrations.script import run_script

_TABLES = runpy.run_path(str(Path(__file__).with_name("scripts.py")))
SCRIPTS: dict[str, str] = _TABLES["SCRIPTS"]
RARE: set[str] = _TABLES["RARE"]
MODULES: dict[str, str] = _TABLES["MODULES"]
PACKAGE: dict[str, str] = _TABLES["PACKAGE"]

RUNNER = """
import sys
from gradmend.integrations.script import finish, run_script
words = sys.argv[1:]
as_module = words[0] == "-m"
target, *arguments = words[as_module:]
finish(run_script(target, arguments, as_module=as_module, at_end=lambda outcome: None))
"""


Ended = tuple[bytes, bytes, int]


def ended(command: list[str], folder: Path, **environment: str) -> Ended:
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        input=b"Ada\nLovelace\nrest",
        capture_output=True,
        timeout=120,
        env={**os.environ, "PYTHONHASHSEED": "0", **environment},
    )
    return done.stdout, done.stderr, done.returncode


def both(words: list[str], folder: Path, **environment: str) -> Ended:
    """How Python ends with these words, which must be how we do."""
    with ThreadPoolExecutor(2) as pool:
        run = partial(ended, folder=folder, **environment)
        plain, ours = pool.map(run, (words, ["-c", RUNNER, *words]))
    assert ours == plain
    return plain


def write(folder: Path, source: str, name: str = "script.py") -> Path:
    (folder / "neighbour.py").write_text("VALUE = 41\n")
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(source).lstrip("\n"))
    return path


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n in RARE else []) for n in SCRIPTS]
)
def test_as_python(name: str, tmp_path: Path) -> None:
    write(tmp_path, SCRIPTS[name])
    both(["script.py", "--steps", "x", "-m", ""], tmp_path)


def test_the_comparison_compares(tmp_path: Path) -> None:
    write(tmp_path, "import sys; print(sys.orig_argv)")
    with pytest.raises(AssertionError):
        both(["script.py"], tmp_path)


def test_statuses_are_what_they_should_be(tmp_path: Path) -> None:
    """The table would agree with itself if nothing ran at all."""
    for name, status in {
        "interrupted": -2,
        "killed": -9,
        "terminated": -15,
        "exit text": 1,
    }.items():
        write(tmp_path, SCRIPTS[name])
        assert ended(["-c", RUNNER, "script.py"], tmp_path)[2] == status


@pytest.mark.parametrize("name", MODULES)
def test_modules(name: str, tmp_path: Path) -> None:
    for path, source in PACKAGE.items():
        write(tmp_path, source, path)
    both(["-m", name, "a", "-m", "b"], tmp_path, PYTHONDONTWRITEBYTECODE="1")


def test_an_interrupt_ends_a_module_of_ours_too(tmp_path: Path) -> None:
    """``python -m gradmend`` takes another way through Python than a script does."""
    write(tmp_path, SCRIPTS["interrupted"])
    write(tmp_path, RUNNER, "runner.py")
    assert ended(["-m", "runner", "script.py"], tmp_path) == ended(["script.py"], tmp_path)


@pytest.mark.parametrize(
    "name",
    ["./script.py", "../here/script.py", "link.py", "deep", "./deep/", ".", "all.zip", "script.pyc",
     "deep/up.py", "garbled.zip"],
)  # fmt: skip
def test_where_the_script_is(name: str, tmp_path: Path) -> None:
    here = tmp_path / "here"
    source = (
        "import os, sys\nprint(sys.argv, sys.path, os.getcwd(), __file__, __package__)\n1 / 0\n"
    )
    here.mkdir()
    path = write(here, source)
    (here / "link.py").symlink_to(path)
    write(here, source, "deep/__main__.py")
    write(here, source, "__main__.py")
    (here / "deep/up.py").symlink_to("../script.py")
    with zipfile.ZipFile(here / "all.zip", "w") as archive:
        archive.write(path, "__main__.py")
    with zipfile.ZipFile(here / "garbled.zip", "w") as archive:
        archive.writestr("__main__.py", "x = (")
    py_compile.compile(str(path), str(here / "script.pyc"))
    plain = both([name, "x"], here, PYTHONDONTWRITEBYTECODE="1")
    assert plain[2] == 1
    assert (b"SyntaxError" if name == "garbled.zip" else b"ZeroDivisionError") in plain[1]


def test_an_absolute_path(tmp_path: Path) -> None:
    path = write(tmp_path, SCRIPTS["arguments"])
    both([str(path), "x"], tmp_path.parent)


def test_safe_path(tmp_path: Path) -> None:
    write(tmp_path, SCRIPTS["arguments"])
    both(["script.py"], tmp_path, PYTHONSAFEPATH="1")
    write(tmp_path, SCRIPTS["imports a neighbour"])
    assert both(["script.py"], tmp_path, PYTHONSAFEPATH="1")[2] == 1


def test_an_encoding_cookie(tmp_path: Path) -> None:
    path = tmp_path / "script.py"
    path.write_bytes(b"# coding: latin-1\nprint('\xe9', len('\xe9'))")
    both(["script.py"], tmp_path)
    path.write_bytes(b"\xef\xbb\xbfprint('marked')\r\n1 / 0")
    both(["script.py"], tmp_path)


def test_one_stream_for_both(tmp_path: Path) -> None:
    """Where stdout and stderr are one file, the lines come in Python's order."""
    write(tmp_path, SCRIPTS["exception"])
    lines = []
    for words in (["script.py"], ["-c", RUNNER, "script.py"]):
        with (tmp_path / "log").open("wb") as log:
            subprocess.run([sys.executable, *words], cwd=tmp_path, stdout=log, stderr=log)
        lines.append((tmp_path / "log").read_bytes())
    assert lines[0] == lines[1]
    assert lines[0].startswith(b"before\nTraceback")


def test_numbers_and_threads_of_a_fork(tmp_path: Path) -> None:
    """A forked child that comes back to us must not tell our story a second time."""
    write(tmp_path, "import os\npid = os.fork()\nif pid: os.waitpid(pid, 0)\n")
    hooked = RUNNER.replace("lambda outcome: None", "lambda outcome: print('told')")
    assert ended(["-c", hooked, "script.py"], tmp_path)[0] == b"told\n"


HOOKED = """
import sys
from gradmend.integrations.script import Outcome, finish, run_script
def end(outcome):
    print("end", outcome.status, outcome.how, type(outcome.error).__name__)
    return gate or None
gate = int(sys.argv[2])
outcome = run_script(
    sys.argv[1], ["a"], before=lambda: print("begin"),
    after_error=lambda error: f"below {error!r} {error.__traceback__.tb_lineno}", at_end=end,
)
finish(outcome)
"""


@pytest.mark.parametrize(
    ("source", "status", "out", "err"),
    [
        ("print('x')", 0, "begin\nx\nend 0 finished NoneType\n", ""),
        ("import sys; sys.exit('m')", 1, "begin\nend 1 exited SystemExit\n", "m\n"),
        ("raise KeyboardInterrupt", -2, "begin\nend 130 interrupted KeyboardInterrupt\n",
         "KeyboardInterrupt\n"),
        ("x = 0\n1/x", 1, "begin\nend 1 raised ZeroDivisionError\n",
         "zero\nbelow ZeroDivisionError('division by zero') 2\n"),
        ("x = (", 1, "", "SyntaxError: '(' was never closed\n"),
        ("import sys\nsys.stderr = None\n1/0", 1, "begin\nend 1 raised ZeroDivisionError\n", ""),
    ],
)  # fmt: skip
def test_hooks(source: str, status: int, out: str, err: str, tmp_path: Path) -> None:
    write(tmp_path, source)
    said = ended(["-c", HOOKED, "script.py", "0"], tmp_path)
    assert (said[0].decode(), said[2]) == (out, status)
    assert said[1].decode().endswith(err)
    assert said[1].decode().count("Traceback") == (0 if status in (0,) else err.count("below")
                                                   + err.count("KeyboardI"))  # fmt: skip


def test_a_gate_changes_the_status_of_a_success_only(tmp_path: Path) -> None:
    write(tmp_path, "")
    assert ended(["-c", HOOKED, "script.py", "5"], tmp_path)[2] == 5
    write(tmp_path, "raise SystemExit(3)")
    assert ended(["-c", HOOKED, "script.py", "5"], tmp_path)[2] == 3
    write(tmp_path, "raise KeyboardInterrupt")
    assert ended(["-c", HOOKED, "script.py", "5"], tmp_path)[2] == -2


def test_a_hook_that_fails_is_one_line(tmp_path: Path) -> None:
    write(tmp_path, "print('x'); 1 / 0")
    broken = RUNNER.replace("lambda outcome: None", "lambda outcome: {}['a\\nb']").replace(
        "at_end=", "after_error=lambda error: 1 / 0, at_end="
    )
    plain = ended(["script.py"], tmp_path)
    ours = ended(["-c", broken, "script.py"], tmp_path)
    assert (ours[0], ours[2]) == (plain[0], plain[2])
    added = ours[1].removeprefix(plain[1]).decode().splitlines()
    assert [line.split(":")[0] for line in added] == ["gradmend"] * 2
    assert "ZeroDivisionError" in added[0] and "KeyError" in added[1]


def test_before_may_refuse(tmp_path: Path) -> None:
    def refuse() -> None:
        raise BadInput("the folder is full")

    path = write(tmp_path, "raise AssertionError('it ran')")
    with pytest.raises(BadInput, match="full"):
        run_script(str(path), [], before=refuse, at_end=lambda outcome: None)


@pytest.mark.parametrize(
    ("target", "as_module", "words"),
    [
        ("klingon.py", False, "not Python source: unknown encoding: klingon"),
        ("nothing.py", False, "there is no file 'nothing.py'"),
        ("script", False, r"Did you mean script\.py\?"),
        ("", False, "there is no file ''"),
        ("empty", False, r"empty holds no __main__\.py"),
        ("empty.zip", False, r"empty\.zip holds no __main__\.py"),
        ("binary.py", False, "not Python source: it holds a null byte"),
        ("latin.py", False, "not Python source: line 2 holds a byte that is not utf-8"),
        ("dangling.py", False, "cannot be read"),
        ("no_such_module", True, "there is no module 'no_such_module'"),
        ("no_such.train", True, "there is no module 'no_such'"),
        ("script.py", True, "Leave -m out"),
        ("sub/script.py", True, "Leave -m out"),
        ("script.more", True, "no package"),
        (".relative", True, "there is no module"),
        ("", True, "there is no module ''"),
    ],
)
def test_nothing_to_run(
    target: str, as_module: bool, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "raise AssertionError('it ran')")
    write(tmp_path, "", "sub/script.py")
    (tmp_path / "empty").mkdir()
    zipfile.ZipFile(tmp_path / "empty.zip", "w").close()
    (tmp_path / "binary.py").write_bytes(b"\x7fELF\x00\x01")
    (tmp_path / "klingon.py").write_text("# coding: klingon\n")
    (tmp_path / "latin.py").write_bytes(b"x = 1\ny = '\xe9'\n")
    (tmp_path / "dangling.py").symlink_to("gone.py")
    monkeypatch.chdir(tmp_path)
    state = list(sys.path), list(sys.argv), sys.modules["__main__"], sys.getrecursionlimit()
    with pytest.raises(BadInput, match=words):
        run_script(
            target,
            [],
            as_module=as_module,
            before=lambda: pytest.fail("began"),
            at_end=lambda outcome: pytest.fail("ended"),
        )
    assert (list(sys.path), list(sys.argv), sys.modules["__main__"]) == state[:3]
    assert sys.getrecursionlimit() == state[3]


TORCH = """
    import io, os, pickle, random, sys
    os.environ["OMP_NUM_THREADS"] = "1"
    import numpy, torch
    from torch.utils.data import DataLoader, Dataset

    class Squares(Dataset):
        def __len__(self): return 6
        def __getitem__(self, i): return torch.tensor(float(i * i)), torch.rand(())

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(3, 3)

    if __name__ == "__main__":
        print(torch.get_num_threads(), torch.initial_seed() == torch.initial_seed())
        torch.manual_seed(0)
        print(torch.rand(3).tolist(), random.Random(0).random())
        print(numpy.random.default_rng(0).random())
        net = pickle.loads(pickle.dumps(Net()))
        file = io.BytesIO()
        torch.save(net, file)
        file.seek(0)
        print(type(torch.load(file, weights_only=False)), net)
        for method in sys.argv[1].split(","):
            loader = DataLoader(Squares(), 2, num_workers=1, multiprocessing_context=method or None)
            print(method, [b.tolist() for batch in loader for b in batch])
"""


@pytest.mark.parametrize(
    "methods", ["fork", pytest.param("fork,spawn,forkserver", marks=pytest.mark.slow)]
)
def test_a_script_with_torch(methods: str, tmp_path: Path) -> None:
    write(tmp_path, TORCH)
    assert both(["script.py", methods], tmp_path)[2] == 0


@pytest.mark.slow
def test_under_torchrun(tmp_path: Path) -> None:
    """Each rank sees its own environment, and the launcher sees the status of each."""
    write(tmp_path, RUNNER, "runner.py")
    write(
        tmp_path,
        """
        import os, sys, torch.distributed as dist
        dist.init_process_group("gloo")
        rank = os.environ["RANK"], os.environ["LOCAL_RANK"], os.environ["WORLD_SIZE"]
        open(f"rank{rank[0]}", "w").write(repr((rank, sys.argv, sys.path[0], __name__)))
        dist.barrier()
        dist.destroy_process_group()
        sys.exit(int(sys.argv[1]))
        """,
    )
    launch = [
        "-m",
        "torch.distributed.run",
        "--nproc-per-node=2",
        "--master-port=0",
        "--rdzv-backend=c10d",
        "--rdzv-endpoint=localhost:0",
    ]
    seen = []
    for words in (["script.py"], ["-m", "runner", "script.py"]):
        assert ended([*launch, *words, "0"], tmp_path)[2] == 0
        seen.append([(tmp_path / f"rank{rank}").read_text() for rank in (0, 1)])
    assert seen[0] == seen[1]
    assert ended([*launch, "-m", "runner", "script.py", "3"], tmp_path)[2] != 0
