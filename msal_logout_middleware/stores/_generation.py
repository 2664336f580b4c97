"""The word in shared memory that tells all processes of a machine whether a session has ended since they looked.

It is 8 bytes of a file beside the database, which every process maps. A reader looks at it for each request.

1. Counting it up from several processes would lose counts, and a writer killed after its commit would leave the
   old number, which says that nothing happened. So it is *pending* from before each commit until after it: a
   reader that sees that asks the database.
2. The number is made of the database's epoch and the sequence number of the ending: equal numbers mean the same
   endings of the same database. The zeros of a new file are pending, too.
3. From the pending value to the number a writer holds the file's lock. SQLite's own lock is free after the commit:
   without this one, the late number of one writer could lie over the pending value of the next.
4. Who gets that lock while the word is pending finds what a killed writer left, and puts the number right.
5. The file is never made shorter: a process that reads beyond the end of a mapped file is killed by the kernel.
"""

from __future__ import annotations

import mmap
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import NamedTuple

if sys.platform != "win32":
    import fcntl

SUPPORTED = sys.platform != "win32"
"""Whether files can be locked and mapped here as this needs it."""

IDENTITY_SECONDS = 1.0
"""For how long, at most, a process goes on with the map of a file that was replaced."""

_IS_NUMBER = 1 << 63
_BYTES = 8
_POLL_SECONDS = 0.0005


def number_of(epoch: str, sequence: int) -> int:
    """Return the number of a state of a database: another one for each sequence number, and for each epoch."""
    return (int(epoch, 16) + sequence) % _IS_NUMBER | _IS_NUMBER


class _File(NamedTuple):
    """What tells a file from another that takes its place."""

    device: int
    inode: int


class _Map(NamedTuple):
    """The word as a process has it mapped, and the files that it is of."""

    words: memoryview
    word_file: _File
    database_file: _File


class Generation:
    """The word of one database, as one process reads and writes it.

    Args:
        database: The database's file. The word is beside it, under its real name.
    """

    def __init__(self, database: Path) -> None:
        self._database = database
        self._map: _Map | None = None
        self._words = memoryview(bytes(_BYTES)).cast("Q")
        self._good_until = -1.0

    def read(self) -> int | None:
        """Return the number; `None` while it is pending, there is none yet, or a file was replaced."""
        if monotonic() > self._good_until and not self._is_good():
            return None
        word = self._words[0]
        return word if word >= _IS_NUMBER else None

    @contextmanager
    def changing(self, number: int, *, wait_seconds: float) -> Iterator[None]:
        """Make the word pending for the time of a commit, and write the number after it.

        If the commit fails, the word stays pending: nobody knows how much of it was done.

        Raises:
            OSError: The file cannot be opened.
            TimeoutError: Another process has the lock.
        """
        if not SUPPORTED:
            yield
            return
        with self._locked(wait_seconds) as words:
            _write(words, secrets.randbelow(_IS_NUMBER))
            yield
            _write(words, number)

    def heal(self, read_number: Callable[[], int]) -> None:
        """Write the number that a killed writer left out, or that nobody has written yet.

        Args:
            read_number: Reads the number from the database. Nothing ends meanwhile.

        Raises:
            OSError: The file cannot be opened, or somebody is about to write the number.
        """
        if SUPPORTED and self.read() is None:
            with self._locked(wait_seconds=0.0) as words:
                _write(words, read_number())

    def close(self) -> None:
        """Let go of the map; the next reader makes it anew."""
        self._good_until = -1.0
        self._words = memoryview(bytes(_BYTES)).cast("Q")
        self._map = None

    def _is_good(self) -> bool:
        """Tell whether the mapped files are still those at their paths; if not, map what is there now."""
        if not SUPPORTED:
            return False
        old = self._map
        new = old if old and self._files() == (old.word_file, old.database_file) else self._mapped()
        if new is None:
            self.close()
            return False
        self._map, self._words = new, new.words
        self._good_until = monotonic() + IDENTITY_SECONDS
        return old is None or new is old  # else what the reader knows may be of another database

    def _mapped(self) -> _Map | None:
        try:
            with self._path().open("r+b", buffering=0) as word:
                files = self._files()
                if files is None or files[0] != _file(os.fstat(word.fileno())):
                    return None
                return _Map(_map(word.fileno()), *files)
        except (OSError, ValueError):  # it is not there, or was cut meanwhile
            return None

    def _files(self) -> tuple[_File, _File] | None:
        """Name the files at the paths: the word's and the database's; `None` if one is not there, or too short."""
        try:
            word, database = self._path().stat(), self._database.stat()
        except OSError:
            return None
        return (_file(word), _file(database)) if word.st_size >= _BYTES else None

    def _path(self) -> Path:
        """Name the word's file. Links to the database lead to one word."""
        return Path(f"{os.path.realpath(self._database)}-generation")

    @contextmanager
    def _locked(self, wait_seconds: float) -> Iterator[memoryview]:
        descriptor = self._open_locked(monotonic() + wait_seconds)
        try:
            if os.fstat(descriptor).st_size < _BYTES:  # no hole, for which a full disk has no room later
                os.pwrite(descriptor, bytes(_BYTES), 0)
            yield _map(descriptor)
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # closing alone is not enough if the process has forked
            os.close(descriptor)

    def _open_locked(self, deadline: float) -> int:
        """Open the word's file, made if it is not there, and lock it."""
        path = self._path()
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            locked = False
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                locked = _file(os.fstat(descriptor)) == _file(path.stat())  # it was not replaced meanwhile
            except (BlockingIOError, FileNotFoundError):
                pass
            finally:
                if not locked:
                    os.close(descriptor)
            if locked:
                return descriptor
            if monotonic() >= deadline:
                raise TimeoutError
            time.sleep(_POLL_SECONDS)


def _file(status: os.stat_result) -> _File:
    return _File(status.st_dev, status.st_ino)


def _map(descriptor: int) -> memoryview:
    return memoryview(mmap.mmap(descriptor, _BYTES)).cast("Q")


def _write(words: memoryview, value: int) -> None:
    words[0] = value  # one store of 8 aligned bytes: nobody reads half of it
