"""The gate: an ended session is refused, by every door and however it is kept, and nothing of it comes back."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from contextlib import closing
from functools import partial

import anyio
import pytest
from flask import Flask, after_this_request

from msal_logout_middleware import WorkerState, asgi, wsgi
from msal_logout_middleware.caches import InStore
from msal_logout_middleware.events import LogoutFailed, SessionRefused, StoreUnreachable
from msal_logout_middleware.memory import Memory
from msal_logout_middleware.stores import Ending, _generation
from msal_logout_middleware.stores.memory import MemoryStore
from msal_logout_middleware.stores.sqlite import SQLiteStore
from tests.doors import Browser, WsgiDoor
from tests.remote.conftest import signing_in
from tests.remote.faults import Faulty
from tests.sites import KINDS, Site

# How a session can end without its browser.
WAYS = {
    "front-channel": lambda site, claims: site.front_channel(sid=claims["sid"]),
    "by call with sid": lambda site, claims: site.logout.end_sessions(iss=claims["iss"], sid=claims["sid"]),
    "by call with sub": lambda site, claims: site.logout.end_sessions(iss=claims["iss"], sub=claims["sub"]),
    "by call with oid": lambda site, claims: site.logout.end_sessions(oid=claims["oid"], tid=claims["tid"]),
}


def cookies_seen(answer):
    return json.loads(answer.body)["cookies"]


def with_header(site, cookie_header):
    """Ask the app what it sees of a `Cookie` header, and whom it takes that for."""
    answer = site.door.call("GET", "/me", {"cookie": cookie_header}, b"")
    assert answer.status == 200
    return (json.loads(answer.body)["user"] or {}).get("sub")


@pytest.mark.parametrize("way", WAYS)
def test_ended_session_is_refused_from_its_next_request_on(site, sites_store, way):
    sites_store(site).build()
    claims, bobs = signing_in("ann", "sid of ann"), signing_in("bob", "sid of bob")
    ann, bob = site.sign_in(claims), site.sign_in(bobs)
    stolen = site.copy(ann)
    assert site.user(stolen) == "sub-of-ann"

    WAYS[way](site, claims)

    for _ in range(2):
        assert site.user(stolen) is None
        stolen.cookies = dict(ann.cookies)  # a thief does not heed a deletion
    assert site.user(bob) == "sub-of-bob"
    refused = [event for event in site.events if isinstance(event, SessionRefused)]
    assert [event.during for event in refused] == [False, False]


def test_app_sees_the_other_cookies_byte_for_byte_and_the_dead_one_is_deleted(site):
    site.build()
    ann = site.sign_in(signing_in("ann"))
    dead = f"{site.cookie_name}={ann.cookies[site.cookie_name]}"
    site.front_channel(sid="a-session")

    for header, left in [
        (f"a=1; {dead}; b=2", ["a=1; b=2"]),
        (f"{dead}; b=2", ["b=2"]),
        (f"a=1; {dead}", ["a=1"]),
        (dead, []),
        (f'a=1;{dead};  b="2;\xff" ;; =c; d', ['a=1;  b="2;\xff" ;; =c; d']),
        (
            f"a={site.cookie_name}=x; {dead}; x{site.cookie_name}=y",
            [f"a={site.cookie_name}=x; x{site.cookie_name}=y"],
        ),
    ]:
        answer = site.door.call("GET", "/echo", {"cookie": header}, b"")
        assert cookies_seen(answer) == left, header
        assert answer.set_cookies == {site.cookie_name: site.session.cookies[0].delete()[1]}


# Which frameworks take a spelling of the header for the session: Werkzeug, which Flask reads it with, and Starlette.
NONE, BOTH, FLASK, STARLETTE = (False, False), (True, True), (True, False), (False, True)
STARLETTE_AND_SOME_WERKZEUGS = (None, True)
SPELLINGS = {
    "{name}={value}": BOTH,
    " {name} = {value} ": BOTH,
    "{name} ={value}": BOTH,
    "{name}= {value}": BOTH,
    "{name}\t=\t{value}": BOTH,
    "\xa0{name}={value}": STARLETTE_AND_SOME_WERKZEUGS,
    "{name}\xa0={value}": STARLETTE_AND_SOME_WERKZEUGS,
    "\x85{name}={value}": STARLETTE_AND_SOME_WERKZEUGS,
    '{name}="{value}"': BOTH,
    '"{name}"={value}': NONE,
    "'{name}'={value}": NONE,
    ",{name}={value}": NONE,
    "{name}={value},": NONE,
    "={name}={value}": NONE,
    "x; {name}={value}": BOTH,
    "x=;;{name}={value}": BOTH,
    'x="; {name}={value}': BOTH,
    'x="a; {name}={value}; b"': STARLETTE,
    "{name}={value}; {name}=other": FLASK,
    "{name}=other; {name}={value}": STARLETTE,
    "{name}=; {name}={value}": STARLETTE,
    "{name}={value}; {name}={value}": BOTH,
    "{name}; {name}={value}": STARLETTE,
    "$Version=1; {name}={value}; $Path=/": BOTH,
    "\x00{name}={value}": NONE,
    "\ufeff{name}={value}".encode().decode("latin-1"): NONE,
}


@pytest.mark.parametrize("spelling", SPELLINGS, ids=repr)
def test_whatever_the_framework_takes_for_the_session_is_refused(site, spelling):
    site.build()
    ann = site.sign_in(signing_in("ann"))
    header = spelling.format(name=site.cookie_name, value=ann.cookies[site.cookie_name])
    is_taken = SPELLINGS[spelling][site.is_asgi]
    assert is_taken in (None, with_header(site, header) == "sub-of-ann")

    site.front_channel(sid="a-session")

    assert with_header(site, header) is None


@pytest.mark.parametrize("first", ["live", "dead"])
def test_of_a_repeated_cookie_only_what_is_dead_is_cut(site, first):
    site.build()
    ann, bob = site.sign_in(signing_in("ann")), site.sign_in(signing_in("bob", "another"))
    site.front_channel(sid="a-session")
    live, dead = (f"{site.cookie_name}={each.cookies[site.cookie_name]}" for each in (bob, ann))
    header = f"{live}; {dead}" if first == "live" else f"{dead}; {live}"
    assert with_header(site, header) == "sub-of-bob"
    answer = site.door.call("GET", "/echo", {"cookie": header}, b"")
    assert cookies_seen(answer) == [live]


@pytest.mark.parametrize("kind", ["starlette, signed cookie", "starsessions"])
def test_header_that_is_sent_in_pieces_is_one(kind):
    """HTTP/2 may split it (RFC 9113, 8.2.3)."""
    site = Site(kind, KINDS[kind]).build()
    ann = site.sign_in(signing_in("ann"))
    site.front_channel(sid="a-session")
    pair = f"{site.cookie_name}={ann.cookies[site.cookie_name]}"
    pieces = [("cookie", "a=1"), ("cookie", pair), ("cookie", "b=2")]
    assert cookies_seen(site.door.call("GET", "/echo", pieces, b"")) == ["a=1; b=2"]
    pieces = [("cookie", pair), ("x", "y"), ("cookie", "b=2")]
    assert json.loads(site.door.call("GET", "/me", pieces, b"").body) == {"user": None}


def test_dead_cookie_is_deleted_at_the_app_s_home_with_a_state_that_is_nobody_s(site):
    site.build()
    ann = site.sign_in(signing_in("ann"))
    site.front_channel(sid="a-session")
    assert "Max-Age=0" in ann.get("/?state=nobody-s").set_cookies[site.cookie_name]


def test_cookie_is_deleted_unless_the_app_sets_a_new_one(site):
    site.build()
    ann = site.sign_in(signing_in("ann"))
    site.front_channel(sid="a-session")
    stolen = site.copy(ann)

    assert "Max-Age=0" in ann.get("/me").set_cookies[site.cookie_name]
    answer = stolen.post("/sign-in", {"claims": json.dumps(signing_in("ann"))})

    assert len(answer.all("set-cookie")) == 1
    assert "Max-Age=0" not in answer.set_cookies[site.cookie_name]
    assert site.user(stolen) == "sub-of-ann"


def test_answer_that_deletes_a_cookie_is_kept_by_no_cache(site):
    site.build()
    ann = site.sign_in(signing_in("ann"))
    nobody, thief = site.browser().get("/picture"), site.copy(ann)
    assert ann.get("/picture").one("cache-control") == nobody.one("cache-control") == "public, max-age=3600"
    site.front_channel(sid="a-session")
    answer = thief.get("/picture")
    assert site.cookie_name in answer.set_cookies
    # From a cache it would delete the session of everybody who sees the picture.
    assert answer.one("cache-control") == "private, no-store"
    assert answer.one("expires") is None
    assert thief.get("/picture").headers == nobody.headers  # which has no such cookie any more


def test_answer_that_was_overtaken_by_a_sign_out_is_kept_by_no_cache(either_door):
    site = either_door.build()
    ann = site.sign_in(signing_in("ann"))
    site.does["slow"] = lambda _session: site.front_channel(sid="a-session") and None
    answer = ann.get("/does/slow")
    assert site.cookie_name in answer.set_cookies
    assert answer.one("cache-control") == "private, no-store"


def test_cookie_that_was_signed_anew_while_the_session_lived_is_refused_too(either_door):
    site = either_door.build()
    site.does["count"] = lambda session: session.update(count=session.get("count", 0) + 1)
    ann = site.sign_in(signing_in("ann"))
    copies = []
    for _ in range(3):
        ann.get("/does/count")
        copies.append(site.copy(ann))
    assert len({copy.cookies[site.cookie_name] for copy in copies}) == 3
    site.front_channel(sid="a-session")
    assert [site.user(copy) for copy in copies] == [None, None, None]


class TestRequestsThatWereRunning:
    """What ran while its session ended can bring no cookie, no record and no token back."""

    @pytest.mark.parametrize("way", WAYS)
    def test_answer_carries_no_cookie_of_the_session(self, site, sites_store, way):
        sites_store(site).build()
        claims = signing_in("ann")

        def view(session):
            assert session["user"]["sub"] == "sub-of-ann"
            WAYS[way](site, claims)
            session["changed"] = "meanwhile"
            return {"an": "answer"}

        site.does["change"] = view
        ann = site.sign_in(claims)
        stolen = site.copy(ann)

        answer = ann.get("/does/change")

        assert json.loads(answer.body) == {"an": "answer"}
        assert [value for value in answer.all("set-cookie") if "Max-Age=0" not in value] == []
        assert site.cookie_name not in ann.cookies
        if site.is_server_side:
            assert "sub-of-ann" not in repr(dict(site.records))
        assert site.user(stolen) is None
        assert SessionRefused(site.events[-2].session, during=True) in site.events

    def test_sign_in_while_another_session_of_the_user_ends_lives(self, site):
        site.build()
        old = site.sign_in(signing_in("ann"))
        fresh = signing_in("ann")

        def view(session):
            site.front_channel(sid="a-session")
            session["user"] = fresh

        site.does["sign in"] = view
        new = site.browser()
        new.get("/does/sign in")
        assert site.user(new) == "sub-of-ann"
        assert site.user(old) is None

    def test_id_token_refreshed_while_the_session_ended_does_not_revive_it(self, site):
        site.build()
        claims, refreshed = signing_in("ann"), signing_in("ann")

        def view(session):
            site.front_channel(sid="a-session")
            session["user"] = refreshed

        site.does["refresh"] = view
        ann = site.sign_in(claims)
        stolen = site.copy(ann)
        answer = ann.get("/does/refresh")
        assert [value for value in answer.all("set-cookie") if "Max-Age=0" not in value] == []
        assert site.user(stolen) is None
        if site.is_server_side:
            assert "sub-of-ann" not in repr(dict(site.records))

    def test_record_that_is_saved_after_the_answer_is_deleted_again(self, server_side_site):
        """By a background task, or when the body is closed."""
        site = server_side_site.build()
        ann = site.sign_in(signing_in("ann"))

        def save_late(_):
            before = dict(site.records)
            site.front_channel(sid="a-session")
            assert "sub-of-ann" not in repr(dict(site.records))
            site.records.update(before)

        site.does["save"] = save_late
        assert ann.get("/late/save").status == 200
        assert "sub-of-ann" not in repr(dict(site.records))
        assert site.user(ann) is None

    def test_record_that_is_saved_after_the_answer_is_deleted_again_also_when_that_raises(
        self, server_side_site
    ):
        site = server_side_site.build()
        ann = site.sign_in(signing_in("ann"))

        def save_late(_):
            before = dict(site.records)
            site.front_channel(sid="a-session")
            site.records.update(before)
            raise LookupError("the app's own")

        site.does["save"] = save_late
        with pytest.raises(LookupError):
            ann.get("/late/save")
        assert "sub-of-ann" not in repr(dict(site.records))

    def test_record_that_a_stream_saves_is_deleted_again(self, server_side_site):
        site = server_side_site.build()
        ann = site.sign_in(signing_in("ann"))

        def chunks(_):
            before = dict(site.records)

            def body():
                yield b"first "
                site.front_channel(sid="a-session")
                yield b"second"
                site.records.update(before)

            return body()

        site.does["chunks"] = chunks
        assert ann.get("/stream/chunks").body == b"first second"
        assert "sub-of-ann" not in repr(dict(site.records))

    def test_record_is_deleted_again_also_when_the_app_raises(self, server_side_site):
        site = server_side_site.build()
        ann = site.sign_in(signing_in("ann"))

        def chunks(_):
            before = dict(site.records)

            def body():
                yield b"first "
                site.front_channel(sid="a-session")
                site.records.update(before)
                raise LookupError("the app's own")

            return body()

        site.does["chunks"] = chunks
        with pytest.raises(LookupError):
            ann.get("/stream/chunks")
        assert "sub-of-ann" not in repr(dict(site.records))

    def test_record_under_the_id_that_the_answer_carries_is_deleted_too(self):
        site = Site("flask-session", KINDS["flask-session"]).build()
        ann = site.sign_in(signing_in("ann"))

        def view(session):
            site.front_channel(sid="a-session")
            site.app.session_interface.regenerate(session)
            session["changed"] = "meanwhile"

        site.does["change"] = view
        answer = ann.get("/does/change")
        assert [value for value in answer.all("set-cookie") if "Max-Age=0" not in value] == []
        assert "sub-of-ann" not in repr(dict(site.records))

    def test_claims_of_a_session_that_has_ended_sign_nobody_in_again(self, either_door):
        """An app that has kept them aside, and restores them in an answer to a visitor."""
        site = either_door.build()
        claims = signing_in("ann")
        site.does["restore"] = lambda session: session.update(user=claims, restored=True)
        site.sign_in(claims)
        site.front_channel(sid="a-session")
        browser = site.browser()
        for _ in range(2):
            answer = browser.get("/does/restore")
            assert [value for value in answer.all("set-cookie") if "Max-Age=0" not in value] == []
            assert site.events[-1] == SessionRefused(site.events[-1].session, during=True)
        assert browser.cookies == {}

    def test_very_cookie_of_a_session_that_has_ended_is_not_set_again(self):
        app = Flask("restores")
        site = Site("flask, signed cookie", KINDS["flask, signed cookie"]).build()
        ann = site.sign_in(signing_in("ann"))
        dead = f"{site.cookie_name}={ann.cookies[site.cookie_name]}"
        assert site.user(ann) == "sub-of-ann"
        app.get("/restore")(lambda: ("restored", {"set-cookie": dead}))
        door = WsgiDoor(wsgi.LogoutMiddleware(app, site.logout))
        site.front_channel(sid="a-session")
        answer = door.call("GET", "/restore", {}, b"")
        assert "Max-Age=0" in answer.set_cookies[site.cookie_name]

    def test_tokens_of_the_users_next_sign_in_stay(self, site):
        site.build()
        claims = signing_in("ann")

        def view(session):
            site.front_channel(sid="a-session")
            site.sign_in(signing_in("ann", "the next"))
            session["changed"] = "meanwhile"

        site.does["change"] = view
        site.sign_in(claims).get("/does/change")
        assert site.cache(claims)

    @pytest.mark.parametrize("when", ["does", "late"])
    def test_tokens_that_it_saved_late_go_where_the_caches_do_not_refuse_them(self, site, when):
        class Unguarded:
            is_async = blocking = False

            def __init__(self, inner):
                self.cache_key, self.remove_accounts = inner.cache_key, inner.remove_accounts

        site.build(caches=Unguarded(InStore(site.store)))
        claims = signing_in("ann")

        def view(session):
            site.front_channel(sid="a-session")
            assert site.cache(claims) is None
            site.keep_tokens(claims)

        site.does["change"] = view
        site.sign_in(claims).get(f"/{when}/change")
        assert site.cache(claims) is None

    @pytest.mark.usefixtures("nobody_else_tidies")
    def test_record_that_cannot_be_deleted_now_is_deleted_later(self, server_side_site):
        site = server_side_site.build(wrap=Faulty)
        ann = site.sign_in(signing_in("ann"))

        def view(session):
            site.front_channel(sid="a-session")
            session["changed"] = "meanwhile"
            site.session.away = {"delete"}

        site.does["change"] = view
        ann.get("/does/change")
        assert "sub-of-ann" in repr(dict(site.records))
        assert ("late", ("session",)) in [
            (event.channel, event.left) for event in site.events if isinstance(event, LogoutFailed)
        ]
        site.session.away = set()
        site.tidy()
        assert "sub-of-ann" not in repr(dict(site.records))

    @pytest.mark.usefixtures("nobody_else_tidies")
    def test_answer_carries_no_cookie_of_a_session_whose_ending_cannot_be_committed(self, site):
        site.store = Faulty(MemoryStore())
        site.build()

        def view(session):
            site.store.away = {"end"}
            assert not site.logout.end_sessions(sid="a-session").complete
            session["changed"] = "meanwhile"

        site.does["change"] = view
        answer = site.sign_in(signing_in("ann")).get("/does/change")
        assert [value for value in answer.all("set-cookie") if "Max-Age=0" not in value] == []


class TestConnectionsThatStayOpen:
    @pytest.fixture(autouse=True)
    def looks_often(self, monkeypatch):
        monkeypatch.setattr(asgi, "_WATCH_SECONDS", 0.01)

    @pytest.fixture(params=["starlette, signed cookie", "starsessions"])
    def sockets(self, request):
        return Site(request.param, KINDS[request.param])

    def test_handshake_of_an_ended_session_is_refused(self, sockets):
        site = sockets.build()
        ann = site.sign_in(signing_in("ann"))
        site.front_channel(sid="a-session")
        sent = talk(site, ann)
        assert sent == [{"type": "websocket.close", "code": 1008}]

    def test_handshake_of_an_ended_session_is_refused_whose_cookies_come_in_pieces(self, sockets):
        site = sockets.build()
        ann = site.sign_in(signing_in("ann"))
        ann.cookies = {"a": "1", **ann.cookies, "b": "2"}
        site.front_channel(sid="a-session")
        assert talk(site, ann, in_pieces=True) == [{"type": "websocket.close", "code": 1008}]

    def test_handshake_of_a_live_session_passes_with_a_dead_cookie_beside_it(self, sockets):
        site = sockets.build()
        ann, bob = site.sign_in(signing_in("ann")), site.sign_in(signing_in("bob", "another"))
        name = site.cookie_name
        bob.cookies[name] += f"; {name}={ann.cookies[name]}"
        site.front_channel(sid="a-session")
        sent = talk(site, bob, hang_up=True)
        assert sent[0]["type"] == "websocket.accept"
        assert json.loads(sent[1]["text"]) == {"user": "sub-of-bob"}

    def test_open_one_is_closed_when_its_session_ends(self, sockets):
        site = sockets.build()
        ann, bob = site.sign_in(signing_in("ann")), site.sign_in(signing_in("bob", "another"))

        sent = talk(site, ann, lambda: site.front_channel(sid="a-session"))

        assert sent[0]["type"] == "websocket.accept"
        assert json.loads(sent[1]["text"]) == {"user": "sub-of-ann"}
        assert sent[-1] == {"type": "websocket.close", "code": 1008}
        sent = talk(site, bob, lambda: site.front_channel(sid="a-session"), hang_up=True)
        assert [message["type"] for message in sent] == ["websocket.accept", "websocket.send"]

    def test_one_whose_client_has_gone_ends_without_a_word(self, sockets):
        site = sockets.build()
        ann = site.sign_in(signing_in("ann"))
        sent = talk(site, ann, lambda: site.front_channel(sid="a-session"), has_gone=True)
        assert sent[-1] == {"type": "websocket.close", "code": 1008}

    def test_open_one_is_closed_if_the_store_cannot_be_asked_whose_session_has_ended(self, sockets):
        sockets.store = Faulty(MemoryStore())
        site = sockets.build()
        ann = site.sign_in(signing_in("ann"))
        other, _ = site.worker(store=site.store.inner)

        def ends():
            other.end_sessions(iss=signing_in("bob")["iss"], sub="sub-of-bob")
            site.store.away = {"marks_since"}

        assert talk(site, ann, ends)[-1] == {"type": "websocket.close", "code": 1008}

    def test_app_that_raises_in_an_open_one_is_heard(self, sockets):
        site = sockets.build()
        ann = site.sign_in(signing_in("ann"))

        def raises():
            raise LookupError("the app's own")

        with pytest.raises(LookupError, match="the app's own"):
            talk(site, ann, raises)

    def test_open_one_stays_by_option(self, sockets):
        site = sockets.build(close_websockets=False)
        ann = site.sign_in(signing_in("ann"))
        sent = talk(site, ann, lambda: site.front_channel(sid="a-session"), hang_up=True)
        assert "websocket.close" not in [message["type"] for message in sent]

    def test_nobodys_handshake_is_the_apps(self, sockets):
        site = sockets.build()
        sent = talk(site, site.browser(), hang_up=True)
        assert json.loads(sent[1]["text"]) == {"user": None}

    def test_handshake_is_refused_for_now_if_the_store_cannot_be_asked(self, sockets):
        sockets.store = Faulty(MemoryStore())
        site = sockets.build()
        ann = site.sign_in(signing_in("ann"))
        _, site.door = site.worker()  # one that does not know the session yet
        site.store.away = {"*"}
        assert talk(site, ann) == [{"type": "websocket.close", "code": 1013}]

    @pytest.mark.parametrize("closes", [True, False])
    def test_stream_is_cut_off_by_option(self, site, closes):
        site.build(close_streams=closes)
        ann = site.sign_in(signing_in("ann"))

        def body():
            yield b"first "
            site.front_channel(sid="a-session")
            yield b"last"

        async def body_that_ends_only_where_nobody_watches():
            yield b"first "
            await anyio.to_thread.run_sync(partial(site.front_channel, sid="a-session"))
            if closes:
                await anyio.sleep_forever()
            yield b"last"

        site.does["chunks"] = lambda _: body_that_ends_only_where_nobody_watches() if site.is_asgi else body()
        sent = streamed(site, ann, "/stream/chunks")
        assert sent == (b"first " if closes else b"first last")

    def test_stream_is_cut_off_if_the_store_cannot_be_asked_whose_session_has_ended(self, site):
        site.store = Faulty(MemoryStore())
        site.build(close_streams=True)
        other, _ = site.worker(store=site.store.inner)
        last = b"the last of 5000"

        def chunks(_):
            def body():
                yield b"first "
                other.end_sessions(iss=signing_in("bob")["iss"], sub="sub-of-bob")
                site.store.away = {"marks_since"}
                for _ in range(5000):
                    yield b"."
                yield last

            return body()

        site.does["chunks"] = chunks
        body = streamed(site, site.sign_in(signing_in("ann")), "/stream/chunks")
        assert body.startswith(b"first ")
        assert not body.endswith(last)


def talk(site, browser, then=None, *, hang_up=False, in_pieces=False, has_gone=False):
    """Open a WebSocket with a browser's cookies; do something once it is open; return what was sent until its end."""
    pieces = [f"{name}={value}" for name, value in browser.cookies.items()]
    cookies = pieces if in_pieces or not pieces else ["; ".join(pieces)]
    scope = {
        "type": "websocket",
        "path": "/socket",
        "query_string": b"",
        "headers": [(b"cookie", cookie.encode()) for cookie in cookies],
    }
    sent = []

    async def story():
        greeted = anyio.Event()
        connected = False

        async def receive():
            nonlocal connected
            if not connected:
                connected = True
                return {"type": "websocket.connect"}
            await greeted.wait()
            if not hang_up:
                await anyio.sleep_forever()
            return {"type": "websocket.disconnect", "code": 1001}

        async def send(message):
            await anyio.lowlevel.checkpoint()  # a server waits for its buffers
            sent.append(message)
            if message["type"] == "websocket.close" and has_gone:
                raise OSError("the connection is closed")
            if message["type"] == "websocket.send":
                if then is not None:
                    await anyio.to_thread.run_sync(then)
                greeted.set()

        with anyio.fail_after(20):
            await site.door.app(scope, receive, send)

    anyio.run(story)
    return sent


