"""To end a session: mark it, delete it, remove its accounts, verify. Every kind of logout comes through here.

1. The mark comes first, with the journal, in one store operation: it says that the session has ended, and what is
   left to do is known to every worker.
2. A step that fails is retried within a bound, and does not keep the other steps from being done.
3. The journal's row is cleared last, and only if every step was verified. Only then is the session ended.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from ._drive import World, settle
from .caches import Removed
from .configuration import Configuration
from .errors import LogoutError
from .events import Channel, LogoutEnded, LogoutFailed, LogoutStarted
from .session import Claims, Session, plain_claims
from .stores import Ended, Ending

logger = logging.getLogger("msal_logout_middleware")

T = TypeVar("T")
_FIRST_WAIT_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Work:
    """What ending one session needs: enough for any worker to go on with it.

    Args:
        session_id: The server-side session's id; `None` if the session is in the cookie.
        handles: The session's handle, by each secret.
        claims: The session's claims.
        row: The journal's row, once there is one.
    """

    session_id: str | None = field(repr=False)
    handles: tuple[str, ...]
    claims: Claims = field(repr=False)
    row: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the work as a JSON value, to be sealed."""
        return {"id": self.session_id, "handles": self.handles, "claims": dict(self.claims), "row": self.row}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Work:
        """Return the work that `as_json` made the value of."""
        return cls(value["id"], tuple(value["handles"]), value["claims"], value["row"])


@dataclass(frozen=True, slots=True)
class Outcome:
    """How far ending a session came.

    Args:
        work: The work, with its journal row.
        left: The steps that failed; empty when the session has ended and nothing is left of it.
        removed: What was removed from token caches.
    """

    work: Work
    left: tuple[str, ...]
    removed: Removed

    @property
    def complete(self) -> bool:
        """Whether the session has ended and nothing is left of it."""
        return not self.left


class Steps:
    """Does the steps of one sign-out: each at least once, and again until the bound that they share is reached.

    Args:
        config: How long to retry.
        world: Where to wait before a retry.
    """

    def __init__(self, config: Configuration, world: World) -> None:
        self.left: list[str] = []
        self._world = world
        self._until = time.monotonic() + config.retry_seconds

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
                    self.left.append(name)
                    return None
            await settle(self._world.sleep(wait))
            wait *= 2


def work_of(config: Configuration, session: Session) -> Work:
    """Return what ending a session needs."""
    return Work(session.id, config.handles(session), plain_claims(session.claims))


async def end_session(
    config: Configuration,
    work: Work,
    session: Session | None,
    steps: Steps,
    *,
    channel: Channel,
    view_follows: bool = False,
) -> Outcome:
    """End a session, and remove its accounts.

    Args:
        config: The configuration.
        work: The session to end.
        session: The session's contents, where they are known.
        steps: Does the steps.
        channel: How the sign-out started.
        view_follows: The app's own view is still to be called with the session; `look_again` and `finish` come
            after it.

    Returns:
        What was done, and what is left. Nothing is raised for a part that failed.
    """
    await config.tell(LogoutStarted(channel, _short(work)))
    ended = await steps.do("mark", lambda: _mark(config, work))
    if ended is not None:
        work = replace(work, row=ended.row or work.row)
    if session is None and work.session_id is not None:
        session = await steps.do("read", lambda: settle(config.session.load(work.session_id or "")))
        # By now the id may lead to another sign-in, which nobody asked to end.
        if session is not None and not _is_same_user(session, work):
            work = replace(work, session_id=None)
            session = None
    removed = await steps.do("accounts", lambda: settle(config.caches.remove_accounts(work.claims, session)))
    if "read" in steps.left:
        steps.left.append("session")  # whose it is by now cannot be told, so it stays for another try
    elif not view_follows:
        await steps.do("session", lambda: _delete(config, work))
    outcome = Outcome(work, tuple(steps.left), removed or Removed({}))
    return outcome if view_follows else await finish(config, outcome, steps, channel=channel)


async def look_again(config: Configuration, outcome: Outcome, steps: Steps) -> Outcome:
    """Remove the accounts and delete the session once more: the app has been called, and may have saved late."""
    claims = outcome.work.claims
    late = await steps.do("accounts", lambda: settle(config.caches.remove_accounts(claims, None)))
    await steps.do("session", lambda: _delete(config, outcome.work))
    left = [step for step in outcome.left if step not in ("accounts", "session")]
    counts = Counter(outcome.removed.counts) + Counter(late.counts if late else {})
    return replace(outcome, left=(*left, *steps.left), removed=replace(outcome.removed, counts=dict(counts)))


async def finish(config: Configuration, outcome: Outcome, steps: Steps, *, channel: Channel) -> Outcome:
    """Clear the journal's row if nothing is left, and tell what happened."""
    row = outcome.work.row
    if outcome.complete and row is not None:
        await steps.do("journal", lambda: settle(config.store.finish(row)))
        outcome = replace(outcome, left=tuple(steps.left))
    if outcome.complete:
        await config.tell(LogoutEnded(channel, _short(outcome.work), dict(outcome.removed.counts)))
    else:
        await config.tell(LogoutFailed(channel, _short(outcome.work), outcome.left))
    return outcome


async def _mark(config: Configuration, work: Work) -> Ended:
    ending = Ending(
        handles=work.handles,
        expires_at=time.time() + config.session_lifetime_seconds,
        work=None if work.row else config.seal.seal("journal", work.as_json()),
    )
    return await settle(config.store.end(ending))


async def _delete(config: Configuration, work: Work) -> None:
    if work.session_id is None:
        return
    await settle(config.session.delete(work.session_id))
    again = await settle(config.session.load(work.session_id))
    if again is not None and again.claims is not None:
        raise RuntimeError("the session is still there after its deletion")


def _is_same_user(session: Session, work: Work) -> bool:
    claims = session.claims
    return claims is None or all(claims.get(name) == work.claims.get(name) for name in ("iss", "sub"))


def _short(work: Work) -> str:
    return work.handles[0][:12]
