"""In what Entra ID, Azure AD B2C and any other OpenID provider differ: paths, issuers, claims, logout."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import uuid
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from .records import Client, Grant, ProviderSession, Records, User

MICROSOFT_PATHS = {
    "authorize": "/oauth2/v2.0/authorize",
    "signin": "/oauth2/v2.0/signin",
    "consent": "/oauth2/v2.0/consent",
    "token": "/oauth2/v2.0/token",
    "logout": "/oauth2/v2.0/logout",
    "keys": "/discovery/v2.0/keys",
}
PLAIN_PATHS = {name: f"/{name}" for name in MICROSOFT_PATHS}
GRAPH_PATH = "/graph/me"
ANY_TENANT = frozenset({"common", "organizations"})


@dataclass(frozen=True, slots=True)
class Site:
    """Where the provider is reached.

    Args:
        apps: The origin for apps and MSAL, `https`.
        browser: The origin for the browser, which may be plain `http` on loopback.
    """

    apps: str
    browser: str


class Flavour(ABC):
    """One kind of provider. All three share users, signing keys and the server.

    Attributes:
        id_token_hint_required: Whether a logout without a valid `id_token_hint` is refused, as B2C can be told.
        frontchannel_method: Whether iframes get the front-channel parameters by `GET`, or as a form.
        max_query_length: In characters, of a logout request; a longer one is refused, by Entra with
            AADSTS90015. `None` for no limit.
    """

    name: str
    paths: Mapping[str, str]
    default_optional_claims: frozenset[str] = frozenset()
    backchannel = False

    def __init__(self, site: Site, records: Records) -> None:
        self._site = site
        self._records = records
        self.id_token_hint_required = False
        self.frontchannel_method: Literal["GET", "POST"] = "GET"
        self.max_query_length: int | None = None

    def register(
        self,
        client_id: str | None = None,
        *,
        client_secret: str | None = "secret",  # noqa: S107 - it guards a provider on loopback
        redirect_uris: Collection[str] = (),
        post_logout_redirect_uris: Collection[str] = (),
        frontchannel_logout_uri: str | None = None,
        backchannel_logout_uri: str | None = None,
        optional_claims: Collection[str] | None = None,
        consent: bool = False,
        family: bool = False,
    ) -> Client:
        """Register an app, or register it anew.

        Args:
            client_id: A random one by default.
            client_secret: `None` for a public client, which needs PKCE.
            redirect_uris: Exact; nothing else is redirected to after a sign-in.
            post_logout_redirect_uris: Exact; nothing else is redirected to after a logout.
            frontchannel_logout_uri: What a logout loads in a hidden iframe.
            backchannel_logout_uri: What a logout posts a logout token to (generic flavour only).
            optional_claims: Which of `sid` and `login_hint` the ID token has; by default `sid` at the
                generic flavour, none at the others, as an app registration in Entra has at first.
            consent: Whether users are asked for their consent, once.
            family: Whether refresh tokens are for Microsoft's family of clients (`foci`).

        Raises:
            ValueError: The flavour has no back-channel logout.
        """
        if backchannel_logout_uri and not self.backchannel:
            raise ValueError(f"{self.name} has no back-channel logout; leave out backchannel_logout_uri")
        client = Client(
            flavour=self.name,
            client_id=client_id or str(uuid.uuid4()),
            client_secret=client_secret,
            redirect_uris=tuple(redirect_uris),
            post_logout_redirect_uris=tuple(post_logout_redirect_uris),
            frontchannel_logout_uri=frontchannel_logout_uri,
            backchannel_logout_uri=backchannel_logout_uri,
            optional_claims=self.default_optional_claims
            if optional_claims is None
            else frozenset(optional_claims),
            consent=consent,
            family=family,
        )
        self._records.clients[self.name, client.client_id] = client
        return client

    @property
    @abstractmethod
    def home_realm(self) -> str:
        """The realm of a token that comes from no sign-in, such as a logout token."""

    @abstractmethod
    def knows(self, realm: str) -> bool:
        """Tell whether a path (without slashes around it) is one of this flavour's realms."""

    def admits(self, user: User, realm: str) -> bool:
        """Tell whether a user can sign in at a realm."""
        return True

    @abstractmethod
    def issuer(self, realm: str, user: User | None) -> str:
        """Return the issuer of the tokens for a user who signs in at a realm."""

    @abstractmethod
    def identity(self, grant: Grant, user: User) -> dict[str, Any]:
        """Return the claims that say who the user is."""

    def client_info(self, realm: str, user: User) -> str | None:
        """Return Microsoft's `client_info`; `None` where the provider has none."""
        return None

    def session_state(self, session: ProviderSession, client: Client) -> str | None:
        """Return the authorization response's `session_state`; `None` where the provider has none."""
        return None

    def frontchannel_parameters(self, session: ProviderSession, issuer: str) -> dict[str, str]:
        """Return what the front-channel iframe's URL gets."""
        return {"iss": issuer, "sid": session.sid}

    def post_logout_targets(self, client: Client | None) -> tuple[str, ...]:
        """Return where the browser may be sent after a logout by a client; `None` if nobody knows which."""
        return client.post_logout_redirect_uris if client else ()

    def clients_of(self, session: ProviderSession) -> list[Client]:
        """Return the clients that have got an ID token in a session."""
        clients = self._records.clients
        return [clients[self.name, id_] for id_ in session.clients if (self.name, id_) in clients]

    def metadata(self, realm: str) -> dict[str, Any]:
        """Return the discovery document of a realm."""
        apps, browser = f"{self._site.apps}/{realm}", f"{self._site.browser}/{realm}"
        return {
            "issuer": self.issuer(realm, None),
            "authorization_endpoint": browser + self.paths["authorize"],
            "token_endpoint": apps + self.paths["token"],
            "jwks_uri": apps + self.paths["keys"],
            "userinfo_endpoint": self._site.apps + GRAPH_PATH,
            "end_session_endpoint": browser + self.paths["logout"],
            "response_types_supported": ["code"],
            "response_modes_supported": ["query", "form_post"],
            "code_challenge_methods_supported": ["S256"],
            "subject_types_supported": ["pairwise", "public"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "token_endpoint_auth_methods_supported": ["client_secret_post", "client_secret_basic"],
            "scopes_supported": ["openid", "profile", "email", "offline_access"],
            "frontchannel_logout_supported": True,
        }

    def metadata_v1(self, realm: str) -> dict[str, Any]:
        """Return what stands below the authority without `/v2.0`, where `identity` looks at logout."""
        return self.metadata(realm)


class _Microsoft(Flavour):
    """What Entra ID and B2C have in common."""

    paths = MICROSOFT_PATHS

    def post_logout_targets(self, client: Client | None) -> tuple[str, ...]:
        """Return the redirect URIs as well, as Entra has one list; without a client, those of all of them."""
        clients = (
            [client]
            if client
            else [each for each in list(self._records.clients.values()) if each.flavour == self.name]
        )
        return tuple(
            uri for each in clients for uri in (*each.redirect_uris, *each.post_logout_redirect_uris)
        )


class Entra(_Microsoft):
    """Microsoft Entra ID: tenants as paths, guests, `/common`, `client_info`, `sid` only in iframes.

    Attributes:
        tenant_id: The tenant of `authority`, and the home of users who are added without one.
    """

    name = "entra"

    def __init__(self, site: Site, records: Records) -> None:
        super().__init__(site, records)
        self.tenant_id = str(uuid.uuid4())
        self.max_query_length = 2048

    @property
    def home_realm(self) -> str:
        """The tenant of `authority`."""
        return self.tenant_id

    @property
    def authority(self) -> str:
        """What MSAL takes as `authority=`, with `instance_discovery=False`."""
        return self.authority_of(self.tenant_id)

    @property
    def common_authority(self) -> str:
        """The authority for users of any tenant; the issuer is that of the user's own."""
        return self.authority_of("common")

    def authority_of(self, tenant: str) -> str:
        """Return the authority of another tenant, such as one that users are guests of."""
        return f"{self._site.apps}/{tenant}"

    def knows(self, realm: str) -> bool:
        """Tell whether this is a tenant that has users, or stands for all."""
        tenants = {self.tenant_id, *ANY_TENANT}
        for user in list(self._records.users.values()):
            tenants |= {user.tid, *user.guest_oids}
        return realm in tenants

    def tenant(self, realm: str, user: User | None) -> str:
        """Return the realm itself, and under `/common` the user's home."""
        if realm not in ANY_TENANT:
            return realm
        return user.tid if user else "{tenantid}"

    def admits(self, user: User, realm: str) -> bool:
        """Tell whether the user is a member or a guest there."""
        return realm in ANY_TENANT or user.oid_in(realm) is not None

    def issuer(self, realm: str, user: User | None) -> str:
        """Return the issuer; of `/common`, before anybody signed in, Entra's template."""
        return f"{self._site.apps}/{self.tenant(realm, user)}/v2.0"

    def identity(self, grant: Grant, user: User) -> dict[str, Any]:
        """Return Entra's claims: `sub` is another one for each client, `oid` and `tid` are the tenant's."""
        tid = self.tenant(grant.realm, user)
        oid = user.oid_in(tid)
        pairwise = hashlib.sha256(f"{grant.client.client_id} {oid}".encode()).digest()
        claims = {
            "sub": base64.urlsafe_b64encode(pairwise).decode().rstrip("="),
            "oid": oid,
            "tid": tid,
            "name": user.name,
            "preferred_username": user.username,
            "rh": secrets.token_urlsafe(12),
            "uti": secrets.token_urlsafe(16),
            "ver": "2.0",
        }
        return claims if tid == user.tid else {**claims, "idp": f"{self._site.apps}/{user.tid}/"}

    def client_info(self, realm: str, user: User) -> str | None:
        """Return the home account, also of a guest."""
        return _client_info(user.oid, user.tid)

    def session_state(self, session: ProviderSession, client: Client) -> str | None:
        """Return the `sid`, as users of Entra report."""
        return session.sid

    def frontchannel_parameters(self, session: ProviderSession, issuer: str) -> dict[str, str]:
        """Return the `sid`, and no `iss`."""
        return {"sid": session.sid}

    def metadata(self, realm: str) -> dict[str, Any]:
        """Return the v2.0 document."""
        return {**super().metadata(realm), "http_logout_supported": True}

    def metadata_v1(self, realm: str) -> dict[str, Any]:
        """Return the v1.0 document, with an end-session endpoint and an issuer of its own."""
        return {
            **self.metadata(realm),
            "issuer": f"{self._site.apps}/{self.tenant(realm, None)}/",
            "end_session_endpoint": f"{self._site.browser}/{realm}/oauth2/logout",
        }


class B2C(_Microsoft):
    """Azure AD B2C: user flows (policies) as paths, one issuer for all, `client_info` of `oid-policy.tid`."""

    name = "b2c"
    tenant_name = "contosob2c.onmicrosoft.com"

    def __init__(self, site: Site, records: Records) -> None:
        super().__init__(site, records)
        self.tenant_id = str(uuid.uuid4())

    @property
    def home_realm(self) -> str:
        """Any user flow: they share one issuer."""
        return f"{self.tenant_name}/b2c_1_signin"

    def authority(self, policy: str) -> str:
        """Return what MSAL takes as `authority=` for a user flow, such as `B2C_1_signin`.

        Raises:
            ValueError: MSAL would not take it for a user flow.
        """
        if not _is_policy(policy):
            raise ValueError(f"a user flow's name begins with B2C_1_ (or B2C_1A_), unlike {policy!r}")
        return f"{self._site.apps}/{self.tenant_name}/{policy}"

    def home_account_id(self, user: User, policy: str) -> str:
        """Return the `home_account_id` that MSAL gives the account that signed in by a user flow."""
        return f"{user.oid}-{policy.lower()}.{self.tenant_id}"

    def knows(self, realm: str) -> bool:
        """Tell whether this is a user flow of the one B2C tenant."""
        tenant, _, policy = realm.partition("/")
        return tenant == self.tenant_name and _is_policy(policy) and "/" not in policy

    def issuer(self, realm: str, user: User | None) -> str:
        """Return the one issuer, the same for every user flow."""
        return f"{self._site.apps}/{self.tenant_id}/v2.0/"

    def identity(self, grant: Grant, user: User) -> dict[str, Any]:
        """Return B2C's claims: there is no `preferred_username`."""
        return {
            "sub": user.oid,
            "oid": user.oid,
            "tfp": _policy(grant.realm),
            "name": user.name,
            "emails": [user.username],
            "ver": "1.0",
        }

    def client_info(self, realm: str, user: User) -> str | None:
        """Return an account for each user flow."""
        return _client_info(f"{user.oid}-{_policy(realm)}", self.tenant_id)

    def metadata(self, realm: str) -> dict[str, Any]:
        """Return the user flow's document; its endpoints have the name in small letters."""
        return super().metadata(realm.lower())


class Generic(Flavour):
    """Any OpenID provider that MSAL's `oidc_authority` takes: a bare `sub`, front- and back-channel logout."""

    name = "generic"
    paths = PLAIN_PATHS
    realm = "oidc"
    default_optional_claims = frozenset({"sid"})
    backchannel = True

    @property
    def home_realm(self) -> str:
        """The one realm."""
        return self.realm

    @property
    def oidc_authority(self) -> str:
        """What MSAL takes as `oidc_authority=`; it is the issuer as well."""
        return f"{self._site.apps}/{self.realm}"

    def knows(self, realm: str) -> bool:
        """Tell whether this is the one realm."""
        return realm == self.realm

    def issuer(self, realm: str, user: User | None) -> str:
        """Return the one issuer."""
        return self.oidc_authority

    def identity(self, grant: Grant, user: User) -> dict[str, Any]:
        """Return the standard claims."""
        return {
            "sub": user.sub,
            "name": user.name,
            "preferred_username": user.username,
            "email": user.username,
            "jti": secrets.token_urlsafe(12),
        }

    def session_state(self, session: ProviderSession, client: Client) -> str | None:
        """Return a hash, as Session Management 1.0 has it: it is not the `sid`."""
        salt = secrets.token_urlsafe(8)
        digest = hashlib.sha256(f"{client.client_id} {session.cookie} {salt}".encode()).hexdigest()
        return f"{digest}.{salt}"

    def metadata(self, realm: str) -> dict[str, Any]:
        """Return the discovery document, back-channel logout included."""
        return {
            **super().metadata(realm),
            "frontchannel_logout_session_supported": True,
            "backchannel_logout_supported": True,
            "backchannel_logout_session_supported": True,
        }


def _client_info(uid: str, utid: str) -> str:
    return base64.urlsafe_b64encode(json.dumps({"uid": uid, "utid": utid}).encode()).decode().rstrip("=")


def _policy(realm: str) -> str:
    return realm.partition("/")[2].lower()


def _is_policy(name: str) -> bool:
    return name.lower().startswith(("b2c_1_", "b2c_1a_"))
