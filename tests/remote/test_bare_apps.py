"""Apps that use WSGI and ASGI as freely as they may, and sessions that end meanwhile."""

from __future__ import annotations

import os
import threading
from wsgiref.util import FileWrapper

import anyio
import pytest

from msal_logout_middleware import asgi, wsgi
from msal_logout_middleware.stores.memory import MemoryStore
from tests.doors import AsgiDoor, WsgiDoor
from tests.remote.conftest import signing_in
from tests.remote.faults import Faulty
from tests.sites import KINDS, Site


def pair(site, browser):
    return f"{site.cookie_name}={browser.cookies[site.cookie_name]}"


@pytest.mark.parametrize("door", ["asgi", "wsgi"])
@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("header", ["set-cookie: {}", "Set-Cookie: {}", "set-cookie:  {}"])
def test_cookie_of_an_ended_session_leaves_under_no_spelling_of_its_header(door, method, header):
    kind = "starlette, signed cookie" if door == "asgi" else "flask, signed cookie"
    site = Site(kind, KINDS[kind]).build()
    ann = site.sign_in(signing_in("ann"))
    name, _, value = header.format(pair(site, ann)).partition(":")
    value = value.removeprefix(" ")
    site.front_channel(sid="a-session")

    async def asgi_app(scope, receive, send):
        headers = [(name.encode(), value.encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    def wsgi_app(environ, start_response):
        start_response("200 OK", [(name, value), ("Content-Type", "text/plain")])
        return [b""]

    if door == "asgi":
        bare = AsgiDoor(asgi.LogoutMiddleware(asgi_app, site.logout))
    else:
        bare = WsgiDoor(wsgi.LogoutMiddleware(wsgi_app, site.logout))
    answer = bare.call(method, "/x", {}, b"")
    assert ["Max-Age=0" in value for value in answer.all("set-cookie")] == [True]


class TestRecordsThatAreSavedLate:
    """Whichever way the app goes out, it is looked at once more."""

    @pytest.fixture
    def site(self):
        return Site("flask-session", KINDS["flask-session"]).build()

    def gone_after(self, site, goes_out):
        ann = site.sign_in(signing_in("ann"))
        before = dict(site.records)

        def app(environ, start_response):
            def saves_late():
                site.front_channel(sid="a-session")
                site.records.update(before)

            return goes_out(start_response, saves_late)

        door = WsgiDoor(wsgi.LogoutMiddleware(app, site.logout))
        extra = {"wsgi.file_wrapper": FileWrapper}
        try:
            door.call("GET", "/x", {"cookie": pair(site, ann)}, b"", **extra)
        finally:
            assert "sub-of-ann" not in repr(dict(site.records))

    def test_app_that_raises_before_it_answers(self, site):
        def raises(start_response, saves_late):
            saves_late()
            raise LookupError("the app's own")

        with pytest.raises(LookupError):
            self.gone_after(site, raises)

    def test_app_that_raises_when_its_answer_is_closed(self, site):
        class Body:
            def __init__(self, saves_late):
                self.saves_late = saves_late

            def __iter__(self):
                return iter([b"a"])

            def close(self):
                self.saves_late()
                raise LookupError("the app's own")

        def raises(start_response, saves_late):
            start_response("200 OK", [("Content-Type", "text/plain")])
            return Body(saves_late)

        with pytest.raises(LookupError):
            self.gone_after(site, raises)

    def test_app_that_answers_with_a_file(self, site, tmp_path):
        (tmp_path / "file").write_bytes(b"a file")

        def answers(start_response, saves_late):
            start_response("200 OK", [("Content-Type", "text/plain")])
            saves_late()
            return FileWrapper((tmp_path / "file").open("rb"))

        self.gone_after(site, answers)


def test_sign_in_that_cannot_be_recorded_does_not_leave_an_app_that_starts_its_answer_late():
    site = Site("flask, signed cookie", KINDS["flask, signed cookie"])
    site.store = Faulty(MemoryStore())
    site.build()
    ann = site.sign_in(signing_in("ann"))

    def app(environ, start_response):
        headers = [("Content-Type", "text/plain"), ("Set-Cookie", pair(site, ann))]
        start_response("200 OK", headers)
        yield b"signed in"
        yield b", and served"

    door = WsgiDoor(wsgi.LogoutMiddleware(app, site.worker()[0]))
    site.store.away = {"*"}
    answer = door.call("GET", "/x", {}, b"")
    assert answer.status == 503
    assert answer.all("set-cookie") == []
    assert b"served" not in answer.body


def test_client_that_hangs_up_in_a_form_is_told_to_the_app():
    kind = "starlette, signed cookie"
    site = Site(kind, KINDS[kind]).build()
    told = []

    async def app(scope, receive, send):
        told.extend([await receive(), await receive()])

    form = [(b"content-type", b"application/x-www-form-urlencoded"), (b"content-length", b"9")]
    scope = {"type": "http", "method": "POST", "path": "/x", "query_string": b"", "headers": form}
    came = [{"type": "http.request", "body": b"code=", "more_body": True}, {"type": "http.disconnect"}]

    async def story():
        left = list(came)

        async def receive():
            return left.pop(0)

        await asgi.LogoutMiddleware(app, site.logout)(scope, receive, None)

    anyio.run(story)
    assert told == came


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # the upkeep is a thread
def test_worker_that_was_forked_has_an_upkeep_of_its_own():
    site = Site("flask, signed cookie", KINDS["flask, signed cookie"]).build()

    def keeps_tidy():
        assert site.door.call("GET", "/me", {}, b"").status == 200
        return any(thread.name == "msal-logout-upkeep" for thread in threading.enumerate())

    assert keeps_tidy()
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if keeps_tidy() else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
