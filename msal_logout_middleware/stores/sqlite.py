"""The store for all workers of one machine: one SQLite file.

1. Every change is one `BEGIN IMMEDIATE` transaction, written through to the disk before the call returns.
2. Each ending is told to all processes in shared memory, around its commit (`_generation.py`).
3. How a connection to the file is had, and what becomes of it when the process forks, is `_sqlite_file.py`'s.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Literal

from ..errors import StoreError
from . import Ended, Ending, JournalRow, Jti, Loaded, Mark, Marks, Rows, SessionRecord
from ._generation import Generation, number_of
from ._keys import positive, row_of
from ._mounts import network_filesystem
from ._options import check_options
from ._sqlite_file import Database
from ._times import CLOCK_STEP_SECONDS, REMOVED_ROW_SECONDS, TOKEN_CACHE_LIFETIME_SECONDS
from .encryption import Encryption, opened, protected

logger = logging.getLogger("msal_logout_middleware")

# What expires: the statement, and for how long a row is kept beyond its time.
_SWEEP = (
    (
        "DELETE FROM token_caches WHERE key IN (SELECT key FROM token_caches WHERE expires_at <= ? LIMIT ?)",
        0.0,
    ),
    ("DELETE FROM records WHERE handle IN (SELECT handle FROM records WHERE expires_at <= ? LIMIT ?)", 0.0),
    (
        """DELETE FROM marks WHERE (kind, value) IN (
            SELECT kind, value FROM marks WHERE expires_at <= ? LIMIT ?)""",
        CLOCK_STEP_SECONDS,
    ),
    (
        "DELETE FROM jtis WHERE key IN (SELECT key FROM jtis WHERE expires_at <= ? LIMIT ?)",
        CLOCK_STEP_SECONDS,
    ),
)
_SWEPT_BY_A_WRITE = 20
_SWEPT_AT_ONCE = 500

_GET = """SELECT handle, session, keys, issued_at, data, expires_at FROM records
    WHERE handle = ? AND expires_at > ?"""
_FIND = """SELECT handle, session, keys, issued_at, data, expires_at FROM records
    WHERE handle IN (SELECT handle FROM record_keys WHERE key = ?) AND expires_at > ? ORDER BY rowid"""
_SESSIONS_OF_KEY = """SELECT DISTINCT session FROM records
    WHERE handle IN (SELECT handle FROM record_keys WHERE key = ?)"""
_OF_SESSION = "SELECT handle, session, keys, issued_at, data, expires_at FROM records WHERE session = ?"
_INSERT = "INSERT INTO records (handle, session, keys, issued_at, data, expires_at) VALUES (?, ?, ?, ?, ?, ?)"

# Over a mark that is there, a new one ends no less, and no shorter.
_MARK = """INSERT INTO marks (kind, value, before, sequence, expires_at) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT (kind, value) DO UPDATE SET
        before = CASE WHEN expires_at > ? THEN max(before, excluded.before) ELSE excluded.before END,
        sequence = excluded.sequence,
        expires_at = max(expires_at, excluded.expires_at)"""

_Kind = Literal["handle", "session", "key"]


class SQLiteStore:
    """Keeps everything in one SQLite file on a local disk, for all workers of one machine.

    The file is made at first use, readable by its owner only; its folder must exist.

    Args:
        path: The file. It is the store's own: no other tables in it.
        clock: The time in seconds since 1970, by which things expire.
        busy_timeout_seconds: How long a call waits for another worker's write before it fails.
        token_cache_lifetime_seconds: How long a token cache is kept after its last write.
        removed_row_seconds: How long a removed token cache is remembered, so that a save by a request that began
            before the removal fails. Longer than the longest request.
        encryption: Encrypts token caches in the file; they stand there in clear otherwise.

    Raises:
        ValueError: The path names no file: it is a URL, a folder, or an in-memory database, which workers cannot share.
    """

    blocking = True
    """Calls wait for the disk: an event loop must call them in a worker thread."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        clock: Callable[[], float] = time.time,
        busy_timeout_seconds: float = 1.0,
        token_cache_lifetime_seconds: float = TOKEN_CACHE_LIFETIME_SECONDS,
        removed_row_seconds: float = REMOVED_ROW_SECONDS,
        encryption: Encryption | None = None,
    ) -> None:
        check_options(
            encryption,
            token_cache_lifetime_seconds=token_cache_lifetime_seconds,
            removed_row_seconds=removed_row_seconds,
        )
        if not busy_timeout_seconds >= 0:
            raise ValueError(f"busy_timeout_seconds={busy_timeout_seconds!r} must not be less than 0")
        name = os.fspath(path)
        if not name or name.startswith((":memory:", "file:")):
            raise ValueError(
                "SQLiteStore needs the path of a file, which all workers share; use MemoryStore for tests"
            )
        if "://" in name:  # of which nothing is told: it may have a password in it
            raise ValueError('SQLiteStore takes the path of a file, not a URL: SQLiteStore("logout.db")')
        if _is_folder(Path(name)):
            raise ValueError(f"{name} is a folder; give a file in it, such as {Path(name) / 'logout.db'}")
        self.encryption = encryption
        self._clock = clock
        self._token_cache_lifetime = token_cache_lifetime_seconds
        self._removed_row = removed_row_seconds
        self._busy_timeout = busy_timeout_seconds
        self._path = Path(name).absolute()
        self._database = Database(self._path, busy_timeout_seconds)
        self._generation = Generation(self._path)
        self.generation: Callable[[], int | None] = self._generation.read
        """The number of the last ending in whatever process; a replaced file is noticed within a second."""

    # Token caches

    def load(self, key: str) -> Loaded:
        """Return the token cache under a key; one that was never there has the version `""`."""
        row = row_of(key)
        return opened(self.encryption, row, self.load_row(row))

    def replace(self, key: str, expected: str, data: bytes | None) -> bool:
        """Write a token cache (`None`: remove it) if its version is still the expected one."""
        row = row_of(key)
        data = protected(self.encryption, row, data)
        with self._changing() as (db, now):
            if _load(db, row, now).version != expected:
                return False
            lifetime = self._removed_row if data is None else self._token_cache_lifetime
            db.execute(
                "INSERT OR REPLACE INTO token_caches (key, data, version, expires_at) VALUES (?, ?, ?, ?)",
                (row, data, secrets.token_hex(16), now + lifetime),
            )
            return True

    def rows(self, after: str | None = None, *, limit: int) -> Rows:
        """Return some rows that have a token cache, in the order of their names: the keys' SHA-256."""
        with self._database.reading() as db:
            found = db.execute(
                """SELECT key FROM token_caches WHERE key > ? AND data IS NOT NULL AND expires_at > ?
                    ORDER BY key LIMIT ?""",
                (after or "", self._clock(), positive(limit)),
            )
            names = [name for (name,) in found]
        return Rows(names, names[-1] if len(names) == limit else None)

    def load_row(self, row: str) -> Loaded:
        """Return what stands in a row, as it stands there."""
        with self._database.reading() as db:
            return _load(db, row, self._clock())

    def replace_row(self, row: str, expected: str, data: bytes) -> bool:
        """Write what is to stand in a row, as it is, if its version is still the expected one."""
        with self._changing() as (db, now):
            changed = db.execute(
                """UPDATE token_caches SET data = ?, version = ?
                    WHERE key = ? AND version = ? AND data IS NOT NULL AND expires_at > ?""",
                (data, secrets.token_hex(16), row, expected, now),
            )
            return changed.rowcount == 1

    # The session index

    def add(self, record: SessionRecord, *, sign_in: bool) -> bool:
        """Record a session under its first handle; `False` if it has ended."""
        with self._changing() as (db, now):
            if _has_ended(db, record, now):
                return False
            if not sign_in and _get(db, record.handle, now):
                return True
            if not sign_in and _is_ended_by_key(db, record, now):
                return False
            _insert(db, record)
            return True

    def join(self, record: SessionRecord) -> bool:
        """Record one more handle of a session, or more keys of one that it has; `False` if it has ended."""
        with self._changing() as (db, now):
            if _has_ended(db, record, now):
                return False
            old = _get(db, record.handle, now)
            if old and old.session == record.session:
                record = replace(record, keys=tuple(dict.fromkeys((*old.keys, *record.keys))))
            _insert(db, record)
            return True

    def get(self, handle: str) -> SessionRecord | None:
        """Return the record of a live handle."""
        with self._database.reading() as db:
            return _get(db, handle, self._clock())

    def find(self, key: str) -> Sequence[SessionRecord]:
        """Return the live records that are found by a key, in the order in which they were recorded."""
        with self._database.reading() as db:
            return [_record(row) for row in db.execute(_FIND, (key, self._clock()))]

    def end(self, ending: Ending) -> Ended:
        """End sessions: marks, journal and `jti` in one transaction. Every ending is committed here."""
        if not (ending.handles or ending.sessions or ending.keys or ending.jti):
            # Anybody may ask for a `sid` that nobody has: that must not hold the lock that writers need.
            with self._database.reading() as db:
                if not _sessions(db, ending):
                    return Ended(claimed=True, row=None, sequence=_state(db)[1])
        with ExitStack() as until_committed, self._changing() as (db, now):
            epoch, sequence = _state(db)
            if ending.jti and not _claim(db, ending.jti, now):
                return Ended(claimed=False, row=None, sequence=sequence)
            sessions = _sessions(db, ending)
            if not (ending.handles or sessions or ending.keys):
                return Ended(claimed=True, row=None, sequence=sequence)
            records = _records(db, sessions)
            sequence = _mark(db, ending, sessions, records, after=sequence, now=now)
            row = _journal(db, ending, records, now)
            until_committed.enter_context(self._telling(number_of(epoch, sequence)))
            return Ended(claimed=True, row=row, sequence=sequence, records=records)

    def take(self, *, limit: int, lease_seconds: float) -> Sequence[JournalRow]:
        """Lease open journal rows whose lease has run out, the oldest first, so that no other worker does."""
        with self._changing() as (db, now):
            rows = db.execute(
                """SELECT id, name, work FROM journal WHERE leased_until <= ? OR leased_at > ?
                    ORDER BY id LIMIT ?""",
                (now, now + CLOCK_STEP_SECONDS, positive(limit)),
            ).fetchall()
            db.executemany(
                "UPDATE journal SET leased_at = ?, leased_until = ? WHERE id = ?",
                [(now, now + lease_seconds, number) for number, _, _ in rows],
            )
            return [JournalRow(name, work, _journal_data(db, number)) for number, name, work in rows]

    def finish(self, row: str) -> None:
        """Clear a journal row; no error if it is gone."""
        with self._changing() as (db, _):
            db.execute("DELETE FROM journal WHERE name = ?", (row,))
        with suppress(StoreError):  # somebody reads: the next one empties it
            self._database.empty_log()  # which still holds what the sign-out removed

    def marks_since(self, cursor: int, *, limit: int) -> Marks:
        """Return unexpired marks after a cursor (0: from the start), at most `limit`, in order.

        A cursor that comes back smaller than it went means that the file is older than the caller's marks.
        """
        with self._database.reading() as db:
            with suppress(OSError):  # somebody is about to write it
                self._generation.heal(lambda: number_of(*_state(db)))
            epoch, last = _state(db)
            rows = db.execute(
                """SELECT kind, value, before, sequence, expires_at FROM marks
                    WHERE sequence > ? AND kind <> 'session' AND expires_at > ? ORDER BY sequence LIMIT ?""",
                (cursor, self._clock(), positive(limit)),
            )
            marks = [Mark(*row) for row in rows]
            # A backup that took the file's place has the same epoch, and may have grown past the cursor since.
            life = f"{epoch} in {db.file}"
            return Marks(life, marks[-1].sequence if len(marks) == limit else last, marks)

    def open_rows(self) -> int:
        """Return how many journal rows are not finished, leased or not."""
        with self._database.reading() as db:
            (count,) = db.execute("SELECT count(*) FROM journal").fetchone()
            return int(count)

    # Upkeep

    def sweep(self) -> int:
        """Delete all that has expired, and what SQLite's log still holds of it; return the number of rows.

        Each write sweeps a little, so this is for quiet times. Other workers get their turn in between.
        """
        total = 0
        while True:
            with self._database.writing() as db:
                swept = _sweep(db, self._clock(), _SWEPT_AT_ONCE)
            total += swept
            if swept < _SWEPT_AT_ONCE:
                break
        self._database.empty_log()
        return total

    def close(self) -> None:
        """Close the connections. The store may be used again, and opens them anew."""
        self._database.close()
        self._generation.close()

    @property
    def path(self) -> Path:
        """The file, as an absolute path."""
        return self._path

    def network_mount(self) -> str | None:
        """Return the type of the filesystem that the file is on, if it is one of another machine's, else `None`."""
        return network_filesystem(self._path)

    @contextmanager
    def _telling(self, number: int) -> Iterator[None]:
        """Let no process take the old generation for the current one, from now until the number is written."""
        try:
            with self._generation.changing(number, wait_seconds=self._busy_timeout):
                yield
        except OSError as error:
            raise StoreError(
                f"the file {self._path}-generation cannot be written, or another worker holds it for too long:"
                " the app must be allowed to write it"
            ) from error

    @contextmanager
    def _changing(self) -> Iterator[tuple[sqlite3.Connection, float]]:
        """One transaction, and the time; what has expired is swept by the way."""
        with self._database.writing() as db:
            now = self._clock()
            yield db, now
            _sweep(db, now, _SWEPT_BY_A_WRITE)


