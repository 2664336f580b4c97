"""`RedisStore` keeps the contract with each client, plain and asyncio, of one server and of a cluster."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from msal_logout_middleware.stores.redis import RedisStore
from msal_logout_middleware.testing.store_contract import Clock, StoreContract

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


del Plain, Asynchronous
