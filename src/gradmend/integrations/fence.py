"""A fence around what a trial of a script may write: nothing outside is touched.

Python tells of what it is about to open, remove, rename or make (:pep:`578`); a path outside the
allowed folders is refused before anything has happened to it. Code that writes by itself is asked
where it is known: ``torch.save`` and ``torch.jit.save``, safetensors, h5py, OpenCV. Threads and
forked processes (the workers of a ``DataLoader``) are inside the fence. Not seen are programs that
the script starts and processes made by ``spawn``, what other compiled libraries write by themselves
(pyarrow, torchvision's codecs, a profiler's trace), and the network. A hard link made before is
followed to nowhere: only paths count, as links are resolved.
"""

from __future__ import annotations

import functools
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from gradmend.integrations.on_import import when_imported

Outside = Callable[[str, str], NoReturn]
"""Is told the path and what was to be done; does not return."""

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CACHES = (
    "XDG_CACHE_HOME", "TORCH_HOME", "HF_HOME", "MPLCONFIGDIR", "TRITON_CACHE_DIR",
    "TORCHINDUCTOR_CACHE_DIR", "NUMBA_CACHE_DIR", "CUDA_CACHE_PATH",
)  # fmt: skip
"""Where libraries keep what they can make again."""
_CACHES_AT_HOME = (".cache", ".config/matplotlib", ".matplotlib", ".triton", ".nv", ".torch")

_ONE: dict[str, tuple[int, ...]] = {
    "os.remove": (0,),
    "os.mkdir": (0,),
    "os.rmdir": (0,),
    "os.truncate": (0,),
    "os.chmod": (0,),
    "os.chown": (0,),
    "os.utime": (0,),
    "os.setxattr": (0,),
    "os.removexattr": (0,),
    "os.rename": (0, 1),
    "os.link": (1,),
    "os.symlink": (1,),
    "shutil.rmtree": (0,),
    "shutil.move": (0, 1),
    "shutil.copyfile": (1,),
    "shutil.copytree": (1,),
    "shutil.copymode": (1,),
    "shutil.copystat": (1,),
    "shutil.chown": (0,),
    "shutil.make_archive": (0,),
    "shutil.unpack_archive": (1,),
}
"""Events, and which of their arguments are paths that are written to."""
_FOLDERS: dict[str, tuple[int, ...]] = {
    "os.remove": (1,),
    "os.mkdir": (2,),
    "os.rmdir": (1,),
    "os.chmod": (2,),
    "os.chown": (3,),
    "os.utime": (3,),
    "os.rename": (2, 3),
    "os.link": (3,),
    "os.symlink": (2,),
    "shutil.rmtree": (1,),
}
"""Which arguments are the open folders that those paths are relative to."""
_ITSELF = frozenset({"os.remove", "os.rename", "os.rmdir", "os.link", "os.symlink"})
"""Events about a name, not about what a link of that name points to."""


