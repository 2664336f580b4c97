"""Every kind of session passes the contract."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import flask
import pytest
from cachelib import FileSystemCache, SimpleCache
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.pool import NullPool
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starsessions import CookieStore, InMemoryStore
from starsessions import SessionMiddleware as Starsessions
from starsessions.stores.redis import RedisStore

from msal_logout_middleware.sessions.asgi import ASGISession
from msal_logout_middleware.testing.session_contract import (
    CookieSessionContract,
    ServerSideSessionContract,
    SessionSite,
)

from ..stores.servers import Server
from . import django_sites
from .quart_sites import asynchronous, emptied, nobody, records
from .sites import Memcached, Store, asgi_site, directory_gone, files, flask_app, flask_site

COOKIE: dict[str, Any] = {
    "SESSION_COOKIE_NAME": "__Secure-shop",
    "SESSION_COOKIE_SECURE": True,
    "SESSION_COOKIE_SAMESITE": "none",
    "SESSION_COOKIE_DOMAIN": "app.example",
    "SESSION_COOKIE_HTTPONLY": False,
    "APPLICATION_ROOT": "/shop",
}


def cookies(_: Path, **config: Any) -> SessionSite:
    return flask_site(flask_app(**config), flask_app(**{**config, "SECRET_KEY": "another secret"}))


def in_files(directory: Path, **config: Any) -> SessionSite:
    directory.mkdir()
    app = flask_app(SESSION_TYPE="filesystem", SESSION_FILE_DIR=str(directory), **config)
    foreign = flask_app(SESSION_TYPE="filesystem", SESSION_FILE_DIR=f"{directory}-2", **config)
    return flask_site(app, foreign, stored=lambda: files(directory), outage=lambda: directory_gone(directory))


def in_cachelib_files(directory: Path, **config: Any) -> SessionSite:
    directory.mkdir()
    app = flask_app(SESSION_TYPE="cachelib", SESSION_CACHELIB=FileSystemCache(str(directory)), **config)
    foreign = flask_app(SESSION_TYPE="cachelib", SESSION_CACHELIB=FileSystemCache(f"{directory}-2"), **config)
    return flask_site(app, foreign, stored=lambda: files(directory), outage=lambda: directory_gone(directory))


def in_cachelib_memory(_: Path) -> SessionSite:
    cache = SimpleCache()
    app = flask_app(SESSION_TYPE="cachelib", SESSION_CACHELIB=cache)
    foreign = flask_app(SESSION_TYPE="cachelib", SESSION_CACHELIB=SimpleCache())
    return flask_site(app, foreign, stored=lambda: dict(cache._cache))


def in_memcached(_: Path, **config: Any) -> SessionSite:
    client = Memcached()
    app = flask_app(SESSION_TYPE="memcached", SESSION_MEMCACHED=client, **config)
    foreign = flask_app(SESSION_TYPE="memcached", SESSION_MEMCACHED=Memcached(), **config)
    return flask_site(app, foreign, stored=lambda: dict(client.records), outage=client.outage)


def in_sqlalchemy(path: Path) -> SessionSite:
    def app(file: str) -> flask.Flask:
        return flask_app(
            SESSION_TYPE="sqlalchemy",
            SESSION_SQLALCHEMY=SQLAlchemy(),
            SQLALCHEMY_DATABASE_URI=f"sqlite:///{file}",
            SQLALCHEMY_ENGINE_OPTIONS={"poolclass": NullPool},
        )

    def stored() -> dict[str, object]:
        with closing(sqlite3.connect(path)) as database:
            return {row[1]: row for row in database.execute("SELECT * FROM sessions")}

    return flask_site(app(f"{path}"), app(f"{path}-2"), stored=stored)


FLASK_COOKIES: dict[str, Callable[[Path], SessionSite]] = {
    "signed cookie": cookies,
    "signed cookie, every option": partial(cookies, **COOKIE),
    "signed cookie, partitioned": partial(cookies, SESSION_COOKIE_PARTITIONED=True),
}

FLASK_SESSION: dict[str, Callable[[Path], SessionSite]] = {
    "files": in_files,
    "files, signed ids": partial(in_files, SESSION_USE_SIGNER=True),
    "cachelib, files": in_cachelib_files,
    "cachelib, files, every option": partial(in_cachelib_files, SESSION_PERMANENT=False, **COOKIE),
    "cachelib, memory": in_cachelib_memory,
    "SQLAlchemy": in_sqlalchemy,
    "memcached, msgpack": in_memcached,
    "memcached, JSON": partial(in_memcached, SESSION_SERIALIZATION_FORMAT="json"),
    "memcached, signed ids, prefix": partial(
        in_memcached, SESSION_USE_SIGNER=True, SESSION_KEY_PREFIX="shop/"
    ),
    "memcached, partitioned": partial(in_memcached, SESSION_COOKIE_PARTITIONED=True),
}


class TestFlask(CookieSessionContract):
    @pytest.fixture(params=FLASK_COOKIES.values(), ids=FLASK_COOKIES)
    def site(self, request: pytest.FixtureRequest, tmp_path: Path) -> SessionSite:
        return request.param(tmp_path / "sessions")


@pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning")  # its SQLAlchemy engine
class TestFlaskSession(ServerSideSessionContract):
    @pytest.fixture(params=FLASK_SESSION.values(), ids=FLASK_SESSION)
    def site(self, request: pytest.FixtureRequest, tmp_path: Path) -> SessionSite:
        return request.param(tmp_path / "sessions")


def signed(**options: Any) -> tuple[Middleware, Middleware]:
    return (
        Middleware(SessionMiddleware, secret_key="a secret", **options),
        Middleware(SessionMiddleware, secret_key="another secret", **options),
    )


def given(middleware: Middleware, foreign: Middleware, **storage: Any) -> SessionSite:
    return asgi_site(middleware, foreign, lambda app: ASGISession(middleware, claims="user"), **storage)


def starsessions(**options: Any) -> SessionSite:
    store = Store()
    return given(
        Middleware(Starsessions, store=store, **options),
        Middleware(Starsessions, store=InMemoryStore(), **options),
        stored=lambda: dict(store.data),
        outage=store.outage,
    )


def starsessions_cookie(**options: Any) -> SessionSite:
    return given(
        Middleware(Starsessions, store=CookieStore("a secret"), **options),
        Middleware(Starsessions, store=CookieStore("another secret"), **options),
    )


class AwayRedisStore(RedisStore):
    """Its server may be away."""

    @contextmanager
    def outage(self) -> Iterator[None]:
        client, self._connection = self._connection, nobody()
        yield
        self._connection = client


def starsessions_redis(server: Server, **options: Any) -> SessionSite:
    store = AwayRedisStore(connection=asynchronous(emptied(server, 7)))
    other = RedisStore(connection=asynchronous(emptied(server, 8)))
    return given(
        Middleware(Starsessions, store=store, **options),
        Middleware(Starsessions, store=other, **options),
        stored=lambda: records(server, 7),
        outage=store.outage,
    )


ASGI_COOKIES: dict[str, Callable[[], SessionSite]] = {
    "Starlette": lambda: given(*signed()),
    "Starlette, every option": lambda: given(
        *signed(
            session_cookie="__Secure-shop",
            path="/shop",
            same_site="none",
            https_only=True,
            domain="app.example",
        )
    ),
    "Starlette, until the browser closes": lambda: given(*signed(max_age=None, same_site="strict")),
    "Starlette, found in the app": lambda: asgi_site(*signed(), partial(ASGISession, claims="user")),
    "starsessions, cookie": starsessions_cookie,
    "starsessions, cookie, lifetime": lambda: starsessions_cookie(lifetime=3600),
}

ASGI_SERVER_SIDE: dict[str, Callable[[], SessionSite]] = {
    "starsessions": starsessions,
    "starsessions, every option": lambda: starsessions(
        lifetime=3600,
        rolling=True,
        cookie_name="shop",
        cookie_same_site="strict",
        cookie_domain="app.example",
    ),
    "starsessions, lifetime": lambda: starsessions(
        lifetime=3600, cookie_path="/shop", cookie_https_only=False
    ),
}


class TestASGI(CookieSessionContract):
    @pytest.fixture(params=ASGI_COOKIES.values(), ids=ASGI_COOKIES)
    def site(self, request: pytest.FixtureRequest) -> SessionSite:
        return request.param()


ASGI_REDIS: dict[str, dict[str, Any]] = {
    "starsessions, Redis": {},
    "starsessions, Redis, every option": {"lifetime": 3600, "rolling": True, "cookie_name": "shop"},
}


class TestASGIRedis(ServerSideSessionContract):
    @pytest.fixture(params=ASGI_REDIS.values(), ids=ASGI_REDIS)
    def site(self, request: pytest.FixtureRequest, server: Server) -> SessionSite:
        return starsessions_redis(server, **request.param)


class TestASGIServerSide(ServerSideSessionContract):
    @pytest.fixture(params=ASGI_SERVER_SIDE.values(), ids=ASGI_SERVER_SIDE)
    def site(self, request: pytest.FixtureRequest) -> SessionSite:
        return request.param()


@pytest.fixture(scope="module")
def redis_server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.mark.parametrize("asgi", [False, True], ids=["WSGI", "ASGI"])
class TestDjangoCookies(CookieSessionContract):
    @pytest.fixture(params=[{}, django_sites.COOKIE], ids=["signed_cookies", "signed_cookies, every option"])
    def site(self, request: pytest.FixtureRequest, tmp_path: Path, asgi: bool) -> Iterator[SessionSite]:
        with django_sites.opened(django_sites.in_cookies(tmp_path, **request.param), asgi=asgi) as site:
            yield site


class TestDjango(ServerSideSessionContract):
    # Behind ASGI the app is another; what reads its sessions is not.
    @pytest.fixture(params=[*django_sites.ENGINES, "cache, Redis", "db, ASGI", "file, ASGI"])
    def site(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SessionSite]:
        name, asgi = request.param.removesuffix(", ASGI"), request.param.endswith(", ASGI")
        if name == "cache, Redis":
            engine = django_sites.in_redis(tmp_path, request.getfixturevalue("redis_server"))
        else:
            engine = django_sites.ENGINES[name](tmp_path / "sessions")
        with django_sites.opened(engine, asgi=asgi) as site:
            yield site
