"""The journal: what one worker leaves undone, whoever dies when, any other takes up."""

from __future__ import annotations

import threading
import time

import anyio
import pytest

from msal_logout_middleware import asgi, upkeep, wsgi
from msal_logout_middleware.events import LogoutEnded, LogoutFailed
from msal_logout_middleware.stores.memory import MemoryStore
from msal_logout_middleware.stores.sqlite import SQLiteStore
from tests.remote.conftest import signing_in
from tests.remote.faults import Faulty


class Died(BaseException):
    """The process is gone: nothing catches it."""


class Dies(Faulty):
    """Kills its worker before a method does anything."""

    def __init__(self, inner, method):
        super().__init__(inner)
        self.method = method

    def __getattr__(self, name):
        found = super().__getattr__(name)
        if name != self.method:
            return found

        def dies(*args, **kwargs):
            raise Died

        return dies


@pytest.fixture(params=["memory", "sqlite"])
def store_and_clock(request, tmp_path, nobody_else_tidies):
    now = [time.time()]
    made = {"memory": MemoryStore, "sqlite": lambda **more: SQLiteStore(tmp_path / "logout.db", **more)}
    store = made[request.param](clock=lambda: now[0])
    yield store, now
    store.close()


@pytest.mark.parametrize("method", ["load", "replace", "finish"])
def test_worker_that_dies_after_the_mark_is_followed_by_another_after_its_lease(
    site, store_and_clock, method
):
    site.store, now = store_and_clock
    site.build()
    claims = signing_in("ann")
    ann = site.sign_in(claims)
    stolen = site.copy(ann)
    dying, _ = site.worker(store=Dies(site.store, method))
    with pytest.raises(Died):
        dying.end_sessions(sid="a-session")

    assert site.user(stolen) is None  # the mark came first
    assert site.store.open_rows() == 1
    site.tidy()
    assert site.store.open_rows() == 1  # it is still the first worker's
    now[0] += upkeep.LEASE_SECONDS + 1
    site.tidy()

    assert site.store.open_rows() == 0
    assert site.cache(claims) is None
    if site.is_server_side:
        assert "sub-of-ann" not in repr(dict(site.records))
    assert [e.channel for e in site.events if isinstance(e, LogoutEnded)] == ["admin"]


def test_worker_that_dies_before_the_mark_has_ended_nothing(site):
    site.build()
    claims = signing_in("ann")
    ann = site.sign_in(claims)
    dying, _ = site.worker(store=Dies(site.store, "end"))
    with pytest.raises(Died):
        dying.end_sessions(sid="a-session")
    assert site.user(ann) == "sub-of-ann"
    assert site.cache(claims)
    assert site.store.open_rows() == 0


def test_what_could_not_be_done_is_tried_until_it_is(site, store_and_clock):
    inner, now = store_and_clock
    site.store = Faulty(inner)
    site.build()
    claims = signing_in("ann")
    site.sign_in(claims)
    site.store.away = {"replace"}
    site.front_channel(sid="a-session")
    for _ in range(2):
        now[0] += upkeep.LEASE_SECONDS + 1
        site.tidy()
        assert inner.open_rows() == 1
    site.store.away = set()
    site.tidy()
    assert inner.open_rows() == 1  # the last try has it for its lease
    now[0] += upkeep.LEASE_SECONDS + 1
    site.tidy()
    assert inner.open_rows() == 0
    assert site.cache(claims) is None
    assert [e.left for e in site.events if isinstance(e, LogoutFailed)] == [("accounts",)] * 3
    assert isinstance(site.events[-1], LogoutEnded)


def test_user_who_signed_in_again_meanwhile_keeps_the_new_session(site, store_and_clock):
    site.store, now = store_and_clock
    site.build()
    site.sign_in(signing_in("ann"))
    dying, _ = site.worker(store=Dies(site.store, "load"))
    with pytest.raises(Died):
        dying.end_sessions(sid="a-session")
    ann = site.sign_in(signing_in("ann"), cache=False)
    now[0] += upkeep.LEASE_SECONDS + 1
    site.tidy()
    assert site.user(ann) == "sub-of-ann"


def test_row_that_no_secret_opens_any_more_is_said_and_holds_nothing_up(site, store_and_clock, caplog):
    site.store, now = store_and_clock
    site.build()
    site.sign_in(signing_in("ann"))
    dying, _ = site.worker(store=Dies(site.store, "load"))
    with pytest.raises(Died):
        dying.end_sessions(sid="a-session")
    now[0] += upkeep.LEASE_SECONDS + 1
    other, _ = site.worker(secret="a secret that only the other has")
    site.tidy(other)
    assert "a secret that is not configured any more" in caplog.text
    assert site.store.open_rows() == 1


@pytest.mark.usefixtures("nobody_else_tidies")
def test_store_that_is_away_is_asked_again_in_the_next_round(site, caplog):
    site.store = Faulty(MemoryStore())
    site.build()
    site.store.away = {"*"}
    site.tidy()
    assert "the store could not be asked: OSError" in caplog.text
    assert "what an engine says" not in caplog.text


def test_worker_that_starts_finishes_what_others_have_left(site, monkeypatch):
    """By itself, at its first request, and then from time to time."""
    monkeypatch.setattr(upkeep, "INTERVAL_SECONDS", 0.01)
    now = [time.time()]
    site.store = MemoryStore(clock=lambda: now[0])
    with monkeypatch.context() as quiet:
        quiet.setattr(asgi.LogoutMiddleware, "_start_upkeep", lambda self: None)
        quiet.setattr(wsgi._Upkeep, "start", lambda self: None)
        site.build()
        site.sign_in(claims := signing_in("ann"))
        dying, _ = site.worker(store=Dies(site.store, "load"))
        with pytest.raises(Died):
            dying.end_sessions(sid="a-session")
    finished = threading.Event()
    finish = site.store.finish
    monkeypatch.setattr(site.store, "finish", lambda row: (finish(row), finished.set())[0])
    _, door = site.worker()

    if site.is_asgi:

        async def lives():
            await door._call("GET", "/me", {}, b"", {})
            now[0] += upkeep.LEASE_SECONDS + 1
            await anyio.to_thread.run_sync(finished.wait, 20)

        anyio.run(lives)
    else:
        door.call("GET", "/me", {}, b"")
        now[0] += upkeep.LEASE_SECONDS + 1
        finished.wait(20)

    assert site.store.open_rows() == 0
    assert site.cache(claims) is None
