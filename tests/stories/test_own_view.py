"""An app that keeps its own logout view: `identity`'s, and one as MSAL's documentation has it."""

from __future__ import annotations

import pytest

from tests.stories.conftest import LOCATIONS_MAY_BE_RELATIVE, MSAL_RECOMMENDS_FORM_POST

pytestmark = MSAL_RECOMMENDS_FORM_POST


@pytest.mark.parametrize("flavour", ["entra", "b2c", "generic"])
@pytest.mark.parametrize(
    ("kind", "linter"), [("flask", "validate"), ("flask", "lint"), ("fastapi", "validate")]
)
@LOCATIONS_MAY_BE_RELATIVE
def test_app_s_own_view_answers_and_nothing_is_left(tell, alice, bob, kind, flavour, linter):
    story = tell(kind, flavour, linter=linter).serve(app_view=True)
    alices, bobs = story.sign_in(alice), story.sign_in(bob)
    known = story.known_of(alices)

    page = alices.click("Sign out")

    (logout,) = story.provider.requests_to("logout")
    assert "state" not in logout.query  # it is the app's redirect, and not ours
    if kind == "flask" and flavour == "generic":
        assert page.url.startswith(story.provider.browser_url)  # `identity` does not say which client it is
    else:
        assert page.url == f"{story.url}/"
    assert story.event_names() == ["LogoutStarted", "LogoutEnded"]
    story.assert_signed_out(alices, alice, known)
    story.calls_api(bobs, bob)
    story.sign_in(alice, alices)


@pytest.mark.parametrize("kind", ["flask", "fastapi"])
def test_app_s_own_view_is_reached_by_a_confirmed_request(tell, alice, kind):
    story = tell(kind, "entra").serve(app_view=True)
    browser = story.sign_in(alice)
    known = story.known_of(browser)
    browser.open(story.provider.browser_url)
    asked = browser.follow(f"{story.url}/logout")
    assert "Sign out?" in asked.text

    page = browser.click("Sign out")

    assert page.url == f"{story.url}/"
    (logout,) = story.provider.requests_to("logout")
    assert logout.method == "GET"  # not even where the app redirects with 307, which browsers post again
    assert not logout.form
    assert not story.provider.sessions(alice)
    story.assert_nothing_left(known)
    story.asked_who(browser)
