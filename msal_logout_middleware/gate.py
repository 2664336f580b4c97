"""The gate: what every request passes. It refuses sessions that have ended, and learns of those that begin.

1. An ordinary request of a session that the worker knows asks nobody: the marks are in memory, and the store's
   generation says whether they are all there are.
2. What is not known is asked, and what cannot be asked is refused (503). Nothing is served on a guess.
3. An ended session is cut out of the request: the app sees a visitor. Its handle is dead for good.
4. Sessions are learnt from answers that sign somebody in, and at first sight; never from a request's parameters.
5. A session that ended while its request was running leaves nothing behind: no cookie, no record, no token.
"""

from __future__ import annotations

import logging
import math
import secrets
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TypeVar, cast

from . import pages
from ._drive import World, settle
from .caches import Removed
from .configuration import Configuration
from .cookies import MOST_SESSIONS, is_torn, session_cookies, without
from .ending import Outcome, Steps, Target, Work, end_sessions, look_again, put_off
from .errors import LogoutError
from .events import LogoutFailed, SessionRefused, SessionUnknowable, StoreUnreachable
from .exchange import COOKIE_NAME, Exchange
from .http import Header, Response
from .marks import HeldMarks
from .records import KnownSession, handles, opened, sign_in
from .session import Session
from .stores import SessionRecord

logger = logging.getLogger("msal_logout_middleware")

K = TypeVar("K")
T = TypeVar("T")

_REMEMBERED = 4096  # cookies, and sessions, that a worker remembers
SAMPLED_FROM = 512  # characters of a `Cookie` header
_LONGEST_REMEMBERED = 8192  # characters of a cookie, or of a `Cookie` header
_MARKS_AT_ONCE = 5000
_WRITTEN_AT_ONCE = 500
_TOLD_AGAIN_SECONDS = 1.0  # while the store is away
_NO_GENERATION = -1  # is never the store's: not even where that cannot be told either


