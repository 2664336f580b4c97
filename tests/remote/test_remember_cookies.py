"""Flask-Login's remember cookie, which signs a user in again: it goes with the session, and nobody has to name it."""

from __future__ import annotations

import json
from datetime import timedelta

import flask_login
import pytest

from msal_logout_middleware.http import Cookie
from msal_logout_middleware.sessions.flask import FlaskSession
from tests.sessions.sites import flask_app
from tests.sites import KINDS, Site

from .conftest import signing_in

pytestmark = pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning")  # Flask-Login's

SUB = signing_in("alice")["sub"]


class User(flask_login.UserMixin):
    def __init__(self, sub):
        self.id = sub


def with_flask_login(kind, **config):
    """An app that remembers whom it has signed in."""

    def app(site):
        app, session, records = KINDS[kind](site)
        app.config.update(config)
        manager = flask_login.LoginManager(app)
        manager.user_loader(User)
        site.does["remember"] = lambda session: flask_login.login_user(
            User(session["user"]["sub"]), remember=True
        )
        site.does["who"] = lambda _: {"who": flask_login.current_user.get_id()}
        return app, session, records

    return app


@pytest.fixture(params=["flask, signed cookie", "flask-session"])
def site(request):
    return Site(request.param, with_flask_login(request.param)).build()


def remembered(site):
    browser = site.sign_in(signing_in("alice", sid="s-1"))
    browser.post("/does/remember")
    assert "remember_token" in browser.cookies
    assert who(browser) == SUB
    return browser


def who(browser):
    return json.loads(browser.get("/does/who").body)["who"]


def test_remember_cookie_alone_signs_the_user_in_again(site):
    browser = remembered(site)
    del browser.cookies[site.cookie_name]
    assert who(browser) == SUB


def test_remember_cookie_is_deleted_when_the_user_signs_out(site):
    browser = remembered(site)
    assert browser.get("/logout").status == 303
    assert "remember_token" not in browser.cookies
    assert who(browser) is None


def test_remember_cookie_is_cut_out_and_deleted_with_an_ended_sessions(site):
    browser = remembered(site)
    thief = site.copy(browser)
    assert site.front_channel(sid="s-1").status == 200
    for each in (browser, thief):
        assert who(each) is None
        assert "remember_token" not in each.cookies
        assert who(each) is None


def test_remember_cookie_that_a_request_in_flight_renews_is_not_sent(site):
    site.app.config["REMEMBER_COOKIE_REFRESH_EACH_REQUEST"] = True
    browser = remembered(site)
    desk = site.copy(browser)
    site.does["look"] = lambda _: desk.get("/logout") and {}
    browser.get("/does/look")
    assert "remember_token" not in browser.cookies
    assert who(browser) is None


def test_remember_cookie_is_known_as_the_app_sets_it():
    app = flask_app()
    session = FlaskSession(app)
    assert session.remember_cookies == ()
    flask_login.LoginManager(app)
    assert session.remember_cookies == (Cookie("remember_token"),)
    app.config.update(
        REMEMBER_COOKIE_NAME="keep",
        REMEMBER_COOKIE_DOMAIN="app.example",
        REMEMBER_COOKIE_PATH="/shop",
        REMEMBER_COOKIE_SECURE=True,
        REMEMBER_COOKIE_HTTPONLY=False,
        REMEMBER_COOKIE_SAMESITE="strict",
        REMEMBER_COOKIE_DURATION=timedelta(days=1),
    )
    assert session.remember_cookies == (Cookie("keep", "/shop", "app.example", True, False, "Strict"),)


def test_cookie_that_is_named_as_well_is_deleted_once(site):
    site.build(delete_cookies=["remember_token"])
    answer = remembered(site).get("/logout")
    assert len([value for value in answer.all("set-cookie") if value.startswith("remember_token=")]) == 1
