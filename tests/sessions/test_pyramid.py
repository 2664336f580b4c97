"""Pyramid's sessions pass the contract, and what is Pyramid's own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyramid.session
import pytest
from pyramid.config import Configurator
from pyramid.events import NewRequest
from pyramid.session import SignedCookieSessionFactory
from pyramid_beaker import BeakerSessionFactoryConfig
from pyramid_session_redis import RedisSessionFactory
from werkzeug.middleware.proxy_fix import ProxyFix

from msal_logout_middleware import Logout, MemoryStore, Provider
from msal_logout_middleware.errors import StoreError
from msal_logout_middleware.http import Cookie
from msal_logout_middleware.sessions.pyramid import PyramidSession
from msal_logout_middleware.testing.session_contract import (
    CLAIMS,
    CookieSessionContract,
    ServerSideSessionContract,
    SessionSite,
    cookie_header,
)
from msal_logout_middleware.wsgi import LogoutMiddleware

from ..stores.servers import Server, serving
from .pyramid_sites import (
    SECRET,
    Away,
    Pickled,
    beaker_cookie,
    beaker_files,
    in_redis,
    pyramid_app,
    signed,
    wsgi_sign_in,
)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving("--databases", "3") as server:
        yield server


EVERY_OPTION: dict[str, Any] = {
    "cookie_name": "__Secure-shop",
    "path": "/shop",
    "domain": "app.example",
    "secure": True,
    "httponly": True,
    "samesite": "None",
    "max_age": 3600,
    "hashalg": "sha256",
    "salt": "the shop's",
    "timeout": None,
    "reissue_time": None,
}

COOKIES: dict[str, Callable[[Path], SessionSite]] = {
    "signed cookie": lambda _: signed(),
    "signed cookie, every option": lambda _: signed(**EVERY_OPTION),
    "signed cookie, pickled": lambda _: signed(serializer=Pickled()),
    "signed cookie, by the registry": lambda _: signed("registry"),
    "signed cookie, by the factory": lambda _: signed("factory"),
    "Beaker's cookie": beaker_cookie,
}

SERVER_SIDE: dict[str, Callable[[Path, Server], SessionSite]] = {
    "Redis": lambda _, server: in_redis(server),
    "Redis, every option": lambda _, server: in_redis(
        server,
        cookie_name="__Host-shop",
        cookie_secure=True,
        cookie_samesite="strict",
        timeout=None,
    ),
    "Redis, seldom extended": lambda _, server: in_redis(server, timeout=3600, timeout_trigger=600),
    "Beaker's files": lambda path, _: beaker_files(path),
    "Beaker's files, signed ids": lambda path, _: beaker_files(
        path, secret="a secret", key="shop", cookie_path="/shop", cookie_domain="app.example", httponly=True
    ),
}


# An app takes its time to be made, and keeps nothing that another test would mind.
@pytest.fixture(params=COOKIES.values(), ids=COOKIES, scope="module")
def in_cookie(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SessionSite:
    return request.param(tmp_path_factory.mktemp("sessions") / "own")


@pytest.fixture(params=SERVER_SIDE.values(), ids=SERVER_SIDE, scope="module")
def on_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, server: Server
) -> SessionSite:
    return request.param(tmp_path_factory.mktemp("sessions") / "own", server)


@pytest.mark.filterwarnings("ignore:Invalidating corrupt session")  # what Beaker says of a forged cookie
class TestPyramid(CookieSessionContract):
    @pytest.fixture
    def site(self, in_cookie: SessionSite) -> SessionSite:
        return in_cookie


@pytest.mark.filterwarnings("ignore:Call to deprecated setex")  # pyramid_session_redis calls it
class TestPyramidServerSide(ServerSideSessionContract):
    @pytest.fixture
    def site(self, on_server: SessionSite) -> SessionSite:
        return on_server


def sign_in(app: Any, **contents: Any) -> str:
    return cookie_header(wsgi_sign_in(app, contents))


@pytest.mark.parametrize("source", [None, "app", {}, 7])
def test_what_is_no_app_is_refused(source: Any) -> None:
    with pytest.raises(TypeError, match="give PyramidSession what make_wsgi_app"):
        PyramidSession(source)


def test_app_without_session_factory_is_told_what_to_do() -> None:
    app = Configurator().make_wsgi_app()
    session = PyramidSession(app)
    for ask in (lambda: session.cookies, lambda: session.secret, lambda: session.read("session=x")):
        with pytest.raises(ValueError, match="the app has no session factory"):
            ask()


def test_factory_counts_that_comes_after_construction() -> None:
    config = Configurator()
    session = PyramidSession(config.registry)
    config.set_session_factory(SignedCookieSessionFactory(SECRET, cookie_name="first"))
    config.commit()
    assert session.cookies == (Cookie("first", http_only=False, same_site="Lax"),)
    config.set_session_factory(SignedCookieSessionFactory(SECRET, cookie_name="second", samesite=None))
    config.commit()
    assert session.cookies == (Cookie("second", http_only=False),)


@pytest.mark.parametrize(
    ("factory", "secret"),
    [
        (SignedCookieSessionFactory(SECRET), SECRET),
        (SignedCookieSessionFactory(SECRET.encode()), SECRET.encode()),
        (RedisSessionFactory(secret=SECRET), SECRET),
        (BeakerSessionFactoryConfig(type="memory", secret=SECRET), SECRET),
        (BeakerSessionFactoryConfig(type="memory"), None),
        (lambda request: SignedCookieSessionFactory(SECRET)(request), None),
    ],
    ids=["text", "bytes", "Redis", "Beaker", "Beaker without", "unknown"],
)
def test_secret_is_the_factorys(factory: Any, secret: str | bytes | None) -> None:
    assert PyramidSession(factory).secret == secret


def test_cookies_of_a_factory_that_sets_none_must_be_given() -> None:
    plain = SignedCookieSessionFactory(SECRET)

    class Silent(plain):  # type: ignore[valid-type, misc]  # Pyramid's factories are classes
        def changed(self) -> None:
            return

    with pytest.raises(
        TypeError, match="the session factory set no cookie when it was asked to; give cookies="
    ):
        _ = PyramidSession(Silent).cookies
    cookies = (Cookie("session", secure=True),)
    assert PyramidSession(Silent, cookies=cookies).cookies == cookies


@pytest.mark.parametrize("name", ["session_id", "id"])
def test_session_with_an_id_that_nobody_knows_how_to_use_is_refused(name: str) -> None:
    class Session(dict[str, Any]):
        def __init__(self, _: Any) -> None:
            super().__init__()

    def make_one(_: Session) -> str:
        raise AssertionError("it might make one")

    setattr(Session, name, property(make_one))
    with pytest.raises(
        TypeError, match="does not know how a Session is found by its id; give CallableSession"
    ):
        _ = PyramidSession(Session).cookies


def test_cookie_that_the_factory_cannot_decode_is_no_session() -> None:
    def factory(request: Any) -> dict[str, Any]:
        contents: dict[str, Any] = json.loads(request.cookies.get("session", "{}"))
        return contents

    session = PyramidSession(factory, cookies=(Cookie("session"),))
    found = session.read('session="{\\"user\\": 1}"')
    assert found is not None
    assert found.contents == {"user": 1}
    assert session.read("session={") is None


def test_expired_cookie_is_no_session(monkeypatch: pytest.MonkeyPatch) -> None:
    app = pyramid_app(SignedCookieSessionFactory(SECRET, timeout=60))
    header = sign_in(app, user=dict(CLAIMS))
    session = PyramidSession(app)
    assert session.read(header) is not None
    later = pyramid.session.time.time() + 61
    monkeypatch.setattr(pyramid.session.time, "time", lambda: later)
    assert session.read(header) is None


def test_reading_runs_nothing_of_a_request() -> None:
    ran: list[str] = []
    factory = SignedCookieSessionFactory(SECRET, reissue_time=0)  # sets the cookie anew whenever it is read

    class Counted(factory):  # type: ignore[valid-type, misc]
        def _set_cookie(self, response: Any) -> Any:
            ran.append("cookie")
            return super()._set_cookie(response)

    config = Configurator(session_factory=Counted)
    config.add_subscriber(lambda event: ran.append("event"), NewRequest)
    config.commit()
    header = sign_in(pyramid_app(Counted), user=dict(CLAIMS))
    ran.clear()
    session = PyramidSession(config.registry)
    assert session.read(header) is not None
    assert ran == []


def test_factory_may_use_what_the_app_adds_to_its_requests() -> None:
    def factory(request: Any) -> Any:
        return SignedCookieSessionFactory(request.the_secret)(request)

    config = Configurator(session_factory=factory)
    config.add_request_method(lambda _: SECRET, "the_secret", reify=True)
    config.commit()
    header = sign_in(pyramid_app(SignedCookieSessionFactory(SECRET)), user=dict(CLAIMS))
    read = PyramidSession(config.registry).read(header)
    assert read is not None
    assert read.claims == CLAIMS


@pytest.mark.filterwarnings("ignore:Call to deprecated setex")
def test_deletion_in_redis_is_looked_at_and_needs_no_readable_record(server: Server) -> None:
    away = Away(server, 1)
    app = pyramid_app(RedisSessionFactory(secret=SECRET, redis_client_callable=away))
    session = PyramidSession(app)
    header = sign_in(app, user=dict(CLAIMS))
    read = session.read(header)
    assert read is not None
    assert read.id
    away.client.set(read.id, b"damaged")
    with pytest.raises(Exception, match="MARK"):
        session.read(header)
    session.delete(read.id)
    assert session.read(header) is None

    class Deaf:
        def __getattr__(self, name: str) -> Any:
            return (lambda *_: 0) if name == "delete" else getattr(away.client, name)

    deaf = PyramidSession(RedisSessionFactory(secret=SECRET, redis_client_callable=lambda *_, **__: Deaf()))
    read = deaf.read(sign_in(app, user=dict(CLAIMS)))
    assert read is not None
    assert read.id
    with pytest.raises(StoreError, match="still has a session that was deleted"):
        deaf.delete(read.id)


@pytest.mark.filterwarnings("ignore:Call to deprecated setex")
def test_cookies_are_learnt_without_a_record_in_redis(server: Server) -> None:
    away = Away(server, 1)
    away.client.flushdb()
    session = PyramidSession(RedisSessionFactory(secret=SECRET, redis_client_callable=away))
    assert session.cookies == (Cookie("session"),)
    assert away.stored() == {}


@pytest.mark.parametrize("wrap", [lambda app: app, ProxyFix], ids=["as it is", "behind ProxyFix"])
def test_session_of_a_wrapped_app_is_found(wrap: Callable[[Any], Any]) -> None:
    app = pyramid_app(SignedCookieSessionFactory(SECRET))
    logout = Logout(
        provider=Provider.entra("contoso.onmicrosoft.com", "00001111-aaaa-2222-bbbb-3333cccc4444"),
        store=MemoryStore(),
        post_logout_redirect_uri="https://app.example/",
    )
    LogoutMiddleware(wrap(app), logout)
    session = logout.configuration.session
    assert repr(session) == "PyramidSession(pyramid.session.BaseCookieSessionFactory)"
    assert session.secret == SECRET


def test_repr_names_what_keeps_the_sessions() -> None:
    assert repr(PyramidSession(Configurator().registry)) == "PyramidSession()"
    redis = PyramidSession(RedisSessionFactory(secret=SECRET))
    assert repr(redis) == "PyramidSession(pyramid_session_redis.RedisSessionFactory)"
