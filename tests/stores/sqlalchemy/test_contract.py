"""SQLAlchemyStore keeps the contract over every engine and driver."""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from msal_logout_middleware.stores.encryption import Encryption
from msal_logout_middleware.stores.sqlalchemy import SQLAlchemyStore
from msal_logout_middleware.testing.store_contract import Clock, StoreContract, TokenCacheRowsContract

from ..databases import Database, MariaDB, PostgreSQL


@pytest.fixture
def options(clock: Clock) -> dict[str, Any]:
    return {"clock": clock, "timeout_seconds": 60}


def emptied(database: Database, driver: str) -> str:
    database.empty("msal_logout_")
    return database.url(driver)


class TestSQLite(StoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path, options: dict[str, Any]):
        store = SQLAlchemyStore(f"sqlite:///{tmp_path}/logout.db", **options)
        yield store
        store.close()


@pytest.mark.matrix
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


@pytest.mark.matrix
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


@pytest.mark.matrix
class TestPyMySQL(StoreContract):
    @pytest.fixture
    def store(self, mariadb: MariaDB, options: dict[str, Any]):
        store = SQLAlchemyStore(emptied(mariadb, "pymysql"), **options)
        yield store
        store.close()


@pytest.mark.matrix
class TestAsyncmy(StoreContract):
    @pytest.fixture
    async def store(self, mariadb: MariaDB, options: dict[str, Any]):
        store = SQLAlchemyStore(emptied(mariadb, "asyncmy"), **options)
        yield store
        await store.close()


class TestRowsOfSQLite(TokenCacheRowsContract):
    @pytest.fixture
    def open_store(self, tmp_path: Path, options: dict[str, Any]):
        stores = []

        def open_store(encryption: Encryption | None) -> SQLAlchemyStore:
            url = f"sqlite:///{tmp_path}/logout.db"
            stores.append(SQLAlchemyStore(url, encryption=encryption, **options))
            return stores[-1]

        yield open_store
        for store in stores:
            store.close()


class TestRowsOfAsyncpg(TokenCacheRowsContract):
    @pytest.fixture
    async def open_store(self, postgresql: PostgreSQL, options: dict[str, Any]):
        url = emptied(postgresql, "asyncpg")
        stores = []

        def open_store(encryption: Encryption | None) -> SQLAlchemyStore:
            stores.append(SQLAlchemyStore(url, encryption=encryption, **options))
            return stores[-1]

        yield open_store
        for store in stores:
            await store.close()


@pytest.mark.matrix
class TestRowsOfPyMySQL(TokenCacheRowsContract):
    @pytest.fixture
    def open_store(self, mariadb: MariaDB, options: dict[str, Any]):
        url = emptied(mariadb, "pymysql")
        stores = []

        def open_store(encryption: Encryption | None) -> SQLAlchemyStore:
            stores.append(SQLAlchemyStore(url, encryption=encryption, **options))
            return stores[-1]

        yield open_store
        for store in stores:
            store.close()
