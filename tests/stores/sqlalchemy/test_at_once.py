"""Two workers at once: who waits for whom, so that nothing comes in between, and who waits for nobody."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from msal_logout_middleware.stores import Ending, KeyMark
from msal_logout_middleware.stores.sqlalchemy import SQLAlchemyStore
from msal_logout_middleware.stores.sqlalchemy._operations import Pending
from tests.stories.servers import until

from ..databases import Database
from .conftest import DEAD, LONG_SECONDS, Make, a_record, after_select, write


def first_seen(store: SQLAlchemyStore) -> bool:
    return store.add(a_record("h2", "s2"), sign_in=False)


def joined(store: SQLAlchemyStore) -> bool:
    return store.join(a_record("h2"))


def joined_to_s2(store: SQLAlchemyStore) -> bool:
    return store.join(a_record("h2", "s2"))


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
