"""What the provider needs to be told, and what a sign-out does while the provider is slow, failing or gone."""

from __future__ import annotations

import logging
from urllib.parse import parse_qs, urlsplit

import pytest
import requests

from msal_logout_middleware import Provider
from tests.stories.conftest import MSAL_RECOMMENDS_FORM_POST

pytestmark = MSAL_RECOMMENDS_FORM_POST

KINDS = pytest.mark.parametrize("kind", ["flask", "fastapi"])


@KINDS
@pytest.mark.parametrize("max_url_length", [4000, 300], ids=["in the URL", "by a form"])
def test_b2c_gets_the_id_token_that_it_demands(tell, provider, alice, kind, max_url_length):
    provider.b2c.id_token_hint_required = True
    story = tell(kind, "b2c").serve(id_token_hint=True, max_url_length=max_url_length)
    browser = story.sign_in(alice)
    known = story.known_of(browser)

    page = browser.click("Sign out")

    (logout,) = provider.requests_to("logout")
    assert logout.method == ("GET" if max_url_length == 4000 else "POST")
    assert page.url == f"{story.url}/"
    story.assert_signed_out(browser, alice, known)


@KINDS
def test_b2c_that_demands_an_id_token_refuses_a_logout_without(tell, provider, alice, kind):
    """The app's part is done all the same; that the option is missing shows at the provider."""
    provider.b2c.id_token_hint_required = True
    story = tell(kind, "b2c").serve()
    browser = story.sign_in(alice)
    known = story.known_of(browser)

    page = browser.click("Sign out")

    assert page.status == 400
    assert page.url.startswith(provider.browser_url)
    story.assert_nothing_left(known)
    assert len(provider.sessions(alice)) == 1


def sign_out_by_a_long_url(story, alice, **options):
    story.provider.entra.max_query_length = 600
    story.serve(id_token_hint=True, **options)
    browser = story.sign_in(alice)
    known = story.known_of(browser)
    page = browser.click("Sign out")
    story.assert_nothing_left(known)
    return browser, known, page


@KINDS
def test_url_that_is_too_long_for_entra_becomes_a_form(tell, provider, alice, kind):
    story = tell(kind, "entra")

    browser, known, page = sign_out_by_a_long_url(story, alice, max_url_length=600)

    (logout,) = provider.requests_to("logout")
    assert logout.method == "POST"
    assert logout.form["id_token_hint"] in known.tokens
    assert page.url == f"{story.url}/"
    story.assert_signed_out(browser, alice, known)


@KINDS
def test_url_that_is_too_long_for_entra_drops_the_id_token_where_there_is_a_login_hint(
    tell, provider, alice, kind
):
    story = tell(kind, "entra")

    registration = {"optional_claims": ["login_hint"]}
    browser, known, page = sign_out_by_a_long_url(story, alice, max_url_length=600, registration=registration)

    (logout,) = provider.requests_to("logout")
    assert logout.method == "GET"
    assert "id_token_hint" not in logout.query
    assert logout.query["logout_hint"] == provider.login_hint(alice)
    assert page.url == f"{story.url}/"
    story.assert_signed_out(browser, alice, known)


def test_url_that_is_too_long_for_entra_is_refused_where_the_limit_is_set_too_high(tell, provider, alice):
    _, _, page = sign_out_by_a_long_url(tell("flask", "entra"), alice, max_url_length=10_000)

    assert "AADSTS90015" in page.text
    assert len(provider.sessions(alice)) == 1


# What a worker needs for logout tokens it fetches when it starts.
NOTHING_IS_FETCHED_BEFORE = {"back_channel_path": None}


def gone(provider):
    provider.gone()


def fails(provider):
    provider.fail(500, "discovery")


def slow(provider):
    provider.hold("discovery")


@KINDS
@pytest.mark.parametrize("happens", [gone, fails, slow])
def test_provider_that_cannot_be_asked_changes_nothing_here(tell, provider, alice, kind, happens, caplog):
    """The app signed in before; only the middleware has yet to discover where to sign out."""
    story = tell(kind, "entra").serve(timeout_seconds=0.1, **NOTHING_IS_FETCHED_BEFORE)
    browser = story.sign_in(alice)
    known = story.known_of(browser)
    happens(provider)

    page = browser.click("Sign out")

    assert page.url == f"{story.url}/"
    assert "home of nobody" in page.text
    assert story.event_names() == ["LogoutStarted", "LogoutEnded"]
    story.assert_nothing_left(known)
    warnings = [record for record in caplog.records if "provider metadata" in record.message]
    assert {record.levelname for record in warnings} == {"WARNING"}

    provider.back()
    assert len(provider.sessions(alice)) == 1  # nobody could tell it