def _load(db: sqlite3.Connection, row: str, now: float) -> Loaded:
    found = db.execute(
        "SELECT data, version FROM token_caches WHERE key = ? AND expires_at > ?", (row, now)
    ).fetchone()
    return Loaded(*found) if found else Loaded(None, "")


def _record(row: tuple[str, str, str, float, bytes, float]) -> SessionRecord:
    handle, session, keys, issued_at, data, expires_at = row
    return SessionRecord(handle, session, tuple(json.loads(keys)), issued_at, data, expires_at)


def _state(db: sqlite3.Connection) -> tuple[str, int]:
    """Return the epoch, and the sequence number of the last change."""
    epoch, sequence = db.execute("SELECT epoch, sequence FROM meta").fetchone()
    return epoch, sequence


def _get(db: sqlite3.Connection, handle: str, now: float) -> SessionRecord | None:
    row = db.execute(_GET, (handle, now)).fetchone()
    return _record(row) if row else None


def _insert(db: sqlite3.Connection, new: SessionRecord) -> None:
    db.execute("DELETE FROM records WHERE handle = ?", (new.handle,))  # the one in whose place it comes
    keys = json.dumps(new.keys)
    db.execute(_INSERT, (new.handle, new.session, keys, new.issued_at, new.data, new.expires_at))
    db.executemany(
        "INSERT INTO record_keys (key, handle) VALUES (?, ?)",
        [(key, new.handle) for key in dict.fromkeys(new.keys)],
    )


