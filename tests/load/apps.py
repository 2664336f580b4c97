"""The app under load: it signs people in and calls real MSAL, and each answer says which worker gave it."""

from __future__ import annotations

import json
import os
import signal
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

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
from msal_logout_middleware.grants import decode
from msal_logout_middleware.sessions.asgi import ASGISession
from msal_logout_middleware.sessions.flask import FlaskSession
from msal_logout_middleware.stores import Ended, Ending
from msal_logout_middleware.stores.sqlite import SQLiteStore
from tests.races.token_endpoint import Endpoint, User, jwt, silent

SECRET = "a secret that only the load knows"
TIMES_AS_FAST = 20  # the store's clock, so that the lease of a worker that was killed is soon over


@dataclass(frozen=True)
class Setting:
    """What a worker has from its environment.

    Args:
        kind: `flask`, `flask-session` or `starlette`.
        directory: Where the store and the sessions are.
        began_at: From when on the store's clock runs faster, in seconds since 1970.
        discovery: Where the provider's metadata are.
        issuer: The provider's `iss`.
        client_id: The app's client id.
        ca_file: Who the provider's certificate is from.
    """

    kind: str
    directory: str
    began_at: float
    discovery: str
    issuer: str
    client_id: str
    ca_file: str

    def for_a_process(self) -> dict[str, str]:
        """The environment of a server process."""
        return {**os.environ, "LOAD": json.dumps(asdict(self)), "PYTHONWARNINGS": "ignore"}

    @classmethod
    def of_this_process(cls) -> Setting:
        return cls(**json.loads(os.environ["LOAD"]))

    def store(self) -> SQLiteStore:
        path = Path(self.directory) / "logout.db"
        return DoomedStore(path, clock=self.clock, busy_timeout_seconds=5)

    def clock(self) -> float:
        return self.began_at + (time.time() - self.began_at) * TIMES_AS_FAST

    def claims(self, number: int) -> dict[str, Any]:
        """The ID token claims of a user, but for those that each sign-in has of its own."""
        return {**User(number).claims, "iss": self.issuer, "sid": f"sid-{number}"}


class DoomedStore(SQLiteStore):
    """A store whose worker is killed when it has written a mark and nothing else, if its doom is there."""

    def end(self, ending: Ending) -> Ended:
        ended = super().end(ending)
        if ended.row is not None:
            doom = self._path.with_name("doom")
            with suppress(FileNotFoundError):  # nobody is to die, or another worker has
                doom.rename(doom.with_name(f"killed-{os.getpid()}"))
                os.kill(os.getpid(), signal.SIGKILL)
        return ended


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
            post_logout_redirect_uri="http://localhost/",
        )
        self._endpoint = TokenEndpoint(setting)

    def sign_in(self, session: Any, number: int) -> None:
        with self.logout.token_cache() as cache:
            session["user"] = self._endpoint.sign_in(cache, User(number))["id_token_claims"]

    def call(self, session: Any) -> bool:
        """Have real MSAL get and save new tokens, as an app does that calls an API; whether it could."""
        claims = session["user"]
        with self.logout.token_cache(claims) as cache:
            app: msal.ConfidentialClientApplication = self._endpoint.app(cache)
            return bool(silent(app, User(int(claims["sub"].partition("-")[2])), force_refresh=True))

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
        desk.sign_in(session, int(request.args["user"]))
        return desk.answer(session)

    @app.get("/me")
    def me():
        return desk.answer(session)

    @app.get("/call")
    def call():
        return desk.answer(session, token="user" in session and desk.call(session))

    @app.get("/count")
    def count():
        if "user" in session:
            session["count"] = session.get("count", 0) + 1
        return desk.answer(session)

    app.wsgi_app = wsgi.LogoutMiddleware(app.wsgi_app, desk.logout)
    return app, desk.logout


def starlette_app(setting: Setting) -> tuple[Any, Logout]:
    kept = Middleware(SessionMiddleware, secret_key=SECRET)
    desk = Desk(setting, ASGISession(kept))

    async def sign_in(request: Request):
        await run_in_threadpool(desk.sign_in, request.session, int(request.query_params["user"]))
        return JSONResponse(desk.answer(request.session))

    async def me(request: Request):
        return JSONResponse(desk.answer(request.session))

    async def call(request: Request):
        has_token = "user" in request.session and await run_in_threadpool(desk.call, request.session)
        return JSONResponse(desk.answer(request.session, token=has_token))

    async def count(request: Request):
        if "user" in request.session:
            request.session["count"] = request.session.get("count", 0) + 1
        return JSONResponse(desk.answer(request.session))

    routes = [
        Route("/sign-in", sign_in, methods=["POST"]),
        *(Route(f"/{view.__name__}", view) for view in (me, call, count)),
    ]
    app = Starlette(routes=routes, middleware=[kept])
    app.add_middleware(asgi.LogoutMiddleware, logout=desk.logout)
    return app, desk.logout


def app_of(setting: Setting) -> tuple[Any, Logout]:
    return starlette_app(setting) if setting.kind == "starlette" else flask_app(setting)


def app_of_this_process() -> Any:
    """What the servers serve."""
    upkeep.INTERVAL_SECONDS = 0.2
    return app_of(Setting.of_this_process())[0]
