"""The provider: what is known of it, how the rest is discovered, and the URL that signs out there."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode, urlsplit, urlunsplit

import requests

from ._drive import World, settle
from .errors import ProviderError
from .targets import is_loopback

logger = logging.getLogger("msal_logout_middleware")

Verify = bool | str
Metadata = Mapping[str, Any]

# The clouds that MSAL Python knows, by their preferred hosts.
CLOUDS: Mapping[str, str] = {
    "global": "login.microsoftonline.com",
    "us-government": "login.microsoftonline.us",
    "china": "login.partner.microsoftonline.cn",
    "france": "login.sovcloud-identity.fr",
    "germany": "login.sovcloud-identity.de",
    "singapore": "login.sovcloud-identity.sg",
}

_WELL_KNOWN = "/.well-known/openid-configuration"
_MAXIMUM_BYTES = 256 * 1024
_FRESH_SECONDS = 24 * 3600.0
_BACK_OFF_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class Provider:
    """One registration of an app at an OpenID provider. Made by `entra`, `b2c`, `discover` or `from_metadata`.

    Args:
        client_id: The app's (client) id at the provider.
        endpoints: For each user flow its metadata, or where that is found. One, named "", where there are no
            user flows.
    """

    client_id: str
    endpoints: Mapping[str, _Endpoints] = field(repr=False)

    def __post_init__(self) -> None:
        if not self.client_id or not isinstance(self.client_id, str):
            raise ValueError("client_id must be the application (client) id of the registration")

    @classmethod
    def entra(cls, tenant: str, client_id: str, *, cloud: str = "global") -> Provider:
        """Return a Microsoft Entra ID tenant. No network is needed.

        Args:
            tenant: The tenant's id or domain, or `common`, `organizations`, `consumers`.
            client_id: The application (client) id.
            cloud: A name from `CLOUDS`, or a host such as `contoso.ciamlogin.com` (External ID).

        Raises:
            ValueError: The tenant or the cloud cannot be one.
        """
        host = CLOUDS.get(cloud, cloud)
        if "." not in host or not _is_name(host):
            raise ValueError(f"cloud={cloud!r} must be one of {', '.join(CLOUDS)}, or a host name")
        if not _is_name(tenant):
            raise ValueError(
                f"tenant={tenant!r} must be a tenant id, a domain, 'common', 'organizations' or 'consumers'"
            )
        if "." in client_id:
            raise ValueError(
                f"client_id={client_id!r} looks like a domain; the order is entra(tenant, client_id)"
            )
        base = f"https://{host}/{tenant}"
        return cls.from_metadata(
            {
                "end_session_endpoint": f"{base}/oauth2/v2.0/logout",
            },
            client_id,
        )

    @classmethod
    def b2c(
        cls, tenant: str, user_flow: str | Sequence[str], client_id: str, *, host: str | None = None
    ) -> Provider:
        """Return an Azure AD B2C tenant. No network is needed to sign out.

        Args:
            tenant: The tenant's name (`contoso` for `contoso.onmicrosoft.com`).
            user_flow: The user flow (policy) that people sign in with; of several, the session's claims
                (`tfp`, `acr`) choose, and the first is the default.
            client_id: The application (client) id.
            host: The host, if it is not `<tenant>.b2clogin.com`.

        Raises:
            ValueError: A name cannot be one.
        """
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
                    metadata={
                        "end_session_endpoint": f"{base}/{flow}/oauth2/v2.0/logout",
                    }
                )
                for flow in flows
            },
        )

    @classmethod
    def discover(
        cls, url: str, client_id: str, *, verify: Verify = True, timeout_seconds: float = 3.0
    ) -> Provider:
        """Return any OpenID provider; its metadata is fetched when it is first needed, and refreshed daily.

        Args:
            url: MSAL's `authority` or `oidc_authority`, or the metadata's own URL (OpenID Connect Discovery
                1.0, 4).
            client_id: The app's client id.
            verify: As in `requests`: whether to verify certificates, or the path of a CA bundle.
            timeout_seconds: How long a sign-out may wait for a fetch.

        Raises:
            ValueError: The URL is not https (or http on loopback).
        """
        if not _is_endpoint(url):
            raise ValueError(f"url={url!r} must be an absolute https URL (http only on loopback)")
        address = url if url.endswith(_WELL_KNOWN) else url.rstrip("/") + _WELL_KNOWN
        fetch = _Fetch(address, verify=verify, timeout_seconds=timeout_seconds)
        return cls(client_id=client_id, endpoints={"": _Endpoints(fetch=fetch)})

    @classmethod
    def from_metadata(cls, metadata: Metadata, client_id: str) -> Provider:
        """Return a provider whose metadata you have (OpenID Connect Discovery 1.0, 3).

        Args:
            metadata: Its member `end_session_endpoint` is used (RP-Initiated Logout 1.0, 2.1).
            client_id: The app's client id.

        Raises:
            ValueError: An endpoint is not https (or http on loopback).
        """
        try:
            return cls(client_id=client_id, endpoints={"": _Endpoints(metadata=_checked(metadata))})
        except ProviderError as error:
            raise ValueError(str(error)) from None

    session_state_is_sid = False  # placeholders by the owner, until this room's writer is done

    def issued(self, iss: str, tid: object) -> bool | None:
        """Tell whether this provider issued."""
        return None

    def origins(self) -> tuple[str, ...]:
        """Return the provider's origins."""
        return ()

    async def end_session_endpoint(self, claims: Mapping[str, Any], world: World) -> str | None:
        """Return the endpoint that signs the session's user out; `None` if there is none, or none can be had.

        Args:
            claims: The session's claims, which name the user flow.
            world: Where to fetch.
        """
        flow = next((str(claims[c]).lower() for c in ("tfp", "acr") if claims.get(c)), "")
        endpoints = self.endpoints.get(flow) or next(iter(self.endpoints.values()))
        try:
            metadata = await endpoints.read(world)
        except ProviderError as error:
            logger.warning("provider metadata: %s", error)
            return None
        endpoint = metadata.get("end_session_endpoint")
        return endpoint if isinstance(endpoint, str) else None


