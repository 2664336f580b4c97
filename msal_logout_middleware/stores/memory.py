"""The store for one process: tests, demos, and apps that run as a single worker."""

from __future__ import annotations

import heapq
import math
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import Generic, TypeVar

from ..errors import StoreError
from . import Ended, Ending, JournalRow, Jti, Loaded, Mark, Marks, Rows, SessionRecord
from ._keys import encoded, positive
from ._options import check_options
from ._times import CLOCK_STEP_SECONDS, REMOVED_ROW_SECONDS, TOKEN_CACHE_LIFETIME_SECONDS
from .encryption import Encryption, opened, protected

T = TypeVar("T")

_SWEPT_BY_A_WRITE = 20

_forks = 0  # how often this process, and those it comes from, were forked


class _Table(Generic[T]):
    """Things by name, each until its time; then kept for a while longer, without effect."""

    def __init__(self, *, kept_seconds: float = 0.0) -> None:
        self._kept = kept_seconds
        self._things: dict[str, tuple[T, float]] = {}
        self._queue: list[tuple[float, str]] = []
        self._queued: dict[str, float] = {}  # one entry of the queue for each name: the earliest

    def live(self, name: str, now: float) -> T | None:
        """Return a thing whose time is not over."""
        thing, expires_at = self._things.get(name, (None, now))
        return thing if expires_at > now else None

    def get(self, name: str) -> T | None:
        """Return a thing, whether its time is over or not."""
        return self._things.get(name, (None,))[0]

    def names(self, now: float) -> list[str]:
        """Return the names of all things whose time is not over."""
        return [name for name, (_, expires_at) in self._things.items() if expires_at > now]

    def change(self, name: str, thing: T) -> None:
        """Write a thing in the place of one that is there, for as long as that."""
        self._things[name] = thing, self._things[name][1]

    def put(self, name: str, thing: T, expires_at: float) -> None:
        """Write a thing, in the place of another of the same name."""
        self._things[name] = thing, expires_at
        self._enqueue(name, expires_at + self._kept)

    def pop(self, name: str) -> T | None:
        """Take a thing out."""
        return self._things.pop(name, (None,))[0]

    def due(self, now: float) -> str | None:
        """Name one thing that may be forgotten."""
        while self._queue and self._queue[0][0] <= now:
            at, name = heapq.heappop(self._queue)
            if self._queued.get(name) != at:
                continue
            del self._queued[name]
            if name not in self._things:
                continue
            due_at = self._things[name][1] + self._kept
            if due_at <= now:
                return name
            self._enqueue(name, due_at)  # it was renewed meanwhile
        return None

    def _enqueue(self, name: str, at: float) -> None:
        if at < self._queued.get(name, math.inf):
            self._queued[name] = at
            heapq.heappush(self._queue, (at, name))


@dataclass(slots=True)
class _Work:
    work: bytes
    data: tuple[bytes, ...]
    leased_at: float
    leased_until: float

    def is_open(self, now: float) -> bool:
        return self.leased_until <= now or self.leased_at > now + CLOCK_STEP_SECONDS


