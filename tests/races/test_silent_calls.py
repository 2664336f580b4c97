"""Silent calls in flight against one logout: our caches let nothing back in, and the usual load and save does."""

from __future__ import annotations

import multiprocessing
import threading
from functools import partial
from typing import get_args

import msal
import pytest

from msal_logout_middleware.shared_cache import SharedCache
from msal_logout_middleware.stores.memory import MemoryStore
from msal_logout_middleware.stores.sqlite import SQLiteStore

from .rounds import TOKENS, Point, Race, in_threads, lead, silent_in_thread, work
from .stores import store_at
from .token_endpoint import ANA, Endpoint

POINTS = get_args(Point)
ROUNDS = [2, pytest.param(1_000, marks=pytest.mark.soak)]
ALL_STORES = ("sqlite", "valkey", "redis", "postgresql", "mariadb")
BETWEEN_PROCESSES = [
    ("sqlite", 2),
    ("valkey", 2),
    *(pytest.param(store, 2, marks=pytest.mark.matrix) for store in ("redis", "postgresql", "mariadb")),
]
OF_EACH_STEP = [
    *BETWEEN_PROCESSES,
    *(pytest.param(store, 200, marks=pytest.mark.soak) for store in ALL_STORES),
]

each_point = pytest.mark.parametrize("point", POINTS)
out_and_in = pytest.mark.parametrize("in_again", [False, True], ids=["signed out", "signed out and in again"])
each_length = pytest.mark.parametrize(
    "rounds", ROUNDS, ids=lambda rounds: f"{getattr(rounds, 'values', [rounds])[0]} rounds"
)


@each_length
@out_and_in
@each_point
def test_silent_calls_of_threads_bring_nothing_back_into_a_memory_store(point, in_again, rounds):
    guarded = Race(guarded=True, point=point, in_again=in_again, rounds=rounds)
    naive = Race(guarded=False, point=point, in_again=in_again, rounds=2)
    assert in_threads(guarded, MemoryStore()) == 0
    assert in_threads(naive, MemoryStore()) == naive.rounds


@each_length
@out_and_in
@each_point
def test_silent_calls_of_threads_bring_nothing_back_into_an_sqlite_store(point, in_again, rounds, tmp_path):
    guarded = Race(guarded=True, point=point, in_again=in_again, rounds=rounds)
    naive = Race(guarded=False, point=point, in_again=in_again, rounds=2)
    store = SQLiteStore(tmp_path / "logout.db")
    assert in_threads(guarded, store) == 0
    assert in_threads(naive, store) == naive.rounds
    store.close()


@pytest.mark.parametrize(("store", "rounds"), OF_EACH_STEP)
@out_and_in
@each_point
def test_silent_calls_of_processes_bring_nothing_back_into_a_store(point, in_again, store, rounds, url):
    guarded = Race(guarded=True, point=point, in_again=in_again, rounds=rounds, workers=3)
    naive = Race(guarded=False, point=point, in_again=in_again, rounds=2, workers=3)
    assert in_processes([guarded, naive], url) == [0, naive.rounds]


def in_processes(races: list[Race], url: str) -> list[int]:
    """Run races between processes, each of which opens the store for itself."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(races[0].workers + 1)
    processes = [
        context.Process(target=work_on_all, args=(races, number, url, barrier))
        for number in range(races[0].workers)
    ]
    for process in processes:
        process.start()
    store = store_at(url)
    try:
        return [lead(race, store, barrier) for race in races]
    finally:
        store.close()
        for process in processes:
            process.join(60)


def work_on_all(races: list[Race], number: int, url: str, barrier) -> None:
    for race in races:
        work(race, number, partial(store_at, url), barrier)


@each_length
@out_and_in
def test_silent_calls_bring_nothing_back_into_a_shared_cache(in_again, rounds):
    assert sum(shared_round(guarded=True, in_again=in_again) for _ in range(rounds)) == 0
    assert sum(shared_round(guarded=False, in_again=in_again) for _ in range(2)) == 2


def shared_round(*, guarded: bool, in_again: bool, workers: int = 4) -> bool:
    """Tell whether anything came back into one live cache."""
    barrier = threading.Barrier(workers + 1)

    def meet(grant: str) -> None:
        if grant == "refresh_token":
            barrier.wait(60)
            barrier.wait(60)

    endpoint = Endpoint(meet)
    cache = msal.TokenCache()
    app = endpoint.app(cache)
    endpoint.sign_in(cache, ANA)
    threads = [threading.Thread(target=silent_in_thread, args=(app,)) for _ in range(workers)]
    for thread in threads:
        thread.start()
    barrier.wait(60)  # all are being answered
    if guarded:
        SharedCache.of(cache).remove_accounts(ANA.claims)
    else:
        app.remove_account(app.get_accounts()[0])
    own = endpoint.sign_in(cache, ANA) if in_again else {}
    barrier.wait(60)
    for thread in threads:
        thread.join()
    found = {entry["secret"] for kind in TOKENS for entry in cache.search(kind)}
    return found != {own[name] for name in ("access_token", "refresh_token", "id_token") if own}
