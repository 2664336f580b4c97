"""What a valid logout token is: bytes, rules, keys and a time in; a value or a named refusal out.

1. `examine` looks at all that the token's own text decides, `verify` at its signature: a token that its own text
   condemns costs no key, and nothing of it is believed before both have passed.
2. Each check is one line, in the order of OpenID Connect Back-Channel Logout 1.0, 2.6 ("BCL" below).
3. A reason names the datum that is wrong, never what stood in it.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeAlias, TypeGuard

from .keys import ALGORITHMS, SigningKey

LOGOUT_EVENT = "http://schemas.openid.net/event/backchannel-logout"

Claims: TypeAlias = dict[str, Any]
IsIssuer: TypeAlias = Callable[[str, str | None], bool]

_NO_TYPE = "JWT"  # what a token without `typ` is taken for
_SHORT = 255  # characters: what OpenID Connect Core 1.0, 2 allows `sub`
_LAST_DATE = (
    253_402_300_799  # the year 9999, in seconds since 1970: later is no date, but a trick or milliseconds
)
_MAXIMUM_BRACKETS = 200  # a logout token has a handful; more nest deeper than some parsers bear
_MAXIMUM_KEYS = 8  # are tried for a token that names none
_SURROGATE = re.compile("[\ud800-\udfff]")
_ALPHABET = bytes.maketrans(b"-_", b"+/")


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a logout token is refused.

    Args:
        reason: A sentence that names the datum, and never its content.
        is_ours: Whether the token may be good, and something is missing on our side.
    """

    reason: str
    is_ours: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LogoutTokenRules:
    """What a logout token must be where the specification leaves a choice.

    Args:
        algorithms: Those that the provider signs with: from `RS256` to `PS512`, `ES256`, `ES384`, `ES512`, `EdDSA`.
        clock_skew_seconds: How far the provider's clock may be away from ours.
        maximum_age_seconds: How long ago the token may have been issued, by `iat`.
        require_exp: Whether a token without `exp` is refused; older providers send none (BCL 2.4).
        strict_type: Whether `typ` must be `logout+jwt`; older providers send `JWT`, or none (BCL 2.4).
        maximum_bytes: How long the token may be.

    Raises:
        ValueError: A rule cannot be kept, or would let anybody sign.
    """

    algorithms: tuple[str, ...] = ("RS256",)
    clock_skew_seconds: float = 120
    maximum_age_seconds: float = 600
    require_exp: bool = True
    strict_type: bool = False
    maximum_bytes: int = 16 * 1024

    def __post_init__(self) -> None:
        names = self.algorithms if isinstance(self.algorithms, (tuple, list)) else ()
        if not names or not all(isinstance(name, str) and name in ALGORITHMS for name in names):
            raise ValueError(
                f"algorithms={self.algorithms!r} must be a tuple of some of {', '.join(ALGORITHMS)}, such as ('RS256',)"
            )
        for name in ("require_exp", "strict_type"):
            if getattr(self, name) not in (True, False):
                raise ValueError(f"{name}={getattr(self, name)!r} must be True or False")
        if not (_is_number(self.clock_skew_seconds) and 0 <= self.clock_skew_seconds <= 600):
            raise ValueError(f"clock_skew_seconds={self.clock_skew_seconds!r} must be from 0 to 600 seconds")
        if not (_is_number(self.maximum_age_seconds) and 0 < self.maximum_age_seconds <= 86_400):
            raise ValueError(
                f"maximum_age_seconds={self.maximum_age_seconds!r} must be up to 86400 seconds (a day)"
            )
        if not (_is_number(self.maximum_bytes) and 1024 <= self.maximum_bytes <= 64 * 1024):
            raise ValueError(f"maximum_bytes={self.maximum_bytes!r} must be from 1024 to 65536 bytes")


@dataclass(frozen=True, slots=True)
class LogoutToken:
    """What a valid logout token says (BCL 2.4). `sub`, `sid`, or both are there.

    Args:
        iss: The issuer.
        jti: The token's own name, to know it again.
        iat: When it was issued, in seconds since 1970, by the provider's clock.
        sub: The user.
        sid: The session at the provider.
        tid: The user's tenant, at Entra ID.
    """

    iss: str
    jti: str = field(repr=False)
    iat: float
    sub: str | None = field(default=None, repr=False)
    sid: str | None = field(default=None, repr=False)
    tid: str | None = None


