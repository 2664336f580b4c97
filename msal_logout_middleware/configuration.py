"""What a `Logout` was constructed with, checked, as the flows read it."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from ._drive import is_async, settle
from .caches import InStore, TokenCaches
from .events import Event, LogoutFailed, LogoutRefused, SessionUnknowable, StoreUnreachable
from .http import Cookie, Header
from .logout_token import LogoutTokenRules
from .marks import Unmarked
from .provider import Provider
from .records import KnownSession, known_session
from .seal import Seal
from .session import Session, SessionReader
from .stores import Store

logger = logging.getLogger("msal_logout_middleware")

OnEvent = Callable[[Event], None] | Callable[[Event], Awaitable[None]]
OnStoreError = Literal["page", "redirect"]
OtherSessions = Literal["keep", "end"]

_REASONS_REMEMBERED = 100
_ERRORS = (LogoutFailed, SessionUnknowable, StoreUnreachable)


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """The arguments of `Logout`, which documents them."""

    provider: Provider
    session: SessionReader
    store: Store
    caches: TokenCaches
    seal: Seal = field(repr=False)
    logout_path: str
    front_channel_path: str | None
    front_channel_without_sid: bool
    back_channel_path: str | None
    logout_token_rules: LogoutTokenRules
    other_sessions: OtherSessions
    close_websockets: bool
    close_streams: bool
    methods: tuple[str, ...]
    app_view: bool
    post_logout_redirect_uri: str
    landing_page: str
    return_to: tuple[str, ...]
    origins: frozenset[str]
    id_token_hint: bool
    max_url_length: int
    delete_cookies: tuple[Cookie, ...]
    clear_site_data: tuple[str, ...]
    on_store_error: OnStoreError
    retry_seconds: float
    session_lifetime_seconds: float
    marks_in_memory: int
    on_event: OnEvent | None
    unmarked: Unmarked = field(default_factory=Unmarked, repr=False)
    _refused: set[LogoutRefused] = field(default_factory=set, init=False, repr=False)

    @cached_property
    def is_async(self) -> bool:
        """Whether a part is asynchronous, so that only the ASGI middleware can drive the flows."""
        return any((*self._asynchronous, inspect.iscoroutinefunction(self.on_event)))

    @cached_property
    def blocks(self) -> bool:
        """Whether a part waits on I/O without an event loop, so that the ASGI middleware needs a thread."""
        return any(w and not a for w, a in zip(self._waiting, self._asynchronous, strict=True))

    @cached_property
    def session_blocks(self) -> bool:
        """Whether to read a session waits on I/O without an event loop."""
        return self._waiting[1] and not self._asynchronous[1]

    @property
    def _asynchronous(self) -> tuple[bool, ...]:
        store, session = is_async(self.store, "load", "end"), is_async(self.session, "read", "delete")
        return store, session, self.caches.is_async

    @property
    def _waiting(self) -> tuple[bool, ...]:
        return tuple(
            bool(getattr(part, "blocking", True)) for part in (self.store, self.session, self.caches)
        )

    @property
    def server_side(self) -> bool:
        """Whether sessions may be kept on the server: unless they say that they are not."""
        return getattr(self.session, "server_side", True)

    @property
    def guarded(self) -> bool:
        """Whether token caches refuse by themselves what is saved late: if they say so."""
        return getattr(self.caches, "guarded", False)

    @property
    def drops_caches(self) -> bool:
        """Whether the store can remove a session's token cache in the operation that ends it, with nothing left to do.

        So where sessions are in cookies, and each of the store's token caches is one user's alone.
        """
        if self.server_side or not getattr(self.store, "drops_caches", False):
            return False
        return (
            isinstance(self.caches, InStore) and self.caches.is_one_users and self.caches.store is self.store
        )

    def known(self, session: Session, *, sid: str | None = None) -> KnownSession:
        """Return what is known of a session in which somebody is signed in.

        Args:
            session: The session.
            sid: The provider's session, where the claims do not say it.
        """
        claims = session.claims or {}
        try:
            cache_key = self.caches.cache_key(claims)
        except Exception:  # the app's callable; the removal of accounts will say so
            cache_key = None
        is_ours = self.provider.issued(str(claims.get("iss")), claims.get("tid")) is not False
        return known_session(self.seal, session, cache_key=cache_key, sid=sid, is_ours=is_ours)

    @property
    def more_cookies(self) -> tuple[Cookie, ...]:
        """What else signs the user in, and goes with the session's cookies: what is known, and what was named."""
        return tuple(dict.fromkeys((*getattr(self.session, "remember_cookies", ()), *self.delete_cookies)))

    @property
    def all_cookies(self) -> tuple[Cookie, ...]:
        """The session's cookies, and those that go with them."""
        return (*self.session.cookies, *self.more_cookies)

    def deletion_headers(self) -> tuple[Header, ...]:
        """Return the headers that delete the session's cookies, and those that go with them."""
        return tuple(cookie.delete() for cookie in self.all_cookies)

    def sets_session(self, name: str, value: str) -> bool:
        """Tell whether a header of the app's sets, or deletes, a cookie of the session."""
        return name.lower() == "set-cookie" and any(
            cookie.is_set_by(value) for cookie in self.session.cookies
        )

    def signs_in(self, name: str, value: str) -> bool:
        """Tell whether a header of the app's sets, or deletes, a cookie of the session or one that goes with it."""
        return name.lower() == "set-cookie" and any(cookie.is_set_by(value) for cookie in self.all_cookies)

    @property
    def tells_what_went(self) -> bool:
        """Whether anybody is told of a sign-out that went well: `on_event`, or who reads the log at `INFO`."""
        return self.on_event is not None or logger.isEnabledFor(logging.INFO)

    async def tell(self, event: Event) -> None:
        """Log an event and hand it to `on_event`, whose failures harm nobody."""
        logger.log(self._level(event), "%s", event)
        if self.on_event is None:
            return
        try:
            await settle(self.on_event(event))
        except Exception:  # the app's code, and a sign-out must not fail for it
            logger.exception("on_event raised")

    def _level(self, event: Event) -> int:
        """Return an event's level in the log: a refusal is a warning the first time that a worker has this reason."""
        if isinstance(event, _ERRORS):
            return logging.ERROR
        if not isinstance(event, LogoutRefused) or event in self._refused:
            return logging.INFO
        if len(self._refused) >= _REASONS_REMEMBERED:
            return logging.INFO
        self._refused.add(event)
        return logging.WARNING
