"""What one worker remembers: sessions by cookie and by handle, whole requests, and the marks that it holds.

1. Nothing that is remembered is believed for longer than the store's generation stays what it was.
2. All of it is bounded, and the oldest goes first. What is forgotten is asked for again.
"""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from typing import TypeVar

from ._drive import settle
from .configuration import Configuration
from .cookies import without
from .marks import HeldMarks
from .records import KnownSession, handles, sign_in
from .session import Session

K = TypeVar("K")
T = TypeVar("T")

SAMPLED_FROM = 512  # characters of a `Cookie` header
_REMEMBERED = 4096  # cookies, and sessions, that a worker remembers
_LONGEST_REMEMBERED = 8192  # characters of a cookie, or of a `Cookie` header
_MARKS_AT_ONCE = 5000
_NO_GENERATION = -1  # equals no generation of a store, and not the `None` of one that cannot be told either


class Seen:
    """A session as this worker has seen it.

    Args:
        handles: Its handle by each secret; empty if it cannot be told from other sign-ins.
        known: What is known of it; `None` while nobody is signed in.
        group: Under which name the session index groups its handles; `None` if it is not there.
        ended: Whether it has ended.
    """

    __slots__ = ("__weakref__", "ended", "group", "handles", "known", "life", "lives_at", "until")

    def __init__(
        self,
        handles: tuple[str, ...],
        known: KnownSession | None,
        group: str | None = None,
        *,
        ended: bool = False,
    ) -> None:
        self.handles = handles
        self.known = known
        self.group = group
        self.ended = ended
        self.lives_at = _NO_GENERATION  # the generation that it was last found alive at
        self.until = math.inf  # when its record expires
        self.life: int | None = None  # that of the index which has it; `None`: it is in none

    @property
    def is_server_side(self) -> bool:
        """Whether its contents are not in the cookie."""
        return self.known is not None and self.known.session_id is not None

    @property
    def short(self) -> str:
        """The start of its handle, for the log."""
        return self.handles[0][:12] if self.handles else ""


@dataclass(frozen=True, slots=True)
class Visit:
    """What the gate has found out about a request.

    Args:
        seen: The live session that the request bears; `None` if it bears none.
        dead: Session cookies to be cut out, each as a header of its own.
        unsure: Whether it cannot be told if a session of the request lives.
        plain: Whether only the headers of the answer need be looked at.
        cuts_all: Whether all cookies are cut out, since no browser sends such ones.
        cookies: Those that carry the session.
        is_put_off: Whether a session is dead by a sign-out that is still to be committed.
    """

    seen: Seen | None = None
    dead: tuple[str, ...] = field(default=(), repr=False)
    unsure: bool = False
    plain: bool = False
    cuts_all: bool = False
    cookies: str = field(default="", repr=False)
    is_put_off: bool = False

    def cut(self, cookie_header: str) -> str:
        """Return a `Cookie` header without what is dead; all else is left byte for byte."""
        if self.cuts_all:
            return ""
        return without(cookie_header, self.dead)


@dataclass(frozen=True, slots=True)
class WorkerState:
    """What one worker knows at the moment, for a health check.

    Args:
        in_step: Whether the worker knows of all endings. If not, it asks the store about each request with a session.
        marks: How many ended marks it holds.
        put_off: How many sign-outs wait to be committed, since the store was away.
    """

    in_step: bool
    marks: int
    put_off: int


