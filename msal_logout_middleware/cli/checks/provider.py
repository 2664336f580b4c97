"""The provider: whether its metadata says what the configuration says, and whether the clocks agree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from ...configuration import Configuration
from ...provider import Provider
from ...trust import Issuer
from ..metadata import MICROSOFT_LOGOUT, WELL_KNOWN, Answer
from . import Finding

Metadata = Mapping[str, Any]

_WARNING_SECONDS = 60.0
_ALGORITHMS = (
    "id_token_signing_alg_values_supported"  # logout tokens are signed alike (Back-Channel Logout 1.0, 2.6)
)
_NO_METADATA = "nothing is known of the provider's metadata"


def is_microsoft(answers: Sequence[Answer]) -> bool:
    """Tell whether the provider is Entra ID, External ID or Azure AD B2C."""
    documents = [document for answer in answers for document in (answer.source.known, answer.metadata or {})]
    return any(str(document.get("end_session_endpoint")).endswith(MICROSOFT_LOGOUT) for document in documents)


def issued(claims: Metadata, answers: Sequence[Answer], provider: Provider) -> bool | None:
    """Tell whether claims are of the provider's ID tokens; `None` if that cannot be told.

    Args:
        claims: Of an ID token.
        answers: What came back when the provider was asked for its metadata.
        provider: What is known without asking.
    """
    iss, tid = str(claims.get("iss")), claims.get("tid")
    known = provider.issued(iss, tid)
    named = [answer.metadata.get("issuer") for answer in answers if answer.metadata is not None]
    if known is not None or not named:
        return known
    return any(Issuer(str(issuer)).issued(iss, tid) for issuer in named)


def check_provider(answers: Sequence[Answer], config: Configuration) -> Iterator[Finding]:
    """Check the metadata of each user flow against the configuration.

    Args:
        answers: What came back when it was asked for, for each user flow.
        config: The configuration.
    """
    microsoft = is_microsoft(answers)
    for answer in answers:
        yield _reached(answer)
        if answer.metadata is not None:
            yield _issuer(answer, answer.metadata)
            yield _end_session_endpoint(answer, answer.metadata)
    known = next((answer.metadata for answer in answers if answer.metadata is not None), None)
    yield _front_channel(known, config, microsoft=microsoft)
    incomplete = not microsoft and any(map(_lacks_keys, answers))
    yield _back_channel(known, config, microsoft=microsoft, incomplete=incomplete)
    yield check_clock(answers, allowed_seconds=config.logout_token_rules.clock_skew_seconds)


def _reached(answer: Answer) -> Finding:
    check, flow = "provider-metadata", _flow(answer)
    if answer.metadata is not None:
        return Finding(check, "ok", f"{flow}{answer.source.url}")
    if not answer.answered:
        to_do = "a sign-out works without it; look again when it is there"
        if not answer.source.known.get("end_session_endpoint"):
            to_do = (
                "without it nobody is signed out at the provider, and its logout tokens are refused: "
                "look again when it is there"
            )
        return Finding(check, "warning", f"{flow}{answer.why}", to_do)
    to_do = "correct the tenant, the user flow or the URL that Provider is given"
    return Finding(check, "error", f"{flow}{answer.why}", to_do)


def _issuer(answer: Answer, metadata: Metadata) -> Finding:
    check, flow = "provider-issuer", _flow(answer)
    issuer, logout = metadata.get("issuer"), urlsplit(str(metadata.get("end_session_endpoint"))).path
    if not isinstance(issuer, str) or not issuer:
        return Finding(check, "error", f"{flow}the metadata names no issuer", "ask the provider's people")
    if logout.endswith("/oauth2/logout") and not logout.startswith("/adfs/"):
        seen = f"{flow}this is the metadata of v1.0 tokens ({issuer}), and MSAL's are v2.0"
        return Finding(check, "error", seen, "Provider.entra(tenant, client_id), or a URL that ends in /v2.0")
    asked = str(answer.source.url).removesuffix(WELL_KNOWN).rstrip("/")
    if not answer.source.known and issuer.rstrip("/") != asked and not _is_template(issuer, asked):
        seen = f"{flow}the metadata at {asked} is that of {issuer} (Discovery 1.0, 4.3)"
        return Finding(check, "warning", seen, "give Provider.discover the issuer's own URL")
    expected = answer.source.known.get("issuer")
    if expected is not None and issuer != expected and not _is_template(issuer, str(expected)):
        seen = f"{flow}the provider is {issuer}, and is configured as {expected}"
        return Finding(
            check, "error", seen, "give Provider the metadata of the provider that users sign in at"
        )
    return Finding(check, "ok", f"{flow}{issuer}")


def _is_template(issuer: str, other: str) -> bool:
    """Entra ID's `common` has no tenant of its own; its other documents name the tenant by its id."""
    return "{tenantid}" in issuer or "{tenantid}" in other


