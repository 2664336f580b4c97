"""The provider's metadata as it is now: where it is, and what comes back."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any

import requests

from ..provider import Provider

WELL_KNOWN = "/.well-known/openid-configuration"
MICROSOFT_LOGOUT = (
    "/oauth2/v2.0/logout"  # where Entra ID, External ID and Azure AD B2C have it, and nobody else
)
_TIMEOUT_SECONDS = 5.0
_MAXIMUM_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where the metadata of a user flow is, and what is known of it without asking.

    Args:
        flow: The user flow; empty where there are none.
        url: Where it is; `None` if nobody knows.
        known: The metadata that the `Provider` was made with; empty if it is discovered.
        verify: As in `requests`.
    """

    flow: str
    url: str | None
    known: Mapping[str, Any] = field(default_factory=dict)
    verify: bool | str = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back.

    Args:
        source: Who was asked.
        metadata: The metadata; `None` if none came.
        answered: Whether it is the provider's last word: it is there, and says that this is all it has.
        why: Why there is no metadata.
        seconds_ahead: How far the provider's clock is ahead of ours; `None` if it did not tell.
    """

    source: Source
    metadata: Mapping[str, Any] | None = None
    answered: bool = True
    why: str = ""
    seconds_ahead: float | None = None


def sources(provider: Provider) -> Iterator[Source]:
    """Yield where the metadata of a provider is, for each user flow."""
    for flow, endpoints in provider.endpoints.items():
        document, known = endpoints.fetch or endpoints.rest, endpoints.metadata
        logout, issuer = known.get("end_session_endpoint", ""), known.get("issuer", "")
        url = None
        if document is not None:
            url = document.url
        elif logout.endswith(MICROSOFT_LOGOUT):
            url = f"{logout.removesuffix(MICROSOFT_LOGOUT)}/v2.0{WELL_KNOWN}"
        elif issuer:
            url = issuer.rstrip("/") + WELL_KNOWN  # OpenID Connect Discovery 1.0, 4
        yield Source(flow=flow, url=url, known=known, verify=endpoints.verify)


def ask(source: Source) -> Answer:
    """Fetch metadata, once."""
    if source.url is None:
        return Answer(source=source, answered=False, why="nothing says where it is")
    sent = time.time()
    try:
        with requests.get(
            source.url, verify=source.verify, timeout=_TIMEOUT_SECONDS, allow_redirects=False, stream=True
        ) as answer:
            middle = (sent + time.time()) / 2
            body = answer.raw.read(_MAXIMUM_BYTES, decode_content=True)
    except (requests.RequestException, OSError) as error:
        return Answer(
            source=source, answered=False, why=f"{source.url} cannot be reached ({type(error).__name__})"
        )
    ahead = _seconds_ahead(answer.headers, middle)
    if answer.status_code != requests.codes.ok:
        why, away = f"{source.url} answers {answer.status_code}", answer.status_code >= 500
        return Answer(source=source, answered=not away, why=why, seconds_ahead=ahead)
    try:
        metadata = json.loads(body)
    except (ValueError, RecursionError):
        metadata = None
    if not isinstance(metadata, dict):
        return Answer(source=source, why=f"{source.url} is no JSON object", seconds_ahead=ahead)
    return Answer(source=source, metadata=metadata, seconds_ahead=ahead)


def _seconds_ahead(headers: Mapping[str, str], now: float) -> float | None:
    """Return how far the clock that an answer tells is ahead (RFC 9110, 6.6.1; `Age`: RFC 9111, 5.1)."""
    try:
        told = parsedate_to_datetime(headers.get("Date", "")).timestamp()
        age = float(headers.get("Age", "0"))
    except ValueError:
        return None
    return told + 0.5 + age - now  # the header leaves out the fraction of a second
