"""Signing out at the provider: its session ends, the other apps are told, the browser lands where it may."""

from __future__ import annotations

import json
from urllib.parse import parse_qsl, urlencode, urlsplit

import jwt
import pytest
import requests

from msal_logout_middleware.testing import Form

from .sign_ins import FLAVOURS, at_b2c, at_entra, at_generic


def logout_url(provider, app, **parameters):
    """The URL that real apps take from discovery."""
    authority = app.msal.authority
    path = "/logout" if authority._oidc_authority_url else "/oauth2/v2.0/logout"
    base = authority.authorization_endpoint.removesuffix("/authorize").removesuffix("/oauth2/v2.0")
    return f"{base}{path}?{urlencode(parameters)}"


def sign_in(provider, browser, *apps):
    alice = provider.records.users.get("alice@contoso.example") or provider.add_user("alice@contoso.example")
    for app in apps:
        browser.sign_in(app.url + "/login", alice)
    return alice


@FLAVOURS
def test_browser_lands_at_the_registered_uri_with_its_state(provider, browser, app, flavour):
    flavour(provider, app)
    alice = sign_in(provider, browser, app)

    page = browser.open(
        logout_url(
            provider,
            app,
            client_id=app.msal.client_id,
            post_logout_redirect_uri=app.url + "/bye",
            state="a&b=c d",
        )
    )

    assert page.text == "/bye"
    assert dict(parse_qsl(urlsplit(page.url).query)) == {"state": "a&b=c d"}
    assert not provider.sessions(alice)
    assert "Sign in" in browser.open(app.url + "/login").text


@FLAVOURS
def test_logout_may_be_posted_from_another_site(provider, browser, app, flavour):
    flavour(provider, app)
    alice = sign_in(provider, browser, app)
    url, _, _ = logout_url(provider, app).partition("?")
    browser.open(app.url + "/")
    form = _form(url, client_id=app.msal.client_id, post_logout_redirect_uri=app.url + "/bye", state="s")

    page = browser.submit(form)

    assert page.url == app.url + "/bye?state=s"
    assert not provider.sessions(alice)


def _form(url, **fields):
    return Form("POST", url, fields=fields)


@FLAVOURS
def test_logout_without_a_target_ends_on_the_providers_page(provider, browser, app, flavour):
    flavour(provider, app)
    alice = sign_in(provider, browser, app)

    page = browser.open(logout_url(provider, app))

    assert "You have signed out." in page.text
    assert not provider.sessions(alice)


@FLAVOURS
def test_browser_is_not_sent_to_a_target_that_is_not_registered(provider, browser, app, flavour):
    flavour(provider, app)
    alice = sign_in(provider, browser, app)

    page = browser.open(
        logout_url(provider, app, client_id=app.msal.client_id, post_logout_redirect_uri=app.url + "/bye/")
    )

    assert "not registered" in page.text
    assert page.url.startswith(provider.browser_url)
    assert not provider.sessions(alice)


def test_entra_takes_redirect_uris_for_targets(provider, browser, app):
    uris = [app.redirect_uri, app.url + "/home"]
    at_entra(provider, app, redirect_uris=uris, post_logout_redirect_uris=[])
    sign_in(provider, browser, app)
    page = browser.open(
        logout_url(provider, app, client_id=app.msal.client_id, post_logout_redirect_uri=app.url + "/home")
    )
    assert page.text == "/home"


def test_entra_needs_no_client_id_for_a_registered_target(provider, browser, app):
    at_entra(provider, app)
    sign_in(provider, browser, app)
    assert browser.open(logout_url(provider, app, post_logout_redirect_uri=app.url + "/bye")).text == "/bye"


def test_generic_provider_needs_to_know_the_client(provider, browser, app):
    at_generic(provider, app)
    sign_in(provider, browser, app)
    by_hint = {"id_token_hint": app.result["id_token"], "post_logout_redirect_uri": app.url + "/bye"}
    assert (
        "not registered"
        in browser.open(logout_url(provider, app, post_logout_redirect_uri=app.url + "/bye")).text
    )
    assert browser.open(logout_url(provider, app, **by_hint)).text == "/bye"


def test_hint_finds_the_session_where_the_cookie_is_lost(provider, browser, app):
    at_generic(provider, app)
    alice = sign_in(provider, browser, app)
    browser.cookies.clear()

    browser.open(logout_url(provider, app, id_token_hint=app.result["id_token"]))

    assert not provider.sessions(alice)


