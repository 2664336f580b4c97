"""Measures whole logout requests that a provider makes, through real servers: the CPU time of the server for each.

    python -m bench.whole_requests [--quick]

Each ends a session of its own, which was signed in before. Beside them, on the same server, a view of Starlette's or
Flask's that clears its session and redirects to the provider, as the samples for MSAL do. All requests come over
connections of their own, as from browsers. All take turns; the A/A row shows what the figures are worth. Ends with 3
if a bound is broken.
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
from contextlib import contextmanager
from http.client import HTTPConnection
from itertools import count
from typing import Any
from urllib.parse import urlencode

from flask import Flask, redirect, request, session, url_for
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
from msal_logout_middleware import Logout, MemoryStore, Provider, SQLiteStore, asgi, wsgi
from msal_logout_middleware.logout_token import LOGOUT_EVENT
from msal_logout_middleware.sessions.flask import FlaskSession
from msal_logout_middleware.testing.signing import SigningKeys

REQUESTS = 50  # in each turn
BOUND = {"ratio": 1.1}
END_SESSION = "https://login.microsoftonline.com/common/oauth2/v2.0/logout"
ISS = claims_of(0)["iss"]
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
FRONT, BACK = "front-channel logout", "back-channel logout"

# In the server's process


def configured(session_reader: Any) -> Logout:
    metadata = {
        "issuer": ISS,
        "jwks_uri": os.environ["BENCH_KEYS"],
        "end_session_endpoint": END_SESSION,
    }
    path = os.environ["BENCH_STORE"]
    gc.freeze()
    store = SQLiteStore(path) if path else MemoryStore()
    return logout_of(store, session_reader, provider=Provider.from_metadata(metadata, CLIENT_ID))


def asgi_site() -> Any:
    async def sign_in(request: Request) -> Response:
        request.session["user"] = claims_of(int(request.query_params["number"]))
        return PlainTextResponse("hello")

    async def clear(request: Request) -> Response:
        request.session.clear()
        back = request.url_for("sign_in")
        return RedirectResponse(f"{END_SESSION}?post_logout_redirect_uri={back}", 303)

    async def cpu(request: Request) -> Response:
        return PlainTextResponse(str(time.process_time()))

    routes = [Route("/sign-in", sign_in), Route("/clear", clear), Route("/cpu", cpu)]
    bare = Starlette(routes=routes, middleware=[SESSION])
    wrapped = asgi.LogoutMiddleware(bare, configured(None))

    async def site(scope: Any, receive: Any, send: Any) -> None:
        await (bare if scope["type"] == "http" and scope["path"] == "/clear" else wrapped)(
            scope, receive, send
        )

    return site


def wsgi_site() -> Any:
    app = Flask(__name__)
    app.secret_key = SECRET

    @app.get("/sign-in")
    def sign_in() -> str:
        session["user"] = claims_of(int(request.args["number"]))
        return "hello"

    @app.get("/clear")
    def clear() -> Any:
        session.clear()
        back = url_for("sign_in", _external=True)
        return redirect(f"{END_SESSION}?post_logout_redirect_uri={back}", 303)

    @app.get("/cpu")
    def cpu() -> str:
        return str(time.process_time())

    bare = app.wsgi_app
    wrapped = wsgi.LogoutMiddleware(bare, configured(FlaskSession(app)))
    return lambda environ, start_response: (bare if environ["PATH_INFO"] == "/clear" else wrapped)(
        environ, start_response
    )


# In this one


class Server:
    """A server process with one worker, as its users start it."""

    def __init__(self, name: str, store_path: str, keys_url: str) -> None:
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
            environment = os.environ | {"BENCH_STORE": store_path, "BENCH_KEYS": keys_url}
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

    def sign_in(self) -> tuple[int, str]:
        """Sign somebody in who never was, and return who it is, with their cookie."""
        number = next(self._users)
        status, cookie, _ = self.send(f"/sign-in?number={number}")
        if status != 200:
            raise SystemExit(f"a sign-in was answered with {status}")
        return number, cookie.partition(";")[0]

    def way(self, requests: Any, expected: int) -> Way:
        """Return a way to send the requests that are made of sign-ins."""

        def way() -> float:
            prepared = [requests(*self.sign_in()) for _ in range(REQUESTS)]
            before = self.cpu_seconds()
            for path, more in prepared:
                status, _, body = self.send(path, **more)
                if status != expected:
                    raise SystemExit(f"{path} was answered with {status}: {body}")
            return (self.cpu_seconds() - before) / REQUESTS * 1e6

        return way


def cleared(_number: int, cookie: str) -> tuple[str, dict[str, Any]]:
    return "/clear", {"headers": {"Cookie": cookie}}


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
    with tempfile.TemporaryDirectory() as folder:
        key_server = Served(keys.jwks)
        server = Server(name, f"{folder}/logout.db" if store == "SQLiteStore" else "", key_server.url)
        try:
            yield server
        finally:
            server.close()
            key_server.close()


def main() -> int:
    """Measure, print, and tell by the exit status whether the bounds were kept."""
    rounds = 5 if is_quick(__doc__) else 60
    keys, kept = SigningKeys(), []
    for name, framework in (("uvicorn", "Starlette"), ("gunicorn", "Flask")):
        for store in ("MemoryStore", "SQLiteStore"):
            with serving(name, store, keys) as server:
                view = f"{framework} view that clears its session"
                ways = {
                    view: server.way(cleared, 303),
                    view + AGAIN: server.way(cleared, 303),
                    FRONT: server.way(front_channel, 200),
                    BACK: server.way(back_channel(keys), 200),
                }
                take_turns(ways, 1)  # everything is warm from now on
                figures = take_turns(ways, rounds)
            table = Table(f"{name}, {store}: us of the server's CPU time for a request", "us")
            table.rows(figures, baseline=view, bounds={FRONT: BOUND} if store == "MemoryStore" else {})
            kept.append(table.kept)
    return status(kept=all(kept))


if __name__ == "__main__":
    sys.exit(main())