def streamed(site, browser, path):
    """Return what is sent of an answer that may be cut off."""
    if not site.is_asgi:
        return browser.get(path).body
    sent = []
    cookie = "; ".join(f"{name}={value}" for name, value in browser.cookies.items())
    scope = {"type": "http", "method": "GET", "path": path, "query_string": b""}
    scope["headers"] = [(b"cookie", cookie.encode())]

    async def story():
        async def receive():
            await anyio.sleep_forever()

        async def send(message):
            sent.append(message.get("body", b""))

        with anyio.fail_after(20):
            await site.door.app(scope, receive, send)

    anyio.run(story)
    return b"".join(sent)


@pytest.mark.usefixtures("nobody_else_tidies")
class TestCost:
    def test_ordinary_request_asks_no_store(self, site, sites_store):
        sites_store(site)
        site.store = Faulty(site.store)
        site.build()
        ann = site.sign_in(signing_in("ann"))
        assert site.user(ann) == "sub-of-ann"
        site.store.asked.clear()
        for _ in range(5):
            assert site.user(ann) == "sub-of-ann"
        assert dict(site.store.asked) == {}

    def test_request_without_the_sessions_cookie_asks_no_store(self, site):
        site.store = Faulty(MemoryStore())
        site.build()
        site.store.asked.clear()
        assert site.door.call("GET", "/me", {"cookie": "a=1"}, b"").status == 200
        assert site.door.call("GET", "/me", {}, b"").status == 200
        assert dict(site.store.asked) == {}

    @pytest.mark.parametrize("header", ["session=x", "session=x; session=y", "a=1 session=x"])
    def test_cookies_that_lead_to_no_session_ask_no_store(self, either_door, header):
        """Anybody can send them, also while a worker has to ask about each session."""
        site = either_door
        site.store = Faulty(MemoryStore())
        site.build()
        site.store.away = {"*"}
        site.store.generation = lambda: None
        assert site.door.call("GET", "/me", {"cookie": header}, b"").status == 200

    def test_known_session_is_served_while_the_store_is_away_and_nothing_has_ended(self, site):
        site.store = Faulty(MemoryStore())
        site.build()
        ann = site.sign_in(signing_in("ann"))
        assert site.user(ann) == "sub-of-ann"
        site.store.away = {"*"}
        assert site.user(ann) == "sub-of-ann"


