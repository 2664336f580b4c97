"""What several threads of a worker do at once to what it refuses, remembers and tries again."""

from __future__ import annotations

import gc
import sys
import threading

import anyio
import pytest

from msal_logout_middleware import upkeep, wsgi
from msal_logout_middleware._drive import run_beside_loop, settle
from msal_logout_middleware.marks import HeldMarks, Unmarked
from msal_logout_middleware.stores import Ending, Mark, Marks
from tests.doors import Browser, WsgiDoor
from tests.remote.conftest import signing_in
from tests.remote.faults import Faulty
from tests.sites import KINDS, Site


@pytest.fixture
def threads_take_turns_often():
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


class Meeting:
    """A store whose first two callers of `get` both have their answer before either goes on."""

    def __init__(self, inner):
        self.inner = inner
        self.left = 2
        self.barrier = threading.Barrier(2, timeout=60)

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def get(self, handle):
        found = self.inner.get(handle)
        if self.left:
            self.left -= 1
            self.barrier.wait()
        return found


def test_session_that_two_requests_meet_for_the_first_time_at_once_is_one():
    site = Site("flask, signed cookie", KINDS["flask, signed cookie"])
    site.store = Meeting(site.store)
    site.build()
    claims = signing_in("ann")
    browser = Browser(WsgiDoor(site.app.wsgi_app))  # before the middleware was there
    site.sign_in(claims, browser=browser)
    browser.site = site.door
    first = site.copy(browser)
    at_once(*(lambda: site.user(site.copy(browser)) for _ in range(2)))
    site.does["refresh"] = lambda session: session.update(user=claims | {"iat": claims["iat"] + 5})
    assert browser.get("/does/refresh").status == 200
    assert site.user(browser) == "sub-of-ann"
    assert browser.get("/logout").status == 303
    assert site.user(first) is None


