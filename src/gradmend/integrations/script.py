"""Runs somebody's Python script in this process, as if Python itself had been asked to.

Output, exit status, signals, ``sys.argv``, ``sys.path``, ``__main__``, the working folder, random
numbers, tracebacks and the order of exit handlers are those of ``python train.py ARGS``. Signal
handlers are left alone: SIGTERM kills the process as ever, and what was not yet written is lost.

What remains different: the stack has frames of ours below the script's (seen by
``traceback.print_stack``, a warning whose ``stacklevel`` reaches beyond the script, and a crash
dump); ``sys.orig_argv`` tells how the process was really started; and the standard library's
modules that we use are imported already, so a file of the script's folder that bears the name of
one (``random.py``) does not hide it.
"""

from __future__ import annotations

import builtins
import contextlib
import importlib.machinery
import importlib.util
import marshal
import os
import pkgutil
import runpy
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import CodeType, ModuleType, TracebackType
from typing import Any

from gradmend.errors import BadInput
from gradmend.integrations.ending import Outcome, conclude, finish

__all__ = ["Outcome", "finish", "run_script"]

_NOT_RUN = "nothing was run"
_FILE_OR_MODULE = "name a Python file, or a module after -m"


@dataclass(frozen=True)
class _Target:
    """Something Python can run: code of a file, or what :mod:`runpy` finds."""

    argv0: str
    path0: str | None  # None: sys.path stays as it is
    loader: Any = None
    code: CodeType | None = None
    filename: str = ""
    module: str = ""


def run_script(
    target: str,
    arguments: Sequence[str],
    *,
    as_module: bool = False,
    before: Callable[[], None] | None = None,
    after_error: Callable[[BaseException], str] | None = None,
    at_end: Callable[[Outcome], int | None],
) -> Outcome:
    """Run a script as ``__main__`` and say how it ended; :func:`finish` then ends the process.

    Meant for the main thread of a process that does nothing else afterwards: ``sys.argv``,
    ``sys.path[0]`` and ``sys.modules["__main__"]`` are the script's from here on. Call it outside
    any ``except``, or the script's exceptions get the one being handled as their context.

    Args:
        target: File, folder or zip file with ``__main__.py``, or a module's name.
        arguments: The script's own, without its name.
        as_module: ``target`` is a module, as after ``python -m``.
        before: Called when the target is known to be runnable, just before its code runs. What
            it raises is raised, and the script is not run.
        after_error: Called with an exception that ended the script, after its traceback was
            shown; what it returns is printed below, on stderr. Not called for ``SystemExit`` and
            ``KeyboardInterrupt``.
        at_end: Called when the script's code has ended, before threads are waited for and exit
            handlers run. A status that it returns is the outcome's if the script's was 0.

            An ``Exception`` of the last two is told in one line on stderr. Neither is called
            where the code never began (a syntax error), nor in a forked child that comes back.

    Returns:
        The outcome; the script's own message or traceback has been shown.

    Raises:
        BadInput: If there is nothing to run; nothing was run then.
    """
    try:
        found = _module(target) if as_module else _path(target)
    except (SyntaxError, RecursionError, MemoryError) as refused:  # by the compiler
        return conclude(refused.with_traceback(None))
    if before is not None:
        before()
    process = os.getpid()
    main = _become(found, arguments)
    if found.code is not None:
        error = _caught(partial(exec, found.code, vars(main)))
        _flush()
    else:
        run_module = runpy._run_module_as_main  # type: ignore[attr-defined]
        error = _caught(partial(run_module, found.module, as_module))
    outcome = conclude(error)
    if found.code is not None and outcome.how != "exited":
        for name in ("__file__", "__cached__"):  # exit handlers do not see them: Python's own way
            vars(main).pop(name, None)
    if os.getpid() != process:
        return outcome
    _flush()
    if outcome.how == "raised" and after_error is not None and error is not None:
        told = _guarded(partial(after_error, error))
        if told:
            _guarded(partial(_print, told))
    status = _guarded(partial(at_end, outcome))
    if outcome.status == 0 and status:
        return Outcome(status, outcome.how, outcome.error)
    return outcome


def _module(name: str) -> _Target:
    top, _, rest = name.partition(".")
    kept = list(sys.path)
    path0 = None if sys.flags.safe_path else str(Path.cwd())
    _set_path0(path0)
    try:
        spec = importlib.util.find_spec(top) if top else None
    except (ImportError, AttributeError, ValueError):  # odd, but not ours to refuse
        return _Target("-m", path0, module=name)
    finally:
        sys.path[:] = kept
    if spec is None:
        raise BadInput(f"there is no module '{top or name}'", _NOT_RUN, _elsewhere(name))
    if rest and spec.submodule_search_locations is None:
        raise BadInput(
            f"'{top}' is a module and no package, so there is no '{name}'",
            _NOT_RUN,
            f"leave -m out to run the file {name}" if rest == "py" else "name another module",
        )
    return _Target("-m", path0, module=name)


