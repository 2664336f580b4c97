"""Chromium with third-party cookies blocked, and with them allowed; each is first seen to be what it says."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Playwright, sync_playwright

from examples.demo.serving import listening, port_of, serving_wsgi
from tests.browser.sites import FASTAPI_HOST, FLASK_HOST, PROVIDER_HOST, Control

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--no-first-run",
    "--disable-component-update",
    "--disable-sync",
]
# Chromium's `profile.cookie_controls_mode`, components/content_settings/core/browser/cookie_settings.h
MODES = {"allowed": 0, "blocked": 1}


@pytest.fixture(scope="module", params=MODES)
def third_party_cookies(request: pytest.FixtureRequest) -> str:
    """Whether the browser lets cookies into iframes of other sites."""
    return request.param


@pytest.fixture(scope="module")
def playwright(chromium: str) -> Iterator[Playwright]:
    with sync_playwright() as playwright:
        yield playwright


@pytest.fixture(scope="module")
def profile(
    playwright: Playwright, chromium: str, third_party_cookies: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BrowserContext]:
    folder = tmp_path_factory.mktemp("profile")
    (folder / "Default").mkdir()
    settings = {"profile": {"cookie_controls_mode": MODES[third_party_cookies]}}
    (folder / "Default" / "Preferences").write_text(json.dumps(settings))
    context = playwright.chromium.launch_persistent_context(folder, executable_path=chromium, args=ARGUMENTS)
    try:
        see_that_it_is_what_it_says(context, third_party_cookies)
        yield context
    finally:
        context.close()


@pytest.fixture
def chrome(profile: BrowserContext) -> Iterator[BrowserContext]:
    """The user's browser, with no cookies yet."""
    yield profile
    for page in profile.pages[1:]:  # without any, it would end
        page.close()
    profile.clear_cookies()


@pytest.fixture(scope="module")
def other_browser(playwright: Playwright, chromium: str) -> Iterator[Browser]:
    browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
    yield browser
    browser.close()


@pytest.fixture
def other_chrome(other_browser: Browser) -> Iterator[BrowserContext]:
    """Somebody else's browser."""
    with other_browser.new_context() as context:
        yield context


def see_that_it_is_what_it_says(context: BrowserContext, third_party_cookies: str) -> None:
    """Set cookies at two sites, and see what of them reaches their iframes in a page of a third."""
    control, page = Control(), context.new_page()
    socket = listening()
    port = port_of(socket)
    with serving_wsgi(control, socket):
        for host in (FLASK_HOST, FASTAPI_HOST):
            page.goto(f"http://{host}:{port}/set")
            page.goto(f"http://{PROVIDER_HOST}:{port}/frame?url=http://{host}:{port}/framed")
        page.goto(f"http://{FLASK_HOST}:{port}/frame?url=http://{FASTAPI_HOST}:{port}/framed")
    page.close()
    context.clear_cookies()
    borne = "none=1" if third_party_cookies == "allowed" else ""
    assert control.framed == [("cross-site", borne)] * 3
