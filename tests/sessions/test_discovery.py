"""`Logout` without `session=`: what reads the sessions is found in the app that is wrapped, or it says why not."""

from __future__ import annotations

import functools
import logging

import litestar
import pytest
import quart
from asgiref.wsgi import WsgiToAsgi
from beaker.middleware import SessionMiddleware as SessionMiddlewareOfBeaker
from fastapi import FastAPI
from flask import Flask, session
from litestar.middleware.session.client_side import CookieBackendConfig
from litestar.middleware.session.server_side import ServerSideSessionConfig
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from starsessions import InMemoryStore
from starsessions import SessionMiddleware as Starsessions
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.middleware.proxy_fix import ProxyFix

from msal_logout_middleware import Logout, MemoryStore, Provider, asgi, wsgi
from msal_logout_middleware.errors import LogoutError
from msal_logout_middleware.sessions.flask import FlaskSession
from tests.doors import AsgiDoor, Browser, WsgiDoor
from tests.tokens import claims_of

SECRET = "a secret of some length"


def logout(**options):
    provider = Provider.entra("11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222")
    defaults = {
        "provider": provider,
        "store": MemoryStore(),
        "post_logout_redirect_uri": "https://app.example/",
    }
    return Logout(**(defaults | options))


def flask_app(place="user"):
    app = Flask("shop")
    app.secret_key = SECRET

    @app.get("/in")
    def sign_in():
        session[place] = dict(claims_of("ada"))
        return ""

    @app.get("/")
    def home():
        return session.get(place, {}).get("sub", "nobody")

    return app


def star_app(kind=Starlette, middleware=(), **options):
    def sign_in(request: Request):
        request.session["user"] = dict(claims_of("ada"))
        return PlainTextResponse("")

    def home(request: Request):
        return PlainTextResponse(request.session.get("user", {}).get("sub", "nobody"))

    return kind(routes=[Route("/in", sign_in), Route("/", home)], middleware=list(middleware), **options)


def signs_out(door):
    """Sign in and out, and present the old cookies again."""
    browser = Browser(door)
    browser.get("/in")
    assert browser.get("/").text == "sub-of-ada"
    stolen = dict(browser.cookies)
    assert browser.get("/logout").location.startswith("https://login.microsoftonline.com/")
    assert browser.get("/").text == "nobody"
    browser.cookies.update(stolen)
    assert browser.get("/").text == "nobody"


