"""Token caches in one of Django's caches: `CACHES` in the settings says which engine that is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

try:
    from django.core.cache import InvalidCacheBackendError, caches
    from django.db import close_old_connections
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"InDjangoCache needs {error.name}: pip install 'msal-logout-middleware[django]'", name=error.name
    ) from error

from .app_cache import InAppCache
from .session import Claims


class InDjangoCache(InAppCache):
    """Token caches in one of Django's caches, each under a key that follows from the user's claims.

    What `InAppCache` says of itself holds here as well.

    Args:
        alias: The cache's name in `CACHES`. `locmem` is one worker's memory, and `dummy` keeps nothing.
        cache_key: Makes the key of ID token claims, as the app does; without Django's prefix and version.
        serialize: Makes what MSAL serialized of what the app wrote, if that is neither text nor bytes.
        deserialize: The reverse, of text.
        timeout_seconds: For how long to keep what is left of a token cache that several users share; by default as
            the cache's `TIMEOUT` says.
        attempts: How often a removal is tried against other writers.

    Raises:
        ValueError: `CACHES` has no such cache; or as in `InAppCache`.
    """

    def __init__(
        self,
        alias: str = "default",
        *,
        cache_key: Callable[[Claims], str],
        serialize: Callable[[Any], str | bytes] | None = None,
        deserialize: Callable[[str], Any] | None = None,
        timeout_seconds: int | None = None,
        attempts: int = 16,
    ) -> None:
        try:
            caches[alias]
        except InvalidCacheBackendError as error:
            raise ValueError(f"CACHES in Django's settings has no cache {alias!r}: {error}") from error
        super().__init__(
            _DjangoCache(alias),
            cache_key=cache_key,
            serialize=serialize,
            deserialize=deserialize,
            timeout_seconds=timeout_seconds,
            attempts=attempts,
        )


class _DjangoCache:
    """A cache by its alias: Django makes an object of it for each thread, and a sign-out may be in any."""

    def __init__(self, alias: str) -> None:
        self._alias = alias

    def get(self, key: str) -> Any:
        return self._of_this_thread().get(key)

    def set(self, key: str, value: Any, **options: int) -> None:
        self._of_this_thread().set(key, value, **options)

    def delete(self, key: str) -> None:
        self._of_this_thread().delete(key)

    def _of_this_thread(self) -> Any:
        # A cache in a database has a connection, which Django looks after between requests only: not in our threads.
        close_old_connections()
        return caches[self._alias]
