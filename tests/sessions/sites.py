"""Real apps whose sessions are read, as the contract drives them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import flask
import flask_session
import httpx
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starsessions import InMemoryStore, SessionAutoloadMiddleware
from starsessions import SessionMiddleware as Starsessions

from msal_logout_middleware.sessions.asgi import ASGISession
from msal_logout_middleware.sessions.flask import FlaskSession
from msal_logout_middleware.testing.session_contract import SessionSite


def flask_app(**config: Any) -> flask.Flask:
    """An app that signs in whoever asks for it, with Flask-Session where `SESSION_TYPE` is set."""
    app = flask.Flask(__name__)
    app.config.update({"SECRET_KEY": "a secret", **config})
    if "SESSION_SQLALCHEMY" in config:
        config["SESSION_SQLALCHEMY"].init_app(app)
    if "SESSION_TYPE" in config:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # the file system engine, signed ids
            flask_session.Session(app)

    @app.post("/sign-in")
    def sign_in() -> str:
        flask.session.update(flask.request.get_json())
        return ""

    @app.get("/contents")
    def contents() -> dict[str, Any]:
        return dict(flask.session)

    return app


def flask_sign_in(app: flask.Flask, contents: Mapping[str, Any]) -> Sequence[str]:
    return app.test_client(use_cookies=False).post("/sign-in", json=contents).headers.getlist("Set-Cookie")


def flask_contents(app: flask.Flask, cookie_header: str) -> Mapping[str, Any]:
    response = app.test_client(use_cookies=False).get(
        "/contents", environ_overrides={"HTTP_COOKIE": cookie_header}
    )
    assert response.status_code == 200
    return response.get_json()


def flask_site(app: flask.Flask, foreign: flask.Flask, **storage: Any) -> SessionSite:
    return SessionSite(
        session=FlaskSession(app, claims="user"),
        sign_in=lambda contents: flask_sign_in(app, contents),
        contents=lambda header: flask_contents(app, header),
        foreign=lambda contents: flask_sign_in(foreign, contents),
        **storage,
    )


class Memcached:
    """A client of a memcached server, as Flask-Session's `MemcacheClientProtocol` has it."""

    def __init__(self) -> None:
        self.records: dict[str, bytes] = {}
        self.away = False

    def _ask(self) -> dict[str, bytes]:
        if self.away:
            raise ConnectionRefusedError("the server is away")
        return self.records

    def get(self, key: str) -> bytes | None:
        return self._ask().get(key)

    def set(self, key: str, value: bytes, timeout: int) -> bool:
        self._ask()[key] = value
        return True

    def delete(self, key: str) -> bool:
        return self._ask().pop(key, None) is not None

    @contextmanager
    def outage(self) -> Iterator[None]:
        self.away = True
        yield
        self.away = False


def files(directory: Path) -> Mapping[str, object]:
    """Every file's content, and when it was last written."""
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in directory.iterdir()}


@contextmanager
def directory_gone(directory: Path) -> Iterator[None]:
    """As when a network file system is not mounted."""
    elsewhere = directory.rename(directory.with_name("elsewhere"))
    yield
    elsewhere.rename(directory)


async def _sign_in(request: Request) -> JSONResponse:
    request.session.update(await request.json())
    return JSONResponse({})


async def _contents(request: Request) -> JSONResponse:
    return JSONResponse(dict(request.session))


ROUTES = [Route("/sign-in", _sign_in, methods=["POST"]), Route("/contents", _contents)]


def starlette_app(session: Middleware, *others: Middleware) -> Starlette:
    autoload = [Middleware(SessionAutoloadMiddleware)] if session.cls is Starsessions else []
    return Starlette(routes=ROUTES, middleware=[*others, session, *autoload])


def _client(app: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="https://app.example")


async def asgi_sign_in(app: Any, contents: Mapping[str, Any]) -> Sequence[str]:
    async with _client(app) as client:
        response = await client.post("/sign-in", content=json.dumps(contents))
        return response.headers.get_list("set-cookie")


async def asgi_contents(app: Any, cookie_header: str) -> Mapping[str, Any]:
    async with _client(app) as client:
        response = await client.get("/contents", headers=[(b"cookie", cookie_header.encode("latin-1"))])
        assert response.status_code == 200
        return response.json()


def asgi_site(
    middleware: Middleware, foreign: Middleware, session: Callable[[Starlette], ASGISession], **storage: Any
) -> SessionSite:
    app, other = starlette_app(middleware), starlette_app(foreign)
    return SessionSite(
        session=session(app),
        sign_in=lambda contents: asgi_sign_in(app, contents),
        contents=lambda header: asgi_contents(app, header),
        foreign=lambda contents: asgi_sign_in(other, contents),
        **storage,
    )


class Store(InMemoryStore):
    """starsessions' store in memory, which may be away as a server may."""

    away = False

    def __len__(self) -> int:  # so an empty store is false
        return len(self.data)

    async def read(self, session_id: str, lifetime: int) -> bytes:
        self._ask()
        return await super().read(session_id, lifetime)

    async def remove(self, session_id: str) -> None:
        self._ask()
        await super().remove(session_id)

    def _ask(self) -> None:
        if self.away:
            raise ConnectionRefusedError("the server is away")

    @contextmanager
    def outage(self) -> Iterator[None]:
        self.away = True
        yield
        self.away = False
