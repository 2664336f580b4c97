"""Measures whole logout requests that a provider makes, through real servers: the CPU time of the server for each.

    python -m bench.whole_requests [--quick]

Each ends a session of its own, which was signed in before. Beside them, on the same server, a view of Starlette's or
Flask's that clears its session and redirects to the provider, as the samples for MSAL do; over Redis also one that
makes a single round trip before, which says what no logout over Redis can do without; and a bare function that calls
the store's `end` and answers, without all that makes a logout of it. All requests come over connections of their own,
as from browsers. All take turns; the A/A row shows what the figures are worth. Over Redis
each user has a token cache in the store, too, and beside it stands the logout of `identity`, whose sessions
Flask-Session keeps there with the token cache in them. Ends with 3 if a bound is broken.
"""

# ruff: noqa: D102, D103
from __future__ import annotations

import gc
import os
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from itertools import count
from typing import Any
from urllib.parse import urlencode

import redis
import redis.asyncio
from flask import Flask, redirect, request, session, url_for
from identity.flask import Auth
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from bench.logout_token import Served
from bench.measuring import (
    AGAIN,
    CLIENT_ID,
    HEADERS,
    SECRET,
    SESSION,
    Table,
    Way,
    claims_of,
    is_quick,
    logout_of,
    status,
    take_turns,
)
from bench.shared_cache import signed_in
from msal_logout_middleware import Logout, MemoryStore, Provider, SQLiteStore, asgi, wsgi
from msal_logout_middleware._drive import settle
from msal_logout_middleware.caches import home_account_id
from msal_logout_middleware.logout_token import LOGOUT_EVENT
from msal_logout_middleware.records import key
from msal_logout_middleware.sessions.flask import FlaskSession
from msal_logout_middleware.stores import Ending
from msal_logout_middleware.stores.redis import RedisStore
from msal_logout_middleware.testing.signing import SigningKeys
from tests.stores.servers import serving as redis_server

REQUESTS = 50  # in each turn
BOUND = {"ratio": 1.1}
END_SESSION = "https://login.microsoftonline.com/common/oauth2/v2.0/logout"
ISS = claims_of(0)["iss"]
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
FRONT, BACK = "front-channel logout", "back-channel logout"
ASKING = "the view, which asks the server once"
ENDING = "a function that calls `end` and answers"
IDENTITY = "logout of identity"
IDENTITY_SIGN_IN, IDENTITY_LOGOUT = "/identity/sign-in", "/identity/logout"
END_ONLY = "/end-only"
HALF = {"ratio": 0.5}

# In the server's process


def configured(session_reader: Any) -> Logout:
    metadata = {
        "issuer": ISS,
        "jwks_uri": os.environ["BENCH_KEYS"],
        "end_session_endpoint": END_SESSION,
    }
    where = os.environ["BENCH_STORE"]
    gc.freeze()
    store: Any = MemoryStore()
    if where.startswith("redis://"):
        store = RedisStore(redis.asyncio.Redis.from_url(where) if session_reader is None else where)
    elif where:
        store = SQLiteStore(where)
    return logout_of(store, session_reader, provider=Provider.from_metadata(metadata, CLIENT_ID))


