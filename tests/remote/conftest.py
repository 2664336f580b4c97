"""Sites that are signed out of from elsewhere, and the people who sign in there."""

from __future__ import annotations

import time
from uuid import uuid4

import pytest

from msal_logout_middleware import asgi, back_channel, wsgi
from msal_logout_middleware._drive import BlockingWorld, run
from msal_logout_middleware.stores.sqlite import SQLiteStore
from tests.sites import KINDS, Site
from tests.stories.conftest import alice, bob, tell
from tests.tokens import claims_of

__all__ = ["alice", "bob", "tell"]

LONG_SECONDS = 60.0


def signing_in(name, sid="a-session", *, ahead_seconds=0, **more):
    """The claims of a sign-in that is like no other, by a provider whose clock is ahead of ours, or behind."""
    return claims_of(name, sid=sid, iat=int(time.time()) + ahead_seconds, nonce=uuid4().hex, **more)


def with_keys(known):
    """Return a discovered provider when its metadata and its keys are held: nothing depends on how soon they come."""
    for _, keys in run(known.trust(BlockingWorld(), wait_seconds=LONG_SECONDS)).sources:
        assert run(keys.find(None, BlockingWorld(), wait_seconds=LONG_SECONDS))
    return known


@pytest.fixture(autouse=True)
def back_channel_has_time(monkeypatch):
    """A busy machine is no slow provider, and no slow store; where that is the subject, the test says so."""
    monkeypatch.setattr(back_channel, "_WAIT_SECONDS", LONG_SECONDS)
    monkeypatch.setattr(back_channel, "DEADLINE_SECONDS", LONG_SECONDS)


@pytest.fixture(params=KINDS)
def site(request):
    return Site(request.param, KINDS[request.param])


@pytest.fixture(params=["flask-session", "starsessions"])
def server_side_site(request):
    return Site(request.param, KINDS[request.param])


@pytest.fixture(params=["flask, signed cookie", "starlette, signed cookie"])
def either_door(request):
    """For what does not depend on how sessions are kept."""
    return Site(request.param, KINDS[request.param])


@pytest.fixture(params=["memory", "sqlite"])
def sites_store(request, tmp_path):
    """What makes the store of a site, so that it holds for both."""
    stores = []

    def give(site):
        if request.param == "sqlite":
            site.store = SQLiteStore(tmp_path / "logout.db")
        stores.append(site.store)
        return site

    yield give
    for store in stores:
        store.close()


def have_nobody_tidy(patch):
    """Leave out what workers do by themselves from time to time."""
    patch.setattr(asgi.LogoutMiddleware, "_start_upkeep", lambda self: None)
    patch.setattr(wsgi._Upkeep, "start", lambda self: None)


@pytest.fixture
def nobody_else_tidies(monkeypatch):
    """The middlewares' own rounds would come in between."""
    have_nobody_tidy(monkeypatch)
