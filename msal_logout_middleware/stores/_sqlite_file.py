"""The file of `SQLiteStore`: its schema, and the connections of one process to it.

1. A connection is in the hands of one thread at a time, and of no other process: SQLite loses committed
   changes when a connection is open while the process forks, so all of them are closed before.
2. What is deleted is overwritten (`secure_delete`), and what is committed is on the disk (`synchronous`).
3. A file that was replaced is noticed when a connection is lent.
"""

from __future__ import annotations

import logging
import os
import secrets
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from ..errors import StoreError
from ._keys import NOT_UNICODE
from ._mounts import network_filesystem

logger = logging.getLogger("msal_logout_middleware")

_APPLICATION_ID = 0x4D4C4D57  # "MLMW": tells our files from other people's
_SCHEMA_VERSION = 1
_STRICT = "STRICT" if sqlite3.sqlite_version_info >= (3, 37) else ""
_WITHOUT_ROWID = ", ".join(filter(None, ["WITHOUT ROWID", _STRICT]))

_SCHEMA = (
    f"""CREATE TABLE meta (
        one INTEGER PRIMARY KEY CHECK (one = 1), epoch TEXT NOT NULL, sequence INTEGER NOT NULL) {_STRICT}""",
    f"""CREATE TABLE token_caches (
        key TEXT NOT NULL PRIMARY KEY, data BLOB, version TEXT NOT NULL, expires_at REAL NOT NULL) {_STRICT}""",
    "CREATE INDEX token_caches_by_expiry ON token_caches (expires_at)",
    f"""CREATE TABLE records (
        handle TEXT NOT NULL PRIMARY KEY, session TEXT NOT NULL, keys TEXT NOT NULL, issued_at REAL NOT NULL,
        data BLOB NOT NULL, expires_at REAL NOT NULL) {_STRICT}""",
    "CREATE INDEX records_by_session ON records (session)",
    "CREATE INDEX records_by_expiry ON records (expires_at)",
    f"""CREATE TABLE record_keys (
        key TEXT NOT NULL, handle TEXT NOT NULL, PRIMARY KEY (key, handle)) {_WITHOUT_ROWID}""",
    "CREATE INDEX record_keys_by_handle ON record_keys (handle)",
    """CREATE TRIGGER record_deleted AFTER DELETE ON records
        BEGIN DELETE FROM record_keys WHERE handle = OLD.handle; END""",
    f"""CREATE TABLE marks (
        kind TEXT NOT NULL CHECK (kind IN ('handle', 'session', 'key')), value TEXT NOT NULL,
        before REAL NOT NULL, sequence INTEGER NOT NULL, expires_at REAL NOT NULL,
        PRIMARY KEY (kind, value)) {_WITHOUT_ROWID}""",
    "CREATE UNIQUE INDEX marks_by_sequence ON marks (sequence)",
    "CREATE INDEX marks_by_expiry ON marks (expires_at)",
    f"CREATE TABLE jtis (key TEXT NOT NULL PRIMARY KEY, expires_at REAL NOT NULL) {_WITHOUT_ROWID}",
    "CREATE INDEX jtis_by_expiry ON jtis (expires_at)",
    f"""CREATE TABLE journal (
        id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, work BLOB NOT NULL,
        leased_at REAL NOT NULL, leased_until REAL NOT NULL) {_STRICT}""",
    "CREATE INDEX journal_by_lease ON journal (leased_until)",
    f"""CREATE TABLE journal_data (
        journal INTEGER NOT NULL, number INTEGER NOT NULL, data BLOB NOT NULL,
        PRIMARY KEY (journal, number)) {_WITHOUT_ROWID}""",
    """CREATE TRIGGER journal_deleted AFTER DELETE ON journal
        BEGIN DELETE FROM journal_data WHERE journal = OLD.id; END""",
)


class FileConnection(sqlite3.Connection):
    """A connection that knows the device and inode of the file that it is open on."""

    file: tuple[int, int] | None = None

    def __del__(self) -> None:
        """Close what nobody has closed: everything is committed, and Python 3.13 would warn of it."""
        with suppress(sqlite3.Error):  # it was never opened
            self.close()


class _Connection(NamedTuple):
    """A connection, and the opening of the store it is of."""

    sqlite: FileConnection
    opening: int


