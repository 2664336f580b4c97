"""The contracts of a store: what it is asked to keep, and how it must keep it.

`TokenCacheStore` is the interface for your own database: two methods. `SessionIndex` is what the shipped
stores implement beside it. Each method may be a plain or a coroutine function.

1. Keys are opaque strings. Those of the index are keyed hashes: a store never sees a `sid`, a `sub`, a session id.
2. All that one call changes is committed as one, before the call returns, or not at all.
3. The order of changes is the store's own: a sequence that only grows. No clock decides an order.
4. Expiry is by the clock handed to the store, in seconds since 1970.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from .._drive import MaybeAwaitable

if TYPE_CHECKING:
    from .encryption import Encryption

__all__ = [
    "Ended",
    "Ending",
    "JournalRow",
    "Jti",
    "KeyMark",
    "Loaded",
    "Mark",
    "Marks",
    "Rows",
    "SessionIndex",
    "SessionRecord",
    "Store",
    "TokenCacheRows",
    "TokenCacheStore",
    "Weakness",
]


class Loaded(NamedTuple):
    """A token cache as it stands in the store.

    Args:
        data: The serialized token cache; `None` if there is none.
        version: Names this state of the row. Equal versions mean that nothing was written in between:
            a row that was removed, or removed and written again, has a version that it never had before.
    """

    data: bytes | None
    version: str

    def __repr__(self) -> str:
        """Show no token."""
        return f"Loaded(data={'None' if self.data is None else '...'}, version={self.version!r})"


class TokenCacheStore(Protocol):
    """Keeps serialized token caches, each under a cache key."""

    def load(self, key: str) -> MaybeAwaitable[Loaded]:
        """Return the token cache under a key; one that is absent has `data=None` and a version as well."""
        ...

    def replace(self, key: str, expected: str, data: bytes | None) -> MaybeAwaitable[bool]:
        """Write a token cache (`None`: remove it) if its version is still the expected one.

        Returns:
            Whether it was written. `False`: somebody wrote in between, and nothing was changed.
        """
        ...


class Weakness(NamedTuple):
    """A setting of a store's server by which it may forget sign-outs.

    Args:
        seen: What the setting is, in words for people.
        to_do: What to do about it.
    """

    seen: str
    to_do: str


class Rows(NamedTuple):
    """Some rows of a store, by the names that the store has for them.

    Args:
        names: What the store calls them: never a cache key in clear, but in a store that keeps it so.
        after: Where to go on; `None` after the last.
    """

    names: Sequence[str]
    after: str | None


class TokenCacheRows(Protocol):
    """Goes over all token caches of a store as they stand there: encrypted, if they are; for commands.

    Beside a `TokenCacheStore`, and by the same rules.
    """

    @property
    def encryption(self) -> Encryption | None:
        """What the store was given to encrypt with."""
        ...

    def rows(self, after: str | None = None, *, limit: int) -> MaybeAwaitable[Rows]:
        """Return about `limit` rows that have a token cache: from the first, or from where an earlier answer ended.

        What is there all the time comes at least once; it may come twice, and an answer may be empty before the last.
        """
        ...

    def load_row(self, row: str) -> MaybeAwaitable[Loaded]:
        """Return what stands in a row, as it stands there; `data=None` if there is nothing."""
        ...

    def replace_row(self, row: str, expected: str, data: bytes) -> MaybeAwaitable[bool]:
        """Write what is to stand in a row, as it is, if the row's version is still the expected one.

        The row gets a new version, and is kept for as long as before: nobody has used it. What is removed stays so.
        """
        ...


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """One handle of one session, in the session index.

    Args:
        handle: A keyed hash that names the session's content or id.
        session: Groups the handles of one session.
        keys: Keyed hashes that the session is found by: (`iss`,`sid`), (`iss`,`sub`), (`oid`,`tid`).
        issued_at: The ID token's `iat`, by the provider's clock, in seconds since 1970.
        data: What ending the session needs, sealed.
        expires_at: When the session's lifetime is over, in seconds since 1970.
        cache: The key of its token cache, if that is its user's alone, for a store that `drops_caches`; the others
            need not keep it. A record that is returned need not have it.
    """

    handle: str
    session: str
    keys: tuple[str, ...]
    issued_at: float
    data: bytes = field(repr=False)
    expires_at: float
    cache: str | None = field(default=None, repr=False)


class KeyMark(NamedTuple):
    """Ends sessions that the index never saw: those that `key` names, with an `iat` up to `before`."""

    key: str
    before: float


class Jti(NamedTuple):
    """A `jti` to be claimed: used once, until it expires (seconds since 1970)."""

    key: str
    expires_at: float


@dataclass(frozen=True, slots=True)
class Ending:
    """All that one sign-out writes, in one operation.

    Args:
        handles: Handles that are dead from now on, known to the index or not. One that is known ends its session.
        sessions: Sessions that are dead from now on, with all their handles, present and future.
        found_by: Keys; the sessions that the index finds by any of them at this moment end, whatever their `iat`.
        spared: Sessions that do not end, though a key finds them.
        keys: Marks for sessions that the index never saw.
        expires_at: When the marks may be forgotten, in seconds since 1970.
        work: What is left to do, sealed: the journal's row. Without effect if nothing ends: no handle and no
            session is named, no session is found, and no key is marked. Then only the `jti` is claimed.
        lease_seconds: For how long the row belongs to the worker that writes it.
        jti: What must not have been claimed before.
        drops: Whether a store that `drops_caches` removes the token caches of the records that end, in the same
            operation. If that leaves no session without, there is no row.
    """

    handles: tuple[str, ...] = ()
    sessions: tuple[str, ...] = ()
    found_by: tuple[str, ...] = ()
    spared: tuple[str, ...] = ()
    keys: tuple[KeyMark, ...] = ()
    expires_at: float = 0.0
    work: bytes | None = field(default=None, repr=False)
    lease_seconds: float = 30.0
    jti: Jti | None = None
    drops: bool = False


class Ended(NamedTuple):
    """What `end` did.

    Args:
        claimed: `False` if the `jti` had been claimed before; then nothing was changed.
        row: Names the journal's row, to `finish` it; `None` if there was no work, or is none left.
        sequence: The store's sequence number of this change.
        records: The records of what ended, every handle of every session, as they were.
        dropped: The handles of those whose token caches were removed with them, each with what stood there; `None`
            if nothing did, or another record has it.
    """

    claimed: bool
    row: str | None
    sequence: int
    records: tuple[SessionRecord, ...] = ()
    dropped: Mapping[str, bytes | None] = {}

    def __repr__(self) -> str:
        """Show no token."""
        return f"Ended(claimed={self.claimed}, row={self.row!r}, sequence={self.sequence})"


class JournalRow(NamedTuple):
    """Work that a sign-out left, leased to the caller.

    Args:
        row: Names the row.
        work: The `work` of its `Ending`.
        data: The `data` of the records that ended with it, each once.
    """

    row: str
    work: bytes
    data: tuple[bytes, ...] = ()

    def __repr__(self) -> str:
        """Show no work."""
        return f"JournalRow(row={self.row!r}, work=...)"


class Mark(NamedTuple):
    """An ended mark, as the workers hold it.

    Args:
        kind: What is ended: a `handle` or a `key`.
        value: The handle or the key.
        before: For a key, the `iat` up to which sessions are ended.
        sequence: The store's sequence number of the ending.
        expires_at: When the mark may be forgotten, in seconds since 1970.
    """

    kind: Literal["handle", "key"]
    value: str
    before: float
    sequence: int
    expires_at: float


class Marks(NamedTuple):
    """The marks after a cursor, and the cursor to go on from.

    Args:
        epoch: Names this life of the store; a new one means that the store may have lost marks.
        cursor: The sequence number of the last change looked at.
        marks: In the store's order.
        lost: Marks that an earlier life of the store has told, and that this one may not have.
    """

    epoch: str
    cursor: int
    marks: Sequence[Mark]
    lost: Sequence[Mark] = ()


class SessionIndex(Protocol):
    """Finds sessions, ends them for good, and remembers what is left to do.

    One that has the attribute `drops_caches = True` is a `TokenCacheStore` as well, and does what `Ending.drops` asks
    for; a row so removed has a version that it never had before.
    """

    def add(self, record: SessionRecord, *, sign_in: bool) -> MaybeAwaitable[bool]:
        """Record a session under its first handle.

        Args:
            record: The session.
            sign_in: It was just signed in: it takes the place of a record that its handle has already, and key
                marks that the store already holds do not end it. Otherwise it is seen for the first time: a
                record that its handle has already stays as it is, and a key mark with `before >= issued_at`
                ends a session that has none.

        Returns:
            Whether the session lives. `False`: it has ended, and nothing was recorded.
        """
        ...

    def join(self, record: SessionRecord) -> MaybeAwaitable[bool]:
        """Record one more handle of a session, or more keys of a handle of it, beside those that it has.

        Args:
            record: The handle. If the session has it already, its keys are added to those in the index, and all
                else takes the place of what is there; if another session has it, the record takes its place.

        Returns:
            `False`, and no change, if the session or the handle has ended.
        """
        ...

    def get(self, handle: str) -> MaybeAwaitable[SessionRecord | None]:
        """Return the record of a live handle."""
        ...

    def find(self, key: str) -> MaybeAwaitable[Sequence[SessionRecord]]:
        """Return the live records that are found by a key, every handle of every session."""
        ...

    def end(self, ending: Ending) -> MaybeAwaitable[Ended]:
        """End sessions: marks, journal and `jti` in one operation; the records of what ended move to the journal."""
        ...

    def take(self, *, limit: int, lease_seconds: float) -> MaybeAwaitable[Sequence[JournalRow]]:
        """Lease open journal rows whose lease has run out, the oldest first, so that no other worker does."""
        ...

    def finish(self, row: str) -> MaybeAwaitable[None]:
        """Clear a journal row; no error if it is gone."""
        ...

    def marks_since(self, cursor: int, *, limit: int) -> MaybeAwaitable[Marks]:
        """Return unexpired marks after a cursor (0: from the start), at most `limit`, in order."""
        ...

    def generation(self) -> int | None:
        """Return a number that is another one after each `end` that has returned, in whatever process.

        A plain function, called for each request: it waits for nothing. `None`: that cannot be told now, so that
        `marks_since` must be asked.
        """
        ...


class Store(TokenCacheStore, SessionIndex, Protocol):
    """Both in one engine, as the shipped stores are."""

    def open_rows(self) -> MaybeAwaitable[int]:
        """Return how many journal rows are not finished, leased or not."""
        ...

    def close(self) -> MaybeAwaitable[None]:
        """Release connections. The store may be used again, and opens them anew."""
        ...
