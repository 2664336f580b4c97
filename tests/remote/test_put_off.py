"""Sign-outs that cannot be committed, since the store is away: none is dropped in silence, or for junk."""

from __future__ import annotations

import json

import pytest

from msal_logout_middleware.events import LogoutFailed
from msal_logout_middleware.marks import Unmarked
from tests.doors import Browser
from tests.remote.conftest import signing_in
from tests.remote.faults import Faulty

pytestmark = pytest.mark.usefixtures("nobody_else_tidies")


@pytest.fixture
def away(either_door):
    """A site whose sessions cannot be ended for now, and another worker of it, whose store is there."""
    return ends_nothing(either_door.build())


@pytest.fixture
def server_side_away(server_side_site):
    return ends_nothing(server_side_site.build())


def ends_nothing(site):
    inner = site.store
    site.store = Faulty(inner)
    _, other = site.worker()
    site.options["store"] = site.store
    site.logout, site.door = site.worker()
    site.store.away = {"end"}
    return site, other


def named(way, claims):
    return {"iss": claims["iss"], "sub": claims["sub"]} if way == "sub" else {"sid": claims["sid"]}


@pytest.mark.parametrize("way", ["sub", "sid"])
def test_session_whose_id_token_is_refreshed_meanwhile_still_ends(away, way):
    site, other = away
    claims = signing_in("ann")
    ann = site.sign_in(claims)
    stolen = site.copy(ann)
    assert not site.logout.end_sessions(**named(way, claims)).complete
    ann.site = stolen.site = other
    site.does["refresh"] = lambda session: session.update(user=claims | {"iat": claims["iat"] + 9})
    assert ann.get("/does/refresh").status == 200
    site.store.away = set()
    site.tidy()
    assert (site.user(ann), site.user(stolen)) == (None, None)
    assert site.cache(claims) is None


def test_second_click_is_not_told_that_a_sign_out_is_done_that_is_not(away):
    site, other = away
    ann = site.sign_in(signing_in("ann"))
    first, second, third, stolen = (site.copy(ann) for _ in range(4))
    assert [click.get("/logout").status for click in (first, second)] == [503, 503]
    assert json.loads(site.copy(ann).get("/echo").body)["cookies"] == []  # nobody else is shown the session
    site.store.away = set()
    assert third.get("/logout").status == 303
    stolen.site = other
    assert site.user(stolen) is None


@pytest.mark.parametrize("way", ["sub", "sid"])
def test_session_that_another_worker_meets_for_the_first_time_meanwhile_still_ends(away, way):
    site, other = away
    claims = signing_in("ann")
    ann = site.browser()
    ann.site = type(site.door)(
        site.app if site.is_asgi else site.app.wsgi_app
    )  # before the middleware was there
    site.sign_in(claims, browser=ann)
    assert not site.logout.end_sessions(**named(way, claims)).complete
    ann.site = other
    assert site.user(ann) == "sub-of-ann"
    site.store.away = set()
    site.tidy()
    assert site.user(ann) is None
    assert site.cache(claims) is None


def test_who_signs_in_between_two_tries_is_spared(away):
    site, other = away
    claims = signing_in("ann")
    ann = site.sign_in(claims)
    assert not site.logout.end_sessions(sid="a-session").complete
    again = site.browser()
    again.site = other
    site.sign_in(signing_in("ann"), browser=again)
    site.tidy()  # which fails once more
    site.store.away = set()
    site.tidy()
    assert site.user(ann) is None
    assert site.user(again) == "sub-of-ann"


@pytest.mark.parametrize("way", ["sub", "sid"])
@pytest.mark.parametrize("where", ["here", "at another worker"])
def test_who_signs_in_between_two_tries_is_not_signed_out_meanwhile(away, way, where):
    site, other = away
    claims = signing_in("ann")
    ann = site.sign_in(claims)
    stolen = site.copy(ann)
    assert not site.logout.end_sessions(**named(way, claims)).complete
    again = site.browser()
    again.site = other if where == "at another worker" else site.door
    site.sign_in(signing_in("ann"), browser=again)
    again.site = site.door
    assert (site.user(again), site.user(stolen)) == ("sub-of-ann", None)
    site.tidy()  # which fails once more
    assert (site.user(again), site.user(site.copy(ann))) == ("sub-of-ann", None)


