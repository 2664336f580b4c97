"""The shipped stores beside a simple model: whatever is done, in whatever order, both say the same."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from msal_logout_middleware.stores import Ending, Jti, KeyMark, SessionRecord
from msal_logout_middleware.stores.memory import MemoryStore
from msal_logout_middleware.stores.redis import RedisStore
from msal_logout_middleware.stores.sqlalchemy import SQLAlchemyStore
from msal_logout_middleware.stores.sqlite import SQLiteStore
from msal_logout_middleware.testing.store_contract import Clock

from .databases import PostgreSQL
from .servers import Server, new_prefix

few = settings(max_examples=40, stateful_step_count=40, deadline=None)

HANDLES, SESSIONS, KEYS, JTIS = ("h1", "h2", "h3", "h4"), ("a", "b", "c"), ("sid", "sub"), ("jti1", "jti2")
CACHES = ("alice", "bob")
NOW = 1000.0
seconds = st.integers(0, 12).map(float)
some_handles = st.lists(st.sampled_from(HANDLES), max_size=2, unique=True).map(tuple)
some_sessions = st.lists(st.sampled_from(SESSIONS), max_size=1).map(tuple)
some_keys = st.lists(st.sampled_from(KEYS), max_size=2).map(tuple)
key_marks = st.builds(KeyMark, st.sampled_from(KEYS), seconds.map(lambda after: NOW + after))


@dataclass
class Work:
    work: bytes
    data: set[bytes]
    leased_until: float


@dataclass
class Model:
    """What the docstrings say, in so many words; nothing in it is ever forgotten."""

    caches: dict[str, tuple[bytes | None, float]] = field(default_factory=dict)
    records: dict[str, SessionRecord] = field(default_factory=dict)
    dead_handles: dict[str, float] = field(default_factory=dict)
    dead_sessions: dict[str, float] = field(default_factory=dict)
    key_marks: dict[str, tuple[float, float]] = field(default_factory=dict)
    jtis: dict[str, float] = field(default_factory=dict)
    journal: dict[str, Work] = field(default_factory=dict)
    ended_something: bool = False

    def lives(self, handle: str, now: float) -> bool:
        return handle in self.records and self.records[handle].expires_at > now

    def is_dead(self, record: SessionRecord, now: float) -> bool:
        return (
            self.dead_handles.get(record.handle, 0) > now or self.dead_sessions.get(record.session, 0) > now
        )

    def add(self, record: SessionRecord, now: float, *, sign_in: bool) -> bool:
        if self.is_dead(record, now):
            return False
        if self.lives(record.handle, now) and not sign_in:
            return True
        for key in () if sign_in else record.keys:
            before, expires_at = self.key_marks.get(key, (0, 0))
            if before >= record.issued_at and expires_at > now:
                return False
        self.records[record.handle] = record
        return True

    def join(self, record: SessionRecord, now: float) -> bool:
        if self.is_dead(record, now):
            return False
        if self.lives(record.handle, now) and self.records[record.handle].session == record.session:
            keys = self.records[record.handle].keys
            record = replace(record, keys=keys + tuple(key for key in record.keys if key not in keys))
        self.records[record.handle] = record
        return True

    def end(self, ending: Ending, now: float) -> list[SessionRecord] | None:
        """Return what ended; `None` if the `jti` had been claimed."""
        if ending.jti and self.jtis.get(ending.jti.key, 0) > now:
            return None
        if ending.jti:
            self.jtis[ending.jti.key] = ending.jti.expires_at
        sessions = set(ending.sessions)
        for handle, record in self.records.items():
            is_found = any(key in ending.found_by for key in record.keys)
            if handle in ending.handles or (is_found and record.session not in ending.spared):
                sessions.add(record.session)
        ended = [record for record in self.records.values() if record.session in sessions]
        for session in sessions:
            self.dead_sessions[session] = max(self.dead_sessions.get(session, 0), ending.expires_at)
        for handle in {*ending.handles, *(record.handle for record in ended)}:
            self.dead_handles[handle] = max(self.dead_handles.get(handle, 0), ending.expires_at)
            self.records.pop(handle, None)
        for key, before in ending.keys:
            old_before, old_expires_at = self.key_marks.get(key, (0, 0))
            self.key_marks[key] = (
                max(before, old_before if old_expires_at > now else 0),
                max(ending.expires_at, old_expires_at),
            )
        self.ended_something = bool(sessions or ending.handles or ending.keys)
        return ended


class StoreMachine(RuleBasedStateMachine):
    """Any calls to a store, its clock set ahead and back."""

    store: Any
    sweeps_token_caches = True

    def make(self) -> Any:
        raise NotImplementedError

    @initialize()
    def start(self) -> None:
        self.clock = Clock(NOW)
        self.model = Model()
        self.versions: dict[str, list[str]] = {key: [] for key in CACHES}
        self.cursor, self.marks, self.last_sequence = 0, dict[Any, Any](), 0
        self.generations: set[int | None] = {None}
        self.time_went_back = False
        self.store = self.make()

    def record(self, data: st.DataObject) -> SessionRecord:
        return data.draw(
            st.builds(
                SessionRecord,
                handle=st.sampled_from(HANDLES),
                session=st.sampled_from(SESSIONS),
                keys=st.lists(st.sampled_from(KEYS), unique=True).map(tuple),
                issued_at=seconds.map(lambda after: NOW + after),
                data=st.binary(max_size=3),
                expires_at=seconds.map(lambda after: self.clock.now + after),
            )
        )

    @rule(data=st.data(), sign_in=st.booleans())
    def add(self, data: st.DataObject, sign_in: bool) -> None:
        record = self.record(data)
        assert self.store.add(record, sign_in=sign_in) is self.model.add(
            record, self.clock.now, sign_in=sign_in
        )

    @rule(data=st.data())
    def join(self, data: st.DataObject) -> None:
        record = self.record(data)
        assert self.store.join(record) is self.model.join(record, self.clock.now)

    @rule(
        handles=some_handles,
        sessions=some_sessions,
        found_by=some_keys,
        spared=some_sessions,
        keys=st.lists(key_marks, max_size=2).map(tuple),
        last=seconds,
        work=st.none() | st.binary(max_size=3),
        lease=seconds,
        jti=st.none() | st.tuples(st.sampled_from(JTIS), seconds),
    )
    def end(self, handles, sessions, found_by, spared, keys, last, work, lease, jti) -> None:
        self.sweep()  # a record that has expired may be forgotten, or end
        now = self.clock.now
        ending = Ending(
            handles=handles,
            sessions=sessions,
            found_by=found_by,
            spared=spared,
            keys=keys,
            expires_at=now + last,
            work=work,
            lease_seconds=lease,
            jti=jti and Jti(jti[0], now + jti[1]),
        )
        generation = self.store.generation()
        ended = self.store.end(ending)
        records = self.model.end(ending, now)
        assert ended.claimed is (records is not None)
        assert sorted(ended.records, key=lambda record: record.handle) == sorted(
            records or [], key=lambda record: record.handle
        )
        changed = ended.claimed and self.model.ended_something
        assert (ended.row is not None) is (changed and work is not None)
        if changed:
            assert ended.sequence > self.last_sequence
            self.store.marks_since(0, limit=1)  # which tells the generation if nobody has yet
            assert self.store.generation() not in self.generations
            self.generations.add(self.store.generation())
        else:
            assert ended.sequence == self.last_sequence
            assert generation in (None, self.store.generation())  # nobody may have told it before
        self.last_sequence = ended.sequence
        if ended.row is not None and work is not None:
            data = {record.data for record in ended.records}
            self.model.journal[ended.row] = Work(work, data, now + lease)

    @rule(limit=st.integers(1, 3), lease=seconds)
    def take(self, limit: int, lease: float) -> None:
        taken = self.store.take(limit=limit, lease_seconds=lease)
        now = self.clock.now
        rows = [row for row, work in self.model.journal.items() if work.leased_until <= now][:limit]
        assert [(each.row, each.work, sorted(each.data)) for each in taken] == [
            (row, self.model.journal[row].work, sorted(self.model.journal[row].data)) for row in rows
        ]
        for row in rows:
            self.model.journal[row].leased_until = now + lease

    @precondition(lambda self: self.model.journal)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        row = data.draw(st.sampled_from(sorted(self.model.journal)))
        del self.model.journal[row]
        self.store.finish(row)

    @rule(limit=st.integers(1, 4))
    def follow(self, limit: int) -> None:
        """Hold marks as a worker does: page by page, each replacing the one before it."""
        feed = self.store.marks_since(self.cursor, limit=limit)
        numbers = [mark.sequence for mark in feed.marks]
        assert numbers == sorted(set(numbers))
        assert all(self.cursor < number <= feed.cursor for number in numbers)
        self.cursor = feed.cursor
        for mark in feed.marks:
            self.marks[mark.kind, mark.value] = mark

    @rule(key=st.sampled_from(CACHES), data=st.none() | st.binary(max_size=3), stale=st.booleans())
    def replace(self, key: str, data: bytes | None, stale: bool) -> None:
        current = self.store.load(key).version
        lifetime = 5.0 if data is None else 9.0
        for version in self.versions[key] if stale else []:
            if version != current:
                assert not self.store.replace(key, version, b"stale")
        assert self.store.replace(key, current, data)
        self.model.caches[key] = data, self.clock.now + lifetime
        new = self.store.load(key).version
        assert new not in self.versions[key]
        self.versions[key].append(new)

    @rule(by=st.integers(-8, 12))
    def set_clock(self, by: int) -> None:
        if by < 0:
            self.sweep()  # a record that has expired may be forgotten, or come back
        self.clock.advance(float(by))
        self.time_went_back |= by < 0

    @rule()
    def close(self) -> None:
        self.store.close()

    @rule()
    def sweep(self) -> None:
        now = self.clock.now
        self.store.sweep()
        for handle, record in list(self.model.records.items()):
            if record.expires_at <= now:
                del self.model.records[handle]
        for key, (_, expires_at) in list(self.model.caches.items()):
            if expires_at <= now and self.sweeps_token_caches:
                del self.model.caches[key]

    @invariant()
    def both_say_the_same(self) -> None:
        now, model = self.clock.now, self.model
        for handle in HANDLES:
            assert self.store.get(handle) == (model.records[handle] if model.lives(handle, now) else None)
        for key in KEYS:
            found = {record.handle for record in self.store.find(key)}
            assert found == {
                handle
                for handle, record in model.records.items()
                if key in record.keys and model.lives(handle, now)
            }
        for key in CACHES:
            data, expires_at = model.caches.get(key, (None, 0.0))
            loaded = self.store.load(key)
            assert loaded.data == (data if expires_at > now else None)
            assert (loaded.version == "") is (expires_at <= now)
        assert self.store.open_rows() == len(model.journal)

    @invariant()
    def feed_holds_the_marks(self) -> None:
        now = self.clock.now
        marks = {(mark.kind, mark.value): mark for mark in self.store.marks_since(0, limit=100).marks}
        assert {name for kind, name in marks if kind == "handle"} == {
            handle for handle, expires_at in self.model.dead_handles.items() if expires_at > now
        }
        for key, (before, expires_at) in self.model.key_marks.items():
            if expires_at > now:
                assert (marks["key", key].before, marks["key", key].expires_at) == (before, expires_at)
            else:
                assert ("key", key) not in marks

    def teardown(self) -> None:
        """A worker that followed the feed page by page holds what the whole feed says."""
        if not hasattr(self, "store"):
            return
        for _ in range(100):
            self.follow(1)
        now = self.clock.now
        whole = {(mark.kind, mark.value): mark for mark in self.store.marks_since(0, limit=100).marks}
        held = {name: mark for name, mark in self.marks.items() if mark.expires_at > now}
        if not self.time_went_back:  # marks that were expired when the worker passed by have come back
            assert held == whole
        self.store.close()


class MemoryMachine(StoreMachine):
    def make(self) -> MemoryStore:
        return MemoryStore(clock=self.clock, token_cache_lifetime_seconds=9, removed_row_seconds=5)


class SQLiteMachine(StoreMachine):
    def make(self) -> SQLiteStore:
        self.folder = tempfile.TemporaryDirectory()
        return SQLiteStore(
            Path(self.folder.name) / "logout.db",
            clock=self.clock,
            token_cache_lifetime_seconds=9,
            removed_row_seconds=5,
        )

    def teardown(self) -> None:
        super().teardown()
        if hasattr(self, "folder"):
            self.folder.cleanup()


class RedisMachine(StoreMachine):
    server: Server
    sweeps_token_caches = False  # the server lets go of them by its own clock

    def make(self) -> RedisStore:
        return RedisStore(
            self.server.admin,
            prefix=new_prefix(),
            clock=self.clock,
            token_cache_lifetime_seconds=9,
            removed_row_seconds=5,
        )


class SQLAlchemyMachine(StoreMachine):
    server: PostgreSQL

    def make(self) -> SQLAlchemyStore:
        self.server.empty("model_")
        return SQLAlchemyStore(
            self.server.url(),
            prefix="model_",
            bound_seconds=60,
            listens=False,
            clock=self.clock,
            token_cache_lifetime_seconds=9,
            removed_row_seconds=5,
        )


TestMemoryStore = MemoryMachine.TestCase
TestMemoryStore.settings = few
TestSQLiteStore = SQLiteMachine.TestCase
TestSQLiteStore.settings = few


class TestRedisStore(RedisMachine.TestCase):
    settings = few

    @pytest.fixture(autouse=True)
    def _serve(self, server: Server) -> None:
        RedisMachine.server = server


@pytest.mark.matrix
class TestSQLAlchemyStore(SQLAlchemyMachine.TestCase):
    settings = settings(few, max_examples=15)

    @pytest.fixture(autouse=True)
    def _serve(self, postgresql: PostgreSQL) -> None:
        SQLAlchemyMachine.server = postgresql
