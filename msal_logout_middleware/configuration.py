"""What a `Logout` was constructed with, checked, as the flows read it."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal

from ._drive import settle
from .caches import TokenCaches
from .events import Event, LogoutFailed
from .http import Cookie, Header
from .provider import Provider
from .seal import Seal
from .session import Session, SessionReader, plain_claims
from .stores import Store

logger = logging.getLogger("msal_logout_middleware")

OnEvent = Callable[[Event], None] | Callable[[Event], Awaitable[None]]
OnStoreError = Literal["page", "redirect"]


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """The arguments of `Logout`, which documents them."""

    provider: Provider
    session: SessionReader
    store: Store
    caches: TokenCaches
    seal: Seal = field(repr=False)
    logout_path: str
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
    on_event: OnEvent | None

    def handles(self, session: Session) -> tuple[str, ...]:
        """Return the handle of a session by each secret, the first first.

        It is a keyed hash of the session's id, or else of all claims in it.
        """
        if session.id is not None:
            return self.seal.hashes("session id", session.id)
        return self.seal.hashes("claims", plain_claims(session.claims))

    def deletion_headers(self) -> tuple[Header, ...]:
        """Return the headers that delete the session's cookies, and those that the user named."""
        return tuple(cookie.delete() for cookie in (*self.session.cookies, *self.delete_cookies))

    async def tell(self, event: Event) -> None:
        """Log an event and hand it to `on_event`, whose failures harm nobody."""
        logger.log(logging.ERROR if isinstance(event, LogoutFailed) else logging.INFO, "%s", event)
        if self.on_event is None:
            return
        try:
            await settle(self.on_event(event))
        except Exception:  # the app's code, and a sign-out must not fail for it
            logger.exception("on_event raised")
