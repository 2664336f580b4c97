"""The public API as a typed app uses it. Checked by mypy and pyright; never run."""

from __future__ import annotations

import json
from typing import assert_type

from cachelib import FileSystemCache
from fastapi import FastAPI
from flask import Flask
from litestar import Litestar
from litestar.middleware.session.client_side import CookieBackendConfig
from quart import Quart
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware

from msal_logout_middleware import (
    Cookie,
    Encryption,
    EndedSessions,
    InAppCache,
    InSession,
    InStore,
    Logout,
    LogoutEnded,
    LogoutFailed,
    LogoutRefused,
    LogoutStarted,
    LogoutTokenRules,
    Provider,
    RedisStore,
    SessionRefused,
    SessionUnknowable,
    SQLAlchemyStore,
    StoreUnreachable,
    asgi,
    wsgi,
)
from msal_logout_middleware.caches import TokenCaches
from msal_logout_middleware.django_cache import InDjangoCache
from msal_logout_middleware.events import Channel, Event
from msal_logout_middleware.session import Session, SessionReader
from msal_logout_middleware.sessions.asgi import ASGISession
from msal_logout_middleware.sessions.callables import CallableSession
from msal_logout_middleware.sessions.django import DjangoSession
from msal_logout_middleware.sessions.flask import FlaskSession
from msal_logout_middleware.sessions.litestar import LitestarSession
from msal_logout_middleware.sessions.pyramid import PyramidSession
from msal_logout_middleware.sessions.quart import QuartSession
from msal_logout_middleware.stores import Loaded, TokenCacheStore
from msal_logout_middleware.stores.memory import MemoryStore
from msal_logout_middleware.stores.reencryption import Reencrypted, reencrypt
from msal_logout_middleware.stores.sqlite import SQLiteStore
from msal_logout_middleware.token_cache import StoredTokenCache


class OwnStore:
    """Two methods are a store for token caches."""

    async def load(self, key: str) -> Loaded:
        return Loaded(None, "")

    async def replace(self, key: str, expected: str, data: bytes | None) -> bool:
        return True


def on_event(event: Event) -> None:
    match event:
        case LogoutStarted(channel=channel) | LogoutEnded(channel=channel):
            assert_type(channel, Channel)
        case LogoutRefused(reason=reason):
            print(reason)
        case LogoutFailed(left=left):
            print(left)
        case SessionRefused(during=during):
            assert_type(during, bool)
        case SessionUnknowable():
            pass
        case StoreUnreachable(error=error):
            print(error)


async def on_event_async(event: Event) -> None:
    pass


def flask_app() -> None:
    app = Flask(__name__)
    logout = Logout(
        provider=Provider.entra("tenant", "client"),
        session=FlaskSession(app, claims=lambda contents: contents.get("me")),
        store=SQLiteStore("logout.db"),
        caches=InSession("_token_cache"),
        secret=["new", b"old"],
        post_logout_redirect_uri="https://app.example.com/",
        return_to=["/bye"],
        delete_cookies=["remember_token", Cookie("other", domain="example.com", same_site="None")],
        clear_site_data=["cache", "storage"],
        on_store_error="redirect",
        front_channel_path="/signed-out",
        back_channel_path=None,
        other_sessions="end",
        on_event=on_event,
    )
    logout.signed_in({"iss": "x", "sub": "y", "iat": 1}, session_id="id", sid="sid")
    assert_type(logout.count_sessions(sid="sid"), int)
    assert_type(logout.end_sessions(iss="x", sub="y"), EndedSessions)
    app.wsgi_app = wsgi.LogoutMiddleware(app.wsgi_app, logout)  # type: ignore[method-assign]


