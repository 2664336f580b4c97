"""SQLAlchemyStore keeps the contract over every engine and driver."""

from pathlib import Path

import pytest

from msal_logout_middleware.stores.sqlalchemy import SQLAlchemyStore
from msal_logout_middleware.testing.store_contract import Clock, StoreContract


class TestSQLite(StoreContract):
    @pytest.fixture
    def store(self, clock: Clock, tmp_path: Path):
        store = SQLAlchemyStore(f"sqlite:///{tmp_path}/logout.db", clock=clock, timeout_seconds=60)
        yield store
        store.close()


class TestAiosqlite(StoreContract):
    @pytest.fixture
    async def store(self, clock: Clock, tmp_path: Path):
        store = SQLAlchemyStore(f"sqlite+aiosqlite:///{tmp_path}/logout.db", clock=clock, timeout_seconds=60)
        yield store
        await store.close()
