"""The sweep: what is over goes, and nothing that is still needed or has just been renewed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import pytest

from msal_logout_middleware._drive import settle
from msal_logout_middleware.errors import StoreError
from msal_logout_middleware.stores import Ending, Jti
from msal_logout_middleware.stores.sqlalchemy import SQLAlchemyStore, Tables
from msal_logout_middleware.testing.store_contract import Clock
from tests.stories.servers import until

from ..databases import Database, PostgreSQL
from .conftest import DEAD, HOUR, LONG_SECONDS, Make, a_record, after_select, write


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


def test_tip_that_is_long_past_is_still_known_for_ten_minutes(make: Make) -> None:
    clock = Clock(1000.0)
    store, other = make(clock=clock), make(clock=clock, bound_seconds=1000, beat_seconds=900)
    life = other.marks_since(0, limit=9).epoch
    clock.now += 1000
    store.end(DEAD)  # the tip is past since now
    clock.now += 599
    store.sweep()
    assert other.marks_since(0, limit=9).epoch == life


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
