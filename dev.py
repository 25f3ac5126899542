#!/usr/bin/env python3
"""Build ``./.venv`` and run one job of the project in it: ``python3 dev.py test``.

Needs the standard library only, and touches no other environment: an active one is ignored.
The set-up is stamped, so it runs once, and again when pyproject.toml or constraints.txt change.
Progress goes to stderr; stdout belongs to the job.

An old Python must be able to read this file, to be told that it is too old. So annotations are
quoted and newer syntax is left out (a test holds it to Python 3.6).
"""

import ast
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
STAMP = VENV / ".gradmend-setup"  # what was set up: a digest and the name of the extra
PENDING = VENV / ".gradmend-pending"  # there while a set-up runs, left behind by one cut short

OLDEST = (3, 11)
TESTED = ("3.11", "3.12", "3.13", "3.14")  # what to look for where python3 is too old
CONTRACTS = "tests/tooling/test_contracts.py"
COVERED_BY = {
    "demo": ("demo", "dev", "browser", "bench"),
    "dev": ("dev", "browser", "bench"),
    "browser": ("browser", "bench"),
    "bench": ("bench",),
}

# Settings that would send packages, or imports, somewhere other than .venv.
STRAY = {
    *("VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONHOME", "PYTHONPATH", "PIP_PREFIX", "PIP_PYTHON"),
    *("PIP_ROOT", "PIP_TARGET", "PIP_USER", "UV_PREFIX", "UV_PYTHON", "UV_SYSTEM_PYTHON"),
    *("UV_TARGET",),
}
GPU_PACKAGES = ("cuda-", "nvidia-", "pytorch-triton", "triton")
NEW_ENOUGH = f"import sys; sys.exit(sys.version_info < {OLDEST!r})"
TORCH_VERSION = "import torch; print(torch.__version__)"
PACKAGES = "import importlib.metadata as m; print(*sorted({d.name for d in m.distributions()}))"

FOR_UV = {  # pip's settings, which uv does not read, and uv's names for them
    "cert": "SSL_CERT_FILE",
    "find-links": "UV_FIND_LINKS",
    "index-url": "UV_DEFAULT_INDEX",
    "proxy": "ALL_PROXY",
}
HINTS = {  # a pattern in an installer's output: what to do about it
    r"certificate|connection|error sending request|name resolution|proxy|timed out|unreachable": (
        "The package registry was not reached. Check the network, HTTPS_PROXY and PIP_CERT, or\n"
        "  name a mirror (PIP_INDEX_URL) or a folder of wheels (PIP_FIND_LINKS); then repeat."
    ),
    r"no space left": "The disk is full. Free about 2 GB and repeat the command.",
    r"ensurepip": "Part of this Python is missing. Debian, Ubuntu: apt install python3-venv.",
    r"no matching|no solution|no wheels": (
        "A package has no build for this Python {}.{}, or for this system.\n"
        "  Remove the folder .venv and repeat with another Python: `python3.12 dev.py test`."
    ).format(*sys.version_info[:2]),
    r"": "Repeat the command. If it fails in the same way, remove the folder .venv first.",
}


class Job(NamedTuple):
    """What a job is for, the extra it needs, and what .venv's Python is called with."""

    summary: str
    extra: str
    commands: "list[str]"


JOBS = {
    "demo": Job("diagnose and repair a network, on real digits", "demo", ["-m gradmend demo"]),
    "test": Job("run every check", "dev", ["-m pytest -n 2 -q"]),
    "browser": Job(
        "look at every page in Chromium", "browser", ["-m pytest -q -m browser tests/browser"]
    ),
    "lint": Job("check format, style, types and imports", "dev", [f"-m pytest -q {CONTRACTS}"]),
    "format": Job(
        "rewrite the code in style", "dev", ["-m ruff check --fix .", "-m ruff format ."]
    ),
    "docs": Job("write the pages that are made from code", "dev", ["tools/docs.py"]),
    "docs-check": Job("check that those pages are current", "dev", ["tools/docs.py --check"]),
    "bench": Job("run benchmarks/NAME.py: bench NAME", "bench", ["benchmarks/{}.py"]),
    "setup": Job("build .venv and stop", "dev", []),
}


class UsageError(Exception):
    """The command, or the Python it was given to, cannot be used."""


class SetupError(Exception):
    """The environment could not be built."""


def main(argv: "list[str]") -> int:
    """Run the job that ``argv`` names and return its exit status; 2 is bad usage."""
    try:
        if sys.version_info < OLDEST:
            return subprocess.call([*newer_python(), str(Path(__file__).resolve()), *argv])
        if not argv or argv[0] in ("help", "-h", "--help"):
            print(usage())
            return 0
        commands = job_commands(argv[0], argv[1:])
        ensure(JOBS[argv[0]].extra)
        return max([run(command) for command in commands], default=0)
    except (UsageError, SetupError) as error:
        say(f"dev.py: {error}")
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        say("\ndev.py: interrupted; the same command starts again.")
        return 130