def asgi_site() -> Any:
    async def sign_in(request: Request) -> Response:
        number = int(request.query_params["number"])
        request.session["user"] = claims_of(number)
        if isinstance(logout.configuration.store, RedisStore):
            await settle(logout.configuration.store.replace(*token_cache_of(number)))
        return PlainTextResponse("hello")

    async def clear(request: Request) -> Response:
        request.session.clear()
        back = request.url_for("sign_in")
        return RedirectResponse(f"{END_SESSION}?post_logout_redirect_uri={back}", 303)

    async def ask_and_clear(request: Request) -> Response:
        await settle(logout.configuration.store.get("nobody"))
        return await clear(request)

    async def cpu(request: Request) -> Response:
        return PlainTextResponse(str(time.process_time()))

    views = {"/sign-in": sign_in, "/clear": clear, "/ask-and-clear": ask_and_clear, "/cpu": cpu}
    routes = [Route(path, view) for path, view in views.items()]
    bare = Starlette(routes=routes, middleware=[SESSION])
    logout = configured(None)
    wrapped = asgi.LogoutMiddleware(bare, logout)

    async def end_only(query: bytes, send: Any) -> None:
        await settle(logout.configuration.store.end(ending_of(logout, query.decode())))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    async def site(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"] == END_ONLY:
            return await end_only(scope["query_string"], send)
        is_bare = scope["type"] == "http" and scope["path"] in ("/clear", "/ask-and-clear")
        return await (bare if is_bare else wrapped)(scope, receive, send)

    return site


def wsgi_site() -> Any:
    app = Flask(__name__)
    app.secret_key = SECRET

    @app.get("/sign-in")
    def sign_in() -> str:
        number = int(request.args["number"])
        session["user"] = claims_of(number)
        if isinstance(logout.configuration.store, RedisStore):
            logout.configuration.store.replace(*token_cache_of(number))
        return "hello"

    @app.get("/clear")
    def clear() -> Any:
        session.clear()
        back = url_for("sign_in", _external=True)
        return redirect(f"{END_SESSION}?post_logout_redirect_uri={back}", 303)

    @app.get("/ask-and-clear")
    def ask_and_clear() -> Any:
        logout.configuration.store.get("nobody")
        return clear()

    @app.get("/cpu")
    def cpu() -> str:
        return str(time.process_time())

    logout = configured(FlaskSession(app))
    bare = app.wsgi_app
    sites = {"/clear": bare, "/ask-and-clear": bare}
    if isinstance(logout.configuration.store, RedisStore):
        sites |= dict.fromkeys((IDENTITY_SIGN_IN, IDENTITY_LOGOUT), identity_app(os.environ["BENCH_STORE"]))
    wrapped = wsgi.LogoutMiddleware(bare, logout)

    def end_only(environ: Any, start_response: Any) -> list[bytes]:
        logout.configuration.store.end(ending_of(logout, environ["QUERY_STRING"]))
        start_response("200 OK", [("Content-Length", "0")])
        return [b""]

    sites[END_ONLY] = end_only
    return lambda environ, start_response: sites.get(environ["PATH_INFO"], wrapped)(environ, start_response)


def ending_of(logout: Logout, query: str) -> Ending:
    """Return what a front-channel logout of a `sid` writes."""
    found_by = key(logout.configuration.seal, iss=ISS, sid=query.removeprefix("sid="))
    return Ending(found_by=found_by, expires_at=time.time() + 86_400, work=b"sealed", drops=True)


def identity_app(redis_url: str) -> Any:
    app = Flask(__name__)
    app.config |= {"SESSION_TYPE": "redis", "SESSION_REDIS": redis.Redis.from_url(redis_url)}
    redirect_uri = f"http://localhost{IDENTITY_LOGOUT.replace('logout', 'redirect')}"
    Auth(app, oidc_authority=os.environ["BENCH_METADATA"], client_id=CLIENT_ID, redirect_uri=redirect_uri)

    @app.get(IDENTITY_SIGN_IN)
    def sign_in() -> str:
        number = int(request.args["number"])
        session["_logged_in_user"] = claims_of(number)
        session["_token_cache"] = token_cache_of(number)[2].decode()
        return "hello"

    return app.wsgi_app


def token_cache_of(number: int) -> tuple[str, str, bytes]:
    """Return what `replace` is called with when a user signs in for the first time."""
    return home_account_id(claims_of(number)), "", signed_in(number).serialize().encode()


# In this one


class Server:
    """A server process with one worker, as its users start it."""

    def __init__(self, name: str, store: str, keys_url: str, metadata_url: str) -> None:
        with socket.create_server(("127.0.0.1", 0), backlog=128) as listening:
            self.port = listening.getsockname()[1]
            descriptor = listening.fileno()
            command = {
                "uvicorn": [
                    "uvicorn",
                    "--factory",
                    "bench.whole_requests:asgi_site",
                    "--fd",
                    str(descriptor),
                ],
                "gunicorn": ["gunicorn", "bench.whole_requests:wsgi_site()", "--bind", f"fd://{descriptor}"],
            }[name]
            environment = os.environ | {
                "BENCH_STORE": store,
                "BENCH_KEYS": keys_url,
                "BENCH_METADATA": metadata_url,
            }
            self._process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-m", *command],
                env=environment,
                pass_fds=[descriptor],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        self._users = count()

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()

    def send(
        self,
        path: str,
        *,
        method: str = "GET",
        body: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, str, str]:
        """Return status, `Set-Cookie` and body of an answer to a request over a connection of its own."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(method, path, body, HEADERS | (headers or {}))
        answer = connection.getresponse()
        found = answer.status, answer.getheader("Set-Cookie", ""), answer.read().decode()
        connection.close()
        return found

    def cpu_seconds(self) -> float:
        return float(self.send("/cpu")[2])

    def sign_in(self, path: str = "/sign-in") -> tuple[int, str]:
        """Sign somebody in who never was, and return who it is, with their cookie."""
        number = next(self._users)
        status, cookie, _ = self.send(f"{path}?number={number}")
        if status != 200:
            raise SystemExit(f"a sign-in was answered with {status}")
        return number, cookie.partition(";")[0]

    def way(self, requests: Any, expected: int, sign_in: str = "/sign-in") -> Way:
        """Return a way to send the requests that are made of sign-ins."""

        def way() -> float:
            prepared = [requests(*self.sign_in(sign_in)) for _ in range(REQUESTS)]
            before = self.cpu_seconds()
            for path, more in prepared:
                status, _, body = self.send(path, **more)
                if status != expected:
                    raise SystemExit(f"{path} was answered with {status}: {body}")
            return (self.cpu_seconds() - before) / REQUESTS * 1e6

        return way


def cleared(_number: int, cookie: str) -> tuple[str, dict[str, Any]]:
    return "/clear", {"headers": {"Cookie": cookie}}


def asked_and_cleared(_number: int, cookie: str) -> tuple[str, dict[str, Any]]:
    return "/ask-and-clear", {"headers": {"Cookie": cookie}}


def identity_logout(_number: int, cookie: str) -> tuple[str, dict[str, Any]]:
    return IDENTITY_LOGOUT, {"headers": {"Cookie": cookie}}


def ended_only(number: int, _cookie: str) -> tuple[str, dict[str, Any]]:
    return f"{END_ONLY}?" + urlencode({"sid": claims_of(number)["sid"]}), {}


def front_channel(number: int, _cookie: str) -> tuple[str, dict[str, Any]]:
    return "/logout/front-channel?" + urlencode({"sid": claims_of(number)["sid"]}), {}  # as Entra ID calls


def back_channel(keys: SigningKeys) -> Any:
    def requests(number: int, _cookie: str) -> tuple[str, dict[str, Any]]:
        claims = {name: claims_of(number)[name] for name in ("iss", "aud", "sub", "sid")}
        now, event = int(time.time()), {LOGOUT_EVENT: {}}
        claims |= {"iat": now, "exp": now + 120, "jti": str(uuid.uuid4()), "events": event}
        form = urlencode({"logout_token": keys.sign(claims, header={"typ": "logout+jwt"})})
        return "/logout/back-channel", {"method": "POST", "body": form, "headers": FORM}

    return requests


@contextmanager
def serving(name: str, store: str, keys: SigningKeys) -> Iterator[Server]:
    with ExitStack() as stack:
        where = ""
        if store == "SQLiteStore":
            where = f"{stack.enter_context(tempfile.TemporaryDirectory())}/logout.db"
        elif store == "RedisStore":
            where = stack.enter_context(redis_server()).url
        key_server = Served(keys.jwks)
        stack.callback(key_server.close)
        metadata = Served({"end_session_endpoint": END_SESSION})
        stack.callback(metadata.close)
        server = Server(name, where, key_server.url, metadata.url)
        stack.callback(server.close)
        yield server


def main() -> int:
    """Measure, print, and tell by the exit status whether the bounds were kept."""
    rounds = 5 if is_quick(__doc__) else 60
    keys, kept = SigningKeys(), []
    for name, framework in (("uvicorn", "Starlette"), ("gunicorn", "Flask")):
        for store in ("MemoryStore", "SQLiteStore", "RedisStore"):
            with serving(name, store, keys) as server:
                view = f"{framework} view that clears its session"
                ways = {
                    view: server.way(cleared, 303),
                    view + AGAIN: server.way(cleared, 303),
                    FRONT: server.way(front_channel, 200),
                    BACK: server.way(back_channel(keys), 200),
                }
                if store == "RedisStore":
                    ways[ASKING] = server.way(asked_and_cleared, 303)
                    ways[ENDING] = server.way(ended_only, 200)
                if (name, store) == ("gunicorn", "RedisStore"):
                    for again in ("", AGAIN):
                        ways[IDENTITY + again] = server.way(identity_logout, 302, IDENTITY_SIGN_IN)
                take_turns(ways, 1)  # everything is warm from now on
                figures = take_turns(ways, rounds)
            table = Table(f"{name}, {store}: us of the server's CPU time for a request", "us")
            is_judged = store == "MemoryStore" or (name, store) == ("uvicorn", "RedisStore")
            table.rows(figures, baseline=view, bounds={FRONT: BOUND} if is_judged else {})
            kept.append(table.kept)
            if IDENTITY in ways:
                against = Table(f"{name}, {store}: the same beside `identity`", "us")
                compared = {way: figures[way] for way in (IDENTITY, IDENTITY + AGAIN, ENDING, FRONT)}
                against.rows(compared, baseline=IDENTITY, bounds={FRONT: HALF})
                kept.append(against.kept)
    return status(kept=all(kept))


if __name__ == "__main__":
    sys.exit(main())
