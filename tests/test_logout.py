"""What is checked when a `Logout` and its middleware are constructed."""

from datetime import timedelta
from uuid import UUID

import pytest
from flask import Flask, session
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware

from msal_logout_middleware import Cookie, InSession, InStore, Logout, Provider, asgi, wsgi
from msal_logout_middleware._drive import run
from msal_logout_middleware.events import LogoutRefused
from msal_logout_middleware.sessions.asgi import ASGISession
from msal_logout_middleware.sessions.flask import FlaskSession
from msal_logout_middleware.stores.memory import MemoryStore
from msal_logout_middleware.stores.sqlite import SQLiteStore

SECRET = "a secret of these tests"


def make(**options):
    app = Flask("x")
    app.config["SECRET_KEY"] = SECRET
    defaults = {
        "provider": Provider.entra("common", "client"),
        "session": FlaskSession(app),
        "store": MemoryStore(),
        "post_logout_redirect_uri": "https://app.example.com/",
    }
    return Logout(**(defaults | options))


def starlette_session():
    return ASGISession(Middleware(SessionMiddleware, secret_key=SECRET))


class OnlyTokenCaches:
    """What `caches=InStore(...)` is given, and not `store=`."""

    def load(self, key): ...

    def replace(self, key, expected, data): ...


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"provider": "https://login"}, TypeError, "provider must be a Provider"),
        ({"session": Flask("x")}, TypeError, r"session must be an object such as FlaskSession\(app\)"),
        ({"store": "logout.db"}, TypeError, "store must be an object such as SQLiteStore"),
        ({"store": MemoryStore}, TypeError, "not the class MemoryStore"),
        ({"store": OnlyTokenCaches()}, TypeError, "a OnlyTokenCaches has no add, join, .*, generation,"),
        ({"caches": OnlyTokenCaches()}, TypeError, "has no cache_key, remove_accounts"),
        ({"caches": "_token_cache"}, TypeError, "caches must be an object such as InSession"),
        ({"return_to": "/bye"}, TypeError, "return_to must be a list"),
        ({"delete_cookies": "remember"}, TypeError, r"delete_cookies=\['remember'\]"),
        ({"delete_cookies": Cookie("remember")}, TypeError, "delete_cookies must be a list"),
        ({"clear_site_data": "cache"}, TypeError, "clear_site_data must be a list"),
        ({"clear_site_data": ["everything"]}, ValueError, "clear_site_data="),
        ({"session_lifetime_seconds": timedelta(1)}, TypeError, r"\.total_seconds\(\)"),
        ({"retry_seconds": "2"}, TypeError, "retry_seconds must be a number"),
        ({"retry_seconds": True}, TypeError, "retry_seconds must be a number"),
        ({"retry_seconds": -1}, ValueError, "not below 0"),
        ({"retry_seconds": float("nan")}, ValueError, "must be finite"),
        ({"session_lifetime_seconds": float("inf")}, ValueError, "must be finite"),
        ({"session_lifetime_seconds": 0}, ValueError, "as long as sessions live"),
        ({"front_channel_without_sid": "false"}, TypeError, "must be True or False, not 'false'"),
        ({"close_websockets": None}, TypeError, "close_websockets must be True or False"),
        ({"logout_token_rules": {"strict_type": True}}, TypeError, r"LogoutTokenRules\(strict_type=True\)"),
        ({"on_event": "print"}, TypeError, "on_event must be a function"),
        ({"other_sessions": True}, ValueError, "must be 'keep' or 'end'"),
        ({"methods": "GET"}, TypeError, "methods must be a list"),
        ({"return_to": ["//evil"]}, ValueError, "return_to="),
        ({"methods": []}, ValueError, "methods="),
        ({"methods": ["PUT"]}, ValueError, "methods="),
        ({"logout_path": "logout"}, ValueError, "logout_path="),
        ({"logout_path": "//logout"}, ValueError, "logout_path="),
        ({"logout_path": "/logout?x"}, ValueError, "logout_path="),
        ({"logout_path": "/log%6Fut"}, ValueError, "decoded"),
        ({"logout_path": None}, TypeError, "such as '/logout', not None"),
        ({"front_channel_path": False}, TypeError, "or None if there is none, not False"),
        ({"back_channel_path": "/logout"}, ValueError, "must be different paths"),
        ({"post_logout_redirect_uri": "/"}, ValueError, "post_logout_redirect_uri="),
        ({"post_logout_redirect_uri": "http://app.example.com/"}, ValueError, "https"),
        ({"landing_page": "javascript:x"}, ValueError, "landing_page="),
        ({"origin": "app.example.com"}, ValueError, "origin="),
        ({"secret": "short"}, ValueError, "16 bytes"),
        ({"secret": []}, ValueError, "give secret="),
        ({"on_store_error": "ignore"}, ValueError, "on_store_error="),
        ({"caches": InSession(), "cache_key": str}, ValueError, "cache_key="),
        ({"post_logout_redirect_uri": None}, TypeError, r"such as 'https.*is the environment variable set\?"),
        ({"return_to": [None]}, TypeError, "return_to=None must be a URL"),
        ({"origin": "https://app.example.com/shop"}, ValueError, "origin=.* must end after the host"),
        ({"origin": ["https://app.example.com?a=b"]}, ValueError, "origin=.* must end after the host"),
        ({"secret": 1234}, TypeError, "secret must be str or bytes, or a list of them"),
        ({"secret": [1234]}, TypeError, "secret must be str or bytes, or a list of them"),
        ({"session": session}, TypeError, r"FlaskSession\(app\) or .*, not flask's session of one request"),
        ({"delete_cookies": [3]}, TypeError, r"delete_cookies=\[3\] must be names of cookies"),
        ({"max_url_length": 0}, ValueError, "max_url_length=0 must be in characters"),
    ],
)
def test_mistake_is_told_with_what_to_do(options, error, message):
    with pytest.raises(error, match=message):
        make(**options)


