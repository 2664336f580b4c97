"""Measures what a signed-in user, and a sign-out, leave in each store and in a worker: what a plan begins with.

    python -m bench.capacity [--quick]

Users are filled in as `many_users` does it, then a part of them gets a token cache, and a part signs out by `sid`. No
figure is bounded: `docs/capacity.md` makes plans of them. Times are of one caller that waits for each answer.
"""

from __future__ import annotations

import gc
import sqlite3
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from bench.engines import LONG_SECONDS, engines
from bench.many_users import fill, others
from bench.measuring import claims_of, is_quick, logout_of, status
from bench.shared_cache import signed_in
from msal_logout_middleware import MemoryStore, SQLiteStore
from msal_logout_middleware.caches import home_account_id
from msal_logout_middleware.marks import HeldMarks
from msal_logout_middleware.session import Session
from msal_logout_middleware.stores import Mark, Marks, SessionRecord


def size_of_file(path: Path) -> int:
    """Return the bytes of a file, without the pages that are free to be used again."""
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (size,), (pages,), (free,) = (
            db.execute(f"PRAGMA {what}").fetchone() for what in ("page_size", "page_count", "freelist_count")
        )
    return int(size * (pages - free))


def measure(
    name: str,
    store: Any,
    size: Callable[[], int],
    fill: Callable[[Iterator[SessionRecord]], None],
    *,
    users: int,
    some: int,
) -> None:
    """Print a line for a store."""
    logout = logout_of(store)
    known = logout.configuration.known
    seal = logout.configuration.seal
    empty = size()
    fill(others(logout, users))
    with_users = size()
    everybody = [claims_of(20_000_000 + number) for number in range(some)]
    blobs = [signed_in(20_000_000 + number).serialize().encode() for number in range(some)]
    started = time.perf_counter()
    for claims in everybody:
        session = known(Session(None, claims, {}))
        record = session.record(seal, session=session.handles[0], expires_at=time.time() + LONG_SECONDS)
        store.add(record, sign_in=True)
    per_sign_in = (time.perf_counter() - started) / some
    before_caches = size()
    for claims, blob in zip(everybody, blobs, strict=True):
        store.replace(home_account_id(claims), "", blob)
    with_caches = size()
    started = time.perf_counter()
    for claims in everybody:
        logout.end_sessions(sid=claims["sid"], iss=claims["iss"])
    per_sign_out = (time.perf_counter() - started) / some
    afterwards = size()
    record_bytes = (with_users - empty) / users
    print(
        f"{name:30}{record_bytes:12,.0f}{(with_caches - before_caches) / some:14,.0f}"
        f"{(afterwards - empty - record_bytes * users) / some:14,.0f}"
        f"{1 / per_sign_in:14,.0f}{1 / per_sign_out:14,.0f}"
    )
    store.close()


def bytes_of_a_mark(marks: int) -> float:
    """Return what a mark costs a worker."""
    gc.collect()
    tracemalloc.start()
    held = HeldMarks()
    for first in range(0, marks, 5_000):
        some = [
            Mark("handle", f"{number:064x}", 0.0, number, 4e9 + number)
            for number in range(first, first + 5_000)
        ]
        held.take(Marks("epoch", first + 5_000, some), held.place)
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return size / len(held)


def main() -> int:
    """Measure, and print."""
    users, some = (1_000, 100) if is_quick(__doc__) else (100_000, 2_000)
    print(f"\nBytes, and how many in a second; {users:,} users, {some:,} of them signed in and out")
    heads = ("signed in", "token cache", "signed out", "sign-ins", "sign-outs")
    print(f"{'':30}" + "".join(f"{head:>{12 if head == heads[0] else 14}}" for head in heads))
    gc.collect()
    tracemalloc.start()
    memory = MemoryStore()
    in_memory = partial(fill, memory)
    measure(
        "MemoryStore", memory, lambda: tracemalloc.get_traced_memory()[0], in_memory, users=users, some=some
    )
    tracemalloc.stop()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "logout.db"
        sqlite = SQLiteStore(path)
        sqlite.load("")  # makes the file
        measure(
            "SQLiteStore", sqlite, partial(size_of_file, path), partial(fill, sqlite), users=users, some=some
        )
    with engines() as every:
        for engine in every:
            store = engine.store("capacity")
            store.load("")  # makes the tables
            measure(engine.name, store, engine.size, partial(engine.fill, "capacity"), users=users, some=some)
    print(f"\na mark costs a worker {bytes_of_a_mark(100_000):,.0f} bytes")
    return status(kept=True)


if __name__ == "__main__":
    sys.exit(main())
