"""`RedisStore` keeps the contract with each client, plain and asyncio, of one server and a cluster; of Redis too."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from msal_logout_middleware.stores.encryption import Encryption
from msal_logout_middleware.stores.redis import RedisStore
from msal_logout_middleware.testing.store_contract import (
    Clock,
    StoreContract,
    TokenCacheRowsContract,
    TokenCacheStoreContract,
)

from .servers import Server, new_prefix


def make(client: Any, clock: Clock) -> RedisStore:
    return RedisStore(client, prefix=new_prefix(), clock=clock, timeout_seconds=60)


def client_class(name: str) -> Any:
    module, _, cls = name.rpartition(".")
    return getattr(pytest.importorskip(module, reason=f"no client: install {name.partition('.')[0]}"), cls)


class Plain(StoreContract):
    client = ""
    options: ClassVar[dict[str, Any]] = {}

    @pytest.fixture
    def store(self, server: Server, clock: Clock):
        with client_class(self.client).from_url(server.url, socket_timeout=60, **self.options) as client:
            store = make(client, clock)
            yield store
            store.close()


class Asynchronous(StoreContract):
    client = ""
    options: ClassVar[dict[str, Any]] = {}

    @pytest.fixture
    async def store(self, server: Server, clock: Clock):
        async with client_class(self.client).from_url(server.url, **self.options) as client:
            store = make(client, clock)
            yield store
            await store.close()


class TestRedis(Plain):
    client = "redis.Redis"


@pytest.mark.matrix
class TestRedisThatDecodes(Plain):
    client = "redis.Redis"
    options: ClassVar = {"decode_responses": True, "protocol": 3}


@pytest.mark.matrix
class TestValkey(Plain):
    client = "valkey.Valkey"


class TestRedisAsyncio(Asynchronous):
    client = "redis.asyncio.Redis"


@pytest.mark.matrix
class TestRedisAsyncioThatDecodes(Asynchronous):
    client = "redis.asyncio.Redis"
    options: ClassVar = {"decode_responses": True, "protocol": 3}


@pytest.mark.matrix
class TestValkeyAsyncio(Asynchronous):
    client = "valkey.asyncio.Valkey"


@pytest.mark.matrix
class TestURL(StoreContract):
    @pytest.fixture
    def store(self, server: Server, clock: Clock):
        store = make(server.url, clock)
        yield store
        store.close()


class OfCluster:
    @pytest.fixture
    def server(self, cluster: Server) -> Server:
        return cluster


class TestRedisCluster(OfCluster, Plain):
    client = "redis.cluster.RedisCluster"


@pytest.mark.matrix
class TestValkeyClusterAsyncio(OfCluster, Asynchronous):
    client = "valkey.asyncio.cluster.ValkeyCluster"


@pytest.mark.matrix
class TestRedisClusterAsyncio(OfCluster, Asynchronous):
    client = "redis.asyncio.cluster.RedisCluster"


class OfRedisItself:
    @pytest.fixture
    def server(self, redis_server: Server) -> Server:
        return redis_server


class OfRedisClusterItself:
    @pytest.fixture
    def server(self, redis_primaries: list[Server]) -> Server:
        return redis_primaries[0]


@pytest.mark.matrix
class TestRedisItself(OfRedisItself, Plain):
    client = "redis.Redis"


@pytest.mark.matrix
class TestRedisItselfAsyncio(OfRedisItself, Asynchronous):
    client = "redis.asyncio.Redis"
    options: ClassVar = {"decode_responses": True, "protocol": 3}


@pytest.mark.matrix
class TestRedisItselfByValkeysClient(OfRedisItself, Plain):
    client = "valkey.Valkey"


@pytest.mark.matrix
class TestRedisClusterItself(OfRedisClusterItself, Plain):
    client = "redis.cluster.RedisCluster"


class TestEncrypted(TokenCacheStoreContract):
    @pytest.fixture
    def store(self, server: Server):
        encryption = Encryption([b"a secret of the app, of 32 bytes ", b"the one before, of 32 bytes too "])
        store = RedisStore(server.url, prefix=new_prefix(), timeout_seconds=60, encryption=encryption)
        yield store
        store.close()


class Rows(TokenCacheRowsContract):
    client = ""
    options: ClassVar[dict[str, Any]] = {}

    @pytest.fixture
    def open_store(self, server: Server, clock: Clock):
        prefix = new_prefix()
        with client_class(self.client).from_url(server.url, socket_timeout=60, **self.options) as client:
            yield lambda encryption: RedisStore(client, prefix=prefix, clock=clock, encryption=encryption)


class AsynchronousRows(TokenCacheRowsContract):
    client = ""
    options: ClassVar[dict[str, Any]] = {}

    @pytest.fixture
    async def open_store(self, server: Server, clock: Clock):
        options = {"prefix": new_prefix(), "clock": clock, "timeout_seconds": 60}
        async with client_class(self.client).from_url(server.url, **self.options) as client:
            yield lambda encryption: RedisStore(client, encryption=encryption, **options)


class OfThree:
    @pytest.fixture
    def server(self, primaries: list[Server]) -> Server:
        return primaries[0]


class TestRowsOfRedis(Rows):
    client = "redis.Redis"


@pytest.mark.matrix
class TestRowsOfRedisThatDecodes(Rows):
    client = "redis.Redis"
    options: ClassVar = {"decode_responses": True, "protocol": 3}


@pytest.mark.matrix
class TestRowsOfValkey(Rows):
    client = "valkey.Valkey"


@pytest.mark.matrix
class TestRowsOfRedisItself(OfRedisItself, Rows):
    client = "redis.Redis"


@pytest.mark.matrix
class TestRowsOfRedisClusterItself(OfRedisClusterItself, Rows):
    client = "redis.cluster.RedisCluster"


@pytest.mark.matrix
class TestRowsOfRedisAsyncio(AsynchronousRows):
    client = "redis.asyncio.Redis"


@pytest.mark.matrix
class TestRowsOfValkeyAsyncio(AsynchronousRows):
    client = "valkey.asyncio.Valkey"


class TestRowsOfRedisCluster(OfThree, Rows):
    client = "redis.cluster.RedisCluster"


@pytest.mark.matrix
class TestRowsOfRedisClusterThatDecodes(OfThree, Rows):
    client = "redis.cluster.RedisCluster"
    options: ClassVar = {"decode_responses": True, "protocol": 3}


@pytest.mark.matrix
class TestRowsOfValkeyCluster(OfThree, Rows):
    client = "valkey.cluster.ValkeyCluster"


class TestRowsOfRedisClusterAsyncio(OfThree, AsynchronousRows):
    client = "redis.asyncio.cluster.RedisCluster"


@pytest.mark.matrix
class TestRowsOfRedisClusterAsyncioThatDecodes(OfThree, AsynchronousRows):
    client = "redis.asyncio.cluster.RedisCluster"
    options: ClassVar = {"decode_responses": True, "protocol": 3}


@pytest.mark.matrix
class TestRowsOfValkeyClusterAsyncio(OfThree, AsynchronousRows):
    client = "valkey.asyncio.cluster.ValkeyCluster"


del Plain, Asynchronous, Rows, AsynchronousRows