def test_who_signs_in_between_two_tries_and_gets_another_sid_unseen_is_spared(server_side_away):
    site, other = server_side_away
    assert not site.logout.end_sessions(iss=signing_in("ann")["iss"], sub="sub-of-ann").complete
    ann = site.sign_in(signing_in("ann", "first"), browser=Browser(other))
    unwrapped = Browser(type(other)(site.app if site.is_asgi else site.app.wsgi_app), ann.cookies)
    site.sign_in(signing_in("ann", "second"), browser=unwrapped)
    _, ann.site = site.worker()  # which remembers nothing of her
    assert site.user(ann) == "sub-of-ann"
    site.store.away = set()
    site.tidy()
    assert site.user(ann) == "sub-of-ann"
    assert site.cache(signing_in("ann"))


def test_calls_that_nobody_vouches_for_drive_out_no_sign_out(away, monkeypatch):
    monkeypatch.setattr(Unmarked, "_KEPT_UNVOUCHED", 3)
    site, _ = away
    ann = site.sign_in(signing_in("ann"))
    site.logout.end_sessions(sid="a-session")
    site.store.away = {"*"}
    for number in range(10):
        site.front_channel(sid=f"of nobody {number}")
    site.store.away = {"end"}
    assert site.user(ann) is None
    assert [event.left for event in site.events if isinstance(event, LogoutFailed)].count(("mark",)) > 10


def test_sign_out_that_is_given_up_is_an_error_and_an_event(away, monkeypatch, caplog):
    monkeypatch.setattr(Unmarked, "_KEPT", 1)
    site, _ = away
    for name in ("ann", "bob"):
        site.sign_in(signing_in(name, name))
        site.logout.end_sessions(sid=name)
    assert "the oldest is given up" in caplog.text
    assert len(site.logout.configuration.unmarked) == 1
    assert len([event for event in site.events if isinstance(event, LogoutFailed)]) == 3


def test_front_channel_call_without_a_session_tries_once_while_the_store_is_away(away):
    site, _ = away
    site.options["retry_seconds"] = 0.2
    site.logout, site.door = site.worker()
    site.store.away = {"*"}
    site.store.asked.clear()
    assert site.front_channel(sid="of nobody").status == 200
    assert sum(site.store.asked.values()) == 1


@pytest.fixture
def taken_over(server_side_site):
    """Ann signs in at one worker, then Bob at another, in the same browser; the framework keeps the id or not."""
    site = server_side_site.build()
    store = Faulty(site.store)
    logout, here = site.worker(store=store)
    _, elsewhere = site.worker()
    browser = site.sign_in(signing_in("ann"), browser=Browser(here))
    browser.site = elsewhere
    site.sign_in(signing_in("bob", "bob's"), browser=browser)
    browser.site = here
    return site, store, logout, browser


def test_put_off_ending_of_a_user_spares_who_took_their_session_over_at_another_worker(taken_over):
    site, store, logout, browser = taken_over
    store.away = {"end"}
    logout.end_sessions(iss=signing_in("ann")["iss"], sub="sub-of-ann")
    assert site.user(browser) == "sub-of-bob"


def test_put_off_ending_of_who_took_a_session_over_at_another_worker_is_refused_here(taken_over):
    site, store, logout, browser = taken_over
    store.away = {"end"}
    assert not logout.end_sessions(iss=signing_in("bob")["iss"], sub="sub-of-bob").complete
    assert site.user(site.copy(browser)) is None


def test_session_that_has_gone_on_under_another_sid_is_refused_for_its_first_one_as_well(away):
    site, _ = away
    ann = site.sign_in(signing_in("ann", sid="first"))
    site.sign_in(signing_in("ann", sid="second"), browser=ann)
    bob = site.sign_in(signing_in("bob", sid="third"))
    assert not site.logout.end_sessions(sid="first").complete
    assert site.user(site.copy(ann)) is None
    assert site.user(bob) == "sub-of-bob"
    site.store.away = set()
    site.tidy()
    assert site.user(ann) is None


def test_ending_is_put_off_also_while_nobody_can_say_whose_sessions_are_meant(away):
    site, _ = away
    ann = site.sign_in(signing_in("ann"))
    site.store.away = {"end", "find"}
    assert not site.logout.end_sessions(sid="a-session").complete
    assert site.user(ann) is None