@pytest.mark.usefixtures("nobody_else_tidies")
class TestStoreThatIsAway:
    """Nothing is served on a guess."""

    def test_session_that_is_not_known_is_refused_for_now(self, site):
        site.store = Faulty(MemoryStore())
        site.build()
        ann = site.sign_in(signing_in("ann"))
        _, ann.site = site.worker()
        site.store.away = {"*"}
        before = dict(ann.cookies)

        answer = ann.get("/me")

        assert (answer.status, answer.one("retry-after"), answer.one("cache-control")) == (
            503,
            "5",
            "no-store",
        )
        assert "sub-of-ann" not in answer.text
        assert ann.cookies == before
        assert site.events[-1] == StoreUnreachable("OSError")
        assert site.door.call("GET", "/me", {}, b"").status == 200
        site.store.away = set()
        assert site.user(ann) == "sub-of-ann"

    def test_known_session_is_refused_for_now_once_something_has_ended(self, site):
        site.store = Faulty(MemoryStore())
        site.build()
        ann, bob = site.sign_in(signing_in("ann")), site.sign_in(signing_in("bob", "another"))
        assert (site.user(ann), site.user(bob)) == ("sub-of-ann", "sub-of-bob")
        other, _ = site.worker(store=site.store.inner)
        other.end_sessions(iss=signing_in("ann")["iss"], sid="a-session")
        site.store.away = {"marks_since"}
        assert [each.get("/me").status for each in (ann, bob)] == [503, 503]
        site.store.away = set()
        assert (site.user(ann), site.user(bob)) == (None, "sub-of-bob")

    def test_sign_in_that_cannot_be_recorded_does_not_leave(self, site):
        site.store = Faulty(MemoryStore())
        site.build()
        site.store.away = {"add"}
        browser = site.browser()
        answer = browser.post("/sign-in", {"claims": json.dumps(signing_in("ann"))})
        assert answer.status == 503
        assert answer.set_cookies == {}
        site.store.away = set()
        site.sign_in(signing_in("ann"), browser=browser)
        assert site.user(browser) == "sub-of-ann"

    def test_answer_that_cannot_be_judged_does_not_leave(self, site):
        """Something ended while it was made; whether that was its own session cannot be told."""
        site.store = Faulty(MemoryStore())
        site.build()

        def view(session):
            other, _ = site.worker(store=site.store.inner)
            other.end_sessions(iss=signing_in("bob")["iss"], sid="another")
            site.store.away = {"marks_since"}
            return {"an": "answer"}

        site.does["view"] = view
        ann = site.sign_in(signing_in("ann"))
        site.sign_in(signing_in("bob", "another"))
        assert ann.get("/does/view").status == 503
        site.store.away = set()
        assert site.user(ann) == "sub-of-ann"

    def test_store_that_cannot_tell_its_generation_is_asked_each_time(self, site):
        class Untold(Faulty):
            def generation(self):
                return None

        site.store = Untold(MemoryStore())
        site.build()
        ann = site.sign_in(signing_in("ann"))
        assert site.user(ann) == "sub-of-ann"
        site.store.asked.clear()
        assert site.user(ann) == "sub-of-ann"
        assert site.store.asked["marks_since"] >= 1
        site.store.away = {"marks_since"}
        assert ann.get("/me").status == 503

    def test_sessions_that_cannot_be_read_are_refused_for_now(self, site):
        site.build(wrap=Faulty)
        ann = site.sign_in(signing_in("ann"))
        _, ann.site = site.worker()
        site.session.away = {"read"}
        assert ann.get("/me").status == 503
        site.session.away = set()
        assert site.user(ann) == "sub-of-ann"

    @pytest.mark.parametrize("way", ["front-channel", "with its cookie"])
    def test_session_whose_ending_cannot_be_committed_is_refused_here(self, site, way):
        site.store = Faulty(MemoryStore())
        site.build()
        ann = site.sign_in(signing_in("ann"))
        stolen = site.copy(ann)
        records = dict(site.records or {})
        site.store.away = {"end"}
        if way == "front-channel":
            site.front_channel(sid="a-session")
        else:
            ann.get("/logout")
        if site.is_server_side:
            site.records.update(records)  # as a request that saves late does
        assert site.user(stolen) is None

    def test_nothing_is_said_of_the_app_s_home_to_whom_cannot_be_told(self, site):
        """The provider may be sending the browser back there, with a `state` of ours or of somebody else's."""
        site.store = Faulty(MemoryStore())
        site.build()
        ann = site.sign_in(signing_in("ann"))
        _, ann.site = site.worker()
        site.store.away = {"*"}
        assert ann.get("/?state=nobody-s").status == 503

    def test_ending_that_cannot_be_committed_is_refused_here_and_committed_later(self, site):
        site.store = Faulty(MemoryStore())
        site.build()
        claims = signing_in("ann")
        ann = site.sign_in(claims)
        stolen = site.copy(ann)
        site.store.away = {"end"}

        assert not site.logout.end_sessions(iss=claims["iss"], sid="a-session").complete
        assert "mark" in next(e for e in site.events if isinstance(e, LogoutFailed)).left
        assert site.user(stolen) is None

        site.store.away = set()
        site.tidy()
        _, other = site.worker()
        stolen.site, stolen.cookies = other, dict(ann.cookies)
        assert site.user(stolen) is None
        assert site.cache(claims) is None
        assert site.store.open_rows() == 0


