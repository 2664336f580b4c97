"""What an app knows of its registration at the provider; in real life, its environment variables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Registration:
    """One app, registered at the provider.

    Args:
        url: The app's own origin.
        authority: MSAL's `authority=` for Entra ID, `oidc_authority=` for any other provider.
        issuer: Where the provider's metadata is.
        client_id: The application (client) id.
        client_secret: The client secret.
        api_url: The protected API that the app calls.
        ca_file: The certificate authority of provider and API.
    """

    url: str
    authority: Mapping[str, str]
    issuer: str
    client_id: str
    client_secret: str = field(repr=False)
    api_url: str
    ca_file: str

    @property
    def redirect_uri(self) -> str:
        """Where the provider sends the browser after a sign-in."""
        return f"{self.url}/redirect"

    @property
    def home(self) -> str:
        """Where the provider sends the browser after a logout."""
        return f"{self.url}/"
