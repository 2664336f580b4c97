"""The store for many machines whose workers share a SQL database: PostgreSQL, MySQL or MariaDB, through SQLAlchemy.

1. What is done in the database is written once, as functions of a connection (`_operations.py`): a synchronous engine
   calls them, an asynchronous one by SQLAlchemy's own bridge.
2. Every change is one transaction. One that collides with another, or whose pooled connection the server has closed, is
   tried again from its start, a bounded number of times.
3. Connections are opened at the first use; none of them is used in a process that was forked since, nor by another
   event loop.
4. What other workers end is known by the feed (`_feed.py`): from PostgreSQL by LISTEN, else by asking often.
5. No error of ours repeats what an engine's says, or has it as its cause: it may quote tokens and passwords.
"""

from __future__ import annotations

import asyncio
import math
import os
import random
import time
import weakref
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any, TypeVar, cast

from sqlalchemy import URL, Connection, Engine, create_engine, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from ..._drive import MaybeAwaitable, run, settle
from ...errors import StoreError
from .. import Ended, Ending, JournalRow, Loaded, Marks, Rows, SessionRecord
from .._feed import Answer, Feed, Messages, Tip
from .._keys import positive, row_of
from .._options import check_options
from .._times import REMOVED_ROW_SECONDS, TOKEN_CACHE_LIFETIME_SECONDS
from ..encryption import Encryption, opened, protected
from ._errors import NO_TABLES, Fault, fault, is_misread, name_of
from ._listening import Asyncpg, AsyncPsycopg, Psycopg, can_listen
from ._operations import Operations, Pending
from ._tables import PREFIX, SCHEMA_VERSION, Tables, migration
from ._waiting import bound

__all__ = ["PREFIX", "SCHEMA_VERSION", "SQLAlchemyStore", "Tables", "migration"]

T = TypeVar("T")

_DATABASES = ("postgresql", "mysql", "mariadb", "sqlite")
_TRIES = 8
_FIRST_WAIT_SECONDS = 0.002
_WRITES_TO_A_SWEEP = 10
_SWEPT_BY_WRITES = 100
_SWEPT_AT_ONCE = 500
_POLLING_BEAT_SECONDS = 0.05

_READ_COMMITTED = {"isolation_level": "READ COMMITTED"}
_AUTOCOMMIT = {"isolation_level": "AUTOCOMMIT"}


