"""What is written into the tables and read from them, beyond the contract; and no secret in clear."""

from __future__ import annotations

import logging

import pytest

from msal_logout_middleware.stores import Ending, KeyMark
from msal_logout_middleware.stores.sqlalchemy import SQLAlchemyStore
from msal_logout_middleware.testing.store_contract import Clock

from ..databases import Database, PostgreSQL
from .conftest import DEAD, HOUR, Make, a_record, write


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
