"""What the provider knows: users, clients, sessions, grants, and every request it was sent."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class User:
    """A person who can sign in.

    Args:
        username: What the pages show and `preferred_username` holds.
        name: The display name.
        oid: The object id in the home tenant.
        tid: The home tenant.
        sub: The subject at the generic provider.
        guest_oids: The object id in each tenant that the person is a guest of.
    """

    username: str
    name: str
    oid: str
    tid: str
    sub: str
    guest_oids: Mapping[str, str] = field(default_factory=dict)

    @property
    def home_account_id(self) -> str:
        """The `home_account_id` that MSAL gives the account at the Entra flavour, guest or not."""
        return f"{self.oid}.{self.tid}"

    def oid_in(self, tid: str) -> str | None:
        """Return the object id in a tenant; `None` if the person is a stranger there."""
        return self.oid if tid == self.tid else self.guest_oids.get(tid)


@dataclass(frozen=True, slots=True)
class Client:
    """An app that is registered at one flavour; the arguments are those of `Flavour.register`."""

    flavour: str
    client_id: str
    client_secret: str | None = field(repr=False)
    redirect_uris: tuple[str, ...] = ()
    post_logout_redirect_uris: tuple[str, ...] = ()
    frontchannel_logout_uri: str | None = None
    backchannel_logout_uri: str | None = None
    optional_claims: frozenset[str] = frozenset()
    consent: bool = False
    family: bool = False


@dataclass(slots=True)
class ProviderSession:
    """One browser that one user is signed in with at one flavour.

    Args:
        sid: The session's id, in `sid` claims and front-channel calls.
        user: Who is signed in.
        cookie: The value of the browser's cookie.
        started_at: When, in seconds since 1970, by the provider's clock.
        clients: The issuer of the ID token that each client has got in this session, by client id.
        ended: Whether it is over.
    """

    flavour: str
    user: User
    started_at: int
    sid: str = field(default_factory=lambda: str(uuid.uuid4()))
    cookie: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    clients: dict[str, str] = field(default_factory=dict)
    ended: bool = False


@dataclass(frozen=True, slots=True)
class Grant:
    """What a code, a refresh token or an access token stands for.

    Args:
        client: Who it was given to.
        realm: The path of the endpoints that it was asked for at, such as a tenant.
        scopes: What it is for.
        user: Whose it is; `None` for an app's own.
        session: The provider session that it came from.
        nonce: Of the authorization request.
        redirect_uri: Of the authorization request.
        code_challenge: Of the authorization request (RFC 7636).
    """

    client: Client
    realm: str
    scopes: tuple[str, ...]
    user: User | None = None
    session: ProviderSession | None = None
    nonce: str | None = None
    redirect_uri: str | None = None
    code_challenge: str | None = None


@dataclass(frozen=True, slots=True)
class RecordedRequest:
    """A request that the provider was sent.

    Args:
        endpoint: `discovery`, `keys`, `authorize`, `signin`, `consent`, `token`, `logout`, `graph` or `other`.
        method: In capitals.
        url: As it was requested.
        path: Percent-decoded.
        query: Its parameters; of a repeated one, the last.
        form: The fields of a urlencoded body; of a repeated one, the last.
        headers: Names in small letters.
    """

    endpoint: str
    method: str
    url: str
    path: str
    query: Mapping[str, str]
    form: Mapping[str, str] = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class BackchannelCall:
    """A logout token that the provider has posted, and the answer.

    Args:
        client: Whom it was posted to.
        token: The logout token.
        status: The answer's status; `None` if none came within the provider's time.
        body: The answer's body, or what went wrong.
    """

    client: Client
    token: str = field(repr=False)
    status: int | None
    body: str


@dataclass(slots=True)
class Records:
    """All of it, in memory."""

    users: dict[str, User] = field(default_factory=dict)
    clients: dict[tuple[str, str], Client] = field(default_factory=dict)
    sessions: list[ProviderSession] = field(default_factory=list)
    codes: dict[str, Grant] = field(default_factory=dict)
    refresh_tokens: dict[str, Grant] = field(default_factory=dict)
    access_tokens: dict[str, Grant] = field(default_factory=dict)
    consents: set[tuple[str, str]] = field(default_factory=set)
    requests: list[RecordedRequest] = field(default_factory=list)
    backchannel_calls: list[BackchannelCall] = field(default_factory=list)

    def session(self, flavour: str, cookie: str | None) -> ProviderSession | None:
        """Return the live session of a browser's cookie."""
        for session in self.sessions:
            if session.flavour == flavour and session.cookie == cookie and not session.ended:
                return session
        return None
