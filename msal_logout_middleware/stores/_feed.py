"""How a worker keeps in step with a store on another machine: it knows the store's last ending, for a bounded time.

1. Every ending leaves a *tip*: its sequence number, and a name that no other ending ever has. Who knows the same tip
   knows the same endings, whatever restarts, failovers and backups the store has been through.
2. The store tells each ending in a message. One that follows the known tip is taken in; anything else has the store
   asked. A message may be lost, late or twice: none of it is needed for the bound.
3. The store is asked at every beat, and names the tip that the worker knew: the store says whether it still has it. An
   answer vouches for the moment at which it was asked for, and so for `bound_seconds` from then.
4. While nothing vouches, there is no generation, and the gate asks the store about each request.
5. A store that has no such tip any more has lost endings, or is another one: all that was known of it is forgotten, and
   the life that `marks_since` names is a new one.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
import weakref
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from .._drive import MaybeAwaitable, run, settle
from ..errors import StoreError
from . import Mark, Marks

logger = logging.getLogger("msal_logout_middleware")

BEATS = 4  # within the bound
ASKED_AT_ONCE = 1000  # marks
_HELD = 20_000  # marks, in the order of the store
_FIRST_WAIT_SECONDS = 0.05
_LONGEST_WAIT_SECONDS = 1.0
_SILENT_BEATS = 3


class Tip(NamedTuple):
    """The last ending that somebody knows of.

    Args:
        sequence: The store's sequence number; 0 before the first.
        name: 16 hexadecimal digits that no other ending has.
    """

    sequence: int
    name: str

    @property
    def generation(self) -> int:
        """A number that no other tip has, as far as 64 random bits can tell."""
        return int(self.name, 16)


class News(NamedTuple):
    """One ending, as the store's message tells it.

    Args:
        epoch: Names this life of the store.
        after: The tip that it follows at once.
        tip: The one that it leaves.
        marks: Its marks; `None` where the message has no room for them.
    """

    epoch: str
    after: Tip
    tip: Tip
    marks: Sequence[Mark] | None


class Answer(NamedTuple):
    """What the store answers who asks.

    Args:
        epoch: Names this life of the store.
        tip: The last ending.
        has_known: Whether the store has the tip that it was asked with; if it was asked with none, `True`.
        marks: Unexpired marks after the cursor that it was asked with, in order.
        is_all: Whether these are all of them.
    """

    epoch: str
    tip: Tip
    has_known: bool
    marks: Sequence[Mark]
    is_all: bool


class Messages(Protocol):
    """A subscription to the store's messages."""

    def next(self, timeout_seconds: float) -> MaybeAwaitable[News | None]:
        """Return the next message; `None` if there is none in time."""
        ...

    def close(self) -> MaybeAwaitable[None]:
        """End the subscription."""
        ...


class Source(Protocol):
    """The store, as its feed asks it."""

    @property
    def is_async(self) -> bool:
        """Whether it needs an event loop."""
        ...

    def ask(self, known: Tip | None, cursor: int | None, limit: int) -> MaybeAwaitable[Answer]:
        """Return the state of the store, and at most `limit` marks after a cursor (`None`: no marks)."""
        ...

    def subscribe(self) -> MaybeAwaitable[Messages]:
        """Subscribe to the store's messages."""
        ...


def _now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)  # goes on while the machine is suspended


clock: Callable[[], float] = _now if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic


