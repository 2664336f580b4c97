"""An app's registration whose provider is known already, and event loops that stay open from call to call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from msal_logout_middleware import Provider
from tests.doors import Browser
from tests.model.workers import Loops, Worker
from tests.sites import KINDS, Site
from tests.stories.servers import until


@dataclass(frozen=True)
class Registration:
    """An app at the embedded provider: the provider's side, and the app's."""

    provider: Any
    client: Any
    known: Provider

    @property
    def iss(self) -> str:
        return self.provider.generic.oidc_authority

    def log_out(self, door: Any, **claims: Any) -> Any:
        """Call the app on the back channel."""
        token = self.provider.logout_token(self.client, **claims)
        return Browser(door).post("/logout/back-channel", {"logout_token": token}, site=None)


@pytest.fixture
def loops():
    loops = Loops()
    yield loops
    loops.close()


@pytest.fixture
def registration(provider, loops):
    """Metadata and keys are held already: no history depends on how soon they come."""
    client = provider.generic.register(redirect_uris=["http://localhost/redirect"])
    known = Provider.discover(provider.generic.oidc_authority, client.client_id, verify=provider.ca_file)
    registration = Registration(provider, client, known)
    kind = "flask, signed cookie"
    door = Worker(Site(kind, KINDS[kind]).build(provider=known), loops).door
    until(lambda: registration.log_out(door, sid="nobody's").status == 200, timeout_seconds=60)
    return registration
