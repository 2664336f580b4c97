"""What real MSAL gets at the token endpoint, and keeps."""

from __future__ import annotations

import json
import uuid
from urllib.parse import urlencode

import jwt
import msal
import pytest
import requests

from .apps import SCOPES
from .sign_ins import FLAVOURS, at_b2c, at_entra, at_generic


def refresh(app, **kwargs):
    return app.msal.acquire_token_silent_with_error(SCOPES, app.account, force_refresh=True, **kwargs)


def cached(app, kind):
    return list(json.loads(app.msal.token_cache.serialize()).get(kind, {}).values())


@FLAVOURS
def test_silent_call_is_answered_from_the_cache(provider, browser, app, flavour):
    flavour(provider, app)
    browser.sign_in(app.url + "/login", provider.add_user("alice@contoso.example"))

    result = app.msal.acquire_token_silent(SCOPES, app.account)

    assert result["access_token"] == app.result["access_token"]
    assert len(provider.requests_to("token")) == 1


@FLAVOURS
def test_refresh_brings_new_tokens_for_the_same_user_and_session(provider, browser, app, flavour):
    flavour(provider, app, optional_claims=["sid"])
    browser.sign_in(app.url + "/login", provider.add_user("alice@contoso.example"))

    refreshed = refresh(app)

    assert refreshed["access_token"] != app.result["access_token"]
    assert refreshed["id_token_claims"]["sub"] == app.claims["sub"]
    assert refreshed["id_token_claims"]["sid"] == app.claims["sid"]
    assert "nonce" not in refreshed["id_token_claims"]


def test_short_lifetime_makes_each_silent_call_a_refresh(provider, browser, app):
    at_entra(provider, app)
    provider.access_token_seconds = 300
    browser.sign_in(app.url + "/login", provider.add_user("alice@contoso.example"))

    app.msal.acquire_token_silent(SCOPES, app.account)

    assert provider.requests_to("token")[-1].form["grant_type"] == "refresh_token"


@pytest.mark.parametrize(("mode", "alive"), [("added", 2), ("replaced", 1), ("kept", 1)])
def test_refresh_leaves_as_many_refresh_tokens_as_the_provider_is_told(provider, browser, app, mode, alive):
    at_entra(provider, app)
    alice = provider.add_user("alice@contoso.example")
    provider.refresh_tokens = mode
    browser.sign_in(app.url + "/login", alice)
    first = provider.alive_refresh_tokens(alice)

    assert "access_token" in refresh(app)

    assert len(provider.alive_refresh_tokens(alice)) == alive
    assert (first <= provider.alive_refresh_tokens(alice)) == (mode != "replaced")
    (kept,) = cached(app, "RefreshToken")
    assert kept["secret"] in provider.alive_refresh_tokens(alice)


def test_refresh_token_that_was_replaced_is_refused(provider, browser, app):
    at_entra(provider, app)
    provider.refresh_tokens = "replaced"
    browser.sign_in(app.url + "/login", provider.add_user("alice@contoso.example"))
    stale = app.msal.token_cache.serialize()
    refresh(app)
    app.msal.token_cache.deserialize(stale)

    assert refresh(app)["error"] == "invalid_grant"


def test_refresh_token_that_was_revoked_is_refused(provider, browser, app):
    at_generic(provider, app)
    alice = provider.add_user("alice@contoso.example")
    browser.sign_in(app.url + "/login", alice)

    provider.revoke_refresh_tokens(alice)

    assert refresh(app)["error"] == "invalid_grant"
    assert not provider.alive_refresh_tokens()


def test_refresh_tokens_are_told_apart_by_user(provider, app, other_app):
    alice, bob = provider.add_user("alice@contoso.example"), provider.add_user("bob@contoso.example")
    for each, user in ((app, alice), (other_app, bob)):
        at_entra(provider, each)
        with provider.browser() as browser:
            browser.sign_in(each.url + "/login", user)

    assert len(provider.alive_refresh_tokens()) == 2
    assert len(provider.alive_refresh_tokens(alice)) == 1
    assert not provider.alive_refresh_tokens(alice) & provider.alive_refresh_tokens(bob)


def test_family_client_may_use_the_refresh_token_of_another(provider, browser, app, other_app):
    at_entra(provider, app, family=True)
    browser.sign_in(app.url + "/login", provider.add_user("alice@contoso.example"))
    cache, account = app.msal.token_cache, app.account
    at_entra(provider, other_app, family=True)
    other_app.msal.token_cache = cache

    assert cached(app, "RefreshToken")[0]["family_id"] == "1"
    assert "access_token" in other_app.msal.acquire_token_silent(SCOPES, account)


