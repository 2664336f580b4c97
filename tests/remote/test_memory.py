"""What a worker remembers of sessions is never taken for what they are by now."""

from __future__ import annotations

import json
import time
from functools import partial
from types import SimpleNamespace

import anyio
import pytest

from msal_logout_middleware import Cookie, MemoryStore, ending, learning, memory
from tests.remote.conftest import signing_in
from tests.remote.faults import Faulty
from tests.sites import KINDS, Site
from tests.tokens import TENANT

ISS = f"https://login.microsoftonline.com/{TENANT}/v2.0"


def whose(answer):
    user = json.loads(answer.body)["user"]
    return user and user["sub"]


def at(worker, browser):
    """Let the browser's next requests go to this worker."""
    browser.site = worker
    return browser


def test_user_who_signs_in_again_after_another_under_the_same_id_is_found_by_their_sid(server_side_site):
    site = server_side_site.build()
    _, other = site.worker()
    anns, bobs = signing_in("ann", "one"), signing_in("bob", "two")
    browser = site.sign_in(anns)
    site.sign_in(bobs, browser=at(other, browser))
    site.sign_in(signing_in("ann", "one"), browser=at(site.door, browser))
    site.front_channel(sid="one")
    assert whose(browser.get("/me")) is None


def test_tokens_of_whoever_was_replaced_go_and_nobody_elses(server_side_site):
    site = server_side_site.build()
    _, other = site.worker()
    anns, bobs = signing_in("ann", "one"), signing_in("bob", "two")
    browser = site.sign_in(anns)
    site.sign_in(bobs, browser=at(other, browser))
    assert not site.cache(anns)
    site.keep_tokens(anns)  # she has signed in elsewhere
    site.sign_in(signing_in("bob", "three"), browser=at(site.door, browser))
    assert site.cache(anns)
    assert site.cache(bobs)
    site.sign_in(signing_in("ann", "four"), browser=browser)
    assert not site.cache(bobs)


def test_next_sign_in_works_at_once_at_a_worker_that_never_met_the_dead_cookie(server_side_site):
    site = server_side_site.build()
    _, other = site.worker()
    ann = site.sign_in(signing_in("ann"))
    assert end(site, iss=ISS, sub="sub-of-ann").sessions == 1
    site.sign_in(signing_in("ann"), browser=at(other, ann))
    assert whose(ann.get("/me")) == "sub-of-ann"


@pytest.mark.parametrize("kind", KINDS)
def test_session_that_nobody_knew_when_it_ended_leaves_nothing_when_it_is_met(kind):
    before = Site(kind, KINDS[kind])
    site = Site(kind, lambda _: before.make_app(before)).build()
    anns = signing_in("ann")
    ann = site.browser()
    ann.site = type(site.door)(site.app)  # before the middleware was there
    site.sign_in(anns, browser=ann)
    assert site.cache(anns)
    ann.site = site.door
    ended = end(site, iss=ISS, sub=anns["sub"])
    assert ended.sessions == 0
    assert whose(ann.get("/me")) is None
    assert not site.cache(anns)
    assert site.store.open_rows() == 0


def test_session_of_several_handles_is_counted_once(site):
    site.build()
    ann = site.sign_in(signing_in("ann"))
    site.sign_in(signing_in("ann"), browser=ann)
    assert end(site, iss=ISS, sub="sub-of-ann").sessions == 1
    assert site.events[-1].sessions == 1


def test_made_up_sid_while_the_store_is_away_has_nobody_looked_up_again(site):
    site.store = Faulty(site.store)
    site.build()
    ann = site.sign_in(signing_in("ann"))
    assert whose(ann.get("/me")) == "sub-of-ann"
    site.store.away = {"*"}
    site.front_channel(sid="made-up")
    assert whose(ann.get("/me")) == "sub-of-ann"


def test_cookies_that_would_sign_in_again_go_with_the_session(either_door):
    site = either_door.build(delete_cookies=[Cookie("remember_token")])
    ann = site.sign_in(signing_in("ann"))
    ann.cookies |= {"remember_token": "ann", "other": "1"}
    site.front_channel(sid="a-session")
    seen = json.loads(ann.get("/echo").body)["cookies"]
    assert seen == ["other=1"]
    assert "remember_token" not in ann.cookies


def end(site, **who):
    if not site.logout.is_async:
        return site.logout.end_sessions(**who)
    return anyio.run(partial(site.logout.aend_sessions, **who))


def test_session_that_outlives_its_record_is_recorded_again(either_door, monkeypatch):
    site, later = either_door, [0.0]
    now = time.time
    site.store = MemoryStore(clock=lambda: now() + later[0])
    site.build(session_lifetime_seconds=100)
    ann = site.sign_in(signing_in("ann"))
    cookie = f"{site.cookie_name}={ann.cookies[site.cookie_name]}"
    assert whose(site.door.call("GET", "/me", {"cookie": cookie}, b"")) == "sub-of-ann"
    later[0] = 200.0
    for room in (memory, learning, ending):
        clocks = SimpleNamespace(time=lambda: now() + later[0], monotonic=time.monotonic)
        monkeypatch.setattr(room, "time", clocks)
    site.store.sweep()
    site.tidy()
    assert whose(site.door.call("GET", "/me", {"cookie": cookie}, b"")) == "sub-of-ann"
    site.front_channel(sid="a-session")
    assert whose(site.door.call("GET", "/me", {"cookie": cookie}, b"")) is None
