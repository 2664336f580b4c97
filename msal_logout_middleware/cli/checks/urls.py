"""The URLs that the provider must know, and whether it and the browsers can use them."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from ...configuration import Configuration
from ...targets import is_loopback, origin_of
from . import Finding


def app_url(config: Configuration) -> str:
    """Return where browsers find the app, as far as the configuration tells."""
    return origin_of(config.post_logout_redirect_uri)


def to_register(config: Configuration, url: str, *, back_channel: bool) -> Mapping[str, str]:
    """Return the URLs that must be registered at the provider, letter by letter.

    Args:
        config: The configuration.
        url: Where browsers find the app, with the path that it is mounted at.
        back_channel: Whether the provider has a back-channel logout.
    """
    base = url.rstrip("/")
    found = {"post_logout_redirect_uri": config.post_logout_redirect_uri}
    if config.front_channel_path is not None:
        found["front_channel_logout_url"] = base + config.front_channel_path
    if config.back_channel_path is not None and back_channel:
        found["back_channel_logout_uri"] = base + config.back_channel_path
    return found


def check_urls(registered: Mapping[str, str]) -> Finding:
    """Check the URLs to register: providers take no other than https, and cannot reach this machine by its own name."""
    check = "urls"
    plain = [url for url in registered.values() if urlsplit(url).scheme != "https"]
    if plain and not all(is_loopback(urlsplit(url).hostname) for url in plain):
        seen = f"{', '.join(plain)}: not https, so session cookies go over the network in clear"
        return Finding(check, "error", seen, "serve the app over https")
    if plain:
        seen = (
            f"{', '.join(plain)}: not https, which is for development; providers take http only for localhost"
        )
        return Finding(check, "warning", seen, "give post_logout_redirect_uri (or --url) as users see it")
    if all(is_loopback(urlsplit(url).hostname) for url in registered.values()):
        seen = "they are of this machine only: the provider cannot call them, nor other people's browsers"
        return Finding(check, "warning", seen, "give post_logout_redirect_uri (or --url) as users see it")
    return Finding(check, "ok", "all are https")
