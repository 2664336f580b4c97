"""Django behind either door: what was running when a session ended, copied cookies, and ids that change."""

from __future__ import annotations

import json
from contextlib import ExitStack
from threading import Thread

import pytest
from django.conf import settings
from django.contrib.sessions.backends import db, file
from django.core.asgi import get_asgi_application
from django.core.cache import caches
from django.core.wsgi import get_wsgi_application

from msal_logout_middleware import Logout
from msal_logout_middleware.sessions.django import DjangoSession
from tests import django_project
from tests.django_project import in_force
from tests.doors import AsgiDoor, Browser, WsgiDoor
from tests.sessions import django_sites
from tests.sites import Site

from .conftest import signing_in

ENGINES = {**django_sites.ENGINES, "signed_cookies": django_sites.in_cookies}
COMES_BACK = {"cached_db", "cache, memory", "cache, files", "cache, database", "file"}  # all but `db`


def django_app(site):
    django_project.SITE = site
    session = DjangoSession()
    app = get_asgi_application() if site.is_asgi else get_wsgi_application()
    return app, session, {} if session.server_side else None


class SiteBySetting(Site):
    """A project whose settings list the middleware, and whose `wsgi.py` and `asgi.py` know nothing of it."""

    def worker(self, **options):
        logout = Logout(**(self.options | options))
        middleware = ["msal_logout_middleware.django.LogoutMiddleware", *settings.MIDDLEWARE]
        with in_force(MIDDLEWARE=middleware, MSAL_LOGOUT=logout):
            app = get_asgi_application() if self.is_asgi else get_wsgi_application()
        return logout, AsgiDoor(app, any_case=True) if self.is_asgi else WsgiDoor(app)


@pytest.fixture(params=["WSGI", "ASGI", "WSGI by setting", "ASGI by setting"])
def make(request, tmp_path):
    """What makes a site of a Django project with an engine."""
    with django_project.databases(), ExitStack() as exits:

        def make(engine, **more):
            exits.enter_context(in_force(**ENGINES[engine](tmp_path / "sessions")[0], **more))
            if "cache" in engine:
                caches["default"].clear()
            kind = SiteBySetting if "setting" in request.param else Site
            return kind(f"Django, {request.param}, {engine}", django_app).build()

        yield make


def without_the_middleware(site):
    return Browser(AsgiDoor(site.app, any_case=True) if site.is_asgi else WsgiDoor(site.app))


def session_id(browser):
    return browser.cookies["sessionid"]


def elsewhere(work):
    """Do something in another thread, as another worker does, before this one goes on."""
    failed = []

    def run():
        try:
            work()
        except BaseException as error:
            failed.append(error)

    thread = Thread(target=run)
    thread.start()
    thread.join()
    assert not failed, failed


@pytest.fixture
def in_between(monkeypatch):
    """Have something happen once, where a request has seen its session and not saved it yet."""

    def arrange(engine, then):
        left = [then]

        def before(original):
            def held(*args, **kwargs):
                if left:
                    elsewhere(left.pop())
                return original(*args, **kwargs)

            return held

        if engine == "db":
            monkeypatch.setattr(db.SessionStore, "save", before(db.SessionStore.save))
        elif engine == "file":
            shutil = type("shutil", (), {"move": staticmethod(before(file.shutil.move))})
            monkeypatch.setattr(file, "shutil", shutil)
        else:
            kind = type(caches["default"])
            monkeypatch.setattr(kind, "set", before(kind.set))
        return left

    return arrange


ALICE, BOB = signing_in("alice")["sub"], signing_in("bob")["sub"]


def look(session):
    """A view that changes nothing."""
    return {"user": session.get("user")}