def fastapi_app() -> None:
    app = FastAPI()
    store: TokenCacheStore = OwnStore()
    logout = Logout(
        provider=Provider.discover("https://op.example", "client", verify="ca.pem"),
        session=ASGISession(Middleware(SessionMiddleware, secret_key="secret")),
        store=RedisStore("redis://localhost", prefix="app", wait_replicas=1),
        caches=InStore(store, cache_key=lambda claims: str(claims["sub"])),
        post_logout_redirect_uri="https://app.example.com/",
        logout_token_rules=LogoutTokenRules(algorithms=("ES256",), require_exp=False),
        close_websockets=False,
        on_event=on_event_async,
    )
    app.add_middleware(asgi.LogoutMiddleware, logout=logout)
    assert_type(logout.token_cache({"sub": "x"}), StoredTokenCache)


def quart_app() -> None:
    app = Quart(__name__)
    session = QuartSession(app, claims="account")
    logout = Logout(
        provider=Provider.entra("tenant", "client"),
        session=session,
        store=MemoryStore(),
        post_logout_redirect_uri="https://app.example.com/",
    )
    app.asgi_app = asgi.LogoutMiddleware(app.asgi_app, logout)  # type: ignore[method-assign, assignment]


def litestar_app() -> None:
    config = CookieBackendConfig(secret=b"16 bytes, random")
    app = Litestar([], middleware=[config.middleware])
    logout = Logout(
        provider=Provider.entra("tenant", "client"),
        session=LitestarSession(app, config=config, claims=lambda contents: contents.get("me")),
        store=MemoryStore(),
        post_logout_redirect_uri="https://app.example.com/",
    )
    asgi.LogoutMiddleware(app, logout)


async def keys_change() -> None:
    encryption = Encryption(["a new key", b"an old key"], clear="read")
    done = await reencrypt(SQLiteStore("logout.db", encryption=encryption), dry_run=True)
    assert_type(done.complete, bool)
    assert_type(await reencrypt(MemoryStore(encryption=encryption)), Reencrypted)
    assert_type(await reencrypt(RedisStore("redis://localhost", encryption=encryption)), Reencrypted)
    assert_type(await reencrypt(SQLAlchemyStore("sqlite:///app.db", encryption=encryption)), Reencrypted)


def caches_that_the_app_has() -> None:
    caches: TokenCaches = InAppCache(
        FileSystemCache("caches"),
        cache_key=lambda claims: str(claims["sub"]),
        serialize=json.dumps,
        deserialize=json.loads,
    )
    caches = InDjangoCache("default", cache_key=lambda claims: str(claims["sub"]), timeout_seconds=60)
    print(caches)


def sessions_of_django() -> None:
    reader: SessionReader = DjangoSession(claims="account")
    assert_type(
        DjangoSession(claims=lambda contents: contents["account"]).read("sessionid=x"), Session | None
    )
    print(reader)


def small_app() -> Logout:
    return Logout(
        provider=Provider.entra("tenant", "client"),
        session=FlaskSession(Flask(__name__)),
        store=MemoryStore(),
        post_logout_redirect_uri="https://app.example.com/",
    )


async def administrator(logout: Logout) -> None:
    await logout.asigned_in({"iss": "x", "sub": "y", "iat": 1})
    assert_type(await logout.acount_sessions(oid="o", tid="t"), int)
    ended = await logout.aend_sessions(oid="o", tid="t")
    assert_type(ended.complete, bool)


async def _load(session_id: str) -> dict[str, str] | None:
    return {"id": session_id}


async def _delete(session_id: str) -> None:
    return None


async def _session_id(cookie_header: str) -> str | None:
    return cookie_header


def any_sessions() -> None:
    readers: list[SessionReader] = [
        PyramidSession(object(), claims="me", cookies=(Cookie("session"),)),
        CallableSession(cookies=["session"], read=lambda header: {"user": header}, secret=[b"new", "old"]),
        CallableSession(cookies=[Cookie("sid")], session_id=_session_id, load=_load, delete=_delete),
    ]
    assert_type(readers[0].cookies, tuple[Cookie, ...])
