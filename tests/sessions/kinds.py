"""Every kind of session, each in a small real app, for the tests that hold of all of them.

A kind joins by a row in `KINDS`: `make` returns an app with the views of `Views`, and the reader of its sessions.
"""

from __future__ import annotations

import json
import threading
import warnings
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio.to_thread
import flask
import flask_session
import httpx
import litestar
import quart
import quart_session
import redis
from cachelib import FileSystemCache
from flask_sqlalchemy import SQLAlchemy
from litestar.middleware.session.client_side import CookieBackendConfig
from litestar.middleware.session.server_side import ServerSideSessionConfig
from litestar.stores.file import FileStore
from litestar.stores.memory import MemoryStore as LitestarMemoryStore
from litestar.stores.redis import RedisStore as LitestarRedisStore
from sqlalchemy.pool import NullPool
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starsessions import CookieStore, InMemoryStore, SessionAutoloadMiddleware
from starsessions import SessionMiddleware as Starsessions
from starsessions.stores.redis import RedisStore
from werkzeug.test import Client

from msal_logout_middleware import Logout, MemoryStore, Provider, asgi, wsgi
from msal_logout_middleware.sessions.asgi import ASGISession
from msal_logout_middleware.sessions.flask import FlaskSession
from msal_logout_middleware.sessions.litestar import LitestarSession
from msal_logout_middleware.sessions.quart import QuartSession

from ..stores.servers import Server
from ..tokens import CLIENT_ID, TENANT, claims_of
from .quart_sites import asynchronous, emptied

URL = "https://app.example"
SECRET = "a secret of some length"
PATIENCE_SECONDS = 30.0  # a view that is held longer is an error


class Views:
    """What each app does: sign in whom a request says, tell who is signed in, and be held while it has a session."""

    def __init__(self) -> None:
        self.entered, self.go = threading.Event(), threading.Event()

    def sign_in(self, session: MutableMapping[str, Any], claims: str) -> str:
        session["user"] = json.loads(claims)
        return "signed in"

    def who(self, session: Mapping[str, Any]) -> str:
        return str(session.get("user", {}).get("sub", "nobody"))

    def hold(self, session: Mapping[str, Any]) -> str:
        read = self.who(session)
        self.entered.set()
        assert self.go.wait(PATIENCE_SECONDS)
        return read

    async def hold_async(self, session: Mapping[str, Any]) -> str:
        return await anyio.to_thread.run_sync(self.hold, session)


@dataclass(frozen=True)
class Made:
    """An app, and what reads its sessions.

    Args:
        app: The app: WSGI, or ASGI.
        session: The reader.
        is_asgi: Which of them it is.
    """

    app: Any
    session: Any
    is_asgi: bool = False


@dataclass(frozen=True)
class Kind:
    """A kind of session.

    Args:
        make: Makes an app, given its views, a folder of its own, and a server with the protocol of Redis.
        comes_back: Where sessions are on the server: whether a request that only reads a session saves it, and so
            brings it back after a deletion.
    """

    make: Callable[[Views, Path, Server], Made]
    comes_back: bool | None = None


@dataclass(frozen=True)
class Answer:
    """An answer of an app."""

    status: int
    text: str
    set_cookies: tuple[str, ...]

    @property
    def cookie_header(self) -> str:
        """What a browser that had no cookie would send from now on."""
        pairs = (value.partition(";")[0] for value in self.set_cookies)
        return "; ".join(pair for pair in pairs if pair.partition("=")[2] not in ("", "null"))  # which delete


