"""Every shipped store keeps the contract, and the contract serves stores that are asynchronous."""

import inspect
from pathlib import Path

import anyio
import pytest

from msal_logout_middleware.stores.memory import MemoryStore
from msal_logout_middleware.stores.sqlite import SQLiteStore
from msal_logout_middleware.testing.store_contract import Clock, StoreContract


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def store(self, clock: Clock) -> MemoryStore:
        return MemoryStore(clock=clock)


class TestSQLiteStore(StoreContract):
    @pytest.fixture
    def store(self, clock: Clock, tmp_path: Path):
        store = SQLiteStore(tmp_path / "logout.db", clock=clock, busy_timeout_seconds=60)
        yield store
        store.close()


class AsyncStore:
    """A MemoryStore whose every call suspends before and after it is made."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self.generation = store.generation

    def __getattr__(self, name):
        method = getattr(self._store, name)

        async def call(*args, **options):
            await anyio.sleep(0)
            answer = method(*args, **options)
            await anyio.sleep(0)
            return answer

        return call


class TestAsyncStore(StoreContract):
    @pytest.fixture
    async def store(self, clock: Clock) -> AsyncStore:
        store = AsyncStore(MemoryStore(clock=clock))
        waiting = store.open_rows()
        assert inspect.isawaitable(waiting)
        assert await waiting == 0
        return store
