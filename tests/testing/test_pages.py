"""The provider's pages in a real browser, as a person meets them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .sign_ins import at_entra, at_generic
from .test_logout import logout_url

pytestmark = pytest.mark.browser
playwright = pytest.importorskip("playwright.sync_api")


@pytest.fixture(scope="module")
def real_browser(chromium: str) -> Iterator[object]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(params=[True, False], ids=["scripts", "no scripts"])
def page(request, real_browser):
    context = real_browser.new_context(java_script_enabled=request.param)
    context.set_default_timeout(15_000)
    yield context.new_page()
    context.close()


def sign_in(page, app):
    page.goto(app.url + "/login")
    page.get_by_role("button", name="Alice").click()
    if page.get_by_role("button", name="Accept").count():
        page.get_by_role("button", name="Accept").click()
    if page.get_by_role("button", name="Continue").count():
        page.get_by_role("button", name="Continue").click()
    page.wait_for_url(app.redirect_uri)


def test_person_chooses_consents_and_signs_out(provider, page, app, other_app):
    provider.add_user("alice@contoso.example")
    at_entra(provider, app, consent=True)
    at_entra(provider, other_app)
    sign_in(page, app)
    page.goto(other_app.url + "/login")
    if page.get_by_role("button", name="Continue").count():
        page.get_by_role("button", name="Continue").click()
    page.wait_for_url(other_app.redirect_uri)
    assert other_app.claims["preferred_username"] == "alice@contoso.example"
    target = app.url + "/bye"

    page.goto(
        logout_url(provider, app, client_id=app.msal.client_id, post_logout_redirect_uri=target, state="s")
    )
    page.wait_for_url(target + "?state=s")

    assert other_app.front == [{"sid": other_app.response["session_state"]}]
    page.goto(app.url + "/login")
    assert page.get_by_role("button", name="Alice").count() == 1


def test_person_signs_out_without_a_target(provider, page, app):
    provider.add_user("alice@contoso.example")
    at_generic(provider, app)
    sign_in(page, app)

    page.goto(logout_url(provider, app))

    assert page.get_by_role("heading").inner_text() == "Signed out"
    page.wait_for_load_state("load")
    assert app.front[0]["sid"] == app.claims["sid"]


def test_logout_may_be_posted_by_another_site(provider, page, app):
    alice = provider.add_user("alice@contoso.example")
    at_entra(provider, app)
    sign_in(page, app)
    url = logout_url(provider, app).partition("?")[0]

    page.set_content(f'<form method="post" action="{url}"><button>Sign out</button></form>')
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url(url)

    assert not provider.sessions(alice)
