"""To end sessions: mark, delete, remove accounts, verify. Every kind of logout comes through here.

1. The mark comes first, with the journal, in one store operation: it says what has ended, and what is left to do is
   known to every worker.
2. A step that fails is retried within a bound, and does not keep the other steps from being done.
3. The journal's row is cleared last, and only if every step was verified. Only then is a sign-out done.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

from ._drive import MaybeAwaitable, World, settle
from .caches import Removed, removed_from
from .configuration import Configuration
from .errors import LogoutError
from .events import Channel, LogoutEnded, LogoutFailed, LogoutStarted
from .records import KnownSession, key, opened
from .seal import Seal
from .session import Claims, Session
from .stores import Ended, Ending, JournalRow, Jti, KeyMark

logger = logging.getLogger("msal_logout_middleware")

T = TypeVar("T")
_FIRST_WAIT_SECONDS = 0.05
# By how much a mark outlives its session: frameworks tell a cookie's age by other clocks, and in whole seconds.
_BEYOND_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Target:
    """Which sessions are to end, beside those that are known already.

    Args:
        handles: Handles that are dead, known to the session index or not.
        found_by: Keys of the session index: all sessions that it finds by one of them.
        spared: Sessions that do not end, though they are found.
        keys: Marks for sessions that the index never saw.
        jti: The logout token's, which must not have been used before.
        asked_at: When the sign-out was asked for, if that is a while ago, in seconds since 1970.
    """

    handles: tuple[str, ...] = ()
    found_by: tuple[str, ...] = ()
    spared: tuple[str, ...] = ()
    keys: tuple[KeyMark, ...] = ()
    jti: Jti | None = None
    asked_at: float | None = None

    def sparing(self, sessions: tuple[str, ...]) -> Target:
        """Return the target without some more sessions."""
        return replace(self, spared=(*self.spared, *sessions)) if sessions else self


@dataclass(frozen=True, slots=True)
class Work:
    """What is left to do once the marks are written; enough for any worker to go on with it.

    Args:
        channel: How the sign-out started.
        sessions: The sessions that have ended.
        user: Claims of a user whose accounts go besides; empty if nobody is named.
        row: The journal's row, once there is one.
    """

    channel: Channel
    sessions: tuple[KnownSession, ...] = ()
    user: Claims = field(default_factory=dict, repr=False)
    row: str | None = None

    @property
    def claims(self) -> Claims:
        """The claims that the provider is told the logout by."""
        return self.sessions[0].claims if self.sessions else self.user

    @property
    def short(self) -> str:
        """The start of the first session's handle, for the log."""
        for session in self.sessions:
            if session.handles:
                return session.handles[0][:12]
        return ""

    @property
    def count(self) -> int:
        """How many sessions that is; one of several handles is one."""
        return len({session.group or session.handles for session in self.sessions})

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return not self.sessions and not self.user

    def as_json(self) -> dict[str, Any]:
        """Return the work as a JSON value, to be sealed."""
        sessions = [session.as_json() for session in self.sessions]
        return {"channel": self.channel, "sessions": sessions, "user": dict(self.user), "row": self.row}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Work:
        """Return the work that `as_json` made the value of."""
        sessions = tuple(KnownSession.from_json(session) for session in value["sessions"])
        return cls(value["channel"], sessions, value["user"], value["row"])


@dataclass(frozen=True, slots=True)
class Outcome:
    """How far a sign-out came.

    Args:
        work: The work, with its journal row.
        left: The steps that failed; empty when all has ended and nothing is left of it.
        removed: What was removed from token caches.
        replayed: The logout token had been used before, so nothing was done.
    """

    work: Work
    left: tuple[str, ...]
    removed: Removed
    replayed: bool = False

    @property
    def complete(self) -> bool:
        """Whether all has ended and nothing is left of it."""
        return not self.left


class Unfinished(NamedTuple):
    """An ending that could not be committed.

    Args:
        work: The sessions that are known.
        target: The sessions that were to be found, and when that was asked for.
    """

    work: Work
    target: Target


