"""Which files are on another machine's disk, and that no database is put there."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from msal_logout_middleware.errors import StoreError
from msal_logout_middleware.stores import _mounts as mounts_module
from msal_logout_middleware.stores._mounts import NETWORK_FILESYSTEMS, filesystem_of
from msal_logout_middleware.stores.sqlite import SQLiteStore

MOUNTS = """\
21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
22 21 0:5 / /dev rw - devtmpfs udev rw
31 21 0:40 / /srv/shared rw,relatime shared:7 master:2 - nfs4 files:/srv rw,vers=4.2
32 31 8:2 / /srv/shared/local rw,relatime - xfs /dev/sdb1 rw
33 21 0:41 / /srv/with\\040blank rw - cifs //files/share rw
34 21 8:3 / /over rw - ext4 /dev/sdc1 rw
35 34 0:42 / /over rw - fuse.sshfs me@files: rw
"""


@pytest.fixture
def mounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The list of mounts, to be written."""
    file = tmp_path / "mountinfo"
    monkeypatch.setattr(mounts_module, "_MOUNTS", file)
    return file


@pytest.mark.parametrize(
    ("path", "filesystem"),
    [
        ("/", "ext4"),
        ("/srv", "ext4"),
        ("/srv/shared", "nfs4"),
        ("/srv/shared/deep/inside", "nfs4"),
        ("/srv/shared-not", "ext4"),
        ("/srv/shared/local/x", "xfs"),
        ("/srv/with blank", "cifs"),
        ("/over/x", "fuse.sshfs"),
    ],
)
def test_file_is_on_the_innermost_and_last_mount(path: str, filesystem: str) -> None:
    assert filesystem_of(Path(path), MOUNTS) == filesystem


@pytest.mark.parametrize("filesystem", sorted(NETWORK_FILESYSTEMS))
def test_database_on_a_network_mount_is_refused_at_the_first_use_and_nothing_is_made(
    mounts: Path, tmp_path: Path, filesystem: str
) -> None:
    folder = tmp_path / "mounted"
    folder.mkdir()
    mounts.write_text(MOUNTS + f"40 21 0:50 / {folder} rw - {filesystem} files: rw\n")
    store = SQLiteStore(folder / "logout.db")
    with pytest.raises(StoreError, match=rf"network mount \({filesystem}\).* local disk"):
        store.load("alice")
    assert list(folder.iterdir()) == []
    assert store.network_mount() == filesystem
    assert store.generation() is None


def test_link_to_a_network_mount_is_refused(mounts: Path, tmp_path: Path) -> None:
    (tmp_path / "mounted").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "mounted")
    mounts.write_text(MOUNTS + f"40 21 0:50 / {tmp_path}/mounted rw - nfs files: rw\n")
    assert SQLiteStore(tmp_path / "link" / "logout.db").network_mount() == "nfs"


def test_database_that_is_a_link_to_a_network_mount_is_refused(mounts: Path, tmp_path: Path) -> None:
    (tmp_path / "mounted").mkdir()
    (tmp_path / "logout.db").symlink_to(tmp_path / "mounted" / "logout.db")
    mounts.write_text(MOUNTS + f"40 21 0:50 / {tmp_path}/mounted rw - nfs files: rw\n")
    assert SQLiteStore(tmp_path / "logout.db").network_mount() == "nfs"


def test_local_mount_inside_a_network_mount_is_local(mounts: Path, tmp_path: Path) -> None:
    mounts.write_text(f"1 0 0:1 / / rw - nfs files: rw\n2 1 8:1 / {tmp_path} rw - ext4 /dev/sda1 rw\n")
    with contextlib.closing(SQLiteStore(tmp_path / "logout.db")) as store:
        assert store.network_mount() is None
        assert store.replace("alice", "", b"1")


def test_system_without_a_list_of_mounts_is_taken_at_its_word(mounts: Path, tmp_path: Path) -> None:
    assert not mounts.exists()
    with contextlib.closing(SQLiteStore(tmp_path / "logout.db")) as store:
        assert store.network_mount() is None
        assert store.replace("alice", "", b"1")
