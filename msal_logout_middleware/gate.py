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
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import cast

from . import pages
from ._drive import World, settle
from .caches import Removed
from .configuration import Configuration
from .cookies import MOST_SESSIONS, Names, hides_session, is_torn, session_cookies, without
from .ending import Outcome, Steps, Target, Work, end_sessions, look_again, put_off
from .errors import LogoutError
from .events import LogoutFailed, SessionRefused, StoreUnreachable
from .exchange import COOKIE_NAME, Exchange
from .http import Header, Response, deletes, for_one_browser
from .learning import Learning
from .memory import Memory, Seen, Visit, WorkerState
from .session import Session

logger = logging.getLogger("msal_logout_middleware")

_WRITTEN_AT_ONCE = 500
_TOLD_AGAIN_SECONDS = 1.0  # while the store is away

Found = list[tuple[str, "Session | Seen"]]  # each with its cookies


class Gate:
    """What one worker lets pass.

    `generation` and `visits` are those of its `Memory`, for the doors. `nobody` is the visit of a request that bears
    no session. `learns_exchanges` tells whether requests may say something of the provider's session.

    Args:
        config: The configuration.
    """

    def __init__(self, config: Configuration) -> None:
        self.configuration = self._config = config
        self._memory = Memory(config)
        self._learning = Learning(config, self._memory)
        self._unsure_again_at = -math.inf
        self.generation: Callable[[], int | None] = self._memory.generation
        self.visits = self._memory.visits
        self.learns_exchanges = config.provider.session_state_is_sid
        self.nobody = Visit(plain=True)

    @cached_property
    def minds_return(self) -> bool:
        """Whether an ended session is to be looked for once more when the app has returned."""
        # A session that is all in the cookie is not saved later than its headers; guarded caches refuse late tokens.
        return self._config.server_side or not self._config.guarded

    @cached_property
    def names(self) -> Names:
        """The names of the session's cookies."""
        return Names.of(self._config.session.cookies)

    # A request comes in

    def may_learn(self, visit: Visit, method: str, query: str) -> bool:
        """Tell cheaply whether a visitor's request may say something of the provider's session."""
        if not self.learns_exchanges or (visit.seen is not None and visit.seen.known is not None):
            return False
        return not visit.plain or method == "POST" or "session_state=" in query

    async def admit(self, cookie_header: str, header: str | bytes, world: World) -> Visit:
        """Tell whose session a request bears, and whether it lives.

        Args:
            cookie_header: The `Cookie` header, its bytes as Latin-1.
            header: The same as the door has it, by which the visit is remembered.
            world: Where to ask the store.

        Returns:
            What was found out. Nothing is raised: if the store cannot be asked, that is `unsure`.
        """
        found: Found = []
        try:
            candidates = session_cookies(cookie_header, self.names)
            if len(candidates) > MOST_SESSIONS or is_torn(cookie_header, self.names):
                return Visit(dead=candidates, cuts_all=True)
            for cookies in candidates:
                what = await self._session_in(cookies)
                if what is not None:
                    found.append((cookies, what))
            # What several cookies, or odd ones, lead to must be looked at each time.
            is_odd = len(candidates) > 1 or hides_session(cookie_header, self.names)
            if not found and not (is_odd and await self._session_in(cookie_header)):
                plain = not (self.learns_exchanges and COOKIE_NAME in cookie_header)
                visit = self.nobody if plain else Visit()
                if not any(name in cookie_header for name in self.names):
                    self._memory.remember(header, visit)
                return visit
            if not is_odd and (visit_of_memory := self._judged(found, header)) is not None:
                return visit_of_memory
            header_of_one = None if is_odd else header
            return await world.beside(self._judge(found, header_of_one, cookie_header, world))
        except Exception as error:  # any engine's
            await world.beside(self._unsure(error))
            return Visit(unsure=True)

    def _judged(self, found: Found, header: str | bytes) -> Visit | None:
        """Return the judgement of a request where memory has it; otherwise the store must be asked."""
        generation = self.generation()
        if generation is None or generation != self._memory.marks.generation:
            return None
        ((cookies, what),) = found
        seen = what if isinstance(what, Seen) else self._memory.recalled(what)
        if seen is None or self._memory.is_doubtful(seen) or not self._memory.lives(seen, generation):
            return None
        return self._found(header, cookies, seen)

    async def _judge(
        self, found: Found, header: str | bytes | None, cookie_header: str, world: World
    ) -> Visit:
        """Judge a request by what the store says.

        Args:
            found: The sessions that its cookies lead to.
            header: What the visit is remembered by; `None` if it is not to be.
            cookie_header: Its `Cookie` header.
            world: Where to ask the store.

        Raises:
            Exception: The store cannot be asked.
        """
        dead: list[str] = []
        visit, is_put_off = Visit(), False
        doubts = self._memory.doubts
        generation = await self._memory.renew()
        for cookies, remembered in found:
            what: Session | Seen | None = remembered
            if doubts != self._memory.doubts:  # it is not remembered any more: the index may have lost it
                what = await self._session_in(cookies)
            if what is None:
                continue
            seen = what if isinstance(what, Seen) else await self._learning.recognise(what, world)
            if await self._memory.judge(seen, generation):
                visit = self._found(header, cookies, seen)
            else:
                await self._config.tell(SessionRefused(seen.short, during=False))
                dead.append(cookies)
                is_put_off |= not seen.ended
        left = without(cookie_header, dead)
        candidates = session_cookies(left, self.names)
        if not set(candidates) <= set(session_cookies(cookie_header, self.names)):
            # Such as of a session in chunks: what is left would lead where nobody has looked.
            return Visit(dead=(cookie_header,), cuts_all=True)
        if len(candidates) > 1 or hides_session(left, self.names):
            visit = await self._taken(left, generation, world) or visit
        if not dead:
            return visit
        if visit.seen is None:  # what else would sign the user in again goes as well
            for cookie in self._config.more_cookies:
                dead += session_cookies(cookie_header, (cookie.name,))
        return replace(visit, dead=tuple(dead), plain=False, is_put_off=is_put_off)

    async def _taken(self, cookie_header: str, generation: int, world: World) -> Visit | None:
        """Return the visit of the session that the framework takes of cookies none of which is dead by itself.

        What its request leads to is that session's: a sign-in of another's would outlive it.
        """
        session = await settle(self._config.session.read(cookie_header))
        if session is None or (session.claims is None and session.id is None):
            return None
        seen = await self._learning.recognise(session, world)
        if not await self._memory.judge(seen, generation):
            # Together they lead to what none of them led to alone.
            return Visit(dead=(cookie_header,), cuts_all=True)
        return self._found(None, cookie_header, seen)

    def _found(self, header: str | bytes | None, cookies: str, seen: Seen) -> Visit:
        plain = seen.known is not None and not self.minds_return and not self._config.close_streams
        return self._memory.found(header, cookies, seen, plain=plain)

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
            cookies, carried = await self._carried(visit, headers)
            lives = True
            if self.is_late(visit) or not self._is_known(visit, cookies, carried):
                sid = exchange.sid if exchange else None
                lives = await world.beside(self._leave(visit, cookies, carried, sid, world))
        except Exception as error:  # any engine's
            await world.beside(self._unsure(error))
            return pages.unavailable()
        if not lives:
            kept = [(name, value) for name, value in headers if not self._config.signs_in(name, value)]
            return [*for_one_browser(kept), *self._deletions()]
        added: list[Header] = []
        if visit.dead and visit.seen is None and (deletions := self._deletions(unless_set=headers)):
            headers = for_one_browser(headers)
            added += deletions
        if exchange is not None:
            signs_in = isinstance(carried, Seen) or (carried is not None and carried.claims is not None)
            location = next((value for name, value in headers if name.lower() == "location"), None)
            added += exchange.headers(status, None if signs_in else location)
        return [*headers, *added]

    async def _carried(self, visit: Visit, headers: Sequence[Header]) -> tuple[str, Session | Seen | None]:
        """Return the session that an answer carries, with its cookies: the chunks that it sets and those that stay."""
        sets = [value for name, value in headers if self._config.sets_session(name, value)]
        cookies = [value.partition(";")[0].strip() for value in sets if not deletes(value)]
        if not cookies:
            return "", None
        anew = {_name(value) for value in sets}
        staying = [pair for pair in visit.cookies.split("; ") if _name(pair) in self.names]
        cookies = [*(pair for pair in staying if _name(pair) not in anew), *cookies]
        return "; ".join(cookies), await self._session_in("; ".join(cookies), saved=True)

    async def _session_in(self, cookies: str, *, saved: bool = False) -> Session | Seen | None:
        """Return the session that cookies identify; `None` if it is neither a user's nor one to sign in under.

        Args:
            cookies: A `Cookie` header.
            saved: The app has just saved it: what it keeps on the server may be another user's under the same cookie.
        """
        seen = self._memory.of_cookies(cookies)
        if seen is not None and not (saved and seen.is_server_side) and self._memory.is_still(seen):
            return seen
        session = await settle(self._config.session.read(cookies))
        if session is None and self._config.server_side:
            # Some frameworks take an unknown id for the next session: it must not be one that has ended.
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
        seen = self._memory.recalled(carried)
        if seen is None or seen is not visit.seen:
            return False
        self._memory.keep_cookies(cookies, seen)
        return True

    async def _leave(
        self, visit: Visit, cookies: str, carried: Session | Seen | None, sid: str | None, world: World
    ) -> bool:
        """Tell whether an answer may carry a session, and learn of it."""
        generation = await self._memory.renew()
        if visit.seen is not None and not await self._memory.judge(visit.seen, generation):
            await self._undo(visit.seen, carried, world)
            return False
        if self._is_known(visit, cookies, carried):
            return True
        seen = carried
        if not isinstance(seen, Seen):
            seen = await self._learning.learn(visit, cast("Session", carried), sid, world)
        if not await self._memory.judge(seen, generation):
            await self._undo(seen, carried, world)
            return False
        self._memory.keep_cookies(cookies, seen)
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
        return not await world.beside(self._lives_now(visit.seen))

    async def _lives_now(self, seen: Seen) -> bool:
        return await self._memory.judge(seen, await self._memory.renew())

    async def signed_in(self, session: Session, sid: str | None, world: World) -> None:
        """Record a sign-in that the app tells.

        Raises:
            LogoutError: The session has ended already, or its claims are like those of any other sign-in.
        """
        seen = await self._learning.learn(self.nobody, session, sid, world)
        if seen.group is None:
            raise LogoutError("the claims have no iat, nonce or uti: give all claims of the ID token")
        if seen.ended:
            raise LogoutError("the session has ended already")

    async def write_back(self, world: World) -> None:
        """Catch up with the store, and end again what it has lost: it was restored, or took over without all marks.

        Raises:
            Exception: The store cannot be asked.
        """
        await self._memory.renew()
        losses = self._memory.marks.losses
        lost = self._memory.marks.lost(time.time())
        if lost:
            logger.error("the store has lost %d ended marks: this worker writes them back", len(lost))
        for first in range(0, len(lost), _WRITTEN_AT_ONCE):
            handles = tuple(handle for handle, _ in lost[first : first + _WRITTEN_AT_ONCE])
            await end_sessions(self._config, Work("late"), Steps(self._config, world), target=Target(handles))
        self._memory.marks.are_written_back(losses)

    def state(self) -> WorkerState:
        """Return what this worker knows at the moment."""
        in_step = self.generation() is not None and self._memory.marks.generation is not None
        return WorkerState(in_step, len(self._memory.marks), len(self._config.unmarked))

    def sweep(self) -> None:
        """Forget what is over."""
        self._memory.sweep()

    async def _unsure(self, error: Exception) -> None:
        """Tell that the store cannot be asked, once in a while."""
        if time.monotonic() < self._unsure_again_at:
            return  # it has just been told
        self._unsure_again_at = time.monotonic() + _TOLD_AGAIN_SECONDS
        # Only our own errors' text: an engine's may quote what it was given.
        said = str(error) if isinstance(error, LogoutError) else type(error).__name__
        await self._config.tell(StoreUnreachable(said))

    def _deletions(self, unless_set: Sequence[Header] = ()) -> list[Header]:
        """Return what deletes the session's cookies, and those that go with them, unless the app sets them anew."""
        if any(self._config.sets_session(name, value) for name, value in unless_set):
            return []
        return list(self._config.deletion_headers())

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


def _name(pair: str) -> str:
    return pair.partition("=")[0].strip()
