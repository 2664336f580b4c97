"""Real MSAL signs in at the three flavours."""

from __future__ import annotations

import pytest
import requests


def _entra(provider, app, **registration):
    client = provider.entra.register(**{**app.uris, **registration})
    return app.use(client, provider.ca_file, authority=provider.entra.authority)


def _b2c(provider, app, **registration):
    client = provider.b2c.register(**{**app.uris, **registration})
    return app.use(client, provider.ca_file, authority=provider.b2c.authority("B2C_1_signin"))


def _generic(provider, app, **registration):
    client = provider.generic.register(**{**app.uris, **registration})
    return app.use(client, provider.ca_file, oidc_authority=provider.generic.oidc_authority)


FLAVOURS = pytest.mark.parametrize("flavour", [_entra, _b2c, _generic])


@FLAVOURS
@pytest.mark.parametrize("mode", ["query", "form_post"])
@pytest.mark.filterwarnings("ignore:response_mode='form_post' is recommended:UserWarning")
def test_msal_signs_in_and_the_token_opens_the_api(provider, browser, app, flavour, mode):
    alice = provider.add_user("alice@contoso.example")
    flavour(provider, app).login = {"response_mode": mode}

    page = browser.sign_in(app.url + "/login", alice)

    assert page.text == "signed in"
    token = app.result["access_token"]
    me = requests.get(
        provider.graph_url, headers={"Authorization": f"Bearer {token}"}, verify=provider.ca_file
    )
    assert me.json()["userPrincipalName"] == alice.username
    assert app.account["home_account_id"].split("-b2c")[0] in (
        alice.home_account_id,
        alice.oid,
        alice.sub,
    )
