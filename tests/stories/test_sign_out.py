"""Sign in at a provider, call an API, sign out: the browser is where it should be, and nothing is left."""

from __future__ import annotations

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from msal_logout_middleware.stores.sqlite import SQLiteStore
from tests.stories.conftest import LOCATIONS_MAY_BE_RELATIVE, MSAL_RECOMMENDS_FORM_POST
from tests.stories.rules import AsgiRules

pytestmark = MSAL_RECOMMENDS_FORM_POST

KINDS = pytest.mark.parametrize("kind", ["flask", "fastapi"])


def sign_out_story(story, alice, bob):
    alices = story.sign_in(alice)
    bobs = story.sign_in(bob)
    known = story.known_of(alices)
    bobs_known = story.known_of(bobs)
    if story.keeps_files:
        assert story.found(known.tokens) == known.tokens
    if story.kind == "flask":
        assert story.found(known.identifiers) == known.identifiers

    page = alices.click("Sign out")

    assert page.url == f"{story.url}/"  # with no `state` left in it
    assert page.status == 200
    assert "home of nobody" in page.text
    (logout,) = story.provider.requests_to("logout")
    assert logout.query.get("state") or logout.form.get("state")
    assert story.event_names() == ["LogoutStarted", "LogoutEnded"]
    story.assert_signed_out(alices, alice, known)

    story.calls_api(bobs, bob)
    assert story.known_of(bobs) == bobs_known
    assert len(story.provider.sessions(bob)) == 1

    assert "home of nobody" in alices.open(f"{story.url}/").text
    story.sign_in(alice, alices)
    story.calls_api(alices, alice)


@KINDS
@pytest.mark.parametrize("flavour", ["entra", "common", "b2c", "generic"])
def test_user_signs_out_and_nothing_is_left_and_nobody_else_is_touched(tell, alice, bob, kind, flavour):
    sign_out_story(tell(kind, flavour).serve(), alice, bob)


@KINDS
def test_guest_signs_out_and_nothing_is_left(tell, provider, alice, kind):
    """A guest's claims do not contain the `home_account_id` that the tokens stand under."""
    guest = provider.add_guest("gast@fabrikam.example")

    sign_out_story(tell(kind, "entra").serve(), guest, alice)


@pytest.mark.parametrize("flavour", ["entra", "b2c", "generic"])
def test_sign_in_by_form_post_changes_nothing(tell, alice, bob, flavour):
    story = tell("fastapi", flavour, response_mode="form_post").serve()

    sign_out_story(story, alice, bob)

    modes = {request.query["response_mode"] for request in story.provider.requests_to("authorize")}
    assert modes == {"form_post"}


@pytest.mark.parametrize("flavour", ["entra", "generic"])
def test_tokens_in_sqlite_are_gone_from_the_file_and_its_log(tell, alice, bob, flavour):
    story = tell("fastapi", flavour)
    sign_out_story(story.serve(store=SQLiteStore(story.directory / "logout.db")), alice, bob)


def by_a_mount(app):
    return Starlette(routes=[Mount("/app", app)])


def by_a_proxy(path):
    """A proxy takes the mount out of the path; the server tells it, and may put it into the path again (ASGI)."""

    def proxied(app):
        async def server(scope, receive, send):
            if scope["type"] == "http":
                below = scope["path"].removeprefix("/app")
                scope = {**scope, "root_path": "/app", "path": path.format(below)}
            await app(scope, receive, send)

        return server

    return proxied


BELOW_A_PATH = pytest.mark.parametrize(
    "mounted",
    [by_a_mount, by_a_proxy("{}"), by_a_proxy("/app{}")],
    ids=["mount", "path without", "path with"],
)


@BELOW_A_PATH
def test_app_below_a_path_signs_out_there(tell, alice, bob, mounted):
    story = tell("fastapi", "entra", mount="/app")
    sign_out_story(story.serve(around=lambda app: AsgiRules(mounted(app))), alice, bob)


@BELOW_A_PATH
def test_app_below_a_path_asks_there(tell, alice, mounted):
    another_site_s_link_asks_first(tell("fastapi", "entra", mount="/app").serve(around=mounted), alice)


@LOCATIONS_MAY_BE_RELATIVE
def test_werkzeug_s_linter_finds_nothing_either(tell, alice, bob):
    sign_out_story(tell("flask", "entra", linter="lint").serve(), alice, bob)


@KINDS
def test_another_site_s_link_asks_first(tell, alice, kind):
    another_site_s_link_asks_first(tell(kind, "entra").serve(), alice)


def another_site_s_link_asks_first(story, alice):
    browser = story.sign_in(alice)
    known = story.known_of(browser)
    browser.open(story.provider.browser_url)

    asked = browser.follow(f"{story.url}/logout")

    assert asked.url == f"{story.url}/logout"
    assert "Sign out?" in asked.text
    assert len(story.provider.sessions(alice)) == 1
    story.calls_api(browser, alice)

    browser.open(story.provider.browser_url)
    browser.follow(f"{story.url}/logout")
    page = browser.click("Sign out")

    assert page.url == f"{story.url}/"
    assert not story.provider.sessions(alice)
    assert browser.cookies.value("session", f"{story.url}/") is None
    story.assert_nothing_left(known)


@KINDS
def test_signing_out_twice_is_no_error(tell, alice, kind):
    story = tell(kind, "entra").serve()
    browser = story.sign_in(alice)
    browser.click("Sign out")

    page = browser.follow(f"{story.url}/logout")

    assert page.url == f"{story.url}/"
    assert page.status == 200
    assert story.event_names() == ["LogoutStarted", "LogoutEnded"]


@KINDS
def test_sign_in_again_within_the_same_provider_session_works_at_once(tell, provider, alice, kind):
    """The provider's session lives on, because its page was never reached: the `sid` is the same again."""
    story = tell(kind, "entra").serve(registration={"optional_claims": ["sid"]})
    browser = story.sign_in(alice)
    first = story.session(browser).claims
    known = story.known_of(browser)
    provider.fail(503, "logout")
    page = browser.click("Sign out")
    assert page.status == 503
    provider.back()
    story.assert_nothing_left(known)

    signed_in_by_one_click(story, browser)

    story.calls_api(browser, alice)
    again = story.session(browser).claims
    assert again["sid"] == first["sid"]
    assert again["uti"] != first["uti"]
    known = story.known_of(browser)
    browser.open(f"{story.url}/")
    browser.click("Sign out")
    story.assert_signed_out(browser, alice, known)


def signed_in_by_one_click(story, browser):
    page = story.starts_sign_in(browser)
    assert page.url == f"{story.url}/api", page.text


@KINDS
def test_two_browsers_of_one_user(tell, alice, kind):
    """Each is signed out by itself; where they share a token cache, the other one is asked to sign in again."""
    story = tell(kind, "entra").serve()
    desk, phone = story.sign_in(alice), story.sign_in(alice)

    page = desk.click("Sign out")

    assert page.url == f"{story.url}/"
    if kind == "flask":
        story.calls_api(phone, alice)
    else:
        signed_in_by_one_click(story, phone)  # interaction required, and never an error page
    assert f"home of {alice.name}" in phone.open(f"{story.url}/").text
