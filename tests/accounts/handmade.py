"""Token caches made by hand, for what the embedded provider cannot make: by real MSAL, or entry by entry."""

from __future__ import annotations

import base64
import json
from typing import Any

import jwt
import msal

CLIENT = "c11e9700-0000-4000-8000-000000000001"
TENANT = "7e9a9700-0000-4000-8000-000000000001"
ALICE = "a11ce000-0000-4000-8000-000000000001"
BOB = "b0b00000-0000-4000-8000-000000000001"
ENTRA = "login.microsoftonline.com"


def entra_claims(oid: str = ALICE, tid: str = TENANT, **more: Any) -> dict[str, Any]:
    iss = f"https://{ENTRA}/{tid}/v2.0"
    return {
        "iss": iss,
        "sub": f"sub of {oid}",
        "oid": oid,
        "tid": tid,
        "aud": CLIENT,
        "iat": 1_700_000_000,
        **more,
    }


def generic_claims(sub: str = "42", iss: str = "https://one.example/realms/r", **more: Any) -> dict[str, Any]:
    return {"iss": iss, "sub": sub, "aud": CLIENT, "iat": 1_700_000_000, **more}


def token(claims: dict[str, Any]) -> str:
    return jwt.encode(claims, "k" * 32, algorithm="HS256")


def sign_in(
    cache: msal.TokenCache,
    claims: dict[str, Any],
    *,
    home: tuple[str, str] | None = None,
    environment: str | None = None,
    client: str = CLIENT,
    realm: str | None = None,
    scope: str = "User.Read",
    id_token: bool = True,
) -> None:
    """Let MSAL store what a sign-in brings.

    Args:
        cache: Where to.
        claims: Of the ID token.
        home: `uid` and `utid` of the client info; by default `oid` and `tid`, if the claims have them.
        environment: By default the issuer's host.
        client: The client's id.
        realm: The tenant in the token endpoint; by default the issuer's.
        scope: What the access token is for.
        id_token: Whether the response has an ID token.
    """
    host, *path = claims["iss"].removeprefix("https://").split("/")
    response = {"access_token": f"at {claims['sub']} {scope}", "refresh_token": f"rt {claims['sub']} {scope}"}
    if home is None and "oid" in claims:
        home = claims["oid"], claims["tid"]
    if home:
        info = json.dumps({"uid": home[0], "utid": home[1]}).encode()
        response["client_info"] = base64.urlsafe_b64encode(info).decode().rstrip("=")
    if id_token:
        response["id_token"] = token({"exp": 4_102_444_800, **claims})  # the year 2100
    else:
        response["id_token_claims"] = claims
    cache.add(
        {
            "client_id": client,
            "scope": [scope],
            "environment": environment or host,
            "token_endpoint": f"https://{environment or host}/{realm or path[0]}/oauth2/v2.0/token",
            "grant_type": "authorization_code",
            "response": response,
        }
    )


def app_only(cache: msal.TokenCache, environment: str = ENTRA) -> None:
    """Let MSAL store a token of the app itself."""
    cache.add(
        {
            "client_id": CLIENT,
            "scope": ["https://graph.example/.default"],
            "environment": environment,
            "token_endpoint": f"https://{environment}/{TENANT}/oauth2/v2.0/token",
            "grant_type": "client_credentials",
            "response": {"access_token": token({"sub": CLIENT, "oid": CLIENT, "tid": TENANT})},
        }
    )


def cache_of(*everybody: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the sections of a cache after each of them has signed in."""
    cache = msal.SerializableTokenCache()
    for claims in everybody:
        sign_in(cache, claims)
    return json.loads(cache.serialize())


def entry(home: str | None, environment: str = ENTRA, **more: Any) -> dict[str, Any]:
    return {
        "home_account_id": home,
        "environment": environment,
        "client_id": CLIENT,
        "secret": "opaque",
        **more,
    }
