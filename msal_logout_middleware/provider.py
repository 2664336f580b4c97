"""The provider: what is known of it, how the rest is discovered, whom to believe, and the URL that signs out there."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, urlencode, urlsplit, urlunsplit

from ._drive import World
from .errors import ProviderError
from .fetch import Document, Json, Verify
from .keys import SigningKeys
from .targets import is_loopback, origin_of
from .trust import TENANT, TENANT_ID, Issuer, Trust

logger = logging.getLogger("msal_logout_middleware")

Metadata = Json
Trusted = Literal[True] | str | os.PathLike[str]

# The clouds that MSAL Python knows, by their preferred hosts.
CLOUDS: Mapping[str, str] = {
    "global": "login.microsoftonline.com",
    "us-government": "login.microsoftonline.us",
    "china": "login.partner.microsoftonline.cn",
    "france": "login.sovcloud-identity.fr",
    "germany": "login.sovcloud-identity.de",
    "singapore": "login.sovcloud-identity.sg",
}

# Hosts of one cloud, any of which may show the page whose hidden iframe calls the app.
_ALIASES = (
    ("login.microsoftonline.com", "login.microsoft.com", "login.windows.net", "login.live.com"),
    ("login.microsoftonline.us", "login.usgovcloudapi.net"),
    ("login.partner.microsoftonline.cn", "login.chinacloudapi.cn"),
)
_EXTERNAL_ID = ".ciamlogin.com"
_CONSUMERS = "9188040d-6c67-4c5b-b112-36a304b66dad"  # the tenant of all personal accounts

_WELL_KNOWN = "/.well-known/openid-configuration"
_FRESH_SECONDS = 24 * 3600.0


@dataclass(frozen=True, kw_only=True)
class Provider:
    """One registration of an app at an OpenID provider. Made by `entra`, `b2c`, `discover` or `from_metadata`.

    Args:
        client_id: The app's (client) id at the provider.
        endpoints: For each user flow its metadata, or where that is found. One, named "", where there are no
            user flows.
        session_state_is_sid: Whether the `session_state` of its authorization responses is the session's `sid`.
    """

    client_id: str
    endpoints: Mapping[str, _Endpoints] = field(repr=False)
    session_state_is_sid: bool = False

    def __post_init__(self) -> None:
        if not self.client_id or not isinstance(self.client_id, str):
            raise ValueError(
                f"client_id={self.client_id!r} must be the application (client) id of the registration (is the "
                "environment variable set?)"
            )

    @classmethod
    def entra(
        cls,
        tenant: str,
        client_id: str,
        *,
        cloud: str = "global",
        tenants: Sequence[str] | None = None,
        verify: Trusted = True,
    ) -> Provider:
        """Return a Microsoft Entra ID tenant. No network is needed.

        Args:
            tenant: The tenant's id or domain, or `common`, `organizations`, `consumers`.
            client_id: The application (client) id.
            cloud: A name from `CLOUDS`, or a host such as `contoso.ciamlogin.com` (External ID).
            tenants: The ids of the tenants whose users may sign in, where `tenant` is not an id; `None`: any.
            verify: The path of a CA bundle, where the provider's certificate is none that `requests` trusts.

        Raises:
            ValueError: The tenant, the cloud or one of the tenants cannot be one.
        """
        trusted = _checked_verify(verify)
        host = CLOUDS.get(cloud, cloud)
        if "." not in host or not _is_name(host):
            raise ValueError(f"cloud={cloud!r} must be one of {', '.join(CLOUDS)}, or a host name")
        if not _is_name(tenant):
            raise ValueError(
                f"tenant={tenant!r} must be a tenant id, a domain, 'common', 'organizations' or 'consumers'"
            )
        if isinstance(client_id, str) and "." in client_id:
            raise ValueError(
                f"client_id={client_id!r} looks like a domain; the order is entra(tenant, client_id)"
            )
        if tenants is not None and (TENANT_ID.fullmatch(tenant) or tenant == "consumers"):
            raise ValueError(
                "tenants= narrows 'common', 'organizations' or a domain; this tenant is only one"
            )
        base = f"https://{host}/{tenant}"
        metadata = {
            "end_session_endpoint": f"{base}/oauth2/v2.0/logout",
            "jwks_uri": f"{base}/discovery/v2.0/keys",
        }
        issuer = _entra_issuer(host, tenant.lower())
        endpoints = _Endpoints(
            metadata=metadata | ({"issuer": issuer} if issuer else {}),
            rest=None if issuer else _metadata_at(f"{base}/v2.0", verify=trusted),
            tenants=_tenant_ids(tenants),
            verify=trusted,
        )
        return cls(client_id=client_id, endpoints={"": endpoints}, session_state_is_sid=True)

    @classmethod
    def b2c(
        cls,
        tenant: str,
        user_flow: str | Sequence[str],
        client_id: str,
        *,
        host: str | None = None,
        verify: Trusted = True,
    ) -> Provider:
        """Return an Azure AD B2C tenant. No network is needed to sign out.

        Args:
            tenant: The tenant's name (`contoso` for `contoso.onmicrosoft.com`).
            user_flow: The user flow (policy) that people sign in with; of several, the session's claims
                (`tfp`, `acr`) choose, and the first is the default.
            client_id: The application (client) id.
            host: The host, if it is not `<tenant>.b2clogin.com`.
            verify: The path of a CA bundle, where the provider's certificate is none that `requests` trusts.

        Raises:
            ValueError: A name cannot be one.
        """
        trusted = _checked_verify(verify)
        flows = [user_flow] if isinstance(user_flow, str) else list(user_flow)
        if "." in tenant or not _is_name(tenant):
            raise ValueError(f"tenant={tenant!r} must be the name before .onmicrosoft.com, such as 'contoso'")
        if not flows or not all(_is_name(f) and f.upper().startswith(("B2C_1_", "B2C_1A_")) for f in flows):
            raise ValueError(
                f"user_flow={user_flow!r} must be names such as 'B2C_1_signin' or 'B2C_1A_signin'"
            )
        host = host or f"{tenant}.b2clogin.com"
        if not _is_name(host):
            raise ValueError(f"host={host!r} must be a host name, such as 'login.contoso.com'")
        base = f"https://{host}/{tenant}.onmicrosoft.com"
        return cls(
            client_id=client_id,
            endpoints={
                flow.lower(): _Endpoints(
                    metadata={"end_session_endpoint": f"{base}/{flow}/oauth2/v2.0/logout"},
                    rest=_metadata_at(f"{base}/{flow}/v2.0", verify=trusted),
                    verify=trusted,
                )
                for flow in flows
            },
        )

    @classmethod
    def discover(
        cls,
        url: str,
        client_id: str,
        *,
        tenants: Sequence[str] | None = None,
        session_state_is_sid: bool | None = None,
        verify: Trusted = True,
        timeout_seconds: float = 3.0,
    ) -> Provider:
        """Return any OpenID provider; its metadata is fetched when it is first needed, and refreshed daily.

        Args:
            url: MSAL's `oidc_authority`, or AD FS's `authority`, or the metadata's own URL (OpenID Connect Discovery
                1.0, 4). Entra ID's must end in `/v2.0`.
            client_id: The app's client id.
            tenants: The ids of the tenants whose users may sign in, where the issuer is one for each tenant (Entra
                ID's `common`); `None`: any.
            session_state_is_sid: Whether the `session_state` of its authorization responses is the session's `sid`,
                as Entra ID's is; `None`: if the URL is Entra ID's.
            verify: The path of a CA bundle, where the provider's certificate is none that `requests` trusts.
            timeout_seconds: How long a sign-out may wait for a fetch.

        Raises:
            ValueError: The URL is not https (or http on loopback), or is Entra ID's of v1.0 tokens; or one of the
                tenants cannot be one.
        """
        trusted = _checked_verify(verify)
        if not _is_endpoint(url):
            raise ValueError(f"url={url!r} must be an absolute https URL (http only on loopback)")
        if _is_entra(url) and "/v2.0" not in url.lower():
            raise ValueError(
                f"url={url!r} is that of Entra ID's v1.0 tokens, and MSAL's are v2.0: give a URL that ends in /v2.0, or"
                " Provider.entra(tenant, client_id)"
            )
        endpoints = _Endpoints(
            fetch=_metadata_at(url, verify=trusted, timeout_seconds=timeout_seconds),
            tenants=_tenant_ids(tenants),
            verify=trusted,
        )
        if session_state_is_sid is None:
            session_state_is_sid = _is_entra(url)
        return cls(client_id=client_id, endpoints={"": endpoints}, session_state_is_sid=session_state_is_sid)

    @classmethod
    def from_metadata(
        cls,
        metadata: Metadata,
        client_id: str,
        *,
        session_state_is_sid: bool = False,
        verify: Trusted = True,
    ) -> Provider:
        """Return a provider whose metadata you have (OpenID Connect Discovery 1.0, 3).

        Args:
            metadata: Its member `end_session_endpoint` is used (RP-Initiated Logout 1.0, 2.1), and for
                back-channel logout `issuer` and `jwks_uri`.
            client_id: The app's client id.
            session_state_is_sid: Whether the `session_state` of its authorization responses is the session's `sid`.
            verify: The path of a CA bundle, where the certificate of the keys' server is none that `requests` trusts.

        Raises:
            ValueError: An endpoint is not https (or http on loopback), or the issuer is not a string.
            TypeError: The metadata is not a mapping.
        """
        trusted = _checked_verify(verify)
        if not isinstance(metadata, Mapping):
            raise TypeError("metadata is a mapping; for a URL there is Provider.discover(url, client_id)")
        try:
            endpoints = _Endpoints(metadata=_checked(metadata), verify=trusted)
        except ProviderError as error:
            raise ValueError(str(error)) from None
        return cls(client_id=client_id, endpoints={"": endpoints}, session_state_is_sid=session_state_is_sid)

    def issued(self, iss: str, tid: object = None) -> bool | None:
        """Tell whether an ID token with this `iss` is the provider's; `None` if that cannot be told without network.

        Args:
            iss: The issuer that the token names.
            tid: The tenant that it names; if it names none, the one in `iss`.
        """
        in_iss = TENANT_ID.search(iss)
        tenant = tid if isinstance(tid, str) else in_iss and in_iss[0]
        issuers = [endpoints.issuer for endpoints in self.endpoints.values()]
        if any(issuer is not None and issuer.issued(iss, tenant) for issuer in issuers):
            return True
        return None if None in issuers else False

    def origins(self) -> tuple[str, ...]:
        """Return the origins that the provider's pages have, as far as they are known without network."""
        return _origins(tuple(url for endpoints in self.endpoints.values() for url in endpoints.pages()))

    async def trust(self, world: World, *, wait_seconds: float = 1.0) -> Trust | None:
        """Return whom to believe that a user has signed out; `None` if that cannot be had in time, or is nobody.

        Args:
            world: Where to wait.
            wait_seconds: How long to wait for metadata at most.
        """
        wait = wait_seconds / len(self.endpoints)
        sources = [await each.source(world, wait_seconds=wait) for each in self.endpoints.values()]
        known = tuple(source for source in sources if source is not None)
        return Trust(known) if known else None

    async def prepare(self, world: World) -> None:
        """Have signing keys fetched where none are held, without waiting for them.

        A provider gives up after two seconds and does not call again, so the first logout token must find them here.
        """
        if self.session_state_is_sid:
            return  # Entra ID, which has no back-channel logout
        for endpoints in self.endpoints.values():
            if source := await endpoints.source(world, wait_seconds=0.0):
                await source[1].find(None, world, wait_seconds=0.0)

    async def end_session_endpoint(self, claims: Mapping[str, Any], world: World) -> str | None:
        """Return the endpoint that signs the session's user out; `None` if there is none, or none can be had.

        Args:
            claims: The session's claims, which name the user flow.
            world: Where to fetch.
        """
        flow = next((str(claims[c]).lower() for c in ("tfp", "acr") if claims.get(c)), "")
        endpoints = self.endpoints.get(flow) or next(iter(self.endpoints.values()))
        return await endpoints.end_session_endpoint(world)


@dataclass(frozen=True)
class _Endpoints:
    """Metadata that is known, and where what is not is fetched.

    Args:
        metadata: What is known.
        fetch: Where all of it is, if nothing is known.
        rest: Where the rest of it is, which a sign-out that starts in the app does not need.
        tenants: The ids of the tenants that are allowed; `None`: any.
        verify: As in `requests`.
    """

    metadata: Metadata = field(default_factory=dict)
    fetch: Document[Metadata] | None = None
    rest: Document[Metadata] | None = None
    tenants: frozenset[str] | None = None
    verify: Verify = True
    _keys: dict[str, SigningKeys] = field(default_factory=dict, init=False)  # by `jwks_uri`: the one in use

    @property
    def known(self) -> Metadata:
        """What is known now."""
        document = self.fetch or self.rest
        return self.metadata if document is None else {**self.metadata, **(document.held or {})}

    @property
    def issuer(self) -> Issuer | None:
        """The issuer, if it is known now."""
        identifier = self.known.get("issuer")
        return Issuer(identifier, self.tenants) if identifier else None

    def pages(self) -> Iterator[str]:
        """Yield URLs of the provider's pages, as far as they are known now."""
        known = self.known
        for name in ("end_session_endpoint", "authorization_endpoint", "issuer"):
            if _is_endpoint(known.get(name)):
                yield known[name].replace(TENANT, "common")
        if self.fetch is not None:
            yield self.fetch.url

    async def end_session_endpoint(self, world: World) -> str | None:
        if self.fetch is not None and not await _fetched(self.fetch, world, self.fetch.timeout_seconds):
            return None
        endpoint = self.known.get("end_session_endpoint")
        return endpoint if isinstance(endpoint, str) else None

    async def source(self, world: World, *, wait_seconds: float) -> tuple[Issuer, SigningKeys] | None:
        """Return the issuer and its keys."""
        document = self.fetch or self.rest
        if document is not None and not await _fetched(document, world, wait_seconds):
            return None
        issuer, url = self.issuer, self.known.get("jwks_uri")
        if issuer is None or not url:
            return None
        if url not in self._keys:
            self._keys.clear()
        return issuer, self._keys.setdefault(url, SigningKeys(url, verify=self.verify))


def _metadata_at(url: str, *, verify: Verify, timeout_seconds: float = 3.0) -> Document[Metadata]:
    address = url if url.endswith(_WELL_KNOWN) else url.rstrip("/") + _WELL_KNOWN
    return Document(
        address,
        _checked,
        name="provider metadata",
        verify=verify,
        timeout_seconds=timeout_seconds,
        fresh_seconds=_FRESH_SECONDS,
    )


async def _fetched(document: Document[Metadata], world: World, wait_seconds: float) -> bool:
    try:
        await document.get(world, wait_seconds=wait_seconds)
    except ProviderError as error:
        if wait_seconds:
            logger.warning("provider metadata: %s", error)
        return False
    return True


def _checked_verify(verify: object) -> Verify:
    """Return how certificates are verified, checked: who is not who they say may sign users out."""
    if verify is True:
        return True
    if verify is False:
        raise ValueError(
            "verify=False would let anybody on the network sign users out: give the path of the CA's certificate"
        )
    if not isinstance(verify, (str, os.PathLike)):
        raise TypeError(f"verify must be True or the path of a CA bundle, not {verify!r}")
    path = os.fspath(verify)
    if not Path(path).exists():
        raise ValueError(f"verify={path!r} does not exist; give the path of a CA bundle")
    return path


def _checked(metadata: Metadata) -> Metadata:
    for name in ("end_session_endpoint", "jwks_uri"):
        endpoint = metadata.get(name)
        if endpoint is not None and not _is_endpoint(endpoint):
            raise ProviderError(f"{name} must be an absolute https URL (http only on loopback)")
    if not isinstance(metadata.get("issuer", ""), str):
        raise ProviderError("issuer must be a string")
    return dict(metadata)


def _entra_issuer(host: str, tenant: str) -> str | None:
    """Return the issuer of v2.0 tokens; `None` if the host does not tell it."""
    tid = _CONSUMERS if tenant == "consumers" else tenant if TENANT_ID.fullmatch(tenant) else TENANT
    if host in CLOUDS.values():
        return f"https://{host}/{tid}/v2.0"
    return f"https://{tid}{_EXTERNAL_ID}/{tid}/v2.0" if host.endswith(_EXTERNAL_ID) else None


def _is_entra(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    return host.endswith(_EXTERNAL_ID) or host in {
        *CLOUDS.values(),
        *(host for group in _ALIASES for host in group),
    }


def _tenant_ids(tenants: Sequence[str] | None) -> frozenset[str] | None:
    if tenants is None:
        return None
    found = tenants if isinstance(tenants, Collection) and not isinstance(tenants, str) else ()
    if not found or not all(isinstance(tenant, str) and TENANT_ID.fullmatch(tenant) for tenant in found):
        raise ValueError(f"tenants={tenants!r} must be a list of tenant ids")
    return frozenset(tenant.lower() for tenant in tenants)


@lru_cache(maxsize=16)
def _origins(urls: tuple[str, ...]) -> tuple[str, ...]:
    hosts = {urlsplit(url).netloc for url in urls}
    aliases = [f"https://{host}" for group in _ALIASES if hosts.intersection(group) for host in group]
    return tuple(dict.fromkeys([*map(origin_of, urls), *aliases]))


def _is_endpoint(url: Any) -> bool:
    return isinstance(url, str) and _is_endpoint_text(url)


@lru_cache(maxsize=64)
def _is_endpoint_text(url: str) -> bool:
    if not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        return False
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return False
    return (
        bool(host)
        and all(c.isalnum() or c in "-_.:[]" for c in parts.netloc)  # it may stand in a header
        and (parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host)))
    )


def _is_name(text: str) -> bool:
    return bool(text) and text.isascii() and all(c.isalnum() or c in "-_." for c in text)


def end_session_url(endpoint: str, parameters: Mapping[str, str | None]) -> str:
    """Return the URL of an RP-initiated logout (RP-Initiated Logout 1.0, 2).

    Args:
        endpoint: The `end_session_endpoint`; a query that it has already is kept.
        parameters: What is sent; `None` is left out.
    """
    parts = urlsplit(endpoint)
    sent = urlencode({k: v for k, v in parameters.items() if v is not None}, quote_via=quote, safe="")
    query = "&".join(filter(None, (parts.query, sent)))
    return urlunsplit((parts.scheme, parts.netloc, parts.path, query, ""))
