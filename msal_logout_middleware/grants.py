"""What a token response came of, read from the event that MSAL hands to a token cache's `add`."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any, Final

from .session import Claims

Event = Mapping[str, Any]

# Those with which MSAL establishes an account (`TokenCache.add`), and the two by which it signs a federated user
# in with a password. On-behalf-of is none: it lives on a sign-in that happened elsewhere, at an unknown time.
SIGN_IN_GRANTS: Final = frozenset(
    {
        "authorization_code",
        "broker",
        "password",
        "urn:ietf:params:oauth:grant-type:device_code",
        "urn:ietf:params:oauth:grant-type:saml1_1-bearer",
        "urn:ietf:params:oauth:grant-type:saml2-bearer",
        "user_fic",
    }
)


def is_sign_in(event: Event) -> bool:
    """Tell whether the user, or who acts for them, has just been at the provider."""
    return event.get("grant_type") in SIGN_IN_GRANTS


def is_silent_refresh(event: Event) -> bool:
    """Tell whether `acquire_token_silent` used a refresh token of the cache; an imported one makes an account."""
    return event.get("grant_type") == "refresh_token" and bool(event.get("skip_account_creation"))


def used_refresh_token(event: Event) -> str | None:
    """Return the refresh token that the request was made with."""
    used = event.get("data", {}).get("refresh_token")
    return used if isinstance(used, str) else None


def id_token_claims(event: Event) -> Claims | None:
    """Return the claims of the ID token in the response, decoded as MSAL does; `None` if it has none."""
    response = event.get("response", {})
    return response.get("id_token_claims") or decode(response.get("id_token"))


def client_info(event: Event) -> Mapping[str, Any]:
    """Return Entra's `client_info` of the response; empty if it has none."""
    return _json_object(event.get("response", {}).get("client_info")) or {}


def decode(token: object) -> Claims | None:
    """Return the claims of a JWT, unverified: it came from the provider itself. `None` if it is no JWT."""
    parts = token.split(".") if isinstance(token, str) else []
    return _json_object(parts[1]) if len(parts) > 1 else None


def _json_object(part: object) -> dict[str, Any] | None:
    if not isinstance(part, str):
        return None
    try:
        value = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (ValueError, RecursionError):  # bad base64, not UTF-8, not JSON, too deep
        return None
    return value if isinstance(value, dict) else None