def _has_ended(db: sqlite3.Connection, record: SessionRecord, now: float) -> bool:
    found = db.execute(
        # With `(kind, value) IN`, SQLite would read all marks that have not expired.
        """SELECT 1 FROM marks WHERE expires_at > ?
            AND ((kind = 'handle' AND value = ?) OR (kind = 'session' AND value = ?))""",
        (now, record.handle, record.session),
    )
    return found.fetchone() is not None


def _is_ended_by_key(db: sqlite3.Connection, record: SessionRecord, now: float) -> bool:
    found = "SELECT 1 FROM marks WHERE kind = 'key' AND value = ? AND before >= ? AND expires_at > ?"
    return any(db.execute(found, (key, record.issued_at, now)).fetchone() for key in record.keys)


def _claim(db: sqlite3.Connection, jti: Jti, now: float) -> bool:
    if db.execute("SELECT 1 FROM jtis WHERE key = ? AND expires_at > ?", (jti.key, now)).fetchone():
        return False
    db.execute("INSERT OR REPLACE INTO jtis (key, expires_at) VALUES (?, ?)", jti)
    return True


def _sessions(db: sqlite3.Connection, ending: Ending) -> dict[str, None]:
    """Name the sessions that end. Records that have expired count: the clock may be set back."""
    sessions = dict.fromkeys(ending.sessions)
    for handle in ending.handles:
        sessions.update(db.execute("SELECT session, NULL FROM records WHERE handle = ?", (handle,)))
    spared = frozenset(ending.spared)
    for key in ending.found_by:
        found = db.execute(_SESSIONS_OF_KEY, (key,))
        sessions.update((session, None) for (session,) in found if session not in spared)
    return sessions


