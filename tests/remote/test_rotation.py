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