async def get(made: Made, app: Any, path: str, cookie_header: str = "", **parameters: str) -> Answer:
    """Send a request to the app, or to the app as it is wrapped."""
    headers = {"Sec-Fetch-Site": "same-origin", **({"Cookie": cookie_header} if cookie_header else {})}
    if made.is_asgi:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=URL) as client:
            answer = await client.get(path, params=parameters, headers=headers)
            return Answer(answer.status_code, answer.text, tuple(answer.headers.get_list("set-cookie")))

    def call() -> Answer:
        client = Client(app, use_cookies=False)
        answer = client.get(path, base_url=URL, query_string=parameters, headers=headers)
        return Answer(answer.status_code, answer.text, tuple(answer.headers.getlist("set-cookie")))

    return await anyio.to_thread.run_sync(call)


def wrapped(made: Made) -> Any:
    """The app in the middleware."""
    logout = Logout(
        provider=Provider.entra(TENANT, CLIENT_ID),
        session=made.session,
        store=MemoryStore(),
        secret=SECRET,
        post_logout_redirect_uri=f"{URL}/",
    )
    door: Any = asgi if made.is_asgi else wsgi
    return door.LogoutMiddleware(made.app, logout)


async def sign_in(made: Made, app: Any, **claims: Any) -> str:
    """Sign Ann in, in a browser of her own; return the `Cookie` header that it sends from then on."""
    answer = await get(made, app, "/in", claims=json.dumps(claims_of("ann", **claims)))
    assert answer.text == "signed in"
    return answer.cookie_header


def in_flask(views: Views, **config: Any) -> Made:
    app = flask.Flask("shop")
    app.config.update(SECRET_KEY=SECRET, **config)
    if "SESSION_SQLALCHEMY" in config:
        config["SESSION_SQLALCHEMY"].init_app(app)
    if "SESSION_TYPE" in config:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            flask_session.Session(app)
    app.add_url_rule("/in", "in", lambda: views.sign_in(flask.session, flask.request.args["claims"]))
    app.add_url_rule("/who", "who", lambda: views.who(flask.session))
    app.add_url_rule("/hold", "hold", lambda: views.hold(flask.session))
    return Made(app, FlaskSession(app))


def in_flask_files(views: Views, folder: Path, _: Server) -> Made:
    return in_flask(views, SESSION_TYPE="cachelib", SESSION_CACHELIB=FileSystemCache(str(folder)))


def in_flask_redis(views: Views, _: Path, server: Server) -> Made:
    return in_flask(views, SESSION_TYPE="redis", SESSION_REDIS=redis.Redis.from_url(emptied(server, 4)))


def in_flask_sql(views: Views, folder: Path, _: Server) -> Made:
    return in_flask(
        views,
        SESSION_TYPE="sqlalchemy",
        SESSION_SQLALCHEMY=SQLAlchemy(),
        SQLALCHEMY_DATABASE_URI=f"sqlite:///{folder / 'sessions.db'}",
        SQLALCHEMY_ENGINE_OPTIONS={"poolclass": NullPool},
    )


def in_starlette(views: Views, session: Middleware) -> Made:
    async def sign_in(request: Request) -> PlainTextResponse:
        return PlainTextResponse(views.sign_in(request.session, request.query_params["claims"]))

    async def who(request: Request) -> PlainTextResponse:
        return PlainTextResponse(views.who(request.session))

    async def hold(request: Request) -> PlainTextResponse:
        return PlainTextResponse(await views.hold_async(request.session))

    autoload = [Middleware(SessionAutoloadMiddleware)] if session.cls is Starsessions else []
    routes = [Route("/in", sign_in), Route("/who", who), Route("/hold", hold)]
    app = Starlette(routes=routes, middleware=[session, *autoload])
    return Made(app, ASGISession(app), is_asgi=True)


def in_starsessions(views: Views, store: Any, **options: Any) -> Made:
    return in_starlette(views, Middleware(Starsessions, store=store, lifetime=3600, **options))


def in_starsessions_redis(views: Views, _: Path, server: Server) -> Made:
    return in_starsessions(views, RedisStore(connection=asynchronous(emptied(server, 5))), rolling=True)