class Memory:
    """What one worker remembers.

    `generation` is the store's. `visits` remembers what was found out about whole `Cookie` headers, each under its
    `sample`: it holds as long as the session's `lives_at` is the store's generation. `doubts` counts how often all of
    it was put in doubt. `life` is that of the store's index: in another one, what is remembered of it may be lost.

    Args:
        config: The configuration.
    """

    def __init__(self, config: Configuration) -> None:
        self.generation: Callable[[], int | None] = config.store.generation
        self.marks = HeldMarks(config.marks_in_memory)
        self.visits: dict[str | bytes, tuple[str | bytes, Visit]] = {}
        self._config = config
        self._by_cookies: dict[str, Seen] = {}
        self._by_handle: dict[str, Seen] = {}
        self.doubts = 0
        self._lives = count()
        self.life = next(self._lives)
        self._all: weakref.WeakSet[Seen] = weakref.WeakSet()
        config.unmarked.on_add = self.doubt

    # Whether a session lives

    async def renew(self) -> int:
        """Take in the marks that are new, and return the generation that they are complete for, if it can be told."""
        generation = self.generation()
        marks = self.marks
        while generation is None or generation != marks.generation:
            place = marks.place
            found = await settle(self._config.store.marks_since(place[1], limit=_MARKS_AT_ONCE))
            if not marks.take(found, place):
                self._forget()  # what this worker knew of the index may be lost there
            elif len(found.marks) < _MARKS_AT_ONCE:
                marks.generation = generation
                break
        return _NO_GENERATION if generation is None else generation

    def is_doubtful(self, seen: Seen) -> bool:
        """Tell whether only the store can say if a session has ended."""
        # In this order: a mark is in a filter before it is no longer kept by name.
        return not self._is_ended(seen) and self.marks.may_have(seen.handles)

    async def judge(self, seen: Seen, generation: int) -> bool:
        """Tell whether a session lives, as `lives` does; where that is doubtful, by the store's own index.

        Raises:
            Exception: The store cannot be asked.
        """
        if self.is_doubtful(seen):
            records = [await settle(self._config.store.get(handle)) for handle in seen.handles]
            seen.ended = not any(records)  # a session that ends takes its records with it
        return self.lives(seen, generation)

    def lives(self, seen: Seen, generation: int) -> bool:
        """Tell whether a session lives, by marks that are complete for a generation; and note it."""
        doubts = self.doubts
        if self._is_ended(seen):
            return False
        seen.lives_at = generation
        # Another thread could not commit an ending meanwhile, or has found the store to be another one.
        if self.doubts != doubts or self._is_of_another_life(seen):
            seen.lives_at = _NO_GENERATION
        return True

    def _is_ended(self, seen: Seen) -> bool:
        """Tell whether a session has ended, by the marks that are held."""
        if not seen.ended and self.marks.has(seen.handles):
            seen.ended = True
        names, known = seen.handles, seen.known
        if seen.group is not None and len(self._config.unmarked):
            names = (*names, seen.group)
        if known is None:
            return seen.ended or self._config.unmarked.names(names)
        # Its user may have signed in since: that sign-in is spared when the ending is committed, too.
        return seen.ended or self._config.unmarked.names(names, known.keys, known.signed_in_at)

    # Sessions

    def of_cookies(self, cookies: str) -> Seen | None:
        """Return what is known of the session that cookies carry."""
        seen = self._by_cookies.get(cookies)
        if seen is None or seen.until <= time.time() or self._is_of_another_life(seen):
            return None
        return seen

    def is_still(self, seen: Seen) -> bool:
        """Tell whether a session is still whose it was: another user may have signed in under its id elsewhere.

        Its handle stays, so that it ends all the same. But an ending that is put off is known by its user's keys.
        """
        return not (seen.is_server_side and len(self._config.unmarked))

    def keep_cookies(self, cookies: str, seen: Seen) -> None:
        """Remember which session cookies carry, unless they are so long that few of them would fill the memory."""
        if len(cookies) <= _LONGEST_REMEMBERED:
            _put(self._by_cookies, cookies, seen)

    def recalled(self, session: Session) -> Seen | None:
        """Return what is known of a session by its handle, if it is still the sign-in that it was."""
        names = handles(self._config.seal, session)
        if session.claims is None:
            return Seen(names, None)
        seen = self._by_handle.get(names[0]) if names else None
        if seen is not None and self._is_of_another_life(seen):
            return None
        if seen is None or seen.known is None or session.id is None:
            return seen  # a handle of claims stands for these very claims
        return seen if seen.known.sign_in == sign_in(self._config.seal, session) else None

    def _is_of_another_life(self, seen: Seen) -> bool:
        """Tell whether the index may have lost a session: another thread has put it here after all was forgotten."""
        return seen.life is not None and seen.life != self.life

    def keep(self, seen: Seen, life: int) -> Seen:
        """Remember a session by its handle.

        Args:
            seen: The session.
            life: That of the index when it was told of the session, or asked for it.
        """
        seen.life = life
        seen.until = time.time() + self._config.session_lifetime_seconds
        self._all.add(seen)
        _put(self._by_handle, seen.handles[0], seen)
        return seen

    # Requests

    def found(self, header: str | bytes | None, cookies: str, seen: Seen, *, plain: bool) -> Visit:
        """Return what was found out about a request, and remember it.

        Args:
            header: Its raw `Cookie` header; `None` if that is not to be remembered.
            cookies: Those that carry the session.
            seen: The session.
            plain: Whether nothing but the headers of the answer need be looked at.
        """
        visit = Visit(seen, plain=plain, cookies=cookies)
        # What an anonymous session keeps on the server may change without another cookie.
        if seen.known is not None:
            self.keep_cookies(cookies, seen)
            if header is not None and self.is_still(seen):
                self.remember(header, visit)
        return visit

    def remember(self, header: str | bytes, visit: Visit) -> None:
        """Remember what was found out about a raw `Cookie` header."""
        if len(header) <= _LONGEST_REMEMBERED:
            _put(self.visits, sample(header), (header, visit))

    # Forgetting

    def doubt(self) -> None:
        """Have every session looked at again, those of running requests as well."""
        self.doubts += 1
        while True:
            with suppress(RuntimeError):  # another thread has added one
                everybody = list(self._all)
                break
        for seen in everybody:
            seen.lives_at = _NO_GENERATION
        self.visits.clear()

    def _forget(self) -> None:
        """Have every session looked up again."""
        self.life = next(self._lives)
        self.doubt()
        self._by_cookies.clear()
        self._by_handle.clear()

    def sweep(self) -> None:
        """Forget what is over."""
        now = time.time()
        self.marks.forget(now)
        for seen in [seen for seen in list(self._by_handle.values()) if seen.until <= now]:
            self._by_handle.pop(seen.handles[0], None)
            seen.lives_at = _NO_GENERATION


def sample(header: str | bytes) -> str | bytes:
    """Return what a `Cookie` header is looked up by: to hash a kilobyte would take as long as all the rest.

    Headers that have it in common take turns in being remembered; they are told apart by comparing them whole.
    """
    return header if len(header) < SAMPLED_FROM else header[::32]


def _put(memory: dict[K, T], key: K, value: T) -> None:
    """Remember a value, and forget the oldest beyond what is kept."""
    memory[key] = value
    while len(memory) > _REMEMBERED:
        try:
            memory.pop(next(iter(memory)), None)
        except (StopIteration, RuntimeError):  # another thread did
            return