@dataclass(frozen=True, slots=True)
class Examined:
    """A logout token whose text is right. Who wrote it is not known yet.

    Args:
        algorithm: What it is signed with.
        kid: The key that it names; `None` if it names none.
        signed: What is signed.
        signature: The signature.
        claimed: What it says, if the signature is the provider's.
    """

    algorithm: str
    kid: str | None
    signed: bytes = field(repr=False)
    signature: bytes = field(repr=False)
    claimed: LogoutToken


NO_KEY = Refusal("the header's kid and alg fit no signing key of the provider")
BAD_SIGNATURE = Refusal("the signature is not the provider's")


def examine(
    token: bytes, rules: LogoutTokenRules, *, client_id: str, is_issuer: IsIssuer, now: float
) -> Examined | Refusal:
    """Check all that a logout token's own text decides (BCL 2.6, steps 1 to 7).

    Args:
        token: As it was received.
        rules: What it must be.
        client_id: Whom it must be for.
        is_issuer: Tells whether an `iss`, with a `tid` or none, is the provider's.
        now: In seconds since 1970.
    """
    # Step 1, and before anything is decoded.
    if len(token) > rules.maximum_bytes:
        return Refusal("the token is too long")
    parts = token.split(b".")
    if len(parts) == 5:
        return Refusal("the token is encrypted")
    if len(parts) != 3:
        return Refusal("the token has not three parts")
    header = _json(parts[0], "header")
    if isinstance(header, Refusal):
        return header
    claims = _json(parts[1], "payload")
    if isinstance(claims, Refusal):
        return claims
    signature = _decoded(parts[2])
    if signature is None:
        return Refusal("the signature is not base64url")

    flaw = (
        _in_header(header, rules)
        or _in_parties(claims, client_id, is_issuer)
        or _in_times(claims, rules, now)
        or _in_logout(claims)
    )
    if flaw:
        return Refusal(flaw)
    sub, sid, tid = (claims.get(name) for name in ("sub", "sid", "tid"))
    claimed = LogoutToken(claims["iss"], claims["jti"], claims["iat"], sub, sid, tid)
    return Examined(header["alg"], header.get("kid"), token[: -len(parts[2]) - 1], signature, claimed)


def _in_header(header: Claims, rules: LogoutTokenRules) -> str | None:
    """Look for a flaw by steps 2 and 3. What says where a key is (`jku`, `x5u`, `jwk`, `x5c`) is not looked at."""
    algorithm = header.get("alg")
    if not isinstance(algorithm, str) or algorithm not in rules.algorithms:
        return "the header's alg is not one that is configured"
    if not _is_type(header.get("typ", _NO_TYPE), strict=rules.strict_type):
        return "the header's typ is not that of a logout token"
    if "crit" in header:  # RFC 7515, 4.1.11: we know no extension
        return "the header has a crit"
    if "kid" in header and not _is_name(header["kid"]):
        return "the header's kid is not a short string"
    return None


def _in_parties(claims: Claims, client_id: str, is_issuer: IsIssuer) -> str | None:
    """Look for a flaw by step 4: iss and aud, as of an ID token (OpenID Connect Core 1.0, 3.1.3.7, steps 2 to 5)."""
    iss, tid = claims.get("iss"), claims.get("tid")
    if "tid" in claims and not _is_name(tid):
        return "tid is not a short string"
    if not _is_text(iss) or not is_issuer(iss, tid):
        return "iss is not the provider's"
    audiences = _audiences(claims.get("aud"))
    if client_id not in audiences:
        return "aud does not name this app"
    if len(audiences) > 1 and "azp" not in claims:
        return "aud names others as well, and azp is not there"
    if "azp" in claims and claims["azp"] != client_id:
        return "azp is not this app"
    return None


def _in_times(claims: Claims, rules: LogoutTokenRules, now: float) -> str | None:
    """Look for a flaw by step 4: iat and exp, as of an ID token (OpenID Connect Core 1.0, 3.1.3.7, steps 9 and 10)."""
    iat, exp, nbf = (claims.get(name) for name in ("iat", "exp", "nbf"))
    skew = rules.clock_skew_seconds
    if not _is_date(iat):
        return "iat is not a date"
    if iat > now + skew:
        return "iat is in the future"
    if iat < now - skew - rules.maximum_age_seconds:
        return "iat is too long ago"
    if "exp" not in claims and rules.require_exp:
        return "exp is not there"
    if "exp" in claims and not _is_date(exp):
        return "exp is not a date"
    if _is_date(exp) and exp <= now - skew:
        return "exp is over"
    if "nbf" in claims and not (_is_date(nbf) and nbf <= now + skew):  # RFC 7519, 4.1.5
        return "nbf is not a date, or in the future"
    return None