class Steps:
    """Does the steps of one sign-out: each at least once, and again until the bound that they share is reached.

    Args:
        config: How long to retry.
        world: Where to wait before a retry.
        retry_seconds: How long to retry, if not as the configuration says.
    """

    def __init__(self, config: Configuration, world: World, *, retry_seconds: float | None = None) -> None:
        self.left: list[str] = []
        self._world = world
        seconds = config.retry_seconds if retry_seconds is None else retry_seconds
        self._until = time.monotonic() + seconds

    async def do(self, name: str, step: Callable[[], Awaitable[T]]) -> T | None:
        """Return a step's result; `None`, and its name in `left`, if it failed to the last."""
        wait = _FIRST_WAIT_SECONDS
        while True:
            try:
                return await step()
            except Exception as error:  # any engine's error; what failed is retried, and said
                if time.monotonic() + wait > self._until:
                    # Only our own errors' text: an engine's may quote what it was given.
                    said = error if isinstance(error, LogoutError) else type(error).__name__
                    logger.error("logout: %s failed: %s", name, said)  # noqa: TRY400
                    self.leave(name)
                    return None
            await settle(self._world.sleep(wait))
            wait *= 2

    def leave(self, name: str) -> None:
        """Leave a step undone."""
        if name not in self.left:
            self.left.append(name)


async def end_sessions(
    config: Configuration,
    work: Work,
    steps: Steps,
    *,
    target: Target | None = None,
    contents: Session | None = None,
    view_follows: bool = False,
) -> Outcome:
    """End sessions, and remove their accounts.

    Args:
        config: The configuration.
        work: The sessions that are known already.
        steps: Does the steps.
        target: More sessions, which the store is to find and end.
        contents: What the framework keeps in the one known session, where it has just been read.
        view_follows: The app's own view is still to be called with the session; `look_again` and `finish` come
            after it.

    Returns:
        What was done, and what is left. Nothing is raised for a part that failed.
    """
    target = target or Target()
    drops = config.drops_caches and not view_follows and all(session.handles for session in work.sessions)
    ended = await steps.do("mark", lambda: _mark(config, work, target, drops=drops))
    if ended is None:
        await put_off(config, work, target)
    elif not ended.claimed:
        return Outcome(work, (), Removed({}), replayed=True)
    else:
        done = frozenset(record.data for record in ended.records if record.handle in ended.dropped)
        work = _with_found(
            config, work, [record.data for record in ended.records], ended.row, steps, done=done
        )
    if config.tells_what_went and (ended is None or not work.is_empty):
        await config.tell(LogoutStarted(work.channel, work.short))
    dropped = ended.dropped if ended else {}
    outcome = await _clear(config, work, steps, contents=contents, delete=not view_follows, dropped=dropped)
    return outcome if view_follows else await finish(config, outcome, steps)


async def put_off(config: Configuration, work: Work, target: Target) -> None:
    """Have this worker refuse sessions whose ending cannot be committed, and commit it when it can."""
    asked_at = target.asked_at or time.time()
    target = replace(target, asked_at=asked_at)
    # Anybody can send a front-channel call with any `sid`: those must not drive out what somebody vouches for.
    is_vouched = work.channel != "front-channel" or bool(work.sessions)
    groups = await _groups(config, work, target) if is_vouched else ()  # nor ask the store time and again
    names = (*_names(work, target), *groups)
    given_up = config.unmarked.add(Unfinished(work, target), names, vouched=is_vouched, asked_at=asked_at)
    if isinstance(given_up, Unfinished):
        logger.error("logout: more sign-outs than are kept could not be committed: the oldest is given up")
        await config.tell(LogoutFailed(given_up.work.channel, given_up.work.short, ("mark",)))


async def _groups(config: Configuration, work: Work, target: Target) -> frozenset[str]:
    """Return by which names the index groups the sessions that are meant, as far as it can be asked.

    A session that has gone on has handles that say less than the index knows of it.
    """
    found = {session.group for session in work.sessions if session.group}
    with suppress(Exception):  # any engine's: it must do without what the store does not say
        for one in target.found_by:
            found |= {record.session for record in await settle(config.store.find(one))}
    return frozenset(found).difference(target.spared)


