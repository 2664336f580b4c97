"""What a worker remembers of sessions is never taken for what they are by now."""

from __future__ import annotations

import json
import time
from functools import partial
from secrets import token_hex
from types import SimpleNamespace

import anyio
import pytest

from msal_logout_middleware import Cookie, MemoryStore, ending, learning, memory
from tests.remote.conftest import signing_in
from tests.remote.faults import Faulty
from tests.sites import KINDS, Site
from tests.tokens import TENANT, claims_of

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
    if not site.logout.configuration.is_async:
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


def test_sessions_that_this_worker_knows_are_recorded_in_a_database_that_took_the_place_of_theirs(site):
    """Its file was removed, or a backup was put there."""

    class Replaceable(Faulty):
        def generation(self):
            return self.inner.generation()

    site.store = Replaceable(MemoryStore())
    site.build()
    ann, bob, carol = (site.sign_in(signing_in(name, f"{name}'s")) for name in ("ann", "bob", "carol"))
    site.front_channel(sid="carol's")
    everybody = (ann, bob, carol)
    assert [site.user(each) for each in everybody] == ["sub-of-ann", "sub-of-bob", None]

    site.store.inner = MemoryStore()

    assert site.user(ann) == "sub-of-ann"  # with which this worker notices it
    assert site.user(bob) == "sub-of-bob"
    for name, browser in (("ann", ann), ("bob", bob)):
        assert site.logout.count_sessions(sid=f"{name}'s") == 1
        site.front_channel(sid=f"{name}'s")
        assert site.user(browser) is None


@pytest.mark.usefixtures("nobody_else_tidies")
def test_marks_that_come_in_pieces_are_all_taken_in(site, monkeypatch):
    monkeypatch.setattr(memory, "_MARKS_AT_ONCE", 2)
    site.build()
    _, other = site.worker()
    everybody = [site.sign_in(signing_in("ann", f"session {number}")) for number in range(5)]
    stolen = [at(other, site.copy(ann)) for ann in everybody]
    assert [site.user(ann) for ann in stolen] == ["sub-of-ann"] * 5
    for number in range(5):
        site.front_channel(sid=f"session {number}")
    assert [site.user(ann) for ann in reversed(stolen)] == [None] * 5


@pytest.mark.usefixtures("nobody_else_tidies")
def test_session_that_ends_just_after_the_marks_were_read_is_refused_at_its_next_request(site):
    class EndsMeanwhile(Faulty):
        then = None

        def marks_since(self, cursor, *, limit):
            found = self.inner.marks_since(cursor, limit=limit)
            then, self.then = self.then, None
            if then is not None:
                then()
            return found

    shared = MemoryStore()
    site.store = EndsMeanwhile(shared)
    site.build()
    other, _ = site.worker(store=shared)
    ann, bob = site.sign_in(signing_in("ann")), site.sign_in(signing_in("bob", "another"))
    assert site.user(ann) == "sub-of-ann"
    end(site, sid="another")
    site.store.then = lambda: other.end_sessions(sid="a-session")
    site.user(bob)
    assert site.store.then is None
    assert site.user(ann) is None


def test_dead_cookie_at_a_worker_that_never_met_it_takes_no_tokens_of_the_next_sign_in(site):
    site.build()
    _, other = site.worker()
    claims = signing_in("ann")
    ann = site.sign_in(claims)
    stolen = at(other, site.copy(ann))
    site.front_channel(sid="a-session")
    again = site.sign_in(signing_in("ann"))
    assert site.cache(claims)
    assert site.user(stolen) is None
    assert site.cache(claims)
    assert site.user(again) == "sub-of-ann"


def test_user_who_took_the_session_over_unseen_is_learnt_when_met_and_the_others_tokens_go(server_side_site):
    """The record was changed without an answer that shows it; another worker meets it first."""
    site = server_side_site.build()
    anns, bobs = signing_in("ann", "one"), signing_in("bob", "two")
    browser, bob = site.sign_in(anns), site.sign_in(bobs)
    ann_s, bob_s = (
        next(name for name in site.records if each.cookies[site.cookie_name] in str(name))
        for each in (browser, bob)
    )
    site.records[ann_s] = site.records[bob_s]
    _, other = site.worker()

    assert site.user(at(other, browser)) == "sub-of-bob"

    assert not site.cache(anns)
    assert site.cache(bobs)
    assert site.logout.count_sessions(sid="one") == 0
    assert site.logout.count_sessions(sid="two") == 2
    site.front_channel(sid="one")
    assert site.user(browser) == "sub-of-bob"
    site.front_channel(sid="two")
    assert site.user(browser) is None


