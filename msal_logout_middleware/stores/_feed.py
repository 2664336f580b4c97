"""How a worker keeps in step with a store on another machine: it knows the store's last ending, for a bounded time.

1. Every ending leaves a *tip*: its sequence number, and a name that no other ending ever has. Who knows the same tip
   knows the same endings, whatever restarts, failovers and backups the store has been through.
2. The store tells each ending in a message. One that follows the known tip is taken in; anything else has the store
   asked. A message may be lost, late or twice: none of it is needed for the bound.
3. The store is asked at every beat, and names the tip that the worker knew: the store says whether it still has it. An
   answer vouches for the moment at which it was asked for, and so for `bound_seconds` from then; and never for a
   moment before one at which this worker began to doubt.
4. While nothing vouches, there is no generation, and the gate asks the store about each request.
5. A store that has no such tip any more has lost endings, or is another one: all that was known of it is forgotten, and
   the life that `marks_since` names is a new one.
6. So it is where another server answers, or the same one after a restart: it may have every ending, and lack sessions
   that were recorded since the last of them.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import threading
import time
import weakref
from bisect import bisect_right
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import Context
from itertools import islice
from typing import NamedTuple, Protocol

from .._drive import MaybeAwaitable, run, settle
from ..errors import StoreError
from . import Mark, Marks

logger = logging.getLogger("msal_logout_middleware")

BEATS = 4  # within the bound
ASKED_AT_ONCE = 1000  # marks
_HELD = 20_000  # marks, in the order of the store
_PASSED = 1000  # tips
_FIRST_WAIT_SECONDS = 0.05
_LONGEST_WAIT_SECONDS = 1.0
_LISTENING_SECONDS = 0.25  # until the follower looks whether it is to ask, or to stop
_SILENT_BEATS = 3  # which brought what no message had told: then the messages are subscribed to anew


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
        server: Names the server, and since when it runs; empty if it does not say.
    """

    epoch: str
    tip: Tip
    has_known: bool
    marks: Sequence[Mark]
    is_all: bool
    server: str = ""


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

    def subscribe(self) -> MaybeAwaitable[Messages | None]:
        """Subscribe to the store's messages; `None` if it has none, and can only be asked."""
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
        wall_clock: The time by which the store's marks expire, in seconds since 1970.
    """

    def __init__(
        self,
        source: Source,
        *,
        bound_seconds: float,
        beat_seconds: float | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._source = source
        self._wall_clock = wall_clock
        self._latest_time = -math.inf  # marks that had expired by then may be missing here
        self._bound = bound_seconds
        self._beat = bound_seconds / BEATS if beat_seconds is None else beat_seconds
        self._lives = 0
        self._server = ""
        self._number: int | None = None
        self._epoch = ""
        self._tip: Tip | None = None
        self._passed: dict[Tip, None] = {}  # tips that led to the known one, without a gap
        self._marks: list[Mark] = []
        self._since = 0  # the marks after this sequence number are held
        self._lost: Sequence[Mark] = ()  # of the store's life before
        self._start()
        _feeds.add(self)

    def _start(self) -> None:
        """Follow nobody, and vouch for nothing. What is known stays: the next answer goes on from there, or breaks."""
        self._lock = threading.Lock()
        self._good_until = -1.0
        self._doubted_at = -1.0
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

    def held(self, cursor: int, limit: int, now: float) -> Marks | None:
        """Return the marks after a cursor from memory; `None` if the store must be asked.

        Args:
            cursor: The sequence number of the last change that the caller has seen.
            limit: How many marks to return at most; fewer means that these are all.
            now: The time by which marks expire, in seconds since 1970.
        """
        with self._lock:
            if clock() > self._good_until or self._tip is None or cursor < self._since:
                return None
            if now < self._latest_time:
                return None  # the clock was set back
            first = bisect_right(self._marks, cursor, key=lambda mark: mark.sequence)
            live = (mark for mark in islice(self._marks, first, None) if mark.expires_at > now)
            marks = list(islice(live, limit))
            last = marks[-1].sequence if len(marks) == limit else self._tip.sequence
            return Marks(self._life(), last, marks, self._lost)

    async def marks_since(self, cursor: int, limit: int) -> Marks:
        """Ask the store for the marks after a cursor, and learn from the answer."""
        while True:
            with self._lock:
                asked_at, known, life = clock(), self._tip, self._life()
                epoch, server = self._epoch, self._server
                self._latest_time = max(self._latest_time, self._wall_clock())
            answer = await settle(self._source.ask(known, cursor, limit))
            with self._lock:
                self._take(answer, asked_at, known, cursor=cursor)
                if self._tip == answer.tip:
                    life = self._life()
                elif (
                    known is None or not answer.has_known or (answer.epoch, answer.server) != (epoch, server)
                ):
                    continue  # others have learnt meanwhile that the store is another one: which of them this was
            last = answer.tip.sequence if answer.is_all or not answer.marks else answer.marks[-1].sequence
            return Marks(life, last, answer.marks, self._lost)

    # What is learnt

    def tell(self, news: News) -> None:
        """Take in one ending that a message tells."""
        with self._lock:
            if self._tip is None or self._follows(news):
                return
            if news.epoch != self._epoch or news.tip.sequence > self._tip.sequence:
                self._doubt()

    def hears(self, news: News) -> bool:
        """Take in one ending that a message tells, if that needs nobody who asks; `tell` takes in the others."""
        with self._lock:
            self._untold = 0
            return self._tip is not None and self._follows(news)

    def ended(self, news: News) -> None:
        """Take in one ending of this worker's own: whatever is known, the generation is another one from now on."""
        with self._lock:
            if self._tip is None or not self._follows(news):
                self._doubt()

    def doubt(self) -> None:
        """Have the store asked before anything is vouched for again: it may have been told what nobody heard of."""
        with self._lock:
            self._doubt()

    def _doubt(self) -> None:
        self._behind = True
        self._good_until = -1.0
        self._doubted_at = clock()

    def _follows(self, news: News) -> bool:
        """Take in an ending that follows the known one at once; return whether it is known now."""
        if news.epoch != self._epoch:
            return False
        if news.after == self._tip and news.marks is not None:
            self._hold(news.marks)
            self._move_to(news.tip)
        # Most often it is the last one: the others are many.
        return news.tip == self._tip or news.tip in self._passed

    def _take(self, answer: Answer, asked_at: float, known: Tip | None, *, cursor: int | None) -> None:
        """Take in an answer: `cursor` is from where on its marks are; `None` if it brings none."""
        tip = self._tip
        is_same = (answer.epoch, answer.server) == (self._epoch, self._server)
        if tip is None:
            self._begin(answer)
        elif tip != known:  # which others have learnt meanwhile; it may not be in what the store spoke of
            if not is_same or answer.tip not in self._passed:
                self._behind = True
                return
        elif not answer.has_known or not is_same:
            self._begin_anew(answer)
        elif answer.tip != tip:
            if cursor == tip.sequence and answer.is_all:
                self._hold(answer.marks)
            else:
                self._marks, self._since = [], answer.tip.sequence
            self._move_to(answer.tip)
        if asked_at > self._doubted_at:
            self._good_until = max(self._good_until, asked_at + self._bound)

    def _begin_anew(self, answer: Answer) -> None:
        """Forget what was known of a store that has lost something, or may have, since another server answers."""
        if answer.has_known and answer.epoch == self._epoch:
            logger.info("the store's server is another one, or was started anew: sessions are looked up anew")
        else:
            logger.warning(
                "the store has lost endings, or is another one: all that is known of it is read anew"
            )
        # Those of the lives before as well: nobody may have asked for them in between.
        self._lost = [*{mark.value: mark for mark in (*self._lost, *self._marks)}.values()][-_HELD:]
        self._lives += 1
        self._begin(answer)

    def _begin(self, answer: Answer) -> None:
        self._epoch, self._server = answer.epoch, answer.server
        self._marks, self._since = [], answer.tip.sequence
        self._passed.clear()
        self._move_to(answer.tip)

    def _hold(self, marks: Sequence[Mark]) -> None:
        self._marks.extend(marks)
        if len(self._marks) > _HELD:
            forgotten = len(self._marks) - _HELD // 2
            self._since = self._marks[forgotten - 1].sequence
            del self._marks[:forgotten]

    def _move_to(self, tip: Tip) -> None:
        self._tip = tip
        self._number = tip.generation + (self._lives << 64)  # the tip may be one that was known before
        self._passed[tip] = None
        if len(self._passed) > _PASSED:
            del self._passed[next(iter(self._passed))]

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
                    await self._ask()
                    wait = _FIRST_WAIT_SECONDS
                    await self._keep_in_step(messages, stopped)
                finally:
                    if messages is not None:
                        await settle(messages.close())
            except Exception as error:  # any engine's
                self.doubt()
                said = error if isinstance(error, StoreError) else type(error).__name__
                logger.warning("the store's feed is broken, so each request asks the store: %s", said)
                await self._wait(stopped, wait)
                wait = min(2 * wait, _LONGEST_WAIT_SECONDS)

    async def _keep_in_step(self, messages: Messages | None, stopped: threading.Event) -> None:
        next_beat, self._untold = clock() + self._beat, 0
        while not stopped.is_set():
            if self._behind or clock() >= next_beat:
                next_beat = clock() + self._beat
                await self._ask()
            if self._untold >= _SILENT_BEATS and messages is not None:
                raise StoreError("no message has told of its last endings")
            seconds = min(max(0.0, next_beat - clock()), _LISTENING_SECONDS)
            if messages is None:
                await self._wait(stopped, seconds)
                continue
            news = await settle(messages.next(seconds))
            if news is not None:
                self._untold = 0
                self.tell(news)

    async def _ask(self) -> None:
        self._behind = False
        asked_at, known = clock(), self._tip
        cursor = None if known is None else known.sequence
        self._latest_time = max(self._latest_time, self._wall_clock())
        answer = await settle(self._source.ask(known, cursor, ASKED_AT_ONCE))
        with self._lock:
            self._untold += known is not None and answer.tip not in self._passed
            self._take(answer, asked_at, known, cursor=cursor)

    async def _wait(self, stopped: threading.Event, seconds: float) -> None:
        if self._source.is_async:
            await asyncio.sleep(seconds)
        else:
            stopped.wait(seconds)

    def _follow_if_nobody_does(self) -> None:
        follower = self._follower
        if self._stopped.is_set() or _is_following(follower):
            return
        with self._lock:
            if self._follower is not follower:
                return  # another thread was quicker
            if not self._source.is_async:
                thread = threading.Thread(
                    target=lambda: run(self.follow()), name="msal_logout_middleware feed", daemon=True
                )
                with suppress(RuntimeError):  # the process is about to end
                    thread.start()
                    self._follower = thread
                return
            with suppress(RuntimeError):  # a worker thread's call: the loop asks by itself
                loop = asyncio.get_running_loop()
                # In a context of its own: this request's would live for as long as it follows.
                # Not by the loop's factory: an eager task would begin at once, and want the lock that is held here.
                self._follower = asyncio.Task(self.follow(), loop=loop, context=Context())

    def stop(self) -> asyncio.Task[None] | None:
        """Stop following; return the task to wait for, if one was. A thread is waited for here: twice the bound."""
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


def _is_following(follower: asyncio.Task[None] | threading.Thread | None) -> bool:
    if isinstance(follower, threading.Thread):
        return follower.is_alive()
    return follower is not None and not follower.done() and not follower.get_loop().is_closed()


_feeds: weakref.WeakSet[Feed] = weakref.WeakSet()


def _after_fork() -> None:
    """Forget the parent's follower, and what it vouched for."""
    for feed in list(_feeds):
        feed._start()


if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(after_in_child=_after_fork)
