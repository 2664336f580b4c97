"""The ended marks that a worker holds by name, and those beyond that, which a filter stands for."""

from __future__ import annotations

import hashlib
import os
import signal

import pytest

from msal_logout_middleware import Logout, marks
from msal_logout_middleware.mark_filter import MarkFilter, probes
from msal_logout_middleware.marks import HeldMarks
from msal_logout_middleware.stores import Mark, Marks
from tests.doors import Browser
from tests.remote.conftest import nobody_else_tidies as nobody_else_tidies
from tests.remote.conftest import signing_in
from tests.sites import KINDS, Site


def handle(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def told(held: HeldMarks, count: int, *, first: int = 0, expires_at: float = 9e9) -> None:
    found = [
        Mark("handle", handle(number), 0.0, number + 1, expires_at) for number in range(first, first + count)
    ]
    assert held.take(Marks("epoch", first + count, found), held.place)


@pytest.fixture(params=KINDS)
def site(request: pytest.FixtureRequest, nobody_else_tidies: None) -> Site:
    return Site(request.param, KINDS[request.param])


def test_what_is_in_a_filter_is_claimed_and_hardly_anything_else() -> None:
    names = MarkFilter(10_000)
    for number in range(10_000):
        names.add(handle(number))
    assert names.is_full
    assert len(names) == 10_000
    assert all(names.may_have(probes(handle(number))) for number in range(10_000))
    assert sum(names.may_have(probes(handle(number))) for number in range(10_000, 110_000)) < 30


def test_no_mark_is_missing_however_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(marks, "_FOLDED_TOGETHER", 40)
    held = HeldMarks(kept=10)
    for first in range(0, 300, 30):
        told(held, 30, first=first)
    assert len(held) == 300
    assert sum(held.has([handle(number)]) for number in range(300)) == 10
    assert all(held.has([handle(number)]) or held.may_have([handle(number)]) for number in range(300))
    assert held.has([handle(299)])  # the youngest are known by name
    assert not held.may_have([handle(number) for number in range(300, 400)])


def test_filter_goes_when_the_last_of_its_marks_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(marks, "_FOLDED_TOGETHER", 2)
    held = HeldMarks(kept=0)
    told(held, 1, expires_at=100.0)
    told(held, 1, first=1, expires_at=300.0)
    told(held, 4, first=2, expires_at=200.0)
    held.forget(250.0)
    assert held.may_have([handle(0)])
    assert held.may_have([handle(1)])
    assert not any(held.may_have([handle(number)]) for number in range(2, 6))
    held.forget(300.0)
    assert len(held) == 0


def test_ended_session_is_refused_by_a_worker_that_has_only_the_filter(site: Site) -> None:
    site.build(marks_in_memory=0)
    ann = site.sign_in(signing_in("ann"))
    bob = site.sign_in(signing_in("bob", sid="another"))
    stolen = site.copy(ann)
    assert site.user(ann) == "sub-of-ann"
    assert site.front_channel(sid="a-session").status == 200
    assert site.user(stolen) is None
    assert site.user(bob) == "sub-of-bob"
    _, door = site.worker()
    assert site.user(Browser(door, dict(stolen.cookies))) is None


def test_live_session_that_the_filter_claims_is_served(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MarkFilter, "may_have", lambda self, where: True)
    site.build(marks_in_memory=0)
    bob = site.sign_in(signing_in("bob", sid="another"))
    site.sign_in(signing_in("ann"))
    site.front_channel(sid="a-session")
    assert site.user(bob) == "sub-of-bob"
    assert site.user(bob) == "sub-of-bob"


def test_session_that_the_filter_claims_is_refused_while_the_store_is_away(site: Site) -> None:
    site.build(marks_in_memory=0)
    ann = site.sign_in(signing_in("ann"))
    site.front_channel(sid="a-session")

    def away(*_: object, **__: object) -> None:
        raise OSError

    site.store.get = away
    assert ann.get("/me").status == 503


@pytest.mark.parametrize("count", [-1, "many", True])
def test_count_of_marks_is_a_number(count: object, site: Site) -> None:
    with pytest.raises((TypeError, ValueError), match="marks_in_memory"):
        site.build(marks_in_memory=count)


def test_default_is_half_a_million() -> None:
    assert marks.KEPT == 500_000
    assert Logout.__init__.__kwdefaults__["marks_in_memory"] == marks.KEPT


def test_old_cookie_that_only_the_filter_knows_takes_nothing_from_the_user_who_is_back(site: Site) -> None:
    site.build(marks_in_memory=0)
    ann = site.sign_in(signing_in("ann"))
    stolen = site.copy(ann)
    site.front_channel(sid="a-session")
    again = signing_in("ann")
    back = site.sign_in(again)
    _, door = site.worker()
    assert site.user(Browser(door, dict(stolen.cookies))) is None
    assert site.user(back) == "sub-of-ann"
    assert site.cache(again) is not None


def test_mark_that_another_thread_puts_into_a_filter_meanwhile_is_not_missed(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.build()
    ann = site.sign_in(signing_in("ann"))
    stolen = site.copy(ann)
    assert site.user(ann) == "sub-of-ann"
    may_have = HeldMarks.may_have

    def and_then_folds(held: HeldMarks, handles: tuple[str, ...]) -> bool:
        answer = may_have(held, handles)
        held._kept = 0
        held._fold()
        return answer

    monkeypatch.setattr(HeldMarks, "may_have", and_then_folds)
    site.front_channel(sid="a-session")
    assert site.user(stolen) is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # the tests' process may have threads
def test_process_that_was_forked_while_a_thread_took_marks_in_takes_some_in_itself() -> None:
    held = HeldMarks()
    with held._taking:
        pid = os.fork()
        if pid == 0:
            signal.alarm(60)  # if it hangs, it is killed
            try:
                told(held, 1)
                os._exit(0)
            finally:
                os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0
