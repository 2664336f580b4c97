"""The WSGI door, where it is unlike the ASGI door."""

import sys
import threading
from http import HTTPStatus
from io import BytesIO
from urllib.parse import urlencode

import pytest
from flask import Flask, session
from werkzeug.middleware.proxy_fix import ProxyFix

from msal_logout_middleware import Logout, Provider, wsgi
from msal_logout_middleware.sessions.flask import FlaskSession
from msal_logout_middleware.stores.memory import MemoryStore
from msal_logout_middleware.wsgi import LogoutMiddleware
from tests.doors import Browser, WsgiDoor
from tests.remote.conftest import signing_in
from tests.remote.faults import Faulty
from tests.rp_initiated.test_log_out import form_of
from tests.sites import KINDS, Site
from tests.tokens import claims_of

SECRET = "a secret of these tests"


def make(app=None, **options):
    flask = Flask("x")
    flask.config["SECRET_KEY"] = SECRET

    @flask.get("/sign-in")
    def sign_in():
        session["user"] = claims_of("ann")
        return "hello"

    defaults = {
        "provider": Provider.entra("common", "client"),
        "session": FlaskSession(flask),
        "store": MemoryStore(),
        "post_logout_redirect_uri": "http://localhost/",
        "retry_seconds": 0.0,
    }
    logout = Logout(**(defaults | options))
    cookie = WsgiDoor(flask).call("GET", "/sign-in", {}, b"").all("set-cookie")[0].partition(";")[0]
    return LogoutMiddleware(app or flask, logout), {"cookie": cookie, "sec-fetch-site": "same-origin"}


@pytest.mark.parametrize("length", ["70000", "-1", "x", "\u0661", "1" * 5000])
def test_length_that_cannot_be_is_refused(length):
    middleware, _ = make()
    statuses = []
    environ = {"REQUEST_METHOD": "POST", "PATH_INFO": "/logout", "CONTENT_LENGTH": length, "wsgi.input": None}
    middleware(environ, lambda status, headers, exc_info=None: statuses.append(status))
    assert statuses == [f"413 {HTTPStatus(413).phrase}"]  # it was renamed in Python 3.13


@pytest.mark.parametrize(("size", "status"), [(10, 303), (70_000, 413)])
def test_body_without_a_length_is_read_up_to_the_limit(size, status):
    middleware, headers = make()
    environ = {
        "wsgi.input": BytesIO(b"x" * size),
        "wsgi.input_terminated": True,
        "CONTENT_LENGTH": "",
    }
    assert WsgiDoor(middleware).call("POST", "/logout", headers, b"x", **environ).status == status


def test_path_is_compared_as_text_not_as_latin_1():
    middleware, headers = make(logout_path="/abmelden/für-immer")
    assert WsgiDoor(middleware).call("GET", "/abmelden/für-immer", headers, b"").status == 303


class Body:
    """An app's body, and what closing it does."""

    def __init__(self, close):
        self.close = close

    def __iter__(self):
        return iter([b"a"])


class TestAppView:
    def test_what_the_view_wrote_before_it_returned_is_kept(self):
        def app(environ, start_response):
            write = start_response("200 OK", [("Content-Type", "text/plain")])
            write(b"a")
            return iter([b"b", b"c"])

        middleware, headers = make(app, app_view=True)
        assert WsgiDoor(middleware).call("GET", "/logout", headers, b"").body == b"abc"

    def test_view_may_start_its_response_with_its_first_chunk(self):
        def app(environ, start_response):
            start_response("200 OK", [("Content-Type", "text/plain")])
            yield b"a"
            yield b"b"

        middleware, headers = make(app, app_view=True)
        answer = WsgiDoor(middleware).call("GET", "/logout", headers, b"")
        assert answer.body == b"ab"
        assert "session" in answer.set_cookies

    def test_view_that_raises_leaves_nothing_half_ended(self):
        def app(environ, start_response):
            raise LookupError("the app's mistake")

        events = []
        middleware, headers = make(app, app_view=True, on_event=events.append)
        with pytest.raises(LookupError):
            WsgiDoor(middleware).call("GET", "/logout", headers, b"")
        assert [type(event).__name__ for event in events] == ["LogoutStarted", "LogoutEnded"]

    def test_body_of_the_view_is_closed_once_and_then_looked_after(self):
        closed = []

        def app(environ, start_response):
            start_response("200 OK", [("Content-Type", "text/plain")])
            return Body(lambda: closed.append(True))

        middleware, headers = make(app, app_view=True)
        WsgiDoor(middleware).call("GET", "/logout", headers, b"")
        assert closed == [True]

    def test_body_of_the_view_is_closed_also_where_a_page_stands_in_its_place(self):
        closed = []

        def app(environ, start_response):
            start_response("200 OK", [("Content-Type", "text/plain")])
            return Body(lambda: closed.append(True))

        store = Faulty(MemoryStore())
        middleware, headers = make(app, app_view=True, store=store)
        store.away = {"finish"}
        assert WsgiDoor(middleware).call("GET", "/logout", headers, b"").status == 503
        assert closed == [True]

    def test_view_reads_the_form_that_was_posted_and_none_of_ours(self):
        seen = []

        def app(environ, start_response):
            body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            seen.append((environ["REQUEST_METHOD"], environ.get("CONTENT_TYPE"), body))
            start_response("200 OK", [("Content-Type", "text/plain")])
            return [b""]

        form = {"content-type": "application/x-www-form-urlencoded"}
        for posted, expected in [
            (lambda page: b"csrf=1", ("POST", form["content-type"], b"csrf=1")),
            (lambda page: urlencode(form_of(page)).encode(), ("GET", None, b"")),
        ]:
            middleware, headers = make(app, app_view=True)
            browser = Browser(WsgiDoor(middleware), dict([headers["cookie"].split("=", 1)]))
            page = browser.get("/logout", site="cross-site")
            browser.request("POST", "/logout", headers=form, body=posted(page))
            assert seen.pop() == expected