def in_quart(views: Views, **config: Any) -> Made:
    app = quart.Quart("shop")
    app.config.update(SECRET_KEY=SECRET, **config)
    if "SESSION_TYPE" in config:
        quart_session.Session(app)

    async def sign_in() -> str:
        return views.sign_in(quart.session, quart.request.args["claims"])

    async def who() -> str:
        return views.who(quart.session)

    async def hold() -> str:
        return await views.hold_async(dict(quart.session))  # a proxy is no thread's but its own

    app.add_url_rule("/in", "in", sign_in)
    app.add_url_rule("/who", "who", who)
    app.add_url_rule("/hold", "hold", hold)
    return Made(app, QuartSession(app), is_asgi=True)


def in_quart_redis(views: Views, _: Path, server: Server) -> Made:
    client = asynchronous(emptied(server, 6), decode_responses=True)
    return in_quart(views, SESSION_TYPE="redis", SESSION_REDIS=client)


def in_litestar(views: Views, config: Any, *, padding: int = 0, **stores: Any) -> Made:
    @litestar.get("/in", media_type="text/plain")
    async def sign_in(request: litestar.Request[Any, Any, Any]) -> str:
        request.session["padding"] = "x" * padding
        return views.sign_in(request.session, request.query_params["claims"])

    @litestar.get("/who", media_type="text/plain")
    async def who(request: litestar.Request[Any, Any, Any]) -> str:
        return views.who(request.session)

    @litestar.get("/hold", media_type="text/plain")
    async def hold(request: litestar.Request[Any, Any, Any]) -> str:
        return await views.hold_async(request.session)

    handlers = [sign_in, who, hold]
    app = litestar.Litestar(handlers, middleware=[config.middleware], stores=stores, openapi_config=None)
    return Made(app, LitestarSession(app), is_asgi=True)


def in_litestar_cookies(views: Views, padding: int = 0) -> Made:
    return in_litestar(views, CookieBackendConfig(SECRET.encode()[:16]), padding=padding)


def in_litestar_store(views: Views, store: Any) -> Made:
    return in_litestar(views, ServerSideSessionConfig(), sessions=store)


def in_litestar_files(views: Views, folder: Path, _: Server) -> Made:
    return in_litestar_store(views, FileStore(folder))


def in_litestar_redis(views: Views, _: Path, server: Server) -> Made:
    return in_litestar_store(views, LitestarRedisStore(asynchronous(emptied(server, 7))))


KINDS: dict[str, Kind] = {
    "Flask, signed cookie": Kind(lambda views, *_: in_flask(views)),
    "Flask-Session, files": Kind(in_flask_files, comes_back=True),
    "Flask-Session, Redis": Kind(in_flask_redis, comes_back=True),
    "Flask-Session, SQLAlchemy": Kind(in_flask_sql, comes_back=True),
    "Starlette, signed cookie": Kind(
        lambda views, *_: in_starlette(views, Middleware(SessionMiddleware, secret_key=SECRET))
    ),
    "starsessions, signed cookie": Kind(lambda views, *_: in_starsessions(views, CookieStore(SECRET))),
    "starsessions, memory": Kind(lambda views, *_: in_starsessions(views, InMemoryStore()), comes_back=True),
    "starsessions, Redis": Kind(in_starsessions_redis, comes_back=True),
    "Quart, signed cookie": Kind(lambda views, *_: in_quart(views)),
    "quart-session, Redis": Kind(in_quart_redis, comes_back=False),
    "Litestar, encrypted cookie": Kind(lambda views, *_: in_litestar_cookies(views)),
    "Litestar, encrypted cookie in chunks": Kind(lambda views, *_: in_litestar_cookies(views, padding=9_000)),
    "Litestar, memory": Kind(
        lambda views, *_: in_litestar_store(views, LitestarMemoryStore()), comes_back=True
    ),
    "Litestar, files": Kind(in_litestar_files, comes_back=True),
    "Litestar, Redis": Kind(in_litestar_redis, comes_back=True),
}
