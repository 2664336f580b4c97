"""`msal-logout doctor`: what a `Logout` is made of, and what is wrong with it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .._drive import drive, settle
from ..configuration import Configuration
from ..errors import StoreError
from ..http import Cookie
from ..layers import layers
from ..stores.encryption import Encryption
from .checks import Finding
from .checks.claims import check_claims, parsed_claims
from .checks.cookies import check_cookies
from .checks.middleware import check_lifetime, check_middleware
from .checks.provider import check_provider, is_microsoft, issued
from .checks.secret import check_secret
from .checks.stores import check_store, check_token_caches, check_workers, workers_said
from .checks.urls import app_url, check_urls, to_register
from .errors import CommandError
from .loading import Loaded
from .metadata import Answer, ask, sources
from .report import Report


def read_claims(file: str | None) -> Mapping[str, Any] | None:
    """Return the claims in a file; `-` is standard input.

    Raises:
        CommandError: It cannot be read, or there are no claims in it. What is in it is not told.
    """
    if file is None:
        return None
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text("utf-8")
        return parsed_claims(text)
    except OSError as error:
        raise CommandError(f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError):  # which may quote the token
        raise CommandError(f"{file} holds neither claims, as a JSON object, nor an ID token") from None


async def examine(loaded: Loaded, *, claims: Mapping[str, Any] | None, url: str | None) -> Report:
    """Look at everything.

    Args:
        loaded: The `Logout`.
        claims: Of one user's ID token, if they were given.
        url: Where browsers find the app; told from `post_logout_redirect_uri` if it is `None`.
    """
    config = loaded.logout.configuration
    url = url or app_url(config)
    answers = [ask(source) for source in sources(config.provider)]
    register = to_register(config, url, back_channel=_has_back_channel(answers))
    cookies, session_findings = await _session(config)
    found = None if loaded.app is None else list(layers(loaded.app))
    findings = [
        check_middleware(found),
        check_secret(loaded.name, loaded.logout),
        *session_findings,
        check_lifetime(
            found,
            told_seconds=_told(config, "lifetime_seconds"),
            lifetime_seconds=config.session_lifetime_seconds,
        ),
        *check_cookies(cookies, url=url, logout_path=config.logout_path),
        *await _stores(config),
        *check_claims(
            claims,
            config,
            issued=issued(claims or {}, answers, config.provider),
            is_microsoft=is_microsoft(answers),
            server_side=_told(config, "server_side"),
        ),
        *check_provider(answers, config),
        check_urls(register),
    ]
    return Report(loaded.name, dict(_found(config, cookies)), register, findings)


async def _session(config: Configuration) -> tuple[Sequence[Cookie], list[Finding]]:
    """Return the session's cookies, and whether its engine answers."""
    try:
        cookies = config.session.cookies
        await drive(lambda _: _load(config), blocks=config.session_blocks)
    except (TypeError, ValueError) as error:  # ours, which say what to do
        return (), [Finding("session", "error", str(error), "see Sessions in the documentation")]
    except Exception as error:  # the engine's own, which may quote what it is connected with
        engine = f"the session engine raised {type(error).__name__}"
        said = str(error) if isinstance(error, StoreError) else engine
        to_do = "see that this user reaches the app's sessions"
        return config.session.cookies, [Finding("session", "error", said, to_do)]
    return cookies, [Finding("session", "ok", "sessions can be read")]


async def _load(config: Configuration) -> None:
    await settle(config.session.load("msal-logout doctor"))


async def _stores(config: Configuration) -> list[Finding]:
    said = workers_said(os.environ, Path.cwd())
    token_caches = check_token_caches(config.caches, said, server_side=_told(config, "server_side"))
    return [check_workers(config.store, said), token_caches, *await check_store(config.store)]


def _has_back_channel(answers: Sequence[Answer]) -> bool:
    """Tell whether the provider says that it has a back-channel logout; where nothing is known it may."""
    known = [answer.metadata for answer in answers if answer.metadata is not None]
    if not known:
        return not is_microsoft(answers)
    return any(metadata.get("backchannel_logout_supported") is True for metadata in known)


def _told(config: Configuration, name: str) -> Any:
    """Return what the session's reader says of itself; `None` if it says nothing."""
    try:
        return getattr(config.session, name, None)
    except (TypeError, ValueError):  # there is no session middleware
        return None


def _found(config: Configuration, cookies: Sequence[Cookie]) -> Iterator[tuple[str, str]]:
    kept = {True: ", on the server", False: ", in the cookie", None: ""}[_told(config, "server_side")]
    urls = [source.url for source in sources(config.provider) if source.url is not None]
    yield "provider", ", ".join([f"client id {config.provider.client_id}", *urls])
    yield "session", type(config.session).__name__ + kept
    yield "cookies", "; ".join(map(_attributes, cookies)) or "none"
    yield "token_caches", type(config.caches).__name__
    path = getattr(config.store, "path", None)
    yield "store", type(config.store).__name__ + (f" at {path}" if path else "")
    store: Any = config.store
    if hasattr(store, "encryption"):
        yield "encryption", _encryption(store.encryption)
    yield "logout_path", config.logout_path
    yield "front_channel_path", config.front_channel_path or "none"
    yield "back_channel_path", config.back_channel_path or "none"
    yield "landing_page", config.landing_page


def _encryption(encryption: Encryption | None) -> str:
    if encryption is None:
        return "none: token caches are in clear in the store"
    return {
        "refused": "token caches",
        "read": 'token caches, but those in clear are read as well (clear="read"): for the time of a change only',
        "written": 'none yet: token caches are written in clear (clear="written"), and read if they are encrypted',
    }[encryption.clear]


def _attributes(cookie: Cookie) -> str:
    named = {"Path": cookie.path, "Domain": cookie.domain, "SameSite": cookie.same_site}
    flags = {"Secure": cookie.secure, "HttpOnly": cookie.http_only, "Partitioned": cookie.partitioned}
    attributes = [f"{name}={value}" for name, value in named.items() if value]
    attributes += [name for name, is_set in flags.items() if is_set]
    return f"{cookie.name} ({', '.join(attributes)})"