def at_once(*functions):
    threads = [threading.Thread(target=function) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.usefixtures("threads_take_turns_often")
def test_no_ending_is_lost_among_threads():
    unmarked = Unmarked()

    def add(thread):
        for number in range(200):
            unmarked.add((thread, number), [f"{thread}-{number}"])

    at_once(*(lambda thread=thread: add(thread) for thread in range(4)))
    assert len(unmarked) == 800
    for number, _ in unmarked.take()[:799]:
        unmarked.done(number)
    assert len(unmarked) == 1


def test_endings_beyond_what_is_kept_are_given_up_the_oldest_first(monkeypatch):
    monkeypatch.setattr(Unmarked, "_KEPT", 3)
    unmarked = Unmarked()
    for number in range(5):
        unmarked.add(number, [str(number)])
    assert [ending for _, ending in unmarked.take()] == [2, 3, 4]
    assert unmarked.names(["4"])
    assert not unmarked.names(["1"])


@pytest.mark.usefixtures("threads_take_turns_often")
def test_marks_are_forgotten_while_others_come():
    held = HeldMarks()
    failures = []

    def forget():
        try:
            for _ in range(50):
                held.forget(2.0)
        except Exception as error:
            failures.append(error)

    def take():
        for number in range(500):
            held.take(Marks("epoch", 1, [Mark("handle", str(number), 0, 1, 1.0)]), (None, 0))

    at_once(forget, forget, take)
    assert not failures


def test_two_threads_that_notice_another_database_miss_none_of_its_marks():
    held = HeldMarks()
    held.take(Marks("old", 100, []), held.place)
    place = held.place
    new = [Mark("handle", str(number), 0.0, number, 9e9) for number in range(1, 151)]

    def ask(since):
        return Marks("new", 150, [mark for mark in new if mark.sequence > since])

    assert not held.take(ask(place[1]), place)
    assert not held.take(ask(place[1]), place)
    assert held.take(ask(held.place[1]), held.place)
    assert all(held.has([mark.value]) for mark in new)


def test_marks_that_an_earlier_life_of_the_store_has_told_are_held_and_written_back():
    held = HeldMarks()
    held.take(Marks("old", 1, [Mark("handle", "known", 0.0, 1, 9e9)]), held.place)
    lost = [Mark("handle", "told", 0.0, 2, 9e9), Mark("handle", "over", 0.0, 3, 1.0)]
    again = Mark("handle", "again", 0.0, 1, 9e9)
    assert not held.take(Marks("new", 1, [], lost), held.place)
    assert held.take(Marks("new", 1, [again], lost), held.place)
    assert all(held.has([handle]) for handle in ("known", "told", "again"))
    assert [handle for handle, _ in held.lost(now=10.0)] == ["known", "told"]
    held.are_written_back(held.losses)
    assert held.lost(now=10.0) == []


def test_marks_that_were_read_anew_are_not_lost_when_a_second_thread_notices_the_same_life():
    held = HeldMarks()
    known = Mark("handle", "known", 0.0, 1, 9e9)
    held.take(Marks("old", 1, [known]), held.place)
    place = held.place
    assert not held.take(Marks("new", 1, []), place)
    assert held.take(Marks("new", 1, [known]), held.place)
    losses = held.losses
    assert not held.take(Marks("new", 1, []), place)  # whoever had asked before looks its sessions up again
    assert (held.losses, held.place) == (losses, ("new", 1))
    assert held.lost(now=10.0) == []


def test_second_thread_that_notices_another_database_notices_an_older_one_in_its_place():
    held = HeldMarks()
    held.take(Marks("old", 9, []), held.place)
    place = held.place
    held.take(Marks("new", 5, []), place)
    held.take(Marks("new", 5, [Mark("handle", "lost", 0.0, 5, 9e9)]), held.place)
    assert not held.take(Marks("new", 4, []), place)
    assert held.place == ("new", 0)
    assert held.lost(now=10.0) == [("lost", 9e9)]


def test_mark_that_a_thread_was_told_by_the_life_before_is_written_back_to_the_new_one():
    held = HeldMarks()
    held.take(Marks("old", 1, []), held.place)
    place = held.place
    late = Marks("old", 2, [Mark("handle", "late", 0.0, 2, 9e9)])
    for _ in range(2):
        held.take(Marks("new", 0, []), held.place)
    held.take(late, place)  # which it had asked for before
    assert held.has(["late"])
    assert held.lost(now=10.0) == [("late", 9e9)]


@pytest.fixture
def flask_site():
    site = Site("flask, signed cookie", KINDS["flask, signed cookie"])
    site.store = Faulty(site.store)
    return site.build()


@pytest.mark.usefixtures("nobody_else_tidies")
def test_session_that_is_refused_while_it_is_judged_is_looked_at_again(flask_site, monkeypatch):
    site = flask_site
    ann = site.sign_in(signing_in("ann"))
    unmarked = site.logout.configuration.unmarked
    unmarked.on_add()
    names = unmarked.names
    looks = iter(["whether it is in doubt", "whether it lives"])

    def meanwhile(*found):
        answer = names(*found)
        if next(looks) != "whether it lives":
            return answer
        monkeypatch.setattr(unmarked, "names", names)
        site.store.away = {"end"}
        site.logout.end_sessions(sid="a-session")  # as another thread does at this very moment
        return answer

    monkeypatch.setattr(unmarked, "names", meanwhile)
    site.user(ann)
    assert site.user(ann) is None


@pytest.mark.usefixtures("nobody_else_tidies")
def test_ending_that_is_committed_late_spares_whoever_signed_in_since(flask_site):
    site = flask_site
    ann = site.sign_in(signing_in("ann"))
    site.store.away = {"end"}
    assert site.logout.end_sessions(sid="a-session").left
    site.store.away = set()
    _, another_worker = site.worker()
    again = site.browser()
    again.site = another_worker
    site.sign_in(signing_in("ann"), browser=again)
    site.tidy()
    assert site.user(ann) is None
    assert site.user(again) == "sub-of-ann"


@pytest.mark.usefixtures("nobody_else_tidies")
def test_ending_that_is_committed_at_last_refuses_no_later_sign_in(flask_site):
    site = flask_site
    site.sign_in(signing_in("ann"))
    site.store.away = {"end"}
    assert site.logout.end_sessions(sid="a-session").left
    site.store.away = set()
    site.tidy()
    ann = site.sign_in(signing_in("ann"))
    assert site.user(ann) == "sub-of-ann"


@pytest.mark.usefixtures("nobody_else_tidies")
def test_session_that_cannot_be_read_ends_when_it_can():
    site = Site("flask-session", KINDS["flask-session"]).build(wrap=Faulty)
    ann = site.sign_in(signing_in("ann"))
    site.session.away = {"load"}
    assert site.logout.end_sessions(sid="a-session").left == ("find", "mark")
    assert site.logout.count_sessions(sid="a-session") == 1
    assert site.user(ann) is None
    site.session.away = set()
    site.tidy()
    assert site.logout.count_sessions(sid="a-session") == 0
    assert site.user(ann) is None


def test_upkeep_goes_on_after_whatever_goes_wrong(flask_site, monkeypatch, caplog):
    site = flask_site
    rounds = []
    enough = threading.Event()

    async def tidy(_world):
        rounds.append(None)
        if len(rounds) == 3:
            enough.set()
        raise RuntimeError("dictionary changed size during iteration")

    monkeypatch.setattr(upkeep, "INTERVAL_SECONDS", 0.001)
    monkeypatch.setattr(site.logout, "tidy", tidy)
    wsgi._Upkeep(site.logout).start()
    assert enough.wait(30)
    assert "upkeep failed" in caplog.text
    monkeypatch.setattr(upkeep, "INTERVAL_SECONDS", 5.0)


def test_rows_that_cannot_be_finished_hold_no_others_up(flask_site, monkeypatch):
    site = flask_site
    monkeypatch.setattr(upkeep, "_ROWS_AT_ONCE", 2)
    asked = []

    async def fails(config, row, steps):
        asked.append(row.row)
        raise KeyError("of another version")

    monkeypatch.setattr(upkeep, "resume", fails)
    monkeypatch.setattr(upkeep, "LEASE_SECONDS", 10**6)
    for number in range(5):
        site.store.end(Ending(handles=(str(number),), work=b"x", lease_seconds=0))
    site.tidy()
    assert len(asked) == len(set(asked)) == 5


def test_flows_that_hold_threads_do_not_wait_for_threads_that_they_hold():
    async def needs_a_thread():
        return await anyio.to_thread.run_sync(lambda: 1)

    async def flow():
        return await settle(needs_a_thread())

    async def many():
        limiter = anyio.to_thread.current_default_thread_limiter()
        limiter.total_tokens = 2
        results = []

        async def one():
            results.append(await run_beside_loop(flow()))

        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                for _ in range(6):
                    group.start_soon(one)
        return results

    assert anyio.run(many) == [1] * 6
    gc.collect()