def _in_logout(claims: Claims) -> str | None:
    """Look for a flaw by steps 5 to 8: what makes it a logout token."""
    if "sub" not in claims and "sid" not in claims:
        return "neither sub nor sid is there"
    if "sub" in claims and not _is_text(claims["sub"]):
        return "sub is not a string with something in it"
    if "sid" in claims and not _is_text(claims["sid"]):
        return "sid is not a string with something in it"
    events = claims.get("events")
    if not isinstance(events, dict) or LOGOUT_EVENT not in events:
        return "events has no logout event"
    if not isinstance(events[LOGOUT_EVENT], dict):
        return "the logout event is not an object"
    if "nonce" in claims:  # so that no ID token passes for a logout token
        return "nonce is there"
    if not _is_name(claims.get("jti")):
        return "jti is not a short string"
    return None


def verify(examined: Examined, keys: Iterable[SigningKey]) -> LogoutToken | Refusal:
    """Check the signature (BCL 2.6, step 2; RFC 7515, 5.2).

    Args:
        examined: The token.
        keys: The provider's keys that it may mean.
    """
    meant = (key for key in keys if examined.kid is None or key.kid == examined.kid)
    fitting = list(islice((key for key in meant if examined.algorithm in key.algorithms), _MAXIMUM_KEYS))
    if not fitting:
        return NO_KEY
    if not any(key.verifies(examined.algorithm, examined.signed, examined.signature) for key in fitting):
        return BAD_SIGNATURE
    return examined.claimed


def _decoded(part: bytes) -> bytes | None:
    """Return what base64url says, if it says it in the one way there is (RFC 7515, 2; RFC 4648, 3.5)."""
    try:
        raw = binascii.a2b_base64(part.translate(_ALPHABET) + b"==")
    except binascii.Error:
        return None
    return raw if base64.urlsafe_b64encode(raw).rstrip(b"=") == part else None


def _json(part: bytes, name: str) -> Claims | Refusal:
    """Return the JSON object that a part says, if all parsers read the same in it (RFC 8725, 2.4)."""
    raw = _decoded(part)
    if raw is None:
        return Refusal(f"the {name} is not base64url")
    if raw.count(b"[") + raw.count(b"{") > _MAXIMUM_BRACKETS:
        return Refusal(f"the {name} is nested too deeply")
    try:
        value = _DECODER.decode(raw.decode())
    except _RepeatedMember:
        return Refusal(f"the {name} has a member twice")
    except (ValueError, RecursionError):
        return Refusal(f"the {name} is not JSON")
    return value if isinstance(value, dict) else Refusal(f"the {name} is not an object")


class _RepeatedMember(ValueError):
    """Some parsers read the first one, some the last (RFC 8259, 4)."""


def _object(members: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(members)
    if len(value) != len(members):
        raise _RepeatedMember
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")  # NaN, Infinity: Python reads them, the norm does not know them


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_no_constant)


def _is_type(value: Any, *, strict: bool) -> bool:
    """Tell whether a `typ` is right (RFC 8725, 3.11); media types have no case, and may be short (RFC 7515, 4.1.9)."""
    name = value.lower().removeprefix("application/") if isinstance(value, str) else ""
    return name == "logout+jwt" or (name == "jwt" and not strict)


def _is_name(value: Any) -> TypeGuard[str]:
    return _is_text(value) and len(value) <= _SHORT


def _is_text(value: Any) -> TypeGuard[str]:
    """Tell whether a value is a string that can be written down again: JSON can escape half a character."""
    return isinstance(value, str) and bool(value) and not _SURROGATE.search(value)


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_date(value: Any) -> TypeGuard[float]:
    return _is_number(value) and 0 <= value <= _LAST_DATE


def _audiences(value: Any) -> frozenset[str]:
    """Return whom a token is for; nobody, if that is not said as it must be (RFC 7519, 4.1.3)."""
    audiences = [value] if isinstance(value, str) else value
    if not isinstance(audiences, list) or not all(isinstance(one, str) for one in audiences):
        return frozenset()
    return frozenset(audiences)