def _records(db: sqlite3.Connection, sessions: Iterable[str]) -> tuple[SessionRecord, ...]:
    """Return every record of sessions, those that have expired as well."""
    return tuple(_record(row) for session in sessions for row in db.execute(_OF_SESSION, (session,)))


def _mark(
    db: sqlite3.Connection,
    ending: Ending,
    sessions: Iterable[str],
    records: Sequence[SessionRecord],
    *,
    after: int,
    now: float,
) -> int:
    """Write the marks, each with a sequence number of its own, and remove what ended; return the last number."""
    handles = dict.fromkeys((*ending.handles, *(record.handle for record in records)))
    marks: list[tuple[_Kind, str, float]] = [
        *(("session", session, 0.0) for session in sessions),
        *(("handle", handle, 0.0) for handle in handles),
        *(("key", key, before) for key, before in ending.keys),
    ]
    numbered = enumerate(marks, after + 1)
    db.executemany(_MARK, ((*mark, number, ending.expires_at, now) for number, mark in numbered))
    db.executemany("DELETE FROM records WHERE handle = ?", ((handle,) for handle in handles))
    db.execute("UPDATE meta SET sequence = ?", (after + len(marks),))
    return after + len(marks)


def _journal(
    db: sqlite3.Connection, ending: Ending, records: Iterable[SessionRecord], now: float
) -> str | None:
    if ending.work is None:
        return None
    name = secrets.token_hex(16)
    row = db.execute(
        "INSERT INTO journal (name, work, leased_at, leased_until) VALUES (?, ?, ?, ?)",
        (name, ending.work, now, now + ending.lease_seconds),
    )
    distinct = dict.fromkeys(record.data for record in records)
    db.executemany(
        "INSERT INTO journal_data (journal, number, data) VALUES (?, ?, ?)",
        ((row.lastrowid, number, data) for number, data in enumerate(distinct)),
    )
    return name


def _journal_data(db: sqlite3.Connection, journal: int) -> tuple[bytes, ...]:
    found = db.execute("SELECT data FROM journal_data WHERE journal = ? ORDER BY number", (journal,))
    return tuple(data for (data,) in found)


def _sweep(db: sqlite3.Connection, now: float, limit: int) -> int:
    left = limit
    for statement, kept_seconds in _SWEEP:
        left -= db.execute(statement, (now - kept_seconds, left)).rowcount
    return limit - left


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # its own folder may not be entered, which the first use tells
        return False