def test_expired_hint_is_good_and_a_forged_one_is_none(provider, browser, app):
    provider.id_token_seconds = -1
    at_generic(provider, app)
    alice = sign_in(provider, browser, app)
    browser.cookies.clear()
    forged = jwt.encode(app.claims, "x" * 32)

    browser.open(logout_url(provider, app, id_token_hint=forged))
    assert provider.sessions(alice)
    browser.open(logout_url(provider, app, id_token_hint=app.result["id_token"]))
    assert not provider.sessions(alice)


def test_b2c_can_be_told_to_require_the_hint(provider, browser, app):
    at_b2c(provider, app)
    alice = sign_in(provider, browser, app)
    provider.b2c.id_token_hint_required = True
    target = {"post_logout_redirect_uri": app.url + "/bye"}

    page = browser.open(logout_url(provider, app, client_id=app.msal.client_id, **target))
    assert page.status == 400
    assert provider.sessions(alice)

    page = browser.open(logout_url(provider, app, id_token_hint=app.result["id_token"], **target))
    assert page.text == "/bye"


def test_entra_refuses_a_query_that_is_too_long(provider, browser, app):
    at_entra(provider, app)
    alice = sign_in(provider, browser, app)

    page = browser.open(logout_url(provider, app, id_token_hint="x" * 2048))

    assert "AADSTS90015" in page.text
    assert provider.sessions(alice)
    browser.submit(_form(logout_url(provider, app).partition("?")[0], id_token_hint="x" * 2048))
    assert not provider.sessions(alice)


def test_v1_document_has_an_end_session_endpoint_of_its_own(provider, browser, app):
    at_entra(provider, app)
    alice = sign_in(provider, browser, app)
    document = requests.get(f"{provider.entra.authority}/.well-known/openid-configuration", timeout=10).json()

    page = browser.open(f"{document['end_session_endpoint']}?post_logout_redirect_uri={app.url}/bye")

    assert page.text == "/bye"
    assert document["end_session_endpoint"].endswith("/oauth2/logout")
    assert not provider.sessions(alice)


