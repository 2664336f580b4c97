"""How the contracts call a store: at a time that stands still, and many at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import anyio
import anyio.to_thread

from ..._drive import MaybeAwaitable, settle
from ...stores import TokenCacheStore

T = TypeVar("T")

CALLERS = 8
_LONG_SECONDS = 60


class Clock:
    """A clock that stands still until it is set.

    Args:
        now: The time in seconds since 1970.
    """

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        """Return the time in seconds since 1970."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Set the clock ahead, or back."""
        self.now += seconds


async def at_once(calls: Sequence[Callable[[], MaybeAwaitable[T]]]) -> list[T]:
    """Make calls at the same moment: of a sync store in as many threads, of an async one in as many tasks."""
    start = threading.Barrier(len(calls))
    threads = anyio.CapacityLimiter(len(calls))
    answers: dict[int, T] = {}

    def call_at_start(call: Callable[[], MaybeAwaitable[T]]) -> MaybeAwaitable[T]:
        start.wait(timeout=_LONG_SECONDS)
        return call()

    async def answer(number: int) -> None:
        said = await anyio.to_thread.run_sync(call_at_start, calls[number], limiter=threads)
        answers[number] = await settle(said)

    async with anyio.create_task_group() as callers:
        for number in range(len(calls)):
            callers.start_soon(answer, number)
    return [answers[number] for number in range(len(calls))]


async def write(store: TokenCacheStore, key: str, data: bytes | None) -> bool:
    """Write a token cache, whatever is there."""
    loaded = await settle(store.load(key))
    return await settle(store.replace(key, loaded.version, data))


def bound(
    call: Callable[..., MaybeAwaitable[T]], *args: Any, **options: Any
) -> Callable[[], MaybeAwaitable[T]]:
    """Return a call that is still to be made."""
    return lambda: call(*args, **options)
