"""What SQLAlchemyStore is beyond the contract: safe among machines, through faults, and clear about what is wrong."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import anyio
import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.operations import Operations as Alembic
from sqlalchemy import create_engine, event, text
from sqlalchemy.ext.asyncio import create_async_engine

from msal_logout_middleware._drive import settle
from msal_logout_middleware.errors import StoreError
from msal_logout_middleware.stores import Ending, Jti, KeyMark, SessionRecord
from msal_logout_middleware.stores import sqlalchemy as sqlalchemy_module
from msal_logout_middleware.stores._feed import Tip
from msal_logout_middleware.stores.sqlalchemy import SQLAlchemyStore, Tables, migration
from msal_logout_middleware.stores.sqlalchemy._listening import Asyncpg, AsyncPsycopg, Psycopg
from msal_logout_middleware.stores.sqlalchemy._operations import Pending
from msal_logout_middleware.testing.store_contract import Clock
from tests.stories.servers import until

from .databases import Database, MariaDB, PostgreSQL

LONG_SECONDS = 60
HOUR = 3_600.0
DEAD = Ending(handles=("h",), expires_at=9e9)
ASYNC_DRIVERS = ("psycopg_async", "asyncpg")

prefixes = (f"t{number}_" for number in count(1))
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
may_warn = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # there may be threads

Make = Callable[..., SQLAlchemyStore]


def a_record(handle: str = "h", session: str = "s", **changes: Any) -> SessionRecord:
    values: dict[str, Any] = {"keys": ("sub",), "issued_at": 1.0, "data": b"", "expires_at": 9e9}
    return SessionRecord(handle, session, **{**values, **changes})


def write(store: SQLAlchemyStore, data: bytes | None, key: str = "alice") -> bool:
    return store.replace(key, store.load(key).version, data)


def assert_says_no_secret(error: Exception) -> None:
    assert "secret" not in str(error)
    assert error.__context__ is None  # so that no log tells the engine's error with it


@pytest.fixture
def prefix() -> str:
    return next(prefixes)


@pytest.fixture
def make(postgresql: PostgreSQL, prefix: str) -> Iterator[Make]:
    """Make stores of workers over one PostgreSQL, or over another database."""
    stores = []

    def make(url: Any = None, **options: Any) -> SQLAlchemyStore:
        store = SQLAlchemyStore(url or postgresql.url(), **{"prefix": prefix, **options})
        stores.append(store)
        return store

    yield make
    for store in stores:
        store.close()


@pytest.fixture
def store(make: Make) -> SQLAlchemyStore:
    return make()


@pytest.fixture
def other(make: Make) -> SQLAlchemyStore:
    """Another worker's store over the same tables."""
    return make()


@pytest.fixture(params=["postgresql", "mariadb"])
def database(request: pytest.FixtureRequest) -> Database:
    return request.getfixturevalue(request.param)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as threads:
        yield threads


# Construction


@pytest.mark.parametrize(
    ("driver", "is_async"),
    [
        ("postgresql+psycopg", False),
        ("postgresql+psycopg_async", True),
        ("postgresql+asyncpg", True),
        ("mysql+pymysql", False),
        ("mariadb+pymysql", False),
        ("mysql+asyncmy", True),
    ],
)
def test_driver_says_whether_the_store_is_asynchronous(driver: str, is_async: bool) -> None:
    store = SQLAlchemyStore(f"{driver}://user:secret@192.0.2.1/app")
    assert store.is_async is is_async
    assert store.blocking is not is_async


@pytest.mark.parametrize("url", ["postgresql:/user:secret@host/db", "no+such:// secret", "secret"])
def test_what_is_no_url_is_refused_without_being_repeated(url: str) -> None:
    with pytest.raises(ValueError, match="database URL") as raised:
        SQLAlchemyStore(url)
    assert_says_no_secret(raised.value)


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "sqlite+aiosqlite:///:memory:"])
def test_database_that_workers_cannot_share_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="MemoryStore"):
        SQLAlchemyStore(url)