class Fence:
    """Refuses what this process writes outside some folders, from :meth:`close_in` on, for good.

    Args:
        writable: Folders that may be written to; those of caches and temporary files are added.
        outside: Told of the first refusal; ends the process.
    """

    def __init__(self, writable: Sequence[str | Path], outside: Outside) -> None:
        home = os.path.expanduser("~")  # noqa: PTH111  # a text, which may be "~" itself
        caches = [value for name in _CACHES if (value := os.environ.get(name))]
        if os.path.isabs(home):  # noqa: PTH117
            caches += [os.path.join(home, name) for name in _CACHES_AT_HOME]  # noqa: PTH118
        places = [*map(str, writable), tempfile.gettempdir(), "/dev", "/proc", *caches]
        self._inside = tuple(os.path.realpath(place) for place in places)
        self._outside = outside
        self._ours = threading.local()

    def close_in(self) -> None:
        """Begin. A hook of this kind cannot be taken off again."""
        sys.addaudithook(self._heard)
        when_imported("torch", self._torch)
        when_imported("safetensors.torch", self._safetensors)
        when_imported("h5py", self._h5py)
        when_imported("cv2", self._cv2)

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Let this thread write anywhere for a while: our own report."""
        self._ours.on = True
        try:
            yield
        finally:
            self._ours.on = False

    def allows(self, path: str, *, itself: bool = False) -> bool:
        """Whether a path may be written to; links are resolved, but for a name's own."""
        if itself:
            folder, name = os.path.split(path.rstrip("/") or "/")
            real = os.path.join(os.path.realpath(folder), name)  # noqa: PTH118
        else:
            real = os.path.realpath(path)
        if any(real == place or real.startswith(place.rstrip("/") + "/") for place in self._inside):
            return True
        # Compiled Python files, which Python itself keeps beside the sources.
        return f"{os.sep}__pycache__{os.sep}" in f"{real}{os.sep}"

    def _heard(self, event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = (*args, None, None, None)[:3]
            writing = isinstance(flags, int) and flags & _WRITES
            if isinstance(mode, str) and not isinstance(flags, int):
                writing = any(letter in mode for letter in "wax+")
            if writing:
                self._check(path, -1, "open")
        elif event in _ONE:
            folders = _FOLDERS.get(event, ())
            for number, at in enumerate(_ONE[event]):
                where = folders[number] if number < len(folders) else len(args)
                folder = args[where] if where < len(args) else -1
                if at < len(args):
                    self._check(args[at], folder, event)
        elif event == "sqlite3.connect" and args:
            self._sqlite(args[0])

    def _sqlite(self, database: Any) -> None:
        text = _text(database)
        if text is None or text in ("", ":memory:"):
            return
        if text.startswith("file:"):
            body, _, query = text[5:].partition("?")
            if any(word in query for word in ("mode=ro", "mode=memory", "immutable=1")):
                return
            text = "/" + body.lstrip("/") if body.startswith("//") else body
        self._check(text, -1, "sqlite3.connect")

    def _check(self, path: Any, folder: Any, what: str) -> None:
        text = _text(path)
        if text is None or getattr(self._ours, "on", False):
            return
        if isinstance(folder, int) and folder >= 0 and not text.startswith("/"):
            text = os.path.join(os.path.realpath(f"/proc/self/fd/{folder}"), text)  # noqa: PTH118
        if not self.allows(text, itself=what in _ITSELF):
            self._outside(os.path.abspath(text), what)  # noqa: PTH100

    # ---- what writes by itself

    def _ask(self, holder: Any, name: str, *, at: int = 0, keys: tuple[str, ...] = ()) -> None:
        original = getattr(holder, name, None)
        if original is None:
            return

        @functools.wraps(original)
        def ours(*args: Any, **kwargs: Any) -> Any:
            path = args[at] if len(args) > at else next((kwargs[k] for k in keys if k in kwargs), 0)
            self._check(path, -1, name)
            return original(*args, **kwargs)

        setattr(holder, name, ours)

    def _torch(self) -> None:
        import torch

        self._ask(torch.serialization, "_open_zipfile_writer", keys=("name_or_buffer",))
        self._ask(torch.jit, "save", at=1, keys=("f",))
        self._ask(torch.jit.ScriptModule, "save", at=1, keys=("f",))
        self._ask(torch.jit._script.RecursiveScriptModule, "save", at=1, keys=("f",))

    def _safetensors(self) -> None:
        import safetensors.torch  # type: ignore[import-not-found,unused-ignore]

        self._ask(safetensors.torch, "serialize_file", at=1, keys=("filename",))

    def _h5py(self) -> None:
        import h5py  # type: ignore[import-not-found,import-untyped,unused-ignore]

        original = h5py.File.__init__

        @functools.wraps(original)
        def ours(file: Any, name: Any, mode: str = "r", *args: Any, **kwargs: Any) -> None:
            if mode != "r":
                self._check(name, -1, "h5py.File")
            original(file, name, mode, *args, **kwargs)

        h5py.File.__init__ = ours

    def _cv2(self) -> None:
        import cv2  # type: ignore[import-not-found,import-untyped,unused-ignore]

        self._ask(cv2, "imwrite", keys=("filename",))


def _text(path: Any) -> str | None:
    """A path as text; ``None`` for a number (an open file), and for what is no path."""
    if isinstance(path, bool | int) or path is None:
        return None
    try:
        return os.fsdecode(path)
    except TypeError:
        return None
