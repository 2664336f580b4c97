"""What is ASGI's own: finding the middleware, learning its cookies and secret, middlewares of any kind."""

from __future__ import annotations

import gc
import json
import warnings
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import anyio
import fastapi
import itsdangerous
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.datastructures import Secret
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.responses import Response
from starsessions import CookieStore, InMemoryStore, SessionAutoloadMiddleware
from starsessions import SessionMiddleware as Starsessions

from msal_logout_middleware.errors import StoreError
from msal_logout_middleware.http import Cookie
from msal_logout_middleware.session import Session
from msal_logout_middleware.sessions.asgi import ASGISession
from msal_logout_middleware.testing.session_contract import CLAIMS, cookie_header

from .sites import ROUTES, Store, asgi_contents, asgi_sign_in, starlette_app

SIGNED = Middleware(SessionMiddleware, secret_key="a secret")


def sign_in(app: Any, **contents: Any) -> str:
    return cookie_header(anyio.run(asgi_sign_in, app, contents))


def read(session: ASGISession, header: str) -> Session | None:
    return anyio.run(session.read, header)


def test_middleware_is_found_that_is_added_after_construction() -> None:
    app = Starlette(routes=ROUTES)
    session = ASGISession(app)
    app.add_middleware(SessionMiddleware, secret_key="a secret", session_cookie="shop")
    app.add_middleware(GZipMiddleware)
    found = read(session, sign_in(app, user=dict(CLAIMS)))
    assert found is not None
    assert found.claims == CLAIMS
    assert session.secret == "a secret"
    assert session.cookies == (Cookie("shop", same_site="Lax"),)
    assert session.cookies is session.cookies


def test_middleware_is_found_in_a_fastapi_app_and_under_another_name() -> None:
    class Shop(SessionMiddleware):
        pass

    app = fastapi.FastAPI(routes=ROUTES)
    app.add_middleware(Shop, secret_key="a secret")
    found = read(ASGISession(app), sign_in(app, id_token_claims=dict(CLAIMS)))
    assert found is not None
    assert found.claims == CLAIMS


def test_middleware_that_replaces_another_counts_from_then_on() -> None:
    app = Starlette(middleware=[SIGNED])
    session = ASGISession(app)
    assert read(session, "session=x") is None
    assert session.cookies[0].name == "session"
    app.user_middleware[:] = [Middleware(SessionMiddleware, secret_key="a secret", session_cookie="shop")]
    assert session.cookies[0].name == "shop"
    assert read(session, sign_in(starlette_app(app.user_middleware[0]), user=dict(CLAIMS))) is not None


def test_app_without_or_with_several_session_middlewares_is_told_what_to_give() -> None:
    with pytest.raises(ValueError, match=r"the app has no session middlewares; add one before"):
        _ = ASGISession(Starlette()).cookies
    several = ASGISession(Starlette(middleware=[SIGNED, SIGNED]))
    for ask in (partial(several.read, ""), partial(several.load, ""), partial(several.delete, "")):
        with pytest.raises(ValueError, match=r"the app has 2 session middlewares"):
            anyio.run(ask)


@pytest.mark.parametrize("source", [SessionMiddleware, None, "app"])
def test_what_is_neither_app_nor_middleware_is_refused(source: Any) -> None:
    with pytest.raises(TypeError, match=r"give ASGISession a starlette Middleware"):
        ASGISession(source)


class _Starred:
    def __str__(self) -> str:
        return "**********"


@pytest.mark.parametrize(
    ("middleware", "secret"),
    [
        (Middleware(SessionMiddleware, secret_key="text"), "text"),
        (Middleware(SessionMiddleware, "by position"), "by position"),
        (Middleware(SessionMiddleware, secret_key=Secret("kept")), "kept"),
        (Middleware(SessionMiddleware, secret_key=_Starred()), None),
        (Middleware(SessionMiddleware, secret_key=""), None),
        (Middleware(Starsessions, store=InMemoryStore()), None),
        (Middleware(Starsessions, store=CookieStore("text")), None),
    ],
)
def test_secret_is_known_where_it_is_an_option(middleware: Any, secret: str | None) -> None:
    assert ASGISession(middleware).secret == secret