@pytest.mark.parametrize(
    "options",
    [
        {"prefix": ""},
        {"prefix": "1_"},
        {"prefix": 'x"; --'},
        {"prefix": "x" * 21},
        {"bound_seconds": 0},
        {"beat_seconds": 1.0},
        {"timeout_seconds": 0},
        {"listens": True},
    ],
)
def test_option_that_cannot_be_is_refused(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        SQLAlchemyStore(f"sqlite:///{tmp_path}/logout.db", **options)


def test_nothing_is_touched_before_the_first_use(tmp_path: Path) -> None:
    SQLAlchemyStore(f"sqlite:///{tmp_path}/logout.db").close()
    assert not (tmp_path / "logout.db").exists()


def test_engine_of_the_app_is_left_open_and_as_it_is(postgresql: PostgreSQL, make: Make) -> None:
    engine = create_engine(postgresql.url(), isolation_level="SERIALIZABLE")
    try:
        store = make(engine)
        write(store, b"1")
        store.close()
        assert engine.pool.checkedin() == 1
        with engine.connect() as connection:
            assert connection.execute(text("SHOW transaction_isolation")).scalar() == "serializable"
        with store._transactions.begin() as connection:
            assert connection.execute(text("SHOW transaction_isolation")).scalar() == "read committed"
    finally:
        engine.dispose()


@pytest.mark.parametrize("driver", ["psycopg", *ASYNC_DRIVERS])
def test_connections_of_a_url_have_an_isolation_level_and_timeouts(
    driver: str, postgresql: PostgreSQL, prefix: str
) -> None:
    names = ("transaction_isolation", "statement_timeout", "idle_in_transaction_session_timeout")

    async def said() -> list[str]:
        store = SQLAlchemyStore(postgresql.url(driver), prefix=prefix)
        try:
            return await settle(
                store._change(
                    lambda connection: [connection.execute(text(f"SHOW {name}")).scalar() for name in names]
                )
            )
        finally:
            await settle(store.close())

    assert asyncio.run(said()) == ["read committed", "5s", "10s"]


def test_what_the_url_says_itself_of_its_connections_stays(postgresql: PostgreSQL, make: Make) -> None:
    store = make(f"{postgresql.url()}?connect_timeout=7&keepalives_count=9")
    with store._transactions.begin() as connection:
        driver_connection: Any = connection.connection.driver_connection
    said = driver_connection.info.get_parameters()
    assert (said["connect_timeout"], said["keepalives_count"]) == ("7", "9")
    assert (said["keepalives_idle"], said["tcp_user_timeout"]) == ("5", "5000")


def test_nobody_waits_for_a_connection_for_longer_than_the_timeout(store: SQLAlchemyStore) -> None:
    with store._transactions.begin() as connection:
        driver_connection: Any = connection.connection.driver_connection
    assert driver_connection.info.get_parameters()["connect_timeout"] == "5"
    assert store._engine.pool.timeout() == 5.0  # type: ignore[attr-defined]  # a QueuePool's


def test_timeout_is_not_that_of_an_asynchronous_engine_of_the_app(
    postgresql: PostgreSQL, prefix: str
) -> None:
    async def story() -> None:
        engine = create_async_engine(postgresql.url("asyncpg"))
        store = SQLAlchemyStore(engine, prefix=prefix, timeout_seconds=1e-9)
        assert await settle(store.load("alice")) == (None, "")
        await settle(store.close())
        await engine.dispose()

    asyncio.run(story())


def test_connections_to_mariadb_have_an_isolation_level_and_timeouts(mariadb: MariaDB, make: Make) -> None:
    with make(mariadb.url())._transactions.begin() as connection:
        said = connection.execute(
            text("SELECT @@tx_isolation, @@innodb_lock_wait_timeout, @@idle_transaction_timeout")
        ).one()
    assert tuple(said) == ("READ-COMMITTED", 5, 10)


# What is in the tables


def test_workers_share_all_that_the_store_holds(store: SQLAlchemyStore, other: SQLAlchemyStore) -> None:
    write(store, b"1")
    ended = store.end(DEAD)
    assert other.load("alice") == store.load("alice")
    assert list(other.marks_since(0, limit=9).marks) == list(store.marks_since(0, limit=9).marks)
    assert not other.add(a_record(), sign_in=True)
    assert other.end(DEAD).sequence > ended.sequence


def test_marks_on_a_handle_and_on_a_key_of_the_same_name_are_two(store: SQLAlchemyStore) -> None:
    store.end(Ending(keys=(KeyMark("sub", 5.0),), expires_at=9e9))
    assert store.add(a_record("sub", "sub", keys=()), sign_in=True)
    store.end(Ending(handles=("sub",), expires_at=9e9))
    assert not store.add(a_record(), sign_in=False)
    assert not store.add(a_record("sub", keys=()), sign_in=True)


def test_cache_keys_are_not_in_clear(store: SQLAlchemyStore, postgresql: PostgreSQL, prefix: str) -> None:
    write(store, b"1", "alice@example.com")
    ((row,),) = postgresql.execute(f"SELECT t::text FROM {prefix}token_caches t")
    assert "alice" not in row


def test_rows_are_those_that_have_a_token_cache_and_no_others(make: Make, database: Database) -> None:
    clock = Clock(1000.0)
    store = make(database.url(), clock=clock, token_cache_lifetime_seconds=10)
    store.replace("old", "", b"1")
    clock.now += 10
    write(store, b"1", "removed")
    write(store, None, "removed")
    write(store, b"1")
    (name,) = store.rows(limit=9).names
    assert store.load_row(name) == store.load("alice")


def test_log_of_the_engine_tells_no_token(store: SQLAlchemyStore, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "sqlalchemy.engine"):
        write(store, b"a secret token")
    assert "token_caches" in caplog.text
    assert "secret" not in caplog.text


def test_sweeping_deletes_all_that_is_over_and_nothing_else(
    make: Make, postgresql: PostgreSQL, prefix: str
) -> None:
    clock = Clock(1000.0)
    store = make(clock=clock)
    for number in range(3):
        store.replace(f"cache {number}", "", b"1")
        store.add(a_record(f"h{number}", f"s{number}", expires_at=1010.0), sign_in=True)
        store.end(Ending(handles=(f"x{number}",), expires_at=1010.0, jti=Jti(f"jti {number}", 1010.0)))
    store.add(a_record("lives", "lives"), sign_in=True)
    clock.now = 1010.0 + HOUR
    store.replace("cache 0", store.load("cache 0").version, b"2")
    assert store.sweep() == 3 + 3 + 3 + 3  # records, marks, `jti`s, tips
    assert store.sweep() == 0
    clock.now += 89.5 * 86_400
    assert store.sweep() == 0
    clock.now += 86_400
    assert store.sweep() == 3
    left = {
        name.removeprefix(prefix): postgresql.execute(f"SELECT count(*) FROM {name}")[0][0]
        for name in Tables(prefix).metadata.tables
    }
    assert {name: number for name, number in left.items() if number} == {
        "meta": 1,
        "records": 1,
        "record_keys": 1,
    }


def test_writes_sweep_a_little_by_themselves(make: Make, postgresql: PostgreSQL, prefix: str) -> None:
    clock = Clock(1000.0)
    store = make(clock=clock, removed_row_seconds=10)
    for number in range(20):
        store.replace(f"cache {number}", "", None)
    clock.now = 1010.0
    for number in range(20):
        store.add(a_record(f"h{number}"), sign_in=True)
    assert postgresql.execute(f"SELECT count(*) FROM {prefix}token_caches") == [(0,)]


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
def test_write_whose_sweep_fails_is_done(driver: str, postgresql: PostgreSQL, prefix: str) -> None:
    async def story() -> None:
        store = SQLAlchemyStore(postgresql.url(driver), prefix=prefix)
        store._is_to_sweep = lambda: True  # type: ignore[method-assign]  # else by chance
        try:
            await settle(store.load("alice"))
            postgresql.execute(f"ALTER TABLE {prefix}tips RENAME TO {prefix}away")
            assert await settle(store.replace("alice", "", b"1"))
            with pytest.raises(StoreError):
                await settle(store.sweep())
        finally:
            await settle(store.close())

    asyncio.run(story())


def test_record_that_is_renewed_while_it_is_swept_keeps_its_keys(
    make: Make, postgresql: PostgreSQL, threads: ThreadPoolExecutor
) -> None:
    clock = Clock(1000.0)
    store = make(clock=clock)
    store.add(a_record(expires_at=1010.0), sign_in=True)
    clock.now = 1010.0
    with store._transactions.begin() as connection:
        store._operations.join(connection, a_record())
        swept = threads.submit(store.sweep)
        until(lambda: swept.done() or postgresql.waiting())
    swept.result(LONG_SECONDS)
    assert store.find("sub") == [a_record()]


def after_select(
    store: SQLAlchemyStore, table: str, then: Callable[[], object], *, look: int = 1
) -> list[Any]:
    """Do something once, between a store's look at a table and its next statement; return what it returned."""
    returned: list[Any] = []
    looks = count(1)

    @event.listens_for(store._engine, "after_cursor_execute")
    def after(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        is_look = statement.startswith("SELECT") and f"FROM {table}" in " ".join(statement.split())
        if is_look and next(looks) == look:
            returned.append(then())

    return returned


CLAIM = Ending(found_by=("nobody's",), expires_at=9e9, jti=Jti("jti", 9e9))
CLAIM_THAT_EXPIRES = replace(CLAIM, jti=Jti("jti", 1010.0))


@pytest.mark.parametrize(
    ("table", "made", "renewed", "stays"),
    [
        (
            "token_caches",
            lambda store: write(store, b"1"),
            lambda store: write(store, b"2"),
            lambda store: store.load("alice").data == b"2",
        ),
        (
            "records",
            lambda store: store.add(a_record(expires_at=1010.0), sign_in=True),
            lambda store: store.join(a_record()),
            lambda store: list(store.find("sub")) == [a_record()] == [store.get("h")],
        ),
        (
            "jtis",
            lambda store: store.end(CLAIM_THAT_EXPIRES).claimed,
            lambda store: store.end(CLAIM).claimed,
            lambda store: not store.end(CLAIM).claimed,
        ),
    ],
    ids=["token cache", "record", "jti"],
)
def test_what_is_renewed_after_the_sweep_has_looked_stays(
    table: str,
    made: Callable[[SQLAlchemyStore], bool],
    renewed: Callable[[SQLAlchemyStore], bool],
    stays: Callable[[SQLAlchemyStore], bool],
    database: Database,
    make: Make,
    prefix: str,
) -> None:
    clock = Clock(1000.0)
    store, other = (make(database.url(), clock=clock, token_cache_lifetime_seconds=10) for _ in range(2))
    assert made(store)
    other.load("bob")
    clock.now = 1010.0 + HOUR
    did = after_select(store, f"{prefix}{table}", lambda: renewed(other))
    assert store.sweep() == 0
    assert did == [True]
    assert stays(other)


def test_jti_that_is_claimed_anew_while_it_is_swept_is_granted_once(
    database: Database, make: Make, threads: ThreadPoolExecutor, prefix: str
) -> None:
    clock = Clock(1000.0)
    store, other = (make(database.url(), clock=clock) for _ in range(2))
    assert store.end(CLAIM_THAT_EXPIRES).claimed
    other.load("bob")
    clock.now = 1010.0 + HOUR

    def swept() -> Future[int]:
        sweep = threads.submit(other.sweep)
        until(lambda: sweep.done() or database.waiting())
        return sweep

    did = after_select(store, f"{prefix}jtis", swept)
    assert store.end(CLAIM).claimed
    assert did[0].result(LONG_SECONDS) == 0
    assert not other.end(CLAIM).claimed


# The tables


def test_workers_that_start_at_once_make_the_tables_once(
    database: Database, threads: ThreadPoolExecutor, make: Make
) -> None:
    start = threading.Barrier(8)

    def begin(store: SQLAlchemyStore) -> str:
        start.wait(LONG_SECONDS)
        return store.marks_since(0, limit=1).epoch

    stores = [make(database.url()) for _ in range(8)]
    assert len(set(threads.map(begin, stores))) == 1


def test_tables_that_a_worker_left_unfinished_are_completed(
    mariadb: MariaDB, make: Make, prefix: str
) -> None:
    make(mariadb.url()).load("alice")
    mariadb.execute(f"DROP INDEX {prefix}marks_value ON logout.{prefix}marks")
    mariadb.execute(f"DROP TABLE logout.{prefix}jtis")
    mariadb.execute(f"DELETE FROM logout.{prefix}meta")
    store = make(mariadb.url())
    assert store.end(Ending(handles=("h",), expires_at=9e9, jti=Jti("jti", 9e9))).claimed
    assert mariadb.execute(f"SHOW INDEX FROM logout.{prefix}marks WHERE key_name = '{prefix}marks_value'")


@pytest.mark.parametrize("database", ["postgresql", "mariadb", "sqlite"])
def test_migration_makes_the_tables_that_the_store_makes(
    database: str, request: pytest.FixtureRequest, tmp_path: Path, make: Make, prefix: str
) -> None:
    url = (
        f"sqlite:///{tmp_path}/logout.db" if database == "sqlite" else request.getfixturevalue(database).url()
    )
    engine = create_engine(url)
    with engine.begin() as connection:
        context = MigrationContext.configure(connection)
        for statement in migration(1, prefix=prefix):
            Alembic(context).execute(statement)
    store = make(url, create_tables=False)
    assert store.end(DEAD).sequence == 1
    make(url, prefix=f"{prefix}own_").end(DEAD)
    with engine.begin() as connection:
        for made in (prefix, f"{prefix}own_"):
            options = {"include_name": lambda name, kind, _: kind != "table" or name.startswith(made)}  # noqa: B023
            context = MigrationContext.configure(connection, opts={**options, "compare_type": True})
            differences = compare_metadata(context, Tables(made).metadata)
            assert [each for each in differences if made != prefix or not each[0].startswith("remove")] == []
    engine.dispose()


def test_migration_can_be_printed(postgresql: PostgreSQL) -> None:
    printed: list[str] = []

    class Buffer:
        def write(self, said: str) -> None:
            printed.append(said)

        def flush(self) -> None:
            pass

    context = MigrationContext.configure(
        dialect_name="postgresql", opts={"as_sql": True, "output_buffer": Buffer(), "literal_binds": True}
    )
    for statement in migration(1):
        Alembic(context).execute(statement)
    assert "INSERT INTO msal_logout_meta (one, version, epoch, sequence, tip) VALUES (1, 1, '" in "".join(
        printed
    )


def test_migration_to_a_version_that_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match="version 1"):
        migration(2)


def test_store_that_makes_no_tables_says_that_there_are_none(make: Make, prefix: str) -> None:
    with pytest.raises(StoreError, match="run your migration"):
        make(create_tables=False).load("alice")


def test_tables_of_a_newer_version_are_refused(
    store: SQLAlchemyStore, other: SQLAlchemyStore, postgresql: PostgreSQL, prefix: str
) -> None:
    store.load("alice")
    postgresql.execute(f"UPDATE {prefix}meta SET version = 2")
    with pytest.raises(StoreError, match=r"version 2.*upgrade"):
        other.load("alice")


def test_tables_that_were_dropped_are_made_anew_as_another_life(
    store: SQLAlchemyStore, postgresql: PostgreSQL, prefix: str
) -> None:
    before = store.marks_since(0, limit=1).epoch
    for table in Tables(prefix).metadata.tables:
        postgresql.execute(f"DROP TABLE {table}")
    with pytest.raises(StoreError, match="does not have the store's tables"):
        store.load("alice")
    assert store.load("alice") == (None, "")
    until(lambda: store.marks_since(0, limit=1).epoch != before)


# An ending and a sign-in at once


def first_seen(store: SQLAlchemyStore) -> bool:
    return store.add(a_record("h2", "s2"), sign_in=False)


def joined(store: SQLAlchemyStore) -> bool:
    return store.join(a_record("h2"))


def signed_in(store: SQLAlchemyStore) -> bool:
    return store.add(a_record("h2", "s"), sign_in=True)


@pytest.mark.parametrize("recorded", [first_seen, joined, signed_in])
def test_what_is_recorded_while_an_ending_commits_is_dead(
    recorded: Callable[[SQLAlchemyStore], bool], database: Database, make: Make, threads: ThreadPoolExecutor
) -> None:
    store, other = make(database.url()), make(database.url())
    store.add(a_record(), sign_in=True)
    ending = Ending(sessions=("s",), keys=(KeyMark("sub", 5.0),), expires_at=9e9)
    with store._transactions.begin() as connection:
        store._operations.end(connection, Pending(ending))
        lives = threads.submit(recorded, other)
        until(database.waiting)
    assert lives.result(LONG_SECONDS) is False
    assert other.get("h2") is None


def test_what_is_recorded_just_before_an_ending_ends(
    database: Database, make: Make, threads: ThreadPoolExecutor
) -> None:
    store, other = make(database.url()), make(database.url())
    store.load("alice")
    with store._transactions.begin() as connection:
        assert store._operations.add(connection, a_record(), sign_in=True)
        ended = threads.submit(other.end, Ending(handles=("x",), found_by=("sub",), expires_at=9e9))
        until(database.waiting)
    assert [record.handle for record in ended.result(LONG_SECONDS).records] == ["h"]
    assert store.get("h") is None


def test_ending_that_waits_is_passed_by_nobody_who_records(
    database: Database, make: Make, threads: ThreadPoolExecutor
) -> None:
    stores = [make(database.url()) for _ in range(3)]
    stores[0].load("alice")
    with stores[0]._transactions.begin() as connection:
        stores[0]._operations.add(connection, a_record(), sign_in=True)
        ended = threads.submit(stores[1].end, Ending(sessions=("s2",), expires_at=9e9))
        until(database.waiting)
        recorded = threads.submit(joined_to_s2, stores[2])
        until(lambda: database.waiting() == 2)
    assert ended.result(LONG_SECONDS).claimed
    assert recorded.result(LONG_SECONDS) is False


def joined_to_s2(store: SQLAlchemyStore) -> bool:
    return store.join(a_record("h2", "s2"))


def test_ending_of_nobody_waits_for_nobody(database: Database, make: Make) -> None:
    store, other = make(database.url()), make(database.url())
    store.load("alice")
    with store._transactions.begin() as connection:
        store._operations.end(connection, Pending(DEAD))
        assert other.end(Ending(found_by=("nobody's",), expires_at=9e9)).claimed


def test_those_who_record_do_not_wait_for_each_other(database: Database, make: Make) -> None:
    store, other = make(database.url()), make(database.url())
    store.load("alice")
    with store._transactions.begin() as connection:
        store._operations.add(connection, a_record(), sign_in=True)
        assert other.add(a_record("h2", "s2"), sign_in=True)


def test_token_cache_is_not_saved_between_the_look_of_an_ending_and_its_removal(
    database: Database, make: Make, threads: ThreadPoolExecutor, prefix: str
) -> None:
    store, other = make(database.url()), make(database.url())
    write(store, b"1")
    store.add(a_record(cache="alice"), sign_in=True)
    version = other.load("alice").version

    def saved() -> Future[bool]:
        save = threads.submit(other.replace, "alice", version, b"2")
        until(lambda: save.done() or database.waiting())
        return save

    did = after_select(store, f"{prefix}token_caches", saved)
    ended = store.end(Ending(handles=("h",), expires_at=9e9, drops=True))
    assert ended.dropped == {"h": b"1"}
    assert did[0].result(LONG_SECONDS) is False
    assert other.load("alice").data is None


@pytest.mark.parametrize("look", [1, 2])
def test_work_is_leased_once_though_another_takes_it_after_a_look(
    look: int, database: Database, make: Make, threads: ThreadPoolExecutor, prefix: str
) -> None:
    store, other = make(database.url()), make(database.url())
    store.end(Ending(handles=("h",), expires_at=9e9, work=b"work", lease_seconds=0))
    other.load("alice")

    def taken() -> Future[Any]:
        take = threads.submit(other.take, limit=9, lease_seconds=60)
        until(lambda: take.done() or database.waiting())
        return take

    did = after_select(store, f"{prefix}journal", taken, look=look)
    mine = store.take(limit=9, lease_seconds=60)
    theirs = did[0].result(LONG_SECONDS)
    assert (len(mine), len(theirs)) == ((0, 1) if look == 1 else (1, 0))


def test_work_whose_lease_has_run_out_comes_before_what_is_newer(database: Database, make: Make) -> None:
    store = make(database.url())
    for work in (b"1", b"2", b"3"):
        store.end(Ending(handles=("h",), expires_at=9e9, work=work, lease_seconds=0))
    for _ in range(2):
        assert [row.work for row in store.take(limit=2, lease_seconds=0)] == [b"1", b"2"]


def test_clock_that_is_set_far_back_does_not_hold_up_what_was_taken(database: Database, make: Make) -> None:
    clock = Clock(1000.0)
    store = make(database.url(), clock=clock)
    store.end(Ending(handles=("h",), expires_at=9e9, work=b"work", lease_seconds=0))
    clock.now += 24 * HOUR
    assert len(store.take(limit=9, lease_seconds=9)) == 1
    clock.now -= 24 * HOUR
    assert len(store.take(limit=9, lease_seconds=9)) == 1


def test_nothing_is_left_of_work_that_is_finished(database: Database, make: Make, prefix: str) -> None:
    store = make(database.url())
    store.add(a_record(data=b"data"), sign_in=True)
    ended = store.end(Ending(handles=("h",), expires_at=9e9, work=b"work"))
    tables = [f"{database.schema}{prefix}{name}" for name in ("journal", "journal_data")]
    assert [database.execute(f"SELECT count(*) FROM {table}") for table in tables] == [[(1,)], [(1,)]]
    store.finish(ended.row)
    assert [database.execute(f"SELECT count(*) FROM {table}") for table in tables] == [[(0,)], [(0,)]]


# Collisions


def fail_on(postgresql: PostgreSQL, table: str, prefix: str, code: str, times: int) -> None:
    """Let PostgreSQL answer the first inserts into a table with an error."""
    postgresql.execute(f"CREATE SEQUENCE {prefix}tries")
    postgresql.execute(
        f"""CREATE FUNCTION {prefix}fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF nextval('{prefix}tries') <= {times} THEN RAISE EXCEPTION USING ERRCODE = '{code}'; END IF;
            RETURN NEW; END $$"""
    )
    postgresql.execute(
        f"CREATE TRIGGER fail BEFORE INSERT ON {prefix}{table} FOR EACH ROW EXECUTE FUNCTION {prefix}fail()"
    )


@pytest.mark.parametrize("code", ["40P01", "40001"])
def test_deadlock_is_tried_again_from_the_start(
    code: str, store: SQLAlchemyStore, postgresql: PostgreSQL, prefix: str
) -> None:
    store.load("alice")
    fail_on(postgresql, "journal", prefix, code, 3)
    ended = store.end(Ending(handles=("h",), expires_at=9e9, work=b"work", jti=Jti("jti", 9e9)))
    assert ended.claimed
    assert ended.sequence == 1
    assert store.open_rows() == 1


@pytest.mark.parametrize("code", [1020, 1213])
def test_collision_in_mariadb_is_tried_again_from_the_start(
    code: int, mariadb: MariaDB, make: Make, prefix: str
) -> None:
    store = make(mariadb.url())
    store.load("alice")
    mariadb.execute(f"CREATE SEQUENCE logout.{prefix}tries")
    mariadb.execute(
        f"""CREATE TRIGGER logout.{prefix}fail BEFORE INSERT ON logout.{prefix}journal FOR EACH ROW
            IF NEXTVAL(logout.{prefix}tries) <= 3 THEN
                SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = {code};
            END IF"""
    )
    ended = store.end(Ending(handles=("h",), expires_at=9e9, work=b"work", jti=Jti("jti", 9e9)))
    assert (ended.claimed, ended.sequence, store.open_rows()) == (True, 1, 1)


def test_deadlocks_without_end_are_an_error_and_change_nothing(
    store: SQLAlchemyStore, postgresql: PostgreSQL, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlalchemy_module, "_FIRST_WAIT_SECONDS", 0.0)
    store.load("alice")
    fail_on(postgresql, "journal", prefix, "40P01", 1000)
    with pytest.raises(StoreError, match="again and again"):
        store.end(Ending(handles=("h",), expires_at=9e9, work=b"work", jti=Jti("jti", 9e9)))
    assert postgresql.execute(f"SELECT last_value FROM {prefix}tries") == [(8,)]
    assert list(store.marks_since(0, limit=9).marks) == []
    postgresql.execute(f"DROP TRIGGER fail ON {prefix}journal")
    assert store.end(Ending(handles=("h",), expires_at=9e9, jti=Jti("jti", 9e9))).claimed


def test_what_collides_is_not_tried_again_when_its_time_is_over(
    postgresql: PostgreSQL, make: Make, prefix: str
) -> None:
    engine = create_engine(postgresql.url())
    store = make(engine, timeout_seconds=1e-9)
    store.load("alice")
    fail_on(postgresql, "journal", prefix, "40P01", 1)
    ending = Ending(handles=("h",), expires_at=9e9, work=b"work")
    with pytest.raises(StoreError, match="again and again"):
        store.end(ending)
    assert store.end(ending).row is not None
    store.close()
    engine.dispose()


def lose_commits(monkeypatch: pytest.MonkeyPatch, store: SQLAlchemyStore, times: int = 1) -> None:
    """Let the connection break when each of the first commits is done, before its answer comes."""
    dialect = store._engine.dialect
    commit, losses = dialect.do_commit, iter([True] * times)

    def do_commit(connection: Any) -> None:
        commit(connection)
        if next(losses, False):
            connection.dbapi_connection.close()
            raise psycopg.OperationalError("lost")

    monkeypatch.setattr(dialect, "do_commit", do_commit)


def test_ending_whose_commit_was_not_answered_is_not_taken_for_another_s(
    store: SQLAlchemyStore, postgresql: PostgreSQL, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.add(a_record(), sign_in=True)
    lose_commits(monkeypatch, store)
    ended = store.end(Ending(handles=("h",), expires_at=9e9, work=b"work", jti=Jti("jti", 9e9)))
    assert ended.claimed
    assert [record.handle for record in ended.records] == ["h"]
    assert store.open_rows() == 1
    assert postgresql.execute(f"SELECT name FROM {prefix}journal") == [(ended.row,)]
    assert postgresql.execute(f"SELECT count(*) FROM {prefix}tips") == [(1,)]


def test_ending_by_a_key_whose_commit_was_not_answered_tells_what_it_has_ended(
    store: SQLAlchemyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.add(a_record(), sign_in=True)
    lose_commits(monkeypatch, store)
    ended = store.end(Ending(found_by=("sub",), expires_at=9e9, work=b"work"))
    assert [record.handle for record in ended.records] == ["h"]
    assert ended.row is not None


def test_worker_that_got_no_answer_to_its_ending_is_not_sure_any_more(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlalchemy_module, "_FIRST_WAIT_SECONDS", 0.0)
    store = make(listens=False, bound_seconds=120, beat_seconds=60)
    in_step(store)
    lose_commits(monkeypatch, store, 8)
    with pytest.raises(StoreError, match="closed the connection"):
        store.end(DEAD)
    assert store.generation() is None
    assert [mark.value for mark in store.marks_since(0, limit=9).marks] == ["h"]


def test_jti_whose_claim_was_not_answered_is_not_taken_for_a_replay(
    store: SQLAlchemyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.load("alice")
    lose_commits(monkeypatch, store)
    ending = Ending(found_by=("nobody's",), expires_at=9e9, jti=Jti("jti", 9e9))
    assert store.end(ending).claimed
    assert not store.end(ending).claimed


def test_ending_that_others_followed_before_it_was_asked_for_again_is_known(
    store: SQLAlchemyStore, other: SQLAlchemyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.load("alice")
    pending = Pending(DEAD)
    with store._transactions.begin() as connection:
        done = store._operations.end(connection, pending)
    other.end(Ending(handles=("h2",), expires_at=9e9))
    with store._transactions.begin() as connection:
        assert store._operations.end(connection, pending) == done
    assert len(other.marks_since(0, limit=9).marks) == 2


# The feed


def in_step(*stores: SQLAlchemyStore) -> list[int]:
    """Wait until stores can tell the generation."""
    return [until(store.generation) for store in stores]


def test_generation_of_all_workers_is_that_of_the_last_ending(
    store: SQLAlchemyStore, other: SQLAlchemyStore
) -> None:
    in_step(store, other)
    store.end(DEAD)
    assert in_step(store)[0] is not None
    until(lambda: store.generation() == other.generation() is not None)


def asked(store: SQLAlchemyStore) -> list[Any]:
    """Note each time that a store is asked from now on."""
    calls = []
    ask = store._operations.ask

    def noted(*args: Any, **options: Any) -> Any:
        calls.append(args)
        return ask(*args, **options)

    store._operations.ask = noted  # type: ignore[method-assign]
    return calls


def test_listening_worker_hears_of_an_ending_without_asking(make: Make) -> None:
    store, other = make(bound_seconds=120, beat_seconds=60), make(bound_seconds=120, beat_seconds=60)
    (before,) = in_step(other)
    calls = asked(other)
    ended = store.end(Ending(handles=("h",), keys=(KeyMark("k", 5.5),), expires_at=9e9))
    until(lambda: other.generation() != before)
    feed = other.marks_since(0, limit=9)
    assert [mark[:3] for mark in feed.marks] == [("handle", "h", 0.0), ("key", "k", 5.5)]
    assert feed.cursor == ended.sequence
    assert calls == []


def test_ending_of_many_sessions_is_told_without_its_marks(make: Make) -> None:
    store, other = make(bound_seconds=120, beat_seconds=60), make(bound_seconds=120, beat_seconds=60)
    (before,) = in_step(other)
    store.end(Ending(handles=tuple(f"{number:064}" for number in range(300)), expires_at=9e9))
    until(lambda: other.generation() not in {before, None})
    assert len(other.marks_since(0, limit=1000).marks) == 300


def test_message_that_is_not_ours_changes_nothing(make: Make, postgresql: PostgreSQL, prefix: str) -> None:
    store = make(bound_seconds=120, beat_seconds=60)
    (before,) = in_step(store)
    ((epoch,),) = postgresql.execute(f"SELECT epoch FROM {prefix}meta")
    for said in ("", "null", "[1]", "{", '["x", 1, 2, 3, 4, [[1]]]'):
        postgresql.execute(f"SELECT pg_notify('{prefix}{epoch}', %s)", said)
    make().end(DEAD)
    until(lambda: store.generation() not in {before, None})


@pytest.mark.parametrize("listens", [False, None])
def test_worker_that_does_not_listen_asks_often(
    listens: bool | None, request: pytest.FixtureRequest, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    url = None if listens is False else request.getfixturevalue("mariadb").url()
    store, other = make(url, listens=listens), make(url, listens=listens)
    in_step(store, other)
    with caplog.at_level(logging.WARNING):
        for number in range(5):
            before = other.generation()
            store.end(Ending(handles=(f"h{number}",), expires_at=9e9))
            until(lambda: other.generation() not in {before, None})  # noqa: B023
    assert caplog.messages == []


@pytest.mark.parametrize("driver", ASYNC_DRIVERS)
def test_asynchronous_worker_hears_of_an_ending_without_asking(
    driver: str, postgresql: PostgreSQL, make: Make, prefix: str
) -> None:
    store = make(bound_seconds=120, beat_seconds=60)

    async def listen() -> None:
        other = SQLAlchemyStore(postgresql.url(driver), prefix=prefix, bound_seconds=120, beat_seconds=60)
        try:
            with anyio.fail_after(LONG_SECONDS):
                while (before := other.generation()) is None:
                    await anyio.sleep(0.01)
                calls = asked(other)
                await anyio.to_thread.run_sync(store.end, DEAD)
                while other.generation() in {before, None}:
                    await anyio.sleep(0.01)
            assert [mark.value for mark in other.marks_since(0, limit=9).marks] == ["h"]
            assert calls == []
            ended = await other.end(Ending(handles=("h2",), expires_at=9e9))
            assert other.marks_since(1, limit=9).cursor == ended.sequence
        finally:
            await other.close()

    asyncio.run(listen())


# Faults


def cut_listeners(postgresql: PostgreSQL) -> int:
    return len(
        postgresql.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'"
        )
    )


def test_worker_whose_listening_connection_is_cut_is_not_sure_until_it_listens_again(
    make: Make, postgresql: PostgreSQL, caplog: pytest.LogCaptureFixture
) -> None:
    store, other = make(bound_seconds=120, beat_seconds=60), make(bound_seconds=120, beat_seconds=60)
    seen = in_step(store, other)
    subscribe = other._feed._source.subscribe
    go_on = threading.Event()

    def subscribe_later() -> Any:
        go_on.wait(LONG_SECONDS)
        return subscribe()

    other._feed._source.subscribe = subscribe_later
    assert cut_listeners(postgresql) == 2
    until(lambda: other.generation() is None)
    store.end(DEAD)
    assert [mark.value for mark in other.marks_since(0, limit=9).marks] == ["h"]
    go_on.set()
    until(lambda: other.generation() not in {seen[1], None})
    assert "the store's feed is broken, so each request asks the store: OperationalError" in caplog.messages


@pytest.mark.parametrize("driver", ASYNC_DRIVERS)
def test_asynchronous_worker_whose_listening_connection_is_cut_listens_again(
    driver: str, postgresql: PostgreSQL, make: Make, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = make()

    async def listen() -> None:
        other = SQLAlchemyStore(postgresql.url(driver), prefix=prefix, bound_seconds=120, beat_seconds=60)
        try:
            with anyio.fail_after(LONG_SECONDS):
                while other.generation() is None:
                    await anyio.sleep(0.01)
                assert cut_listeners(postgresql)
                while not any("the store's feed is broken" in said for said in caplog.messages):
                    await anyio.sleep(0.01)
                while (before := other.generation()) is None:
                    await anyio.sleep(0.01)
                await anyio.to_thread.run_sync(store.end, DEAD)
                while other.generation() in {before, None}:
                    await anyio.sleep(0.01)
        finally:
            await other.close()

    asyncio.run(listen())


def test_server_that_restarts_is_used_again_as_if_nothing_was(
    database: Database, make: Make, threads: ThreadPoolExecutor
) -> None:
    store = make(database.url())
    start = threading.Barrier(4)

    def load(_number: int) -> Any:
        start.wait(LONG_SECONDS)  # so that the pool has several connections
        return store.load("alice")

    write(store, b"1")
    list(threads.map(load, range(4)))
    database.restart()
    assert store.load("alice").data == b"1"
    assert store.end(DEAD).claimed
    until(store.generation)


@pytest.mark.parametrize("driver", ["psycopg", "psycopg_async", "asyncpg", "pymysql", "asyncmy"])
def test_server_that_hangs_is_waited_for_no_longer_than_the_timeout_and_is_used_again(
    driver: str, request: pytest.FixtureRequest, make: Make, prefix: str
) -> None:
    server = request.getfixturevalue("mariadb" if "my" in driver else "postgresql")
    write(make(server.url()), b"1")

    async def story() -> None:
        store = SQLAlchemyStore(server.url(driver), prefix=prefix, timeout_seconds=0.3)
        try:
            await settle(store.load("alice"))
            # PyMySQL tells what took too long as a connection that is lost.
            with (
                server.paused(),
                pytest.raises(StoreError, match=r"timeout_seconds|closed the connection"),
            ):
                await settle(store.load("alice"))
            assert (await settle(store.load("alice"))).data == b"1"
        finally:
            await settle(store.close())

    asyncio.run(asyncio.wait_for(story(), LONG_SECONDS))


def opened(driver: str, store: SQLAlchemyStore, channel: str) -> Any:
    """Listen to a channel as the store does."""
    listening = {"psycopg": Psycopg, "psycopg_async": AsyncPsycopg.open, "asyncpg": Asyncpg.open}
    return listening[driver](store._engine, channel)  # type: ignore[operator]  # each is for its own engine


@pytest.mark.parametrize("driver", ["psycopg", *ASYNC_DRIVERS])
def test_worker_does_not_wait_for_ever_to_listen_to_a_server_that_hangs(
    driver: str, postgresql: PostgreSQL, prefix: str
) -> None:
    async def story() -> None:
        store = SQLAlchemyStore(postgresql.url(driver), prefix=prefix, timeout_seconds=0.3)
        try:
            await settle(store.load("alice"))  # so that there is a connection
            with postgresql.paused(), pytest.raises((psycopg.OperationalError, TimeoutError)):
                await settle(opened(driver, store, "channel"))
        finally:
            await settle(store.close())

    asyncio.run(asyncio.wait_for(story(), LONG_SECONDS))


@pytest.mark.parametrize("driver", ["psycopg", *ASYNC_DRIVERS])
def test_worker_that_may_not_listen_leaves_no_connection_open(
    driver: str, postgresql: PostgreSQL, prefix: str
) -> None:
    listening = "SELECT count(*) FROM pg_stat_activity WHERE query = 'LISTEN \"\"'"

    async def story() -> None:
        store = SQLAlchemyStore(postgresql.url(driver), prefix=prefix)
        tried = []
        for _ in range(3):
            try:
                await settle(opened(driver, store, ""))  # which is no name, as PostgreSQL says
            except Exception as error:  # any driver's; held, so that its frames hold the connection
                tried.append(error)
        assert len(tried) == 3
        until(lambda: postgresql.execute(listening) == [(0,)])
        await settle(store.close())

    asyncio.run(story())


def test_server_that_is_away_is_told_and_does_not_stop_the_app_from_starting(make: Make) -> None:
    server = PostgreSQL()
    try:
        store = make(
            f"postgresql+psycopg://postgres:secret@127.0.0.1:{server.port}/postgres?application_name=secret"
        )
        assert store.generation() is None
        with pytest.raises(StoreError, match="cannot be reached") as raised:
            store.load("alice")
        assert_says_no_secret(raised.value)
        server.start()
        assert store.load("alice") == (None, "")
        until(store.generation)
        server.stop()
        until(lambda: store.generation() is None)
        with pytest.raises(StoreError):
            store.marks_since(0, limit=1)
        store.close()
    finally:
        server.remove()


@pytest.mark.parametrize("driver", ["psycopg", *ASYNC_DRIVERS])
def test_what_is_wrong_is_a_sentence_that_repeats_nothing(driver: str, postgresql: PostgreSQL) -> None:
    store = SQLAlchemyStore(postgresql.url(driver, "no_such_database"))

    async def load() -> None:
        try:
            await store.load("alice")
        finally:
            await store.close()

    with pytest.raises(
        StoreError, match=r"postgresql://127\.0\.0\.1:\d+/no_such_database (does not exist|cannot)"
    ):
        asyncio.run(load()) if store.is_async else store.load("alice")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("42501", "grant SELECT"),
        ("53100", "disk is full"),
        ("57014", "timeout_seconds"),
        ("55P03", "locked by another worker"),
        ("25006", "primary"),
        ("22000", r"did not do what it was asked for \(DataException 22000\)"),
    ],
)
def test_error_of_the_engine_says_what_to_do_and_not_what_was_written(
    code: str, said: str, store: SQLAlchemyStore, postgresql: PostgreSQL, prefix: str
) -> None:
    store.load("alice")
    fail_on(postgresql, "token_caches", prefix, code, 100)
    with pytest.raises(StoreError, match=said) as raised:
        store.replace("alice", "", b"a secret token")
    assert_says_no_secret(raised.value)


def test_database_without_room_for_a_lock_in_time_is_told(database: Database, make: Make) -> None:
    store, other = make(database.url()), make(database.url(), timeout_seconds=1)
    store.load("alice")
    other.load("alice")
    with store._transactions.begin() as connection:
        store._operations.end(connection, Pending(DEAD))
        # MariaDB's client gives up at the same moment as the server, so that either may be first.
        with pytest.raises(
            StoreError, match=r"timeout_seconds|locked by another worker|closed the connection"
        ):
            other.end(DEAD)
    assert other.end(DEAD).claimed


def test_pool_without_a_connection_to_spare_is_told(postgresql: PostgreSQL, make: Make) -> None:
    engine = create_engine(postgresql.url(), pool_size=1, max_overflow=0, pool_timeout=0.01)
    store = make(engine, listens=False)
    store.load("alice")
    with engine.connect(), pytest.raises(StoreError, match="no connection to spare"):
        store.load("alice")
    engine.dispose()


def test_mistake_of_the_program_is_not_taken_for_an_engine_s_error(store: SQLAlchemyStore) -> None:
    with pytest.raises(AttributeError):
        store.add(None, sign_in=True)  # type: ignore[arg-type]


def copied(postgresql: PostgreSQL, prefix: str) -> dict[str, list[Any]]:
    return {name: postgresql.execute(f"SELECT * FROM {name}") for name in Tables(prefix).metadata.tables}


def put_back(postgresql: PostgreSQL, copy: dict[str, list[Any]]) -> None:
    with postgresql.connect() as connection, connection.transaction():
        for name, rows in copy.items():
            connection.execute(f"DELETE FROM {name}")
            for row in rows:
                values = ", ".join(["%s"] * len(row))
                connection.execute(f"INSERT INTO {name} VALUES ({values})", row)


def test_database_put_back_from_an_older_backup_is_another_life(
    store: SQLAlchemyStore, other: SQLAlchemyStore, postgresql: PostgreSQL, prefix: str
) -> None:
    store.end(Ending(handles=("before",), expires_at=9e9))
    backup = copied(postgresql, prefix)
    store.end(Ending(handles=("lost",), expires_at=9e9))
    in_step(store, other)
    life = other.marks_since(0, limit=9).epoch
    put_back(postgresql, backup)
    until(lambda: other.marks_since(0, limit=9).epoch != life)
    assert [mark.value for mark in other.marks_since(0, limit=9).marks] == ["before"]


def test_backup_that_has_as_many_endings_by_now_is_noticed_as_well(
    store: SQLAlchemyStore, other: SQLAlchemyStore, postgresql: PostgreSQL, prefix: str
) -> None:
    store.end(Ending(handles=("before",), expires_at=9e9))
    backup = copied(postgresql, prefix)
    store.end(Ending(handles=("lost",), expires_at=9e9))
    life = other.marks_since(0, limit=9).epoch
    put_back(postgresql, backup)
    store.end(Ending(handles=("another",), expires_at=9e9))
    until(lambda: other.marks_since(0, limit=9).epoch != life)
    assert [mark.value for mark in other.marks_since(0, limit=9).marks] == ["before", "another"]


def test_ending_of_the_same_number_in_another_life_is_not_the_one_that_is_known(
    store: SQLAlchemyStore, postgresql: PostgreSQL, prefix: str
) -> None:
    for handle in ("h1", "h2", "h3"):
        store.end(Ending(handles=(handle,), expires_at=9e9))
    ((name,),) = postgresql.execute(f"SELECT tip FROM {prefix}tips WHERE sequence = 2")
    with store._statements.connect() as connection:
        known = [
            store._operations.ask(connection, Tip(*tip), None, 1).has_known
            for tip in ((2, name), (2, "another"), (1, name))
        ]
    assert known == [True, False, False]


def test_marks_are_told_in_their_order_wherever_they_stand_in_the_table(
    store: SQLAlchemyStore, postgresql: PostgreSQL, prefix: str
) -> None:
    for number in range(1, 6):
        store.end(Ending(handles=(f"h{number}",), expires_at=9e9))
    with postgresql.connect() as connection, connection.transaction():
        connection.execute(f"CREATE TABLE {prefix}aside AS SELECT * FROM {prefix}marks")
        connection.execute(f"DELETE FROM {prefix}marks")
        connection.execute(f"INSERT INTO {prefix}marks SELECT * FROM {prefix}aside ORDER BY sequence DESC")
    told = []
    with store._transactions.begin() as connection:
        for way in (
            "indexscan",
            "bitmapscan",
        ):  # of finding them, both of which would bring their order with it
            connection.execute(text(f"SET LOCAL enable_{way} = off"))
        for cursor in (0, 2, 4):
            answer = store._operations.ask(connection, None, cursor, 2)
            told.append([mark.sequence for mark in answer.marks])
    assert told == [[1, 2], [3, 4], [5]]


def test_tip_that_is_long_past_is_still_known_for_ten_minutes(make: Make) -> None:
    clock = Clock(1000.0)
    store, other = make(clock=clock), make(clock=clock, bound_seconds=1000, beat_seconds=900)
    life = other.marks_since(0, limit=9).epoch
    clock.now += 1000
    store.end(DEAD)  # the tip is past since now
    clock.now += 599
    store.sweep()
    assert other.marks_since(0, limit=9).epoch == life


# Processes and loops


FORKING = """
import os, sys
from msal_logout_middleware.stores import Ending
from msal_logout_middleware.stores.sqlalchemy import SQLAlchemyStore
from tests.stories.servers import until

store = SQLAlchemyStore(sys.argv[1], prefix=sys.argv[2])
store.replace("alice", "", b"1")
until(store.generation)

def backend():
    with store._statements.connect() as connection:
        return connection.exec_driver_sql("SELECT pg_backend_pid()").scalar()

def use():
    assert store.load("alice").data == b"1"
    before = until(store.generation)
    store.end(Ending(handles=(str(os.getpid()),), expires_at=9e9))
    until(lambda: store.generation() not in {before, None})

if sys.argv[3] == "in C":  # so that Python is not told
    import ctypes
    fork = ctypes.PyDLL(None).fork
else:
    fork = os.fork
mine = backend()
child = fork()
if child == 0:
    assert backend() != mine or sys.argv[3] == "in C"
    use()
    assert backend() != mine
    store.close()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert backend() == mine
use()
print(len(store.marks_since(0, limit=9).marks))
store.close()
"""


@forks
@pytest.mark.parametrize("how", ["by Python", "in C"])
def test_forked_worker_opens_connections_of_its_own(how: str, postgresql: PostgreSQL, prefix: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", FORKING, postgresql.url(), prefix, how],
        capture_output=True,
        text=True,
        timeout=LONG_SECONDS,
        check=False,
    )
    assert (ran.returncode, ran.stdout) == (0, "2\n"), ran.stderr


@pytest.mark.parametrize("driver", ASYNC_DRIVERS)
def test_store_serves_one_event_loop_after_the_other(
    driver: str, postgresql: PostgreSQL, prefix: str
) -> None:
    store = SQLAlchemyStore(postgresql.url(driver), prefix=prefix)

    async def use() -> bytes | None:
        loaded = await store.load("alice")
        await store.replace("alice", loaded.version, b"1")
        await store.close()
        return (await store.load("alice")).data

    async def use_and_close() -> bytes | None:
        found = await use()
        await store.close()
        return found

    assert asyncio.run(use_and_close()) == b"1"
    assert asyncio.run(use_and_close()) == b"1"


def test_operation_of_an_asynchronous_store_that_takes_too_long_is_an_error(
    postgresql: PostgreSQL, make: Make, prefix: str
) -> None:
    store = make()
    store.load("alice")

    async def end() -> None:
        other = SQLAlchemyStore(postgresql.url("asyncpg"), prefix=prefix, timeout_seconds=0.5)
        try:
            await other.load("alice")
            with store._transactions.begin() as connection:
                store._operations.end(connection, Pending(DEAD))
                with pytest.raises(StoreError, match="timeout_seconds"):
                    await other.end(DEAD)
            assert (await other.end(DEAD)).claimed
        finally:
            await other.close()

    asyncio.run(end())
