"""Django projects whose sessions are read, as the contract drives them: by each engine, behind either door."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio.to_thread
import httpx
from django.core.asgi import get_asgi_application
from django.core.cache import caches
from django.core.handlers.asgi import ASGIHandler
from django.core.wsgi import get_wsgi_application
from django.db import connections
from werkzeug.test import Client

from msal_logout_middleware.sessions.django import DjangoSession
from msal_logout_middleware.testing.session_contract import SessionSite
from tests import django_project
from tests.django_project import LOCMEM, Session, in_force

from ..stores.servers import Server
from .sites import directory_gone, files

BACKENDS = "django.contrib.sessions.backends"
COOKIE: dict[str, Any] = {
    "SESSION_COOKIE_NAME": "__Secure-shop",
    "SESSION_COOKIE_SECURE": True,
    "SESSION_COOKIE_SAMESITE": "none",
    "SESSION_COOKIE_DOMAIN": "app.example",
    "SESSION_COOKIE_HTTPONLY": False,
    "SESSION_COOKIE_PATH": "/shop",
}
FOREIGN: dict[str, Any] = {
    "SECRET_KEY": "another secret of at least 16 bytes",
    "DATABASE_ROUTERS": ["tests.django_project.Foreign"],
}


def _client(app: Any) -> Client:
    return Client(app, use_cookies=False)


def wsgi_sign_in(app: Any, contents: Mapping[str, Any]) -> Sequence[str]:
    response = _client(app).post("/sign-in", data=json.dumps(contents), buffered=True)
    assert response.status_code == 200
    return response.headers.getlist("Set-Cookie")


def wsgi_contents(app: Any, cookie_header: str) -> Mapping[str, Any]:
    environ = {"HTTP_COOKIE": cookie_header}
    response = _client(app).get("/contents", environ_overrides=environ, buffered=True)
    assert response.status_code == 200
    return json.loads(response.data)


async def asgi_sign_in(app: Any, contents: Mapping[str, Any]) -> Sequence[str]:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="https://app.example") as client:
        response = await client.post("/sign-in", content=json.dumps(contents))
        assert response.status_code == 200
        return response.headers.get_list("set-cookie")


async def asgi_contents(app: Any, cookie_header: str) -> Mapping[str, Any]:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="https://app.example") as client:
        response = await client.get("/contents", headers=[(b"cookie", cookie_header.encode("latin-1"))])
        assert response.status_code == 200
        return response.json()


def site(*, asgi: bool, settings: dict[str, Any], foreign: dict[str, Any], **storage: Any) -> SessionSite:
    """A project with these settings, which are in force already, and another with `foreign`."""

    async def call(wsgi: Any, asgi_: Any, app: Any, what: Any) -> Any:
        if asgi:
            return await asgi_(app, what)
        return await anyio.to_thread.run_sync(wsgi, app, what)

    async def sign_in_elsewhere(contents: Mapping[str, Any]) -> Sequence[str]:
        with in_force(**{**settings, **FOREIGN, **foreign}):
            return await call(wsgi_sign_in, asgi_sign_in, make(), contents)

    make: Callable[[], Any] = get_asgi_application if asgi else get_wsgi_application
    app = make()
    assert isinstance(app, ASGIHandler) is asgi
    return SessionSite(
        session=DjangoSession(claims="user"),
        sign_in=lambda contents: call(wsgi_sign_in, asgi_sign_in, app, contents),
        contents=lambda header: call(wsgi_contents, asgi_contents, app, header),
        foreign=sign_in_elsewhere,
        **storage,
    )


@contextmanager
def database_gone() -> Iterator[None]:
    """As when a database server is down."""
    with directory_gone(Path(django_project.DIRECTORY.name) / "own"):
        yield


def rows() -> dict[str, object]:
    """Every record of the database engine."""
    found = {row.session_key: (row.session_data, row.expire_date) for row in Session.objects.all()}
    connections.close_all()
    return found


async def stored_rows() -> dict[str, object]:
    return await anyio.to_thread.run_sync(rows)


def cached() -> dict[str, object]:
    """Every record of the caching engines, in memory."""
    return dict(caches["default"]._cache)


async def stored_twice() -> dict[str, object]:
    in_cache = cached()
    return {
        key: (row, in_cache.get(f":1:django.contrib.sessions.cached_db{key}"))
        for key, row in (await stored_rows()).items()
    }


# Each engine: its settings, those of the foreign project, and its storage.


def in_database(_: Path, **more: Any) -> Any:
    settings = {"SESSION_ENGINE": f"{BACKENDS}.db", **more}
    return settings, {}, {"stored": stored_rows, "outage": database_gone}


def in_memory(_: Path) -> Any:
    settings = {"SESSION_ENGINE": f"{BACKENDS}.cache", "CACHES": {"default": {**LOCMEM, "LOCATION": "own"}}}
    return settings, {"CACHES": {"default": {**LOCMEM, "LOCATION": "foreign"}}}, {"stored": cached}


def in_database_cache(_: Path) -> Any:
    cache = {"BACKEND": "django.core.cache.backends.db.DatabaseCache", "LOCATION": "cached_sessions"}
    settings = {"SESSION_ENGINE": f"{BACKENDS}.cache", "CACHES": {"default": cache}}
    return settings, {}, {"stored": stored_in_cache_table, "outage": database_gone}


def cache_table() -> dict[str, object]:
    with connections["default"].cursor() as cursor:
        found = {row[0]: row for row in cursor.execute("SELECT * FROM cached_sessions").fetchall()}
    connections.close_all()
    return found


async def stored_in_cache_table() -> dict[str, object]:
    return await anyio.to_thread.run_sync(cache_table)


def in_cached_files(directory: Path) -> Any:
    def cache(location: str) -> dict[str, Any]:
        backend = "django.core.cache.backends.filebased.FileBasedCache"
        return {"CACHES": {"default": {"BACKEND": backend, "LOCATION": location}}}

    settings = {"SESSION_ENGINE": f"{BACKENDS}.cache", **cache(str(directory))}
    return settings, cache(f"{directory}-2"), {"stored": lambda: files(directory)}


def in_redis(_: Path, server: Server) -> Any:
    def cache(url: str, number: int) -> dict[str, Any]:
        backend = "django.core.cache.backends.redis.RedisCache"
        return {"CACHES": {"default": {"BACKEND": backend, "LOCATION": f"{url}/{number}"}}}

    def stored() -> dict[str, object]:
        return {key.decode(): server.admin.get(key) for key in server.admin.scan_iter()}

    server.admin.flushall()
    settings = {"SESSION_ENGINE": f"{BACKENDS}.cache", **cache(server.url, 0)}
    outage = partial(in_force, **cache("redis://127.0.0.1:9", 0))
    return settings, cache(server.url, 1), {"stored": stored, "outage": outage}


def in_both(_: Path) -> Any:
    settings, foreign, _storage = in_memory(_)
    settings["SESSION_ENGINE"] = f"{BACKENDS}.cached_db"
    return settings, foreign, {"stored": stored_twice}


def in_files(directory: Path, **more: Any) -> Any:
    directory.mkdir(exist_ok=True)
    directory.with_name("foreign").mkdir(exist_ok=True)
    settings = {"SESSION_ENGINE": f"{BACKENDS}.file", "SESSION_FILE_PATH": str(directory), **more}
    storage = {"stored": lambda: files(directory), "outage": lambda: directory_gone(directory)}
    return settings, {"SESSION_FILE_PATH": f"{directory.with_name('foreign')}"}, storage


def in_cookies(_: Path, **more: Any) -> Any:
    return {"SESSION_ENGINE": f"{BACKENDS}.signed_cookies", **more}, {}, {}


ENGINES: dict[str, Callable[..., Any]] = {
    "db": in_database,
    "cached_db": in_both,
    "cache, memory": in_memory,
    "cache, files": in_cached_files,
    "cache, database": in_database_cache,
    "file": in_files,
}


@contextmanager
def opened(engine: Any, *, asgi: bool) -> Iterator[SessionSite]:
    """A project with an engine of these, its settings in force."""
    settings, foreign, storage = engine
    with django_project.databases(), in_force(**settings):
        yield site(asgi=asgi, settings=settings, foreign=foreign, **storage)