class SQLAlchemyStore:
    """Keeps everything in a database of PostgreSQL, MySQL or MariaDB, for all workers of all machines.

    SQLite is for tests: `SQLiteStore` serves one machine better. An asynchronous driver (asyncpg, psycopg_async,
    asyncmy, aiosqlite) makes an asynchronous store, whose methods return awaitables, and which needs asyncio.

    Args:
        engine_or_url: A database URL, or an `Engine` or `AsyncEngine` of yours. A URL is the better choice: its
            connections get timeouts, and the isolation level at no cost.
        prefix: What the names of the tables begin with: up to 20 small letters, digits and `_`.
        bound_seconds: For how long a worker may serve sessions without an answer of the database that they still live.
        beat_seconds: How often each worker asks: four times within the bound where it listens, and else every 50 ms.
        listens: Whether workers LISTEN for endings (PostgreSQL by psycopg 3.2 or asyncpg). By default where they can;
            say `False` behind a pooler that lends connections for a transaction.
        timeout_seconds: How long a call waits for the database before it fails, with a URL; an engine has its own. With
            either, what collides or was cut off is not tried again after that.
        clock: The time in seconds since 1970, by which things expire.
        token_cache_lifetime_seconds: How long a token cache is kept after its last write.
        removed_row_seconds: How long a removed token cache is remembered, so that a save by a request that began
            before the removal fails. Longer than the longest request.
        create_tables: Whether the tables are made at the first use, where they are not there.
        encryption: Encrypts token caches in the database; they stand there in clear otherwise.

    Raises:
        ValueError: An argument is none of these, or the database is in memory, where workers cannot share it.
        ImportError: The driver is not installed.
    """

    drops_caches = True
    """Whether `end` removes token caches by itself."""

    def __init__(
        self,
        engine_or_url: str | URL | Engine | AsyncEngine,
        *,
        prefix: str = PREFIX,
        bound_seconds: float = 1.0,
        beat_seconds: float | None = None,
        listens: bool | None = None,
        timeout_seconds: float = 5.0,
        clock: Callable[[], float] = time.time,
        token_cache_lifetime_seconds: float = TOKEN_CACHE_LIFETIME_SECONDS,
        removed_row_seconds: float = REMOVED_ROW_SECONDS,
        create_tables: bool = True,
        encryption: Encryption | None = None,
    ) -> None:
        check_options(
            encryption,
            token_cache_lifetime_seconds=token_cache_lifetime_seconds,
            removed_row_seconds=removed_row_seconds,
            bound_seconds=bound_seconds,
            timeout_seconds=timeout_seconds,
        )
        tables = Tables(prefix)
        if not 0 < (beat_seconds or bound_seconds / 4) < bound_seconds:
            raise ValueError(
                "bound_seconds must be more than 0, and beat_seconds between 0 and bound_seconds"
            )
        self._engine: Engine | AsyncEngine
        if isinstance(engine_or_url, (str, URL)):
            self._is_own, self._engine = True, _engine(engine_or_url, timeout_seconds)
        else:
            self._is_own, self._engine = False, engine_or_url
        if not isinstance(self._engine, (Engine, AsyncEngine)):
            raise TypeError("SQLAlchemyStore needs a database URL, an Engine or an AsyncEngine")
        self.is_async = isinstance(self._engine, AsyncEngine)
        """Whether the methods return awaitables."""
        self.blocking = not self.is_async
        """Whether calls wait for the database, so that an event loop must make them in a worker thread."""
        name = self._engine.dialect.name
        _check_served(name)
        if name == "sqlite" and self._engine.url.database in {None, "", ":memory:"}:
            raise ValueError("an in-memory database is not shared between workers; use MemoryStore for tests")
        can = can_listen(_inner(self._engine))
        if listens and not can:
            raise ValueError("listens=True needs PostgreSQL, and psycopg 3.2 or asyncpg as its driver")
        self._listens = can and listens is not False
        self._name = name_of(self._engine.url)
        self._timeout = timeout_seconds
        self._creates_tables = create_tables
        self._operations = Operations(
            tables,
            clock=clock,
            token_cache_lifetime_seconds=token_cache_lifetime_seconds,
            removed_row_seconds=removed_row_seconds,
            notifies=name == "postgresql",
        )
        self._clock = clock
        self.encryption = encryption
        # SQLite's transactions are begun by hand, since its drivers begin them too late.
        transactions = _AUTOCOMMIT if name == "sqlite" else {} if self._is_own else _READ_COMMITTED
        # What is one statement needs no more, where to say so costs no round trip.
        statements = _AUTOCOMMIT if name == "postgresql" else transactions
        self._transactions = self._engine.execution_options(**transactions)
        self._statements = self._engine.execution_options(**statements)
        beat = (
            beat_seconds if self._listens or beat_seconds else min(_POLLING_BEAT_SECONDS, bound_seconds / 4)
        )
        self._feed = Feed(_Source(self), bound_seconds=bound_seconds, beat_seconds=beat, wall_clock=clock)
        self._start()
        _stores.add(self)

    def _start(self) -> None:
        self._pid = os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_ready = False
        self._writes = count(1)

    # Token caches

    def load(self, key: str) -> MaybeAwaitable[Loaded]:
        """Return the token cache under a key; one that was never there has the version `""`."""
        return self._driven(self._load(row_of(key)))

    async def _load(self, row: str) -> Loaded:
        return opened(self.encryption, row, await settle(self.load_row(row)))

    def replace(self, key: str, expected: str, data: bytes | None) -> MaybeAwaitable[bool]:
        """Write a token cache (`None`: remove it) if its version is still the expected one."""
        row = row_of(key)
        data = protected(self.encryption, row, data)
        replace = partial(self._operations.replace, row=row, expected=expected, data=data)
        return self._do(self._statements, replace, sweeps=True)

    def rows(self, after: str | None = None, *, limit: int) -> MaybeAwaitable[Rows]:
        """Return some rows that have a token cache, in the order of their names: the keys' SHA-256."""
        return self._look(partial(self._operations.rows, after=after or "", limit=positive(limit)))

    def load_row(self, row: str) -> MaybeAwaitable[Loaded]:
        """Return what stands in a row, as it stands there."""
        return self._look(partial(self._operations.load, row=row))

    def replace_row(self, row: str, expected: str, data: bytes) -> MaybeAwaitable[bool]:
        """Write what is to stand in a row, as it is, if its version is still the expected one."""
        return self._look(partial(self._operations.replace_row, row=row, expected=expected, data=data))

    # The session index

    def add(self, record: SessionRecord, *, sign_in: bool) -> MaybeAwaitable[bool]:
        """Record a session under its first handle; `False` if it has ended."""
        add = partial(self._operations.add, record=_with_row(record), sign_in=sign_in)
        return self._change(add, sweeps=True)

    def join(self, record: SessionRecord) -> MaybeAwaitable[bool]:
        """Record one more handle of a session, or more keys of one that it has; `False` if it has ended."""
        return self._change(partial(self._operations.join, record=_with_row(record)), sweeps=True)

    def get(self, handle: str) -> MaybeAwaitable[SessionRecord | None]:
        """Return the record of a live handle."""
        return self._look(partial(self._operations.get, handle=handle))

    def find(self, key: str) -> MaybeAwaitable[Sequence[SessionRecord]]:
        """Return the live records that are found by a key."""
        return self._look(partial(self._operations.find, key=key))

    def end(self, ending: Ending) -> MaybeAwaitable[Ended]:
        """End sessions: marks, journal and `jti` in one transaction; then this worker's own feed knows."""
        return self._driven(self._end(Pending(ending)))

    async def _end(self, pending: Pending) -> Ended:
        try:
            done = await settle(self._change(partial(self._operations.end, pending=pending), sweeps=True))
        except BaseException:  # cancelled ones as well: whether it was committed cannot be told
            self._feed.doubt()
            raise
        if done.news is not None:
            self._feed.ended(done.news)
        dropped = {
            handle: opened(self.encryption, row, Loaded(data, "")).data
            for handle, (row, data) in done.dropped.items()
        }
        return done.ended._replace(dropped=dropped)

    def take(self, *, limit: int, lease_seconds: float) -> MaybeAwaitable[Sequence[JournalRow]]:
        """Lease open journal rows whose lease has run out, the oldest first, so that no other worker does."""
        take = partial(self._operations.take, limit=positive(limit), lease_seconds=lease_seconds)
        return self._change(take)

    def finish(self, row: str) -> MaybeAwaitable[None]:
        """Clear a journal row; no error if it is gone."""
        return self._change(partial(self._operations.finish, row=row))

    def marks_since(self, cursor: int, *, limit: int) -> MaybeAwaitable[Marks]:
        """Return unexpired marks after a cursor (0: from the start), at most `limit`, in order."""
        self._notice_fork()
        held = self._feed.held(cursor, positive(limit), self._clock())
        return held if held is not None else self._driven(self._feed.marks_since(cursor, limit))

    def generation(self) -> int | None:
        """Return a number that is another one after each ending; `None` while that cannot be told."""
        return self._feed.generation()

    def open_rows(self) -> MaybeAwaitable[int]:
        """Return how many journal rows are not finished, leased or not."""
        return self._look(self._operations.open_rows)

    # Upkeep

    def sweep(self) -> MaybeAwaitable[int]:
        """Delete all that has expired, in small batches; return the number of rows.

        Writes sweep a little by themselves, so this is for quiet times.
        """
        return self._driven(self._sweep_all())

    async def _sweep_all(self) -> int:
        total = 0
        while swept := await settle(self._sweep(_SWEPT_AT_ONCE)):
            total += swept
        return total

    def _sweep(self, limit: int) -> MaybeAwaitable[int]:
        return self._change(partial(self._operations.sweep, limit=limit))

    def close(self) -> MaybeAwaitable[None]:
        """Stop listening, and close the connections of an engine that the store has made.

        The store may be used again, and opens them anew.
        """
        return self._driven(self._close())

    async def _close(self) -> None:
        self._notice_fork()
        follower = self._feed.stop()
        if follower is not None and follower.get_loop() is asyncio.get_running_loop():
            await asyncio.wait([follower])
        if self._is_own:
            await settle(cast("MaybeAwaitable[None]", self._engine.dispose()))

    # Driving

    def _driven(self, flow: Coroutine[Any, Any, T]) -> MaybeAwaitable[T]:
        return flow if self.is_async else run(flow)

    def _look(self, operation: Callable[[Connection], T]) -> MaybeAwaitable[T]:
        """Do an operation that is one statement, or as good as one."""
        return self._do(self._statements, operation)

    def _change(self, operation: Callable[[Connection], T], *, sweeps: bool = False) -> MaybeAwaitable[T]:
        """Do an operation in one transaction."""
        return self._do(self._transactions, partial(self._begun, operation), sweeps=sweeps)

    def _begun(self, operation: Callable[[Connection], T], connection: Connection) -> T:
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        return operation(connection)

    def _do(
        self,
        engine: Engine | AsyncEngine,
        operation: Callable[[Connection], T],
        *,
        sweeps: bool = False,
    ) -> MaybeAwaitable[T]:
        """Do an operation, in one transaction of the engine's.

        Args:
            engine: One of the store's two.
            operation: Is given the connection.
            sweeps: Whether it leaves rows that will expire, so that it has its share in the sweeping.
        """
        if isinstance(engine, AsyncEngine):
            return self._do_async(engine, operation, sweeps=sweeps)
        answer = self._call(engine, operation)
        if sweeps and self._is_to_sweep():
            with suppress(StoreError):  # what was asked for is done
                self._sweep(_SWEPT_BY_WRITES)
        return answer

    async def _do_async(
        self,
        engine: AsyncEngine,
        operation: Callable[[Connection], T],
        *,
        sweeps: bool,
    ) -> T:
        answer = await self._call_async(engine, operation)
        if sweeps and self._is_to_sweep():
            with suppress(StoreError):  # what was asked for is done
                await settle(self._sweep(_SWEPT_BY_WRITES))
        return answer

    def _is_to_sweep(self) -> bool:
        return next(self._writes) % _WRITES_TO_A_SWEEP == 0

    def _call(self, engine: Engine, operation: Callable[[Connection], T]) -> T:
        self._notice_fork()
        started, tried = time.monotonic(), 0
        while True:
            try:
                if not self._is_ready:
                    with cast("Engine", self._transactions).begin() as connection:
                        self._begun(self._prepare, connection)
                    self._is_ready = True
                with engine.begin() as connection:
                    return operation(connection)
            except Exception as error:  # any driver's
                wrong = fault(error, self._name)
            tried += 1
            time.sleep(self._wait(wrong, tried, started))

    async def _call_async(self, engine: AsyncEngine, operation: Callable[[Connection], T]) -> T:
        self._notice_fork()
        self._notice_loop()
        started, tried = time.monotonic(), 0
        while True:
            try:
                async with asyncio.timeout(self._timeout if self._is_own else None):
                    if not self._is_ready:
                        async with cast("AsyncEngine", self._transactions).begin() as connection:
                            await connection.run_sync(partial(self._begun, self._prepare))
                        self._is_ready = True
                    async with engine.begin() as connection:
                        return await connection.run_sync(operation)
            except Exception as error:  # any driver's
                wrong = fault(error, self._name)
            tried += 1
            await asyncio.sleep(self._wait(wrong, tried, started))

    def _prepare(self, connection: Connection) -> None:
        """See that the tables are there."""
        if self._operations.check(connection):
            return
        if not self._creates_tables:
            raise StoreError(f"the store's database {self._name} {NO_TABLES}")
        self._operations.create(connection)

    def _wait(self, wrong: Fault, tried: int, started: float) -> float:
        """Return for how many seconds to wait before the next try.

        Raises:
            StoreError: There is none.
        """
        if wrong.tables:
            self._is_ready = False
        if not wrong.again or tried >= _TRIES or time.monotonic() > started + self._timeout:
            raise StoreError(wrong.sentence)
        return random.uniform(0.5, 1.0) * _FIRST_WAIT_SECONDS * float(2**tried)  # noqa: S311 - no secret

    def _notice_fork(self) -> None:
        if self._pid != os.getpid():  # forked by a server written in C, which did not tell Python
            self._feed._start()
            self._after_fork()

    def _after_fork(self) -> None:
        """Leave the parent's connections alone: neither use them nor close them."""
        engine = _inner(self._engine)
        _inherited.append(engine.pool)
        engine.dispose(close=False)
        self._start()

    def _notice_loop(self) -> None:
        """Leave the connections of another event loop alone, which is closed by now."""
        loop = asyncio.get_running_loop()
        if self._loop is loop:
            return
        if self._loop is not None:
            _inner(self._engine).dispose(close=False)
        self._loop = loop


