"""Flask-Session's engines whose storage is a server: a real one, mongomock, and a table as boto3 has it."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import mongomock
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from msal_logout_middleware.testing.session_contract import SessionSite

from ..stores.servers import Server
from .sites import flask_app, flask_site


@dataclass(frozen=True)
class Engine:
    """An engine as an app's configuration names it.

    Args:
        config: Of the app.
        stored: Returns all records.
        outage: Makes the storage unreachable while it is entered.
        imports: Is entered while the engine is imported.
    """

    config: Mapping[str, Any]
    stored: Callable[[], Mapping[str, object]]
    outage: Callable[[], AbstractContextManager[object]]
    imports: Callable[[], AbstractContextManager[object]]

    def app(self, **config: Any) -> Any:
        """An app with the engine, or one more worker of it."""
        with self.imports():
            return flask_app(**self.config, **config)


@contextmanager
def as_it_is() -> Iterator[None]:
    yield


def in_redis(server: Server, database: int) -> Engine:
    client = redis.Redis(port=server.port, db=database, retry=Retry(NoBackoff(), 0))
    client.flushdb()

    def stored() -> dict[str, object]:
        """Every record, and when it expires."""
        return {
            key.decode(): (client.get(key), client.execute_command("PEXPIRETIME", key))
            for key in client.scan_iter()
        }

    @contextmanager
    def outage() -> Iterator[None]:
        there = client.connection_pool
        client.connection_pool = redis.ConnectionPool(port=1, retry=Retry(NoBackoff(), 0))
        yield
        client.connection_pool = there

    return Engine({"SESSION_TYPE": "redis", "SESSION_REDIS": client}, stored, outage, as_it_is)


def in_mongodb(_: Server, __: int) -> Engine:
    client: Any = mongomock.MongoClient()

    def stored() -> dict[str, object]:
        return {record["id"]: record for record in client["flask_session"]["sessions"].find()}

    @contextmanager
    def outage() -> Iterator[None]:
        away = ConnectionRefusedError("the server is away")
        with (
            patch.object(mongomock.Collection, "find_one", side_effect=away),
            patch.object(mongomock.Collection, "delete_one", side_effect=away),
        ):
            yield

    config = {"SESSION_TYPE": "mongodb", "SESSION_MONGODB": client}
    return Engine(
        config, stored, outage, lambda: patch("flask_session.mongodb.mongodb.MongoClient", type(client))
    )


class _InUse(Exception):
    pass


class DynamoDB:
    """A resource of boto3 with a table, as far as the engine knows them."""

    def __init__(self) -> None:
        exceptions = types.SimpleNamespace(ResourceInUseException=_InUse)
        self.meta = types.SimpleNamespace(client=types.SimpleNamespace(exceptions=exceptions))
        self.records: dict[str, dict[str, Any]] = {}
        self.away = False

    def create_table(self, **_: Any) -> None:
        raise _InUse

    def Table(self, _: str) -> DynamoDB:  # noqa: N802 - boto3's name
        return self

    def _ask(self) -> dict[str, dict[str, Any]]:
        if self.away:
            raise ConnectionRefusedError("the server is away")
        return self.records

    def get_item(self, *, Key: Mapping[str, str]) -> dict[str, Any]:  # noqa: N803 - the same
        item = self._ask().get(Key["id"])
        return {} if item is None else {"Item": {"id": Key["id"], **item}}

    def delete_item(self, *, Key: Mapping[str, str]) -> None:  # noqa: N803
        self._ask().pop(Key["id"], None)

    def update_item(
        self,
        *,
        Key: Mapping[str, str],  # noqa: N803
        UpdateExpression: str,  # noqa: N803
        ExpressionAttributeValues: Mapping[str, Any],  # noqa: N803
    ) -> None:
        assert UpdateExpression == "SET val = :value, expiration = :exp"
        values = ExpressionAttributeValues
        kept = types.SimpleNamespace(value=values[":value"])  # boto3's Binary
        self._ask()[Key["id"]] = {"val": kept, "expiration": values[":exp"]}

    @contextmanager
    def outage(self) -> Iterator[None]:
        self.away = True
        yield
        self.away = False


def in_dynamodb(_: Server, __: int) -> Engine:
    table = DynamoDB()

    def imports() -> AbstractContextManager[object]:
        """Of boto3 the engine needs nothing but to import it."""
        service = types.ModuleType("mypy_boto3_dynamodb.service_resource")
        service.DynamoDBServiceResource = DynamoDB  # type: ignore[attr-defined]
        modules = {"boto3": types.ModuleType("boto3"), "mypy_boto3_dynamodb": types.ModuleType("m")}
        return patch.dict(sys.modules, {**modules, service.__name__: service})

    config = {"SESSION_TYPE": "dynamodb", "SESSION_DYNAMODB": table}
    return Engine(config, lambda: dict(table.records), table.outage, imports)


MAKE: dict[str, Callable[[Server, int], Engine]] = {
    "Redis": in_redis,
    "MongoDB": in_mongodb,
    "DynamoDB": in_dynamodb,
}


def site(engine: str, server: Server, **config: Any) -> SessionSite:
    own, foreign = MAKE[engine](server, 1), MAKE[engine](server, 2)
    return flask_site(own.app(**config), foreign.app(**config), stored=own.stored, outage=own.outage)
