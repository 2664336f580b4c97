"""Where the ID token claims stand in a session: the places that are known, a key, or a callable."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Final, TypeAlias

from ..grants import decode
from ..session import Claims

Contents: TypeAlias = Mapping[str, Any]
ClaimsAt: TypeAlias = str | Callable[[Contents], Claims | None] | None

KNOWN_PLACES: Final = (
    "_logged_in_user",  # identity
    "user",  # Microsoft's samples
    "id_token_claims",  # apps that keep what MSAL calls it
)

logger = logging.getLogger("msal_logout_middleware")


def claims_finder(at: ClaimsAt) -> Callable[[Contents], Claims | None]:
    """Return the function that finds the claims in a session's contents.

    What stands at a place counts as claims only if it is a mapping with `iss` and `sub`, both non-empty strings:
    nothing else names a user (OpenID Connect Core 1.0, 5.7). Anything else there is logged once, as an error.

    Args:
        at: A key of the session; or a callable that takes the contents and returns the claims, or `None` where
            nobody is signed in. `None`: the known places, in their order.

    Raises:
        TypeError: `at` is none of these.
    """
    if at is None:
        return lambda contents: _look(contents, KNOWN_PLACES)
    if isinstance(at, str):
        return lambda contents: _look(contents, (at,))
    if callable(at):
        return lambda contents: _ask(at, contents)
    raise TypeError(f"claims= is a key of the session, a callable or None, not {type(at).__name__}")


def claims_in_token_cache(name: str = "token_cache") -> Callable[[Contents], Claims | None]:
    """Return what finds the claims of the newest ID token in a token cache that stands in the session.

    For apps that keep a user's token cache there, and no claims: fastapi-msal. The session is the framework's word, so
    the signature is not looked at once more (OpenID Connect Core 1.0, 3.1.3.7 was done when the user signed in).

    Args:
        name: Under which name the session keeps the serialized cache.
    """

    def find(contents: Contents) -> Claims | None:
        try:
            cached = json.loads(contents.get(name) or "{}")
            id_tokens = [decode(entry["secret"]) for entry in cached.get("IdToken", {}).values()]
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
            return None  # MSAL could not use it either
        known = [claims for claims in id_tokens if claims is not None and _are_claims(claims)]
        return max(known, key=_issued_at, default=None)

    return find


def _issued_at(claims: Claims) -> float:
    at = claims.get("iat")
    return at if isinstance(at, (int, float)) else 0.0


def _look(contents: Contents, places: tuple[str, ...]) -> Claims | None:
    found = {place: contents[place] for place in places if contents.get(place)}
    for value in found.values():
        if _are_claims(value):
            return value  # type: ignore[no-any-return]  # a session may hold anything
    for place in found:
        _tell_once(f"at {place!r}")
    for place, value in contents.items():
        if _are_claims(value):
            _tell_of_other_place(f"{place!r}", f"claims={place!r}")
        elif isinstance(value, Mapping) and _are_claims(value.get("id_token_claims")):
            find = f'claims=lambda session: session.get({place!r}, {{}}).get("id_token_claims")'
            _tell_of_other_place(f"{place!r}, 'id_token_claims'", find)
    return None


def _ask(find: Callable[[Contents], Claims | None], contents: Contents) -> Claims | None:
    try:
        claims = find(contents)
    except Exception as error:
        error.add_note("raised by the callable given as claims=; where nobody is signed in it returns None")
        raise
    if not claims or _are_claims(claims):
        return claims or None
    _tell_once("by the callable given as claims=")
    return None


def _are_claims(value: object) -> bool:
    if not isinstance(value, Mapping):
        return False
    return all(isinstance(value.get(name), str) and value[name] for name in ("iss", "sub"))


@cache
def _tell_of_other_place(place: str, argument: str) -> None:
    logger.error(
        "ID token claims are in the session at %s, where nobody looks for them: nobody counts as signed in, and no"
        " token is removed. Give the session %s.",
        place,
        argument,
    )


@cache
def _tell_once(where: str) -> None:
    logger.error(
        "What is found %s in the session are not ID token claims: `iss` or `sub` is missing. Nobody counts as "
        "signed in there, so no token is removed. Say with claims= where the ID token claims are.",
        where,
    )