class _Source:
    """The store, as its feed asks it."""

    def __init__(self, store: SQLAlchemyStore) -> None:
        self._store = store
        self.is_async = store.is_async

    def ask(self, known: Tip | None, cursor: int | None, limit: int) -> MaybeAwaitable[Answer]:
        """Return the state of the store, and at most `limit` marks after a cursor (`None`: no marks)."""
        ask = partial(self._store._operations.ask, known=known, cursor=cursor, limit=limit)
        return self._store._look(ask)

    def subscribe(self) -> MaybeAwaitable[Messages | None]:
        """Subscribe to the store's messages, where it has any."""
        return self._store._driven(self._subscribe()) if self._store._listens else None

    async def _subscribe(self) -> Messages:
        engine = self._store._engine
        answer = await settle(self.ask(None, None, 1))
        channel = self._store._operations.channel(answer.epoch)
        if not isinstance(engine, AsyncEngine):
            return Psycopg(engine, channel)
        driver = Asyncpg if engine.dialect.driver == "asyncpg" else AsyncPsycopg
        return await driver.open(engine, channel)


def _inner(engine: Engine | AsyncEngine) -> Engine:
    """Return the engine that has the connections: the one inside, of an asynchronous one."""
    return engine.sync_engine if isinstance(engine, AsyncEngine) else engine


