"""Apps of frameworks that have no module of their own pass the contract by their own functions."""

from __future__ import annotations

import json
import secrets
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import bottle
import falcon
import falcon.asgi
import falcon.testing
import pytest
from beaker.middleware import SessionMiddleware
from beaker.session import SessionObject
from itsdangerous import BadSignature, URLSafeTimedSerializer
from werkzeug.test import Client

from msal_logout_middleware.errors import StoreError
from msal_logout_middleware.http import Cookie
from msal_logout_middleware.sessions.callables import CallableSession
from msal_logout_middleware.testing.session_contract import (
    CLAIMS,
    CookieSessionContract,
    ServerSideSessionContract,
    SessionSite,
    cookie_header,
)

from .sites import asgi_contents, asgi_sign_in

SECRET = "a secret of at least 16 bytes"


def wsgi_sign_in(app: Any, contents: Mapping[str, Any]) -> Sequence[str]:
    response = Client(app, use_cookies=False).post("/sign-in", json=contents)
    assert response.status_code == 200
    return [value.strip() for value in response.headers.getlist("Set-Cookie")]


def wsgi_contents(app: Any, header: str) -> Mapping[str, Any]:
    response = Client(app, use_cookies=False).get("/contents", environ_overrides={"HTTP_COOKIE": header})
    assert response.status_code == 200
    found: Mapping[str, Any] = json.loads(response.data)
    return found


def wsgi_site(app: Any, foreign: Any, session: CallableSession, **storage: Any) -> SessionSite:
    return SessionSite(
        session=session,
        sign_in=lambda contents: wsgi_sign_in(app, contents),
        contents=lambda header: wsgi_contents(app, header),
        foreign=lambda contents: wsgi_sign_in(foreign, contents),
        **storage,
    )


# Bottle, with itsdangerous


def bottle_session(signer: URLSafeTimedSerializer, environ: dict[str, Any]) -> Any:
    """As the app reads it."""
    cookie = bottle.BaseRequest(environ).get_cookie("session")
    if not cookie:
        return None
    try:
        return signer.loads(cookie, max_age=3600)
    except BadSignature:
        return None


def bottle_app(signer: URLSafeTimedSerializer) -> bottle.Bottle:
    app = bottle.Bottle()

    @app.post("/sign-in")
    def sign_in() -> str:
        value = signer.dumps(bottle.request.json)
        bottle.response.set_cookie("session", value, path="/", httponly=True, samesite="lax")
        return ""

    @app.get("/contents")
    def contents() -> str:
        return json.dumps(bottle_session(signer, bottle.request.environ) or {})

    return app


def in_bottle(read: Callable[[URLSafeTimedSerializer, str], Any]) -> SessionSite:
    signer = URLSafeTimedSerializer(SECRET)
    return wsgi_site(
        bottle_app(signer),
        bottle_app(URLSafeTimedSerializer(f"another, {SECRET}")),
        CallableSession(
            cookies=[Cookie("session", same_site="Lax")],
            read=lambda header: read(signer, header),
            claims="user",
        ),
    )


def by_the_apps_function(signer: URLSafeTimedSerializer, header: str) -> Any:
    return bottle_session(signer, {"HTTP_COOKIE": header})


def by_itsdangerous_alone(signer: URLSafeTimedSerializer, header: str) -> Any:
    """Of a forged cookie `BadData` is raised."""
    return signer.loads(bottle.BaseRequest({"HTTP_COOKIE": header}).get_cookie("session") or "")


class TestBottle(CookieSessionContract):
    @pytest.fixture(params=[by_the_apps_function, by_itsdangerous_alone])
    def site(self, request: pytest.FixtureRequest) -> SessionSite:
        return in_bottle(request.param)


# Falcon, with a table of one's own


