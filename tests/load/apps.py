"""The app under load: it signs people in and calls real MSAL, and each answer says which worker gave it."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msal
from cachelib import FileSystemCache
from flask import Flask, request, session
from flask_session import Session as FlaskServerSession
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from msal_logout_middleware import Logout, Provider, asgi, upkeep, wsgi
from msal_logout_middleware.errors import StoreError
from msal_logout_middleware.grants import decode
from msal_logout_middleware.sessions.asgi import ASGISession
from msal_logout_middleware.sessions.flask import FlaskSession
from msal_logout_middleware.stores import Ended, Ending
from msal_logout_middleware.stores.sqlite import SQLiteStore
from tests.load.watching import watch_from_a_task, watch_from_a_thread
from tests.races.token_endpoint import Endpoint, User, jwt, silent

SECRET = "a secret that only the load knows"
TIMES_AS_FAST = 20  # the store's clock, so that the lease of a worker that was killed is soon over


@dataclass(frozen=True)
class Setting:
    """What a worker has from its environment.

    Args:
        kind: `flask`, `flask-session`, `starlette`, or `starlette-threads`, where the store is a synchronous one.
        directory: Where the store and the sessions are.
        began_at: From when on the store's clock runs faster, in seconds since 1970.
        discovery: Where the provider's metadata are.
        issuer: The provider's `iss`.
        client_id: The app's client id.
        ca_file: Who the provider's certificate is from.
        url: The server that all machines share, or the Sentinel that watches it; empty where the store is a file.
        bound_seconds: For how long that store's workers may not hear of a sign-out.
        timeout_seconds: How long they wait for the server.
        retry_seconds: How long a sign-out tries again what fails.
    """

    kind: str
    directory: str
    began_at: float
    discovery: str
    issuer: str
    client_id: str
    ca_file: str
    url: str = ""
    bound_seconds: float = 1.0
    timeout_seconds: float = 2.0
    retry_seconds: float = 2.0

    @property
    def is_asgi(self) -> bool:
        return self.kind.startswith("starlette")

    def for_a_process(self) -> dict[str, str]:
        """The environment of a server process."""
        return {**os.environ, "LOAD": json.dumps(asdict(self)), "PYTHONWARNINGS": "ignore"}

    @classmethod
    def of_this_process(cls) -> Setting:
        return cls(**json.loads(os.environ["LOAD"]))

    def store(self) -> Any:
        return doomed(self._store(), Path(self.directory))

    def _store(self) -> Any:
        is_async = self.kind == "starlette"
        times = {"bound_seconds": self.bound_seconds, "timeout_seconds": self.timeout_seconds}
        if not self.url:
            path = Path(self.directory) / "logout.db"
            return SQLiteStore(path, clock=self.clock, busy_timeout_seconds=5)
        if self.url.startswith(
            ("redis", "sentinel")
        ):  # each imported only where it is needed: they take as long as all the rest
            import redis.asyncio
            import redis.sentinel

            from msal_logout_middleware.stores.redis import RedisStore

            if self.url.startswith("sentinel"):
                client = self._primary(redis.asyncio.sentinel if is_async else redis.sentinel)
            else:
                client = redis.asyncio.Redis.from_url(self.url) if is_async else self.url
            return RedisStore(client, clock=self.clock, wait_seconds=self.timeout_seconds / 2, **times)
        from msal_logout_middleware.stores.sqlalchemy import SQLAlchemyStore

        driver = "asyncpg" if is_async else "psycopg"
        url = self.url.replace("postgresql", f"postgresql+{driver}")
        return SQLAlchemyStore(url, clock=self.clock, **times)

    def _primary(self, clients: Any) -> Any:
        """Return a client that has a Sentinel lead it to whichever server is the primary."""
        where, options = urlsplit(self.url), {"socket_timeout": self.timeout_seconds}
        sentinel = clients.Sentinel([(where.hostname, where.port)], **options)
        return sentinel.master_for("primary", **options)

    def clock(self) -> float:
        return self.began_at + (time.time() - self.began_at) * TIMES_AS_FAST

    def claims(self, number: int) -> dict[str, Any]:
        """The ID token claims of a user, but for those that each sign-in has of its own."""
        return {**User(number).claims, "iss": self.issuer, "sid": f"sid-{number}"}


def doomed(store: Any, directory: Path) -> Any:
    """Have a worker killed when its store has ended a session and nothing else is done, if its doom is there."""
    end: Callable[[Ending], Any] = store.end

    def may_die(ended: Ended) -> Ended:
        if ended.records:
            doom = directory / "doom"
            with suppress(FileNotFoundError):  # nobody is to die, or another worker has
                doom.rename(doom.with_name(f"killed-{os.getpid()}"))
                os.kill(os.getpid(), signal.SIGKILL)
        return ended

    async def end_on_the_loop(ending: Ending) -> Ended:
        return may_die(await end(ending))

    store.end = end_on_the_loop if getattr(store, "is_async", False) else lambda ending: may_die(end(ending))
    return store


class TokenEndpoint(Endpoint):
    """Issues the tokens of the provider that signs people out."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(prefix=f"{os.getpid()}-")
        self._setting = setting

    def tokens(self, user: User | None, scope: str) -> dict[str, Any]:
        tokens = super().tokens(user, scope)
        claims = {**(decode(tokens["id_token"]) or {}), **self._setting.claims(user.number if user else 0)}
        return tokens | {"id_token": jwt(claims)}


