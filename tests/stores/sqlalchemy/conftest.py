"""Several workers' stores over one database, and what the tests of this folder do with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import pytest
from sqlalchemy import event

from msal_logout_middleware.stores import Ending, SessionRecord
from msal_logout_middleware.stores.sqlalchemy import SQLAlchemyStore
from tests.stories.servers import until

from ..databases import Database, PostgreSQL

LONG_SECONDS = 60
HOUR = 3_600.0
DEAD = Ending(handles=("h",), expires_at=9e9)
ASYNC_DRIVERS = ("psycopg_async", "asyncpg")

prefixes = (f"t{number}_" for number in count(1))

Make = Callable[..., SQLAlchemyStore]


def a_record(handle: str = "h", session: str = "s", **changes: Any) -> SessionRecord:
    values: dict[str, Any] = {"keys": ("sub",), "issued_at": 1.0, "data": b"", "expires_at": 9e9}
    return SessionRecord(handle, session, **{**values, **changes})


def write(store: SQLAlchemyStore, data: bytes | None, key: str = "alice") -> bool:
    return store.replace(key, store.load(key).version, data)


def in_step(*stores: SQLAlchemyStore) -> list[int]:
    """Wait until stores can tell the generation."""
    return [until(store.generation) for store in stores]


def assert_says_no_secret(error: Exception) -> None:
    assert "secret" not in str(error)
    assert error.__context__ is None  # so that no log tells the engine's error with it


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
