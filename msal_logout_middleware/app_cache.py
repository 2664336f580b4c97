"""Token caches in a cache that the app has anyway: cachelib's, Flask-Caching's, whatever has `get`, `set`, `delete`.

1. There is no compare-and-swap. So what a request saves late cannot be refused: it is removed again when that
   request returns (`guarded = False`), and it is there until then.
2. A removal is believed only when the cache has been read again, and nothing of the user is there.
3. The value stays of the kind that the app wrote: text, bytes, or what `deserialize` makes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Protocol

from . import accounts
from .caches import Removed, without
from .errors import Conflict, LogoutError
from .session import Claims, Session


class AppCache(Protocol):
    """What is asked of the app's cache: three methods that cachelib's, Flask-Caching's and Django's all have."""

    def get(self, key: str, /) -> Any:
        """Return what is there; `None` if nothing is."""
        ...

    def set(self, key: str, value: Any, /) -> Any:
        """Write a value, for as long as the cache keeps one by default."""
        ...

    def delete(self, key: str, /) -> Any:
        """Remove what is there; no error if nothing is."""
        ...


class InAppCache:
    """Token caches in a cache of the app's own, each under a key that follows from the user's claims.

    The app goes on reading and writing them as it does. A save that comes late is not refused but removed again: use
    `InStore` and `StoredTokenCache` where that is not enough.

    Args:
        cache: The cache, such as `cachelib.FileSystemCache(...)`; all workers must share what it keeps.
        cache_key: Makes the key of ID token claims, as the app does.
        serialize: Makes what MSAL serialized of what the app wrote, if that is neither text nor bytes.
        deserialize: The reverse, of text.
        timeout_seconds: For how long to keep what is left of a token cache that several users share; by default as
            long as the cache keeps a value of which that is not said.
        attempts: How often a removal is tried against other writers.

    Raises:
        TypeError: The cache has no `get`, `set` and `delete`, or they are asynchronous.
        ValueError: Only one of `serialize` and `deserialize` is given, or `attempts` is below 1.
    """

    is_async = False
    blocking = True
    guarded = False

    def __init__(
        self,
        cache: AppCache,
        *,
        cache_key: Callable[[Claims], str],
        serialize: Callable[[Any], str | bytes] | None = None,
        deserialize: Callable[[str], Any] | None = None,
        timeout_seconds: int | None = None,
        attempts: int = 16,
    ) -> None:
        for method in ("get", "set", "delete"):
            if not callable(getattr(cache, method, None)):
                raise TypeError(
                    f"the cache must have get, set and delete; {type(cache).__name__} has no {method}"
                )
            if inspect.iscoroutinefunction(getattr(cache, method)):
                raise TypeError(f"the cache must be synchronous; {type(cache).__name__}.{method} is not")
        if (serialize is None) is not (deserialize is None):
            raise ValueError("serialize= and deserialize= are needed both, or not at all")
        if attempts < 1:
            raise ValueError("attempts must be at least 1")
        self._cache = cache
        self._cache_key = cache_key
        self._serialize = serialize
        self._deserialize = deserialize
        self._options = {} if timeout_seconds is None else {"timeout": timeout_seconds}
        self._attempts = attempts

    def cache_key(self, claims: Claims) -> str:
        """Return the key of a user's token cache.

        Raises:
            ValueError: The claims lead to none.
        """
        return self._cache_key(claims)

    def remove_accounts(self, claims: Claims, session: Session | None, *, key: str | None = None) -> Removed:
        """Remove a user's accounts from what is under their key; what is damaged is removed as a whole.

        Raises:
            Conflict: The user's tokens were there again, `attempts` times.
            LogoutError: What is there is no serialized token cache, so that nobody can tell what is in it.
            ValueError: The claims lead to no cache key.
        """
        key = key or self._cache_key(claims)
        removed = Removed({})
        for _ in range(self._attempts):
            held = self._cache.get(key)
            if held is None:
                return removed
            data = self._serialized(held)
            removal = without(data, claims)
            if removal.cache == data:
                return removed  # looked at again: nothing of the user is there
            self._write(key, held, removal)
            removed = Removed(removal.removed, removal.id_token) + removed
        raise Conflict(f"accounts were not removed: they were there again {self._attempts} times")

    def _serialized(self, held: Any) -> bytes:
        data = held if self._serialize is None else self._serialize(held)
        if isinstance(data, str):
            return data.encode()
        if isinstance(data, bytes):
            return data
        raise LogoutError(
            f"what is under the cache key is of type {type(data).__name__}, and not what MSAL serializes: give"
            " serialize= and deserialize="
        )

    def _write(self, key: str, held: Any, removal: accounts.Removal) -> None:
        if removal.cache is None:
            self._cache.delete(key)
        elif self._deserialize is not None:
            self._cache.set(key, self._deserialize(removal.cache.decode()), **self._options)
        else:
            left = removal.cache.decode() if isinstance(held, str) else removal.cache
            self._cache.set(key, left, **self._options)