def test_what_was_given_in_place_of_a_store_is_not_told():
    with pytest.raises(TypeError) as raised:
        make(store="redis://:password@cache.example.com")
    assert "password" not in str(raised.value)


@pytest.mark.parametrize(
    ("whose", "error", "message"),
    [
        ({"sid": "a-session", "oid": "ann", "tid": "a-tenant"}, ValueError, "say whose sessions"),
        ({"iss": "an-issuer"}, ValueError, "say whose sessions"),
        ({"sub": "ann"}, ValueError, "sub= names a user only together with iss="),
        ({"oid": "ann"}, ValueError, "oid= and tid= name a user together"),
        ({"sid": ""}, ValueError, "sid= is empty"),
        ({"sub": "ann", "iss": ""}, ValueError, "iss= is empty"),
        ({"oid": "ann", "tid": ""}, ValueError, "tid= is empty"),
        ({"oid": UUID(int=1), "tid": UUID(int=2)}, TypeError, "oid= must be a string, .* not of type UUID"),
        ({"sid": b"a-session"}, TypeError, "sid= must be a string"),
    ],
)
def test_ending_sessions_of_nobody_is_a_mistake_and_not_a_success(whose, error, message):
    logout = make()
    for call in (logout.end_sessions, logout.count_sessions):
        with pytest.raises(error, match=message):
            call(**whose)


def test_secret_is_derived_from_the_framework_s_own():
    make()
    with pytest.raises(ValueError, match="give secret="):
        make(session=FlaskSession(Flask("without a secret")))
    make(session=FlaskSession(Flask("without a secret")), secret=SECRET)


def test_asynchronous_parts_are_refused_under_wsgi():
    async def hook(event):
        pass

    for part in ({"session": starlette_session()}, {"on_event": hook}):
        logout = make(**part)
        assert logout.configuration.is_async
        with pytest.raises(TypeError, match="synchronous"):
            wsgi.LogoutMiddleware(Flask("x").wsgi_app, logout)


def test_token_cache_that_a_sign_out_would_not_find_is_refused():
    with pytest.raises(ValueError, match="without caches="):
        make(caches=InSession()).token_cache({"sub": "ann"})


def test_refusal_is_a_warning_the_first_time_that_a_worker_has_its_reason(caplog):
    caplog.set_level("INFO")
    config = make().configuration
    for reason in ("no sid", "no sid", "aud is another", "no sid"):
        run(config.tell(LogoutRefused("front-channel", reason)))
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO", "WARNING", "INFO"]


def test_token_cache_is_asked_for_with_claims_and_not_with_a_name():
    with pytest.raises(TypeError, match=r'the claims of the ID token, a mapping: session\["user"\]'):
        make().token_cache("alice@contoso.example")


def test_return_path_is_compared_as_the_app_routes_it():
    logout = make(post_logout_redirect_uri="https://app.example.com/%61b")
    assert logout.takes("GET", "/ab", "", "state=x")


def test_session_middleware_that_cannot_be_asked_for_its_cookies_is_told():
    class SetsNone:
        def __init__(self, app):
            self.app = app

        async def __call__(self, scope, receive, send):
            await self.app({**scope, "session": {}}, receive, send)

    session = ASGISession(Middleware(SetsNone))
    with pytest.raises(TypeError, match="give cookies="):
        make(session=session, secret=SECRET)
    make(session=ASGISession(Middleware(SetsNone), cookies=(Cookie("own"),)), secret=SECRET)


def test_session_middleware_may_be_added_later_where_the_secret_is_given():
    make(session=ASGISession(Starlette()), secret=SECRET)


@pytest.mark.parametrize(("door", "app"), [(asgi, Starlette()), (wsgi, Flask("x").wsgi_app)])
def test_middleware_is_given_an_app_and_a_logout(door, app):
    with pytest.raises(TypeError, match="logout must be a Logout"):
        door.LogoutMiddleware(app, SQLiteStore("x.db"))
    with pytest.raises(TypeError, match="the app comes first"):
        door.LogoutMiddleware(make(), app)
    with pytest.raises(TypeError, match="not an app"):
        door.LogoutMiddleware("app", make())
    door.LogoutMiddleware(app, make())


def test_app_of_the_other_kind_is_told_which_middleware_to_use():
    with pytest.raises(TypeError, match=r"use msal_logout_middleware\.asgi"):
        wsgi.LogoutMiddleware(Starlette(), make())
    for app in (Flask("x"), Flask("x").wsgi_app):
        with pytest.raises(TypeError, match=r"use msal_logout_middleware\.wsgi"):
            asgi.LogoutMiddleware(app, make())


def test_app_without_a_signature_is_taken_as_it_is():
    wsgi.LogoutMiddleware(max, make())  # written in C


def test_thread_is_needed_only_where_a_part_waits(tmp_path):
    assert not make(session=starlette_session()).configuration.blocks
    assert make(session=starlette_session(), store=SQLiteStore(tmp_path / "x.db")).configuration.blocks


def test_thread_is_needed_where_token_caches_are_read_from_disk(tmp_path):
    logout = make(session=starlette_session(), caches=InStore(SQLiteStore(tmp_path / "x.db")))
    assert logout.configuration.blocks


def test_token_cache_is_the_one_that_a_sign_out_empties(tmp_path):
    logout = make(cache_key=lambda claims: f"mine-{claims['sub']}")
    cache = logout.token_cache({"sub": "ann"})
    assert cache.key == "mine-ann"