class Database:
    """The connections of one process to the file, each lent to one thread at a time.

    Args:
        path: The file.
        busy_timeout_seconds: How long a thread waits for another's write, and again for another process's.
    """

    def __init__(self, path: Path, busy_timeout_seconds: float) -> None:
        self._path = path
        self._busy_timeout = busy_timeout_seconds
        self._inherited = False
        self._was_there = False
        self._start()
        _databases.add(self)

    def _start(self) -> None:
        self._pid = os.getpid()
        self._opening = 0
        self._idle: list[_Connection] = []
        self._lent = 0
        self._pool = threading.Condition()
        self._writer = threading.Lock()  # threads wait here fairly; SQLite's own waiting is by polling

    @contextmanager
    def reading(self) -> Iterator[FileConnection]:
        """Lend a connection for one consistent view.

        Raises:
            StoreError: The database cannot be read.
        """
        with self._connected() as connection:
            connection.execute("BEGIN")
            yield connection
            connection.execute("COMMIT")

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Lend a connection for one transaction; it is committed at the end, or undone if anything is raised.

        Raises:
            StoreError: The database cannot be written.
        """
        self._notice_fork()
        writer = self._writer
        if not writer.acquire(timeout=self._busy_timeout):
            raise StoreError(self._sentence(sqlite3.SQLITE_BUSY))
        try:
            with self._connected() as connection:
                connection.execute("BEGIN IMMEDIATE")
                yield connection
                connection.execute("COMMIT")
        finally:
            writer.release()

    def empty_log(self) -> None:
        """Move SQLite's write-ahead log into the database, as far as readers let it, and empty it."""
        with self._connected() as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def close(self) -> None:
        """Close what is idle now, and what is lent as soon as it comes back."""
        self._notice_fork()
        with self._pool:
            self._opening += 1
            self._close_idle()

    @contextmanager
    def _connected(self) -> Iterator[FileConnection]:
        self._notice_fork()
        with self._pool:
            self._lent += 1
            opening = self._opening
            idle = self._idle.pop() if self._idle else None
        connection: _Connection | None = None
        sound = False
        try:
            connection = self._still_good(idle) or self._open(opening)
            yield connection.sqlite
            sound = True
        except sqlite3.Error as error:
            raise StoreError(self._sentence(getattr(error, "sqlite_errorcode", 0))) from error
        except UnicodeEncodeError:
            raise ValueError(NOT_UNICODE) from None
        finally:
            self._take_back(connection, sound=sound)

    def _take_back(self, connection: _Connection | None, *, sound: bool) -> None:
        with self._pool:
            self._lent -= 1
            self._pool.notify_all()
            if connection is None:
                return
            if sound and connection.opening == self._opening:
                self._idle.append(connection)
            else:
                connection.sqlite.close()  # and what it had not committed is undone

    def _close_idle(self) -> None:
        while self._idle:
            self._idle.pop().sqlite.close()

    def _still_good(self, connection: _Connection | None) -> _Connection | None:
        """Return a connection if the file that it is open on is still the one at the path."""
        if connection is None:
            return None
        file = self._file()
        if file is not None and connection.sqlite.file == file:
            return connection
        connection.sqlite.close()
        return None

    def _file(self) -> tuple[int, int] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def _open(self, opening: int) -> _Connection:
        filesystem = network_filesystem(self._path)
        if filesystem is not None:
            raise StoreError(
                f"the store's database {self._path} is on a network mount ({filesystem}), which other machines may"
                " write as well: put it on a local disk"
            )
        try:
            self._make_file()
        except OSError as error:
            raise StoreError(self._sentence(sqlite3.SQLITE_CANTOPEN)) from error
        file = self._file()
        sqlite = sqlite3.connect(
            self._path,
            timeout=self._busy_timeout,
            isolation_level=None,
            check_same_thread=False,
            factory=FileConnection,
        )
        sqlite.file = file
        try:
            self._prepare(sqlite)
        except BaseException:
            sqlite.close()
            raise
        self._was_there = True
        return _Connection(sqlite, opening)

    def _make_file(self) -> None:
        """Make the file if it is not there, readable by its owner only; SQLite gives its log the same mode."""
        if not self._path.parent.is_dir():
            raise StoreError(
                f"the folder of the store's database, {self._path.parent}, does not exist:"
                " make it, writable by the app"
            )
        # A log without its database would be taken for the new one's.
        logs = [log for log in (Path(f"{self._path}-wal"), Path(f"{self._path}-shm")) if log.exists()]
        if logs and not self._path.exists():
            raise StoreError(
                f"the store's database {self._path} was deleted and its log was not: put the database back,"
                f" or remove {' and '.join(map(str, logs))} as well"
            )
        file = self._path.resolve()  # a link that leads nowhere yet is one that SQLite would follow
        try:
            os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        except FileExistsError:
            if file.stat().st_size == 0:
                file.chmod(0o600)
            return
        if self._was_there:
            logger.warning(
                "the store's database %s was deleted: a new, empty one takes its place", self._path
            )

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA secure_delete = ON")
        version = self._schema_version(connection)
        self._enter_wal(connection)
        if version == _SCHEMA_VERSION:
            return
        connection.execute("BEGIN IMMEDIATE")
        if self._schema_version(connection) == 0:  # nobody else was quicker
            for statement in _SCHEMA:
                connection.execute(statement)
            connection.execute("INSERT INTO meta VALUES (1, ?, 0)", (secrets.token_hex(16),))
            connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
        connection.execute("COMMIT")

    def _schema_version(self, connection: sqlite3.Connection) -> int:
        """Return the schema's version, 0 for an empty file; refuse what is not ours, or of a later day."""
        application, version, tables = connection.execute(
            """SELECT (SELECT application_id FROM pragma_application_id),
                (SELECT user_version FROM pragma_user_version), (SELECT count(*) FROM sqlite_master)"""
        ).fetchone()
        if application != _APPLICATION_ID and (application, version, tables) != (0, 0, 0):
            raise StoreError(
                f"{self._path} is another application's database: give the store a file of its own"
            )
        if version > _SCHEMA_VERSION:
            raise StoreError(
                f"the store's database {self._path} was made by a newer msal_logout_middleware: upgrade this one"
            )
        return int(version)

    def _enter_wal(self, connection: sqlite3.Connection) -> None:
        """Switch to the write-ahead log; SQLite does not wait when several connections switch at once."""
        deadline = time.monotonic() + self._busy_timeout
        while True:
            try:
                (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.005)  # in a worker thread, or a WSGI app's: SQLite tells no event to wait for
                continue
            if mode != "wal":
                raise StoreError(
                    f"the store's database {self._path} cannot have a write-ahead log: put it on a local disk"
                )
            return

    def _sentence(self, code: int) -> str:
        what = _WHAT_IS_WRONG.get(code & 0xFF, f"did not do what it was asked for (SQLite's error {code})")
        return f"the store's database {self._path} {what}"

    # A process that forks

    def _notice_fork(self) -> None:
        if self._pid != os.getpid():  # forked by a server written in C, which did not tell Python before
            self.after_fork_in_child()
        if self._inherited:
            raise StoreError(
                f"the store's database {self._path} was open when this process was forked, which may lose what"
                " it writes: close() the store before the fork, or make it after"
            )

    def before_fork(self) -> None:
        """Close all connections, and keep them closed until the process has forked."""
        self._pool.acquire()
        self._pool.wait_for(lambda: self._lent == 0, timeout=2 * self._busy_timeout)
        self._close_idle()

    def after_fork_in_parent(self) -> None:
        """Go on."""
        self._pool.release()

    def after_fork_in_child(self) -> None:
        """Start anew, unless a connection was inherited, which can be neither used nor closed."""
        if self._idle or self._lent:
            self._inherited = True
            _inherited_connections.extend(self._idle)
        self._start()


