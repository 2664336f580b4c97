"""Real Litestar apps whose sessions are read: in encrypted cookies, and in each kind of store."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from litestar import Litestar, Request, WebSocket, get, post, websocket
from litestar.middleware.session.client_side import CookieBackendConfig
from litestar.middleware.session.server_side import ServerSideSessionConfig
from litestar.stores.base import Store
from litestar.stores.file import FileStore
from litestar.stores.memory import MemoryStore
from litestar.stores.redis import RedisStore

from msal_logout_middleware.sessions.litestar import LitestarSession
from msal_logout_middleware.testing.session_contract import SessionSite

from ..stores.servers import Server
from .quart_sites import asynchronous, emptied, nobody, records
from .sites import directory_gone, files

Config = Any  # a `CookieBackendConfig` or a `ServerSideSessionConfig`


def litestar_app(config: Config, **stores: Store) -> Litestar:
    """An app that signs in whoever asks for it."""

    @post("/sign-in")
    async def sign_in(request: Request[Any, Any, Any]) -> None:
        request.session.update(await request.json())

    @get("/contents")
    async def contents(request: Request[Any, Any, Any]) -> dict[str, Any]:
        return request.session

    @get("/sign-out")
    async def sign_out(request: Request[Any, Any, Any]) -> None:
        request.clear_session()

    @websocket("/socket")
    async def socket(socket: WebSocket[Any, Any, Any]) -> None:
        await socket.accept()
        await socket.send_json(socket.session)
        await socket.close()

    return Litestar(
        [sign_in, contents, sign_out, socket],
        middleware=[config.middleware],
        stores=stores,
        openapi_config=None,
    )


def client(app: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="https://app.example")


async def litestar_sign_in(app: Any, contents: Mapping[str, Any]) -> Sequence[str]:
    async with client(app) as browser:
        response = await browser.post("/sign-in", json=contents)
    assert response.status_code == 201
    return response.headers.get_list("Set-Cookie")


async def litestar_contents(app: Any, cookie_header: str) -> Mapping[str, Any]:
    async with client(app) as browser:
        response = await browser.get(
            "/contents", headers={"Cookie": cookie_header.encode("latin-1", "replace")}
        )
    assert response.status_code == 200
    found: Mapping[str, Any] = response.json()
    return found


async def litestar_socket_contents(app: Any, *cookie_headers: str) -> Mapping[str, Any] | None:
    """What a WebSocket finds in its session; `None` if the handshake is refused."""
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "websocket",
        "path": "/socket",
        "query_string": b"",
        "headers": [(b"cookie", each.encode()) for each in cookie_headers],
        "subprotocols": [],
    }
    await app(scope, receive, send)
    texts = [message["text"] for message in sent if message["type"] == "websocket.send"]
    return json.loads(texts[0]) if texts else None


def litestar_site(app: Litestar, foreign: Litestar, **storage: Any) -> SessionSite:
    return SessionSite(
        session=LitestarSession(app, claims="user"),
        sign_in=lambda contents: litestar_sign_in(app, contents),
        contents=lambda header: litestar_contents(app, header),
        foreign=lambda contents: litestar_sign_in(foreign, contents),
        **storage,
    )


def encrypted(**options: Any) -> SessionSite:
    """Litestar's sessions in encrypted cookies."""
    return litestar_site(
        litestar_app(CookieBackendConfig(secret=b"a secret".ljust(16), **options)),
        litestar_app(CookieBackendConfig(secret=b"another secret".ljust(16), **options)),
    )


def _stored(store: Store, foreign: Store, options: Mapping[str, Any], **storage: Any) -> SessionSite:
    return litestar_site(
        litestar_app(ServerSideSessionConfig(**options), sessions=store),
        litestar_app(ServerSideSessionConfig(**options), sessions=foreign),
        **storage,
    )


def in_memory(_path: Path, _server: Server, **options: Any) -> SessionSite:
    store = MemoryStore()
    return _stored(store, MemoryStore(), options, stored=lambda: dict(store._store))


def in_files(path: Path, _server: Server, **options: Any) -> SessionSite:
    path.mkdir()
    store, foreign = FileStore(path), FileStore(Path(f"{path}-2"))
    return _stored(store, foreign, options, stored=lambda: files(path), outage=lambda: directory_gone(path))


def in_redis(_path: Path, server: Server, **options: Any) -> SessionSite:
    """In a real server."""
    store = RedisStore(asynchronous(emptied(server, 5)))
    foreign = RedisStore(asynchronous(emptied(server, 6)))

    @contextmanager
    def outage() -> Iterator[None]:
        kept = store._redis, store._get_and_renew_script
        away = RedisStore(nobody())
        store._redis, store._get_and_renew_script = away._redis, away._get_and_renew_script
        yield
        store._redis, store._get_and_renew_script = kept

    return _stored(store, foreign, options, stored=lambda: records(server, 5), outage=outage)


EVERY_OPTION: dict[str, Any] = {
    "key": "__Secure-shop",
    "max_age": 3600,
    "path": "/shop",
    "domain": "app.example",
    "secure": True,
    "httponly": False,
    "samesite": "none",
}

Site = Callable[[Path, Server], SessionSite]