class Feed:
    """What one process knows of a store elsewhere.

    It is followed by a task of the event loop if the store is asynchronous, and else by a thread. Either starts with
    the first request, and again after a fork.

    Args:
        source: The store.
        bound_seconds: For how long an answer of the store vouches for what is known.
        beat_seconds: How often the store is asked; four times within the bound by default.
    """

    def __init__(self, source: Source, *, bound_seconds: float, beat_seconds: float | None = None) -> None:
        self._source = source
        self._bound = bound_seconds
        self._beat = bound_seconds / BEATS if beat_seconds is None else beat_seconds
        self._lives = 0
        self._start()
        _feeds.add(self)

    def _start(self) -> None:
        self._lock = threading.Lock()
        self._good_until = -1.0
        self._number: int | None = None
        self._epoch = ""
        self._tip: Tip | None = None
        self._marks: list[Mark] = []
        self._since = 0  # the marks after this sequence number are held
        self._behind = False
        self._untold = 0  # beats that brought news which no message had told
        self._follower: asyncio.Task[None] | threading.Thread | None = None
        self._stopped = threading.Event()

    # What the gate asks

    def generation(self) -> int | None:
        """Return a number that is another one after each ending; `None` while nothing vouches for it."""
        if clock() > self._good_until:
            self._follow_if_nobody_does()
            return None
        return self._number

    def held(self, cursor: int, limit: int) -> Marks | None:
        """Return the marks after a cursor from memory; `None` if the store must be asked."""
        if clock() > self._good_until:
            return None
        with self._lock:
            if self._tip is None or cursor < self._since:
                return None
            first = bisect_right(self._marks, cursor, key=lambda mark: mark.sequence)
            marks = self._marks[first : first + limit]
            last = marks[-1].sequence if len(marks) == limit else self._tip.sequence
            return Marks(self._life(), last, marks)

    async def marks_since(self, cursor: int, limit: int) -> Marks:
        """Ask the store for the marks after a cursor, and learn from the answer."""
        asked_at, known = clock(), self._tip
        answer = await settle(self._source.ask(known, cursor, limit))
        with self._lock:
            self._take(answer, asked_at, known, cursor=None)
            last = answer.tip.sequence if answer.is_all or not answer.marks else answer.marks[-1].sequence
            return Marks(self._life(), last, answer.marks)

    # What is learnt

    def tell(self, news: News) -> None:
        """Take in one ending that the store, or this worker itself, tells."""
        with self._lock:
            if self._tip is None:
                return
            if news.epoch == self._epoch and news.after == self._tip and news.marks is not None:
                self._hold(news.marks)
                self._move_to(news.tip)
                self._untold = 0
            elif news.tip == self._tip:
                self._untold = 0
            elif news.epoch != self._epoch or news.tip.sequence > self._tip.sequence:
                self._untold = 0
                self._behind = True
                self._good_until = -1.0

    def _take(self, answer: Answer, asked_at: float, known: Tip | None, *, cursor: int | None) -> None:
        """Take in an answer: `cursor` is from where on its marks are, if they are to be held."""
        tip = self._tip
        if tip is None or not answer.has_known or answer.epoch != self._epoch:
            if tip is not None and tip == known:
                logger.warning(
                    "the store has lost endings, or is another one: all that is known of it is read anew"
                )
            elif tip is not None:
                return  # others have learnt meanwhile what this answer says
            self._lives += tip is not None
            self._epoch, self._marks, self._since = answer.epoch, [], answer.tip.sequence
            self._move_to(answer.tip)
        elif answer.tip.sequence > tip.sequence:
            if cursor == tip.sequence and answer.is_all:
                self._hold(answer.marks)
            else:
                self._marks, self._since = [], answer.tip.sequence
            self._move_to(answer.tip)
        elif answer.tip.sequence == tip.sequence and answer.tip != tip:
            return  # it was asked with another tip than is known by now
        self._good_until = max(self._good_until, asked_at + self._bound)

    def _hold(self, marks: Sequence[Mark]) -> None:
        self._marks.extend(marks)
        if len(self._marks) > _HELD:
            forgotten = len(self._marks) - _HELD // 2
            self._since = self._marks[forgotten - 1].sequence
            del self._marks[:forgotten]

    def _move_to(self, tip: Tip) -> None:
        self._tip, self._number = tip, tip.generation

    def _life(self) -> str:
        return f"{self._epoch}.{self._lives}"

    # Following

    async def follow(self) -> None:
        """Keep in step until `close`."""
        stopped, wait = self._stopped, _FIRST_WAIT_SECONDS
        while not stopped.is_set():
            try:
                messages = await settle(self._source.subscribe())
                try:
                    await self._keep_in_step(messages, stopped)
                finally:
                    await settle(messages.close())
                wait = _FIRST_WAIT_SECONDS
            except Exception as error:  # any engine's
                self._good_until = -1.0
                said = error if isinstance(error, StoreError) else type(error).__name__
                logger.warning("the store's feed is broken, so each request asks the store: %s", said)
                await self._wait(stopped, wait)
                wait = min(2 * wait, _LONGEST_WAIT_SECONDS)

    async def _keep_in_step(self, messages: Messages, stopped: threading.Event) -> None:
        next_beat = clock()
        while not stopped.is_set():
            if self._behind or clock() >= next_beat:
                next_beat = clock() + self._beat
                await self._ask()
            news = await settle(messages.next(max(0.0, next_beat - clock())))
            if news is not None:
                self.tell(news)

    async def _ask(self) -> None:
        self._behind = False
        asked_at, known = clock(), self._tip
        cursor = None if known is None else known.sequence
        answer = await settle(self._source.ask(known, cursor, ASKED_AT_ONCE))
        with self._lock:
            self._untold += known is not None and answer.tip != known
            self._take(answer, asked_at, known, cursor=cursor)
        if self._untold >= _SILENT_BEATS:
            self._untold = 0
            raise StoreError("it is asked what no message has told")

    async def _wait(self, stopped: threading.Event, seconds: float) -> None:
        if self._source.is_async:
            await asyncio.sleep(seconds)
        else:
            stopped.wait(seconds)

    def _follow_if_nobody_does(self) -> None:
        follower = self._follower
        if isinstance(follower, threading.Thread) or self._stopped.is_set():
            return
        if follower is not None and not follower.done() and not follower.get_loop().is_closed():
            return
        with self._lock:
            if self._follower is not follower:
                return  # another thread was quicker
            if not self._source.is_async:
                self._follower = threading.Thread(
                    target=run, args=(self.follow(),), name="msal_logout_middleware feed", daemon=True
                )
                self._follower.start()
                return
            try:
                loop = asyncio.get_running_loop()
            except RuntimeError:
                return  # a worker thread's call: the loop asks by itself
            self._follower = loop.create_task(self.follow())

    def stop(self) -> asyncio.Task[None] | None:
        """Stop following; return the task to wait for, if one was following."""
        self._stopped.set()
        follower = self._follower
        if isinstance(follower, threading.Thread):
            follower.join(timeout=2 * self._bound)
            task = None
        else:
            task = follower
            if task is not None and not task.get_loop().is_closed():
                task.cancel()
        self._start()
        return task


_feeds: weakref.WeakSet[Feed] = weakref.WeakSet()


def _after_fork() -> None:
    """Forget the parent's follower, and what it knew."""
    for feed in list(_feeds):
        feed._start()


if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(after_in_child=_after_fork)