def _elsewhere(name: str) -> str:
    if Path(name).exists():
        return f"leave -m out to run the file {name}"
    return "run where it can be imported"


def _path(target: str) -> _Target:
    if not target or not os.path.lexists(target):
        known = f"{target}.py" if Path(f"{target}.py").is_file() else ""
        todo = f"did you mean {known}?" if known else _FILE_OR_MODULE
        raise BadInput(f"there is no file '{target}'", _NOT_RUN, todo)
    # As given, unlike pathlib's: Python leaves "./" and ".." in __file__ and in tracebacks.
    filename = os.getcwd() if target == "." else os.path.join(os.getcwd(), target)  # noqa: PTH109, PTH118
    importer: Any = pkgutil.get_importer(filename)
    if importer is not None:  # a folder or a zip file
        try:
            spec = importer.find_spec("__main__")
        except SyntaxError:  # a zip file's importer compiles at once; runpy will show the error
            spec = target
        if spec is None:
            raise BadInput(f"{target} holds no __main__.py", _NOT_RUN, _FILE_OR_MODULE)
        return _Target(target, filename, module="__main__")
    try:
        data = Path(filename).read_bytes()
    except OSError as error:
        raise BadInput(
            f"{target} cannot be read ({error.strerror})", _NOT_RUN, _FILE_OR_MODULE
        ) from None
    loaders = importlib.machinery
    code: CodeType
    loader: Any
    if data.startswith(importlib.util.MAGIC_NUMBER):
        loader = loaders.SourcelessFileLoader("__main__", filename)
        code = marshal.loads(data[16:])  # after the header of PEP 552
    else:
        loader = loaders.SourceFileLoader("__main__", filename)
        code = _compiled(target, filename, data)
    folder = str(Path(filename).resolve().parent)
    path0 = None if sys.flags.safe_path else folder
    return _Target(target, path0, loader=loader, code=code, filename=filename)


def _compiled(target: str, filename: str, data: bytes) -> CodeType:
    foreign = ""
    try:
        importlib.util.decode_source(data)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        foreign = f"line {line} holds a byte that is not {error.encoding}"
    except SyntaxError as error:  # of the line that names the encoding
        foreign = error.msg
    if b"\0" in data:
        foreign = "it holds a null byte"
    if foreign:
        raise BadInput(f"{target} is not Python source: {foreign}", _NOT_RUN, _FILE_OR_MODULE)
    return compile(data, filename, "exec", dont_inherit=True)


def _become(target: _Target, arguments: Sequence[str]) -> ModuleType:
    """Make this process look as Python does before it runs the first line of the target."""
    main = ModuleType("__main__")
    names = vars(main)
    names["__loader__"] = target.loader or importlib.machinery.BuiltinImporter
    if "__annotations__" in vars(sys.modules["__main__"]):  # until Python 3.13
        names["__annotations__"] = {}
    names["__builtins__"] = builtins
    if target.code is not None:
        names["__file__"] = target.filename
        names["__cached__"] = None
    sys.modules["__main__"] = main
    sys.argv[:] = [target.argv0, *arguments]
    _set_path0(target.path0)
    # Our own frames must not shorten the script's recursion; Python 3.11 counts exec, too.
    ours = _depth() + (sys.version_info < (3, 12))
    sys.setrecursionlimit(sys.getrecursionlimit() + ours)
    return main


def _set_path0(path0: str | None) -> None:
    """Replace the folder that Python put first for the command which started this process."""
    if not sys.flags.safe_path:
        del sys.path[:1]
    if path0 is not None:
        sys.path.insert(0, path0)


def _depth() -> int:
    frame, depth = sys._getframe(), 0
    while frame.f_back is not None:
        frame, depth = frame.f_back, depth + 1
    return depth


def _caught(run: Callable[[], None]) -> BaseException | None:
    """What ``run`` raises, with a traceback that knows nothing of this file."""
    try:
        run()
    except BaseException as error:
        trace: TracebackType | None = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
            trace = trace.tb_next
        return error.with_traceback(trace)
    return None


def _guarded(hook: Callable[[], Any]) -> Any:
    """Call one of our own hooks: its failure is a line on stderr, nothing else."""
    try:
        return hook()
    except KeyboardInterrupt:  # of a summary only: the script has ended
        return None
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        with contextlib.suppress(Exception):  # nobody may be left to tell
            _print(f"gradmend: its report failed, the script did not ({text})")
        return None


def _print(text: str) -> None:
    if sys.stderr is not None:  # print would take stdout instead
        print(text, file=sys.stderr, flush=True)


def _flush() -> None:
    """What Python does after a script's last line; a broken pipe shows up later, as it does."""
    for stream in (sys.stderr, sys.stdout):
        with contextlib.suppress(Exception):
            stream.flush()