def test_every_worker_of_the_machine_refuses_from_the_answer_on(site, tmp_path):
    site.store = SQLiteStore(tmp_path / "logout.db")
    site.build()
    second = SQLiteStore(tmp_path / "logout.db")
    _, door = site.worker(store=second)
    ann = site.sign_in(signing_in("ann"))
    ann.site = door
    assert site.user(ann) == "sub-of-ann"
    site.front_channel(sid="a-session")
    assert site.user(ann) is None
    site.store.close()
    second.close()


def test_backup_in_the_place_of_the_database_hides_no_later_ending(site, tmp_path, monkeypatch):
    monkeypatch.setattr(_generation, "IDENTITY_SECONDS", 0.0)
    path = tmp_path / "logout.db"
    site.store = SQLiteStore(path)
    site.build()
    other_store = SQLiteStore(path)
    _, other = site.worker(store=other_store)
    ann = site.sign_in(signing_in("ann", "a"))
    with closing(sqlite3.connect(path)) as database:
        database.execute("VACUUM INTO ?", (str(tmp_path / "backup.db"),))
    site.sign_in(signing_in("bob", "b"))
    site.front_channel(sid="b")
    at_other = Browser(other, dict(ann.cookies))
    assert site.user(at_other) == "sub-of-ann"  # that worker knows all endings up to here
    site.store.close()
    for name in ("logout.db-wal", "logout.db-shm", "logout.db-generation"):
        (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / "backup.db").replace(path)
    site.front_channel(sid="a")
    for sid in ("c", "d", "e"):  # more than there were after the backup
        site.sign_in(signing_in(f"user {sid}", sid))
        site.front_channel(sid=sid)
    assert site.user(at_other) is None
    site.store.close()
    other_store.close()