async def resume(config: Configuration, row: JournalRow, steps: Steps) -> Outcome:
    """Go on with what a worker has left in the journal.

    Raises:
        LogoutError: No secret opens the row any more.
    """
    value = config.seal.open("journal", row.work)
    if value is None:
        raise LogoutError("a journal row was sealed with a secret that is not configured any more")
    work = _with_found(config, Work.from_json(value), row.data, row.row, steps)
    return await finish(config, await _clear(config, work, steps), steps)


async def look_again(config: Configuration, outcome: Outcome, steps: Steps) -> Outcome:
    """Remove the accounts and delete the sessions once more: the app was running, and may have saved late."""
    late = await _clear(config, outcome.work, steps, read=False)
    left = [step for step in outcome.left if step not in ("accounts", "session")]
    return replace(outcome, left=(*left, *late.left), removed=outcome.removed + late.removed)


async def finish(config: Configuration, outcome: Outcome, steps: Steps) -> Outcome:
    """Clear the journal's row if nothing is left, and tell what happened."""
    work = outcome.work
    if outcome.complete and work.row is not None:
        row = work.row
        await steps.do("journal", lambda: settle(config.store.finish(row)))
        outcome = replace(outcome, left=tuple(steps.left)) if steps.left else outcome
    if not outcome.complete:
        await config.tell(LogoutFailed(work.channel, work.short, outcome.left))
    elif config.tells_what_went and not work.is_empty:
        removed = dict(outcome.removed.counts)
        await config.tell(LogoutEnded(work.channel, work.short, work.count, removed))
    return outcome


async def _mark(config: Configuration, work: Work, target: Target, *, drops: bool) -> Ended:
    ending = Ending(
        handles=(*_handles(work), *target.handles),
        found_by=target.found_by,
        spared=target.spared,
        keys=target.keys,
        expires_at=time.time() + config.session_lifetime_seconds + _BEYOND_SECONDS,
        work=None if work.row else _sealed(config.seal, work),
        jti=target.jti,
        drops=drops,
    )
    return await settle(config.store.end(ending))


def _sealed(seal: Seal, work: Work) -> bytes:
    return _sealed_nothing(seal, work.channel) if work.is_empty else seal.seal("journal", work.as_json())


@lru_cache(maxsize=16)
def _sealed_nothing(seal: Seal, channel: Channel) -> bytes:
    """Return the work of all sign-outs that know no session by themselves: the journal adds what the store finds."""
    return seal.seal("journal", Work(channel).as_json())


async def _clear(
    config: Configuration,
    work: Work,
    steps: Steps,
    *,
    contents: Session | None = None,
    read: bool = True,
    delete: bool = True,
    dropped: Mapping[str, bytes | None] = MappingProxyType({}),
) -> Outcome:
    """Remove the accounts of what has ended, and delete the sessions.

    Args:
        config: The configuration.
        work: The sessions that have ended.
        steps: Does the steps.
        contents: What the framework keeps in the first session, where it has just been read.
        read: Whether what the framework keeps in a session is read first, to see whose it is by now.
        delete: Whether the sessions are deleted.
        dropped: The token caches that went with the sessions themselves, by handle, as `Ended` has them.
    """
    sessions: list[KnownSession] = []
    gone, removed = _went(config, work, dropped)
    cleared = set(gone)
    for ended in work.sessions:
        # The contents are those of the session that was known before others were found.
        session, held, readable = ended, contents if ended is work.sessions[0] else None, True
        if held is None and read and session.session_id is not None:
            found = await steps.do("read", partial(_read, config, session))
            session, held = found or (session, None)
            readable = found is not None
        sessions.append(session)
        account = (*session.user, session.cache_key)
        # One removal does for all sessions of a user, but not where the session's contents may have more.
        if account not in gone and (held is not None or account not in cleared):
            cleared.add(account)
            removal = partial(_remove_accounts, config, session, held)
            removed += await steps.do("accounts", removal) or Removed({})
        if not readable:
            steps.leave("session")  # whose it is by now cannot be told, so it stays for another try
        elif delete and session.session_id is not None:
            await steps.do("session", partial(_delete, config, session.session_id))
    if work.user and not cleared:
        removal = partial(_remove_users_accounts, config, work.user)
        removed += await steps.do("accounts", removal) or Removed({})
    if sessions != [*work.sessions]:
        work = replace(work, sessions=tuple(sessions))
    return Outcome(work, tuple(steps.left), removed)