def test_partitioned_cookie_is_known_where_starlette_knows_it() -> None:
    class Partitioned(SessionMiddleware):  # the same for a Starlette that does not know the option
        def __init__(self, app: Any, **options: Any) -> None:
            super().__init__(app, https_only=True, same_site="none", **options)
            self.security_flags += "; partitioned"

    (cookie,) = ASGISession(Middleware(Partitioned, secret_key="a secret")).cookies
    assert cookie == Cookie("session", secure=True, same_site="None", partitioned=True)


def test_cookie_path_of_starsessions_is_where_the_app_is_mounted() -> None:
    app = fastapi.FastAPI(routes=ROUTES)
    app.root_path = "/shop"
    app.add_middleware(Starsessions, store=InMemoryStore(), cookie_https_only=False)
    app.add_middleware(SessionAutoloadMiddleware)
    app.user_middleware.reverse()  # starsessions' own first
    (set_cookie,) = anyio.run(asgi_sign_in, app, {"user": CLAIMS})
    assert "; path=/shop;" in set_cookie
    assert ASGISession(app).cookies == (Cookie("session", path="/shop", same_site="Lax"),)
    options = Middleware(Starsessions, store=InMemoryStore(), cookie_https_only=False)
    assert ASGISession(options, root_path="/shop").cookies == ASGISession(app).cookies


def test_expired_cookie_is_no_session(monkeypatch: pytest.MonkeyPatch) -> None:
    signed_at = itsdangerous.TimestampSigner("x").get_timestamp() - 3700
    for options in (
        Middleware(SessionMiddleware, secret_key="a secret", max_age=3600),
        Middleware(Starsessions, store=CookieStore("a secret"), lifetime=3600),
    ):
        session = ASGISession(options)
        with monkeypatch.context() as patch:
            patch.setattr(itsdangerous.TimestampSigner, "get_timestamp", lambda self: signed_at)
            header = sign_in(starlette_app(options), user=dict(CLAIMS))
            assert read(session, header) is not None
        assert read(session, header) is None


@pytest.mark.parametrize("payload", [b"x", b"!!!!", b"W10=", b"eyJh"])
def test_authentic_cookie_that_does_not_decode_is_no_session(payload: bytes) -> None:
    value = itsdangerous.TimestampSigner("a secret").sign(payload).decode()
    assert read(ASGISession(SIGNED), f"session={value}") is None


def test_damaged_record_is_no_session_and_can_be_deleted() -> None:
    store = Store()
    session = ASGISession(Middleware(Starsessions, store=store))
    store.data["id"] = b"\xff damaged"
    assert read(session, "session=id") is None
    anyio.run(session.delete, "id")
    assert not store.data


def test_session_under_an_id_of_the_browsers_choice_is_found_and_deleted() -> None:
    store = Store()  # starsessions adopts any id, in any characters
    session = ASGISession(Middleware(Starsessions, store=store))
    store.data['a";\x01é'] = json.dumps({"user": CLAIMS}).encode()
    found = read(session, r'session="a\"\073\001\351"')
    assert found is not None
    assert found.id == 'a";\x01é'
    assert anyio.run(session.load, found.id) == found
    anyio.run(session.delete, found.id)
    assert not store.data


def test_session_that_is_still_there_after_its_deletion_is_an_error() -> None:
    class Deaf(Store):
        async def remove(self, session_id: str) -> None:
            pass

    store = Deaf()
    store.data["id"] = json.dumps({"user": CLAIMS}).encode()
    with pytest.raises(StoreError, match="still has a session that was deleted"):
        anyio.run(ASGISession(Middleware(Starsessions, store=store)).delete, "id")


App = Callable[[Any, Any, Any], Awaitable[None]]