def test_guest_has_another_object_id_than_at_home(provider, browser, app):
    at_entra(provider, app)
    gail = provider.add_guest("gail@fabrikam.example")

    browser.sign_in(app.url + "/login", gail)

    assert app.claims["tid"] == provider.entra.tenant_id != gail.tid
    assert app.claims["oid"] == gail.oid_in(provider.entra.tenant_id) != gail.oid
    assert app.account["home_account_id"] == gail.home_account_id


def test_account_gets_tokens_of_a_tenant_that_it_is_a_guest_of(provider, browser, app):
    elsewhere = str(uuid.uuid4())
    at_entra(provider, app)
    browser.sign_in(app.url + "/login", provider.add_user("alice@contoso.example", guest_of=[elsewhere]))

    app.go_to(provider.entra.authority_of(elsewhere))

    assert refresh(app)["id_token_claims"]["tid"] == elsewhere
    assert {entry["realm"] for entry in cached(app, "IdToken")} == {provider.entra.tenant_id, elsewhere}


def test_account_gets_no_tokens_of_a_tenant_where_it_is_a_stranger(provider, browser, app):
    at_entra(provider, app)
    stranger = provider.add_user("eve@fabrikam.example", tenant=str(uuid.uuid4()))
    browser.sign_in(app.url + "/login", provider.add_user("alice@contoso.example"))

    app.go_to(provider.entra.authority_of(stranger.tid))

    assert refresh(app)["error"] == "invalid_grant"


def test_common_issues_in_the_name_of_the_users_own_tenant(provider, browser, app):
    at_entra(provider, app, authority=provider.entra.common_authority)
    gail = provider.add_guest("gail@fabrikam.example")

    browser.sign_in(app.url + "/login", gail)

    assert app.claims["iss"] == f"{provider.url}/{gail.tid}/v2.0"
    assert {entry["realm"] for entry in cached(app, "IdToken")} == {"common"}
    assert app.account["home_account_id"] == gail.home_account_id


def test_common_names_its_issuer_by_a_template(provider):
    document = requests.get(
        f"{provider.entra.common_authority}/v2.0/.well-known/openid-configuration", timeout=10
    ).json()
    assert document["issuer"] == f"{provider.url}/{{tenantid}}/v2.0"


def test_unknown_tenant_is_no_authority(provider, app):
    with pytest.raises(ValueError, match="tenant"):
        at_entra(provider, app, authority=provider.entra.authority_of("nobody.example"))


def test_two_user_flows_are_two_accounts_of_one_issuer(provider, browser, app):
    alice = provider.add_user("alice@contoso.example")
    accounts, issuers = set(), set()
    for policy in ("B2C_1_signin", "B2C_1_profile"):
        at_b2c(provider, app, policy)
        browser.sign_in(app.url + "/login", alice)
        accounts.add(app.account["home_account_id"])
        issuers.add(app.claims["iss"])
        assert app.claims["tfp"] == policy.lower()
        assert app.account["home_account_id"] == provider.b2c.home_account_id(alice, policy)
    assert len(accounts) == 2
    assert len(issuers) == 1


def test_name_that_msal_takes_for_no_user_flow_is_refused(provider):
    with pytest.raises(ValueError, match="B2C_1_"):
        provider.b2c.authority("signin")


def test_generic_account_is_the_bare_sub(provider, browser, app):
    at_generic(provider, app)
    alice = provider.add_user("alice@contoso.example")
    browser.sign_in(app.url + "/login", alice)

    assert app.account["home_account_id"] == alice.sub
    assert "client_info" not in app.response
    assert "oid" not in app.claims


@pytest.mark.parametrize("claim", ["sid", "login_hint"])
def test_entra_gives_optional_claims_only_where_registered(provider, app, other_app, claim):
    alice = provider.add_user("alice@contoso.example")
    for each, claims in ((app, []), (other_app, [claim])):
        at_entra(provider, each, optional_claims=claims)
        with provider.browser() as browser:
            browser.sign_in(each.url + "/login", alice)

    assert claim not in app.claims
    assert claim in other_app.claims
    assert other_app.claims.get("login_hint", provider.login_hint(alice)) == provider.login_hint(alice)