@KINDS
def test_browser_goes_to_the_landing_page_where_the_provider_cannot_be_asked(tell, provider, alice, kind):
    options = {"landing_page": "/?signed-out", **NOTHING_IS_FETCHED_BEFORE}
    story = tell(kind, "entra").serve(timeout_seconds=0.1, **options)
    browser = story.sign_in(alice)
    provider.fail(500, "discovery")

    assert browser.click("Sign out").url == f"{story.url}/?signed-out"


@KINDS
def test_provider_that_is_gone_when_the_browser_comes_finds_the_app_signed_out(tell, provider, alice, kind):
    story = tell(kind, "entra").serve()
    story.sign_in(alice).click("Sign out")  # the metadata is known from now on
    browser = story.sign_in(alice)
    known = story.known_of(browser)
    provider.gone()

    with pytest.raises(requests.ConnectionError):
        browser.click("Sign out")

    story.assert_nothing_left(known)
    assert "home of nobody" in browser.open(f"{story.url}/").text
    provider.back()
    assert len(provider.sessions(alice)) == 1  # it was never told of the second one


CLIENT_ID = "0f8fad5b-d9cb-469f-a165-70867728950e"
FLAVOURS = {
    "entra": (
        "login.microsoftonline.com",
        lambda entra: entra.metadata(entra.tenant_id),
        lambda entra: Provider.entra(entra.tenant_id, CLIENT_ID),
    ),
    "b2c": (
        "contosob2c.b2clogin.com",
        lambda b2c: b2c.metadata(f"{b2c.tenant_name}/B2C_1_signin"),
        lambda b2c: Provider.b2c("contosob2c", ["B2C_1_other", "B2C_1_signin"], CLIENT_ID),
    ),
}


@KINDS
@pytest.mark.parametrize("flavour", FLAVOURS)
def test_providers_that_are_built_in_discovered_and_given_lead_to_the_same_logout(
    tell, provider, alice, kind, flavour
):
    """Only the host differs: Microsoft's own, which no test may reach."""
    host, metadata_of, built_in_of = FLAVOURS[flavour]
    at = getattr(provider, flavour)
    registration = {"client_id": CLIENT_ID, "optional_claims": ["login_hint"]}

    def location(**options):
        story = tell(kind, flavour).serve(registration=registration, **options)
        browser = story.sign_in(alice)
        cookies = browser.cookies.header(f"{story.url}/logout", method="GET", initiator=None)
        headers = {"Cookie": cookies, "Sec-Fetch-Site": "none"}
        answer = requests.get(f"{story.url}/logout", headers=headers, allow_redirects=False, timeout=10)
        assert answer.status_code == 303
        url = urlsplit(answer.headers["Location"])
        query = parse_qs(url.query)
        assert query.pop("state")
        assert query.pop("post_logout_redirect_uri") == [f"{story.url}/"]
        return url.netloc, url.path.lower(), query

    discovered = location()
    assert location(provider=Provider.from_metadata(metadata_of(at), CLIENT_ID)) == discovered
    assert location(provider=built_in_of(at)) == (host, *discovered[1:])
    assert discovered[2] == {"client_id": [CLIENT_ID], "logout_hint": [provider.login_hint(alice)]}


@KINDS
def test_state_of_another_browser_is_not_an_error_page(tell, alice, kind):
    story = tell(kind, "entra").serve()
    browser = story.sign_in(alice)

    page = browser.open(f"{story.url}/?state=nobody-s")

    assert page.status == 200
    assert f"home of {alice.name}" in page.text
    story.calls_api(browser, alice)


@KINDS
def test_no_token_and_no_identifier_is_logged(tell, alice, kind, caplog):
    caplog.set_level(logging.DEBUG, "msal_logout_middleware")
    story = tell(kind, "entra").serve(id_token_hint=True)
    browser = story.sign_in(alice)
    known = story.known_of(browser)
    cookie = browser.cookies.value("session", f"{story.url}/")

    browser.click("Sign out")

    ours = "\n".join(
        record.getMessage() for record in caplog.records if record.name.startswith("msal_logout")
    )
    assert "LogoutEnded" in ours
    assert not [text for text in {*known.tokens, *known.identifiers, cookie, alice.username} if text in ours]