class Handmade:
    """Somebody's own session middleware, which saves when the app has returned."""

    saved: list[Any]

    def __init__(self, app: App, cookie: bytes = b"Own=x; PATH=/x; SECURE; SameSite=LAX; HttpOnly") -> None:
        self.app, self.cookie = app, cookie
        self.store = "not a store of starsessions"
        self.saved = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        sessions = {b"own=ada": {"user": CLAIMS}}
        scope = {**scope, "session": dict(sessions.get(dict(scope["headers"]).get(b"cookie", b""), {}))}

        async def keep(message: Any) -> None:
            if message["type"] == "http.response.start" and scope["session"] and scope["scheme"] == "https":
                message["headers"] += [(b"Set-Cookie", self.cookie)] if self.cookie else []
            await send(message)

        await self.app(scope, receive, keep)
        self.saved.append(scope["session"])


def test_middleware_of_ones_own_is_read_and_is_not_given_the_time_to_save() -> None:
    session = ASGISession(Middleware(Handmade))
    found = read(session, "own=ada")
    assert found is not None
    assert (found.id, found.claims) == (None, CLAIMS)
    assert read(session, "own=eve") is None
    assert session._running().app.saved == []  # type: ignore[attr-defined]
    assert session.cookies == (Cookie("Own", path="/x", secure=True, same_site="Lax"),)
    anyio.run(session.delete, "ada")


def test_middleware_that_sets_no_cookie_needs_to_be_told() -> None:
    with pytest.raises(TypeError, match="set no cookie when it was asked to; give cookies="):
        _ = ASGISession(Middleware(Handmade, cookie=b"")).cookies
    cookies = (Cookie("own"),)
    assert ASGISession(Middleware(Handmade, cookie=b""), cookies=cookies).cookies == cookies


class Waiting(BaseHTTPMiddleware):
    """A session middleware that needs an event loop to set its cookie."""

    async def dispatch(self, request: Any, call_next: Any) -> Response:
        request.scope["session"] = {"user": CLAIMS} if "own" in request.cookies else {}
        return await call_next(request)


async def cookies_in_a_loop(session: ASGISession) -> tuple[Cookie, ...]:
    return session.cookies


def test_middleware_that_waits_is_read_and_needs_to_be_told_its_cookies() -> None:
    with pytest.raises(TypeError, match="cannot be asked for its cookies; give cookies="):
        _ = ASGISession(Middleware(Waiting)).cookies
    with pytest.raises(TypeError, match="cannot be asked for its cookies; give cookies="):
        anyio.run(cookies_in_a_loop, ASGISession(Middleware(Waiting)))
    session = ASGISession(Middleware(Waiting), cookies=(Cookie("own"),))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # Starlette 0.40 leaves a stream open
        found = read(session, "own=x")
        gc.collect()
    assert found is not None
    assert found.claims == CLAIMS


def test_middleware_that_answers_by_itself_leads_to_no_session() -> None:
    async def refuse(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 400, "headers": []})
        await send({"type": "http.response.body"})

    assert read(ASGISession(Middleware(lambda app: refuse)), "own=x") is None


def test_middleware_that_opens_no_session_is_told() -> None:
    with pytest.raises(TypeError, match="puts no session into the scope"):
        read(ASGISession(Middleware(GZipMiddleware)), "")


def test_unknown_kind_of_store_is_left_alone_where_starsessions_is_not_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "starsessions", None)
    session = ASGISession(Middleware(Handmade))
    assert anyio.run(session.load, "ada") is None


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_whatever_the_header_is_the_reader_sees_what_the_app_sees(data: st.DataObject) -> None:
    options = data.draw(st.sampled_from([SIGNED, Middleware(Starsessions, store=InMemoryStore())]))
    app = starlette_app(options)
    latin = st.text(st.characters(max_codepoint=255), max_size=12)

    async def story() -> None:
        own = cookie_header(await asgi_sign_in(app, {"user": dict(CLAIMS)}))
        part = st.sampled_from([own, "session=", "session", "session=x", '="', ";", "; ", "=", '"', "\\073"])
        header = "".join(data.draw(st.lists(st.one_of(part, latin), max_size=6)))
        found = await ASGISession(options).read(header)
        assert dict(found.contents if found else {}) == await asgi_contents(app, header)

    anyio.run(story)
