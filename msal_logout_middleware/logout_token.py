"""What a valid logout token is (OpenID Connect Back-Channel Logout 1.0, 2.6)."""

# A placeholder by the owner, so that the package imports: whoever writes this room replaces the whole file.

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LogoutTokenRules:
    """What a logout token must be."""


class Refusal:
    """Why a logout token is refused."""

    reason = "logout tokens cannot be read yet"