def test_worker_that_met_a_session_late_records_it_again_when_its_record_is_over(either_door, monkeypatch):
    site, later = either_door, [0.0]
    now = time.time
    for room in (memory, learning, ending):
        clocks = SimpleNamespace(time=lambda: now() + later[0], monotonic=time.monotonic)
        monkeypatch.setattr(room, "time", clocks)
    site.store = MemoryStore(clock=lambda: now() + later[0])
    site.build(session_lifetime_seconds=100)
    ann = site.sign_in(signing_in("ann"))
    cookie = f"{site.cookie_name}={ann.cookies[site.cookie_name]}"
    logout, other = site.worker()
    for later[0] in (90.0, 110.0):
        site.tidy(logout)
        assert whose(other.call("GET", "/me", {"cookie": cookie}, b"")) == "sub-of-ann"
    assert site.logout.count_sessions(sid="a-session") == 1
    site.front_channel(sid="a-session")
    assert whose(other.call("GET", "/me", {"cookie": cookie}, b"")) is None


def test_user_whose_claims_told_nothing_apart_signs_in_again_with_all_of_them(either_door, sites_store):
    site = sites_store(either_door).build()
    browsers = {}
    for name in ("ann", "bob"):
        few = claims_of(name)
        del few["iat"]
        browsers[name] = site.sign_in(few)
        assert site.user(browsers[name]) == f"sub-of-{name}"
        site.sign_in(signing_in(name, f"{name}'s"), cache=False, browser=browsers[name])
    assert site.cache(claims_of("ann"))
    site.front_channel(sid="ann's")
    assert [site.user(browser) for browser in browsers.values()] == [None, "sub-of-bob"]


def test_session_that_is_known_by_an_older_secret_stays_one(site):
    site.build(secret=["the first secret of them"])
    ann = site.sign_in(signing_in("ann"))
    site.logout, site.door = site.worker(secret=["the next secret of them", "the first secret of them"])
    assert site.user(at(site.door, ann)) == "sub-of-ann"
    assert site.logout.count_sessions(sid="a-session") == 1


def test_long_cookie_header_is_not_remembered(either_door):
    site = either_door.build()
    ann = site.sign_in(signing_in("ann"))
    ann.cookies["other"] = "x" * 10_000
    site.logout.gate.visits.clear()
    assert site.user(ann) == "sub-of-ann"
    assert len(site.logout.gate.visits) == 0


@pytest.mark.filterwarnings("ignore:The 'session' cookie is too large")
def test_long_cookie_that_an_answer_sets_is_not_remembered(either_door):
    site = either_door.build(wrap=Faulty)
    ann = site.sign_in(signing_in("ann"))
    site.does["fill"] = lambda session: session.update(filled=token_hex(10_000))
    assert ann.get("/does/fill").status == 200
    site.session.asked.clear()
    assert site.user(ann) == "sub-of-ann"
    assert site.session.asked["read"]


def test_so_many_cookie_headers_are_remembered_and_no_more(either_door, monkeypatch):
    monkeypatch.setattr(memory, "_REMEMBERED", 3)
    site = either_door.build()
    for number in range(10):
        assert site.door.call("GET", "/me", {"cookie": f"a={number}"}, b"").status == 200
    assert len(site.logout.gate.visits) == 3


def test_cookie_that_would_sign_in_again_stays_beside_a_session_that_lives(either_door):
    site = either_door.build(delete_cookies=[Cookie("remember_token")])
    ann, bob = site.sign_in(signing_in("ann")), site.sign_in(signing_in("bob", "another"))
    name = site.cookie_name
    dead, live = (f"{name}={each.cookies[name]}" for each in (ann, bob))
    site.front_channel(sid="a-session")
    answer = site.door.call("GET", "/echo", {"cookie": f"{dead}; {live}; remember_token=bob"}, b"")
    assert json.loads(answer.body)["cookies"] == [f"{live}; remember_token=bob"]