def _check_served(database: str) -> None:
    if database not in _DATABASES:
        raise ValueError(f"SQLAlchemyStore serves {', '.join(_DATABASES)}, not {database}")


def _engine(url: str | URL, timeout_seconds: float) -> Engine | AsyncEngine:
    try:
        parsed = make_url(url)
        is_async = parsed.get_dialect().is_async
    except (ArgumentError, ValueError):  # whose text repeats the URL, password and all, or its port
        parsed, is_async = None, False
    if parsed is None or is_misread(parsed):
        raise ValueError(
            "no database URL: it is like postgresql+psycopg://user:password@host/database, with what is not plain in"
            " the user and the password percent-encoded"
        )
    _check_served(parsed.get_backend_name())  # before anybody is told to install a driver
    options: dict[str, Any] = {
        "connect_args": _connect_arguments(parsed, timeout_seconds),
        "hide_parameters": True,
    }
    if parsed.get_backend_name() != "sqlite":
        options |= {"isolation_level": "READ COMMITTED", "pool_timeout": timeout_seconds}
    try:
        engine = create_async_engine(parsed, **options) if is_async else create_engine(parsed, **options)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{parsed.drivername}:// needs a driver that is not installed: its module is {error.name}",
            name=error.name,
        ) from error
    bound(engine, timeout_seconds)
    return engine


