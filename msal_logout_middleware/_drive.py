"""Driving a flow: one coroutine, run to its end by a thread or awaited by an event loop.

1. A flow knows of no sockets, threads or event loops. What it calls may answer with a value or with an
   awaitable; `settle` makes a value of both.
2. `run` drives a flow whose parts are all sync. It never waits: a part that suspends is a mistake, and told.
3. `run_beside_loop` drives a flow in a worker thread and sends what must be awaited back to the loop.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar
from typing import Any, Protocol, TypeAlias, TypeVar, cast

import anyio
import anyio.from_thread
import anyio.to_thread
from anyio.lowlevel import RunVar

T = TypeVar("T")
MaybeAwaitable: TypeAlias = T | Awaitable[T]

_Hop = Callable[[Awaitable[Any]], Any]
_hop: ContextVar[_Hop | None] = ContextVar("msal_logout_middleware.hop", default=None)


async def settle(value: MaybeAwaitable[T]) -> T:
    """Return a plain value as it is, and the result of an awaitable."""
    found: Any = value
    # `inspect.isawaitable` takes six times as long, and most values are plain.
    if hasattr(found, "__await__"):
        hop = _hop.get()
        found = await found if hop is None else hop(found)
    settled: T = found
    return settled


def run(flow: Coroutine[Any, Any, T]) -> T:
    """Drive a flow whose parts are all sync to its end.

    Raises:
        TypeError: A part of the flow suspended, so it needs an event loop.
    """
    try:
        flow.send(None)
    except StopIteration as end:
        return cast("T", end.value)
    flow.close()
    raise TypeError(
        "a store, session or cache of this Logout is asynchronous; use the ASGI middleware and the "
        "asynchronous calls, or give it synchronous parts"
    )


_limiters: RunVar[anyio.CapacityLimiter] = RunVar("msal_logout_middleware.limiter")
_MOST_THREADS = 40


def _limiter() -> anyio.CapacityLimiter:
    """Return a limit of our own: a flow that holds a thread may wait for one that the app's code needs."""
    try:
        return _limiters.get()
    except LookupError:
        limiter = anyio.CapacityLimiter(_MOST_THREADS)
        _limiters.set(limiter)
        return limiter


async def run_beside_loop(flow: Coroutine[Any, Any, T]) -> T:
    """Drive a flow in one worker thread; what it awaits runs on the loop this is called from."""

    async def wait(value: Awaitable[Any]) -> Any:
        _hop.set(None)  # this is the loop; the thread's context has come along
        return await value

    def hop(value: Awaitable[Any]) -> Any:
        try:
            return anyio.from_thread.run(wait, value)
        finally:
            _close_unbegun(value)

    def drive() -> T:
        token = _hop.set(hop)
        try:
            return run(flow)
        finally:
            _hop.reset(token)

    try:
        return await anyio.to_thread.run_sync(drive, limiter=_limiter())
    finally:
        _close_unbegun(flow)


def _close_unbegun(value: Awaitable[Any]) -> None:
    """Close a coroutine that nobody has begun with, since the loop was closed before."""
    if inspect.iscoroutine(value) and inspect.getcoroutinestate(value) == inspect.CORO_CREATED:
        value.close()


class World(Protocol):
    """What a flow needs of the world, handed in by the door that drives it."""

    def sleep(self, seconds: float) -> MaybeAwaitable[None]:
        """Wait before a retry."""
        ...

    async def beside(self, flow: Coroutine[Any, Any, T]) -> T:
        """Drive a part of a flow whose stores may block."""
        ...


class BlockingWorld:
    """The world of a thread that may wait."""

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)

    async def beside(self, flow: Coroutine[Any, Any, T]) -> T:
        """Drive a part of a flow, here."""
        return await flow


class LoopWorld:
    """The world of an event loop.

    Args:
        blocks: Whether stores block, so that what asks them needs a worker thread.
    """

    def __init__(self, *, blocks: bool = False) -> None:
        self._blocks = blocks

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await anyio.sleep(seconds)

    async def beside(self, flow: Coroutine[Any, Any, T]) -> T:
        """Drive a part of a flow, in a thread if it may block."""
        return await (run_beside_loop(flow) if self._blocks else flow)


async def drive(flow: Callable[[World], Coroutine[Any, Any, T]], *, blocks: bool) -> T:
    """Drive a flow from an event loop, to its end: a caller that goes away must not leave a session half ended.

    Args:
        flow: Makes the coroutine, given its world.
        blocks: Whether a part of it waits without the loop, so that it needs a worker thread.
    """
    with anyio.CancelScope(shield=True):
        return await (run_beside_loop(flow(BlockingWorld())) if blocks else flow(LoopWorld()))
    raise AssertionError  # type checkers cannot know that nothing leaves this scope early


def is_async(part: object, *methods: str) -> bool:
    """Tell whether a part is asynchronous: as it says itself, or if any of its methods is a coroutine function."""
    said = getattr(part, "is_async", None)
    if isinstance(said, bool):
        return said
    return any(inspect.iscoroutinefunction(getattr(part, method, None)) for method in methods)
