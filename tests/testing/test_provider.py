"""The provider as a part of other people's test suites: its life, its faults, its records."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import msal
import pytest
import requests

from msal_logout_middleware.testing import EmbeddedProvider, ProviderSession

from .apps import SCOPES
from .sign_ins import at_entra, at_generic


def discover(provider, timeout=10):
    url = f"{provider.generic.oidc_authority}/.well-known/openid-configuration"
    return requests.get(url, verify=provider.ca_file, timeout=timeout)


def test_browser_uses_https_as_well_unless_told_otherwise(app):
    with EmbeddedProvider() as provider, provider.trusted(), provider.browser() as browser:
        at_entra(provider, app)
        page = browser.sign_in(app.url + "/login", provider.add_user("alice@contoso.example"))
        assert page.text == "signed in"
        assert provider.requests_to("authorize")[0].url.startswith(provider.url)


def test_two_providers_serve_at_once():
    with EmbeddedProvider() as one, EmbeddedProvider() as two:
        assert discover(one).json()["issuer"] != discover(two).json()["issuer"]


def test_trust_ends_with_its_block(monkeypatch):
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    with EmbeddedProvider() as provider:
        with provider.trusted():
            assert os.environ["REQUESTS_CA_BUNDLE"] == provider.ca_file
        assert "REQUESTS_CA_BUNDLE" not in os.environ
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", "before")
        with provider.trusted():
            pass
        assert os.environ["REQUESTS_CA_BUNDLE"] == "before"


def test_nothing_is_left_when_it_is_closed():
    with EmbeddedProvider(browser_host="localhost") as provider:
        assert discover(provider).ok
    with pytest.raises(OSError, match=r"CA|certificate"):
        discover(provider)
    with pytest.raises(requests.ConnectionError):
        requests.get(provider.browser_url, timeout=10)


def test_reset_forgets_everything_but_where_it_is(provider, browser, app):
    at_generic(provider, app)
    browser.sign_in(app.url + "/login", provider.add_user("alice@contoso.example"))
    url = provider.url
    provider.fail(503)
    provider.access_token_seconds = 1

    provider.reset()

    assert (provider.requests, provider.sessions(), provider.url) == ([], [], url)
    assert not provider.alive_refresh_tokens()
    assert provider.access_token_seconds == 3600
    assert discover(provider).ok


def test_every_request_is_recorded(provider, browser, app):
    at_entra(provider, app)
    browser.sign_in(app.url + "/login", provider.add_user("alice@contoso.example"))
    requests.get(provider.url + "/nowhere?a=1&b=%C3%A9", headers={"X-Mine": "yes"}, timeout=10)

    assert [each.endpoint for each in provider.requests] == [
        "discovery",
        "authorize",
        "signin",
        "token",
        "other",
    ]
    _, authorize, signin, token, other = provider.requests
    assert authorize.query["client_id"] == app.msal.client_id
    assert signin.form == {"user": "alice@contoso.example"}
    assert token.form["code"] == app.response["code"]
    assert (other.method, other.path, other.query) == ("GET", "/nowhere", {"a": "1", "b": "é"})
    assert other.headers["x-mine"] == "yes"


def test_records_show_no_secrets_in_their_repr(provider, browser, app):
    at_entra(provider, app)
    browser.sign_in(app.url + "/login", provider.add_user("alice@contoso.example"))
    assert app.response["code"] not in repr(provider.requests_to("token"))


def test_endpoint_that_fails_answers_with_the_status(provider, app):
    provider.fail(503, "token")
    at_generic(provider, app)
    with pytest.raises(msal.exceptions.MsalServiceError, match="503"):
        app.msal.acquire_token_for_client(["x/.default"])
    provider.back()
    assert discover(provider).ok


def test_fault_at_an_endpoint_that_does_not_exist_is_told(provider):
    with pytest.raises(ValueError, match="tokens"):
        provider.slow(1, "tokens")


def test_slow_provider_answers_in_the_end(provider):
    provider.slow(0.01)
    assert discover(provider).ok


def test_slow_provider_outlasts_the_patience_of_its_caller(provider):
    provider.slow(600, "discovery")
    with pytest.raises(requests.Timeout):
        discover(provider, timeout=0.05)


def test_held_requests_go_on_when_released(provider, browser, app):
    at_entra(provider, app)
    browser.sign_in(app.url + "/login", provider.add_user("alice@contoso.example"))
    results = []

    def refresh():
        results.append(app.msal.acquire_token_silent(SCOPES, app.account, force_refresh=True))

    threads = [threading.Thread(target=refresh) for _ in range(3)]
    with provider.hold("token") as hold:
        for thread in threads:
            thread.start()
        hold.wait_for(3)
        assert (hold.held, results) == (3, [])
    for thread in threads:
        thread.join()
    assert all("access_token" in result for result in results)
    assert len(results) == 3
    assert discover(provider).ok


def test_hold_that_nobody_comes_to_says_so(provider):
    with provider.hold() as hold, pytest.raises(TimeoutError, match="0 requests"):
        hold.wait_for(1, timeout_seconds=0.01)


def test_provider_that_is_back_remembers(provider, browser, app):
    at_generic(provider, app)
    alice = provider.add_user("alice@contoso.example")
    browser.sign_in(app.url + "/login", alice)
    url = provider.url

    provider.gone()
    for side in (provider.url, provider.browser_url.replace("idp.localhost", "127.0.0.1")):
        with pytest.raises(requests.ConnectionError):
            requests.get(side, timeout=10)
    provider.back()

    assert provider.url == url
    assert len(provider.sessions(alice)) == 1
    assert browser.open(app.url + "/login").text == "signed in"
    assert app.msal.acquire_token_silent(SCOPES, app.account, force_refresh=True)


def test_requests_under_way_are_cut_when_it_goes(provider):
    hold = provider.hold("discovery")
    errors = []

    def call():
        try:
            discover(provider)
        except requests.ConnectionError as error:
            errors.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    hold.wait_for(1)
    provider.gone()
    thread.join()
    provider.back()

    assert len(errors) == 1
    assert discover(provider).ok


def test_going_and_coming_twice_is_no_error(provider):
    provider.gone()
    provider.gone()
    with pytest.raises(RuntimeError, match="stopped"):
        provider.end_session(_session(provider))
    provider.back()
    provider.back()
    assert discover(provider).ok


def _session(provider):
    return ProviderSession("generic", provider.add_user("alice@contoso.example"), 0)


def test_it_runs_stand_alone():
    command = [sys.executable, "-m", "msal_logout_middleware.testing"]
    arguments = ["--redirect-uri", "http://localhost:5000/redirect", "--client-id", "mine"]
    with subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, text=True) as process:
        try:
            said = dict(re.findall(r"(\S+)=(\S+)", "".join(process.stdout.readline() for _ in range(7))))
            document = requests.get(
                f"{said['oidc_authority']}/.well-known/openid-configuration",
                verify=said["REQUESTS_CA_BUNDLE"],
                timeout=10,
            )
            assert document.json()["issuer"] == said["oidc_authority"]
        finally:
            process.send_signal(signal.SIGINT)
    assert process.returncode == 0
    assert not Path(said["REQUESTS_CA_BUNDLE"]).exists()