def test_workers_write_back_what_a_restored_backup_has_lost(site, tmp_path, monkeypatch, nobody_else_tidies):
    monkeypatch.setattr(_generation, "IDENTITY_SECONDS", 0.0)
    path = tmp_path / "logout.db"
    site.store = SQLiteStore(path)
    site.build()
    claims = signing_in("ann", "a")
    ann, bob = site.sign_in(claims), site.sign_in(signing_in("bob", "b"))
    with closing(sqlite3.connect(path)) as database:
        database.execute("VACUUM INTO ?", (str(tmp_path / "backup.db"),))
    records = dict(site.records or {})
    stolen = site.copy(ann)
    site.front_channel(sid="a")
    site.tidy()
    site.store.close()
    for name in ("logout.db-wal", "logout.db-shm", "logout.db-generation"):
        (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / "backup.db").replace(path)
    if records:
        site.records.update(records)
    assert site.cache(claims)
    site.tidy()
    assert site.cache(claims) is None
    _, stolen.site = site.worker()  # one that knew nothing of it
    bob.site = stolen.site
    assert (site.user(stolen), site.user(bob)) == (None, "sub-of-bob")
    assert site.store.open_rows() == 0
    site.store.close()


class Emptied:
    """A store that can be emptied, as by somebody's FLUSHALL; `meanwhile` is called before a record is read."""

    def __init__(self):
        self.meanwhile = lambda: None
        self.lives = 0
        self.empty()

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def empty(self):
        self._inner = MemoryStore()
        self.lives += 1

    def generation(self):
        return hash((self.lives, self._inner.generation()))

    def get(self, handle):
        self.meanwhile()
        return self._inner.get(handle)