def say(text: str, end: str = "\n") -> None:
    """Write to stderr at once."""
    print(text, end=end, file=sys.stderr, flush=True)


def usage() -> str:
    """Return the list of jobs."""
    head = ["Usage: python3 dev.py JOB [ARGUMENTS]", '   or: make JOB ARGS="ARGUMENTS"', ""]
    return "\n".join([*head, *(f"  {name:<11} {job.summary}" for name, job in JOBS.items())])


def newer_python() -> "list[str]":
    """Return the command of a Python that is new enough, or raise ``UsageError``."""
    for version in TESTED:
        for command in (["python" + version], ["py", "-" + version]):
            if shutil.which(command[0]):  # it may be a shim without a Python behind it
                null = subprocess.DEVNULL
                if subprocess.call([*command, "-c", NEW_ENOUGH], stdout=null, stderr=null) == 0:
                    return command
    raise UsageError(
        "found Python {}.{} ({}), and no newer one on the PATH.\n"
        "  Why it matters: gradmend needs Python {}.{} or newer.\n"
        "  What to do: install one (from python.org or your package manager), then name it:\n"
        "  `python3.12 dev.py test`, or `make test PYTHON=python3.12`.".format(
            *sys.version_info[:2], sys.executable, *OLDEST
        )
    )


def job_commands(name: str, args: "list[str]") -> "list[list[str]]":
    """Return what .venv's Python is called with for the job ``name`` with ``args``."""
    if name not in JOBS:
        raise UsageError(f"there is no job {name!r}.\n\n{usage()}")
    args = args[1:] if args[:1] == ["--"] else args
    commands = JOBS[name].commands
    if name == "bench":
        known = sorted(path.stem for path in (ROOT / "benchmarks").glob("[!_]*.py"))
        if not args or args[0] not in known:
            found = f"no benchmark {args[0]!r}" if args else "bench without a name"
            raise UsageError("{}. There are: {}.".format(found, ", ".join(known) or "none yet"))
        commands, args = [commands[0].format(args[0])], args[1:]
    return [[*command.split(), *args] for command in commands]


def run(arguments: "list[str]") -> int:
    """Run .venv's Python on ``arguments``, as if .venv were active; return its exit status."""
    env = without_strays(os.environ)
    env["VIRTUAL_ENV"] = str(VENV)
    env["PATH"] = os.pathsep.join([str(PYTHON.parent), env.get("PATH", os.defpath)])
    status = subprocess.run([str(PYTHON), *arguments], cwd=ROOT, env=env, check=False).returncode
    return status if status >= 0 else 128 - status


def without_strays(env: "os._Environ[str] | dict[str, str]") -> "dict[str, str]":
    """Return a copy of ``env`` without the settings that point at other environments."""
    return {name: value for name, value in env.items() if name not in STRAY}


def ensure(extra: str) -> None:
    """Bring .venv up to date for ``extra``, unless its stamp says that it is."""
    if is_ready(extra):
        return
    if VENV.is_symlink() or VENV.is_file():
        raise SetupError(
            "found .venv to be a link or a file.\n"
            "  Why it matters: packages would go into an environment that is not this project's.\n"
            "  What to do: move it away; the next run builds the project's own."
        )
    say(f"Setting up .venv with gradmend[{extra}]; this is needed once.")
    env = without_strays(os.environ)
    env.pop("PYTHONDONTWRITEBYTECODE", None)  # torch, compiled once, imports 2 s faster ever after
    if PENDING.exists() or not call([str(PYTHON), "-c", "import pip; " + NEW_ENOUGH], env)[0]:
        base = getattr(sys, "_base_executable", sys.executable)
        require({"virtual environment": [base, "-m", "venv", "--clear", str(VENV)]}, env)
    PENDING.touch()
    try:
        install(extra, env)
    except SetupError:  # the installer undid what it could not finish
        PENDING.unlink()
        raise
    STAMP.write_text(f"{digest()} {extra}\n")
    PENDING.unlink()


def is_ready(extra: str) -> bool:
    """Tell whether .venv is stamped for ``extra`` as it would be set up now."""
    if PENDING.exists() or not STAMP.exists() or not PYTHON.exists():
        return False
    return STAMP.read_text().split() in [[digest(), name] for name in COVERED_BY[extra]]


def digest() -> str:
    """Return the fingerprint of what a set-up depends on: two files, and where they are."""
    parts = [(ROOT / name).read_bytes() for name in ("pyproject.toml", "constraints.txt")]
    return hashlib.sha256(b"\0".join([*parts, os.fsencode(ROOT)])).hexdigest()


