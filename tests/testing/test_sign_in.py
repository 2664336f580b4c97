"""A browser and real MSAL sign in at the three flavours."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlencode

import pytest
import requests

from .sign_ins import FLAVOURS, at_entra, at_generic


@FLAVOURS
@pytest.mark.parametrize("mode", ["query", "form_post"])
@pytest.mark.filterwarnings("ignore:response_mode='form_post' is recommended:UserWarning")
def test_msal_signs_in_and_the_token_opens_the_api(provider, browser, app, flavour, mode):
    alice = provider.add_user("alice@contoso.example")
    flavour(provider, app).login = {"response_mode": mode}

    page = browser.sign_in(app.url + "/login", alice)

    assert page.text == "signed in"
    bearer = {"Authorization": f"Bearer {app.result['access_token']}"}
    me = requests.get(provider.graph_url, headers=bearer, timeout=10)
    assert me.json()["userPrincipalName"] == alice.username
    assert provider.requests_to("token")[-1].form["code_verifier"]


@FLAVOURS
def test_browser_is_on_plain_http_and_msal_on_https(provider, browser, app, flavour):
    flavour(provider, app)
    browser.sign_in(app.url + "/login", provider.add_user("alice@contoso.example"))

    assert provider.requests_to("authorize")[0].url.startswith("http://idp.localhost:")
    assert provider.requests_to("token")[0].url.startswith("https://localhost:")
    assert provider.requests_to("discovery")[0].url.startswith("https://localhost:")


def test_second_app_signs_in_without_a_question(provider, browser, app, other_app):
    alice = provider.add_user("alice@contoso.example")
    for each in (app, other_app):
        at_generic(provider, each)
    browser.sign_in(app.url + "/login", alice)

    browser.open(other_app.url + "/login")

    assert other_app.claims["sub"] == alice.sub
    assert other_app.claims["sid"] == app.claims["sid"]
    (session,) = provider.sessions(alice)
    assert len(session.clients) == 2


def test_flavours_do_not_share_a_session(provider, browser, app, other_app):
    alice = provider.add_user("alice@contoso.example")
    at_generic(provider, app)
    at_entra(provider, other_app)
    browser.sign_in(app.url + "/login", alice)

    page = browser.open(other_app.url + "/login")

    assert "Sign in" in page.text
    assert len(provider.sessions()) == 1


@pytest.mark.parametrize("prompt", ["login", "select_account"])
def test_prompt_asks_although_somebody_is_signed_in(provider, browser, app, prompt):
    alice, bob = provider.add_user("alice@contoso.example"), provider.add_user("bob@contoso.example")
    at_entra(provider, app)
    browser.sign_in(app.url + "/login", alice)
    app.login = {"prompt": prompt}

    browser.sign_in(app.url + "/login", bob)

    assert app.claims["preferred_username"] == bob.username


def test_signing_in_again_as_the_same_user_keeps_the_session(provider, browser, app):
    alice = provider.add_user("alice@contoso.example")
    at_generic(provider, app).login = {"prompt": "login"}
    browser.sign_in(app.url + "/login", alice)
    before = app.claims["sid"]

    browser.sign_in(app.url + "/login", alice)

    assert app.claims["sid"] == before
    assert len(provider.sessions(alice)) == 1


def test_no_prompt_and_no_session_is_an_error_for_the_app(provider, browser, app):
    at_entra(provider, app).login = {"prompt": "none"}
    assert browser.open(app.url + "/login").text == "login_required"


def test_no_prompt_and_no_consent_is_an_error_for_the_app(provider, browser, app, other_app):
    alice = provider.add_user("alice@contoso.example")
    at_entra(provider, other_app)
    browser.sign_in(other_app.url + "/login", alice)
    at_entra(provider, app, consent=True).login = {"prompt": "none"}
    assert browser.open(app.url + "/login").text == "consent_required"


def test_login_hint_offers_that_user_only(provider, browser, app):
    alice, bob = provider.add_user("alice@contoso.example"), provider.add_user("bob@contoso.example")
    at_entra(provider, app)
    browser.sign_in(app.url + "/login", alice)
    app.login = {"login_hint": bob.username}

    page = browser.open(app.url + "/login")

    assert bob.username in page.text
    assert alice.username not in page.text


def test_consent_is_asked_once(provider, browser, app):
    alice = provider.add_user("alice@contoso.example")
    at_entra(provider, app, consent=True)
    browser.open(app.url + "/login")

    page = browser.click("Alice alice@contoso.example")
    assert "User.Read" in page.text
    assert browser.click("Accept").text == "signed in"

    assert browser.open(app.url + "/login").text == "signed in"
    assert app.claims["oid"] == alice.oid


def test_user_who_refuses_consent_is_an_error_for_the_app(provider, browser, app):
    provider.add_user("alice@contoso.example")
    at_entra(provider, app, consent=True)
    browser.open(app.url + "/login")
    browser.click("Alice alice@contoso.example")

    assert browser.click("Cancel").text == "access_denied"


def test_consent_without_a_session_is_refused(provider, browser, app):
    at_entra(provider, app, consent=True)
    provider.add_user("alice@contoso.example")
    browser.open(app.url + "/login")
    browser.click("Alice alice@contoso.example")
    browser.cookies.clear()

    assert browser.click("Accept").status == 400


def test_stranger_to_the_tenant_is_not_offered(provider, browser, app):
    stranger = provider.add_user("eve@fabrikam.example", tenant="another-tenant")
    at_entra(provider, app)

    page = browser.open(app.url + "/login")

    assert "Nobody can." in page.text
    with pytest.raises(LookupError):
        browser.click("Eve eve@fabrikam.example")
    provider.add_user("alice@contoso.example")
    with pytest.raises(LookupError, match=stranger.username):
        browser.sign_in(app.url + "/login", stranger)


def test_stranger_to_the_tenant_is_refused(provider, browser, app):
    provider.add_user("eve@fabrikam.example", tenant="another-tenant")
    provider.add_user("alice@contoso.example")
    at_entra(provider, app)
    (form,) = browser.open(app.url + "/login").forms
    assert browser.submit(form, ("user", "eve@fabrikam.example")).status == 400


@pytest.mark.parametrize(
    "wrong",
    [
        {"client_id": "another"},
        {"redirect_uri": "https://evil.example/"},
        {"redirect_uri": ""},
        {"response_mode": "fragment"},
    ],
)
def test_browser_is_never_sent_where_no_client_registered(provider, browser, app, wrong):
    at_entra(provider, app)
    flow = app.msal.initiate_auth_code_flow([], app.redirect_uri, response_mode="form_post")
    url, _, query = flow["auth_uri"].partition("?")
    parameters = {**dict(parse_qsl(query)), **wrong}
    page = browser.open(f"{url}?{urlencode(parameters)}")
    assert page.status == 400
    assert page.url.startswith(provider.browser_url)


def test_other_response_type_is_an_error_for_the_app(provider, browser, app):
    at_entra(provider, app)
    flow = app.msal.initiate_auth_code_flow([], app.redirect_uri, response_mode="form_post")
    app.flows[flow["state"]] = flow
    page = browser.open(flow["auth_uri"].replace("response_type=code", "response_type=token"))
    assert page.text == "unsupported_response_type"
