"""Back-channel logout: the provider's own call, with a signed logout token (OpenID Connect Back-Channel Logout 1.0).

1. The request needs no cookie and no CSRF token: all that counts is the logout token.
2. What its own text condemns is refused before any key is fetched. Its `jti` is claimed in the operation that ends
   the sessions, so that a try which failed on our side may be repeated, and no other.
3. 200 says that everything is done. Whatever is not, on whichever side, is 400 (section 2.8).
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from urllib.parse import parse_qsl

from . import pages, remote
from ._drive import World
from .configuration import Configuration
from .ending import Steps
from .events import LogoutFailed, LogoutRefused
from .http import Request, Response
from .logout_token import LogoutToken, Refusal, examine
from .stores import Jti

logger = logging.getLogger("msal_logout_middleware")

DEADLINE_SECONDS = 1.8
"""Providers give up after two seconds or so: by then there is an answer, whatever the store does."""

_WAIT_SECONDS = 0.7  # for the metadata, and for the keys
_FORM = "application/x-www-form-urlencoded"


async def log_out(config: Configuration, request: Request, world: World) -> Response:
    """Answer a request on the back-channel logout path."""
    if request.method != "POST":
        return pages.plain(405, "").with_headers(("allow", "POST"))
    token = await _logout_token(config, request, world)
    if isinstance(token, Refusal) and token.is_ours:
        logger.error("back-channel logout: %s", token.reason)
        await config.tell(LogoutFailed("back-channel", "", ("keys",)))
        return _bad_request(token.reason)
    if isinstance(token, Refusal):
        return await _refuse(config, token.reason)

    sought = remote.Sought(iss=token.iss, sub=token.sub, sid=token.sid, tid=token.tid)
    steps = Steps(config, world)
    jti = Jti(_claim(token), _claimed_until(config))
    outcome = await remote.end(config, sought, steps, channel="back-channel", before=token.iat, jti=jti)
    if outcome.replayed:
        return await _refuse(config, "the token has been used before")
    return pages.plain(200, "") if outcome.complete else too_late()


def too_late() -> Response:
    """Say that the sign-out is not done yet; it goes on by itself (Back-Channel Logout 1.0, 2.8)."""
    return _bad_request("the logout could not be completed yet")


async def _logout_token(config: Configuration, request: Request, world: World) -> LogoutToken | Refusal:
    """Return the valid logout token of a request (Back-Channel Logout 1.0, 2.5 and 2.6)."""
    if request.body is None:
        return Refusal("the request is too long")
    if request.media_type != _FORM:
        return Refusal("the request is not a urlencoded form")
    fields = parse_qsl(request.body.decode("latin-1"), keep_blank_values=True)
    tokens = [value for name, value in fields if name == "logout_token"]
    if len(tokens) != 1:
        return Refusal("the form has not exactly one logout_token")
    trust = await config.provider.trust(world, wait_seconds=_WAIT_SECONDS)
    if trust is None:
        return Refusal("the provider's metadata could not be had, or names no keys", is_ours=True)
    examined = examine(
        tokens[0].encode(),
        config.logout_token_rules,
        client_id=config.provider.client_id,
        is_issuer=trust.is_issuer,
        now=time.time(),
    )
    if isinstance(examined, Refusal):
        return examined
    return await trust.verify(examined, world, wait_seconds=_WAIT_SECONDS)


def _claim(token: LogoutToken) -> str:
    """Return what a `jti` is claimed by: the same with every secret, so that no rotation lets it pass twice."""
    return hashlib.sha256(json.dumps([token.iss, token.jti]).encode()).hexdigest()


def _claimed_until(config: Configuration) -> float:
    """Return until when a `jti` is remembered: for as long as its token could be accepted."""
    rules = config.logout_token_rules
    return time.time() + rules.maximum_age_seconds + 2 * rules.clock_skew_seconds


async def _refuse(config: Configuration, reason: str) -> Response:
    await config.tell(LogoutRefused("back-channel", reason))
    return _bad_request(reason)


def _bad_request(description: str) -> Response:
    body = json.dumps({"error": "invalid_request", "error_description": description})
    return Response(400, (("content-type", "application/json"), *pages.NO_STORE), body.encode())
