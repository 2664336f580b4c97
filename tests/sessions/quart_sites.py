"""Real Quart apps whose sessions are read, in signed cookies and by quart-session's engines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import itsdangerous
import quart
import quart_session
import redis
import redis.asyncio
from redis.asyncio.connection import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from msal_logout_middleware.sessions.quart import QuartSession
from msal_logout_middleware.testing.session_contract import SessionSite

from ..stores.servers import Server


class _Signer(itsdangerous.Signer):
    """As apps have to repair signed ids: quart-session 3.0 hands their bytes to Werkzeug 3, which takes text only."""

    def sign(self, value: str | bytes) -> Any:
        return super().sign(value).decode()


def quart_app(**config: Any) -> quart.Quart:
    """An app that signs in whoever asks for it, with quart-session where `SESSION_TYPE` is set."""
    app = quart.Quart("shop")
    app.config.update({"SECRET_KEY": "a secret", **config})
    if "SESSION_TYPE" in config:
        quart_session.Session(app)
    if config.get("SESSION_USE_SIGNER"):
        cast("Any", app.session_interface)._get_signer = lambda app: _Signer(app.secret_key, "quart-session")

    @app.post("/sign-in")
    async def sign_in() -> str:
        quart.session.update(await quart.request.get_json())
        return ""

    @app.get("/contents")
    async def contents() -> dict[str, Any]:
        return dict(quart.session)

    return app


async def quart_sign_in(app: quart.Quart, contents: Mapping[str, Any], **headers: str) -> Sequence[str]:
    response = await app.test_client(use_cookies=False).post("/sign-in", json=contents, headers=headers)
    assert response.status_code == 200
    return response.headers.getlist("Set-Cookie")


async def quart_contents(app: quart.Quart, cookie_header: str) -> Mapping[str, Any]:
    response = await app.test_client(use_cookies=False).get("/contents", headers={"Cookie": cookie_header})
    assert response.status_code == 200
    found: Mapping[str, Any] = await response.get_json()
    return found


def quart_site(app: quart.Quart, foreign: quart.Quart, **storage: Any) -> SessionSite:
    return SessionSite(
        session=QuartSession(app, claims="user"),
        sign_in=lambda contents: quart_sign_in(app, contents),
        contents=lambda header: quart_contents(app, header),
        foreign=lambda contents: quart_sign_in(foreign, contents),
        **storage,
    )


def signed(**config: Any) -> SessionSite:
    """Quart's own signed cookies."""
    return quart_site(quart_app(**config), quart_app(**{**config, "SECRET_KEY": "another secret"}))


class Fleeting(ConnectionPool):
    """Keeps no connection, so that each event loop of the tests has its own."""

    async def release(self, connection: Any) -> None:
        await connection.disconnect()
        await super().release(connection)


def asynchronous(url: str, **options: Any) -> Any:
    """A client of redis-py that any event loop may use."""
    return redis.asyncio.Redis(connection_pool=Fleeting.from_url(url, **options))


def records(server: Server, database: int) -> dict[str, object]:
    """Every record of a database, and when it expires."""
    with redis.Redis.from_url(f"{server.url}/{database}") as client:
        return {
            key.decode(): (client.get(key), client.execute_command("PEXPIRETIME", key))
            for key in client.scan_iter()
        }


def emptied(server: Server, database: int) -> str:
    """The URL of a database, which is empty from now on."""
    with redis.Redis.from_url(f"{server.url}/{database}") as client:
        client.flushdb()
    return f"{server.url}/{database}"


def nobody() -> Any:
    """A client of a server that is away."""
    return asynchronous("redis://127.0.0.1:1", retry=Retry(NoBackoff(), 0))


def in_redis(server: Server, **config: Any) -> SessionSite:
    """quart-session's sessions in a real server."""

    def app(database: int) -> quart.Quart:
        client = asynchronous(emptied(server, database), decode_responses=True)
        return quart_app(SESSION_TYPE="redis", SESSION_REDIS=client, **config)

    own: Any = app(1)

    @contextmanager
    def outage() -> Iterator[None]:
        client, own.session_interface.backend = own.session_interface.backend, nobody()
        yield
        own.session_interface.backend = client

    return quart_site(own, app(2), stored=lambda: records(server, 1), outage=outage)


class AsyncMemcached:
    """What quart-session calls of `aiomcache.Client`."""

    def __init__(self) -> None:
        self.records: dict[bytes, bytes] = {}
        self.away = False

    def _ask(self) -> dict[bytes, bytes]:
        if self.away:
            raise ConnectionRefusedError("the server is away")
        return self.records

    async def get(self, key: bytes) -> bytes | None:
        return self._ask().get(key)

    async def set(self, key: bytes, value: bytes, exptime: int) -> bool:
        self._ask()[key] = value
        return True

    async def delete(self, key: bytes) -> bool:
        return self._ask().pop(key, None) is not None

    @contextmanager
    def outage(self) -> Iterator[None]:
        self.away = True
        yield
        self.away = False


def in_memcached(**config: Any) -> SessionSite:
    """quart-session's sessions by its memcached engine."""
    client = AsyncMemcached()
    return quart_site(
        quart_app(SESSION_TYPE="memcached", SESSION_MEMCACHED=client, **config),
        quart_app(SESSION_TYPE="memcached", SESSION_MEMCACHED=AsyncMemcached(), **config),
        stored=lambda: {key.decode(): value for key, value in client.records.items()},
        outage=client.outage,
    )
