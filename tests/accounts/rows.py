"""Token caches of two users, made by real MSAL at the embedded provider: the rows of the table in docs/accounts.md."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msal

from msal_logout_middleware.testing import EmbeddedProvider, User

from ..testing.apps import App

OPENID = {"openid", "profile", "offline_access"}


@dataclass
class World:
    """One token cache, and Alice, whose accounts go, while Bob stays."""

    provider: EmbeddedProvider
    app: App
    alice: User
    bob: User
    cache: msal.SerializableTokenCache = field(default_factory=msal.SerializableTokenCache)
    clients: dict[str, Any] = field(default_factory=dict)

    def at_entra(
        self, authority: str | None = None, *, client: str = "web"
    ) -> msal.ConfidentialClientApplication:
        return self._client("entra", client, authority=authority or self.provider.entra.authority)

    def at_b2c(self, policy: str) -> msal.ConfidentialClientApplication:
        return self._client("b2c", "web", authority=self.provider.b2c.authority(policy))

    def at_generic(self, *, client: str = "web") -> msal.ConfidentialClientApplication:
        return self._client("generic", client, oidc_authority=self.provider.generic.oidc_authority)

    def sign_in(
        self, client: msal.ConfidentialClientApplication, user: User, *scopes: str, **flow: Any
    ) -> dict[str, Any]:
        """Sign a user in, with a browser of their own; return what MSAL returned."""
        self.app.msal = client
        self.app.login = {"scopes": list(scopes or ["User.Read"]), **flow}
        with self.provider.browser() as browser:
            assert browser.sign_in(self.app.url + "/login", user).text == "signed in"
        return self.app.result

    def silently(
        self, client: msal.ConfidentialClientApplication, home: str, *scopes: str, **more: Any
    ) -> None:
        account = next(account for account in client.get_accounts() if account["home_account_id"] == home)
        assert "access_token" in client.acquire_token_silent(list(scopes), account, **more)

    def _client(self, flavour: str, name: str, **authority: Any) -> msal.ConfidentialClientApplication:
        key = f"{flavour} {name}"
        if key not in self.clients:
            self.clients[key] = getattr(self.provider, flavour).register(
                redirect_uris=[self.app.redirect_uri], family=name.startswith("family")
            )
        return msal.ConfidentialClientApplication(
            self.clients[key].client_id,
            client_credential=self.clients[key].client_secret,
            instance_discovery=False,
            verify=self.provider.ca_file,
            token_cache=self.cache,
            **authority,
        )


@dataclass(frozen=True)
class Signed:
    """Alice has signed in.

    Args:
        claims: What her session holds.
        client: With which a developer calls `remove_account`.
    """

    claims: dict[str, Any]
    client: msal.ConfidentialClientApplication


ROWS: dict[str, Callable[[World], Signed]] = {}


def row(build: Callable[[World], Signed]) -> Callable[[World], Signed]:
    assert build.__doc__
    ROWS[build.__doc__.rstrip(".")] = build
    return build


@row
def one_scope(world: World) -> Signed:
    """One sign-in."""
    client = world.at_entra()
    return Signed(world.sign_in(client, world.alice)["id_token_claims"], client)


@row
def several_scopes(world: World) -> Signed:
    """Several scopes."""
    signed = one_scope(world)
    world.silently(signed.client, world.alice.home_account_id, "Mail.Read")
    world.silently(signed.client, world.alice.home_account_id, "Files.Read", "Mail.Send")
    return signed


@row
def several_tenants(world: World) -> Signed:
    """Her own tenant, and one she is a guest of."""
    guest = world.at_entra(world.provider.entra.authority_of(next(iter(world.alice.guest_oids))))
    world.sign_in(guest, world.alice)
    return one_scope(world)


@row
def guest(world: World) -> Signed:
    """A guest, by the claims of the tenant she is a guest of."""
    client = world.at_entra(world.provider.entra.authority_of(next(iter(world.alice.guest_oids))))
    claims = world.sign_in(client, world.alice)["id_token_claims"]
    assert f"{claims['oid']}.{claims['tid']}" != world.alice.home_account_id
    return Signed(claims, client)


@row
def common(world: World) -> Signed:
    """Any tenant: the realm is `common`."""
    client = world.at_entra(world.provider.entra.common_authority)
    return Signed(world.sign_in(client, world.alice)["id_token_claims"], client)


@row
def on_behalf_of(world: World) -> Signed:
    """On behalf of her, in an API."""
    signed = one_scope(world)
    api = world.at_entra(client="api")
    assertion = signed.client.acquire_token_silent(
        [f"api://{api.client_id}/.default"],
        next(a for a in signed.client.get_accounts() if a["home_account_id"] == world.alice.home_account_id),
    )["access_token"]
    assert "access_token" in api.acquire_token_on_behalf_of(assertion, ["User.Read"])
    return signed


@row
def extended_cache_key(world: World) -> Signed:
    """Extended cache keys (`forwarded_client_claims`)."""
    signed = one_scope(world)
    for value in ("a", "b"):
        asked = json.dumps({"access_token": {"xms_cc": {"values": [value]}}})
        world.silently(signed.client, world.alice.home_account_id, "Mail.Read", forwarded_client_claims=asked)
    return signed


@row
def two_policies(world: World) -> Signed:
    """Two B2C user flows."""
    world.sign_in(world.at_b2c("B2C_1_signin"), world.bob)
    client = world.at_b2c("B2C_1_signin")
    claims = world.sign_in(client, world.alice)["id_token_claims"]
    world.sign_in(world.at_b2c("B2C_1_edit-profile"), world.alice)
    return Signed(claims, client)


@row
def alias(world: World) -> Signed:
    """The same cloud by another name."""
    elsewhere = world.provider.entra.authority.replace("//localhost", "//127.0.0.1")
    assert elsewhere != world.provider.entra.authority
    world.sign_in(world.at_entra(elsewhere), world.alice)
    return one_scope(world)


@row
def foreign_client(world: World) -> Signed:
    """Another client in the same cache."""
    world.sign_in(world.at_entra(client="other"), world.alice)
    return one_scope(world)


@row
def family(world: World) -> Signed:
    """Two of Microsoft's family of clients."""
    world.sign_in(world.at_entra(client="family one"), world.alice)
    client = world.at_entra(client="family two")
    return Signed(world.sign_in(client, world.alice)["id_token_claims"], client)