def install(extra: str, env: "dict[str, str]") -> None:
    """Install uv, torch, and gradmend with ``extra`` into .venv, then look at what came."""
    env = dict(env, PIP_CONSTRAINT="constraints.txt", UV_CONSTRAINT="constraints.txt")
    python = str(PYTHON)
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    uv = [python, "-m", "uv", "pip", "install", "--quiet", "--python", python]
    has_uv = attempt("uv", [*pip, "uv"], env)[0]
    installer = uv if has_uv else pip
    env.update(uv_settings(env, call([python, "-m", "pip", "config", "list"], env)[1]))

    version = re.findall(r"^torch==([\w.]+)", (ROOT / "constraints.txt").read_text(), re.M)[0]
    present = call([python, "-c", TORCH_VERSION], env)[1].split()[-1:]  # the last word it says
    if not present or present[0].split("+")[0] != version:
        ways = torch_ways(version, has_uv, "UV_FIND_LINKS" in env)
        require({" ".join(way): [*installer, *way] for way in ways}, env)
    require({f"gradmend[{extra}]": [*installer, "-e", f".[{extra}]"]}, env)
    require({"trial import": [python, "-c", TORCH_VERSION]}, env)
    say(gpu_warning(call([python, "-c", PACKAGES], env)[1].split()), end="")


def uv_settings(env: "dict[str, str]", pip_config: str) -> "dict[str, str]":
    """Return for uv the settings that ``pip config list`` prints, save those in ``env``."""
    settings = {}  # type: dict[str, str]
    for name, text in re.findall(r"^(?:global|install|:env:)\.([\w-]+)=(.*)$", pip_config, re.M):
        value = str(ast.literal_eval(text)).strip()
        if name == "find-links":  # pip parts entries by white space, uv by commas
            value = ",".join(value.split())
        if value and name in FOR_UV and not env.get(FOR_UV[name]):
            settings.setdefault(FOR_UV[name], value)  # pip lists the environment first
    return settings


def torch_ways(version: str, has_uv: bool, has_links: bool) -> "list[list[str]]":
    """Return arguments to install torch with, the best first.

    The ordinary registry's build for Linux brings gigabytes of CUDA packages, so it comes last.
    A CPU build is named as such (``+cpu``), or chosen by uv, which looks at the graphics driver.
    """
    pin = f"torch=={version}"
    if not sys.platform.startswith("linux"):
        return [[pin]]
    from_links = [[pin] if has_gpu() else [pin + "+cpu"]] if has_links else []
    by_driver = [["--torch-backend=auto", pin]] if has_uv else []
    return [*from_links, *by_driver, [pin]]


def has_gpu() -> bool:
    """Tell whether an NVIDIA driver is at work here."""
    return bool(shutil.which("nvidia-smi")) or Path("/proc/driver/nvidia/version").exists()


def gpu_warning(packages: "list[str]") -> str:
    """Return a warning where ``packages`` has some for NVIDIA's GPUs and this machine has none."""
    unused = [name for name in packages if name.lower().startswith(GPU_PACKAGES)]
    if not unused or has_gpu():
        return ""
    return (
        f"  Found {len(unused)} packages for NVIDIA GPUs ({unused[0]}, ...), and no such GPU.\n"
        "  Why it matters: everything works, but they fill several GB.\n"
        "  What to do: put a CPU wheel of torch in a folder, remove .venv, and repeat with\n"
        "  PIP_FIND_LINKS=FOLDER; or let this machine reach PyTorch's own package index.\n"
    )


def require(ways: "dict[str, list[str]]", env: "dict[str, str]") -> None:
    """Run the titled commands until one succeeds; raise ``SetupError`` if none does."""
    title = output = ""
    for title, command in ways.items():
        done, output = attempt(title, command, env)
        if done:
            return
    hint = next(text for pattern, text in HINTS.items() if re.search(pattern, output, re.I))
    tail = "\n".join("  | " + line for line in output.splitlines()[-15:])
    raise SetupError(f"the set-up failed at: {title}.\n{tail}\n  What to do: {hint}")


def attempt(title: str, command: "list[str]", env: "dict[str, str]") -> "tuple[bool, str]":
    """Do as ``call`` does, shown on one line with the seconds it took."""
    say(f"  {title:<36}", end="")
    started = time.monotonic()
    done, output = call(command, env)
    say("{:6.1f} s{}".format(time.monotonic() - started, "" if done else "  failed"))
    return done, output


def call(command: "list[str]", env: "dict[str, str]") -> "tuple[bool, str]":
    """Run ``command`` in the root, without input; return whether it succeeded, and its output."""
    null, pipe, same = subprocess.DEVNULL, subprocess.PIPE, subprocess.STDOUT
    try:
        with subprocess.Popen(
            command, cwd=ROOT, env=env, stdin=null, stdout=pipe, stderr=same
        ) as p:
            output = p.communicate()[0].decode(errors="replace")
    except OSError as error:  # no such file: .venv is missing or broken
        return False, str(error)
    return p.returncode == 0, output


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
