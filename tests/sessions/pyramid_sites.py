"""Real Pyramid apps whose sessions are read, by each factory that `PyramidSession` knows."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis
from pyramid.config import Configurator
from pyramid.request import Request
from pyramid.session import SignedCookieSessionFactory
from pyramid_beaker import BeakerSessionFactoryConfig
from pyramid_session_redis import RedisSessionFactory
from redis.backoff import NoBackoff
from redis.retry import Retry
from werkzeug.test import Client

from msal_logout_middleware.sessions.pyramid import PyramidSession
from msal_logout_middleware.testing.session_contract import SessionSite

from ..stores.servers import Server

SECRET = "a secret of at least 16 bytes"


def pyramid_app(factory: Callable[[Any], Any]) -> Any:
    """An app that signs in whoever asks for it."""
    config = Configurator(session_factory=factory)

    def sign_in(request: Request) -> dict[str, Any]:
        request.session.update(request.json_body)
        return {}

    def contents(request: Request) -> dict[str, Any]:
        return dict(request.session)

    for name, view in {"sign-in": sign_in, "contents": contents}.items():
        config.add_route(name, f"/{name}")
        config.add_view(view, route_name=name, renderer="json")
    return config.make_wsgi_app()


def wsgi_sign_in(app: Any, contents: Mapping[str, Any]) -> Sequence[str]:
    response = Client(app, use_cookies=False).post("/sign-in", json=contents)
    assert response.status_code == 200
    return [value.strip() for value in response.headers.getlist("Set-Cookie")]  # Beaker begins with a blank


def wsgi_contents(app: Any, cookie_header: str) -> Mapping[str, Any]:
    response = Client(app, use_cookies=False).get(
        "/contents", environ_overrides={"HTTP_COOKIE": cookie_header}
    )
    assert response.status_code == 200
    found: Mapping[str, Any] = response.get_json()
    return found


def pyramid_site(
    factory: Callable[[Any], Any], foreign: Callable[[Any], Any], source: str = "app", **storage: Any
) -> SessionSite:
    app, other = pyramid_app(factory), pyramid_app(foreign)
    sources = {"app": app, "registry": app.registry, "factory": factory}
    return SessionSite(
        session=PyramidSession(sources[source], claims="user"),
        sign_in=lambda contents: wsgi_sign_in(app, contents),
        contents=lambda header: wsgi_contents(app, header),
        foreign=lambda contents: wsgi_sign_in(other, contents),
        **storage,
    )


def signed(source: str = "app", **options: Any) -> SessionSite:
    """Pyramid's own signed cookies."""
    return pyramid_site(
        SignedCookieSessionFactory(SECRET, **options),
        SignedCookieSessionFactory(f"another, {SECRET}", **options),
        source,
    )


class Pickled:
    """A serializer as apps from before Pyramid 2 have it."""

    def dumps(self, value: Any) -> bytes:
        return pickle.dumps(value)

    def loads(self, value: bytes) -> Any:
        try:
            return pickle.loads(value)
        except Exception as error:
            raise ValueError from error


class Away:
    """A server that may be away."""

    def __init__(self, server: Server, database: int) -> None:
        self.client: Any = redis.Redis.from_url(f"{server.url}/{database}")
        self._nobody: Any = redis.Redis(port=1, retry=Retry(NoBackoff(), 0))
        self._away = False

    def __call__(self, *_: Any, **__: Any) -> Any:
        return self._nobody if self._away else self.client

    @contextmanager
    def outage(self) -> Iterator[None]:
        self._away = True
        yield
        self._away = False

    def stored(self) -> dict[str, object]:
        """Every record, and when it expires."""
        return {
            key.decode(): (self.client.get(key), self.client.execute_command("PEXPIRETIME", key))
            for key in self.client.scan_iter()
        }


def in_redis(server: Server, **options: Any) -> SessionSite:
    """`pyramid_session_redis`, in a database that is empty."""
    away, others = Away(server, 1), Away(server, 2)
    for each in (away, others):
        each.client.flushdb()
    return pyramid_site(
        RedisSessionFactory(secret=SECRET, redis_client_callable=away, **options),
        RedisSessionFactory(secret=f"another, {SECRET}", redis_client_callable=others, **options),
        stored=away.stored,
        outage=away.outage,
    )


def beaker_files(directory: Path, **options: Any) -> SessionSite:
    """`pyramid_beaker`, in files."""

    def factory(where: Path) -> Any:
        return BeakerSessionFactoryConfig(type="file", data_dir=str(where), data_serializer="json", **options)

    def stored() -> dict[str, object]:
        return {
            path.name: (path.read_bytes(), path.stat().st_mtime_ns)
            for path in (directory / "container_file").rglob("*.cache")
        }

    return pyramid_site(factory(directory), factory(directory.with_name("others")), stored=stored)


def beaker_cookie(_: Path, **options: Any) -> SessionSite:
    """`pyramid_beaker`, all in its cookie."""

    def factory(key: str) -> Any:
        return BeakerSessionFactoryConfig(
            type="cookie", validate_key=key, data_serializer="json", invalidate_corrupt=True, **options
        )

    return pyramid_site(factory(SECRET), factory(f"another, {SECRET}"))