def test_session_state_is_the_sid_at_entra_only(provider, app, other_app):
    alice = provider.add_user("alice@contoso.example")
    for each, flavour in ((app, at_entra), (other_app, at_generic)):
        flavour(provider, each, optional_claims=["sid"])
        with provider.browser() as browser:
            browser.sign_in(each.url + "/login", alice)

    assert app.response["session_state"] == app.claims["sid"]
    assert other_app.response["session_state"] != other_app.claims["sid"]


def test_middle_tier_gets_a_token_on_behalf_of_the_user(provider, browser, app, other_app):
    at_entra(provider, other_app)
    scope = f"api://{other_app.msal.client_id}/orders.read"
    at_entra(provider, app).login = {"scopes": [scope]}
    alice = provider.add_user("alice@contoso.example")
    browser.sign_in(app.url + "/login", alice)

    result = other_app.msal.acquire_token_on_behalf_of(app.result["access_token"], SCOPES)

    assert result["id_token_claims"]["oid"] == alice.oid
    assert other_app.account["home_account_id"] == alice.home_account_id
    assert len(provider.alive_refresh_tokens(alice)) == 2


def test_token_for_somebody_else_is_no_assertion(provider, browser, app, other_app):
    at_entra(provider, other_app)
    at_entra(provider, app)
    browser.sign_in(app.url + "/login", provider.add_user("alice@contoso.example"))

    result = other_app.msal.acquire_token_on_behalf_of(app.result["access_token"], SCOPES)

    assert result["error"] == "invalid_grant"


@FLAVOURS
def test_app_gets_a_token_of_its_own(provider, app, flavour):
    flavour(provider, app)

    result = app.msal.acquire_token_for_client(["https://graph.microsoft.com/.default"])

    assert "id_token" not in result
    assert not app.msal.get_accounts()
    assert requests.get(provider.graph_url, headers=bearer(result), timeout=10).status_code == 403


def test_same_scopes_with_other_claims_are_cached_under_an_extended_key(provider, browser, app):
    at_entra(provider, app)
    browser.sign_in(app.url + "/login", provider.add_user("alice@contoso.example"))

    app.msal.acquire_token_silent(
        SCOPES, app.account, forwarded_client_claims='{"access_token": {"nbf": {"essential": true}}}'
    )

    assert sum("ext_cache_key" in entry for entry in cached(app, "AccessToken")) == 1


def test_wrong_secret_is_refused(provider, app):
    client = provider.entra.register(**app.uris)
    wrong = msal.ConfidentialClientApplication(
        client.client_id,
        client_credential="wrong",
        authority=provider.entra.authority,
        instance_discovery=False,
    )
    result = wrong.acquire_token_for_client(["https://graph.microsoft.com/.default"])
    assert result["error"] == "invalid_client"


def test_unknown_client_is_refused(provider):
    unknown = msal.ConfidentialClientApplication(
        "unknown", client_credential="secret", authority=provider.entra.authority, instance_discovery=False
    )
    result = unknown.acquire_token_for_client(["https://graph.microsoft.com/.default"])
    assert result["error"] == "unauthorized_client"


def test_client_may_authenticate_by_a_header(provider):
    client = provider.generic.register("a client", client_secret="a:secret")
    response = requests.post(
        f"{provider.generic.oidc_authority}/token",
        {"grant_type": "client_credentials", "scope": "x"},
        auth=("a%20client", "a%3Asecret"),
        timeout=10,
    )
    assert response.json()["token_type"] == "Bearer"
    assert client.client_secret == "a:secret"


def test_unknown_grant_type_is_refused(provider):
    client = provider.generic.register(client_secret=None)
    for grant_type in ("password", "client_credentials"):
        response = requests.post(
            f"{provider.generic.oidc_authority}/token",
            {"grant_type": grant_type, "client_id": client.client_id},
            timeout=10,
        )
        assert response.json()["error"] == "unsupported_grant_type"