class _Turn:
    """One caller at a time, in the process that made the store; entering it gives the time."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._pid = os.getpid()
        self._lock = threading.Lock()

    def __enter__(self) -> float:
        if os.getpid() != self._pid:
            raise StoreError(
                "this MemoryStore was made in another process, before the server forked its workers: each worker"
                " would know only its own sign-outs. Use SQLiteStore, which all workers of a machine share"
            )
        self._lock.acquire()
        try:
            return self._clock()
        except BaseException:
            self._lock.release()
            raise

    def __exit__(self, *_error: object) -> None:
        self._lock.release()


class MemoryStore:
    """Keeps everything in the memory of the process that made it, and loses it with the process.

    Safe to use from many threads. Where several workers serve one app, each would know only its own sign-outs:
    use `SQLiteStore` there. A store that was made before the server forked its workers refuses to work; one that
    each worker makes for itself cannot be told from a single one.

    Args:
        clock: The time in seconds since 1970, by which things expire.
        token_cache_lifetime_seconds: How long a token cache is kept after its last write.
        removed_row_seconds: How long a removed token cache is remembered, so that a save by a request that began
            before the removal fails. Longer than the longest request.
        encryption: Encrypts token caches in memory as other stores do where they keep them.
    """

    blocking = False
    """Calls never wait for a disk or a network: an event loop may call them itself."""

    one_process = True
    """Other processes do not see what is kept."""

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.time,
        token_cache_lifetime_seconds: float = TOKEN_CACHE_LIFETIME_SECONDS,
        removed_row_seconds: float = REMOVED_ROW_SECONDS,
        encryption: Encryption | None = None,
    ) -> None:
        check_options(
            encryption,
            token_cache_lifetime_seconds=token_cache_lifetime_seconds,
            removed_row_seconds=removed_row_seconds,
        )
        self.encryption = encryption
        self._token_cache_lifetime = token_cache_lifetime_seconds
        self._removed_row = removed_row_seconds
        self._forks = _forks
        self._turn = _Turn(clock)
        self._epoch = secrets.token_hex(16)
        self._names = count(1)  # of versions and rows: they are this store's, and go with it
        self._sequence = 0
        self._token_caches: _Table[Loaded] = _Table()
        self._records: _Table[SessionRecord] = _Table()
        self._handles_by_session: dict[str, dict[str, None]] = {}
        self._handles_by_key: dict[str, dict[str, None]] = {}
        self._handle_marks: _Table[Mark] = _Table(kept_seconds=CLOCK_STEP_SECONDS)
        self._key_marks: _Table[Mark] = _Table(kept_seconds=CLOCK_STEP_SECONDS)
        self._session_marks: _Table[float] = _Table(kept_seconds=CLOCK_STEP_SECONDS)
        self._marks_by_sequence: dict[int, Mark] = {}
        self._first_mark = 1  # no mark has a smaller sequence number
        self._jtis: _Table[Jti] = _Table(kept_seconds=CLOCK_STEP_SECONDS)
        self._journal: dict[str, _Work] = {}
        self._what_expires: tuple[tuple[Callable[[float], str | None], Callable[[str], object]], ...] = (
            (self._token_caches.due, self._token_caches.pop),
            (self._records.due, self._forget_record),
            (self._handle_marks.due, partial(self._forget_mark, self._handle_marks)),
            (self._key_marks.due, partial(self._forget_mark, self._key_marks)),
            (self._session_marks.due, self._session_marks.pop),
            (self._jtis.due, self._jtis.pop),
        )

    # Token caches

    def load(self, key: str) -> Loaded:
        """Return the token cache under a key; one that was never there has the version `""`."""
        encoded(key)  # a key that the other stores refuse is refused here as well
        return opened(self.encryption, key, self.load_row(key))

    def replace(self, key: str, expected: str, data: bytes | None) -> bool:
        """Write a token cache (`None`: remove it) if its version is still the expected one."""
        encoded(key)  # a key that the other stores refuse is refused here as well
        data = protected(self.encryption, key, data)
        with self._turn as now:
            if self._load(key, now).version != expected:
                return False
            expires_at = now + (self._removed_row if data is None else self._token_cache_lifetime)
            self._token_caches.put(key, Loaded(data, str(next(self._names))), expires_at)
            self._sweep(now)
            return True

    def rows(self, after: str | None = None, *, limit: int) -> Rows:
        """Return some rows that have a token cache, in the order of their names, which are the cache keys."""
        positive(limit)
        with self._turn as now:
            names = sorted(name for name in self._token_caches.names(now) if after is None or name > after)
            names = [name for name in names if self._load(name, now).data is not None]
        return Rows(names[:limit], names[limit - 1] if len(names) > limit else None)

    def load_row(self, row: str) -> Loaded:
        """Return what stands in a row, as it stands there."""
        with self._turn as now:
            return self._load(row, now)

    def replace_row(self, row: str, expected: str, data: bytes) -> bool:
        """Write what is to stand in a row, as it is, if its version is still the expected one."""
        with self._turn as now:
            there = self._load(row, now)
            if there.version != expected or there.data is None:
                return False
            self._token_caches.change(row, Loaded(data, str(next(self._names))))
            return True

    def _load(self, key: str, now: float) -> Loaded:
        return self._token_caches.live(key, now) or Loaded(None, "")

    # The session index

    def add(self, record: SessionRecord, *, sign_in: bool) -> bool:
        """Record a session under its first handle; `False` if it has ended."""
        with self._turn as now:
            if self._has_ended(record, now):
                return False
            if not sign_in and self._records.live(record.handle, now):
                return True
            if not sign_in and self._is_ended_by_key(record, now):
                return False
            self._insert(record, now)
            return True

    def join(self, record: SessionRecord) -> bool:
        """Record one more handle of a session, or more keys of one that it has; `False` if it has ended."""
        with self._turn as now:
            if self._has_ended(record, now):
                return False
            old = self._records.live(record.handle, now)
            if old and old.session == record.session:
                record = replace(record, keys=tuple(dict.fromkeys((*old.keys, *record.keys))))
            self._insert(record, now)
            return True

    def get(self, handle: str) -> SessionRecord | None:
        """Return the record of a live handle."""
        with self._turn as now:
            return self._records.live(handle, now)

    def find(self, key: str) -> Sequence[SessionRecord]:
        """Return the live records that are found by a key, in the order in which they were recorded."""
        with self._turn as now:
            found = (self._records.live(handle, now) for handle in self._handles_by_key.get(key, ()))
            return [record for record in found if record]

    def end(self, ending: Ending) -> Ended:
        """End sessions: marks, journal and `jti` in one operation. Every ending is committed here."""
        with self._turn as now:
            if ending.jti and self._jtis.live(ending.jti.key, now):
                return Ended(claimed=False, row=None, sequence=self._sequence)
            if ending.jti:
                self._jtis.put(ending.jti.key, ending.jti, ending.jti.expires_at)
            sessions = self._sessions_of(ending)
            if not (ending.handles or sessions or ending.keys):
                return Ended(claimed=True, row=None, sequence=self._sequence)
            records = self._records_of(sessions)
            self._sequence += 1
            for session in sessions:
                self._mark_session(session, ending.expires_at)
            for handle in dict.fromkeys((*ending.handles, *(record.handle for record in records))):
                self._mark(self._handle_marks, Mark("handle", handle, 0.0, 0, ending.expires_at), now)
                self._forget_record(handle)
            for key, before in ending.keys:
                self._mark(self._key_marks, Mark("key", key, before, 0, ending.expires_at), now)
            row = None
            if ending.work is not None:
                row = str(next(self._names))
                data = tuple(dict.fromkeys(record.data for record in records))
                self._journal[row] = _Work(ending.work, data, now, now + ending.lease_seconds)
            self._sweep(now)
            return Ended(claimed=True, row=row, sequence=self._sequence, records=records)

    def take(self, *, limit: int, lease_seconds: float) -> Sequence[JournalRow]:
        """Lease open journal rows whose lease has run out, the oldest first, so that no other worker does."""
        positive(limit)
        with self._turn as now:
            taken: list[JournalRow] = []
            for row, work in self._journal.items():
                if len(taken) == limit:
                    break
                if work.is_open(now):
                    work.leased_at, work.leased_until = now, now + lease_seconds
                    taken.append(JournalRow(row, work.work, work.data))
            return taken

    def finish(self, row: str) -> None:
        """Clear a journal row; no error if it is gone."""
        with self._turn:
            self._journal.pop(row, None)

    def marks_since(self, cursor: int, *, limit: int) -> Marks:
        """Return unexpired marks after a cursor (0: from the start), at most `limit`, in order."""
        positive(limit)
        with self._turn as now:
            marks: list[Mark] = []
            for sequence in range(max(cursor + 1, self._first_mark), self._sequence + 1):
                mark = self._marks_by_sequence.get(sequence)
                if mark is None or mark.expires_at <= now:
                    continue
                marks.append(mark)
                if len(marks) == limit:
                    return Marks(self._epoch, sequence, marks)
            return Marks(self._epoch, self._sequence, marks)

    def generation(self) -> int | None:
        """Return the number of the last ending; `None` in a process that was forked since the store was made."""
        return self._sequence if self._forks == _forks else None

    def open_rows(self) -> int:
        """Return how many journal rows are not finished, leased or not."""
        with self._turn:
            return len(self._journal)

    # Upkeep

    def sweep(self) -> int:
        """Forget all that has expired; return how many things that was. Each write sweeps a little by itself."""
        total = 0
        while True:
            with self._turn as now:
                swept = self._sweep(now)
            total += swept
            if swept < _SWEPT_BY_A_WRITE:
                return total

    def close(self) -> None:
        """Do nothing: there are no connections, and what is kept is kept until the process ends."""

    def _insert(self, record: SessionRecord, now: float) -> None:
        self._forget_record(record.handle)  # the one in whose place it comes
        self._records.put(record.handle, record, record.expires_at)
        self._handles_by_session.setdefault(record.session, {})[record.handle] = None
        for key in record.keys:
            self._handles_by_key.setdefault(key, {})[record.handle] = None
        self._sweep(now)

    def _sessions_of(self, ending: Ending) -> dict[str, None]:
        """Name the sessions that end. Records that have expired count: the clock may be set back."""
        sessions = dict.fromkeys(ending.sessions)
        known = (self._records.get(handle) for handle in ending.handles)
        sessions.update((record.session, None) for record in known if record)
        spared = frozenset(ending.spared)
        for key in ending.found_by:
            found = (self._records.get(handle) for handle in self._handles_by_key.get(key, ()))
            sessions.update((each.session, None) for each in found if each and each.session not in spared)
        return sessions

    def _records_of(self, sessions: Iterable[str]) -> tuple[SessionRecord, ...]:
        """Return every record of sessions, those that have expired as well."""
        handles = (handle for session in sessions for handle in self._handles_by_session.get(session, ()))
        return tuple(filter(None, map(self._records.get, handles)))

    def _forget_record(self, handle: str) -> None:
        record = self._records.pop(handle)
        if record is None:
            return
        _discard(self._handles_by_session, record.session, handle)
        for key in record.keys:
            _discard(self._handles_by_key, key, handle)

    def _has_ended(self, record: SessionRecord, now: float) -> bool:
        mark = self._handle_marks.live(record.handle, now) or self._session_marks.live(record.session, now)
        return mark is not None

    def _is_ended_by_key(self, record: SessionRecord, now: float) -> bool:
        marks = (self._key_marks.live(key, now) for key in record.keys)
        return any(mark and mark.before >= record.issued_at for mark in marks)

    def _mark_session(self, session: str, expires_at: float) -> None:
        expires_at = max(expires_at, self._session_marks.get(session) or expires_at)
        self._session_marks.put(session, expires_at, expires_at)

    def _mark(self, marks: _Table[Mark], new: Mark, now: float) -> None:
        """Write a mark, and number it; over one that is there, it ends no less, and no shorter."""
        self._sequence += 1
        old = self._forget_mark(marks, new.value)
        before, expires_at = new.before, new.expires_at
        if old:
            before = max(before, old.before) if old.expires_at > now else before
            expires_at = max(expires_at, old.expires_at)
        mark = Mark(new.kind, new.value, before, self._sequence, expires_at)
        marks.put(mark.value, mark, mark.expires_at)
        self._marks_by_sequence[mark.sequence] = mark

    def _forget_mark(self, marks: _Table[Mark], value: str) -> Mark | None:
        mark = marks.pop(value)
        if mark is None:
            return None
        del self._marks_by_sequence[mark.sequence]
        if not self._marks_by_sequence:
            self._first_mark = self._sequence
        while self._marks_by_sequence and self._first_mark not in self._marks_by_sequence:
            self._first_mark += 1
        return mark

    def _sweep(self, now: float) -> int:
        """Forget some of what has expired; return how many things that was."""
        for swept in range(_SWEPT_BY_A_WRITE):
            if not self._forget_one(now):
                return swept
        return _SWEPT_BY_A_WRITE

    def _forget_one(self, now: float) -> bool:
        for due, forget in self._what_expires:
            name = due(now)
            if name is not None:
                forget(name)
                return True
        return False


def _discard(handles: dict[str, dict[str, None]], name: str, handle: str) -> None:
    """Take a handle out of an index, and the name with its last one."""
    named = handles.get(name)
    if named is None:
        return
    named.pop(handle, None)
    if not named:
        del handles[name]


def _count_fork() -> None:
    global _forks  # noqa: PLW0603 - a fork is of the whole process
    _forks += 1


if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(after_in_child=_count_fork)