@row
def orphans(world: World) -> Signed:
    """Tokens without an account entry: a silent call was in flight."""
    signed = one_scope(world)
    home = world.alice.home_account_id
    accounts = world.cache.search(msal.TokenCache.CredentialType.ACCOUNT, query={"home_account_id": home})
    for account in list(accounts):
        world.cache.remove_account(account)
    return signed


@row
def orphans_of_a_guest(world: World) -> Signed:
    """The same of a guest, without an ID token."""
    signed = guest(world)
    home = {"home_account_id": world.alice.home_account_id}
    kinds = msal.TokenCache.CredentialType
    for account in list(world.cache.search(kinds.ACCOUNT, query=home)):
        world.cache.remove_account(account)
    for id_token in list(world.cache.search(kinds.ID_TOKEN, query=home)):
        world.cache.remove_idt(id_token)
    return signed


@row
def generic(world: World) -> Signed:
    """Another provider: the account is the bare `sub`."""
    world.sign_in(world.at_generic(), world.bob)
    client = world.at_generic()
    claims = world.sign_in(client, world.alice)["id_token_claims"]
    world.silently(client, world.alice.sub, "mail")
    return Signed(claims, client)


@row
def no_home(world: World) -> Signed:
    """There, a refresh that brings no ID token: no home id."""
    signed = generic(world)
    tokens = world.provider.alive_refresh_tokens(world.alice)
    world.cache.add(
        {
            "client_id": signed.client.client_id,
            "scope": ["files"],
            "environment": signed.client.authority.instance,
            "token_endpoint": signed.client.authority.token_endpoint,
            "grant_type": "refresh_token",
            "data": {"refresh_token": next(iter(tokens))},
            "response": {"access_token": _access_token(signed.client, world.alice.sub), "expires_in": 3600},
        }
    )
    return signed


def _access_token(client: msal.ConfidentialClientApplication, home: str) -> str:
    found = client.token_cache.search("AccessToken", query={"home_account_id": home})
    return str(next(iter(found))["secret"])


def belongs_to(user: User) -> re.Pattern[str]:
    """What names a user in a cache."""
    return re.compile("|".join(map(re.escape, (user.oid, user.sub, *user.guest_oids.values()))))
