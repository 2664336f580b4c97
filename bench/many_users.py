"""Measures whether a logout takes longer the more users are signed in, and how long it holds the event loop.

    python -m bench.many_users [--quick]

Signed-in users log out in the app, through the ASGI middleware: the session of each, in the index among all the
others', ends, and their token cache goes. The others' records are as large. The smallest size is there twice; in one
round of ten these two differ by the bound or more, so that is the noise. What holds the loop is CPU time of its own
thread between two of its turns, so other processes are not counted; nor is garbage collection, whose time among all
those users is said beside it. A million users in `MemoryStore` need 6 GB. Ends with 3 if a bound is broken.
"""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from itertools import count
from pathlib import Path
from statistics import quantiles
from typing import Any

from bench.measuring import (
    AGAIN,
    Table,
    Way,
    claims_of,
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
from bench.shared_cache import signed_in
from msal_logout_middleware import Logout, MemoryStore, SQLiteStore, asgi
from msal_logout_middleware.caches import home_account_id
from msal_logout_middleware.session import Session
from msal_logout_middleware.stores import SessionRecord

LOGOUTS = 5  # in each turn
HOLD_MS = 1.0
WHO_LOGS_OUT = count(10_000_000)

Store = MemoryStore | SQLiteStore


def others(logout: Logout, users: int) -> Iterator[SessionRecord]:
    """Yield records like a real one, of users who stay."""
    config = logout.configuration
    known = config.known(Session(None, claims_of(0), {}))
    like = known.record(
        config.seal, session="", expires_at=time.time() + 1e6, has_own_cache=config.drops_caches
    )
    for number in range(users):
        keys = tuple(f"{number:012}{key[12:]}" for key in like.keys)
        yield replace(
            like,
            handle=f"{number:064}",
            session=f"stays-{number:026}",
            keys=keys,
            cache=like.cache and f"cache of {number}",
        )


def fill(store: Store, records: Iterator[SessionRecord]) -> None:
    """Record the other users' sessions; in a file by one transaction, since a million would take an hour."""
    if isinstance(store, MemoryStore):
        for record in records:
            store.add(record, sign_in=True)
        return
    store.load("")  # makes the file
    with closing(sqlite3.connect(store.path)) as db, db:
        for one in records:
            row = (one.handle, one.session, "[]", one.issued_at, one.data, one.expires_at)
            db.execute("INSERT INTO records VALUES (?, ?, ?, ?, ?, ?)", row)
            db.executemany("INSERT INTO record_keys VALUES (?, ?)", [(key, one.handle) for key in one.keys])


class Site:
    """An app where so many users are signed in."""

    def __init__(self, store: Store, users: int) -> None:
        self.store = store
        self._logout = logout_of(store)
        self._app = asgi.LogoutMiddleware(starlette_app(), self._logout)
        fill(store, others(self._logout, users))

    async def signed_in(self) -> dict[str, Any]:
        """Sign one more user in, let them visit a page, and return the request by which they log out."""
        number = next(WHO_LOGS_OUT)
        blob = signed_in(number).serialize().encode()
        self.store.replace(home_account_id(claims_of(number)), "", blob)
        visit = scopes(session_cookie(claims_of(number)), 1)[0]
        await self._app(visit, receive, send)
        return visit | {"path": "/logout"}

    async def log_out(self) -> float:
        """Return the CPU microseconds of one logout, those of worker threads included."""
        requests = [await self.signed_in() for _ in range(LOGOUTS)]
        statuses: list[int] = []

        async def answered(message: Any) -> None:
            statuses.append(message.get("status", 303))

        start = time.process_time()
        for scope in requests:
            await self._app(scope, receive, answered)
        spent = time.process_time() - start
        if set(statuses) != {303}:
            raise SystemExit(f"logouts were answered with {statuses}")
        return spent / LOGOUTS * 1e6

    async def hold(self, logouts: int) -> float:
        """Return for how many milliseconds a logout holds the loop at most."""
        held: list[float] = []

        async def watch() -> None:
            while True:
                before = time.thread_time()
                await asyncio.sleep(0)
                held.append((time.thread_time() - before) * 1e3)

        gc.disable()
        watching = asyncio.create_task(watch())
        longest = 0.0
        for _ in range(logouts):
            request = await self.signed_in()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            held.clear()  # signing in held it as well
            await self._app(request, receive, send)
            await asyncio.sleep(0)
            longest = max(longest, *held)
        watching.cancel()
        gc.enable()
        return longest


def measure(kind: str, sizes: tuple[int, ...], runner: asyncio.Runner, folder: Path, rounds: int) -> bool:
    """Print one store's table, and return whether the bounds were kept."""
    sites = {}
    for name, users in [
        *((f"{users:,} users", users) for users in sizes),
        (f"{sizes[0]:,} users{AGAIN}", sizes[0]),
    ]:
        store = MemoryStore() if kind == "MemoryStore" else SQLiteStore(folder / f"{len(sites)}.db")
        sites[name] = Site(store, users)
    baseline, again = f"{sizes[0]:,} users", f"{sizes[0]:,} users{AGAIN}"

    def way(site: Site) -> Way:
        return lambda: runner.run(site.log_out())

    ways = {name: way(site) for name, site in sites.items()}
    take_turns(ways, 3)  # everything is warm from now on
    started = time.perf_counter()
    gc.collect()
    collected = time.perf_counter() - started
    gc.freeze()
    figures = take_turns(ways, rounds)
    pairs = zip(figures[again], figures[baseline], strict=True)
    noise = quantiles((max(one, other) / min(one, other) for one, other in pairs), n=10)[-1]
    table = Table(f"{kind}: us of CPU time for a logout", "us")
    table.rows(figures, baseline=baseline, bounds={name: {"ratio": noise} for name in list(sites)[1:-1]})
    holds = Table(f"{kind}: ms for which a logout holds the event loop at most", "ms")
    for name, site in sites.items():
        holds.row(name, runner.run(site.hold(rounds)), most=HOLD_MS)
    print(f"to collect all garbage among them, which gc.freeze() spares, takes {collected * 1e3:,.0f} ms")
    for site in sites.values():
        site.store.close()
    gc.unfreeze()
    return table.kept and holds.kept


def main() -> int:
    """Measure, print, and tell by the exit status whether the bounds were kept."""
    quick = is_quick(__doc__)
    sizes, rounds = ((10, 1_000, 10_000), 20) if quick else ((10, 1_000, 100_000, 1_000_000), 100)
    kept = []
    for kind in ("MemoryStore", "SQLiteStore"):
        with tempfile.TemporaryDirectory() as folder, asyncio.Runner() as runner:
            kept.append(measure(kind, sizes, runner, Path(folder), rounds))
    return status(kept=all(kept))


if __name__ == "__main__":
    sys.exit(main())
