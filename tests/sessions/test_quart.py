"""Quart's sessions pass the contract, and what is Quart's own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import flask
import itsdangerous
import pytest
import quart

from msal_logout_middleware.errors import StoreError
from msal_logout_middleware.http import Cookie
from msal_logout_middleware.session import Session
from msal_logout_middleware.sessions.flask import FlaskSession
from msal_logout_middleware.sessions.quart import QuartSession
from msal_logout_middleware.testing.session_contract import (
    CLAIMS,
    CookieSessionContract,
    ServerSideSessionContract,
    SessionSite,
    cookie_header,
)

from ..stores.servers import Server, serving
from .quart_sites import (
    AsyncMemcached,
    emptied,
    in_memcached,
    in_redis,
    quart_app,
    quart_contents,
    quart_sign_in,
    records,
    signed,
)
from .test_contract import COOKIE

pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated setex")  # quart-session calls it


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


COOKIES: dict[str, Callable[[], SessionSite]] = {
    "signed cookie": signed,
    "signed cookie, every option": lambda: signed(**COOKIE),
    "signed cookie, partitioned": lambda: signed(SESSION_COOKIE_PARTITIONED=True),
}

SERVER_SIDE: dict[str, Callable[[Server], SessionSite]] = {
    "Redis": in_redis,
    "Redis, signed ids, prefix": lambda server: in_redis(
        server, SESSION_USE_SIGNER=True, SESSION_KEY_PREFIX="shop/"
    ),
    "Redis, every option": lambda server: in_redis(
        server, SESSION_PERMANENT=False, SESSION_PROTECTION=True, **COOKIE
    ),
    "Redis, behind a proxy": lambda server: in_redis(
        server, SESSION_PROTECTION=True, SESSION_REVERSE_PROXY=True
    ),
    "Redis, partitioned": lambda server: in_redis(server, SESSION_COOKIE_PARTITIONED=True),
    "memcached": lambda _: in_memcached(),
    "memcached, signed ids": lambda _: in_memcached(SESSION_USE_SIGNER=True),
}


class TestQuart(CookieSessionContract):
    @pytest.fixture(params=COOKIES.values(), ids=COOKIES)
    def site(self, request: pytest.FixtureRequest) -> SessionSite:
        return request.param()


class TestQuartSession(ServerSideSessionContract):
    @pytest.fixture(params=SERVER_SIDE.values(), ids=SERVER_SIDE)
    def site(self, request: pytest.FixtureRequest, server: Server) -> SessionSite:
        return request.param(server)


def sign_in(app: quart.Quart, **contents: Any) -> str:
    async def signed_in() -> str:
        return cookie_header(await quart_sign_in(app, contents))

    return anyio.run(signed_in)


def read(app: quart.Quart, header: str) -> Session | None:
    return anyio.run(QuartSession(app).read, header)


@pytest.mark.parametrize("kind", [quart.Quart, flask.Flask])
def test_app_of_the_other_framework_is_refused(kind: Any) -> None:
    app = kind("shop")
    reader: Any = FlaskSession if kind is quart.Quart else QuartSession
    for wrong in (app, getattr(app, "asgi_app", None)):
        with pytest.raises(TypeError, match=f"give {reader.__name__}"):
            reader(wrong)


def test_what_keeps_the_sessions_is_shown() -> None:
    assert repr(QuartSession(quart_app())) == "QuartSession('shop', by SecureCookieSessionInterface)"
    app = quart_app(SESSION_TYPE="redis")
    assert repr(QuartSession(app)) == "QuartSession('shop', by RedisSessionInterface)"


def test_cookie_signed_with_a_fallback_secret_is_read_while_the_fallback_stands() -> None:
    app = quart_app(SECRET_KEY="the old secret")
    header = sign_in(app, user=dict(CLAIMS))
    app.config.update(SECRET_KEY="the new secret", SECRET_KEY_FALLBACKS=["the old secret"])
    is_known = "SECRET_KEY_FALLBACKS" in quart.Quart.default_config  # since Quart 0.21
    assert (read(app, header) is not None) == is_known
    assert QuartSession(app).secret == ["the new secret", "the old secret"]
    app.config.update(SECRET_KEY_FALLBACKS=None)
    assert QuartSession(app).secret == "the new secret"
    assert read(app, header) is None


def test_app_without_secret_has_no_sessions() -> None:
    header = sign_in(quart_app(), user=dict(CLAIMS))
    app = quart_app(SECRET_KEY=None)
    session = QuartSession(app)
    assert read(app, header) is None
    assert session.secret is None
    anyio.run(session.delete, "id")


def test_expired_cookie_is_no_session(monkeypatch: pytest.MonkeyPatch) -> None:
    app = quart_app(PERMANENT_SESSION_LIFETIME=3600)
    signed_at = itsdangerous.TimestampSigner("x").get_timestamp() - 3700
    with monkeypatch.context() as patch:
        patch.setattr(itsdangerous.TimestampSigner, "get_timestamp", lambda self: signed_at)
        header = sign_in(app, user=dict(CLAIMS))
        assert read(app, header) is not None
    assert read(app, header) is None


def test_cookie_of_an_engine_that_ignores_partitioning_is_deleted_in_both_jars() -> None:
    session = QuartSession(quart_app(SESSION_TYPE="redis", SESSION_COOKIE_PARTITIONED=True))
    partitioned = Cookie("session", secure=True, partitioned=True)
    is_known = "SESSION_COOKIE_PARTITIONED" in quart.Quart.default_config  # since Quart 0.21
    assert session.cookies == (Cookie("session"), *([partitioned] if is_known else []))


def test_reading_behind_a_proxy_logs_nothing_of_an_address_that_is_missing(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    site = in_redis(server, SESSION_REVERSE_PROXY=True)

    async def look() -> Session | None:
        header = await site.visit({"user": dict(CLAIMS)})
        caplog.clear()
        found: Any = site.session.read(header)
        session: Session | None = await found
        assert session is not None
        assert session.id is not None
        await_deletion: Any = site.session.delete(session.id)
        await await_deletion
        return session

    with caplog.at_level(logging.WARNING):
        assert anyio.run(look) is not None
    assert not caplog.records


def test_session_that_is_bound_to_an_address_is_read_and_kept_and_deleted(server: Server) -> None:
    """The middleware knows no address: to take it for a wrong one would delete the record."""
    client = AsyncMemcached()
    app = quart_app(
        SESSION_TYPE="memcached",
        SESSION_MEMCACHED=client,
        SESSION_PROTECTION=True,
        SESSION_REVERSE_PROXY=True,
    )

    async def story() -> None:
        address = {"X-Forwarded-For": "203.0.113.7"}
        header = cookie_header(await quart_sign_in(app, {"user": dict(CLAIMS)}, **address))
        session = await QuartSession(app).read(header)
        assert session is not None
        assert session.contents["_addr"] == "203.0.113.7"
        assert len(client.records) == 1
        assert session.id is not None
        await QuartSession(app).delete(session.id)
        assert not client.records

    anyio.run(story)


def test_engine_that_has_not_been_connected_yet_is_connected(server: Server) -> None:
    """As when a command ends a session: nothing has served the app."""
    app: Any = quart_app(SESSION_TYPE="redis", SESSION_URI=emptied(server, 3))

    async def story() -> None:
        async with app.test_app():
            header = cookie_header(await quart_sign_in(app, {"user": dict(CLAIMS)}))
            await app.session_interface.backend.aclose()
            app.session_interface.backend = None
            session = await QuartSession(app).read(header)
            assert session is not None
            assert session.id is not None
            await QuartSession(app).delete(session.id)
            await app.session_interface.backend.aclose()
        assert not records(server, 3)

    anyio.run(story)


def test_engine_that_is_set_later_is_the_one_that_is_asked() -> None:
    app = quart_app()
    session = QuartSession(app)
    assert not session.server_side
    engine = quart_app(SESSION_TYPE="memcached", SESSION_MEMCACHED=AsyncMemcached())
    app.session_interface = engine.session_interface
    assert session.server_side
    header = sign_in(app, user=dict(CLAIMS))
    found = anyio.run(session.read, header)
    assert found is not None
    assert found.id is not None


def test_session_that_is_still_there_after_its_deletion_is_an_error() -> None:
    class Deaf(AsyncMemcached):
        async def delete(self, key: bytes) -> bool:
            return False

    app = quart_app(SESSION_TYPE="memcached", SESSION_MEMCACHED=Deaf())
    session = anyio.run(QuartSession(app).read, sign_in(app, user=dict(CLAIMS)))
    assert session is not None
    with pytest.raises(StoreError, match="still has a session"):
        anyio.run(QuartSession(app).delete, session.id)


def test_no_hook_of_a_request_runs() -> None:
    app, ran = quart_app(), []
    header = sign_in(app, user=dict(CLAIMS))

    @app.before_request
    async def before() -> None:
        ran.append("before")

    @app.after_request
    async def after(response: quart.Response) -> quart.Response:
        ran.append("after")
        return response

    assert read(app, header) is not None
    assert not ran
    assert anyio.run(quart_contents, app, header)["user"] == CLAIMS
    assert ran == ["before", "after"]
