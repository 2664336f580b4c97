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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, NamedTuple, TypeVar, cast

from sqlalchemy import (
    BindParameter,
    Connection,
    CursorResult,
    Delete,
    Executable,
    Insert,
    Integer,
    Update,
    bindparam,
    delete,
    exists,
    extract,
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
from .. import Ended, Ending, JournalRow, Jti, Loaded, Mark, Rows, SessionRecord
from .._feed import Answer, News, Tip
from .._times import CLOCK_STEP_SECONDS
from ._tables import SCHEMA_VERSION, Tables, migration

T = TypeVar("T")

_IN_ONE_STATEMENT = 500  # names
_TIPS_KEPT_SECONDS = 600.0
_LONGEST_MESSAGE = 7000  # bytes; PostgreSQL's own limit is 8000


class Pending:
    """An ending on its way, which may have to be tried more than once.

    `name` is that of the tip that it leaves, by which it is known again.

    Args:
        ending: What ends.
    """

    def __init__(self, ending: Ending) -> None:
        self.ending = ending
        self.name = secrets.token_hex(8)
        self.done: Done | None = None  # what was to be committed by the last try


class Done(NamedTuple):
    """What an ending has done.

    Args:
        ended: What it answers, but for the token caches that went.
        news: What is told to the workers; nothing, if nothing has ended.
        dropped: The handles whose token caches went, each with the row's name and what stood there.
    """

    ended: Ended
    news: News | None
    dropped: Mapping[str, tuple[str, bytes | None]] = {}


class _Mark(NamedTuple):
    """A mark as it stands in the table, those of sessions included."""

    kind: Any
    value: str
    before: float
    sequence: int
    expires_at: float


class _Statements:
    """What is said often, made once: to make a statement takes SQLAlchemy longer than to send it.

    Args:
        tables: The store's.
        names_server: Whether the database says since when its server runs.
    """

    def __init__(self, tables: Tables, *, names_server: bool) -> None:
        caches, records, keys = tables.token_caches, tables.records, tables.record_keys
        named = caches.c.key == bindparam("name")
        now: BindParameter[float] = bindparam("now")
        self.load = select(caches.c.data, caches.c.version).where(named, caches.c.expires_at > now)
        change = update(caches).where(named)
        self.replace = change.where(caches.c.version == bindparam("expected"), caches.c.expires_at > now)
        self.revive = change.where(caches.c.expires_at <= now)
        self.hold = (
            select(caches.c.key, caches.c.data, caches.c.expires_at)
            .where(caches.c.key.in_(bindparam("some", expanding=True)))
            .with_for_update()
        )
        self.drop = update(caches).where(caches.c.key.in_(bindparam("some", expanding=True)))

        marks = tables.marks.c
        mark = (marks.kind, marks.value, marks.before, marks.sequence, marks.expires_at)
        self.marks = select(*mark).where(marks.value.in_(bindparam("some", expanding=True)))
        self.record = select(records).where(records.c.handle == bindparam("name"))
        with_keys = records.join(keys, keys.c.handle == records.c.handle)
        self.find = (
            select(records)
            .select_from(with_keys)
            .where(keys.c.key == bindparam("name"), records.c.expires_at > now)
        )
        self.of_handles, self.of_sessions, self.of_keys = (
            select(records).join(sessions, sessions.c.session == records.c.session)
            for sessions in (
                select(records.c.session)
                .select_from(where)
                .where(column.in_(bindparam("some", expanding=True)))
                .distinct()
                .subquery()
                for where, column in (
                    (records, records.c.handle),
                    (records, records.c.session),
                    (with_keys, keys.c.key),
                )
            )
        )

        meta, tips, jtis = tables.meta.c, tables.tips.c, tables.jtis.c
        self.lock = select(meta.one).with_for_update()
        self.share = select(meta.one).with_for_update(read=True)
        self.state = select(meta.epoch, meta.sequence, meta.tip)
        has_passed = exists().where(tips.sequence == bindparam("known"), tips.tip == bindparam("known_tip"))
        self.has_passed = select(has_passed)
        self.jti = select(jtis.claimed_by, jtis.expires_at).where(jtis.key == bindparam("name"))

        news = (
            select(*mark)
            .where(marks.sequence > bindparam("cursor"), marks.kind != "session", marks.expires_at > now)
            .order_by(marks.sequence)
            .limit(bindparam("most", type_=Integer))
            .subquery()
        )
        # A restart or a promotion may have lost what was written last. As a number: a time's text depends on its zone.
        server: Any = literal("")
        if names_server:
            server = extract("epoch", func.pg_postmaster_start_time())
        state = (
            *(meta.epoch, meta.sequence.label("last"), meta.tip),
            *(has_passed.label("has_passed"), server.label("server")),
        )
        self.ask = select(*state)
        self.ask_for_marks = (
            select(*state, *news.c).select_from(tables.meta.outerjoin(news, true())).order_by(news.c.sequence)
        )


class Operations:
    """Every operation of the store.

    Args:
        tables: The store's.
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
        self._say = _Statements(tables, names_server=notifies)  # both are PostgreSQL's
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
            db.execute(self._say.lock)

    def _among_others(self, db: Connection) -> None:
        """Wait until nobody ends, and let nobody do so until the transaction is over."""
        if db.dialect.name == "postgresql":
            db.execute(text("SELECT pg_advisory_xact_lock_shared(:order)"), {"order": self._order})
        else:
            db.execute(self._say.share)

    # Token caches

    def load(self, db: Connection, row: str) -> Loaded:
        """Return the token cache in a row."""
        found = db.execute(self._say.load, {"name": row, "now": self._clock()}).first()
        return Loaded(_bytes(found.data), found.version) if found else Loaded(None, "")

    def replace(self, db: Connection, row: str, expected: str, data: bytes | None) -> bool:
        """Write a token cache, in one statement that looks at the version itself."""
        now = self._clock()
        new = {
            "data": data,
            "version": secrets.token_hex(16),
            "expires_at": now + (self._removed_row if data is None else self._token_cache_lifetime),
        }
        seen = {"name": row, "now": now}
        if expected:
            return _count(db, self._say.replace, {**seen, "expected": expected, **new}) == 1
        # The row that has expired first: whoever had lost the race to insert would hold a lock that others wait for.
        if _count(db, self._say.revive, {**seen, **new}) == 1:
            return True
        try:
            db.execute(insert(self._tables.token_caches), {"key": row, **new})
        except IntegrityError:
            return False
        return True

    def rows(self, db: Connection, after: str, limit: int) -> Rows:
        """Return some rows that have a token cache, in the order of their names."""
        caches = self._tables.token_caches.c
        found = select(caches.key).where(
            caches.key > after, caches.data.is_not(None), caches.expires_at > self._clock()
        )
        names = list(db.execute(found.order_by(caches.key).limit(limit)).scalars())
        return Rows(names, names[-1] if len(names) == limit else None)

    def replace_row(self, db: Connection, row: str, expected: str, data: bytes) -> bool:
        """Write what is to stand in a row that has a token cache."""
        seen = {"name": row, "now": self._clock(), "expected": expected}
        change = self._say.replace.where(self._tables.token_caches.c.data.is_not(None))
        return _count(db, change, {**seen, "data": data, "version": secrets.token_hex(16)}) == 1

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
        return replace(record, cache=None) if record and record.expires_at > self._clock() else None

    def find(self, db: Connection, key: str) -> Sequence[SessionRecord]:
        """Return the live records that are found by a key."""
        found = db.execute(self._say.find, {"name": key, "now": self._clock()})
        return [replace(_record(row), cache=None) for row in found]

    def _record(self, db: Connection, handle: str) -> SessionRecord | None:
        row = db.execute(self._say.record, {"name": handle}).first()
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
            "cache": new.cache,
        }
        db.execute(insert(self._tables.records), row)
        if new.keys:
            keys = [{"key": key, "handle": new.handle} for key in dict.fromkeys(new.keys)]
            db.execute(insert(self._tables.record_keys), keys)

    def _forget(self, db: Connection, handles: Iterable[str]) -> None:
        """Delete records. The records come first everywhere, so that nobody waits in a circle."""
        for some in _batches(handles):
            of_records, of_keys = (
                delete(table).where(table.c.handle.in_(some))
                for table in (self._tables.records, self._tables.record_keys)
            )
            self._both(db, of_records, of_keys)

    def _both(self, db: Connection, first: Insert | Delete, then: Update | Delete) -> CursorResult[Any]:
        """Make changes of two tables; by one statement where the database can."""
        if db.dialect.name == "postgresql":
            then = then.add_cte(first.cte("first"))
        else:
            db.execute(first)
        return db.execute(then)

    def _marks(self, db: Connection, values: Sequence[str]) -> list[_Mark]:
        """Return the marks on some values, those that have expired as well."""
        found: list[_Mark] = []
        for some in _batches(values):
            found += [_Mark(*row) for row in db.execute(self._say.marks, {"some": some})]
        return found

    # Ending

    def end(self, db: Connection, pending: Pending) -> Done:
        """End sessions: marks, journal and `jti` in one transaction. Every ending is committed here."""
        ending = pending.ending
        is_vague = not (ending.handles or ending.sessions or ending.keys or ending.jti)
        if is_vague and not pending.done and not self._found(db, ending):
            # Anybody may ask for a `sid` that nobody has: that must not hold others up.
            _, tip = self._state(db)
            return Done(Ended(claimed=True, row=None, sequence=tip.sequence), None)
        self._alone(db)
        now = self._clock()
        epoch, tip = self._state(db)
        if pending.done and self._has_committed(db, pending, tip):
            return pending.done
        if ending.jti and not self._claim(db, ending.jti, pending.name, now):
            return Done(Ended(claimed=False, row=None, sequence=tip.sequence), None)
        found = self._found(db, ending)
        records = [replace(record, cache=None) for record in found]
        sessions = dict.fromkeys((*ending.sessions, *(record.session for record in records)))
        if not (ending.handles or sessions or ending.keys):
            return Done(Ended(claimed=True, row=None, sequence=tip.sequence), None)
        marks = self._mark(db, ending, sessions, records, after=tip.sequence, now=now)
        self._forget(db, [record.handle for record in records])
        new = Tip(tip.sequence + len(marks), pending.name)
        dropped = self._drop_caches(db, found, now) if ending.drops else {}
        is_all = bool(dropped) and {*ending.handles, *(record.handle for record in records)} == dropped.keys()
        row = None if is_all else self._write_journal(db, ending, new, records, now)
        told = [Mark(*mark) for mark in marks if mark.kind != "session"]
        news = News(epoch, tip, new, told)
        self._move(db, news, now)
        ended = Ended(claimed=True, row=row, sequence=new.sequence, records=tuple(records))
        pending.done = Done(ended, news, dropped)
        return pending.done

    def _state(self, db: Connection) -> tuple[str, Tip]:
        """Return the epoch, and the last ending."""
        epoch, sequence, name = db.execute(self._say.state).one()
        return epoch, Tip(sequence, name)

    def _has_committed(self, db: Connection, pending: Pending, tip: Tip) -> bool:
        """Tell whether the last try was committed, though its answer was lost."""
        news = pending.done and pending.done.news
        if not news:
            return False
        if news.tip == tip:
            return True
        return bool(db.execute(self._say.has_passed, _known(news.tip)).scalar())

    def _claim(self, db: Connection, jti: Jti, name: str, now: float) -> bool:
        jtis = self._tables.jtis
        row = {"claimed_by": name, "expires_at": jti.expires_at}
        old = db.execute(self._say.jti, {"name": jti.key}).first()
        if old is None:
            db.execute(insert(jtis), {"key": jti.key, **row})
            return True
        if old.expires_at > now:
            return bool(old.claimed_by == name)  # by an earlier try of this very ending
        db.execute(update(jtis).where(jtis.c.key == jti.key).values(row))
        return True

    def _found(self, db: Connection, ending: Ending) -> list[SessionRecord]:
        """Return every record of every session that ends. Those that have expired count: the clock may be set back."""
        spared = frozenset(ending.spared)
        found: dict[str, SessionRecord] = {}
        for statement, names in (
            (self._say.of_handles, ending.handles),
            (self._say.of_sessions, ending.sessions),
            (self._say.of_keys, ending.found_by),
        ):
            for some in _batches(names):
                for record in map(_record, db.execute(statement, {"some": some})):
                    if statement is not self._say.of_keys or record.session not in spared:
                        found[record.handle] = record
        return list(found.values())

    def _drop_caches(
        self, db: Connection, records: Iterable[SessionRecord], now: float
    ) -> dict[str, tuple[str, bytes | None]]:
        """Remove the token caches of records, as `replace` does; return what went with which handle, each once."""
        handles: dict[str, list[str]] = {}
        for record in records:
            if record.cache is not None:
                handles.setdefault(record.cache, []).append(record.handle)
        new = {"data": None, "version": secrets.token_hex(16), "expires_at": now + self._removed_row}
        there: dict[str, bytes | None] = {}
        for some in _batches(handles):
            held = db.execute(self._say.hold, {"some": some}).all()
            there |= {row.key: _bytes(row.data) if row.expires_at > now else None for row in held}
            if held:
                db.execute(self._say.drop, {"some": some, **new})
            if absent := [{"key": row, **new} for row in some if row not in there]:
                db.execute(insert(self._tables.token_caches), absent)  # so that no first save comes late
        return {
            handle: (row, None if number else there.get(row))
            for row, several in handles.items()
            for number, handle in enumerate(several)
        }

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
        change = update(self._tables.meta).values(sequence=new.sequence, tip=new.name)
        if self._notifies:
            notify = func.pg_notify(self.channel(news.epoch), message(news))
            change = change.returning(notify)
        self._both(db, insert(self._tables.tips).values(row), change).close()

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
        asked = _known(known or Tip(-1, ""))
        rows: Sequence[Any]
        if cursor is None:
            rows = db.execute(self._say.ask, asked).all()
        else:
            asked |= {"cursor": cursor, "now": self._clock(), "most": limit}
            rows = db.execute(self._say.ask_for_marks, asked).all()
        first = rows[0]
        tip = Tip(first.last, first.tip)
        found = [Mark(*row[5:]) for row in rows if len(row) > 5 and row[5] is not None]
        return Answer(
            epoch=first.epoch,
            tip=tip,
            has_known=known in {None, tip} or bool(first.has_passed),
            marks=found,
            is_all=len(found) < limit,
            server=str(first.server),
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
            found = db.scalars(select(key).where(over).order_by(table.c.expires_at).limit(left)).all()
            if not found:
                continue
            # From the first deletion on: who ends may have read a `jti` that has expired, to claim it anew.
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
    """Return a record, with the name of its token cache's row for its key."""
    handle, session, keys, issued_at, data, expires_at, cache = row
    return SessionRecord(handle, session, tuple(json.loads(keys)), issued_at, _bytes(data), expires_at, cache)


def _bytes(data: Any) -> Any:
    """Return what a driver gives for a BLOB, as the bytes that it was."""
    return data if data is None or isinstance(data, bytes) else bytes(data)


def _known(tip: Tip) -> dict[str, Any]:
    return {"known": tip.sequence, "known_tip": tip.name}


def _count(db: Connection, statement: Executable, values: dict[str, Any] | None = None) -> int:
    """Return how many rows a change has changed."""
    return cast("CursorResult[Any]", db.execute(statement, values)).rowcount


def _batches(values: Iterable[T]) -> Iterator[list[T]]:
    """Yield values, as many at once as a statement may name."""
    left = iter(values)
    while some := list(islice(left, _IN_ONE_STATEMENT)):
        yield some
