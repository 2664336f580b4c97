"""Whom to believe that a user has signed out: the provider's issuers, each with the keys that it signs with."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ._drive import World
from .keys import SigningKeys
from .logout_token import Examined, LogoutToken, Refusal, verify

TENANT = "{tenantid}"
"""What stands for the tenant in the issuer of Entra ID's `common` and `organizations`."""

TENANT_ID = re.compile("[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)

NOT_THE_ISSUER = Refusal("iss is not the provider's")
NO_KEYS = Refusal("the provider's signing keys could not be had", is_ours=True)


@dataclass(frozen=True, slots=True)
class Issuer:
    """An issuer (OpenID Connect Core 1.0, 2), or, with `{tenantid}` in it, one for each tenant.

    Args:
        identifier: What `iss` must be, exactly.
        tenants: The ids of the tenants that are allowed; `None`: any.
    """

    identifier: str
    tenants: frozenset[str] | None = None

    def issued(self, iss: str, tid: str | None) -> bool:
        """Tell whether `iss` means this issuer, for the tenant that `tid` names."""
        if TENANT not in self.identifier:
            return iss == self.identifier
        if tid is None or not TENANT_ID.fullmatch(tid):
            return False
        if self.tenants is not None and tid.lower() not in self.tenants:
            return False
        return iss == self.identifier.replace(TENANT, tid)


@dataclass(frozen=True, slots=True)
class Trust:
    """The provider's issuers and their keys; more than one where there are several user flows.

    Args:
        sources: Each issuer with its own keys, so that no issuer's keys vouch for another.
    """

    sources: tuple[tuple[Issuer, SigningKeys], ...]

    def is_issuer(self, iss: str, tid: str | None) -> bool:
        """Tell whether `iss`, for the tenant that `tid` names, is one of these."""
        return any(issuer.issued(iss, tid) for issuer, _ in self.sources)

    async def verify(self, examined: Examined, world: World, *, wait_seconds: float) -> LogoutToken | Refusal:
        """Check the signature with the keys of the token's issuer; fetched, if those that are held do not do.

        Args:
            examined: The token.
            world: Where to wait.
            wait_seconds: How long to wait for keys at most.
        """
        iss, tid, kid = examined.claimed.iss, examined.claimed.tid, examined.kid
        sources = [keys for issuer, keys in self.sources if issuer.issued(iss, tid)]
        if not sources:
            return NOT_THE_ISSUER
        checked = verify(examined, (key for keys in sources for key in keys.held(kid)))
        if isinstance(checked, LogoutToken) or (kid and any(keys.held(kid) for keys in sources)):
            return checked
        for keys in sources:
            wait = wait_seconds / len(sources)
            newer = await keys.find(kid, world, wait_seconds=wait, seen=keys.held(kid))
            checked = verify(examined, newer) if newer else checked
            if isinstance(checked, LogoutToken):
                return checked
        return checked if any(keys.are_held for keys in sources) else NO_KEYS
