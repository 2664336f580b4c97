"""Measures what the gate adds to a request that bears a session, while many others have ended.

    python -m bench.known_session [--quick]

The session's cookie, a good kilobyte, is one of twelve; the app is Starlette's smallest. Beside it Starlette behind a
wrapper that does nothing, Starlette's own `SessionMiddleware`, and a `BaseHTTPMiddleware` that does nothing. All take
turns; the A/A row shows what the figures are worth. Then the same, without a bound, behind Flask, and with a session
that starsessions keeps on the server. Between them stands what a mark costs a worker in memory. Ends with 3 if a bound
is broken.
"""

# ruff: noqa: D103
from __future__ import annotations

import asyncio
import gc
import json
import secrets
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.sessions import SessionMiddleware
from starsessions import InMemoryStore, SessionAutoloadMiddleware
from starsessions import SessionMiddleware as StarSessionMiddleware

from bench.measuring import (
    AGAIN,
    SECRET,
    ASGIApp,
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
from bench.pass_through import NothingForWSGI, flask_app, microseconds, through_wsgi
from msal_logout_middleware import MemoryStore, SQLiteStore, asgi, wsgi
from msal_logout_middleware.marks import HeldMarks
from msal_logout_middleware.sessions.asgi import ASGISession
from msal_logout_middleware.sessions.flask import FlaskSession
from msal_logout_middleware.stores import Ending

REQUESTS = 100  # in each turn: what a server reads is still in the processor's cache when it is served
MARKS_AT_ONCE = 10_000
MARKED, MANY = 100_000, 1_000_000
BOUNDS = {"added": 1.5, "ratio": 1.2}
BASELINE = "wrapper that does nothing"

Store = MemoryStore | SQLiteStore


def end_others(store: Store, count: int) -> None:
    """Have a number of other sessions ended."""
    for _ in range(count // MARKS_AT_ONCE):
        handles = tuple(secrets.token_hex(32) for _ in range(MARKS_AT_ONCE))
        store.end(Ending(handles=handles, expires_at=time.time() + 1e6))


def repeated(app: ASGIApp, runner: asyncio.Runner, cookie: str) -> Way:
    """Return a way to send the same cookies with each request."""
    return lambda: runner.run(serve(app, scopes(cookie, REQUESTS)))


def each_new(app: ASGIApp, runner: asyncio.Runner, users: Iterator[int]) -> Way:
    """Return a way to send each time the cookie of a sign-in that this worker has not seen."""

    def way() -> float:
        cookies = [cookie_header(session_cookie(claims_of(next(users)))) for _ in range(REQUESTS)]
        return runner.run(serve(app, [scope for cookie in cookies for scope in scopes(cookie, 1)]))

    return way


async def serve(app: ASGIApp, requests: list[dict[str, Any]]) -> float:
    start = time.process_time()
    for scope in requests:
        await app(scope, receive, send)
    return (time.process_time() - start) / REQUESTS * 1e6


async def on_as_before(request: Any, call_next: Any) -> Any:
    return await call_next(request)


def bytes_per_mark(store: Store) -> float:
    """Return what a worker's memory grows by for each mark that it holds."""
    held = HeldMarks()
    tracemalloc.start()
    while (found := store.marks_since(held.place[1], limit=MARKS_AT_ONCE)).marks:
        held.take(found, held.place)
        del found
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return grown / len(held)


def measure(kind: str, folder: Path, runner: asyncio.Runner, *, quick: bool) -> bool:
    """Print one store's tables, and return whether the bounds were kept."""
    star, rounds = starlette_app(), 20 if quick else 300
    cookie, users = cookie_header(session_cookie(claims_of(0))), iter(range(1, sys.maxsize))
    ways = {BASELINE: repeated(Nothing(star), runner, cookie)}
    ways[BASELINE + AGAIN] = repeated(Nothing(star), runner, cookie)
    stores, new = {}, {BASELINE: ways[BASELINE]}
    for marks in (0, MARKED) if quick else (0, MARKED, MANY):
        name = f"{marks:,} marks held"
        stores[name] = MemoryStore() if kind == "MemoryStore" else SQLiteStore(folder / f"{marks}.db")
        end_others(stores[name], marks)
        ours = asgi.LogoutMiddleware(star, logout_of(stores[name]))
        ways[name] = repeated(ours, runner, cookie)
        new[name] = each_new(ours, runner, users)
    bounds = dict.fromkeys(stores, BOUNDS)
    ways["Starlette's SessionMiddleware"] = repeated(
        SessionMiddleware(star, secret_key=SECRET), runner, cookie
    )
    ways["BaseHTTPMiddleware that does nothing"] = repeated(
        BaseHTTPMiddleware(star, on_as_before), runner, cookie
    )

    take_turns(ways | new, 1)  # everything is warm from now on, and the marks are held
    gc.collect()
    gc.freeze()  # to collect garbage among a million marks takes longer than all requests
    table = Table(f"{kind}, a session that the worker knows: us of CPU time for a request", "us")
    table.rows(take_turns(ways, rounds), baseline=BASELINE, bounds=bounds)
    new_table = Table(f"{kind}, sessions not yet known: us of CPU time for a request", "us")
    new_table.rows(take_turns(new, rounds // 20), baseline=BASELINE, bounds={})
    print(
        f"\n{kind}, a worker's memory for each mark: {bytes_per_mark(stores[f'{MARKED:,} marks held']):.0f} bytes"
    )
    for store in stores.values():
        store.close()
    return table.kept


def behind_flask() -> dict[str, Way]:
    """Return ways to serve a request whose session is in Flask's signed cookie."""
    flask, store = flask_app(), MemoryStore()
    serializer = flask.session_interface.get_signing_serializer(flask)
    cookie = cookie_header(f"session={serializer.dumps({'user': claims_of(0)})}")
    end_others(store, MARKED)
    nothing = NothingForWSGI(flask.wsgi_app)
    ours = wsgi.LogoutMiddleware(flask.wsgi_app, logout_of(store, FlaskSession(flask)))
    return {
        BASELINE: through_wsgi(nothing, cookie, microseconds),
        BASELINE + AGAIN: through_wsgi(nothing, cookie, microseconds),
        f"{MARKED:,} marks held": through_wsgi(ours, cookie, microseconds),
    }


def kept_on_the_server(runner: asyncio.Runner) -> dict[str, Way]:
    """Return ways to serve a request whose session starsessions keeps."""
    records, store = InMemoryStore(), MemoryStore()
    session_id, content = secrets.token_hex(16), json.dumps({"user": claims_of(0)}).encode()
    runner.run(records.write(session_id, content, lifetime=3600, ttl=3600))
    sessions = Middleware(StarSessionMiddleware, store=records, lifetime=3600)
    star = starlette_app()
    star.user_middleware += [sessions, Middleware(SessionAutoloadMiddleware)]
    cookie = cookie_header(f"session={session_id}")
    end_others(store, MARKED)
    ours = asgi.LogoutMiddleware(star, logout_of(store, ASGISession(sessions)))
    return {
        BASELINE: repeated(Nothing(star), runner, cookie),
        BASELINE + AGAIN: repeated(Nothing(star), runner, cookie),
        f"{MARKED:,} marks held": repeated(ours, runner, cookie),
    }


def tell(title: str, ways: dict[str, Way], *, quick: bool) -> None:
    """Print a table without bounds."""
    take_turns(ways, 1)  # everything is warm from now on, and the marks are held
    gc.collect()
    gc.freeze()
    table = Table(
        f"MemoryStore, {title}, a session that the worker knows: us of CPU time for a request", "us"
    )
    table.rows(take_turns(ways, 20 if quick else 100), baseline=BASELINE, bounds={})


def main() -> int:
    """Measure, print, and tell by the exit status whether the bounds were kept."""
    quick = is_quick(__doc__)
    kinds = ("MemoryStore", "SQLiteStore")
    with tempfile.TemporaryDirectory() as folder, asyncio.Runner() as runner:
        kept = [measure(kind, Path(folder), runner, quick=quick) for kind in kinds]
        tell("Flask, in a signed cookie", behind_flask(), quick=quick)
        tell("starsessions, on the server", kept_on_the_server(runner), quick=quick)
    return status(kept=all(kept))


if __name__ == "__main__":
    sys.exit(main())
