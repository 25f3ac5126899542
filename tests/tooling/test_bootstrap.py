"""dev.py sets up ``.venv`` and nothing else, once, and says what is wrong when it cannot.

No test here reaches a network: the one function through which dev.py calls installers is replaced.
"""

import ast
import importlib.util
import os
import re
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = (ROOT / "dev.py").read_text()
Outcome = Callable[[str], tuple[bool, str]]


@pytest.fixture
def dev(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A fresh dev.py that believes ``tmp_path`` to be the project's root."""
    spec = importlib.util.spec_from_file_location("dev_under_test", ROOT / "dev.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    (tmp_path / "constraints.txt").write_text("numpy==2.4.6\ntorch==2.13.0\n")
    venv = tmp_path / ".venv"
    places = {"PYTHON": "bin/python", "STAMP": ".gradmend-setup", "PENDING": ".gradmend-pending"}
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "VENV", venv)
    for name, place in places.items():
        monkeypatch.setattr(module, name, venv / place)
    monkeypatch.setattr(module, "has_gpu", lambda: False)
    return module


@pytest.fixture
def calls(dev: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The commands that dev.py would have run; all succeed, and ``venv`` makes a Python."""
    return record(dev, monkeypatch, lambda _: (True, ""))


def record(dev: ModuleType, monkeypatch: pytest.MonkeyPatch, outcome: Outcome) -> list[str]:
    """Replace the calls to installers: note each one and answer it with ``outcome``."""
    commands: list[str] = []

    def call(command: list[str], env: dict[str, str]) -> tuple[bool, str]:
        line = " ".join(command)
        commands.append(line)
        if "-m venv" in line:
            dev.PYTHON.parent.mkdir(parents=True, exist_ok=True)
            dev.PYTHON.touch()
        elif not dev.PYTHON.exists():
            return False, "no such file"
        return outcome(line)

    monkeypatch.setattr(dev, "call", call)
    return commands


def stamp(dev: ModuleType, extra: str) -> None:
    dev.PYTHON.parent.mkdir(parents=True, exist_ok=True)
    dev.PYTHON.touch()
    dev.STAMP.write_text(f"{dev.digest()} {extra}\n")


class TestOldPython:
    def test_python_3_6_can_read_the_file(self) -> None:
        tree = ast.parse(SOURCE, feature_version=(3, 6))
        annotations = [
            *(node.annotation for node in ast.walk(tree) if isinstance(node, ast.AnnAssign)),
            *(node.annotation for node in ast.walk(tree) if isinstance(node, ast.arg)),
            *(node.returns for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)),
        ]
        assert all(isinstance(a, ast.Name | ast.Constant) for a in annotations if a)

    def test_only_the_standard_library_is_imported(self) -> None:
        imported = {
            name.split(".")[0]
            for node in ast.walk(ast.parse(SOURCE))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in [getattr(node, "module", None) or node.names[0].name]
        }
        assert imported <= sys.stdlib_module_names

    def test_it_says_what_was_found_why_it_matters_and_what_to_do(
        self, dev: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(dev, "OLDEST", (99, 1))
        monkeypatch.setattr(dev.shutil, "which", lambda _: None)
        assert dev.main(["test"]) == 2
        out, err = capsys.readouterr()
        assert not out
        assert "found Python {}.{}".format(*sys.version_info) in err
        assert "needs Python 99.1 or newer" in err
        assert "What to do: install one" in err

    def test_a_newer_one_on_the_path_takes_over(
        self, dev: ModuleType, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen = []

        def call(command: list[str], **_: object) -> int:
            seen.append(command)
            return 127 if command[0] == "python3.11" else 0  # a shim with nothing behind it

        monkeypatch.setattr(dev, "OLDEST", (99, 1))
        monkeypatch.setattr(dev.shutil, "which", lambda name: name if name != "py" else None)
        monkeypatch.setattr(dev.subprocess, "call", call)
        assert dev.main(["test", "-x"]) == 0
        assert seen[-1] == ["python3.12", str(ROOT / "dev.py"), "test", "-x"]


class TestStamp:
    @pytest.mark.parametrize(
        ("have", "want", "ready"),
        [
            ("dev", "dev", True),
            ("dev", "demo", True),
            ("demo", "demo", True),
            ("demo", "dev", False),
        ],
    )
    def test_what_covers_what(self, dev: ModuleType, have: str, want: str, ready: bool) -> None:
        stamp(dev, have)
        assert dev.is_ready(want) is ready

    @pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
    def test_a_changed_file_asks_for_a_new_set_up(self, dev: ModuleType, name: str) -> None:
        stamp(dev, "dev")
        (dev.ROOT / name).write_text("changed")
        assert not dev.is_ready("dev")

    def test_so_does_a_moved_project(
        self, dev: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stamp(dev, "dev")
        moved = tmp_path / "moved"
        moved.mkdir()
        for name in ("pyproject.toml", "constraints.txt"):
            (moved / name).write_bytes((tmp_path / name).read_bytes())
        monkeypatch.setattr(dev, "ROOT", moved)
        assert not dev.is_ready("dev")

    @pytest.mark.parametrize("missing", ["STAMP", "PYTHON"])
    def test_so_does_a_missing_piece(self, dev: ModuleType, missing: str) -> None:
        stamp(dev, "dev")
        getattr(dev, missing).unlink()
        assert not dev.is_ready("dev")

    def test_so_does_an_interrupted_set_up(self, dev: ModuleType) -> None:
        stamp(dev, "dev")
        dev.PENDING.touch()
        assert not dev.is_ready("dev")


class TestSetUp:
    def test_it_is_done_once(self, dev: ModuleType, calls: list[str]) -> None:
        dev.ensure("dev")
        assert any("-m venv --clear" in call for call in calls)
        assert calls[-3].endswith("-e .[dev]")
        assert not dev.PENDING.exists()
        calls.clear()
        dev.ensure("demo")
        assert not calls

    def test_a_working_environment_is_kept(self, dev: ModuleType, calls: list[str]) -> None:
        stamp(dev, "demo")
        dev.ensure("dev")
        assert not any("-m venv" in call for call in calls)

    def test_after_an_interruption_it_starts_afresh(
        self, dev: ModuleType, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupted(line: str) -> tuple[bool, str]:
            if "torch==" in line:
                raise KeyboardInterrupt
            return True, ""

        record(dev, monkeypatch, interrupted)
        assert dev.main(["setup"]) == 130
        assert dev.PENDING.exists()
        commands = record(dev, monkeypatch, lambda _: (True, ""))
        assert dev.main(["setup"]) == 0
        assert "-m venv --clear" in commands[0]

    def test_after_a_failure_it_goes_on(
        self, dev: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        offline = "one\ntwo\nNewConnectionError: Failed to establish a new connection"
        record(dev, monkeypatch, lambda line: ("torch==" not in line, offline))
        assert dev.main(["setup"]) == 1
        said = capsys.readouterr().err
        assert "  | two" in said
        assert "registry was not reached" in said
        assert not dev.PENDING.exists()
        assert not dev.STAMP.exists()

    def test_torch_of_the_pinned_version_stays(
        self, dev: ModuleType, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        commands = record(dev, monkeypatch, lambda _: (True, "a warning\n2.13.0+cpu\n"))
        dev.ensure("demo")
        assert not any("torch==" in command for command in commands)

    def test_pip_stands_in_for_uv(self, dev: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
        commands = record(dev, monkeypatch, lambda line: (not line.endswith(" uv"), ""))
        dev.ensure("demo")
        assert any(re.search(r"-m pip install .* torch==2\.13\.0$", line) for line in commands)
        assert not any("-m uv" in line for line in commands)

    def test_a_linked_environment_is_refused(
        self, dev: ModuleType, calls: list[str], tmp_path: Path
    ) -> None:
        (tmp_path / "another").mkdir()
        dev.VENV.symlink_to(tmp_path / "another")
        with pytest.raises(dev.SetupError, match="not this project's"):
            dev.ensure("dev")
        assert not calls

    @pytest.mark.parametrize(
        ("output", "hint"),
        [
            (
                "error sending request: client error (Connect): dns error",
                "registry was not reached",
            ),
            ("OSError: [Errno 28] No space left on device", "disk is full"),
            ("The virtual environment ... because ensurepip is not available", "python3-venv"),
            ("ERROR: No matching distribution found for torch", "another Python"),
            ("something else", "Repeat the command"),
        ],
    )
    def test_a_failure_says_what_to_do(
        self, dev: ModuleType, monkeypatch: pytest.MonkeyPatch, output: str, hint: str
    ) -> None:
        monkeypatch.setattr(dev, "call", lambda *_: (False, output))
        with pytest.raises(dev.SetupError, match=hint):
            dev.require({"step": ["installer"]}, {})

    def test_a_missing_program_is_a_failure_and_no_traceback(self, dev: ModuleType) -> None:
        done, output = dev.call([str(dev.PYTHON)], dict(os.environ))
        assert not done
        assert "No such file" in output


class TestSettings:
    @pytest.mark.parametrize(
        ("pip", "uv"),
        [
            (":env:.find-links='/wheels'", {"UV_FIND_LINKS": "/wheels"}),
            ("global.find-links='\\n/a\\n/b  /c'", {"UV_FIND_LINKS": "/a,/b,/c"}),
            (":env:.find-links='/a'\nglobal.find-links='/b'", {"UV_FIND_LINKS": "/a"}),
            ("global.index-url='https://m/simple'", {"UV_DEFAULT_INDEX": "https://m/simple"}),
            ("install.cert='/c.pem'", {"SSL_CERT_FILE": "/c.pem"}),
            ("global.timeout='9'\nnothing to see\n:env:.find-links=''", {}),
        ],
    )
    def test_pips_are_handed_to_uv(self, dev: ModuleType, pip: str, uv: dict[str, str]) -> None:
        assert dev.uv_settings({}, pip) == uv

    def test_uvs_own_win(self, dev: ModuleType) -> None:
        assert dev.uv_settings({"UV_FIND_LINKS": "/mine"}, ":env:.find-links='/pips'") == {}

    def test_other_environments_are_ignored(
        self, dev: ModuleType, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen = {}

        def run(command: list[str], *, env: dict[str, str], **_: object) -> SimpleNamespace:
            seen.update(env)
            return SimpleNamespace(returncode=-15)

        monkeypatch.setattr(dev.subprocess, "run", run)
        for name in ("VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONPATH", "PIP_USER", "UV_SYSTEM_PYTHON"):
            monkeypatch.setenv(name, "/elsewhere")
        assert dev.run(["-m", "pytest"]) == 128 + 15
        assert seen["VIRTUAL_ENV"] == str(dev.VENV)
        assert seen["PATH"].startswith(str(dev.PYTHON.parent))
        assert "/elsewhere" not in seen.values()


class TestTorch:
    PIN = "torch==2.13.0"

    @pytest.mark.parametrize(
        ("platform", "gpu", "has_uv", "has_links", "ways"),
        [
            ("linux", False, True, True, [f"{PIN}+cpu", f"--torch-backend=auto {PIN}", PIN]),
            ("linux", False, True, False, [f"--torch-backend=auto {PIN}", PIN]),
            ("linux", False, False, True, [f"{PIN}+cpu", PIN]),
            ("linux", True, True, True, [PIN, f"--torch-backend=auto {PIN}", PIN]),
            ("darwin", False, True, True, [PIN]),
            ("win32", False, True, False, [PIN]),
        ],
    )
    def test_a_build_without_cuda_comes_first(
        self,
        dev: ModuleType,
        monkeypatch: pytest.MonkeyPatch,
        platform: str,
        gpu: bool,
        has_uv: bool,
        has_links: bool,
        ways: list[str],
    ) -> None:
        monkeypatch.setattr(dev, "sys", SimpleNamespace(platform=platform))
        monkeypatch.setattr(dev, "has_gpu", lambda: gpu)
        assert [" ".join(way) for way in dev.torch_ways("2.13.0", has_uv, has_links)] == ways

    def test_unused_cuda_packages_are_reported(
        self, dev: ModuleType, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        packages = ["numpy", "nvidia-cublas", "torch", "triton"]
        assert "Found 2 packages for NVIDIA GPUs (nvidia-cublas, ...)" in dev.gpu_warning(packages)
        assert dev.gpu_warning(["numpy", "torch"]) == ""
        monkeypatch.setattr(dev, "has_gpu", lambda: True)
        assert dev.gpu_warning(packages) == ""


class TestJobs:
    def test_arguments_are_passed_through(self, dev: ModuleType) -> None:
        wanted = [["-m", "pytest", "-n", "2", "-q", "-k", "ledger"]]
        assert dev.job_commands("test", ["-k", "ledger"]) == wanted
        assert dev.job_commands("test", ["--", "-k", "ledger"]) == wanted

    def test_an_unknown_job_is_bad_usage(
        self, dev: ModuleType, calls: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert dev.main(["tset"]) == 2
        assert "there is no job 'tset'" in capsys.readouterr().err
        assert not calls

    def test_benchmarks_are_named(self, dev: ModuleType) -> None:
        (dev.ROOT / "benchmarks").mkdir()
        (dev.ROOT / "benchmarks" / "probe.py").touch()
        assert dev.job_commands("bench", ["probe", "-v"]) == [["benchmarks/probe.py", "-v"]]
        with pytest.raises(dev.UsageError, match="There are: probe"):
            dev.job_commands("bench", ["prob"])

    def test_the_worst_exit_status_counts(
        self, dev: ModuleType, calls: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(dev, "run", lambda arguments: 1 if "check" in arguments else 0)
        assert dev.main(["format"]) == 1

    def test_without_a_job_it_lists_them(
        self, dev: ModuleType, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert dev.main([]) == 0
        listed = capsys.readouterr().out
        assert all(f"  {name} " in listed for name in dev.JOBS)

    def test_make_knows_the_same_jobs(self, dev: ModuleType) -> None:
        found = re.search(r"^JOBS := (.*)$", (ROOT / "Makefile").read_text(), re.M)
        assert found is not None
        assert found[1].split() == list(dev.JOBS)


def test_every_dependency_is_pinned_without_a_local_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    names = {re.split(r"[<>=!~\[]", text)[0] for group in groups for text in group} - {"gradmend"}
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][\w.]*", pin) for pin in pins)
    assert names <= {pin.split("==")[0] for pin in pins}