def test_code_is_good_for_one_time_one_client_one_uri_and_one_verifier(provider, browser, app, other_app):
    alice = provider.add_user("alice@contoso.example")
    client, other = (provider.generic.register(client_secret=None, **each.uris) for each in (app, other_app))
    app.use(client, provider.ca_file, oidc_authority=provider.generic.oidc_authority)
    for wrong in (
        {"client_id": other.client_id},
        {"redirect_uri": "https://evil.example"},
        {"code_verifier": "x"},
    ):
        flow = app.msal.initiate_auth_code_flow(SCOPES, app.redirect_uri, response_mode="form_post")
        app.flows[flow["state"]] = {**flow}
        right = {
            "grant_type": "authorization_code",
            "client_id": client.client_id,
            "redirect_uri": app.redirect_uri,
            "code_verifier": flow["code_verifier"],
        }
        provider.hold("token")
        app.msal = _Recorder()
        browser.sign_in(flow["auth_uri"], alice)
        provider.back()
        app.use(client, provider.ca_file, oidc_authority=provider.generic.oidc_authority)
        url = f"{provider.generic.oidc_authority}/token"
        answer = requests.post(url, {**right, "code": app.response["code"], **wrong}, timeout=10)
        assert answer.json()["error"] == "invalid_grant"
        again = requests.post(url, {**right, "code": app.response["code"]}, timeout=10)
        assert again.json()["error"] == "invalid_grant"


def test_confidential_client_needs_no_pkce_and_gets_what_it_asked_for_only(provider, browser, app):
    client = provider.generic.register(**app.uris)
    app.msal, app.flows["s"] = _Recorder(), {}
    query = {"client_id": client.client_id, "redirect_uri": app.redirect_uri, "state": "s", "scope": "email"}
    authority = provider.generic.oidc_authority.replace(provider.url, provider.browser_url)
    browser.sign_in(
        f"{authority}/authorize?response_type=code&{urlencode(query)}",
        provider.add_user("alice@contoso.example"),
    )

    answer = requests.post(
        f"{provider.generic.oidc_authority}/token",
        {
            "grant_type": "authorization_code",
            "code": app.response["code"],
            "redirect_uri": app.redirect_uri,
            "client_id": client.client_id,
            "client_secret": client.client_secret,
        },
        timeout=10,
    ).json()

    assert "access_token" in answer
    assert not {"id_token", "refresh_token"} & set(answer)


class _Recorder:
    """Stands where MSAL does, to keep the code unused."""

    def acquire_token_by_auth_code_flow(self, flow, response):
        return {}


def test_api_refuses_what_is_no_access_token(provider, browser, app):
    at_entra(provider, app)
    browser.sign_in(app.url + "/login", provider.add_user("alice@contoso.example"))
    forged = jwt.encode({"exp": 2**40}, "x" * 32)
    for token in (app.result["id_token"], "rubbish", forged):
        assert (
            requests.get(provider.graph_url, headers=bearer({"access_token": token}), timeout=10).status_code
            == 401
        )
    assert requests.get(provider.graph_url, timeout=10).status_code == 401


def test_api_refuses_a_token_whose_time_is_over(provider, browser, app):
    at_entra(provider, app)
    browser.sign_in(app.url + "/login", provider.add_user("alice@contoso.example"))
    assert requests.get(provider.graph_url, headers=bearer(app.result), timeout=10).status_code == 200
    provider.clock_offset_seconds = 3601
    assert requests.get(provider.graph_url, headers=bearer(app.result), timeout=10).status_code == 401


def test_published_keys_verify_id_tokens_across_a_rotation(provider, browser, app):
    at_entra(provider, app)
    document = requests.get(
        f"{provider.entra.authority}/v2.0/.well-known/openid-configuration", timeout=10
    ).json()
    alice = provider.add_user("alice@contoso.example")
    browser.sign_in(app.url + "/login", alice)
    before = app.result["id_token"]
    provider.rotate_keys()
    browser.sign_in(app.url + "/login", alice)
    after = app.result["id_token"]

    def verifies(token):
        keys = jwt.PyJWKSet.from_dict(requests.get(document["jwks_uri"], timeout=10).json())
        kid = jwt.get_unverified_header(token)["kid"]
        matching = [key for key in keys.keys if key.key_id == kid]
        return bool(matching) and bool(
            jwt.decode(token, matching[0], ["RS256"], audience=app.msal.client_id, issuer=document["issuer"])
        )

    assert verifies(before)
    assert verifies(after)
    assert jwt.get_unverified_header(before)["kid"] != jwt.get_unverified_header(after)["kid"]
    provider.rotate_keys(keep=False)
    assert not verifies(after)


def test_clock_of_the_provider_may_be_wrong(provider, browser, app):
    at_generic(provider, app)
    alice = provider.add_user("alice@contoso.example")
    provider.clock_offset_seconds = -30
    browser.sign_in(app.url + "/login", alice)
    behind = app.claims["iat"]
    provider.clock_offset_seconds = 30
    browser.sign_in(app.url + "/login", alice)
    assert app.claims["iat"] - behind >= 60


def bearer(result):
    return {"Authorization": f"Bearer {result['access_token']}"}
