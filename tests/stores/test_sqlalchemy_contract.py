"""SQLAlchemyStore keeps the contract over every engine and driver."""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from msal_logout_middleware.stores.sqlalchemy import SQLAlchemyStore
from msal_logout_middleware.testing.store_contract import Clock, StoreContract

from .servers import MariaDB, PostgreSQL, Server


@pytest.fixture
def options(clock: Clock) -> dict[str, Any]:
    return {"clock": clock, "timeout_seconds": 60}


def emptied(server: Server, driver: str) -> str:
    server.empty("msal_logout_")
    return server.url(driver)


class TestSQLite(StoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path, options: dict[str, Any]):
        store = SQLAlchemyStore(f"sqlite:///{tmp_path}/logout.db", **options)
        yield store
        store.close()


class TestAiosqlite(StoreContract):
    @pytest.fixture
    async def store(self, tmp_path: Path, options: dict[str, Any]):
        store = SQLAlchemyStore(f"sqlite+aiosqlite:///{tmp_path}/logout.db", **options)
        yield store
        await store.close()


class TestPsycopg(StoreContract):
    @pytest.fixture
    def store(self, postgresql: PostgreSQL, options: dict[str, Any]):
        store = SQLAlchemyStore(emptied(postgresql, "psycopg"), **options)
        yield store
        store.close()


class TestAsyncPsycopg(StoreContract):
    @pytest.fixture
    async def store(self, postgresql: PostgreSQL, options: dict[str, Any]):
        engine = create_async_engine(emptied(postgresql, "psycopg"))
        store = SQLAlchemyStore(engine, **options)
        yield store
        await store.close()
        await engine.dispose()


class TestAsyncpg(StoreContract):
    @pytest.fixture
    async def store(self, postgresql: PostgreSQL, options: dict[str, Any]):
        store = SQLAlchemyStore(emptied(postgresql, "asyncpg"), **options)
        yield store
        await store.close()


class TestPyMySQL(StoreContract):
    @pytest.fixture
    def store(self, mariadb: MariaDB, options: dict[str, Any]):
        store = SQLAlchemyStore(emptied(mariadb, "pymysql"), **options)
        yield store
        store.close()


class TestAsyncmy(StoreContract):
    @pytest.fixture
    async def store(self, mariadb: MariaDB, options: dict[str, Any]):
        store = SQLAlchemyStore(emptied(mariadb, "asyncmy"), **options)
        yield store
        await store.close()
