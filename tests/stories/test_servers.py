"""The same story in front of real server processes: gunicorn with two workers, and uvicorn."""

from __future__ import annotations

from msal_logout_middleware.sessions.flask import FlaskSession
from msal_logout_middleware.stores.sqlite import SQLiteStore
from tests.stories.apps import flask_app
from tests.stories.conftest import MSAL_RECOMMENDS_FORM_POST, tokens_in
from tests.stories.servers import gunicorn, process, until, uvicorn_

pytestmark = MSAL_RECOMMENDS_FORM_POST


def ready(story, browser, running):
    """Poll the port until the app answers."""

    def answers():
        assert running.poll() is None, "the server has ended"
        return browser.open(f"{story.url}/").status == 200

    until(answers)


def test_sign_out_behind_gunicorn_with_two_workers(tell, alice, bob):
    story = tell("flask", "entra")
    setting = story.register()
    with process(gunicorn(story.socket), story.socket, setting.for_a_process()) as running:
        alices, bobs = story.browser(), story.browser()
        ready(story, alices, running)
        story.sign_in(alice, alices)
        story.sign_in(bob, bobs)
        story.logout = setting.logout(FlaskSession(flask_app(setting)))
        known = story.known_of(alices)
        assert story.found(known.tokens) == known.tokens

        page = alices.click("Sign out")

        assert page.url == f"{story.url}/"
        story.assert_signed_out(alices, alice, known)
        for _ in range(4):  # whichever worker answers
            assert "home of nobody" in alices.open(f"{story.url}/").text
            story.calls_api(bobs, bob)
        story.sign_in(alice, alices)
    story.logout.store.close()


def test_sign_out_behind_uvicorn(tell, alice, bob):
    story = tell("fastapi", "generic", response_mode="form_post")
    setting = story.register()
    with process(uvicorn_(story.socket), story.socket, setting.for_a_process()) as running:
        alices, bobs = story.browser(), story.browser()
        ready(story, alices, running)
        story.sign_in(alice, alices)
        story.sign_in(bob, bobs)
        store = SQLiteStore(story.directory / "logout.db")
        assert store.load(alice.sub).data
        tokens = tokens_in(store.load(alice.sub).data)
        assert story.found(tokens) == tokens

        page = alices.click("Sign out")

        assert page.url == f"{story.url}/"
        assert not story.provider.sessions(alice)
        assert [cookie for cookie in alices.cookies if cookie.host == "localhost"] == []
        assert store.load(alice.sub).data is None
        assert story.found(tokens) == set()
        story.calls_api(bobs, bob)
        story.sign_in(alice, alices)
        store.close()