@pytest.mark.usefixtures("nobody_else_tidies")
def test_session_that_is_met_while_the_store_is_emptied_can_be_ended_all_the_same():
    store = Emptied()
    site = Site("flask, signed cookie", KINDS["flask, signed cookie"], store=store).build()
    ann, bob = site.sign_in(signing_in("ann")), site.sign_in(signing_in("bob"))
    store.empty()
    assert site.user(bob) == "sub-of-bob"
    reads = []

    def meanwhile():
        reads.append(len(reads))
        if len(reads) == 2:  # Ann's session is not there, has been recorded, and is looked for once more
            store.empty()
            assert site.user(bob) == "sub-of-bob"  # by which the worker notices

    store.meanwhile = meanwhile
    assert site.user(ann) == "sub-of-ann"
    assert len(reads) > 2
    logout, _ = site.worker()
    logout.end_sessions(iss=signing_in("ann")["iss"], sub="sub-of-ann")
    assert site.user(ann) is None
    assert site.user(bob) == "sub-of-bob"


@pytest.mark.usefixtures("nobody_else_tidies")
def test_store_that_is_emptied_while_marks_are_written_back_is_written_to_once_more():
    store = Emptied()
    site = Site("flask, signed cookie", KINDS["flask, signed cookie"], store=store).build()
    ann, bob = site.sign_in(signing_in("ann", "a")), site.sign_in(signing_in("bob", "b"))
    stolen, at_other = site.copy(ann), site.copy(ann)
    site.front_channel(sid="a")
    assert (site.user(stolen), site.user(bob)) == (None, "sub-of-bob")
    store.empty()

    def end_and_empty(ending, end=store.end):
        ended = end(ending)
        store.empty()
        assert site.user(bob) == "sub-of-bob"  # by which another thread notices
        return ended

    store.end = end_and_empty
    site.tidy()
    del store.end
    site.tidy()
    _, at_other.site = site.worker()  # one that knew nothing of it
    assert site.user(at_other) is None