_WHAT_IS_WRONG = {
    sqlite3.SQLITE_BUSY: "is locked by another worker for too long",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened: the app must be allowed to write the file and its folder",
    sqlite3.SQLITE_CORRUPT: "is damaged: put a backup in its place, or remove it and every session ends",
    sqlite3.SQLITE_FULL: "cannot grow: the disk is full",
    sqlite3.SQLITE_IOERR: "cannot be read or written: the disk fails, or is full",
    sqlite3.SQLITE_LOCKED: "is locked by another worker for too long",
    sqlite3.SQLITE_NOTADB: "is not an SQLite database: give the store a file of its own",
    sqlite3.SQLITE_PERM: "cannot be opened: the app must be allowed to write the file and its folder",
    sqlite3.SQLITE_READONLY: "is read-only: the app must be allowed to write the file and its folder",
}

_databases: weakref.WeakSet[Database] = weakref.WeakSet()


class _Forking(threading.local):
    """The databases that are closed while this thread forks; another one may fork at the same time."""

    def __init__(self) -> None:
        self.databases: list[Database] = []


_forking = _Forking()
_inherited_connections: list[_Connection] = []


def _before_fork() -> None:
    for database in sorted(_databases, key=id):  # by all threads in one order
        database.before_fork()
        _forking.databases.append(database)


def _after_fork_in_parent() -> None:
    while _forking.databases:
        _forking.databases.pop().after_fork_in_parent()


def _after_fork_in_child() -> None:
    while _forking.databases:
        _forking.databases.pop().after_fork_in_child()


if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )
