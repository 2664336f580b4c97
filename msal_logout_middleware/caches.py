"""Where an app keeps its token caches, and how a user's accounts are removed from each.

1. `InStore`: one row for each cache key, in a store. A removal is complete and nothing comes back.
2. `InSession`: in the session's contents. It goes with the session.
3. `Shared`: one live cache of this process, for all users.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import msal

from . import accounts
from ._drive import MaybeAwaitable, is_async, settle
from .errors import Conflict, DamagedCache
from .session import Claims, Session
from .shared_cache import SharedCache
from .stores import TokenCacheStore

logger = logging.getLogger("msal_logout_middleware")

_NOTHING = accounts.Removal(None, {}, {})
_DAMAGED = "a token cache is damaged, so that nobody can use it: %s"


@dataclass(frozen=True, slots=True)
class Removed:
    """What was removed from token caches.

    Args:
        counts: How many entries of each of MSAL's kinds.
        id_token: The user's newest ID token that stood there, for `id_token_hint`.
    """

    counts: Mapping[str, int]
    id_token: str | None = field(default=None, repr=False)

    def __add__(self, other: Removed) -> Removed:
        """Return both together."""
        if not other.counts and other.id_token is None:
            return self
        if not self.counts and self.id_token is None:
            return other
        return Removed(dict(Counter(self.counts) + Counter(other.counts)), self.id_token or other.id_token)


class TokenCaches(Protocol):
    """Where token caches are.

    One that has the attribute `guarded = True` refuses by itself what is saved late for an account that was removed.
    For others the accounts of an ended session are removed once more when its last requests return.
    """

    @property
    def is_async(self) -> bool:
        """Whether it needs an event loop."""
        ...

    def cache_key(self, claims: Claims) -> str | None:
        """Return the key of a user's token cache; `None` where caches have no keys.

        Raises:
            ValueError: The claims lead to none.
        """
        ...

    def remove_accounts(
        self, claims: Claims, session: Session | None, *, key: str | None = None
    ) -> MaybeAwaitable[Removed]:
        """Remove a user's accounts, and make sure that they are gone.

        Args:
            claims: ID token claims of the user: at least those that say who it is.
            session: The session that ends, where its contents are known.
            key: What `cache_key` returned for all claims of the user; made of `claims` otherwise.
        """
        ...


def home_account_id(claims: Claims) -> str:
    """Return the default cache key: `oid.tid` where the claims have both, else `sub`.

    It is the `home_account_id` that MSAL has for the user, but not for guests (their `oid.tid` is that of the
    tenant they are a guest in) or for B2C. It names a row all the same: it is the same whenever they sign in.
    A bare `sub` does not contain its issuer: an app with several issuers needs a `cache_key` of its own.

    Raises:
        ValueError: The claims have neither.
    """
    oid, tid, sub = (claims.get(name) for name in ("oid", "tid", "sub"))
    if oid and tid:
        return f"{oid}.{tid}"
    if not isinstance(sub, str) or not sub:
        raise ValueError("the claims have no `oid` and `tid`, and no `sub`: they lead to no cache key")
    return sub


class InStore:
    """Token caches in a store, each under a key that follows from the user's claims.

    Args:
        store: Where the rows are.
        cache_key: Makes the key of ID token claims.
        attempts: How often a removal is tried against other writers of the row.
        is_one_users: Whether no two users ever share a key, as with the default one: a row may then go as a whole,
            which a store on another machine does in the one operation that ends a session.

    Raises:
        ValueError: `attempts` is below 1.
    """

    def __init__(
        self,
        store: TokenCacheStore,
        *,
        cache_key: Callable[[Claims], str] = home_account_id,
        attempts: int = 16,
        is_one_users: bool | None = None,
    ) -> None:
        if attempts < 1:
            raise ValueError("attempts must be at least 1")
        self.is_async = is_async(store, "load", "replace")
        self.blocking = bool(getattr(store, "blocking", True))
        self.guarded = True
        self.store = store
        self.is_one_users = cache_key is home_account_id if is_one_users is None else is_one_users
        self._cache_key = cache_key
        self._attempts = attempts

    def cache_key(self, claims: Claims) -> str:
        """Return the key of a user's token cache.

        Raises:
            ValueError: The claims lead to none.
        """
        return self._cache_key(claims)

    async def remove_accounts(
        self, claims: Claims, session: Session | None, *, key: str | None = None
    ) -> Removed:
        """Remove a user's accounts from their row; a damaged row is removed as a whole.

        Raises:
            Conflict: Other writers were quicker, `attempts` times.
            ValueError: The claims lead to no cache key.
        """
        key = key or self._cache_key(claims)
        removed, written = Removed({}), False
        for _ in range(self._attempts):
            row = await settle(self.store.load(key))
            removal = _NOTHING if row.data is None else without(row.data, claims)
            # A row that is absent is removed once more: a first save that is on its way must find another version.
            if removal.cache == row.data and (written or row.data is not None):
                return removed  # looked at again: nothing of the user is there
            if await settle(self.store.replace(key, row.version, removal.cache)):
                removed, written = _and(removed, removal), True
        raise Conflict(f"accounts were not removed: other writers were quicker {self._attempts} times")


class InSession:
    """The token cache in the session's contents: `identity`'s `_token_cache`, the samples' `token_cache`.

    It goes with the session, so nothing is written here. Where the session is a cookie, a copy of the cookie
    keeps the tokens: only the provider can end those.

    Args:
        name: Under which name the session keeps the serialized cache.
    """

    is_async = False
    blocking = False
    guarded = True

    def __init__(self, name: str = "_token_cache") -> None:
        self._name = name

    def cache_key(self, claims: Claims) -> None:
        """Return none: there are no keys."""

    def remove_accounts(self, claims: Claims, session: Session | None, *, key: str | None = None) -> Removed:
        """Count what goes with the session."""
        held = None if session is None else session.contents.get(self._name)
        if not held:
            return Removed({})
        if not isinstance(held, (str, bytes)):
            logger.error(_DAMAGED, f"it is a {type(held).__name__}")
            return Removed({})
        return _and(Removed({}), without(held, claims))


class Shared:
    """One live token cache of this process: that of a long-lived `ConfidentialClientApplication`.

    Other processes have their own, which a removal here does not reach.

    Args:
        token_cache: `cca.token_cache`, as the app made it. From now on it refuses what comes late for an account
            that was removed; nothing else changes for the app.
        longest_request_seconds: For how long a token request can be under way.
    """

    is_async = False
    blocking = False
    guarded = True

    def __init__(self, token_cache: msal.TokenCache, *, longest_request_seconds: float = 120.0) -> None:
        self._shared = SharedCache.of(token_cache, longest_request_seconds=longest_request_seconds)

    def cache_key(self, claims: Claims) -> None:
        """Return none: there are no keys."""

    def remove_accounts(self, claims: Claims, session: Session | None, *, key: str | None = None) -> Removed:
        """Remove a user's accounts from memory."""
        removal = self._shared.remove_accounts(claims)
        return Removed(removal.counts, removal.id_token)


def without(data: bytes | str, claims: Claims) -> accounts.Removal:
    """Return a token cache without a user; one that is damaged is told in the log, and nothing is left of it."""
    try:
        return accounts.remove_accounts(data, claims)
    except DamagedCache as error:
        logger.error(_DAMAGED, error)  # noqa: TRY400  # the error's own words, which hold no content
        return _NOTHING


def removed_from(data: bytes, claims: Claims, *, wants_id_token: bool) -> Removed:
    """Return what went with a token cache that was a user's alone, and was removed as a whole.

    Args:
        data: What stood there.
        claims: ID token claims of the user.
        wants_id_token: Whether anybody wants the user's ID token: to find it takes ten times as long.
    """
    if wants_id_token:
        return _and(Removed({}), without(data, claims))
    try:
        return Removed(accounts.count(data))
    except DamagedCache as error:
        logger.error(_DAMAGED, error)  # noqa: TRY400  # the error's own words, which hold no content
        return Removed({})


def _and(removed: Removed, removal: accounts.Removal) -> Removed:
    if removal is _NOTHING:
        return removed
    return Removed(removal.removed, removal.id_token) + removed
