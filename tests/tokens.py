"""Token caches as real MSAL writes them, without a provider."""

from __future__ import annotations

import base64
import json

import jwt
import msal

TENANT = "72f988bf-0000-0000-0000-000000000001"
CLIENT_ID = "11111111-aaaa-bbbb-cccc-000000000000"


def claims_of(name, **more):
    oid = f"00000000-0000-0000-0000-{name:0>12.12}"
    return {
        "iss": f"https://login.microsoftonline.com/{TENANT}/v2.0",
        "sub": f"sub-of-{name}",
        "oid": oid,
        "tid": TENANT,
        "aud": CLIENT_ID,
        "iat": 1_700_000_000,
        "preferred_username": f"{name}@example.com",
        **more,
    }


def cache_of(*everybody, scopes=("User.Read",)):
    """Return the serialized cache after each of them has signed in."""
    cache = msal.SerializableTokenCache()
    for claims in everybody:
        info = json.dumps({"uid": claims["oid"], "utid": claims["tid"]}).encode()
        cache.add(
            {
                "client_id": CLIENT_ID,
                "scope": list(scopes),
                "token_endpoint": f"https://login.microsoftonline.com/{TENANT}/oauth2/v2.0/token",
                "grant_type": "authorization_code",
                "response": {
                    "access_token": f"at-of-{claims['sub']}",
                    "refresh_token": f"rt-of-{claims['sub']}",
                    "id_token": jwt.encode(claims, "k" * 32, algorithm="HS256"),
                    "client_info": base64.urlsafe_b64encode(info).decode().rstrip("="),
                    "expires_in": 3600,
                },
            }
        )
    return cache.serialize()
