"""URLs, engines and drivers: which will do, what connections they make, and whose: each process's and loop's own."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import create_async_engine

from msal_logout_middleware._drive import settle
from msal_logout_middleware.errors import StoreError
from msal_logout_middleware.stores.sqlalchemy import SQLAlchemyStore

from ..databases import MariaDB, PostgreSQL
from .conftest import ASYNC_DRIVERS, LONG_SECONDS, Make, assert_says_no_secret, write

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


@pytest.mark.parametrize(
    "url",
    [
        "postgresql:/user:secret@host/db",
        "no+such:// secret",
        "secret",
        "postgresql+psycopg://user:plain@secret@host/db",
        "postgresql+psycopg://user:plain@secret:secret@host/db",
        "postgresql+psycopg://us/er:secret@host/db",
    ],
)
def test_what_is_no_url_is_refused_without_being_repeated(url: str) -> None:
    with pytest.raises(ValueError, match="database URL") as raised:
        SQLAlchemyStore(url)
    assert_says_no_secret(raised.value)


def test_engine_whose_url_was_misread_is_named_without_its_password() -> None:
    engine = create_engine("postgresql+psycopg://user:plain@secret@host.invalid/db")
    with pytest.raises(StoreError, match="cannot be reached") as raised:
        SQLAlchemyStore(engine).load("alice")
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("driver", ["postgresql+asyncpg", "mysql+pymysql"])
def test_option_that_the_driver_does_not_know_is_named(driver: str) -> None:
    async def load() -> None:
        await settle(SQLAlchemyStore(f"{driver}://user:secret@127.0.0.1:1/db?sslmode=secret").load("alice"))

    with pytest.raises(StoreError, match="its URL has sslmode=, not known to the driver") as raised:
        asyncio.run(load())
    assert_says_no_secret(raised.value)


def test_driver_that_is_not_installed_is_named() -> None:
    with pytest.raises(ModuleNotFoundError, match="needs a driver that is not installed"):
        SQLAlchemyStore("postgresql+pg8000://user:secret@host/db")


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


# Connections


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


# Processes and loops


forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")


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
