"""Four apps that keep sessions in four ways, behind either door, each signing people in as a test says."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from cachelib import SimpleCache
from flask import Flask, redirect, request, session
from flask import Response as FlaskResponse
from flask_session import Session as FlaskServerSession
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, StreamingResponse
from starlette.routing import Route
from starsessions import InMemoryStore, SessionAutoloadMiddleware
from starsessions import SessionMiddleware as StarSessionMiddleware

from msal_logout_middleware import Logout, asgi, wsgi
from msal_logout_middleware.caches import home_account_id
from msal_logout_middleware.provider import Provider
from msal_logout_middleware.sessions.asgi import ASGISession
from msal_logout_middleware.sessions.flask import FlaskSession
from msal_logout_middleware.stores.memory import MemoryStore
from tests.doors import AsgiDoor, Browser, WsgiDoor
from tests.tokens import CLIENT_ID, TENANT, cache_of

SECRET = "a secret that only these tests know"
HOME = "http://localhost/"


@dataclass
class Site:
    """A wrapped app, and what its tests look at."""

    kind: str
    make_app: Any
    options: dict[str, Any] = field(default_factory=dict)
    store: Any = field(default_factory=MemoryStore)
    events: list[Any] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    stream: bool = False
    seen: list[str] = field(default_factory=list)
    acquires: Any = lambda: None
    acquires_late: Any = lambda: None

    def build(self, **options):
        app, session, records = self.make_app(self)
        self.app = app
        self.records = records
        self.session = options.pop("wrap", lambda reader: reader)(session)
        defaults = {
            "provider": Provider.entra(TENANT, CLIENT_ID),
            "session": self.session,
            "store": self.store,
            "secret": SECRET,
            "post_logout_redirect_uri": HOME,
            "retry_seconds": 0.01,
            "on_event": self.events.append,
        }
        self.logout = Logout(**(defaults | options))
        if self.is_asgi:
            self.door = AsgiDoor(asgi.LogoutMiddleware(app, self.logout))
        else:
            self.door = WsgiDoor(wsgi.LogoutMiddleware(app, self.logout))
        return self

    def chunks(self):
        """A body whose first chunk comes before the answer and the second after; then a record is saved late."""
        before = dict(self.records)  # as the view that is being called sees them

        def body():
            yield b"first"
            self.seen.append(repr(dict(self.records)))
            yield b"second"
            self.records.update(before)
            self.acquires_late()

        return body()

    @property
    def is_asgi(self):
        return "star" in self.kind

    def browser(self):
        return Browser(self.door)

    def sign_in(self, claims, *, cache=True):
        """Return a browser in which somebody has signed in, with tokens in the store."""
        browser = self.browser()
        assert browser.post("/sign-in", {"claims": json.dumps(claims)}).status == 200
        if cache:
            key = home_account_id(claims)
            loaded = self.store.load(key)
            assert self.store.replace(key, loaded.version, cache_of(claims).encode())
        return browser

    def cache(self, claims):
        return self.store.load(home_account_id(claims)).data

    def event_names(self):
        return [type(event).__name__ for event in self.events]


def flask_app(site, *, server_side):
    app = Flask("site")
    app.config.update(SECRET_KEY=SECRET, SESSION_COOKIE_SAMESITE="Lax")
    records = None
    if server_side:
        records = SimpleCache()
        app.config.update(SESSION_TYPE="cachelib", SESSION_CACHELIB=records)
        FlaskServerSession(app)

    @app.post("/sign-in")
    def sign_in():
        session["user"] = json.loads(request.form["claims"])
        return {}

    @app.get("/me")
    def me():
        return {"user": session.get("user")}

    @app.route("/logout", methods=["GET", "POST"])
    def logout():
        site.calls.append(f"{request.method} {(session.get('user') or {}).get('sub')}")
        session["late"] = True
        site.acquires()
        if site.stream:
            return FlaskResponse(site.chunks())
        return redirect("https://provider.example/app-s-own-logout")

    @app.route("/", methods=["GET", "POST"])
    def index():
        return {"query": request.query_string.decode("latin-1"), "form": request.get_data().decode("latin-1")}

    return app, FlaskSession(app), (records._cache if server_side else None)


def starlette_app(site, *, server_side):
    async def sign_in(request: Request):
        form = await request.form()
        request.session["user"] = json.loads(form["claims"])
        return JSONResponse({})

    async def me(request: Request):
        return JSONResponse({"user": request.session.get("user")})

    async def logout(request: Request):
        site.calls.append(f"{request.method} {(request.session.get('user') or {}).get('sub')}")
        request.session["late"] = True
        site.acquires()
        if site.stream:
            return StreamingResponse(site.chunks())
        return RedirectResponse("https://provider.example/app-s-own-logout", 302)

    async def index(request: Request):
        body = (await request.body()).decode("latin-1")
        return JSONResponse({"query": request.url.query, "form": body})

    records = None
    if server_side:
        store = InMemoryStore()
        records = store.data
        kept = Middleware(StarSessionMiddleware, store=store, cookie_https_only=False, lifetime=3600)
        middleware = [kept, Middleware(SessionAutoloadMiddleware)]
    else:
        kept = Middleware(SessionMiddleware, secret_key=SECRET)
        middleware = [kept]
    app = Starlette(
        routes=[
            Route("/sign-in", sign_in, methods=["POST"]),
            Route("/me", me),
            Route("/logout", logout, methods=["GET", "POST"]),
            Route("/", index, methods=["GET", "POST"]),
        ],
        middleware=middleware,
    )
    return app, ASGISession(kept), records


KINDS = {
    "flask, signed cookie": lambda site: flask_app(site, server_side=False),
    "flask-session": lambda site: flask_app(site, server_side=True),
    "starlette, signed cookie": lambda site: starlette_app(site, server_side=False),
    "starsessions": lambda site: starlette_app(site, server_side=True),
}


@pytest.fixture(params=KINDS)
def site(request):
    return Site(request.param, KINDS[request.param])


@pytest.fixture(params=["flask-session", "starsessions"])
def server_side_site(request):
    return Site(request.param, KINDS[request.param])


@pytest.fixture(params=["flask, signed cookie", "starlette, signed cookie"])
def either_door(request):
    """For what does not depend on how sessions are kept."""
    return Site(request.param, KINDS[request.param])
