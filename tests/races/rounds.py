"""Rounds of the race between silent calls and a logout, step by step: every worker waits for all others at each step.

One round: a user signs in; the workers' requests reach the point where the race is; the user signs out (and in again);
the requests go on to their end. What is then in the token cache of the session that has ended?
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier as ProcessBarrier
from typing import Any, Literal

import msal

from msal_logout_middleware._drive import run
from msal_logout_middleware.caches import InStore
from msal_logout_middleware.token_cache import StoredTokenCache

from .token_endpoint import ANA, Endpoint, silent

KEY = ANA.home_account_id
TOKENS = ("AccessToken", "RefreshToken", "IdToken")

Barrier = threading.Barrier | ProcessBarrier
Meeting = Callable[[], object]
Point = Literal["while the provider is asked", "between answer and save"]


@dataclass(frozen=True)
class Race:
    """Which race is run.

    Args:
        guarded: By our token cache; else by the load and save that samples show.
        point: Where the requests are when the user signs out.
        in_again: Whether the user signs in again before the requests go on.
        rounds: How often.
        workers: How many requests at the same time.
    """

    guarded: bool
    point: Point
    in_again: bool = False
    rounds: int = 2
    workers: int = 4


def work(race: Race, number: int, open_store: Callable[[], Any], barrier: Barrier) -> None:
    """What one worker does, in a thread or a process: one request in each round."""
    try:
        store = open_store()
        for _ in range(race.rounds):
            barrier.wait(60)  # signed in
            _request(race, number, store, lambda: (barrier.wait(60), barrier.wait(60)))
            barrier.wait(60)  # done
    except BaseException:
        barrier.abort()  # let nobody wait for us
        raise


def _request(race: Race, number: int, store: Any, meet: Meeting) -> None:
    def ask(grant: str) -> None:
        if race.point == "while the provider is asked":
            meet()

    def answered() -> None:
        if race.point == "between answer and save":
            meet()

    endpoint = Endpoint(ask, prefix=f"worker{number}-")
    if race.guarded:
        with StoredTokenCache(store, key=KEY) as cache:
            assert silent(endpoint.app(cache), ANA, force_refresh=True)
            answered()
        return
    cache = msal.SerializableTokenCache()
    cache.deserialize((store.load(KEY).data or b"").decode())
    assert silent(endpoint.app(cache), ANA, force_refresh=True)
    answered()
    if cache.has_state_changed:
        _overwrite(store, cache.serialize().encode())


def _overwrite(store: Any, data: bytes) -> None:
    while not store.replace(KEY, store.load(KEY).version, data):
        pass


def lead(race: Race, store: Any, barrier: Barrier) -> int:
    """Sign in and out in step with the workers; return in how many rounds something came back."""
    came_back = 0
    endpoint = Endpoint()
    for _ in range(race.rounds):
        _sign_in(store, endpoint)
        barrier.wait(60)  # the workers start
        barrier.wait(60)  # and are all at the point
        run(InStore(store).remove_accounts(ANA.claims, None))
        own = _sign_in(store, endpoint) if race.in_again else set()
        barrier.wait(60)  # they go on
        barrier.wait(60)  # and are done
        came_back += _secrets(store) != own
        run(InStore(store).remove_accounts(ANA.claims, None))
    return came_back


def _sign_in(store: Any, endpoint: Endpoint) -> set[str]:
    with StoredTokenCache(store) as cache:
        endpoint.sign_in(cache, ANA)
    return _secrets(store)


def _secrets(store: Any) -> set[str]:
    """Every token in the row, and whatever else is there of a user."""
    row = json.loads(store.load(KEY).data or b"{}")
    found = {entry["secret"] for kind in TOKENS for entry in row.get(kind, {}).values()}
    return found | {f"account {key}" for key in row.get("Account", {})}


def in_threads(race: Race, store: Any) -> int:
    """Run a race between threads."""
    barrier = threading.Barrier(race.workers + 1)
    threads = [
        threading.Thread(target=work, args=(race, number, lambda: store, barrier))
        for number in range(race.workers)
    ]
    for thread in threads:
        thread.start()
    try:
        return lead(race, store, barrier)
    except BaseException:
        barrier.abort()
        raise
    finally:
        for thread in threads:
            thread.join()


def silent_in_thread(app: msal.ConfidentialClientApplication) -> None:
    """One silent call, whose answer may be lost when a test fails."""
    with suppress(threading.BrokenBarrierError):
        assert silent(app, ANA, force_refresh=True)
