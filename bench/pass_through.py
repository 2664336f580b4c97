"""Measures what a request costs that is not ours, while nothing has ended.

    python -m bench.pass_through [--quick]

Beside it a wrapper that wraps `send` (WSGI: `start_response`) and does nothing else. Where `valgrind` is installed,
instructions are counted, which are the same each time; otherwise CPU time is measured, and the A/A row shows what
that is worth. Ends with 3 if a bound is broken.
"""

# ruff: noqa: D102, D103, S603
from __future__ import annotations

import asyncio
import gc
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from flask import Flask

from bench.measuring import (
    AGAIN,
    HEADERS,
    SECRET,
    Nothing,
    Table,
    Way,
    claims_of,
    cookie_header,
    is_quick,
    logout_of,
    receive,
    scopes,
    send,
    session_cookie,
    starlette_app,
    status,
    take_turns,
)
from msal_logout_middleware import MemoryStore, asgi, wsgi
from msal_logout_middleware.sessions.flask import FlaskSession

REQUESTS = 100  # in each turn
UNDER_VALGRIND = "BENCH_ROUNDS_UNDER_VALGRIND"
BOUND = {"ratio": 1.2}
Meter = Callable[[], float]

BASELINE, OURS = "wrapper that does nothing", "LogoutMiddleware"
COOKIES = {
    "no cookies": None,
    "12 cookies": cookie_header(session_cookie(claims_of(0)).replace("session", "else")),
}


class NothingForWSGI:
    """A middleware that wraps `start_response` and does nothing else."""

    def __init__(self, app: Any) -> None:
        self.app = app

    def __call__(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        def wrapped(status: str, headers: Any, exc_info: Any = None) -> Any:
            return start_response(status, headers, exc_info)

        return self.app(environ, wrapped)


def flask_app() -> Flask:
    app = Flask(__name__)
    app.secret_key = SECRET
    app.add_url_rule("/", view_func=lambda: "hello")
    return app


def environs(cookie: str | None) -> list[dict[str, Any]]:
    headers = {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in HEADERS.items()}
    request = {
        **headers,
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/",
        "QUERY_STRING": "",
        "SERVER_NAME": "app.example.com",
        "SERVER_PORT": "443",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.url_scheme": "https",
        "wsgi.errors": sys.stderr,
    }
    # Bytes of their own, as a server reads them.
    return [
        request | ({"HTTP_COOKIE": cookie.encode().decode("latin-1")} if cookie else {})
        for _ in range(REQUESTS)
    ]


def through_asgi(runner: asyncio.Runner, app: Any, cookie: str | None, meter: Meter) -> Way:
    async def serve(requests: list[dict[str, Any]]) -> float:
        before = meter()
        for scope in requests:
            await app(scope, receive, send)
        return (meter() - before) / REQUESTS

    return lambda: runner.run(serve(scopes(cookie, REQUESTS)))


def through_wsgi(app: Any, cookie: str | None, meter: Meter) -> Way:
    def start_response(_status: str, _headers: Any, _exc_info: Any = None) -> None:
        """Start nothing."""

    def serve() -> float:
        requests = environs(cookie)
        before = meter()
        for environ in requests:
            chunks = app(environ, start_response)
            b"".join(chunks)
            chunks.close()
        return (meter() - before) / REQUESTS

    return serve


def rows_of(runner: asyncio.Runner, meter: Meter) -> dict[str, dict[str, Way]]:
    """Return for each row of requests all ways to serve them."""
    star, flask = starlette_app(), flask_app()
    asgi_ours = asgi.LogoutMiddleware(star, logout_of(MemoryStore()))
    wsgi_ours = wsgi.LogoutMiddleware(flask.wsgi_app, logout_of(MemoryStore(), FlaskSession(flask)))
    found = {}
    for what, cookie in COOKIES.items():
        found[f"ASGI, Starlette, {what}"] = {
            BASELINE: through_asgi(runner, Nothing(star), cookie, meter),
            BASELINE + AGAIN: through_asgi(runner, Nothing(star), cookie, meter),
            OURS: through_asgi(runner, asgi_ours, cookie, meter),
        }
        found[f"WSGI, Flask, {what}"] = {
            BASELINE: through_wsgi(NothingForWSGI(flask.wsgi_app), cookie, meter),
            BASELINE + AGAIN: through_wsgi(NothingForWSGI(flask.wsgi_app), cookie, meter),
            OURS: through_wsgi(wsgi_ours, cookie, meter),
        }
    return found


def microseconds() -> float:
    return time.process_time() * 1e6


def dump() -> float:
    """Have callgrind write down what it has counted since it last did."""
    os.getpgid(0)  # `--dump-before` names this function, which nobody else calls
    return 0.0


def measure(row: dict[str, Way], rounds: int) -> dict[str, list[float]]:
    take_turns(row, 1)  # everything is warm from now on
    gc.collect()
    gc.freeze()
    return take_turns(row, rounds)


def counted(rounds: int) -> Iterator[float]:
    """Take all turns in a process under valgrind, and return the instructions for a request in each of them."""
    with tempfile.TemporaryDirectory() as folder:
        counts = Path(folder) / "counts"
        tool = [
            "valgrind",
            "-q",
            "--tool=callgrind",
            f"--callgrind-out-file={counts}",
            "--dump-before=getpgid",
        ]
        environment = os.environ | {UNDER_VALGRIND: str(rounds), "PYTHONHASHSEED": "0"}
        subprocess.run([*tool, sys.executable, "-m", "bench.pass_through"], check=True, env=environment)
        dumps = sorted(counts.parent.glob("counts.*"), key=lambda path: int(path.suffix[1:]))
        for turn in dumps[1::2]:  # the others are what came before the first one, and between two
            yield int(turn.read_text().rpartition("\ntotals: ")[2].split()[0]) / REQUESTS


def main() -> int:
    """Measure, print, and tell by the exit status whether the bounds were kept."""
    with asyncio.Runner() as runner:
        if UNDER_VALGRIND in os.environ:
            for row in rows_of(runner, dump).values():
                measure(row, int(os.environ[UNDER_VALGRIND]))
            return 0
        return report(rows_of(runner, microseconds), quick=is_quick(__doc__))


def report(rows: dict[str, dict[str, Way]], *, quick: bool) -> int:
    unit, rounds = "us", 20 if quick else 200
    if shutil.which("valgrind"):
        unit, rounds = "instructions", 1 if quick else 3
        counts = counted(rounds)
        rows = {title: dict.fromkeys(row, lambda: next(counts)) for title, row in rows.items()}
    kept = []
    for title, row in rows.items():
        figures = measure(row, rounds)
        table = Table(f"{title}: {unit} for a request", unit)
        table.rows(figures, baseline=BASELINE, bounds={OURS: BOUND})
        kept.append(table.kept)
    return status(kept=all(kept))


if __name__ == "__main__":
    sys.exit(main())