class TestAnswersThatMayNotLeave:
    """The store is away just when an answer signs somebody in."""

    def wrap(self, app):
        store = Faulty(MemoryStore())
        middleware, headers = make(lambda *called: app(headers["cookie"], *called), store=store)
        store.away = {"*"}
        return middleware

    def test_body_is_closed(self):
        closed = []

        def app(cookie, environ, start_response):
            start_response("200 OK", [("Content-Type", "text/plain"), ("Set-Cookie", cookie)])
            return Body(lambda: closed.append(True))

        assert WsgiDoor(self.wrap(app)).call("GET", "/", {}, b"").status == 503
        assert closed == [True]

    def test_nothing_leaves_that_the_app_writes(self):
        def app(cookie, environ, start_response):
            write = start_response("200 OK", [("Content-Type", "text/plain"), ("Set-Cookie", cookie)])
            write(b"a")
            return [b"b"]

        sent = []

        def start_response(status, headers, exc_info=None):
            sent.append(status)
            return sent.append

        environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/"}
        body = b"".join(self.wrap(app)(environ, start_response))
        assert sent == ["503 Service Unavailable"]
        assert body not in (b"", b"b")

    def test_another_that_the_app_puts_in_its_place_does(self):
        def app(cookie, environ, start_response):
            plain = ("Content-Type", "text/plain")
            start_response("200 OK", [plain, ("Set-Cookie", cookie)])
            try:
                raise LookupError("before anything was sent")
            except LookupError:
                start_response("500 Sorry", [plain], sys.exc_info())
            return [b"sorry"]

        answer = WsgiDoor(self.wrap(app)).call("GET", "/", {}, b"")
        assert (answer.status, answer.body) == (500, b"sorry")

    def test_record_that_was_saved_of_a_session_that_had_ended_is_deleted(self):
        store = Faulty(MemoryStore())
        site = Site("flask-session", KINDS["flask-session"]).build(store=store)
        ann = site.sign_in(signing_in("ann"))

        def view(session):
            assert site.logout.end_sessions(sid="a-session").complete
            session["late"] = True
            store.away = {"*"}
            return Body(lambda: setattr(store, "away", set()))

        site.does["view"] = view
        assert ann.get("/stream/view").status == 503
        assert not store.away
        assert not site.records


def test_memory_of_one_process_serves_no_app_of_several():
    middleware, headers = make()
    environ = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": "/",
        "HTTP_COOKIE": headers["cookie"],
        "wsgi.multiprocess": True,
    }
    for _ in range(2):
        with pytest.raises(RuntimeError, match="Use SQLiteStore"):
            middleware(dict(environ), lambda *_: None)


@pytest.mark.parametrize("inside", [False, True], ids=["itself", "behind another middleware"])
def test_app_that_calls_the_middleware_around_it_is_told_what_to_wrap(inside):
    app = Flask("x")
    app.secret_key = SECRET
    middleware, _ = make(ProxyFix(app) if inside else app)
    app.wsgi_app = ProxyFix(middleware)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"app\.wsgi_app = LogoutMiddleware\(app\.wsgi_app, logout\)"):
            WsgiDoor(app).call("GET", "/", {}, b"")


def test_child_of_a_fork_looks_after_what_is_left_whatever_its_parent_was_about(monkeypatch):
    middleware, headers = make()
    rounds = threading.Semaphore(0)

    async def tidy(_world):
        rounds.release()

    monkeypatch.setattr(middleware.logout, "tidy", tidy)
    with middleware._upkeep._lock:  # another thread of the parent's is about to start it
        wsgi._after_fork_in_child()
        assert not middleware._upkeep._lock.locked()
        assert WsgiDoor(middleware).call("GET", "/", headers, b"").status == 404
        assert rounds.acquire(timeout=20)
