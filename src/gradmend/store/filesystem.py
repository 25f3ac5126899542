"""Whether processes that share a file system share memory through it."""

from __future__ import annotations

from pathlib import Path

_SHARED_BY_MACHINES = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "lustre", "gpfs", "beegfs", "ceph", "afs", "9p", "panfs"}
    | {"pvfs2", "orangefs", "glusterfs", "ocfs2", "gfs2", "wekafs", "vboxsf", "virtiofs"}
)


def shares_memory(folder: Path, mounts: str | None = None) -> bool:
    """Whether a write-ahead log, whose index is shared memory, can be trusted on a folder.

    On a file system of several machines it seems to work, until a reader on another one misses
    rows or spoils the log.

    Args:
        folder: The folder.
        mounts: The text of ``/proc/mounts``; read where None. Without one the answer is True.
    """
    if mounts is None:
        try:
            mounts = Path("/proc/mounts").read_text(errors="replace")
        except OSError:
            return True
    folder = folder.resolve()
    best, kind = -1, ""
    for line in mounts.splitlines():
        words = line.split(" ")
        if len(words) < 3:
            continue
        point = Path(words[1].replace("\\040", " "))
        # Of two mounts on one point, the later hides the earlier.
        if folder.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), words[2]
    return kind not in _SHARED_BY_MACHINES and not kind.startswith("fuse.")
