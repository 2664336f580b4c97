"""Rounds of the race between silent calls and a logout, over caches that cannot refuse a late save.

One round: a user signs in; the workers' requests and the logout begin at the same moment, and nobody waits for anybody
until all are done. What is then in the token cache?
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from multiprocessing.synchronize import Barrier as ProcessBarrier
from typing import Any, Protocol

import msal
from cachelib import FileSystemCache
from django.core.cache.backends.filebased import FileBasedCache

from msal_logout_middleware._drive import run, settle
from msal_logout_middleware.app_cache import InAppCache
from msal_logout_middleware.caches import InStore, TokenCaches, home_account_id
from msal_logout_middleware.token_cache import StoredTokenCache

from .stores import LONG_SECONDS, store_at
from .token_endpoint import ANA, Endpoint, silent

KEY = ANA.home_account_id
Barrier = threading.Barrier | ProcessBarrier


class Place(Protocol):
    """Where the app keeps the token cache of a round."""

    caches: TokenCaches

    def request(self, endpoint: Endpoint) -> None:
        """What a request does: load, ask for a token, save."""

    def sign_in(self, endpoint: Endpoint) -> None: ...

    def has_tokens(self) -> bool: ...

    def close(self) -> None: ...


class InFiles:
    """The load and save that samples show, over a cache in files, which processes share."""

    def __init__(self, cache: Any) -> None:
        self.cache = cache
        self.caches: TokenCaches = InAppCache(self.cache, cache_key=home_account_id)

    def request(self, endpoint: Endpoint) -> None:
        cache = msal.SerializableTokenCache()
        held = self.cache.get(KEY)
        if held:
            cache.deserialize(held)
        silent(endpoint.app(cache), ANA, force_refresh=True)
        if cache.has_state_changed:
            self.cache.set(KEY, cache.serialize())

    def sign_in(self, endpoint: Endpoint) -> None:
        cache = msal.SerializableTokenCache()
        endpoint.sign_in(cache, ANA)
        self.cache.set(KEY, cache.serialize())

    def has_tokens(self) -> bool:
        return self.cache.get(KEY) is not None

    def close(self) -> None:
        pass


def in_cachelibs_files(folder: str) -> Place:
    return InFiles(FileSystemCache(f"{folder}/cachelib", threshold=0))


def in_djangos_files(folder: str) -> Place:
    return InFiles(FileBasedCache(f"{folder}/django", {"timeout": None, "max_entries": 1_000}))


class InOurStore:
    """Our token cache, over one of our stores with compare-and-swap."""

    def __init__(self, url: str) -> None:
        self.store = store_at(url)
        self.caches: TokenCaches = InStore(self.store)

    def request(self, endpoint: Endpoint) -> None:
        with StoredTokenCache(self.store, key=KEY) as cache:
            silent(endpoint.app(cache), ANA, force_refresh=True)

    def sign_in(self, endpoint: Endpoint) -> None:
        with StoredTokenCache(self.store) as cache:
            endpoint.sign_in(cache, ANA)

    def has_tokens(self) -> bool:
        return self.store.load(KEY).data is not None

    def close(self) -> None:
        self.store.close()


@dataclass(frozen=True)
class Race:
    """Which race is run.

    Args:
        place: Opens the place where token caches are, in each worker for itself.
        where: What `place` is given.
        rounds: How often.
        removes_again: Whether the sign-out removes once more when a request returns, as the middleware does.
        workers: How many requests at the same time.
        longest_answer_seconds: How long the provider takes, at most; each answer of a round takes another time.
    """

    place: Callable[[str], Place]
    where: str
    rounds: int
    removes_again: bool = False
    workers: int = 3
    longest_answer_seconds: float = 0.004


def work(race: Race, number: int, barrier: Barrier) -> None:
    """What one worker does, in a thread or a process: one request in each round, as the gate leads it."""
    try:
        with closing(race.place(race.where)) as place:
            for turn in range(race.rounds):
                share = (turn * race.workers + number) % 17 / 16
                endpoint = Endpoint(
                    partial(_answer_after, share * race.longest_answer_seconds), f"worker{number}-{turn}-"
                )
                barrier.wait(LONG_SECONDS)  # signed in
                place.request(endpoint)
                if race.removes_again:
                    remove(place)
                barrier.wait(LONG_SECONDS)  # all requests have returned, and so has the logout
                barrier.wait(LONG_SECONDS)  # counted
    except BaseException:
        barrier.abort()
        raise


def lead(race: Race, barrier: Barrier) -> int:
    """Sign in and out in step with the workers; return in how many rounds tokens are there at the end."""
    came_back = 0
    with closing(race.place(race.where)) as place:
        for turn in range(race.rounds):
            place.sign_in(Endpoint(prefix=f"sign-in{turn}-"))
            barrier.wait(LONG_SECONDS)
            remove(place)
            barrier.wait(LONG_SECONDS)
            came_back += place.has_tokens()
            remove(place)
            barrier.wait(LONG_SECONDS)
    return came_back


def remove(place: Place) -> None:
    async def flow() -> Any:
        return await settle(place.caches.remove_accounts(ANA.claims, None))

    run(flow())


def _answer_after(seconds: float, _grant: str) -> None:
    """The provider's time: what the race is about, and not a wait for anybody."""
    time.sleep(seconds)


def in_workers(race: Race, barrier: Barrier, start: Callable[..., Any]) -> int:
    """Run a race between threads or processes."""
    workers = [start(target=work, args=(race, number, barrier)) for number in range(race.workers)]
    for worker in workers:
        worker.start()
    try:
        return lead(race, barrier)
    except BaseException:
        barrier.abort()
        raise
    finally:
        for worker in workers:
            worker.join(LONG_SECONDS)
