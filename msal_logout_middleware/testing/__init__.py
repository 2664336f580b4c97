"""An OpenID provider for tests that real, unmodified MSAL signs in against, and a browser to do it with.

    with EmbeddedProvider(browser_host="idp.localhost") as provider, provider.trusted():
        alice = provider.add_user("alice@contoso.example")
        client = provider.entra.register(
            redirect_uris=["http://localhost:5000/redirect"],
            post_logout_redirect_uris=["http://localhost:5000/"],
            frontchannel_logout_uri="http://localhost:5000/front",
            optional_claims=["sid", "login_hint"],
        )
        app = msal.ConfidentialClientApplication(
            client.client_id, client_credential=client.client_secret,
            authority=provider.entra.authority, instance_discovery=False)

        browser = provider.browser()
        page = browser.sign_in("http://localhost:5000/login", alice)   # redirects, forms, form_post
        page = browser.click("Sign out")                               # iframes, and back to the app

        provider.alive_refresh_tokens(alice); provider.requests; provider.sessions(alice)

The other two flavours: `authority=provider.b2c.authority("B2C_1_signin")` and
`oidc_authority=provider.generic.oidc_authority`. With pytest, take the fixtures `provider` and `scripted_browser`.
Faults: `slow`, `fail`, `hold`, `gone`, `back`. Stand-alone: `python -m msal_logout_middleware.testing`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .browser import Browser, Form, Link, Page, Visit
    from .cookies import CookieJar, StoredCookie
    from .faults import Hold
    from .flavours import B2C, Entra, Flavour, Generic
    from .provider import EmbeddedProvider
    from .records import BackchannelCall, Client, ProviderSession, RecordedRequest, User

# Loaded when asked for: pytest imports this package in every suite, also where the extra is not installed.
_ROOMS = {
    "browser": ("Browser", "Form", "Link", "Page", "Visit"),
    "cookies": ("CookieJar", "StoredCookie"),
    "faults": ("Hold",),
    "flavours": ("B2C", "Entra", "Flavour", "Generic"),
    "provider": ("EmbeddedProvider",),
    "records": ("BackchannelCall", "Client", "ProviderSession", "RecordedRequest", "User"),
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = [
    "B2C",
    "BackchannelCall",
    "Browser",
    "Client",
    "CookieJar",
    "EmbeddedProvider",
    "Entra",
    "Flavour",
    "Form",
    "Generic",
    "Hold",
    "Link",
    "Page",
    "ProviderSession",
    "RecordedRequest",
    "StoredCookie",
    "User",
    "Visit",
]


def __getattr__(name: str) -> Any:
    if name not in _ROOM_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        room = import_module(f".{_ROOM_OF[name]}", __name__)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{__name__} needs {error.name}: pip install 'msal-logout-middleware[testing]'", name=error.name
        ) from error
    return getattr(room, name)
