"""What worker processes do with a store of one file; each is started anew, by `spawn`."""

from __future__ import annotations

import mmap
import multiprocessing
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from msal_logout_middleware.stores import Ending, Jti, KeyMark, SessionRecord
from msal_logout_middleware.stores import _generation as generation_module
from msal_logout_middleware.stores.sqlite import SQLiteStore

from .readers import Reader

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


ENDINGS, WRITERS, READERS = 25, 4, 2


def end_and_read(path: str) -> None:
    """Let processes end sessions, and others see of each that it has ended as soon as `end` has returned."""
    spawn = multiprocessing.get_context("spawn")
    start = spawn.Barrier(WRITERS + READERS)
    ended = [spawn.SimpleQueue() for _ in range(READERS)]
    workers = [spawn.Process(target=_end_and_tell, args=(path, n, start, ended)) for n in range(WRITERS)]
    workers += [spawn.Process(target=_look_when_told, args=(path, start, told)) for told in ended]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(LONG_SECONDS)
    assert [worker.exitcode for worker in workers] == [0] * (WRITERS + READERS)


def _end_and_tell(path: str, number: int, start: Any, ended: list[Any]) -> None:
    store = SQLiteStore(path, busy_timeout_seconds=LONG_SECONDS)
    start.wait(LONG_SECONDS)
    for ending in range(ENDINGS):
        name = f"{ending} by {number}"
        store.end(Ending(handles=(name,), expires_at=EXPIRES_AT))
        for tell in ended:
            tell.put(name)


def _look_when_told(path: str, start: Any, told: Any) -> None:
    reader = Reader(SQLiteStore(path, busy_timeout_seconds=LONG_SECONDS))
    reader.look()
    start.wait(LONG_SECONDS)
    for _ in range(WRITERS * ENDINGS):
        name = told.get()
        assert name in reader.look(), f"{name} has ended, and the generation does not tell"
    assert reader.store.generation() is not None


def end_stopping_at(path: str, where: str) -> None:
    """End a session; say when a point of it is reached, and go on when told."""
    write, points = generation_module._write, iter(["locked", "pending", "committed", "told"])

    def stop() -> None:
        if next(points, None) == where:
            print("there", flush=True)
            sys.stdin.readline()

    def stopping(words: memoryview, value: int) -> None:
        stop()
        write(words, value)
        stop()

    generation_module._write = stopping
    SQLiteStore(path).end(Ending(handles=("late",), expires_at=EXPIRES_AT))
    print("ended", flush=True)


def count_without_lock(store: SQLiteStore, _number: int) -> None:
    """Count a word in shared memory up, as one would do it without knowing better."""
    with Path(f"{store._path}-count").open("r+b") as file:
        words = memoryview(mmap.mmap(file.fileno(), 8)).cast("Q")
        for _ in range(100_000):
            words[0] += 1
