"""How a worker hears of endings, listening or asking; and what it knows when it cannot, or hears of another life."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any

import anyio
import psycopg
import pytest
from sqlalchemy import create_engine, text

from msal_logout_middleware._drive import settle
from msal_logout_middleware.stores import Ending, KeyMark
from msal_logout_middleware.stores._feed import Tip
from msal_logout_middleware.stores.sqlalchemy import SQLAlchemyStore, Tables
from msal_logout_middleware.stores.sqlalchemy._listening import Asyncpg, AsyncPsycopg, Psycopg
from tests.stories.servers import until

from ..databases import PostgreSQL
from .conftest import ASYNC_DRIVERS, DEAD, LONG_SECONDS, Make, in_step

# Endings


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

    store._operations.ask = noted  # type: ignore[method-assign]  # for this store only
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
        for way in ("indexscan", "bitmapscan"):  # each finds them in an order of its own
            connection.execute(text(f"SET LOCAL enable_{way} = off"))
        for cursor in (0, 2, 4):
            answer = store._operations.ask(connection, None, cursor, 2)
            told.append([mark.sequence for mark in answer.marks])
    assert told == [[1, 2], [3, 4], [5]]


# Listening that fails


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


def opened(driver: str, store: SQLAlchemyStore, channel: str) -> Any:
    """Listen to a channel as the store does."""
    listening = {"psycopg": Psycopg, "psycopg_async": AsyncPsycopg.open, "asyncpg": Asyncpg.open}
    return listening[driver](store._engine, channel)  # type: ignore[operator]  # each is for its own engine


@pytest.mark.parametrize("driver", ["psycopg", *ASYNC_DRIVERS])
def test_worker_does_not_wait_for_ever_to_listen_to_a_server_that_hangs(
    driver: str, store: SQLAlchemyStore, postgresql: PostgreSQL, prefix: str
) -> None:
    store.load("alice")  # which makes the tables: that may take long

    async def story() -> None:
        store = SQLAlchemyStore(postgresql.url(driver), prefix=prefix, timeout_seconds=1)
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


# Another life


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


def test_server_that_was_started_anew_may_lack_the_last_sessions_and_is_another_life(make: Make) -> None:
    server = PostgreSQL()
    try:
        server.start()
        store = make(server.url())
        store.end(Ending(handles=("h",), expires_at=9e9))
        (before,) = in_step(store)
        life = store.marks_since(0, limit=9).epoch
        server.restart()
        until(lambda: store.generation() not in (before, None))
        found = store.marks_since(0, limit=9)
        assert found.epoch != life
        assert [mark.value for mark in found.marks] == ["h"]
        store.close()
    finally:
        server.remove()


def test_server_is_the_same_in_every_time_zone(make: Make, postgresql: PostgreSQL) -> None:
    servers = set()
    for zone in ("UTC", "Asia/Kolkata"):
        engine = create_engine(postgresql.url(), connect_args={"options": f"-c TimeZone={zone}"})
        store = make(engine)
        store.open_rows()  # it makes its tables
        with engine.connect() as db:
            servers.add(store._operations.ask(db, None, None, 1).server)
        engine.dispose()
    assert len(servers) == 1
    assert "" not in servers


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
