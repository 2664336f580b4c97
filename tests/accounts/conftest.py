"""The world of the table: one cache, in which Bob and the app itself have tokens already."""

from __future__ import annotations

import uuid

import pytest

from ..testing.apps import serving
from .rows import World


@pytest.fixture
def world(provider):
    tenant = str(uuid.uuid4())
    alice = provider.add_user("alice@contoso.example", guest_of=[tenant])
    bob = provider.add_user("bob@contoso.example", guest_of=[tenant])
    with serving() as app:
        world = World(provider, app, alice, bob)
        client = world.at_entra()
        world.sign_in(client, bob)
        world.silently(client, bob.home_account_id, "Mail.Read")
        world.sign_in(world.at_entra(provider.entra.authority_of(tenant)), bob)
        assert "access_token" in client.acquire_token_for_client([f"{provider.graph_url}/.default"])
        yield world
