"""Signs users of MSAL web apps out completely: session ended, tokens removed, provider told."""

from typing import TYPE_CHECKING, Any

from .app_cache import InAppCache
from .caches import InSession, InStore, Shared, home_account_id
from .errors import LogoutError, StoreError
from .events import (
    Event,
    LogoutEnded,
    LogoutFailed,
    LogoutRefused,
    LogoutStarted,
    SessionRefused,
    SessionUnknowable,
    StoreUnreachable,
)
from .http import Cookie
from .logout import Logout
from .logout_token import LogoutTokenRules
from .memory import WorkerState
from .provider import Provider
from .remote import EndedSessions
from .stores.encryption import Encryption
from .stores.memory import MemoryStore
from .stores.redis import RedisStore
from .stores.sqlite import SQLiteStore
from .token_cache import StoredTokenCache

if TYPE_CHECKING:
    from .stores.sqlalchemy import SQLAlchemyStore as SQLAlchemyStore

__version__ = "0.1.0.dev0"

__all__ = [
    "Cookie",
    "Encryption",
    "EndedSessions",
    "Event",
    "InAppCache",
    "InSession",
    "InStore",
    "Logout",
    "LogoutEnded",
    "LogoutError",
    "LogoutFailed",
    "LogoutRefused",
    "LogoutStarted",
    "LogoutTokenRules",
    "MemoryStore",
    "Provider",
    "RedisStore",
    "SQLiteStore",
    "SessionRefused",
    "SessionUnknowable",
    "Shared",
    "StoreError",
    "StoreUnreachable",
    "StoredTokenCache",
    "WorkerState",
    "home_account_id",
]

if not TYPE_CHECKING:  # type checkers would take every name for one that is there

    def __getattr__(name: str) -> Any:
        """Import what needs an extra, when it is asked for; so it is not in `__all__`."""
        if name == "LogoutMiddleware":
            raise ImportError(
                "LogoutMiddleware is in msal_logout_middleware.wsgi, for Flask and Pyramid; in .asgi, for FastAPI,"
                " Quart and Litestar; and in .django, for MIDDLEWARE"
            )
        if name != "SQLAlchemyStore":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            from .stores.sqlalchemy import SQLAlchemyStore  # noqa: PLC0415 - it takes as long as all the rest
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"SQLAlchemyStore needs {error.name}: pip install 'msal-logout-middleware[sql]'",
                name=error.name,
            ) from error
        return SQLAlchemyStore