def _went(
    config: Configuration, work: Work, dropped: Mapping[str, bytes | None]
) -> tuple[set[tuple[object, ...]], Removed]:
    """Return whose token caches went with their sessions, and what was in them, if anybody will ask."""
    wants = work.channel == "rp-initiated"  # the browser takes it to the provider
    counts = wants or work.channel == "admin" or config.tells_what_went
    accounts: set[tuple[object, ...]] = set()
    removed = Removed({})
    for ended in work.sessions:
        caches = [dropped[handle] for handle in ended.handles if handle in dropped]
        if caches:
            accounts.add((*ended.user, ended.cache_key))
        for data in caches:
            if data and counts:
                removed += removed_from(data, ended.claims, wants_id_token=wants)
    return accounts, removed


async def _read(config: Configuration, session: KnownSession) -> tuple[KnownSession, Session | None]:
    """Return the session, and what the framework keeps in it."""
    held = await settle(config.session.load(session.session_id or ""))
    if held is None or held.claims is None or is_of(session, held.claims):
        return session, held
    return replace(session, session_id=None), None  # by now it is another sign-in, which nobody asked to end


async def _remove_accounts(config: Configuration, session: KnownSession, held: Session | None) -> Removed:
    return await _removed(config, config.caches.remove_accounts(session.claims, held, key=session.cache_key))


async def _remove_users_accounts(config: Configuration, user: Claims) -> Removed:
    try:
        key = config.caches.cache_key(user)
    except Exception:  # the app's own callable, given less than a session's claims
        return Removed({})
    return await _removed(config, config.caches.remove_accounts(user, None, key=key))


async def _removed(config: Configuration, removal: MaybeAwaitable[Removed]) -> Removed:
    """Return what was removed. A coroutine over a store that blocks goes on in this thread, not on the loop."""
    if config.caches.is_async or isinstance(removal, Removed):
        return await settle(removal)
    return await removal


async def _delete(config: Configuration, session_id: str) -> None:
    await settle(config.session.delete(session_id))
    again = await settle(config.session.load(session_id))
    if again is not None and again.claims is not None:
        raise RuntimeError("the session is still there after its deletion")


def others(config: Configuration, work: Work) -> Target | None:
    """Return the user's other sessions at this app, if they are to end as well."""
    if config.other_sessions == "keep":
        return None
    found = (key(config.seal, iss=s.claims.get("iss"), sub=s.claims.get("sub")) for s in work.sessions)
    return Target(found_by=tuple(one for by_each_secret in found for one in by_each_secret))


def is_of(session: KnownSession, claims: Claims) -> bool:
    """Tell whether claims are of the session's user."""
    return (claims.get("iss"), claims.get("sub")) == session.user


def _with_found(
    config: Configuration,
    work: Work,
    found: Iterable[bytes],
    row: str | None,
    steps: Steps,
    *,
    done: frozenset[bytes] = frozenset(),
) -> Work:
    """Return the work, with the sessions that the store has ended beside those that were known.

    One that no secret opens is left to a worker that has its secret: the journal's row stays. But not one of those
    that are `done`, since their token caches went with them.
    """
    sessions = {session.handles: session for session in work.sessions}
    for data in found:
        session = opened(config.seal, data)
        if session is None and data in done:
            continue
        if session is None:
            logger.error("a session's record was sealed with a secret that this worker does not have")
            steps.leave("read")
        else:
            sessions[session.handles] = session
    return Work(work.channel, tuple(sessions.values()), work.user, row or work.row)


def _handles(work: Work) -> tuple[str, ...]:
    return tuple(handle for session in work.sessions for handle in session.handles)


def _names(work: Work, target: Target) -> tuple[str, ...]:
    return (*_handles(work), *target.handles, *target.found_by, *(mark.key for mark in target.keys))
