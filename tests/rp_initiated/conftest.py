"""The sites that these tests sign out of."""

from __future__ import annotations

import pytest

from tests.sites import KINDS, Site


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
