"""Every shipped store keeps the contract, and the contract serves stores that are asynchronous."""

import copy
import inspect
from pathlib import Path

import anyio
import pytest
from cryptography.fernet import Fernet

from msal_logout_middleware.stores.encryption import Encryption
from msal_logout_middleware.stores.memory import MemoryStore
from msal_logout_middleware.stores.sqlite import SQLiteStore
from msal_logout_middleware.testing.store_contract import Clock, StoreContract, TokenCacheRowsContract

KEYS = [Fernet.generate_key(), b"a secret of the app, of 32 bytes "]


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


class TestEncryptedMemoryStore(StoreContract):
    @pytest.fixture
    def store(self, clock: Clock) -> MemoryStore:
        return MemoryStore(clock=clock, encryption=Encryption(KEYS))


class TestEncryptedSQLiteStore(StoreContract):
    @pytest.fixture
    def store(self, clock: Clock, tmp_path: Path):
        encryption = Encryption(KEYS, clear="read")
        store = SQLiteStore(
            tmp_path / "logout.db", clock=clock, busy_timeout_seconds=60, encryption=encryption
        )
        yield store
        store.close()


class TestRowsOfMemoryStore(TokenCacheRowsContract):
    @pytest.fixture
    def open_store(self, clock: Clock):
        store = MemoryStore(clock=clock)

        def open_store(encryption: Encryption | None) -> MemoryStore:
            opened = copy.copy(store)  # which shares all that it keeps
            opened.encryption = encryption
            return opened

        return open_store


class TestRowsOfSQLiteStore(TokenCacheRowsContract):
    @pytest.fixture
    def open_store(self, clock: Clock, tmp_path: Path):
        opened: list[SQLiteStore] = []

        def open_store(encryption: Encryption | None) -> SQLiteStore:
            opened.append(SQLiteStore(tmp_path / "logout.db", clock=clock, encryption=encryption))
            return opened[-1]

        yield open_store
        for store in opened:
            store.close()


class AsyncStore:
    """A MemoryStore whose every call suspends before and after it is made."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self.generation = store.generation
        self.encryption = store.encryption

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


class TestRowsOfAsyncStore(TestRowsOfMemoryStore):
    @pytest.fixture
    def open_store(self, clock: Clock):
        store = MemoryStore(clock=clock)

        def open_store(encryption: Encryption | None) -> AsyncStore:
            opened = copy.copy(store)
            opened.encryption = encryption
            return AsyncStore(opened)

        return open_store
