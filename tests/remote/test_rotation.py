"""While a new `secret=` is rolled out, some workers have it and some do not: no sign-out is lost between them."""

from __future__ import annotations

import pytest

from tests.doors import Browser
from tests.remote.conftest import signing_in
from tests.remote.test_back_channel import Caller, build, is_done, is_refused
from tests.sites import SECRET

NEW_SECRET = "another secret, that is new since today"


@pytest.mark.usefixtures("nobody_else_tidies")
def test_sign_out_at_a_worker_without_the_new_secret_is_not_done_until_one_with_it_has_finished(
    either_door, caplog
):
    site = either_door.build()
    rolled_out, door = site.worker(secret=[NEW_SECRET, SECRET])
    claims = signing_in("ann")
    ann = site.sign_in(claims, browser=Browser(door))
    ended = site.logout.end_sessions(sid="a-session")
    assert site.user(ann) is None
    assert not ended.complete
    assert "a secret that this worker does not have" in caplog.text
    assert site.store.open_rows() == 1
    site.tidy(rolled_out)  # its lease is the other's
    assert site.cache(claims)
    now = site.store._turn._clock
    site.store._turn._clock = lambda: now() + 60
    site.tidy()
    assert site.store.open_rows() == 1
    site.store._turn._clock = lambda: now() + 120
    site.tidy(rolled_out)
    assert site.store.open_rows() == 0
    assert site.cache(claims) is None


@pytest.mark.usefixtures("nobody_else_tidies")
def test_session_on_the_server_ends_at_a_worker_that_cannot_open_its_record(server_side_site):
    site = server_side_site.build()
    _, door = site.worker(secret=[NEW_SECRET, SECRET])
    ann = site.sign_in(signing_in("ann"), browser=Browser(door))
    assert site.logout.end_sessions(sid="a-session").left == ("read",)
    assert site.user(ann) is None
    assert site.store.open_rows() == 1


def test_logout_token_that_was_used_before_the_secret_changed_is_refused_after_it(provider, either_door):
    caller: Caller = build(provider, either_door)
    site = either_door
    token = caller.token(sid="a-session")
    site.sign_in(caller.claims("ann"))
    assert is_done(caller.post(token))
    again = site.sign_in(caller.claims("ann"))
    _, site.door = site.worker(secret=[NEW_SECRET, SECRET])
    assert is_refused(caller.post(token))
    assert site.user(again) == "sub-of-ann"


@pytest.fixture(params=["seen", "unseen"])
def taken_over(server_side_site, request):
    """Ann signs in at a worker with the old secret, then Bob at one with the new, or unseen; the id stays the same."""
    site = server_side_site.build()
    _, rolled_out = site.worker(secret=[NEW_SECRET, SECRET])
    browser = site.sign_in(signing_in("ann"), browser=Browser(site.door))
    ids = dict(browser.cookies)
    unwrapped = type(site.door)(site.app if site.is_asgi else site.app.wsgi_app)
    browser.site = rolled_out if request.param == "seen" else unwrapped
    site.sign_in(signing_in("bob", "bob's"), browser=browser)
    assert browser.cookies == ids
    browser.site = rolled_out
    assert site.user(site.copy(browser)) == "sub-of-bob"
    return site, browser, (rolled_out, site.door)


def users(site, browser, doors):
    return [site.user(Browser(door, dict(browser.cookies))) for door in doors]


@pytest.mark.usefixtures("nobody_else_tidies")
def test_user_who_took_over_a_session_of_the_old_secret_is_not_signed_out_with_its_former_user(taken_over):
    site, browser, doors = taken_over
    assert users(site, browser, doors) == ["sub-of-bob", "sub-of-bob"]
    assert site.cache(signing_in("ann")) is None
    assert site.cache(signing_in("bob"))
    assert site.logout.end_sessions(iss=signing_in("ann")["iss"], sub="sub-of-ann").complete
    assert users(site, browser, doors) == ["sub-of-bob", "sub-of-bob"]


@pytest.mark.usefixtures("nobody_else_tidies")
def test_user_who_took_over_a_session_of_the_old_secret_ends_by_it(taken_over):
    site, browser, doors = taken_over
    site.logout.end_sessions(iss=signing_in("bob")["iss"], sub="sub-of-bob")
    assert users(site, browser, doors) == [None, None]
