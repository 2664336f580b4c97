"""Signed out of one app, signed out of the other: in a real browser, with third-party cookies and without."""

from __future__ import annotations

import pytest
import requests
from playwright.sync_api import expect

from msal_logout_middleware.testing import User
from tests.browser.sites import TOKENS, Site, town

pytestmark = [
    pytest.mark.browser,
    pytest.mark.filterwarnings("ignore:response_mode='form_post' is recommended:UserWarning"),
]


def sign_in(page, site: Site, user: User) -> None:
    """Go where one must be signed in; the provider asks who it is only if nobody is signed in there."""
    page.goto(f"{site.url}/api")
    asked, signed_in = page.get_by_role("button", name=user.username), page.get_by_text(user.oid)
    expect(asked.or_(signed_in)).to_be_visible()
    if asked.is_visible():
        asked.click()
    expect(signed_in).to_be_visible()


def cookies_of(context, site: Site) -> str:
    return "; ".join(f"{cookie['name']}={cookie['value']}" for cookie in context.cookies(site.url))


def who_is_greeted(site: Site, cookie_header: str) -> str:
    """Whom an app takes the sender of a raw request for."""
    with requests.Session() as http:
        http.trust_env = False
        answer = http.get(site.home, headers={"Cookie": cookie_header}, timeout=10)
    assert answer.status_code == 200
    return answer.text.partition("home of ")[2].partition("<")[0]


@pytest.mark.parametrize(
    ("left", "flavour"),
    [
        ("flask", "entra"),
        ("fastapi", "generic"),
        pytest.param("flask", "generic", marks=pytest.mark.matrix),
        pytest.param("fastapi", "entra", marks=pytest.mark.matrix),
    ],
)
def test_signing_out_of_one_app_signs_out_of_the_other(
    chrome, other_chrome, third_party_cookies, flavour, left, tmp_path
):
    with town(flavour, tmp_path) as sites:
        here, there = (sites.flask, sites.fastapi) if left == "flask" else (sites.fastapi, sites.flask)
        page = chrome.new_page()
        for site in (here, there):
            sign_in(page, site, sites.alice)
        caches = [(site, site.token_cache(cookies_of(chrome, site))) for site in (here, there)]
        for site, cache in caches:
            assert all(cache.entries[kind] for kind in ("Account", *TOKENS))
            assert site.found(cache.tokens) == cache.tokens
        live = chrome.new_page()
        live.goto(f"{sites.fastapi.url}/open")
        expect(live.locator("#state")).to_have_text("open for Alice")
        stolen = chrome.cookies([here.url, there.url])
        copy_of_here, copy_of_there = cookies_of(chrome, here), cookies_of(chrome, there)
        assert who_is_greeted(there, copy_of_there) == "Alice"

        page.goto(here.home)
        page.get_by_text("Sign out").click()
        page.wait_for_url(here.home)

        # The other app was told, with its cookie only where the browser lets cookies into iframes.
        lets_cookies_in = third_party_cookies == "allowed" and there is sites.fastapi
        if flavour == "entra":
            assert there.frames == [copy_of_there if lets_cookies_in else ""]
            assert (cookies_of(chrome, there) == "") == lets_cookies_in
        else:
            assert there.frames == []
        for site, cache in caches:
            assert cache.load() is None
            assert site.found(cache.tokens) == set()
        expect(live.locator("#state")).to_have_text("closed with 1008")

        page.goto(f"{there.url}/api")
        expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
        for site in (there, here):
            sign_in(page, site, sites.alice)
            assert who_is_greeted(site, cookies_of(chrome, site)) == "Alice"

        other_chrome.add_cookies(stolen)
        copied = other_chrome.new_page()
        for site, copy in ((here, copy_of_here), (there, copy_of_there)):
            assert who_is_greeted(site, copy) == "nobody"
            copied.goto(site.home)
            expect(copied.get_by_text("home of nobody")).to_be_visible()
