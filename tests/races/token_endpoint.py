"""A provider's endpoints as MSAL's `http_client`: real MSAL runs against it, and answers wait where a test wants."""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msal

HOST = "login.microsoftonline.com"
TENANT = "11111111-1111-1111-1111-111111111111"
CLIENT_ID = "22222222-2222-2222-2222-222222222222"
ISSUER = f"https://{HOST}/{TENANT}/v2.0"
AUTH_CODE_FLOW = {"redirect_uri": "https://app.example/callback", "response_mode": "form_post"}
SCOPES = ["https://api.example/read"]


def part(value: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def jwt(claims: dict[str, Any]) -> str:
    return f"{part({'alg': 'RS256'})}.{part(claims)}.c2lnbmF0dXJl"


@dataclass(frozen=True)
class User:
    """Somebody who can sign in; their object id ends in `number`."""

    number: int

    @property
    def oid(self) -> str:
        return f"aaaaaaaa-0000-0000-0000-{self.number:012}"

    @property
    def sub(self) -> str:
        return f"sub-{self.number}"

    @property
    def home_account_id(self) -> str:
        return f"{self.oid}.{TENANT}"

    @property
    def claims(self) -> dict[str, Any]:
        return {
            "iss": ISSUER,
            "aud": CLIENT_ID,
            "sub": self.sub,
            "oid": self.oid,
            "tid": TENANT,
            "preferred_username": f"user{self.number}@example.com",
        }


ANA, BEN = User(1), User(2)
YEAR_2100 = 4_102_444_800


@dataclass
class Answer:
    """What MSAL reads of an HTTP response."""

    body: dict[str, Any]
    status_code: int = 200
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        return json.dumps(self.body)

    def raise_for_status(self) -> None:
        assert self.status_code < 400, self.status_code


def never_wait(_grant: str) -> None:
    """Let an answer go at once."""


class Endpoint:
    """Issues tokens; `before_answer(grant_type)` runs when a request has arrived, before it is answered.

    It knows each refresh token's user, rotates refresh tokens, and lets the old ones be used again as Entra does.
    """

    def __init__(self, before_answer: Callable[[str], None] = never_wait, prefix: str = "") -> None:
        self.before_answer = before_answer
        self.prefix = prefix  # makes tokens of several processes distinct
        self.users: dict[str, User] = {}  # by code, refresh token, assertion
        self.numbers = itertools.count(1)
        self.requests: list[str] = []
        self.with_id_token = True

    def get(self, url: str, **_: Any) -> Answer:
        base = f"https://{HOST}/{TENANT}"
        return Answer(
            {
                "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
                "token_endpoint": f"{base}/oauth2/v2.0/token",
                "device_authorization_endpoint": f"{base}/oauth2/v2.0/devicecode",
                "issuer": ISSUER,
            }
        )

    def post(self, url: str, data: dict[str, Any], **_: Any) -> Answer:
        grant = data["grant_type"]
        self.requests.append(grant)
        user = self._user(data)
        self.before_answer(grant)
        return Answer(self.tokens(user, data.get("scope", "")))

    def _user(self, data: dict[str, Any]) -> User | None:
        credential = (
            data.get("code") or data.get("refresh_token") or data.get("assertion") or data.get("username")
        )
        if credential is None:
            return None  # client credentials
        if credential not in self.users:  # made by an endpoint in another process
            return User(int(str(credential).rpartition(":")[2]))
        return self.users[credential]

    def tokens(self, user: User | None, scope: str) -> dict[str, Any]:
        number = f"{self.prefix}{next(self.numbers)}"
        tokens: dict[str, Any] = {
            "token_type": "Bearer",
            "expires_in": 3600,
            "scope": " ".join(set(scope.split()) - {"openid", "profile", "offline_access"}),
            "access_token": f"AT-{number}:{user.number if user else 'app'}",
        }
        if user:
            tokens["refresh_token"] = f"RT-{number}:{user.number}"
            self.users[tokens["refresh_token"]] = user
            if self.with_id_token:
                tokens["id_token"] = jwt({**user.claims, "uti": number, "exp": YEAR_2100})
                tokens["client_info"] = part({"uid": user.oid, "utid": TENANT})
        return tokens

    def app(self, cache: msal.TokenCache) -> msal.ConfidentialClientApplication:
        return msal.ConfidentialClientApplication(
            CLIENT_ID,
            client_credential="secret",
            authority=f"https://{HOST}/{TENANT}",
            instance_discovery=False,
            http_client=self,
            token_cache=cache,
        )

    def sign_in(self, cache: msal.TokenCache, user: User, scopes: list[str] = SCOPES) -> dict[str, Any]:
        """Real MSAL redeems an authorization code."""
        app = self.app(cache)
        flow = app.initiate_auth_code_flow(
            scopes, redirect_uri="https://app.example/callback", response_mode="form_post"
        )
        code = f"code-{next(self.numbers)}:{user.number}"
        self.users[code] = _WithNonce(user.number, nonce(flow))
        result = app.acquire_token_by_auth_code_flow(flow, {"code": code, "state": flow["state"]})
        assert "access_token" in result, result
        return result


def nonce(flow: dict[str, Any]) -> str:
    """The nonce that MSAL put into the authorization request: the hash of what the flow holds."""
    import hashlib

    return hashlib.sha256(flow["nonce"].encode("ascii")).hexdigest()


@dataclass(frozen=True)
class _WithNonce(User):
    nonce: str

    @property
    def claims(self) -> dict[str, Any]:
        return {**super().claims, "nonce": self.nonce}


def silent(app: msal.ConfidentialClientApplication, user: User, **options: Any) -> dict[str, Any] | None:
    """What a request does: find the user's account, and ask for a token."""
    accounts = [a for a in app.get_accounts() if a["home_account_id"] == user.home_account_id]
    return app.acquire_token_silent(SCOPES, account=accounts[0], **options) if accounts else None
