"""How sessions are learnt: recorded when somebody signs in, or when they are met for the first time."""

from __future__ import annotations

import secrets
import time
from dataclasses import replace

from ._drive import World, settle
from .configuration import Configuration
from .ending import Steps, Work, end_sessions
from .events import SessionUnknowable
from .memory import Memory, Seen, Visit
from .records import KnownSession, opened
from .session import Session
from .stores import SessionRecord


class Learning:
    """Tells the session index what one worker sees, and remembers it.

    Args:
        config: The configuration.
        memory: What the worker remembers.
    """

    def __init__(self, config: Configuration, memory: Memory) -> None:
        self._config = config
        self._memory = memory
        self._told_unknowable = False

    async def recognise(self, session: Session, world: World) -> Seen:
        """Return what is known of a session that a request bears; the index records it at first sight."""
        if (seen := self._memory.recalled(session)) is not None:
            return seen
        known = self._config.known(session)
        if not known.handles:
            return await self._unknowable(known)
        if self._memory.marks.has(known.handles):
            return Seen(known.handles, known, ended=True)
        life = self._memory.life
        record = await self._record_of(known.handles)
        if record is None:
            return await self._meet(known, world)
        seen = await self._meet_again(known, record, life, world)
        seen.until = min(seen.until, record.expires_at)
        return seen

    async def _meet(self, known: KnownSession, world: World) -> Seen:
        """Record a session that nobody knew: it was signed in before the middleware was there."""
        life = self._memory.life
        lives, group = await self._recorded(known)
        # What the user of an old one has by now is not its own.
        if not lives and not await self._may_be_an_old_one(known):
            # Its `sid` or `sub` was ended before it was known. Now it is known what is left of it.
            await end_sessions(self._config, Work("first-sight", (known,)), Steps(self._config, world))
        return self._memory.keep(Seen(known.handles, known, group, ended=not lives), life)

    async def _recorded(self, known: KnownSession) -> tuple[bool, str]:
        """Record a session at first sight; tell whether it lives, and its group."""
        group = secrets.token_hex(16)
        if not await settle(self._config.store.add(self._new_record(known, group), sign_in=False)):
            return False, group
        record = await self._record_of(known.handles)
        # It may be of another request of the same session, which was quicker; or the store has been emptied meanwhile.
        return True, group if record is None else record.session

    async def _may_be_an_old_one(self, known: KnownSession) -> bool:
        """Tell whether a session may have ended under its own handle, and its user have signed in since."""
        if not self._memory.marks.may_have(known.handles):
            return False
        return any([await settle(self._config.store.find(key)) for key in known.keys])

    async def _meet_again(self, known: KnownSession, record: SessionRecord, life: int, world: World) -> Seen:
        """Return a session that the index knows; it is told what it does not know of it."""
        store, group, lives = self._config.store, record.session, True
        old = opened(self._config.seal, record.data)
        if set(known.keys) <= set(record.keys):
            known = replace(known, signed_in_at=None if old is None else old.signed_in_at)
        elif old is not None and old.user != known.user:
            # Another user has signed in under this id, and no answer showed it.
            group = secrets.token_hex(16)
            lives = await settle(store.add(self._new_record(known, group), sign_in=True))
            await self._replaced(old, known, group, world)
        else:
            known = replace(known, signed_in_at=None if old is None else old.signed_in_at)
            lives = await settle(store.join(self._new_record(known, group)))
        return self._memory.keep(Seen(known.handles, known, group, ended=not lives), life)

    async def learn(self, visit: Visit, session: Session, sid: str | None, world: World) -> Seen:
        """Record the session that an answer carries: a sign-in, or one that goes on under another handle.

        Args:
            visit: What was found out about the request.
            session: The session that the answer carries.
            sid: The provider's session, as the request or the app says it; only for claims that have no `sid`.
            world: Where to end the session of a user in whose place another has signed in.
        """
        life = self._memory.life
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
                await self._replaced(before, known, group, world)
        return self._memory.keep(Seen(known.handles, known, group, ended=not lives), life)

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

    async def _replaced(self, old: KnownSession, new: KnownSession, group: str, world: World) -> None:
        """End the session of a user in whose place another has signed in."""
        if old.session_id is not None and old.session_id == new.session_id:  # which is the other's now
            old = replace(old, session_id=None, handles=())
            for handle in new.handles[1:]:  # by older secrets: some workers may know no other
                record = replace(self._new_record(new, group), handle=handle)
                await settle(self._config.store.add(record, sign_in=True))
        await end_sessions(self._config, Work("sign-in", (old,)), Steps(self._config, world))

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
        drops = self._config.drops_caches
        return known.record(self._config.seal, session=group, expires_at=expires_at, has_own_cache=drops)