class Table:
    """Sessions in SQLite."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._ask("CREATE TABLE IF NOT EXISTS sessions (id TEXT PRIMARY KEY, contents TEXT)")

    def add(self, contents: Mapping[str, Any]) -> str:
        session_id = secrets.token_urlsafe()
        self._ask("INSERT INTO sessions VALUES (?, ?)", session_id, json.dumps(contents))
        return session_id

    def load(self, session_id: str) -> dict[str, Any] | None:
        found = self._ask("SELECT contents FROM sessions WHERE id = ?", session_id)
        return json.loads(found[0][0]) if found else None

    def delete(self, session_id: str) -> None:
        self._ask("DELETE FROM sessions WHERE id = ?", session_id)

    def stored(self) -> dict[str, object]:
        return {row[0]: row for row in self._ask("SELECT * FROM sessions")}

    def _ask(self, sql: str, *values: str) -> list[Any]:
        with closing(sqlite3.connect(self._path, isolation_level=None)) as database:
            return database.execute(sql, values).fetchall()

    @contextmanager
    def outage(self) -> Iterator[None]:
        elsewhere = self._path.rename(self._path.with_name("elsewhere"))
        self._path.mkdir()
        yield
        self._path.rmdir()
        elsewhere.rename(self._path)


def falcon_session_id(environ: dict[str, Any]) -> str | None:
    values = falcon.Request(environ).get_cookie_values("sid")
    return values[0] if values else None


def falcon_app(table: Table) -> falcon.App:
    class SignIn:
        def on_post(self, request: falcon.Request, response: falcon.Response) -> None:
            response.set_cookie("sid", table.add(request.get_media()), path="/", same_site="Strict")

    class Contents:
        def on_get(self, request: falcon.Request, response: falcon.Response) -> None:
            response.media = table.load(falcon_session_id(request.env) or "") or {}

    app = falcon.App()
    app.add_route("/sign-in", SignIn())
    app.add_route("/contents", Contents())
    return app


def in_falcon(path: Path) -> SessionSite:
    table = Table(path)
    session = CallableSession(
        cookies=[Cookie("sid", secure=True, same_site="Strict")],
        session_id=lambda header: falcon_session_id(
            falcon.testing.create_environ(headers={"Cookie": header})
        ),
        load=table.load,
        delete=table.delete,
    )
    return wsgi_site(
        falcon_app(table),
        falcon_app(Table(path.with_name("others"))),
        session,
        stored=table.stored,
        outage=table.outage,
    )


def asgi_falcon_app(table: Table) -> falcon.asgi.App[Any, Any]:
    class SignIn:
        async def on_post(self, request: falcon.asgi.Request, response: falcon.asgi.Response) -> None:
            response.set_cookie("sid", table.add(await request.get_media()), path="/")

    class Contents:
        async def on_get(self, request: falcon.asgi.Request, response: falcon.asgi.Response) -> None:
            values = request.get_cookie_values("sid")
            response.media = table.load(values[0] if values else "") or {}

    app: falcon.asgi.App[Any, Any] = falcon.asgi.App()
    app.add_route("/sign-in", SignIn())
    app.add_route("/contents", Contents())
    return app


async def _nobody() -> dict[str, Any]:
    return {"type": "http.disconnect"}


def in_falcon_asgi(path: Path) -> SessionSite:
    table = Table(path)
    app, foreign = asgi_falcon_app(table), asgi_falcon_app(Table(path.with_name("others")))

    async def session_id(header: str) -> str | None:
        scope = falcon.testing.create_scope(headers=[("cookie", header)])
        values = falcon.asgi.Request(scope, _nobody).get_cookie_values("sid")
        return values[0] if values else None

    async def load(session_id: str) -> dict[str, Any] | None:
        return table.load(session_id)

    async def delete(session_id: str) -> None:
        table.delete(session_id)

    return SessionSite(
        session=CallableSession(
            cookies=[Cookie("sid", secure=True)], session_id=session_id, load=load, delete=delete
        ),
        sign_in=lambda contents: asgi_sign_in(app, contents),
        contents=lambda header: asgi_contents(app, header),
        foreign=lambda contents: asgi_sign_in(foreign, contents),
        stored=table.stored,
        outage=table.outage,
    )


# Beaker, around any WSGI app


def beaker_app(**options: Any) -> SessionMiddleware:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        session = environ["beaker.session"]
        if environ["REQUEST_METHOD"] == "POST":
            session.update(json.load(environ["wsgi.input"]))
            session.save()
        body = json.dumps({key: value for key, value in session.items() if not key.startswith("_")}).encode()
        start_response("200 OK", [("Content-Type", "application/json")])
        return [body]

    return SessionMiddleware(app, {f"session.{name}": value for name, value in options.items()})


def beaker_session(options: Mapping[str, Any]) -> CallableSession:
    def open_session(header: str) -> Any:
        return SessionObject({"HTTP_COOKIE": header}, **options)

    def session_id(header: str) -> str | None:
        session = open_session(header)
        return None if session.is_new else session.id

    def load(session_id: str) -> dict[str, Any] | None:
        found = open_session("").get_by_id(session_id) if session_id else None
        return None if found is None else {k: v for k, v in found.items() if not k.startswith("_")}

    def delete(session_id: str) -> None:
        found = open_session("").get_by_id(session_id)
        if found is not None:
            found.namespace.remove()  # its own `delete` leaves an empty record behind

    return CallableSession(
        cookies=[Cookie(options["key"], http_only=False, same_site="Lax")],
        session_id=session_id,
        load=load,
        delete=delete,
        secret=options["secret"],
    )


def in_beaker(path: Path, **options: Any) -> SessionSite:
    def stored() -> Mapping[str, object]:
        found = (path / "container_file").rglob("*.cache")
        return {each.name: (each.read_bytes(), each.stat().st_mtime_ns) for each in found}

    def app(directory: Path) -> SessionMiddleware:
        return beaker_app(type="file", data_dir=str(directory), data_serializer="json", **options)

    own = app(path)
    return wsgi_site(own, app(path.with_name("others")), beaker_session(own.options), stored=stored)


SERVER_SIDE: dict[str, Callable[[Path], SessionSite]] = {
    "Falcon, a table": in_falcon,
    "Falcon's ASGI, a table, coroutine functions": in_falcon_asgi,
    "Beaker": in_beaker,
    "Beaker, signed ids": partial(in_beaker, secret=SECRET),
}


@pytest.mark.filterwarnings(
    "ignore:Invalidating corrupt session"
)  # what Beaker says of an id that is no file's name
class TestServerSide(ServerSideSessionContract):
    @pytest.fixture(params=SERVER_SIDE.values(), ids=SERVER_SIDE)
    def site(self, request: pytest.FixtureRequest, tmp_path: Path) -> SessionSite:
        return request.param(tmp_path / "sessions")


def beaker_memory() -> tuple[SessionMiddleware, CallableSession]:
    app = beaker_app(type="memory", key="sid")
    return app, beaker_session(app.options)


def nothing(_: str) -> None:
    return None


async def nothing_async(_: str) -> None:
    return None


COOKIES = {"cookies": ["session"]}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (COOKIES, "give CallableSession read=, if a session is all in its cookie; or session_id=, load= and"),
        (COOKIES | {"read": nothing, "delete": nothing}, "give CallableSession read=, if"),
        (COOKIES | {"session_id": nothing, "load": nothing}, "give CallableSession read=, if"),
        (COOKIES | {"load": nothing, "delete": nothing}, "give CallableSession read=, if"),
        (COOKIES | {"read": 7}, "read= must be a function: it takes the Cookie header, and returns"),
        (
            COOKIES | {"session_id": nothing, "load": "load", "delete": nothing},
            "load= must be a function: it takes a session's id, and returns its contents or None",
        ),
        (
            COOKIES | {"session_id": nothing, "load": nothing_async, "delete": nothing},
            "must be all plain functions or all coroutine functions",
        ),
        ({"read": nothing, "cookies": "session"}, "cookies= must be a list of the session's cookies"),
        ({"read": nothing, "cookies": Cookie("session")}, "cookies= must be a list of the session's cookies"),
        ({"read": nothing, "cookies": []}, "cookies= must be a list of the session's cookies"),
        ({"read": nothing, "cookies": [7]}, r"cookies=\[7\] must be names of cookies"),
        (COOKIES | {"read": nothing, "claims": 7}, "claims= is a key of the session"),
    ],
)
def test_arguments_that_do_not_go_together_are_refused_with_a_sentence(
    arguments: dict[str, Any], says: str
) -> None:
    with pytest.raises(TypeError, match=says):
        CallableSession(**arguments)


def test_name_of_a_cookie_stands_for_a_plain_one() -> None:
    session = CallableSession(cookies=["a", Cookie("b", secure=True)], read=nothing, secret=SECRET)
    assert session.cookies == (Cookie("a"), Cookie("b", secure=True))
    assert session.secret == SECRET
    assert repr(session) == "CallableSession(a, b)"
    assert not session.server_side
    assert not session.is_async


def test_callable_object_may_be_asynchronous() -> None:
    class Reads:
        async def __call__(self, header: str) -> dict[str, Any]:
            return {"header": header}

    session = CallableSession(cookies=["session"], read=Reads())
    assert session.is_async
    read = anyio.run(session.read, "session=1")
    assert read.contents == {"header": "session=1"}


def test_function_that_returns_what_is_no_contents_is_told() -> None:
    with pytest.raises(TypeError, match="read= must return a mapping or None, not str"):
        CallableSession(cookies=["session"], read=lambda header: header).read("session=1")  # type: ignore[arg-type, return-value]


def test_error_of_a_function_is_passed_on() -> None:
    def fail(_: str) -> None:
        raise ConnectionRefusedError

    for asked in ({"read": fail}, {"session_id": fail, "load": nothing, "delete": nothing}):
        with pytest.raises(ConnectionRefusedError):
            CallableSession(cookies=["sid"], **asked).read("x")  # type: ignore[arg-type]
    session = CallableSession(cookies=["sid"], session_id=str.strip, load=fail, delete=fail)
    for ask in (session.read, session.load, session.delete):
        with pytest.raises(ConnectionRefusedError):
            ask("x")


def test_session_that_is_still_there_after_its_deletion_is_an_error() -> None:
    session = CallableSession(
        cookies=["sid"], session_id=str.strip, load=lambda _: {"user": dict(CLAIMS)}, delete=nothing
    )
    with pytest.raises(StoreError, match="load= still finds a session that was deleted by delete="):
        session.delete("x")


def test_empty_session_on_the_server_is_a_session() -> None:
    session = CallableSession(cookies=["sid"], session_id=str.strip, load=lambda _: {}, delete=nothing)
    read = session.read("x")
    assert read == session.load("x")
    assert read is not None


def test_sessions_of_beaker_in_memory_are_read() -> None:
    app, session = beaker_memory()
    header = cookie_header(wsgi_sign_in(app, {"user": dict(CLAIMS)}))
    read: Any = session.read(header)
    assert read.claims == CLAIMS
    session.delete(read.id)
    assert session.read(header) is None