@pytest.mark.usefixtures("nobody_else_tidies")
@pytest.mark.parametrize("when", ["its record is read", "it is remembered"])
def test_session_that_is_judged_while_the_store_is_emptied_can_be_ended_all_the_same(when, monkeypatch):
    """Another thread notices it first, and forgets all; what this one puts into memory then is of the life before."""
    store = Emptied()
    site = Site("flask, signed cookie", KINDS["flask, signed cookie"], store=store).build()
    ann, bob = site.sign_in(signing_in("ann")), site.sign_in(signing_in("bob"))
    _, door = site.worker()
    ann.site = bob.site = door
    assert site.user(bob) == "sub-of-bob"
    if when == "it is remembered":
        assert site.user(ann) == "sub-of-ann"
    store.end(Ending(handles=("somebody else's",), expires_at=9e9))  # so that all are judged anew
    others = iter([lambda: site.user(bob)])

    def emptied():
        for other_thread in others:
            store.empty()
            assert other_thread() == "sub-of-bob"

    get, found = store.get, Memory.found

    def get_and_empty(handle):
        record = get(handle)
        emptied()
        return record

    def empty_and_remember(*args, **options):
        emptied()
        return found(*args, **options)

    if when == "it is remembered":
        monkeypatch.setattr(Memory, "found", empty_and_remember)
    else:
        monkeypatch.setattr(store, "get", get_and_empty)
    assert site.user(ann) == "sub-of-ann"
    monkeypatch.undo()
    assert next(others, None) is None
    site.logout.end_sessions(iss=signing_in("ann")["iss"], sub="sub-of-ann")
    assert site.user(ann) is None
    assert site.user(bob) == "sub-of-bob"


@pytest.mark.usefixtures("nobody_else_tidies")
def test_session_that_is_judged_while_another_thread_forgets_all_is_not_served_after_its_end(monkeypatch):
    store = Emptied()
    site = Site("flask, signed cookie", KINDS["flask, signed cookie"], store=store).build()
    ann, bob = site.sign_in(signing_in("ann")), site.sign_in(signing_in("bob"))
    logout, _ = site.worker()
    store.empty()
    logout.end_sessions(iss=signing_in("ann")["iss"], sub="sub-of-ann")  # whose session nobody knows by now
    is_at_it, go_on = threading.Event(), threading.Event()
    forget, is_doubtful = Memory._forget, Memory.is_doubtful
    thread = threading.Thread(target=lambda: site.user(ann))

    def forget_while_ann_is_judged(memory):
        if not is_at_it.is_set():
            thread.start()
            assert is_at_it.wait(20)
        forget(memory)

    def be_slow(memory, seen):
        if threading.current_thread() is thread:
            is_at_it.set()
            assert go_on.wait(20)
        return is_doubtful(memory, seen)

    monkeypatch.setattr(Memory, "_forget", forget_while_ann_is_judged)
    monkeypatch.setattr(Memory, "is_doubtful", be_slow)
    assert site.user(bob) == "sub-of-bob"
    go_on.set()
    thread.join(20)
    assert site.user(ann) is None


@pytest.mark.usefixtures("nobody_else_tidies")
def test_session_that_the_store_never_keeps_is_served_nonetheless(monkeypatch):
    store = Emptied()
    site = Site("flask, signed cookie", KINDS["flask, signed cookie"], store=store).build()
    ann = site.sign_in(signing_in("ann"))
    store.empty()
    monkeypatch.setattr(store, "get", lambda _handle: None)
    assert site.user(ann) == "sub-of-ann"
    assert ann.get("/logout").status == 303
    assert site.user(ann) is None


