"""What worker processes do with a store of one file; each is started anew, by `spawn`."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable
from typing import Any

from msal_logout_middleware.stores import Ending, Jti, KeyMark, SessionRecord
from msal_logout_middleware.stores.sqlite import SQLiteStore

EXPIRES_AT = 9e9
LONG_SECONDS = 60


def in_workers(count: int, work: Callable[..., Any], path: str) -> list[Any]:
    """Let processes do the same work at the same moment; return what each says."""
    spawn = multiprocessing.get_context("spawn")
    start, answers = spawn.Barrier(count), spawn.SimpleQueue()
    workers = [
        spawn.Process(target=_work, args=(work, path, number, start, answers)) for number in range(count)
    ]
    for worker in workers:
        worker.start()
    said = [answers.get() for _ in workers]
    for worker in workers:
        worker.join(LONG_SECONDS)
        assert worker.exitcode == 0
    return said


def _work(work: Callable[..., Any], path: str, number: int, start: Any, answers: Any) -> None:
    start.wait(LONG_SECONDS)
    try:
        answers.put(work(SQLiteStore(path, busy_timeout_seconds=LONG_SECONDS), number))
    except BaseException as error:
        answers.put(error)
        raise


def count_up(store: SQLiteStore, _number: int) -> int:
    """Add one to a number in a token cache, 25 times; return how often another was quicker."""
    lost = done = 0
    while done < 25:
        before = store.load("number")
        if store.replace("number", before.version, str(int(before.data or b"0") + 1).encode()):
            done += 1
        else:
            lost += 1
    return lost


def claim_all(store: SQLiteStore, number: int) -> list[int]:
    """End under 25 `jti`s that every worker tries; return those that were granted."""
    granted = []
    for jti in range(25):
        ending = Ending(
            handles=(f"{jti} by {number}",),
            jti=Jti(str(jti), EXPIRES_AT),
            expires_at=EXPIRES_AT,
            work=str(jti).encode(),
            lease_seconds=-1,
        )
        if store.end(ending).claimed:
            granted.append(jti)
    return granted


def take_all(store: SQLiteStore, _number: int) -> list[str]:
    """Take the journal's rows, three at a time, until there are no more."""
    taken: list[str] = []
    while rows := store.take(limit=3, lease_seconds=LONG_SECONDS):
        taken += [row.row for row in rows]
    return taken


def join_or_end(store: SQLiteStore, number: int) -> list[bool]:
    """Worker 0 ends sessions that the others join."""
    said = []
    for session in range(20):
        if number == 0:
            said.append(store.end(Ending(sessions=(f"s{session}",), expires_at=EXPIRES_AT)).claimed)
        else:
            record = SessionRecord(f"s{session} h{number}", f"s{session}", ("sub",), 1.0, b"", EXPIRES_AT)
            said.append(store.join(record))
    return said


def end_until_killed(path: str) -> None:
    """End one session after the other, and say so, each time it is done."""
    store = SQLiteStore(path)
    number = 0
    while True:
        store.end(
            Ending(
                handles=(f"{number} a", f"{number} b"),
                sessions=(f"{number}",),
                keys=(KeyMark(f"{number}", 5.0),),
                expires_at=EXPIRES_AT,
                work=str(number).encode(),
                jti=Jti(f"{number}", EXPIRES_AT),
            )
        )
        os.write(sys.stdout.fileno(), f"{number}\n".encode())
        number += 1