WAYS = {
    "wsgi_app": lambda app: app.wsgi_app,
    "ProxyFix": lambda app: ProxyFix(app.wsgi_app),
    "two of them": lambda app: ProxyFix(ProxyFix(app.wsgi_app)),
    "the app": lambda app: app,
    "dispatcher": lambda app: DispatcherMiddleware(app.wsgi_app, {"/metrics": Flask("metrics")}),
    "decorated": lambda app: functools.wraps(app.wsgi_app)(
        lambda environ, start: app.wsgi_app(environ, start)
    ),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_flask_app_is_found(way):
    app = flask_app()
    signs_out(WsgiDoor(wsgi.LogoutMiddleware(way(app), logout())))


def test_flask_app_is_found_as_its_documentation_wraps_it():
    app = flask_app()
    app.wsgi_app = wsgi.LogoutMiddleware(app.wsgi_app, logout())
    signs_out(WsgiDoor(app))


def test_flask_app_is_found_behind_an_adapter_to_asgi():
    signs_out(AsgiDoor(asgi.LogoutMiddleware(WsgiToAsgi(flask_app()), logout())))


def quart_app():
    app = quart.Quart("shop")
    app.secret_key = SECRET

    @app.get("/in")
    async def sign_in():
        quart.session["user"] = dict(claims_of("ada"))
        return ""

    @app.get("/")
    async def home():
        return quart.session.get("user", {}).get("sub", "nobody")

    return app


def test_quart_app_is_found():
    app = quart_app()
    signs_out(AsgiDoor(asgi.LogoutMiddleware(app, logout())))


def test_quart_app_is_found_as_its_documentation_wraps_it():
    app, found = quart_app(), logout()
    app.asgi_app = asgi.LogoutMiddleware(app.asgi_app, found)
    assert repr(found).startswith("Logout(session=QuartSession('shop', by SecureCookieSessionInterface)")
    signs_out(AsgiDoor(app))


def litestar_app(config):
    @litestar.get("/in")
    async def sign_in(request: litestar.Request) -> None:
        request.session["user"] = dict(claims_of("ada"))

    @litestar.get("/", media_type="text/plain")
    async def home(request: litestar.Request) -> str:
        return request.session.get("user", {}).get("sub", "nobody")

    return litestar.Litestar([sign_in, home], middleware=[config.middleware], openapi_config=None)


@pytest.mark.parametrize("config", [CookieBackendConfig(SECRET.encode()[:16]), ServerSideSessionConfig()])
def test_litestar_app_is_found(config):
    signs_out(AsgiDoor(asgi.LogoutMiddleware(litestar_app(config), logout(secret=SECRET))))


def test_litestar_app_is_found_as_its_documentation_wraps_it():
    app, found = litestar_app(CookieBackendConfig(SECRET.encode()[:16])), logout()
    app.asgi_handler = asgi.LogoutMiddleware(app.asgi_handler, found)
    assert repr(found).startswith("Logout(session=LitestarSession(ClientSideSessionBackend)")
    signs_out(AsgiDoor(app))


SIGNED = Middleware(SessionMiddleware, secret_key=SECRET)


@pytest.mark.parametrize("kind", [Starlette, FastAPI])
def test_session_middleware_of_an_app_that_is_wrapped_from_outside_is_found(kind):
    signs_out(AsgiDoor(asgi.LogoutMiddleware(star_app(kind, [SIGNED]), logout())))


@pytest.mark.parametrize("kind", [Starlette, FastAPI])
def test_session_middleware_is_found_by_a_middleware_that_is_added(kind):
    app = star_app(kind, [SIGNED])
    app.add_middleware(asgi.LogoutMiddleware, logout=logout())
    signs_out(AsgiDoor(app))


def test_session_middleware_around_any_asgi_app_is_found():
    signs_out(AsgiDoor(asgi.LogoutMiddleware(SessionMiddleware(star_app(), secret_key=SECRET), logout())))


def test_starsessions_are_found_with_the_store_that_the_app_uses():
    store = InMemoryStore()
    from starsessions import SessionAutoloadMiddleware

    sessions = Middleware(Starsessions, store=store, lifetime=3600)
    app = star_app(middleware=[sessions, Middleware(SessionAutoloadMiddleware)])
    app.add_middleware(asgi.LogoutMiddleware, logout=logout(secret=SECRET))
    signs_out(AsgiDoor(app))
    assert not any(b"sub-of-ada" in record for _, record in store.data.values() if isinstance(record, bytes))


def test_app_below_a_mount_is_wrapped_by_itself():
    inner = star_app(middleware=[SIGNED])
    inner.add_middleware(asgi.LogoutMiddleware, logout=logout())
    outer = Starlette(routes=[Mount("/shop", inner)])
    browser = Browser(AsgiDoor(outer))
    browser.get("/shop/in")
    assert browser.get("/shop/logout").location.startswith("https://login.microsoftonline.com/")
    assert browser.get("/shop/").text == "nobody"


def test_flask_app_below_a_dispatcher_is_wrapped_by_itself():
    inner = flask_app()
    inner.config["APPLICATION_ROOT"] = "/shop"
    inner.wsgi_app = wsgi.LogoutMiddleware(inner.wsgi_app, logout())
    browser = Browser(WsgiDoor(DispatcherMiddleware(Flask("outer"), {"/shop": inner})))
    browser.get("/shop/in")
    assert browser.get("/logout").status == 404
    assert browser.get("/shop/").text == "sub-of-ada"
    assert browser.get("/shop/logout").location.startswith("https://login.microsoftonline.com/")
    assert browser.get("/shop/").text == "nobody"


def test_secret_and_cookies_of_a_middleware_that_is_made_are_those_of_its_options():
    from msal_logout_middleware.sessions.asgi import ASGISession

    options = Middleware(SessionMiddleware, secret_key=SECRET, session_cookie="shop", same_site="strict")
    made = ASGISession(SessionMiddleware(star_app(), SECRET, session_cookie="shop", same_site="strict"))
    assert made.cookies == ASGISession(options).cookies
    assert made.secret in (SECRET, SECRET.encode())


def test_claims_are_looked_for_where_the_logout_says():
    app = flask_app("account")
    app.wsgi_app = wsgi.LogoutMiddleware(app.wsgi_app, logout(claims="account"))
    signs_out(WsgiDoor(app))


def test_what_is_found_is_logged_once_and_shown(caplog):
    app, found = flask_app(), logout()
    assert repr(found) == "Logout(session=to be found in the app, store=MemoryStore)"
    with caplog.at_level(logging.INFO, "msal_logout_middleware"):
        wsgi.LogoutMiddleware(app.wsgi_app, found)
    (record,) = caplog.records
    sessions = "FlaskSession('shop', by SecureCookieSessionInterface)"
    assert record.getMessage() == f"sessions are read by {sessions}, which was found in the app"
    assert repr(found) == f"Logout(session={sessions}, store=MemoryStore)"


def test_app_without_known_sessions_is_told_what_to_give():
    def app(environ, start_response):
        return []

    with pytest.raises(TypeError, match=r"give Logout session=, such as FlaskSession\(app\)"):
        wsgi.LogoutMiddleware(app, logout())


def test_middleware_inside_of_the_session_middleware_is_told_so():
    app = star_app(middleware=[SIGNED, Middleware(asgi.LogoutMiddleware, logout=logout())])
    with pytest.raises(TypeError, match="added last, so that it is outermost"):
        Browser(AsgiDoor(app)).get("/")


def test_middleware_inside_of_beakers_is_told_so():
    app = flask_app()
    app.wsgi_app = SessionMiddlewareOfBeaker(
        wsgi.LogoutMiddleware(app.wsgi_app, logout()), {"session.type": "memory"}
    )
    with pytest.raises(RuntimeError, match="inside the session middleware"):
        Browser(WsgiDoor(app)).get("/logout")
    assert Browser(WsgiDoor(app)).get("/logout/front-channel?sid=x", site="cross-site").status == 200


def test_app_without_a_secret_is_told_so():
    app = Flask("shop")
    with pytest.raises(ValueError, match=r"secret= is missing.* Flask's SECRET_KEY, or give secret="):
        wsgi.LogoutMiddleware(app.wsgi_app, logout())


def test_two_session_middlewares_are_not_guessed_between():
    app = star_app(middleware=[SIGNED, Middleware(SessionMiddleware, secret_key="another secret, as long")])
    with pytest.raises(ValueError, match="2 session middlewares"):
        asgi.LogoutMiddleware(app, logout())


def test_claims_belong_to_the_session_that_is_given():
    with pytest.raises(ValueError, match="give it to session= instead"):
        logout(session=FlaskSession(flask_app()), claims="account")


def test_claims_that_are_no_place_are_told_at_once():
    with pytest.raises(TypeError, match="claims= is a key of the session"):
        logout(claims=3)


def test_what_needs_the_sessions_before_an_app_is_wrapped_says_so():
    with pytest.raises(LogoutError, match="no app is wrapped yet"):
        logout().end_sessions(sid="s")


def test_token_cache_is_there_before_an_app_is_wrapped():
    with logout().token_cache(claims_of("ada")) as cache:
        assert not list(cache.search("AccessToken"))


def test_one_logout_serves_one_app():
    one = logout()
    wsgi.LogoutMiddleware(flask_app().wsgi_app, one)
    other = Flask("other")
    other.secret_key = SECRET
    with pytest.raises(TypeError, match="make a Logout for each app"):
        wsgi.LogoutMiddleware(other.wsgi_app, one)


@pytest.mark.parametrize(
    ("options", "unlike"),
    [
        ({"SECRET_KEY": "another secret of some length"}, "secret"),
        ({"SESSION_COOKIE_NAME": "shop2"}, "cookie"),
    ],
)
def test_one_logout_does_not_serve_two_apps_of_one_name_whose_sessions_differ(options, unlike):
    one = logout()
    wsgi.LogoutMiddleware(flask_app().wsgi_app, one)
    other = flask_app()
    other.config.update(options)
    with pytest.raises(TypeError, match=f"the same with another {unlike}: make a Logout for each app"):
        wsgi.LogoutMiddleware(other.wsgi_app, one)


def test_one_logout_serves_an_app_that_its_factory_makes_again():
    one = logout()
    for _ in range(2):
        app = flask_app()
        app.wsgi_app = wsgi.LogoutMiddleware(app.wsgi_app, one)
    signs_out(WsgiDoor(app))


def test_stack_of_middlewares_may_be_built_once_more():
    app = star_app(middleware=[SIGNED])
    app.add_middleware(asgi.LogoutMiddleware, logout=logout())
    Browser(AsgiDoor(app)).get("/")
    app.middleware_stack = None
    signs_out(AsgiDoor(app))


@pytest.mark.parametrize("given", [True, False], ids=["given", "found"])
def test_app_that_is_wrapped_twice_is_told_so(given):
    app = flask_app()
    options = {"session": FlaskSession(app)} if given else {}
    app.wsgi_app = ProxyFix(wsgi.LogoutMiddleware(app.wsgi_app, logout(**options)))
    with pytest.raises(TypeError, match="around this app already"):
        wsgi.LogoutMiddleware(app.wsgi_app, logout(**options))


def test_asgi_app_that_is_wrapped_twice_is_told_so():
    app = star_app(middleware=[SIGNED])
    app.add_middleware(asgi.LogoutMiddleware, logout=logout())
    with pytest.raises(TypeError, match="around this app already"):
        asgi.LogoutMiddleware(app, logout())


def test_secret_that_was_rotated_out_still_finds_what_has_ended():
    """`SECRET_KEY_FALLBACKS`: an old cookie is still good, and so must be the mark that ended it."""
    app, store = flask_app(), MemoryStore()
    app.wsgi_app = wsgi.LogoutMiddleware(app.wsgi_app, logout(store=store))
    browser = Browser(WsgiDoor(app))
    browser.get("/in")
    stolen = dict(browser.cookies)
    browser.get("/logout")
    rotated = flask_app()
    rotated.config.update(SECRET_KEY="a new secret of some length", SECRET_KEY_FALLBACKS=[SECRET])
    bare = Browser(WsgiDoor(rotated))
    bare.cookies.update(stolen)
    is_known = "SECRET_KEY_FALLBACKS" in Flask.default_config  # since Flask 3.1
    assert bare.get("/").text == ("sub-of-ada" if is_known else "nobody")
    rotated.wsgi_app = wsgi.LogoutMiddleware(rotated.wsgi_app, logout(store=store))
    after = Browser(WsgiDoor(rotated))
    after.cookies.update(stolen)
    assert after.get("/").text == "nobody"