@pytest.mark.usefixtures("nobody_else_tidies")
def test_cookie_that_the_app_no_longer_reads_when_the_store_is_emptied_is_nobodys():
    store = Emptied()
    site = Site("flask, signed cookie", KINDS["flask, signed cookie"], store=store).build()
    ann = site.sign_in(signing_in("ann"))
    assert site.user(ann) == "sub-of-ann"
    store.empty()
    site.session._app.secret_key = "the app's next secret"
    assert site.user(ann) is None


@pytest.mark.usefixtures("nobody_else_tidies")
def test_worker_says_what_it_knows(either_door):
    site = either_door.build(wrap=Faulty)
    ann = site.sign_in(signing_in("ann"))
    site.front_channel(sid="a-session")
    assert site.user(ann) is None
    assert site.logout.worker_state() == WorkerState(in_step=True, marks=1, put_off=0)
    store = Faulty(site.store)
    logout, _ = site.worker(store=store)
    assert not logout.worker_state().in_step
    store.away.add("end")
    logout.end_sessions(sid="a-session")
    assert logout.worker_state().put_off == 1


def test_mark_outlives_every_cookie(monkeypatch):
    now = [1_800_000_000.9]
    monkeypatch.setattr(time, "time", lambda: now[0])
    site = Site("flask, signed cookie", KINDS["flask, signed cookie"])
    site.store = MemoryStore(clock=time.time)
    site.build()
    site.does["touch"] = lambda session: session.update(touched=now[0])
    thief = site.copy(ann := site.sign_in(signing_in("ann")))
    now[0] += 0.02
    assert ann.get("/logout").status == 303
    stolen = dict(thief.cookies)
    for age in (31 * 86_400 + 0.01, 31 * 86_400 + 1):  # Flask's own limit, which it counts in whole seconds
        now[0] = 1_800_000_000.92 + age
        thief.cookies = dict(stolen)
        thief.get("/does/touch")
        assert site.user(thief) is None


@pytest.mark.parametrize("kind", ["flask, signed cookie", "flask-session"])
def test_answer_of_an_ended_session_sets_no_other_cookie_that_signs_in(kind):
    site = Site(kind, KINDS[kind]).build(delete_cookies=["remember_token"])
    ann = site.sign_in(signing_in("ann"))

    def slow(session):
        session["x"] = 1
        site.front_channel(sid="a-session")
        after_this_request(lambda answer: answer.set_cookie("remember_token", "good-for-a-year") or answer)

    site.does["slow"] = slow
    answer = ann.get("/does/slow")
    assert "good-for-a-year" not in str(answer.headers)


@pytest.mark.parametrize("kind", ["starlette, signed cookie", "starsessions"])
def test_answer_of_an_ended_session_sets_no_other_cookie_that_signs_in_nor_if_it_leaves_the_session_alone(
    kind,
):
    site = Site(kind, KINDS[kind]).build(delete_cookies=["remember_token"])
    inside = site.app

    async def app(scope, receive, send):
        if scope["path"] != "/slow":
            await inside(scope, receive, send)
            return
        await anyio.to_thread.run_sync(lambda: site.front_channel(sid="a-session"))
        headers = [(b"set-cookie", b"remember_token=good-for-a-year")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    site.app = app
    site.logout, site.door = site.worker()
    ann = site.sign_in(signing_in("ann"))
    answer = ann.get("/slow")
    assert answer.status == 200
    assert "good-for-a-year" not in str(answer.headers)
    assert "remember_token" in answer.set_cookies  # its deletion


@pytest.mark.usefixtures("nobody_else_tidies")
def test_view_of_the_apps_own_is_not_called_on_a_guess(site):
    site.build()
    thief = site.copy(site.sign_in(signing_in("ann")))
    records = dict(site.records or {})
    site.front_channel(sid="a-session")
    if records:
        site.records.update(records)  # a request that still runs saves late: only the gate refuses it
    store = Faulty(site.store)
    store.away.add("*")
    _, thief.site = site.worker(store=store, app_view=True)
    site.calls.clear()
    assert thief.get("/logout").status == 503
    assert not [call for call in site.calls if "sub-of-ann" in call]


def test_restart_revives_nothing(site, tmp_path):
    site.store = SQLiteStore(tmp_path / "logout.db")
    site.build()
    ann = site.sign_in(signing_in("ann"))
    site.front_channel(sid="a-session")
    site.store.close()
    site.store = SQLiteStore(tmp_path / "logout.db")
    _, ann.site = site.worker(store=site.store)
    assert site.user(ann) is None
    site.store.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
def test_memory_store_from_before_a_fork_serves_no_session_on_a_guess():
    """Each process would know its own sign-outs only."""
    site = Site("flask", KINDS["flask, signed cookie"]).build()
    ann = site.sign_in(signing_in("ann"))
    assert site.user(ann) == "sub-of-ann"
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if ann.get("/me").status == 503 else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert site.user(ann) == "sub-of-ann"


def test_app_that_raises_in_the_hook_harms_nobody(site):
    def raises(event):
        raise RuntimeError("the app's own")

    site.build(on_event=raises)
    ann = site.sign_in(signing_in("ann"))
    site.front_channel(sid="a-session")
    assert site.user(ann) is None


def test_events_and_log_hold_no_identifier_and_no_cookie(site, caplog):
    caplog.set_level("DEBUG")
    site.build()
    claims = signing_in("ann", "sid-of-ann-s-session")
    ann = site.sign_in(claims)
    value = ann.cookies[site.cookie_name]
    site.front_channel(sid=claims["sid"])
    site.user(ann)
    said = caplog.text + repr(site.events)
    for secret in (claims["sid"], claims["sub"], claims["oid"], claims["nonce"], value, "ann@example.com"):
        assert secret not in said