@dataclass(frozen=True)
class _Endpoints:
    """Metadata that is known, or where to fetch it."""

    metadata: Metadata = field(default_factory=dict)
    fetch: _Fetch | None = None

    async def read(self, world: World) -> Metadata:
        if self.fetch is None:
            return self.metadata
        held = self.fetch.held()
        return held if held is not None else await settle(world.call(self.fetch))


class _Fetch:
    """Fetches the metadata in a thread of its own, so that nobody waits for longer than the timeout.

    What was fetched is held while it is fresh, and when it is stale for as long as nothing better comes.
    """

    def __init__(
        self, url: str, *, verify: Verify, timeout_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._url = url
        self._verify = verify
        self._timeout = timeout_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._fetching: threading.Thread | None = None
        self._metadata: Metadata | None = None
        self._next = -float("inf")  # when to ask again

    def held(self) -> Metadata | None:
        """Return the metadata without waiting, if no fetch is due."""
        return self._metadata if self._clock() < self._next else None

    def __call__(self) -> Metadata:
        """Return the metadata; fetched, if a fetch is due.

        Raises:
            ProviderError: There is none, or none in time.
        """
        with self._lock:
            if self._fetching is None and self._clock() >= self._next:
                self._fetching = threading.Thread(target=self._refresh, daemon=True)
                self._fetching.start()
            fetching, metadata = self._fetching, self._metadata
        if metadata is not None:
            return metadata
        if fetching is not None and self._clock() >= self._next:
            fetching.join(self._timeout)
            if fetching.is_alive():  # it drips; the next few need not wait for it as well
                self._next = self._clock() + _BACK_OFF_SECONDS
        if self._metadata is None:
            raise ProviderError("could not be fetched; the next try is a few seconds away")
        return self._metadata

    def _refresh(self) -> None:
        try:
            self._metadata = _checked(self._get())
            self._next = self._clock() + _FRESH_SECONDS
        except (requests.RequestException, ValueError, RecursionError, ProviderError) as error:
            self._next = self._clock() + _BACK_OFF_SECONDS
            known = "the last known one is used" if self._metadata else "there is none yet"
            logger.warning("provider metadata: fetch failed (%s); %s", type(error).__name__, known)
        finally:
            self._fetching = None

    def _get(self) -> Metadata:
        with requests.get(
            self._url, verify=self._verify, timeout=self._timeout, allow_redirects=False, stream=True
        ) as answer:
            if answer.status_code != requests.codes.ok:
                raise ProviderError(f"status {answer.status_code}")
            body = b""
            for chunk in answer.iter_content(16 * 1024):
                body += chunk
                if len(body) > _MAXIMUM_BYTES:
                    raise ProviderError("the metadata is larger than any provider's")
        metadata = json.loads(body)
        if not isinstance(metadata, dict):
            raise ProviderError("the metadata is not a JSON object")
        return metadata


def _checked(metadata: Metadata) -> Metadata:
    endpoint = metadata.get("end_session_endpoint")
    if endpoint is not None and not _is_endpoint(endpoint):
        raise ProviderError("end_session_endpoint must be an absolute https URL (http only on loopback)")
    return dict(metadata)


def _is_endpoint(url: Any) -> bool:
    if not isinstance(url, str) or not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        return False
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return False
    return (
        bool(host)
        and "@" not in parts.netloc
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