class TestRequestsThatWereRunning:
    """Each saves its session, though it only reads it: `SESSION_SAVE_EVERY_REQUEST`."""

    @pytest.mark.parametrize("engine", django_sites.ENGINES)
    def test_session_that_is_only_deleted_comes_back_where_the_engine_saves_it_anew(
        self, make, in_between, engine
    ):
        site = make(engine, SESSION_SAVE_EVERY_REQUEST=True)
        site.does["look"] = look
        browser = site.sign_in(signing_in("alice"), browser=without_the_middleware(site), cache=False)
        its_id = session_id(browser)
        left = in_between(engine, lambda: site.session.delete(its_id))
        browser.get("/does/look")
        assert not left
        assert (site.session.load(its_id) is not None) is (engine in COMES_BACK)

    @pytest.mark.parametrize("engine", django_sites.ENGINES)
    def test_read_only_request_does_not_bring_the_session_back(self, make, in_between, engine):
        site = make(engine, SESSION_SAVE_EVERY_REQUEST=True)
        site.does["look"] = look
        browser = site.sign_in(signing_in("alice"))
        its_id, desk, thief = session_id(browser), site.copy(browser), site.copy(browser)
        left = in_between(engine, lambda: desk.get("/logout"))
        answer = browser.get("/does/look")
        assert not left
        assert answer.status == (200 if engine in COMES_BACK else 400)  # Django's SessionInterrupted
        assert its_id not in "".join(answer.all("set-cookie"))
        assert site.session.load(its_id) is None
        assert site.user(thief) is None

    def test_cache_is_filled_from_the_database_behind_a_mere_deletion(self, make, in_between):
        site = make("cached_db")
        site.does["look"] = look
        browser = site.sign_in(signing_in("alice"), browser=without_the_middleware(site), cache=False)
        its_id = session_id(browser)
        caches["default"].clear()
        left = in_between("cached_db", lambda: site.session.delete(its_id))
        browser.get("/does/look")
        assert not left
        assert site.user(browser) == ALICE

    def test_cache_that_is_filled_from_the_database_behind_a_sign_out_is_emptied_again(
        self, make, in_between
    ):
        site = make("cached_db")
        site.does["look"] = look
        browser = site.sign_in(signing_in("alice"))
        assert site.user(browser) == ALICE
        its_id, desk = session_id(browser), site.copy(browser)
        caches["default"].clear()
        left = in_between("cached_db", lambda: desk.get("/logout"))
        assert json.loads(browser.get("/does/look").body)["user"]["sub"] == ALICE  # it had begun before
        assert not left
        assert not caches["default"]._cache
        assert site.session.load(its_id) is None

    @pytest.mark.parametrize("engine", ["db", "file", "cache, memory"])
    def test_view_that_changes_the_session_meanwhile_brings_nothing_back(self, make, engine):
        site = make(engine)
        browser = site.sign_in(signing_in("alice"))
        its_id, desk = session_id(browser), site.copy(browser)

        def change(session):
            session["basket"] = 1
            elsewhere(lambda: desk.get("/logout"))

        site.does["change"] = change
        assert browser.get("/does/change").status == 400
        assert site.session.load(its_id) is None


class TestCookiesThatWereCopied:
    @pytest.mark.parametrize("engine", ENGINES)
    def test_cookie_copied_before_the_logout_is_refused_and_a_later_session_is_not(self, make, engine):
        site = make(engine)
        browser = site.sign_in(signing_in("alice"))
        thief = site.copy(browser)
        assert site.user(thief) == ALICE
        assert browser.get("/logout").status == 303
        assert "sessionid" not in browser.cookies
        assert site.user(thief) is None
        assert site.user(site.sign_in(signing_in("alice"), browser=browser)) == ALICE
        assert site.user(browser) == ALICE

    def test_signed_cookie_that_is_only_deleted_stays_good(self, make):
        site = make("signed_cookies")
        browser = site.sign_in(signing_in("alice"), browser=without_the_middleware(site), cache=False)
        thief = site.copy(browser)
        assert "sessionid" in browser.cookies
        browser.get("/logout")  # the app's own
        assert "sessionid" not in browser.cookies
        assert site.user(thief) == ALICE

    @pytest.mark.parametrize("engine", ENGINES)
    def test_front_channel_logout_without_a_cookie_ends_the_session(self, make, engine):
        site = make(engine)
        browser = site.sign_in(signing_in("alice", sid="s-1"))
        other = site.sign_in(signing_in("bob", sid="s-2"))
        assert site.front_channel(sid="s-1").status == 200
        assert (site.user(browser), site.user(other)) == (None, BOB)


class TestIdsThatChange:
    """Django's `login()` gives each sign-in a new id, and keeps what the visitor's session had."""

    @pytest.mark.parametrize("engine", ENGINES)
    def test_sign_in_under_a_new_id_is_found_by_its_sid(self, make, engine):
        site = make(engine)
        visitor = site.browser()
        site.does["visit"] = lambda session: session.update({"basket": 1})
        visitor.get("/does/visit")
        before = session_id(visitor)
        claims = signing_in("alice", sid="s-1")
        assert visitor.post("/log-in", {"claims": json.dumps(claims)}).status == 200
        after = session_id(visitor)
        assert after != before
        assert site.user(visitor) == ALICE
        assert site.front_channel(sid="s-1").status == 200
        assert site.user(visitor) is None
        if site.is_server_side:
            assert site.session.load(after) is None

    @pytest.mark.parametrize("engine", ENGINES)
    def test_session_that_goes_on_under_a_new_id_ends_with_both(self, make, engine):
        site = make(engine)
        browser = site.sign_in(signing_in("alice", sid="s-1"))
        thief = site.copy(browser)
        site.does["change-password"] = lambda session: session.cycle_key()
        assert browser.get("/does/change-password").status == 200
        later = site.copy(browser)
        assert site.user(later) == ALICE
        assert site.front_channel(sid="s-1").status == 200
        assert [site.user(one) for one in (browser, later, thief)] == [None, None, None]

    def test_logout_of_the_app_s_own_is_called_while_the_user_is_still_there(self, make):
        site = make("db")
        site.build(app_view=True)
        browser = site.sign_in(signing_in("alice"))
        its_id, thief = session_id(browser), site.copy(browser)
        answer = browser.get("/logout")
        assert (answer.status, answer.text) == (200, "the app's own")
        assert site.calls == [f"GET {ALICE}"]
        assert "sessionid" not in browser.cookies
        assert site.session.load(its_id) is None
        assert site.user(thief) is None
