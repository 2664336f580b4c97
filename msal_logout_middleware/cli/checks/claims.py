"""ID token claims: which of them a sign-out needs, and whether the app's users have them."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from typing import Any

from ...configuration import Configuration
from . import Finding

Claims = Mapping[str, Any]

_CONFIGURE = (
    "Entra admin center: App registrations > your app > Token configuration > Add optional claim > ID > {}"
)
_UNIQUE = ("iat", "nonce", "uti")


def parsed_claims(text: str) -> Claims:
    """Return the claims in a text: a JSON object, MSAL's result with `id_token_claims` in it, or an ID token.

    Nothing is verified, since nothing is done with them but to look which there are.

    Raises:
        ValueError: It is none of these.
    """
    text = text.strip()
    if text.count(".") == 2 and not text.startswith("{"):
        payload = text.split(".")[1]
        text = base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)).decode()
    value = json.loads(text)
    if isinstance(value, dict) and isinstance(value.get("id_token_claims"), dict):
        value = value["id_token_claims"]
    if not isinstance(value, dict):
        raise ValueError("not an object")  # noqa: TRY004  # all that is wrong with the text is one error
    return value


def check_claims(
    claims: Claims | None,
    config: Configuration,
    *,
    issued: bool | None,
    is_microsoft: bool,
    server_side: bool | None,
) -> Iterator[Finding]:
    """Check whether ID tokens have what a sign-out needs.

    Args:
        claims: Of one user's ID token; `None` if none was given.
        config: The configuration.
        issued: Whether the provider issued them; `None` if that cannot be told.
        is_microsoft: Whether the provider is Entra ID or Azure AD B2C, which send neither `sid` nor `login_hint`
            by themselves.
        server_side: Whether sessions are kept on the server; `None` if that cannot be told.
    """
    if claims is None:
        yield from _unseen(is_microsoft=is_microsoft)
        return
    yield _sid(claims, is_microsoft=is_microsoft)
    yield _login_hint(claims, is_microsoft=is_microsoft)
    yield _issuer(issued=issued)
    yield _audience(claims, config)
    yield _unique(claims, server_side=server_side)
    yield _cache_key(claims, config)


def _unseen(*, is_microsoft: bool) -> Iterator[Finding]:
    show = "to see it here, give the claims of one user's ID token: --claims FILE"
    for check, claim in (("claim-sid", "sid"), ("claim-login-hint", "login_hint")):
        if is_microsoft:
            seen = f"not known; Entra ID sends no {claim} unless it is told to"
            yield Finding(check, "warning", seen, f"{_CONFIGURE.format(claim)}; {show}")
        else:
            yield Finding(check, "skipped", "not known", show)


def _sid(claims: Claims, *, is_microsoft: bool) -> Finding:
    if claims.get("sid"):
        return Finding("claim-sid", "ok", "there is one: a sign-out elsewhere finds the session")
    if is_microsoft:
        seen = "there is none: a sign-out elsewhere finds only sessions whose sign-in had a session_state"
        return Finding("claim-sid", "warning", seen, _CONFIGURE.format("sid"))
    seen = "there is none: a sign-out elsewhere finds a session only by sub"
    return Finding("claim-sid", "warning", seen, "have the provider put `sid` into the ID token")


def _login_hint(claims: Claims, *, is_microsoft: bool) -> Finding:
    if claims.get("login_hint"):
        return Finding("claim-login-hint", "ok", "there is one: nobody is asked which account to sign out")
    if is_microsoft:
        seen = "there is none: Entra ID asks people which account to sign out"
        return Finding("claim-login-hint", "warning", seen, _CONFIGURE.format("login_hint"))
    return Finding("claim-login-hint", "ok", "there is none, and few providers have it")


def _issuer(*, issued: bool | None) -> Finding:
    check = "claims-issuer"
    if issued is None:
        return Finding(check, "skipped", "nothing tells the provider's issuer")
    if issued:
        return Finding(check, "ok", "they are of this provider")
    seen = "they are of another provider than that of this Logout, whose sign-outs would be refused"
    return Finding(check, "error", seen, "give Provider the tenant or the URL that users sign in with")


def _audience(claims: Claims, config: Configuration) -> Finding:
    audience = claims.get("aud")
    audiences = audience if isinstance(audience, list) else [audience]
    if config.provider.client_id in audiences:
        return Finding("claims-audience", "ok", "they are of this app's client id")
    seen = "they are of another client id than the provider of this Logout has"
    return Finding("claims-audience", "error", seen, "give Provider the client id that users sign in with")


def _unique(claims: Claims, *, server_side: bool | None) -> Finding:
    if any(claims.get(name) for name in _UNIQUE):
        return Finding("claims-unique", "ok", "one sign-in can be told from another")
    seen = f"none of {', '.join(_UNIQUE)} is there: one sign-in cannot be told from another of the same user"
    if server_side:
        return Finding("claims-unique", "ok", f"{seen}, which the session's id makes up for")
    return Finding("claims-unique", "error", seen, "keep all ID token claims in the session")


def _cache_key(claims: Claims, config: Configuration) -> Finding:
    try:
        config.caches.cache_key(claims)
    except Exception as error:  # the app's callable may raise anything
        seen = f"cache_key raises {type(error).__name__} for them: no token cache would be found"
        return Finding("cache-key", "error", seen, "give a cache_key that works for every user's claims")
    return Finding("cache-key", "ok", "they lead to a token cache")