class Desk:
    """What the views of both apps do: all that they say of a session is whose it is."""

    def __init__(self, setting: Setting, session: Any) -> None:
        self.logout = Logout(
            provider=Provider.discover(setting.discovery, setting.client_id, verify=setting.ca_file),
            session=session,
            store=setting.store(),
            secret=SECRET,
            retry_seconds=setting.retry_seconds,
            post_logout_redirect_uri="http://localhost/",
        )
        self._endpoint = TokenEndpoint(setting)

    def sign_in(self, cache: msal.TokenCache, session: Any, number: int) -> None:
        session["user"] = self._endpoint.sign_in(cache, User(number))["id_token_claims"]

    def call(self, cache: msal.TokenCache, session: Any) -> bool:
        """Have real MSAL get and save new tokens, as an app does that calls an API; whether it could."""
        app: msal.ConfidentialClientApplication = self._endpoint.app(cache)
        return bool(silent(app, User(int(session["user"]["sub"].partition("-")[2])), force_refresh=True))

    def answer(self, session: Any, **more: Any) -> dict[str, Any]:
        return {"pid": os.getpid(), "sub": session.get("user", {}).get("sub"), **more}


def flask_app(setting: Setting) -> tuple[Any, Logout]:
    app = Flask("load")
    app.config.update(SECRET_KEY=SECRET)
    if setting.kind == "flask-session":
        records = FileSystemCache(str(Path(setting.directory) / "sessions"), threshold=0)
        app.config.update(SESSION_TYPE="cachelib", SESSION_CACHELIB=records)
        FlaskServerSession(app)
    desk = Desk(setting, FlaskSession(app))

    @app.post("/sign-in")
    def sign_in():
        with desk.logout.token_cache() as cache:
            desk.sign_in(cache, session, int(request.args["user"]))
        return desk.answer(session)

    @app.get("/me")
    def me():
        return desk.answer(session)

    @app.get("/call")
    def call():
        if "user" not in session:
            return desk.answer(session, token=False)
        with desk.logout.token_cache(session["user"]) as cache:
            has_token = desk.call(cache, session)
        return desk.answer(session, token=has_token)

    @app.get("/count")
    def count():
        if "user" in session:
            session["count"] = session.get("count", 0) + 1
        return desk.answer(session)

    @app.errorhandler(StoreError)
    def unavailable(_error: StoreError):
        return {}, 503

    app.wsgi_app = wsgi.LogoutMiddleware(app.wsgi_app, desk.logout)
    return app, desk.logout


def starlette_app(setting: Setting) -> tuple[Any, Logout]:
    kept = Middleware(SessionMiddleware, secret_key=SECRET)
    desk = Desk(setting, ASGISession(kept))

    async def sign_in(request: Request):
        async with desk.logout.token_cache() as cache:
            await run_in_threadpool(desk.sign_in, cache, request.session, int(request.query_params["user"]))
        return JSONResponse(desk.answer(request.session))

    async def me(request: Request):
        return JSONResponse(desk.answer(request.session))

    async def call(request: Request):
        if "user" not in request.session:
            return JSONResponse(desk.answer(request.session, token=False))
        async with desk.logout.token_cache(request.session["user"]) as cache:
            has_token = await run_in_threadpool(desk.call, cache, request.session)
        return JSONResponse(desk.answer(request.session, token=has_token))

    async def count(request: Request):
        if "user" in request.session:
            request.session["count"] = request.session.get("count", 0) + 1
        return JSONResponse(desk.answer(request.session))

    routes = [
        Route("/sign-in", sign_in, methods=["POST"]),
        *(Route(f"/{view.__name__}", view) for view in (me, call, count)),
    ]

    async def unavailable(_request: Request, _error: Exception):
        return JSONResponse({}, 503)

    app = Starlette(routes=routes, middleware=[kept], exception_handlers={StoreError: unavailable})
    app.add_middleware(asgi.LogoutMiddleware, logout=desk.logout)
    return app, desk.logout


def app_of(setting: Setting) -> tuple[Any, Logout]:
    return starlette_app(setting) if setting.is_asgi else flask_app(setting)


def app_of_this_process() -> Any:
    """What the servers serve."""
    upkeep.INTERVAL_SECONDS = 0.2
    setting = Setting.of_this_process()
    app, _ = app_of(setting)
    if setting.url:
        watch = watch_from_a_task if setting.is_asgi else watch_from_a_thread
        watch(app, Path(setting.directory))
    return app
