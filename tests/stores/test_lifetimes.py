"""How long the shipped stores keep token caches."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from msal_logout_middleware.stores.memory import MemoryStore
from msal_logout_middleware.stores.redis import RedisStore
from msal_logout_middleware.stores.sqlalchemy import SQLAlchemyStore
from msal_logout_middleware.stores.sqlite import SQLiteStore
from msal_logout_middleware.testing.store_contract import Clock

from .servers import new_prefix

DAY = 86_400.0


@pytest.fixture
def clock() -> Clock:
    return Clock(1000.0)


@pytest.fixture(params=["memory", "sqlite", "redis", "sqlalchemy"])
def make(request: pytest.FixtureRequest, clock: Clock, tmp_path: Path):
    stores = []

    def make(**options: Any) -> Any:
        if request.param == "memory":
            stores.append(MemoryStore(clock=clock, **options))
        elif request.param == "redis":
            url = request.getfixturevalue("server").url
            stores.append(RedisStore(url, prefix=new_prefix(), clock=clock, **options))
        elif request.param == "sqlalchemy":
            stores.append(SQLAlchemyStore(f"sqlite:///{tmp_path}/logout.db", clock=clock, **options))
        else:
            stores.append(SQLiteStore(tmp_path / "logout.db", clock=clock, **options))
        return stores[-1]

    yield make
    for store in stores:
        store.close()


Make = Callable[..., Any]


def test_cache_that_was_never_there_has_the_empty_version(make: Make) -> None:
    assert make().load("alice") == (None, "")


def test_removed_cache_is_remembered_for_an_hour(make: Make, clock: Clock) -> None:
    store = make()
    store.replace("alice", "", b"1")
    store.replace("alice", store.load("alice").version, None)
    clock.advance(3599)
    assert not store.replace("alice", "", b"late")
    clock.advance(1)
    assert store.load("alice") == (None, "")
    assert store.replace("alice", "", b"new")


def test_removed_cache_is_remembered_for_as_long_as_asked(make: Make, clock: Clock) -> None:
    store = make(removed_row_seconds=10)
    store.replace("alice", "", None)
    clock.advance(9)
    assert not store.replace("alice", "", b"late")
    clock.advance(1)
    assert store.replace("alice", "", b"new")


def test_cache_expires_90_days_after_its_last_write(make: Make, clock: Clock) -> None:
    store = make()
    store.replace("alice", "", b"1")
    for _ in range(3):
        clock.advance(89 * DAY)
        assert store.replace("alice", store.load("alice").version, b"2")
    version = store.load("alice").version
    clock.advance(90 * DAY)
    assert store.load("alice") == (None, "")
    assert not store.replace("alice", version, b"late")


def test_cache_expires_after_the_lifetime_asked_for(make: Make, clock: Clock) -> None:
    store = make(token_cache_lifetime_seconds=10)
    store.replace("alice", "", b"1")
    clock.advance(10)
    assert store.load("alice") == (None, "")


@pytest.mark.parametrize("make", ["memory", "sqlite"], indirect=True)  # in Redis they expire by themselves
def test_sweep_deletes_what_has_expired_and_nothing_else(make: Make, clock: Clock) -> None:
    store = make()
    for number in range(600):
        store.replace(f"old {number}", "", b"1")
    clock.advance(DAY)
    store.replace("new", "", b"1")
    assert store.sweep() == 0
    clock.advance(89 * DAY)
    assert store.sweep() == 600
    assert store.load("new").data == b"1"
