"""Which files are on another machine's disk, as Linux tells."""

from __future__ import annotations

import os
import re
from pathlib import Path

NETWORK_FILESYSTEMS = frozenset(
    {
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "afs", "coda", "9p"),
        *("ceph", "glusterfs", "lustre", "gpfs", "beegfs", "orangefs", "pvfs2", "gfs2", "ocfs2"),
        *("fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.ceph-fuse", "fuse.cifs", "fuse.nfs"),
        *("fuse.s3fs", "fuse.gcsfuse", "fuse.rclone", "fuse.davfs", "fuse.curlftpfs"),
    }
)

_MOUNTS = Path("/proc/self/mountinfo")


def network_filesystem(path: Path) -> str | None:
    """Return the type of the filesystem that a file is on if it is one of another machine's.

    Args:
        path: The file, there or not. Links are followed.

    Returns:
        `None` for a local filesystem, and where the system has no list of mounts.
    """
    try:
        mounts = _MOUNTS.read_text("utf-8", "surrogateescape")
    except OSError:
        return None
    filesystem = filesystem_of(Path(os.path.realpath(path)), mounts)
    return filesystem if filesystem in NETWORK_FILESYSTEMS else None


def filesystem_of(path: Path, mounts: str) -> str | None:
    """Return the type of the filesystem that a file is on.

    Args:
        path: Its real, absolute path.
        mounts: The text of `/proc/self/mountinfo` (proc(5)). Of two mounts on one point the later is on top.
    """
    found: tuple[int, str] | None = None
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        point = Path(_unescaped(before.split(" ")[4]))
        depth = len(point.parts)
        if path.is_relative_to(point) and (found is None or depth >= found[0]):
            found = depth, after.split(" ")[0]
    return found and found[1]


def _unescaped(text: str) -> str:
    """Undo the octal escapes of blanks in a mount point."""
    return re.sub(r"\\([0-7]{3})", lambda escape: chr(int(escape[1], 8)), text)
