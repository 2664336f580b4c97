"""Signs users of MSAL web apps out completely: session ended, tokens removed, provider told."""

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
from .stores.sqlite import SQLiteStore
from .token_cache import StoredTokenCache

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
