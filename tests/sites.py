"""Four apps that keep sessions in four ways, behind either door, each signing people in as a test says."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import urlencode

import anyio
from cachelib import SimpleCache
from flask import Flask, redirect, request, session
from flask import Response as FlaskResponse
from flask_session import Session as FlaskServerSession
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket
from starsessions import InMemoryStore, SessionAutoloadMiddleware
from starsessions import SessionMiddleware as StarSessionMiddleware

from msal_logout_middleware import Logout, asgi, wsgi
from msal_logout_middleware._drive import drive
from msal_logout_middleware.caches import home_account_id
from msal_logout_middleware.provider import Provider
from msal_logout_middleware.sessions.asgi import ASGISession
from msal_logout_middleware.sessions.flask import FlaskSession
from msal_logout_middleware.stores.memory import MemoryStore
from tests.doors import AsgiDoor, Browser, WsgiDoor
from tests.tokens import CLIENT_ID, TENANT, cache_of

SECRET = "a secret that only these tests know"
HOME = "http://localhost/"
FOR_EVERYBODY = {"Cache-Control": "public, max-age=3600", "Expires": "Thu, 01 Jan 2099 00:00:00 GMT"}


@dataclass
class Site:
    """A wrapped app, and what its tests look at.

    `does` are the app's views at `/does/NAME`, called with the session; at `/stream/NAME` what one returns is
    streamed, and at `/late/NAME` it is called when the answer has been sent. `codes` says whom `/callback` signs in.
    """

    kind: str
    make_app: Any
    options: dict[str, Any] = field(default_factory=dict)
    store: Any = field(default_factory=MemoryStore)
    events: list[Any] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    does: dict[str, Any] = field(default_factory=dict)
    codes: dict[str, Any] = field(default_factory=dict)
    redirects_forms: bool = False
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
        self.store = options.get("store", self.store)
        self.options = defaults | options
        self.logout, self.door = self.worker()
        return self

    def worker(self, **options):
        """Wrap the app once more, as another worker does; by default it shares the store and the sessions."""
        logout = Logout(**(self.options | options))
        if self.is_asgi:
            any_case = "Django" in self.kind
            return logout, AsgiDoor(asgi.LogoutMiddleware(self.app, logout), any_case=any_case)
        return logout, WsgiDoor(wsgi.LogoutMiddleware(self.app, logout))

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
        return "star" in self.kind or "ASGI" in self.kind

    @property
    def is_server_side(self):
        return self.records is not None

    @property
    def cookie_name(self):
        return self.session.cookies[0].name

    def browser(self):
        return Browser(self.door)

    def sign_in(self, claims, *, cache=True, browser=None):
        """Return a browser in which somebody has signed in, with tokens in the store."""
        browser = browser or self.browser()
        assert browser.post("/sign-in", {"claims": json.dumps(claims)}).status == 200
        if cache:
            self.keep_tokens(claims)
        return browser

    def keep_tokens(self, claims):
        key = home_account_id(claims)
        loaded = self.store.load(key)
        assert self.store.replace(key, loaded.version, cache_of(claims).encode())

    def cache(self, claims):
        return self.store.load(home_account_id(claims)).data

    def copy(self, browser):
        """A thief's browser: it has the same cookies now, and hears of no deletion."""
        return Browser(browser.site, dict(browser.cookies))

    def user(self, browser):
        """Whom the app takes a browser for: the `sub`, or `None`."""
        answer = browser.get("/me")
        assert answer.status == 200, answer.text
        return (json.loads(answer.body)["user"] or {}).get("sub")

    def front_channel(self, **parameters):
        """Call as the provider's iframe does where third-party cookies are blocked."""
        query = urlencode(parameters)
        return self.browser().get(f"/logout/front-channel?{query}", site="cross-site")

    def tidy(self, logout=None):
        """Do what a worker does from time to time."""
        anyio.run(partial(drive, (logout or self.logout).tidy, blocks=True))

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

    @app.get("/picture")
    def picture():
        return {}, FOR_EVERYBODY

    @app.get("/echo")
    def echo():
        return {"cookies": request.headers.getlist("cookie")}

    @app.route("/does/<name>", methods=["GET", "POST"])
    def does(name):
        return site.does[name](session) or {}

    @app.get("/stream/<name>")
    def stream(name):
        return FlaskResponse(site.does[name](session))

    @app.get("/late/<name>")
    def late(name):
        response = FlaskResponse("{}")
        response.call_on_close(lambda: site.does[name](None))
        return response

    @app.route("/callback", methods=["GET", "POST"])
    def callback():
        location = _signs_in(site, session, request.method, request.values.to_dict())
        return redirect(location, 303)

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

    async def picture(_request: Request):
        return JSONResponse({}, headers=FOR_EVERYBODY)

    async def echo(request: Request):
        return JSONResponse({"cookies": request.headers.getlist("cookie")})

    async def does(request: Request):
        result = await run_in_threadpool(site.does[request.path_params["name"]], request.session)
        return JSONResponse(result or {})

    async def stream(request: Request):
        return StreamingResponse(site.does[request.path_params["name"]](request.session))

    async def late(request: Request):
        after = BackgroundTask(site.does[request.path_params["name"]], None)
        return JSONResponse({}, background=after)

    async def callback(request: Request):
        values = dict(request.query_params) | dict(await request.form())
        return RedirectResponse(_signs_in(site, request.session, request.method, values), 303)

    async def web_socket(socket: WebSocket):
        await socket.accept()
        await socket.send_json({"user": (socket.session.get("user") or {}).get("sub")})
        async for text in socket.iter_text():
            await socket.send_text(text)

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
            Route("/echo", echo),
            Route("/picture", picture),
            Route("/does/{name}", does, methods=["GET", "POST"]),
            Route("/stream/{name}", stream),
            Route("/late/{name}", late),
            Route("/callback", callback, methods=["GET", "POST"]),
            WebSocketRoute("/socket", web_socket),
            Route("/logout", logout, methods=["GET", "POST"]),
            Route("/", index, methods=["GET", "POST"]),
        ],
        middleware=middleware,
    )
    return app, ASGISession(kept), records


def _signs_in(site, session, method, values):
    """Answer an authorization response: sign in, or first come back by GET, with the cookies that a POST lacks."""
    if method == "POST" and site.redirects_forms:
        return "/callback?" + urlencode({name: values[name] for name in ("code", "state")})
    if values.get("code") in site.codes:
        session["user"] = site.codes.pop(values["code"])
    return "/me"


KINDS = {
    "flask, signed cookie": lambda site: flask_app(site, server_side=False),
    "flask-session": lambda site: flask_app(site, server_side=True),
    "starlette, signed cookie": lambda site: starlette_app(site, server_side=False),
    "starsessions": lambda site: starlette_app(site, server_side=True),
}