def _connect_arguments(url: URL, timeout_seconds: float) -> dict[str, Any]:
    """Return the driver's arguments by which nobody waits for ever; those that the URL has stay as they are."""
    seconds, milliseconds = math.ceil(timeout_seconds), math.ceil(1000 * timeout_seconds)
    # A worker that stands still in the middle of an ending must not hold up all others.
    idle = {"statement_timeout": milliseconds, "idle_in_transaction_session_timeout": 2 * milliseconds}
    of_mariadb = f"/*M!100300 , idle_transaction_timeout = {2 * seconds} */"
    lock_waits = f"SET SESSION innodb_lock_wait_timeout = {seconds} {of_mariadb}"
    driver = url.get_driver_name()
    arguments: dict[str, Any] = {}
    if driver in {"psycopg", "psycopg_async", "psycopg2"}:
        arguments = {
            "connect_timeout": max(2, seconds),  # libpq takes 1 for 2
            "options": " ".join(f"-c {name}={value}" for name, value in idle.items()),
            "tcp_user_timeout": milliseconds,
            "keepalives_idle": seconds,
            "keepalives_interval": seconds,
            "keepalives_count": 2,
        }
    elif driver == "asyncpg":
        arguments = {
            "timeout": timeout_seconds,
            "command_timeout": timeout_seconds,
            "server_settings": {name: str(value) for name, value in idle.items()},
        }
    elif driver in {"pymysql", "mysqldb"}:
        arguments = {"connect_timeout": seconds, "read_timeout": seconds, "write_timeout": seconds}
        arguments["init_command"] = lock_waits
    elif driver in {"aiomysql", "asyncmy"}:
        arguments = {"connect_timeout": seconds, "init_command": lock_waits}
    elif driver in {"pysqlite", "aiosqlite"}:
        arguments = {"timeout": timeout_seconds}
    return {name: value for name, value in arguments.items() if name not in url.query}


def _with_row(record: SessionRecord) -> SessionRecord:
    """Return a record that names its token cache's row for its key."""
    return record if record.cache is None else replace(record, cache=row_of(record.cache))


_stores: weakref.WeakSet[SQLAlchemyStore] = weakref.WeakSet()
_inherited: list[Any] = []  # pools of the parent's: their connections can be neither used nor closed


def _after_fork_in_child() -> None:
    for store in list(_stores):
        store._after_fork()


if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(after_in_child=_after_fork_in_child)