@pytest.mark.parametrize(
    ("flavour", "names"), [(at_entra, {"sid"}), (at_b2c, {"iss", "sid"}), (at_generic, {"iss", "sid"})]
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_other_apps_are_told_by_iframe(provider, browser, app, other_app, flavour, names, method):
    for each in (app, other_app):
        flavour(provider, each, optional_claims=["sid"])
    getattr(provider, flavour.__name__.removeprefix("at_")).frontchannel_method = method
    sign_in(provider, browser, app, other_app)

    page = browser.open(
        logout_url(provider, app, client_id=app.msal.client_id, post_logout_redirect_uri=app.url + "/bye")
    )

    assert page.text == "/bye"
    assert not app.front
    (told,) = other_app.front
    assert set(told) == names
    assert told["sid"] == other_app.claims["sid"]
    assert told.get("iss", other_app.claims["iss"]) == other_app.claims["iss"]
    assert [visit.method for visit in browser.history if visit.framed] == [method]


def test_iframes_are_loaded_where_the_logout_ends_at_the_provider(provider, browser, app, other_app):
    for each in (app, other_app):
        at_entra(provider, each)
    sign_in(provider, browser, app, other_app)

    page = browser.open(logout_url(provider, app))

    assert [frame.status for frame in page.frames] == [200, 200]
    assert app.front
    assert other_app.front


def test_query_of_a_registered_uri_is_kept(provider, browser, app):
    at_entra(provider, app, frontchannel_logout_uri=app.url + "/front?app=1")
    sign_in(provider, browser, app)
    browser.open(logout_url(provider, app))
    assert set(app.front[0]) == {"app", "sid"}


def test_other_apps_are_posted_a_logout_token(provider, browser, app, other_app):
    for each in (app, other_app):
        at_generic(provider, each, frontchannel_logout_uri=None)
    alice = sign_in(provider, browser, app, other_app)

    page = browser.open(
        logout_url(provider, app, client_id=app.msal.client_id, post_logout_redirect_uri=app.url + "/bye")
    )

    assert page.text == "/bye"
    assert not app.back
    (posted,) = other_app.back
    header, claims = _verified(provider, posted["logout_token"], other_app.msal.client_id)
    assert header["typ"] == "logout+jwt"
    assert claims["sub"] == alice.sub
    assert claims["sid"] == other_app.claims["sid"]
    assert claims["events"] == {"http://schemas.openid.net/event/backchannel-logout": {}}
    assert claims["exp"] > claims["iat"]
    assert claims["jti"]
    assert "nonce" not in claims
    assert [call.status for call in provider.backchannel_calls] == [200]


def _verified(provider, token, audience):
    document = requests.get(
        f"{provider.generic.oidc_authority}/.well-known/openid-configuration", timeout=10
    ).json()
    keys = jwt.PyJWKSet.from_dict(requests.get(document["jwks_uri"], timeout=10).json())
    header = jwt.get_unverified_header(token)
    key = next(key for key in keys.keys if key.key_id == header["kid"])
    return header, jwt.decode(token, key, ["RS256"], audience=audience, issuer=document["issuer"])


def test_answer_to_a_logout_token_is_recorded(provider, browser, app):
    at_generic(provider, app)
    app.back_status = 400
    sign_in(provider, browser, app)
    browser.open(logout_url(provider, app))
    (call,) = provider.backchannel_calls
    assert (call.client.client_id, call.status) == (app.msal.client_id, 400)


def test_app_that_is_away_does_not_stop_the_logout(provider, browser, app):
    at_generic(provider, app, frontchannel_logout_uri=None, backchannel_logout_uri="http://127.0.0.1:9/back")
    alice = sign_in(provider, browser, app)
    assert "You have signed out." in browser.open(logout_url(provider, app)).text
    (call,) = provider.backchannel_calls
    assert call.status is None
    assert not provider.sessions(alice)


def test_administrator_ends_a_session_without_a_browser(provider, browser, app):
    at_generic(provider, app)
    alice = sign_in(provider, browser, app)

    provider.end_session(provider.sessions(alice)[0])

    assert not provider.sessions(alice)
    assert len(app.back) == 1


@pytest.mark.parametrize("revoke", [False, True])
def test_refresh_tokens_outlive_a_logout_unless_told_otherwise(provider, browser, app, revoke):
    at_generic(provider, app)
    provider.revoke_on_logout = revoke
    alice = sign_in(provider, browser, app)

    browser.open(logout_url(provider, app))

    assert bool(provider.alive_refresh_tokens(alice)) != revoke


def test_logout_of_one_browser_leaves_the_other_signed_in(provider, browser, app):
    at_generic(provider, app)
    with provider.browser() as another:
        alice = sign_in(provider, another, app)
    sign_in(provider, browser, app)
    assert len(provider.sessions(alice)) == 2
    browser.open(logout_url(provider, app))
    assert len(provider.sessions(alice)) == 1


def test_logout_of_nobody_is_no_error(provider, browser, app):
    at_generic(provider, app)
    assert "You have signed out." in browser.open(logout_url(provider, app)).text


def test_logout_token_is_as_wrong_as_told(provider):
    client = provider.generic.register("app", backchannel_logout_uri="http://127.0.0.1:9/back")
    token = provider.logout_token(
        client,
        sid="s",
        sub="u",
        omit=["exp"],
        header={"typ": None, "kid": 7},
        nonce=None,
        iat=True,
        events=[],
    )
    header, claims = (json.loads(jwt.utils.base64url_decode(part)) for part in token.split(".")[:2])
    assert "exp" not in claims
    assert claims["nonce"] is None
    assert (claims["iat"], claims["events"], claims["aud"]) == (True, [], "app")
    assert header == {"alg": "RS256", "kid": 7}


@pytest.mark.parametrize("algorithm", ["RS512", "PS256", "ES256", "HS256", "none"])
def test_logout_token_may_be_signed_with_any_algorithm(provider, algorithm):
    client = provider.generic.register()
    token = provider.logout_token(client, sid="s", algorithm=algorithm)
    assert jwt.get_unverified_header(token)["alg"] == algorithm
    kids = [key["kid"] for key in provider.keys.jwks["keys"]]
    assert jwt.get_unverified_header(token)["kid"] in kids


@pytest.mark.parametrize("flavour", ["entra", "b2c", "generic"])
def test_logout_token_comes_from_the_issuer_of_the_flavour(provider, flavour):
    of = getattr(provider, flavour)
    token = provider.logout_token(of.register(), sid="s")
    claims = jwt.decode(token, options={"verify_signature": False})
    assert claims["iss"] == of.issuer(of.home_realm, None)
    assert claims["iss"].startswith(provider.url)


def test_logout_token_can_be_posted_by_hand(provider, app):
    at_generic(provider, app)
    client = provider.records.clients["generic", app.msal.client_id]
    assert provider.post_logout_token(client, provider.logout_token(client, sub="u")).status == 200
    assert "logout_token" in app.back[0]
    with pytest.raises(ValueError, match="backchannel_logout_uri"):
        provider.post_logout_token(provider.generic.register(), "token")


@pytest.mark.parametrize("flavour", ["entra", "b2c"])
def test_microsoft_has_no_backchannel_logout(provider, flavour):
    with pytest.raises(ValueError, match="no back-channel logout"):
        getattr(provider, flavour).register(backchannel_logout_uri="https://app.example/back")
