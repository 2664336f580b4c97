"""Signs users of MSAL web apps out completely: sessions ended, token caches emptied, provider told."""

from .caches import InSession, InStore, Shared
from .events import LogoutEnded, LogoutFailed, LogoutRefused, LogoutStarted
from .http import Cookie
from .logout import Logout
from .provider import Provider

__version__ = "0.1.0.dev0"

__all__ = [
    "Cookie",
    "InSession",
    "InStore",
    "Logout",
    "LogoutEnded",
    "LogoutFailed",
    "LogoutRefused",
    "LogoutStarted",
    "Provider",
    "Shared",
]
