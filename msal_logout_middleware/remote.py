"""The sign-outs that start elsewhere: which sessions they mean, and how those end."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from ._drive import settle
from .caches import Removed
from .configuration import Configuration
from .ending import Outcome, Steps, Target, Work, end_sessions, finish, is_of, put_off
from .events import Channel
from .records import KnownSession, key, opened
from .stores import Jti, KeyMark

# How far the provider's clock may be ahead of ours, where only ours can say what came before.
_AHEAD_SECONDS = 15 * 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sought:
    """Whose sessions are meant, in the words of the provider or of an administrator.

    `sub` and `sid` together mean the sessions that have both; `sid` alone, that session of the provider; `sub`, or
    `oid` with `tid`, all sessions of that user.
    """

    iss: str | None = None
    sub: str | None = field(default=None, repr=False)
    sid: str | None = field(default=None, repr=False)
    oid: str | None = field(default=None, repr=False)
    tid: str | None = None

    def keys(self, config: Configuration) -> tuple[str, ...]:
        """Return what the session index finds them by, by each secret."""
        named = {"iss": self.iss, "sub": self.sub, "sid": self.sid}
        if self.oid:
            named = {"oid": self.oid, "tid": self.tid}
        named = {name: value for name, value in named.items() if value is not None}
        return key(config.seal, **named) if {"sub", "sid", "oid"} & named.keys() else ()

    @property
    def user(self) -> Mapping[str, str]:
        """Claims of the user, if all of their sessions are meant; empty otherwise."""
        if self.sid:
            return {}
        named = {"iss": self.iss, "sub": self.sub, "oid": self.oid, "tid": self.tid}
        return {name: value for name, value in named.items() if value}


@dataclass(frozen=True, slots=True)
class EndedSessions:
    """What `Logout.end_sessions` did.

    Args:
        sessions: How many sessions have ended.
        removed: How many entries of each of MSAL's kinds were removed from token caches.
        left: The steps that failed, which are tried again; empty when all is done.
    """

    sessions: int
    removed: Mapping[str, int]
    left: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether nothing is left to do."""
        return not self.left


async def end(
    config: Configuration,
    sought: Sought,
    steps: Steps,
    *,
    channel: Channel,
    known: tuple[KnownSession, ...] = (),
    before: float | None = None,
    jti: Jti | None = None,
) -> Outcome:
    """End the sessions that are sought, and those that are known already.

    Args:
        config: The configuration.
        sought: Whose sessions are meant.
        steps: Does the steps.
        channel: How the sign-out started.
        known: Sessions that were found by other means.
        before: Sessions that the index never saw end as well if their `iat` is up to this, in seconds since 1970;
            `None`: only sessions that the index knows end.
        jti: The logout token's.

    Returns:
        How far it came. Nothing is raised for a part that failed.
    """
    keys = sought.keys(config)
    work = Work(channel, known, sought.user)
    marks = () if before is None else tuple(KeyMark(one, before) for one in keys)
    target = Target(found_by=keys, keys=marks, jti=jti)
    taken_over = await steps.do("find", lambda: spared(config, keys)) if config.server_side else ()
    if taken_over is None:  # whose they are by now cannot be told, and nobody else's may end
        await put_off(config, work, target)
        steps.leave("mark")
        return await finish(config, Outcome(work, tuple(steps.left), Removed({})), steps)
    return await end_sessions(config, work, steps, target=target.sparing(taken_over))


async def end_by_administrator(config: Configuration, sought: Sought, steps: Steps) -> EndedSessions:
    """End the sessions that an administrator, or the app's own code, names."""
    outcome = await end(config, sought, steps, channel="admin", before=time.time() + _AHEAD_SECONDS)
    return EndedSessions(outcome.work.count, outcome.removed.counts, outcome.left)


async def count(config: Configuration, sought: Sought) -> int:
    """Return how many sessions the index finds."""
    found = [await settle(config.store.find(one)) for one in sought.keys(config)]
    return len({record.session for records in found for record in records})


async def spared(
    config: Configuration, keys: tuple[str, ...], *, signed_in_after: float | None = None
) -> tuple[str, ...]:
    """Return the sessions that are found and not meant.

    Args:
        config: The configuration.
        keys: What finds them.
        signed_in_after: When the sign-out was asked for, if that is a while ago, in seconds since 1970: who has
            signed in since is not meant.

    Returns:
        Those, and sessions that are somebody else's by now under the same id.
    """
    if not config.server_side and signed_in_after is None:
        return ()
    found = []
    for one in keys:
        for record in await settle(config.store.find(one)):
            known = opened(config.seal, record.data)
            if known is None:
                continue
            if _is_later(known, signed_in_after) or await _is_taken_over(config, known):
                found.append(record.session)
    return tuple(found)


def _is_later(known: KnownSession, signed_in_after: float | None) -> bool:
    """Tell whether somebody was seen to sign in after a time; a session that has only gone on since is not later."""
    at = known.signed_in_at
    return at is not None and signed_in_after is not None and at > signed_in_after


async def _is_taken_over(config: Configuration, known: KnownSession) -> bool:
    if known.session_id is None:
        return False
    held = await settle(config.session.load(known.session_id))
    return held is not None and held.claims is not None and not is_of(known, held.claims)
