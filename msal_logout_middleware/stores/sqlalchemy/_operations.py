"""What the store does in its database: each operation is one function of a connection, in one transaction.

1. Transactions are READ COMMITTED: each statement sees all that was committed before it.
2. Whoever ends holds the *order* alone, from before its first look to its commit; whoever records holds it with others
   who record. So one of two comes first. If it is the ending, the other's first look comes after its commit, and sees
   the marks. If it is the record, the ending's look sees the record, and ends it. Endings commit in the order of their
   numbers, and so do their messages.
3. The order is a lock that ends with its transaction: of PostgreSQL's advisory ones, since a row's would let those who
   record pass an ending that waits; of InnoDB the row in `meta`. SQLite has one writer at a time.
4. What others may do at the same moment to the same rows shows as a collision: an error, after which the whole
   transaction is tried again from its start.
5. Whether a commit whose answer was lost took place is told by what it was to leave: a name that nothing else has.
6. `ask` is one statement, which sees one moment.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, NamedTuple, TypeVar, cast

from sqlalchemy import (
    Connection,
    CursorResult,
    Executable,
    delete,
    exists,
    func,
    insert,
    inspect,
    literal,
    or_,
    select,
    text,
    true,
    update,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.schema import CreateIndex, CreateTable

from ...errors import StoreError
from .. import Ended, Ending, JournalRow, Jti, Loaded, Mark, SessionRecord
from .._feed import Answer, News, Tip
from .._times import CLOCK_STEP_SECONDS
from ._tables import SCHEMA_VERSION, Tables, migration

T = TypeVar("T")

_IN_ONE_STATEMENT = 500  # names
_TIPS_KEPT_SECONDS = 600.0
_LONGEST_MESSAGE = 7000  # bytes; PostgreSQL's own limit is 8000


class Pending:
    """An ending on its way, which may have to be tried more than once.

    Args:
        ending: What ends.
    """

    def __init__(self, ending: Ending) -> None:
        self.ending = ending
        self.name = secrets.token_hex(8)
        self.done: Done | None = None  # what was to be committed by the last try


class Done(NamedTuple):
    """What an ending has done, and what is told to the workers; nothing, if nothing has ended."""

    ended: Ended
    news: News | None


class _Mark(NamedTuple):
    """A mark as it stands in the table, those of sessions included."""

    kind: Any
    value: str
    before: float
    sequence: int
    expires_at: float


class Operations:
    """Every operation of the store.

    Args:
        tables: Where it is kept.
        clock: The time in seconds since 1970.
        token_cache_lifetime_seconds: How long a token cache is kept after its last write.
        removed_row_seconds: How long a removed token cache is remembered.
        notifies: Whether endings are told by NOTIFY.
    """

    def __init__(
        self,
        tables: Tables,
        *,
        clock: Callable[[], float],
        token_cache_lifetime_seconds: float,
        removed_row_seconds: float,
        notifies: bool,
    ) -> None:
        self._tables = tables
        self._clock = clock
        self._token_cache_lifetime = token_cache_lifetime_seconds
        self._removed_row = removed_row_seconds
        self._notifies = notifies
        name = hashlib.sha256(f"msal_logout_middleware {tables.prefix}".encode()).digest()
        self._order = int.from_bytes(name[:8], signed=True)

    # The tables

    def check(self, db: Connection) -> bool:
        """Tell whether the tables are there.

        Raises:
            StoreError: They are of another version.
        """
        meta = self._tables.meta
        if not inspect(db).has_table(meta.name):
            return False
        version = db.execute(select(meta.c.version)).scalar()
        if version is not None and version != SCHEMA_VERSION:
            newer = (
                "upgrade this one" if version > SCHEMA_VERSION else "run the migrations in its documentation"
            )
            raise StoreError(
                f"the store's tables have version {version}, and this msal_logout_middleware needs version"
                f" {SCHEMA_VERSION}: {newer}"
            )
        return version is not None

    def create(self, db: Connection) -> None:
        """Make what is not there of the tables, one worker at a time."""
        if db.dialect.name in {"mysql", "mariadb"}:  # where each statement is a transaction of its own
            lock = f"{self._tables.prefix}tables"
            if db.execute(select(func.get_lock(lock, 10))).scalar() != 1:
                raise StoreError("another worker has been making the store's tables for too long: try again")
            try:
                self._create(db)
            finally:
                db.execute(select(func.release_lock(lock)))
            return
        self._alone(db, with_tables=False)
        self._create(db)

    def _create(self, db: Connection) -> None:
        if self.check(db):
            return  # another worker was quicker
        there = {
            table: {index["name"] for index in inspect(db).get_indexes(table)}
            for table in self._tables.metadata.tables
            if inspect(db).has_table(table)
        }
        for statement in migration(SCHEMA_VERSION, prefix=self._tables.prefix):
            if isinstance(statement, CreateTable) and statement.element.name in there:
                continue
            if isinstance(statement, CreateIndex):
                index = statement.element
                if index.table is not None and index.name in there.get(index.table.name, ()):
                    continue
            db.execute(statement)

    # Who comes first

    def _alone(self, db: Connection, *, with_tables: bool = True) -> None:
        """Wait until nobody ends or records, and let nobody do so until the transaction is over."""
        if db.dialect.name == "postgresql":
            db.execute(text("SELECT pg_advisory_xact_lock(:order)"), {"order": self._order})
        elif with_tables:
            db.execute(select(self._tables.meta.c.one).with_for_update())

    def _among_others(self, db: Connection) -> None:
        """Wait until nobody ends, and let nobody do so until the transaction is over."""
        if db.dialect.name == "postgresql":
            db.execute(text("SELECT pg_advisory_xact_lock_shared(:order)"), {"order": self._order})
        else:
            db.execute(select(self._tables.meta.c.one).with_for_update(read=True))

    # Token caches

    def load(self, db: Connection, key: str) -> Loaded:
        """Return the token cache under a key."""
        caches = self._tables.token_caches.c
        found = db.execute(
            select(caches.data, caches.version).where(caches.key == key, caches.expires_at > self._clock())
        ).first()
        return Loaded(_bytes(found.data), found.version) if found else Loaded(None, "")

    def replace(self, db: Connection, key: str, expected: str, data: bytes | None) -> bool:
        """Write a token cache, in one statement that looks at the version itself."""
        now, caches = self._clock(), self._tables.token_caches
        row = {
            "data": data,
            "version": secrets.token_hex(16),
            "expires_at": now + (self._removed_row if data is None else self._token_cache_lifetime),
        }
        change = update(caches).where(caches.c.key == key).values(row)
        if expected:
            written = change.where(caches.c.version == expected, caches.c.expires_at > now)
            return _count(db, written) == 1
        # The row that has expired first: whoever had lost the race to insert would hold a lock that others wait for.
        if _count(db, change.where(caches.c.expires_at <= now)) == 1:
            return True
        try:
            db.execute(insert(caches).values(key=key, **row))
        except IntegrityError:
            return False
        return True

    # The session index

    def add(self, db: Connection, record: SessionRecord, *, sign_in: bool) -> bool:
        """Record a session under its first handle."""
        self._among_others(db)
        now = self._clock()
        marks = self._marks(db, (record.handle, record.session, *(() if sign_in else record.keys)))
        if _has_ended(record, marks, now):
            return False
        old = self._record(db, record.handle)
        if not sign_in and old and old.expires_at > now:
            return True
        if not sign_in and _is_ended_by_key(record, marks, now):
            return False
        self._insert(db, record, old)
        return True

    def join(self, db: Connection, record: SessionRecord) -> bool:
        """Record one more handle of a session, or more keys of one that it has."""
        self._among_others(db)
        now = self._clock()
        if _has_ended(record, self._marks(db, (record.handle, record.session)), now):
            return False
        old = self._record(db, record.handle)
        if old and old.expires_at > now and old.session == record.session:
            record = replace(record, keys=tuple(dict.fromkeys((*old.keys, *record.keys))))
        self._insert(db, record, old)
        return True

    def get(self, db: Connection, handle: str) -> SessionRecord | None:
        """Return the record of a live handle."""
        record = self._record(db, handle)
        return record if record and record.expires_at > self._clock() else None

    def find(self, db: Connection, key: str) -> Sequence[SessionRecord]:
        """Return the live records that are found by a key."""
        records, keys = self._tables.records, self._tables.record_keys
        found = (
            select(records)
            .join(keys, keys.c.handle == records.c.handle)
            .where(keys.c.key == key, records.c.expires_at > self._clock())
        )
        return [_record(row) for row in db.execute(found)]

    def _record(self, db: Connection, handle: str) -> SessionRecord | None:
        records = self._tables.records
        row = db.execute(select(records).where(records.c.handle == handle)).first()
        return _record(row) if row else None

    def _insert(self, db: Connection, new: SessionRecord, old: SessionRecord | None) -> None:
        if old is not None:
            self._forget(db, (new.handle,))  # the one in whose place it comes
        row = {
            "handle": new.handle,
            "session": new.session,
            "keys": json.dumps(new.keys),
            "issued_at": new.issued_at,
            "data": new.data,
            "expires_at": new.expires_at,
        }
        db.execute(insert(self._tables.records), row)
        if new.keys:
            keys = [{"key": key, "handle": new.handle} for key in dict.fromkeys(new.keys)]
            db.execute(insert(self._tables.record_keys), keys)

    def _forget(self, db: Connection, handles: Iterable[str]) -> None:
        """Delete records. The records come first everywhere, so that nobody waits in a circle."""
        for some in _batches(handles):
            for table in (self._tables.records, self._tables.record_keys):
                db.execute(delete(table).where(table.c.handle.in_(some)))

    def _marks(self, db: Connection, values: Sequence[str]) -> list[_Mark]:
        """Return the marks on some values, those that have expired as well."""
        marks = self._tables.marks
        columns = (marks.c.kind, marks.c.value, marks.c.before, marks.c.sequence, marks.c.expires_at)
        found: list[_Mark] = []
        for some in _batches(values):
            found += [_Mark(*row) for row in db.execute(select(*columns).where(marks.c.value.in_(some)))]
        return found

    # Ending

    def end(self, db: Connection, pending: Pending) -> Done:
        """End sessions: marks, journal and `jti` in one transaction. Every ending is committed here."""
        self._alone(db)
        now, ending = self._clock(), pending.ending
        epoch, tip = self._state(db)
        if pending.done and self._has_committed(db, pending, tip):
            return pending.done
        if ending.jti and not self._claim(db, ending.jti, pending.name, now):
            return Done(Ended(claimed=False, row=None, sequence=tip.sequence), None)
        records = self._found(db, ending)
        sessions = dict.fromkeys((*ending.sessions, *(record.session for record in records)))
        if not (ending.handles or sessions or ending.keys):
            return Done(Ended(claimed=True, row=None, sequence=tip.sequence), None)
        marks = self._mark(db, ending, sessions, records, after=tip.sequence, now=now)
        self._forget(db, [record.handle for record in records])
        new = Tip(tip.sequence + len(marks), pending.name)
        row = self._write_journal(db, ending, new, records, now)
        told = [Mark(*mark) for mark in marks if mark.kind != "session"]
        news = News(epoch, tip, new, told)
        self._move(db, news, now)
        pending.done = Done(Ended(claimed=True, row=row, sequence=new.sequence, records=tuple(records)), news)
        return pending.done

    def _state(self, db: Connection) -> tuple[str, Tip]:
        """Return the epoch, and the last ending."""
        meta = self._tables.meta.c
        epoch, sequence, name = db.execute(select(meta.epoch, meta.sequence, meta.tip)).one()
        return epoch, Tip(sequence, name)

    def _has_committed(self, db: Connection, pending: Pending, tip: Tip) -> bool:
        """Tell whether the last try was committed, though its answer was lost."""
        news = pending.done and pending.done.news
        if not news:
            return False
        return news.tip == tip or bool(db.execute(select(self._has_passed(news.tip))).scalar())

    def _has_passed(self, tip: Tip) -> Any:
        tips = self._tables.tips.c
        return exists().where(tips.sequence == tip.sequence, tips.tip == tip.name)

    def _claim(self, db: Connection, jti: Jti, name: str, now: float) -> bool:
        jtis = self._tables.jtis
        row = {"claimed_by": name, "expires_at": jti.expires_at}
        old = db.execute(select(jtis.c.claimed_by, jtis.c.expires_at).where(jtis.c.key == jti.key)).first()
        if old is None:
            db.execute(insert(jtis), {"key": jti.key, **row})
            return True
        if old.expires_at > now:
            return bool(old.claimed_by == name)  # by an earlier try of this very ending
        db.execute(update(jtis).where(jtis.c.key == jti.key).values(row))
        return True

    def _found(self, db: Connection, ending: Ending) -> list[SessionRecord]:
        """Return every record of every session that ends. Those that have expired count: the clock may be set back."""
        records, keys = self._tables.records, self._tables.record_keys
        spared = frozenset(ending.spared)
        found: dict[str, SessionRecord] = {}
        for column, values in (
            (records.c.handle, ending.handles),
            (records.c.session, ending.sessions),
            (keys.c.key, ending.found_by),
        ):
            for some in _batches(values):
                sought = select(records.c.session.label("session")).where(column.in_(some))
                if column is keys.c.key:
                    sought = sought.join(keys, keys.c.handle == records.c.handle)
                sessions = sought.distinct().subquery()
                for row in db.execute(
                    select(records).join(sessions, sessions.c.session == records.c.session)
                ):
                    if column is not keys.c.key or row.session not in spared:
                        found[row.handle] = _record(row)
        return list(found.values())

    def _mark(
        self,
        db: Connection,
        ending: Ending,
        sessions: Iterable[str],
        records: Iterable[SessionRecord],
        *,
        after: int,
        now: float,
    ) -> list[_Mark]:
        """Write the marks, each with its own number; over one that is there, it ends no less, and no shorter."""
        handles = dict.fromkeys((*ending.handles, *(record.handle for record in records)))
        latest: dict[str, float] = {}
        for key, before in ending.keys:
            latest[key] = max(before, latest.get(key, before))
        new: dict[tuple[str, str], float] = {
            **{("session", session): 0.0 for session in sessions},
            **{("handle", handle): 0.0 for handle in handles},
            **{("key", key): before for key, before in latest.items()},
        }
        values = list(dict.fromkeys(value for _, value in new))
        old = {(mark.kind, mark.value): mark for mark in self._marks(db, values)}
        marks = []
        for sequence, ((kind, value), before) in enumerate(new.items(), after + 1):
            expires_at = ending.expires_at
            if there := old.get((kind, value)):
                before = max(before, there.before) if there.expires_at > now else before  # noqa: PLW2901
                expires_at = max(expires_at, there.expires_at)
            marks.append(_Mark(kind, value, before, sequence, expires_at))
        table = self._tables.marks
        for some in _batches([mark.sequence for name, mark in old.items() if name in new]):
            db.execute(delete(table).where(table.c.sequence.in_(some)))
        for few in _batches(marks):
            db.execute(insert(table), [mark._asdict() for mark in few])
        return marks

    def _write_journal(
        self, db: Connection, ending: Ending, tip: Tip, records: Iterable[SessionRecord], now: float
    ) -> str | None:
        if ending.work is None:
            return None
        row = {
            "sequence": tip.sequence,
            "name": tip.name,
            "work": ending.work,
            "leased_at": now,
            "leased_until": now + ending.lease_seconds,
        }
        db.execute(insert(self._tables.journal), row)
        distinct = dict.fromkeys(record.data for record in records)
        if distinct:
            data = [
                {"sequence": tip.sequence, "number": number, "data": each}
                for number, each in enumerate(distinct)
            ]
            db.execute(insert(self._tables.journal_data), data)
        return tip.name

    def _move(self, db: Connection, news: News, now: float) -> None:
        """Write the new tip, and tell it to who listens when the transaction is committed."""
        old, new = news.after, news.tip
        row = {"sequence": old.sequence, "tip": old.name, "expires_at": now + _TIPS_KEPT_SECONDS}
        db.execute(insert(self._tables.tips), row)
        change = update(self._tables.meta).values(sequence=new.sequence, tip=new.name)
        if self._notifies:
            notify = func.pg_notify(self.channel(news.epoch), message(news))
            change = change.returning(notify)
        db.execute(change).close()

    def channel(self, epoch: str) -> str:
        """Return where endings are told: only to those who use these very tables."""
        return f"{self._tables.prefix}{epoch}"

    # The journal

    def take(self, db: Connection, *, limit: int, lease_seconds: float) -> Sequence[JournalRow]:
        """Lease open journal rows, the oldest first."""
        now, journal = self._clock(), self._tables.journal
        is_open = or_(journal.c.leased_until <= now, journal.c.leased_at > now + CLOCK_STEP_SECONDS)
        if db.execute(select(journal.c.sequence).where(is_open).limit(1)).first() is None:
            return []  # which is so nearly always, and holds nobody up
        self._alone(db)
        rows = db.execute(
            select(journal.c.sequence, journal.c.name, journal.c.work)
            .where(is_open)
            .order_by(journal.c.sequence)
            .limit(limit)
        ).all()
        for some in _batches([row.sequence for row in rows]):
            lease = {"leased_at": now, "leased_until": now + lease_seconds}
            db.execute(update(journal).where(journal.c.sequence.in_(some)).values(lease))
        return [JournalRow(row.name, _bytes(row.work), self._journal_data(db, row.sequence)) for row in rows]

    def _journal_data(self, db: Connection, sequence: int) -> tuple[bytes, ...]:
        data = self._tables.journal_data.c
        found = select(data.data).where(data.sequence == sequence).order_by(data.number)
        return tuple(_bytes(row.data) for row in db.execute(found))

    def finish(self, db: Connection, row: str) -> None:
        """Clear a journal row."""
        journal, data = self._tables.journal, self._tables.journal_data
        named = select(journal.c.sequence).where(journal.c.name == row)
        db.execute(delete(data).where(data.c.sequence.in_(named)))
        db.execute(delete(journal).where(journal.c.name == row))

    def open_rows(self, db: Connection) -> int:
        """Return how many journal rows are not finished."""
        return int(db.execute(select(func.count()).select_from(self._tables.journal)).scalar_one())

    # The feed

    def ask(self, db: Connection, known: Tip | None, cursor: int | None, limit: int) -> Answer:
        """Return the last ending, whether the store has the one that the worker knows, and the marks since a cursor."""
        meta, table = self._tables.meta.c, self._tables.marks.c
        state = [meta.epoch, meta.sequence.label("last"), meta.tip]
        state.append((literal(1) if known is None else self._has_passed(known)).label("has_passed"))
        if cursor is None:
            rows = db.execute(select(*state)).all()
        else:
            marks = (
                select(table.kind, table.value, table.before, table.sequence, table.expires_at)
                .where(table.sequence > cursor, table.kind != "session", table.expires_at > self._clock())
                .order_by(table.sequence)
                .limit(limit)
                .subquery()
            )
            joined = self._tables.meta.outerjoin(marks, true())
            rows = db.execute(select(*state, *marks.c).select_from(joined).order_by(marks.c.sequence)).all()
        first = rows[0]
        tip = Tip(first.last, first.tip)
        found = [Mark(*row[4:]) for row in rows if len(row) > 4 and row[4] is not None]
        return Answer(
            epoch=first.epoch,
            tip=tip,
            has_known=known == tip or bool(first.has_passed),
            marks=found,
            is_all=len(found) < limit,
        )

    # Upkeep

    def sweep(self, db: Connection, limit: int) -> int:
        """Delete some of what has expired; return the number of rows."""
        tables, now = self._tables, self._clock()
        left = limit
        for table, key, kept_seconds in (
            (tables.token_caches, tables.token_caches.c.key, 0.0),
            (tables.records, tables.records.c.handle, 0.0),
            (tables.marks, tables.marks.c.sequence, CLOCK_STEP_SECONDS),
            (tables.jtis, tables.jtis.c.key, CLOCK_STEP_SECONDS),
            (tables.tips, tables.tips.c.sequence, 0.0),
        ):
            over = table.c.expires_at <= now - kept_seconds
            found = (
                db.execute(select(key).where(over).order_by(table.c.expires_at).limit(left)).scalars().all()
            )
            if not found:
                continue
            if left == limit:
                self._among_others(db)
            left -= _count(db, delete(table).where(key.in_(sorted(found)), over))
            if table is tables.records:
                keys = tables.record_keys
                gone = keys.c.handle.not_in(select(table.c.handle).where(table.c.handle.in_(found)))
                db.execute(delete(keys).where(keys.c.handle.in_(found), gone))
            if left <= 0:
                break
        return limit - left


def message(news: News) -> str:
    """Return what tells an ending; without its marks, if it would be too long."""
    said: list[Any] = [news.epoch, *news.after, *news.tip]
    whole = json.dumps([*said, news.marks])
    return whole if len(whole) <= _LONGEST_MESSAGE else json.dumps([*said, None])


def news_in(said: str) -> News | None:
    """Return what a message tells; nothing, if it is none of ours."""
    try:
        epoch, after, after_name, tip, tip_name, marks = json.loads(said)
        found = None if marks is None else [Mark(*mark) for mark in marks]
        return News(epoch, Tip(after, after_name), Tip(tip, tip_name), found)
    except (ValueError, TypeError):
        return None


def _has_ended(record: SessionRecord, marks: Iterable[_Mark], now: float) -> bool:
    dead = {("handle", record.handle), ("session", record.session)}
    return any((mark.kind, mark.value) in dead and mark.expires_at > now for mark in marks)


def _is_ended_by_key(record: SessionRecord, marks: Iterable[_Mark], now: float) -> bool:
    found = (mark for mark in marks if mark.kind == "key" and mark.value in record.keys)
    return any(mark.before >= record.issued_at and mark.expires_at > now for mark in found)


def _record(row: Any) -> SessionRecord:
    handle, session, keys, issued_at, data, expires_at = row
    return SessionRecord(handle, session, tuple(json.loads(keys)), issued_at, _bytes(data), expires_at)


def _bytes(data: Any) -> Any:
    """Return what a driver gives for a BLOB, as the bytes that it was."""
    return data if data is None or isinstance(data, bytes) else bytes(data)


def _count(db: Connection, statement: Executable) -> int:
    """Return how many rows a change has changed."""
    return cast("CursorResult[Any]", db.execute(statement)).rowcount


def _batches(values: Iterable[T]) -> Iterator[list[T]]:
    """Yield values, as many at once as a statement may name."""
    left = iter(values)
    while some := list(islice(left, _IN_ONE_STATEMENT)):
        yield some
