"""While a worker cannot tell the store's generation, as when another is about to write an ending, it asks the store."""

from __future__ import annotations

import pytest

from tests.doors import Browser
from tests.model.workers import Worker
from tests.sites import KINDS, Site
from tests.tokens import claims_of

ANN = claims_of("ann", nonce="of one sign-in")


@pytest.fixture(params=KINDS)
def site(request):
    return Site(request.param, KINDS[request.param]).build()


def test_nobody_is_served_from_memory_while_the_generation_cannot_be_told(site, loops):
    worker, other = (Worker(site, loops) for _ in range(2))
    worker.store.is_pending = True
    browser = site.sign_in(ANN, browser=Browser(worker.door))
    assert [site.user(browser) for _ in range(2)] == [ANN["sub"]] * 2
    assert Browser(other.door, dict(browser.cookies)).get("/logout").status == 303
    assert site.user(browser) is None


def test_answer_that_leaves_while_the_generation_cannot_be_told_is_looked_at(site, loops):
    worker, other = (Worker(site, loops) for _ in range(2))
    worker.store.is_pending = True
    browser = site.sign_in(ANN, browser=Browser(worker.door))

    def view(session):
        assert Browser(other.door, dict(browser.cookies)).get("/logout").status == 303
        session["late"] = True

    site.does["late"] = view
    assert browser.get("/does/late").status == 200
    assert site.cookie_name not in browser.cookies