class Seen:
    """A session as this worker has seen it.

    Args:
        handles: Its handle by each secret; empty if it cannot be told from other sign-ins.
        known: What is known of it; `None` while nobody is signed in.
        group: Under which name the session index groups its handles; `None` if it is not there.
        ended: Whether it has ended.
    """

    __slots__ = ("__weakref__", "ended", "group", "handles", "known", "lives_at", "until")

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
        plain: Whether nothing but the headers of the answer need be looked at.
        cuts_all: Whether all cookies are cut out, since no browser sends such ones.
    """

    seen: Seen | None = None
    dead: tuple[str, ...] = ()
    unsure: bool = False
    plain: bool = False
    cuts_all: bool = False

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


Found = list[tuple[str, "Session | Seen"]]  # each with its cookies


class Gate:
    """What one worker knows of sessions and marks.

    `generation` is the store's. `visits` remembers what was found out about whole `Cookie` headers, each under its
    `sample`: it holds as long as the session's `lives_at` is the store's generation. `learns_exchanges` tells whether
    an `Exchange` is to be made of requests.

    Args:
        config: The configuration.
    """

    def __init__(self, config: Configuration) -> None:
        self.generation: Callable[[], int | None] = config.store.generation
        self._config = config
        self._marks = HeldMarks()
        self.visits: dict[str | bytes, tuple[str | bytes, Visit]] = {}
        self._by_cookies: dict[str, Seen] = {}
        self._by_handle: dict[str, Seen] = {}
        self._told_unknowable = False
        self._doubts = 0
        self._unsure_again_at = -math.inf
        self._all: weakref.WeakSet[Seen] = weakref.WeakSet()
        self.learns_exchanges = config.provider.session_state_is_sid
        self.nobody = Visit(plain=True)
        config.unmarked.on_add = self._doubt

    @cached_property
    def minds_return(self) -> bool:
        """Whether an ended session is to be looked for once more when the app has returned."""
        # A session that is all in the cookie is not saved later than its headers; guarded caches refuse late tokens.
        return self._config.server_side or not self._config.guarded

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of the session's cookies."""
        return tuple(dict.fromkeys(cookie.name for cookie in self._config.session.cookies))

    # A request comes in

    def may_learn(self, visit: Visit, method: str, query: str) -> bool:
        """Tell cheaply whether a visitor's request may say something of the provider's session."""
        if not self.learns_exchanges or (visit.seen is not None and visit.seen.known is not None):
            return False
        return not visit.plain or method == "POST" or "session_state=" in query

    async def admit(self, cookie_header: str, name: str | bytes, world: World) -> Visit:
        """Tell whose session a request bears, and whether it lives.

        Args:
            cookie_header: The `Cookie` header, its bytes as Latin-1.
            name: What the visit is remembered by: the header, as the door has it.
            world: Where to ask the store.
        """
        found: list[tuple[str, Session | Seen]] = []
        try:
            candidates = session_cookies(cookie_header, self.names)
            if len(candidates) > MOST_SESSIONS or is_torn(cookie_header, self.names):
                return Visit(dead=candidates, cuts_all=True)
            for cookies in candidates:
                what = await self._session_in(cookies)
                if what is not None:
                    found.append((cookies, what))
            if not found:
                plain = not (self.learns_exchanges and COOKIE_NAME in cookie_header)
                visit = self.nobody if plain else Visit()
                if not any(name in cookie_header for name in self.names):
                    self._remember(name, visit)
                return visit
            judged = self._judged(found, name)
            return (
                judged
                if judged is not None
                else await world.beside(self._judge(found, name, cookie_header, world))
            )
        except Exception as error:  # any engine's
            await world.beside(self._unsure(error))
            return Visit(unsure=True)

    def _judged(self, found: Found, name: str | bytes) -> Visit | None:
        """Return the judgement of a request where memory has it; otherwise the store must be asked."""
        generation = self.generation()
        if len(found) != 1 or generation is None or generation != self._marks.generation:
            return None
        ((cookies, what),) = found
        seen = what if isinstance(what, Seen) else self._recalled(what)
        if seen is None or not self._lives(seen, generation):
            return None
        return self._found(name, cookies, seen)

    async def _judge(self, found: Found, name: str | bytes, cookie_header: str, world: World) -> Visit:
        dead: list[str] = []
        visit = self.nobody
        generation = await self._renew()
        # Of several sessions each has to be looked at each time.
        name_of_one = name if len(found) == 1 else None
        alive: list[str] = []
        for cookies, what in found:
            seen = what if isinstance(what, Seen) else await self._recognise(what, world)
            if self._lives(seen, generation):
                alive.append(cookies)
                visit = self._found(name_of_one, cookies, seen)
            else:
                await self._config.tell(SessionRefused(seen.short, during=False))
                dead.append(cookies)
        if len(alive) > 1:
            visit = await self._taken(without(cookie_header, dead), generation, world) or visit
        if not dead:
            return visit
        if visit.seen is None:  # what else would sign the user in again goes as well
            for cookie in self._config.delete_cookies:
                dead += session_cookies(cookie_header, (cookie.name,))
        return replace(visit, dead=tuple(dead), plain=False)

    async def _taken(self, cookie_header: str, generation: int, world: World) -> Visit | None:
        """Return the visit of the session that the framework takes of several, all of which live.

        What its request leads to is that session's: a sign-in of another's would outlive it.
        """
        session = await settle(self._config.session.read(cookie_header))
        if session is None or (session.claims is None and session.id is None):
            return None
        seen = await self._recognise(session, world)
        self._lives(seen, generation)
        return self._found(None, cookie_header, seen)

    # An answer leaves

    def is_late(self, visit: Visit) -> bool:
        """Tell whether something has ended since a request was judged: maybe its session."""
        return visit.seen is not None and visit.seen.lives_at != self.generation()

    async def answer(
        self, visit: Visit, status: int, headers: Sequence[Header], exchange: Exchange | None, world: World
    ) -> Sequence[Header] | Response:
        """Tell what may leave of an answer whose headers are ready, and learn of who it signs in.

        Args:
            visit: What was found out about the request.
            status: The answer's.
            headers: The answer's.
            exchange: What the request says of the provider's session.
            world: Where to ask the store.

        Returns:
            The headers to send, or the answer to send in the app's place, since nothing can be told.
        """
        try:
            cookies, carried = await self._carried(headers)
            lives = True
            if self.is_late(visit) or not self._is_known(visit, cookies, carried):
                sid = exchange.sid if exchange else None
                lives = await world.beside(self._leave(visit, cookies, carried, sid, world))
        except Exception as error:  # any engine's
            await world.beside(self._unsure(error))
            return pages.unavailable()
        if not lives:
            kept = [(name, value) for name, value in headers if not self._config.signs_in(name, value)]
            return [*kept, *self._deletions()]
        added: list[Header] = []
        if visit.dead and visit.seen is None:
            added += self._deletions(unless_set=headers)
        if exchange is not None:
            signs_in = isinstance(carried, Seen) or (carried is not None and carried.claims is not None)
            location = next((value for name, value in headers if name.lower() == "location"), None)
            added += exchange.headers(status, None if signs_in else location)
        return [*headers, *added]

    async def _carried(self, headers: Sequence[Header]) -> tuple[str, Session | Seen | None]:
        """Return the session that an answer carries, with its cookies."""
        pairs = [
            value.partition(";")[0].strip()
            for name, value in headers
            if self._config.sets_session(name, value)
        ]
        cookies = "; ".join(pair for pair in pairs if pair.partition("=")[2].strip('"'))
        if not cookies:
            return "", None
        return cookies, await self._session_in(cookies, saved=True)

    async def _session_in(self, cookies: str, *, saved: bool = False) -> Session | Seen | None:
        """Return what cookies lead to; nothing, if it is neither a user's session nor one to sign in under.

        Args:
            cookies: A `Cookie` header.
            saved: The app has just saved it: what it keeps on the server may be another user's under the same cookie.
        """
        seen = self._by_cookies.get(cookies)
        if seen is not None and seen.until > time.time() and not (saved and seen.is_server_side):
            return seen
        session = await settle(self._config.session.read(cookies))
        if session is None and self._config.server_side:
            # Some frameworks start the next session under an id that leads nowhere: it must not be one that has ended.
            return Session(cookies.partition("=")[2], None, {})
        return None if session is None or (session.claims is None and session.id is None) else session

    def _is_known(self, visit: Visit, cookies: str, carried: Session | Seen | None) -> bool:
        """Tell whether an answer carries nothing that the session index must be told."""
        if carried is None or carried is visit.seen:
            return True
        if isinstance(carried, Seen):
            return False
        if carried.claims is None:
            return True
        seen = self._recalled(carried)
        if seen is None or seen is not visit.seen:
            return False
        _put(self._by_cookies, cookies, seen)
        return True

    async def _leave(
        self, visit: Visit, cookies: str, carried: Session | Seen | None, sid: str | None, world: World
    ) -> bool:
        """Tell whether an answer may carry a session, and learn of it."""
        generation = await self._renew()
        if visit.seen is not None and not self._lives(visit.seen, generation):
            await self._undo(visit.seen, carried, world)
            return False
        if self._is_known(visit, cookies, carried):
            return True
        seen = carried
        if not isinstance(seen, Seen):
            seen = await self._learn(visit, cast("Session", carried), sid, world)
        if not self._lives(seen, generation):
            await self._undo(seen, carried, world)
            return False
        _put(self._by_cookies, cookies, seen)
        return True

    async def returned(self, visit: Visit, world: World) -> None:
        """Look once more, now that the app has returned: streams and background tasks save late."""
        try:
            if await self.has_ended(visit, world) and visit.seen is not None:
                await self._undo(visit.seen, None, world)
        except Exception as error:  # any engine's
            await self._unsure(error)

    async def has_ended(self, visit: Visit, world: World) -> bool:
        """Tell whether the session of a request that is still open has ended.

        Raises:
            Exception: The store cannot be asked.
        """
        if visit.seen is None:
            return False
        return not self._lives(visit.seen, await world.beside(self._renew()))

    async def signed_in(self, session: Session, sid: str | None, world: World) -> None:
        """Record a sign-in that the app tells.

        Raises:
            LogoutError: The session has ended already, or its claims are like those of any other sign-in.
        """
        seen = await self._learn(self.nobody, session, sid, world)
        if seen.group is None:
            raise LogoutError("the claims have no iat, nonce or uti: give all claims of the ID token")
        if seen.ended:
            raise LogoutError("the session has ended already")

    async def write_back(self, world: World) -> None:
        """Catch up with the store, and end again what it has lost: it was restored, or took over without all marks.

        Raises:
            Exception: The store cannot be asked.
        """
        await self._renew()
        lost = self._marks.lost(time.time())
        if lost:
            logger.error("the store has lost %d ended marks: this worker writes them back", len(lost))
        for first in range(0, len(lost), _WRITTEN_AT_ONCE):
            handles = tuple(handle for handle, _ in lost[first : first + _WRITTEN_AT_ONCE])
            await end_sessions(self._config, Work("late"), Steps(self._config, world), target=Target(handles))
        self._marks.are_written_back()

    def state(self) -> WorkerState:
        """Return what this worker knows at the moment."""
        in_step = self.generation() is not None and self._marks.generation is not None
        return WorkerState(in_step, len(self._marks), len(self._config.unmarked))

    def sweep(self) -> None:
        """Forget what is over."""
        now = time.time()
        self._marks.forget(now)
        for seen in [seen for seen in list(self._by_handle.values()) if seen.until <= now]:
            self._by_handle.pop(seen.handles[0], None)
            seen.lives_at = _NO_GENERATION

    # What is remembered

    async def _renew(self) -> int:
        """Take in the marks that are new, and return the generation that they are complete for, if it can be told."""
        generation = self.generation()
        marks = self._marks
        while generation is None or generation != marks.generation:
            place = marks.place
            found = await settle(self._config.store.marks_since(place[1], limit=_MARKS_AT_ONCE))
            if not marks.take(found, place):
                self._forget()  # what this worker knew of the index may be lost there
            elif len(found.marks) < _MARKS_AT_ONCE:
                marks.generation = generation
                break
        return _NO_GENERATION if generation is None else generation

    def _lives(self, seen: Seen, generation: int) -> bool:
        """Tell whether a session lives, by marks that are complete for a generation; and note it."""
        doubts = self._doubts
        if self._has_ended(seen):
            return False
        seen.lives_at = generation
        if self._doubts != doubts:  # another thread could not commit an ending meanwhile
            seen.lives_at = _NO_GENERATION
        return True

    def _has_ended(self, seen: Seen) -> bool:
        """Tell whether a session has ended, by the marks that are held."""
        if not seen.ended and self._marks.has(seen.handles):
            seen.ended = True
        names = seen.handles if seen.known is None else (*seen.handles, *seen.known.keys)
        return seen.ended or self._config.unmarked.names(names)

    async def _unsure(self, error: Exception) -> None:
        if time.monotonic() < self._unsure_again_at:
            return  # it has just been told
        self._unsure_again_at = time.monotonic() + _TOLD_AGAIN_SECONDS
        # Only our own errors' text: an engine's may quote what it was given.
        said = str(error) if isinstance(error, LogoutError) else type(error).__name__
        await self._config.tell(StoreUnreachable(said))

    def _deletions(self, unless_set: Sequence[Header] = ()) -> list[Header]:
        """Return what deletes the session's cookies, and those that the user named, unless the app sets them anew."""
        if any(self._config.sets_session(name, value) for name, value in unless_set):
            return []
        return list(self._config.deletion_headers())

    def _recalled(self, session: Session) -> Seen | None:
        """Return what is known of a session by its handle, if it is still the sign-in that it was."""
        names = handles(self._config.seal, session)
        if session.claims is None:
            return Seen(names, None)
        seen = self._by_handle.get(names[0]) if names else None
        if seen is None or seen.known is None or session.id is None:
            return seen  # a handle of claims stands for these very claims
        return seen if seen.known.sign_in == sign_in(self._config.seal, session) else None

    async def _recognise(self, session: Session, world: World) -> Seen:
        """Return what is known of a session that a request bears; the index records it at first sight."""
        if (seen := self._recalled(session)) is not None:
            return seen
        known = self._config.known(session)
        if not known.handles:
            return await self._unknowable(known)
        if self._marks.has(known.handles):
            return Seen(known.handles, known, ended=True)
        store = self._config.store
        record = await self._record_of(known.handles)
        old = None if record is None else opened(self._config.seal, record.data)
        group = secrets.token_hex(16) if record is None else record.session
        if record is None:
            lives = await settle(store.add(self._new_record(known, group), sign_in=False))
            if (
                not lives
            ):  # it ended by its sid or sub before anybody knew it: now it is known what is left of it
                await end_sessions(self._config, Work("first-sight", (known,)), Steps(self._config, world))
            elif (now_there := await self._record_of(known.handles)) is not None:
                group = now_there.session  # another request of the same session was quicker
        elif set(known.keys) <= set(record.keys):
            lives = True
        elif (
            old is not None and old.user != known.user
        ):  # who signed in since, and the answer did not show it
            group = secrets.token_hex(16)
            lives = await settle(store.add(self._new_record(known, group), sign_in=True))
            await self._replaced(old, known, world)
        else:
            known = replace(known, signed_in_at=None if old is None else old.signed_in_at)
            lives = await settle(store.join(self._new_record(known, group)))
        seen = self._put_by_handle(Seen(known.handles, known, group, ended=not lives))
        if record is not None:
            seen.until = min(seen.until, record.expires_at)
        return seen

    async def _learn(self, visit: Visit, session: Session, sid: str | None, world: World) -> Seen:
        """Record the session that an answer carries: a sign-in, or one that goes on under another handle."""
        known = self._config.known(session, sid=None if (session.claims or {}).get("sid") else sid)
        if not known.handles:
            return await self._unknowable(known)
        store = self._config.store
        before, group = await self._before(visit, known)
        if before is not None and group is not None and before.user == known.user:
            known = replace(known, signed_in_at=before.signed_in_at)
            lives = await settle(store.join(self._new_record(known, group)))
        else:
            group = secrets.token_hex(16)
            known = replace(known, signed_in_at=time.time())
            lives = await settle(store.add(self._new_record(known, group), sign_in=True))
            if before is not None and before.user != known.user:
                await self._replaced(before, known, world)
        return self._put_by_handle(Seen(known.handles, known, group, ended=not lives))

    async def _before(self, visit: Visit, known: KnownSession) -> tuple[KnownSession | None, str | None]:
        """Return who was signed in before an answer, and the group of that session."""
        seen = visit.seen
        if seen is None or seen.known is None:
            return None, None
        if known.session_id is not None:
            # Another worker may have seen another sign-in under the same cookie: the index knows better than memory.
            for names in dict.fromkeys((known.handles, seen.handles)):
                record = await self._record_of(names)
                if record is not None:
                    return opened(self._config.seal, record.data), record.session
        return seen.known, seen.group

    async def _replaced(self, old: KnownSession, new: KnownSession, world: World) -> None:
        """End the session of a user in whose place another has signed in."""
        if old.handles == new.handles:  # the same server-side session, which is the other's now
            old = replace(old, session_id=None, handles=())
        elif old.session_id == new.session_id:
            old = replace(old, session_id=None)
        await end_sessions(self._config, Work("sign-in", (old,)), Steps(self._config, world))

    async def _undo(self, seen: Seen, carried: Session | Seen | None, world: World) -> None:
        """Delete what a request has saved of a session that ended while it was running."""
        await self._config.tell(SessionRefused(seen.short, during=True))
        steps = Steps(self._config, world)
        known = seen.known
        ids = {known.session_id if known else None, carried.id if isinstance(carried, Session) else None}
        for session_id in ids - {None}:
            await steps.do("session", partial(self._delete, session_id))
        # Guarded caches have refused what came late; a removal would hit the user's next sign-in.
        if known is not None and not self._config.guarded:
            await look_again(self._config, Outcome(Work("late", (known,)), (), Removed({})), steps)
        if steps.left:
            await self._config.tell(LogoutFailed("late", seen.short, tuple(steps.left)))
            await put_off(self._config, Work("late", () if known is None else (known,)), Target())

    async def _delete(self, session_id: str | None) -> None:
        await settle(self._config.session.delete(session_id or ""))

    async def _unknowable(self, known: KnownSession) -> Seen:
        if not self._told_unknowable:
            self._told_unknowable = True
            await self._config.tell(SessionUnknowable())
        return Seen((), known)

    async def _record_of(self, names: tuple[str, ...]) -> SessionRecord | None:
        for handle in names:
            record = await settle(self._config.store.get(handle))
            if record is not None:
                return record
        return None

    def _new_record(self, known: KnownSession, group: str) -> SessionRecord:
        expires_at = time.time() + self._config.session_lifetime_seconds
        return known.record(self._config.seal, session=group, expires_at=expires_at)

    def _put_by_handle(self, seen: Seen) -> Seen:
        seen.until = time.time() + self._config.session_lifetime_seconds
        self._all.add(seen)
        _put(self._by_handle, seen.handles[0], seen)
        return seen

    def _found(self, name: str | bytes | None, cookies: str, seen: Seen) -> Visit:
        plain = seen.known is not None and not self.minds_return and not self._config.close_streams
        visit = Visit(seen, plain=plain)
        # What an anonymous session keeps on the server may change without another cookie.
        if seen.known is not None and len(cookies) <= _LONGEST_REMEMBERED:
            _put(self._by_cookies, cookies, seen)
            if name is not None:
                self._remember(name, visit)
        return visit

    def _remember(self, name: str | bytes, visit: Visit) -> None:
        if len(name) <= _LONGEST_REMEMBERED:
            _put(self.visits, sample(name), (name, visit))

    def _doubt(self) -> None:
        """Have every session looked at again, those of running requests as well."""
        self._doubts += 1
        while True:
            with suppress(RuntimeError):  # another thread has added one
                everybody = list(self._all)
                break
        for seen in everybody:
            seen.lives_at = _NO_GENERATION
        self.visits.clear()

    def _forget(self) -> None:
        """Have every session looked up again."""
        self._doubt()
        self._by_cookies.clear()
        self._by_handle.clear()


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
