"""Servers that restart, hang, are away or refuse: waited for within the timeout, and told without a secret."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import create_engine

from msal_logout_middleware._drive import settle
from msal_logout_middleware.errors import StoreError
from msal_logout_middleware.stores.sqlalchemy import SQLAlchemyStore
from msal_logout_middleware.stores.sqlalchemy._operations import Pending
from tests.stories.servers import until

from ..databases import Database, PostgreSQL
from .conftest import ASYNC_DRIVERS, DEAD, LONG_SECONDS, Make, assert_says_no_secret, fail_on, write


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
        store = SQLAlchemyStore(server.url(driver), prefix=prefix, timeout_seconds=1)
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


def test_mistake_of_the_program_is_not_taken_for_an_engine_s_error(store: SQLAlchemyStore) -> None:
    with pytest.raises(AttributeError):
        store.add(None, sign_in=True)  # type: ignore[arg-type]  # the mistake