def _end_session_endpoint(answer: Answer, metadata: Metadata) -> Finding:
    check, flow = "end-session-endpoint", _flow(answer)
    endpoint, known = metadata.get("end_session_endpoint"), answer.source.known.get("end_session_endpoint")
    if not endpoint and not known:
        seen = f"{flow}the provider has none: users stay signed in there"
        return Finding(check, "warning", seen, "tell them, or ask the provider's people")
    if known and _comparable(str(endpoint)) != _comparable(str(known)):
        seen = f"{flow}the provider has {endpoint or 'none'}, and is configured with {known}"
        return Finding(check, "error", seen, "correct what Provider is given")
    return Finding(check, "ok", f"{flow}{endpoint}")


def _comparable(endpoint: str) -> tuple[str, str]:
    """Return an endpoint without its tenant, which has an id and names, and in the small letters of B2C."""
    parts = urlsplit(endpoint.lower())
    path = parts.path
    return parts.netloc, path.lstrip("/").partition("/")[2] if path.endswith(MICROSOFT_LOGOUT) else path


def _front_channel(metadata: Metadata | None, config: Configuration, *, microsoft: bool) -> Finding:
    check = "front-channel-logout"
    if config.front_channel_path is None:
        return Finding(check, "ok", "turned off")
    if metadata is None:
        return Finding(check, "skipped", _NO_METADATA)
    if metadata.get("frontchannel_logout_supported") is not True:
        return Finding(check, "ok", "the provider does not say that it has any: nothing to register")
    with_sid = microsoft or metadata.get("frontchannel_logout_session_supported") is True
    if not with_sid and not config.front_channel_without_sid:
        seen = "the provider does not say that it sends a sid, and without one nothing is signed out"
        return Finding(check, "warning", seen, "front_channel_without_sid=True, if it sends none")
    return Finding(check, "ok", "the provider has it: register its URL")


def _lacks_keys(answer: Answer) -> bool:
    """Tell whether the metadata was given, and does not say who signs logout tokens."""
    known = answer.source.known
    is_discovered = not known and answer.source.url is not None
    return not is_discovered and not (known.get("issuer") and known.get("jwks_uri"))


def _back_channel(
    metadata: Metadata | None, config: Configuration, *, microsoft: bool, incomplete: bool
) -> Finding:
    check = "back-channel-logout"
    if config.back_channel_path is None:
        if metadata is None or metadata.get("backchannel_logout_supported") is not True:
            return Finding(check, "ok", "turned off")
        seen = "the provider has it, and back_channel_path=None turns it off: it needs no cookie and no open browser"
        return Finding(
            check, "warning", seen, "leave back_channel_path as it is by default, and register its URL"
        )
    if incomplete and (metadata is None or metadata.get("backchannel_logout_supported") is True):
        seen = "the metadata that Provider is given lacks what verifies logout tokens: each is refused"
        to_do = 'give from_metadata "issuer" and "jwks_uri", or back_channel_path=None'
        return Finding(check, "error", seen, to_do)
    if metadata is None:
        return Finding(check, "skipped", _NO_METADATA)
    if metadata.get("backchannel_logout_supported") is not True:
        whose = "Entra ID has none" if microsoft else "the provider does not say that it has any"
        return Finding(check, "ok", f"{whose}: nothing to register")
    if not metadata.get("jwks_uri"):
        seen = "the provider has it, and no jwks_uri: no logout token can be verified"
        return Finding(check, "error", seen, "ask the provider's people")
    signed_with, allowed = metadata.get(_ALGORITHMS), config.logout_token_rules.algorithms
    if isinstance(signed_with, list) and not set(signed_with) & set(allowed):
        seen = (
            f"the provider signs with {', '.join(map(str, signed_with))}, and {', '.join(allowed)} is allowed"
        )
        return Finding(check, "error", seen, "logout_token_rules=LogoutTokenRules(algorithms=...)")
    if metadata.get("backchannel_logout_session_supported") is not True:
        return Finding(
            check, "ok", "the provider has it, for all sessions of a user at once: register its URL"
        )
    return Finding(check, "ok", "the provider has it: register its URL")


def check_clock(answers: Sequence[Answer], *, allowed_seconds: float) -> Finding:
    """Check this machine's clock against the provider's.

    Args:
        answers: What came from the provider.
        allowed_seconds: How far the clocks may be apart before logout tokens are refused.
    """
    ahead = next((answer.seconds_ahead for answer in answers if answer.seconds_ahead is not None), None)
    if ahead is None:
        return Finding("clock", "skipped", "the provider did not tell the time")
    apart = abs(ahead)
    seen = f"{apart:.0f} s {'behind' if ahead > 0 else 'ahead of'} the provider's"
    to_do = "set this machine's clock, and keep it set (NTP)"
    if apart > allowed_seconds:
        return Finding("clock", "error", f"{seen}, and {allowed_seconds:.0f} s are allowed", to_do)
    if apart > _WARNING_SECONDS:
        return Finding("clock", "warning", seen, to_do)
    return Finding("clock", "ok", "agrees with the provider's" if apart < 1.5 else seen)


def _flow(answer: Answer) -> str:
    return f"{answer.source.flow}: " if answer.source.flow else ""
