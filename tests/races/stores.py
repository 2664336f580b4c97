"""The stores with compare-and-swap, by their URLs: what each process of a race opens for itself."""

from __future__ import annotations

from typing import Any

from msal_logout_middleware.stores.sqlite import SQLiteStore

LONG_SECONDS = 60


def store_at(url: str) -> Any:
    """Open the store at the URL of a Redis server or a database, or at the path of a file."""
    if url.startswith("redis"):
        from msal_logout_middleware.stores.redis import RedisStore

        return RedisStore(url, timeout_seconds=LONG_SECONDS)
    if "://" in url:
        from msal_logout_middleware.stores.sqlalchemy import SQLAlchemyStore

        return SQLAlchemyStore(url, timeout_seconds=LONG_SECONDS)
    return SQLiteStore(url, busy_timeout_seconds=LONG_SECONDS)
