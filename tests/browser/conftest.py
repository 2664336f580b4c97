"""Chromium with third-party cookies blocked, and with them allowed; each is first seen to be what it says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

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


@pytest.fixture
def playwright(chromium: str) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        yield playwright


@pytest.fixture
def chrome(playwright: Any, chromium: str, third_party_cookies: str, tmp_path: Path) -> Iterator[Any]:
    """A profile of a person who blocks or allows third-party cookies, by the test's `third_party_cookies`."""
    profile = tmp_path / "profile"
    (profile / "Default").mkdir(parents=True)
    settings = {"profile": {"cookie_controls_mode": MODES[third_party_cookies]}}
    (profile / "Default" / "Preferences").write_text(json.dumps(settings))
    context = playwright.chromium.launch_persistent_context(
        profile, executable_path=chromium, args=ARGUMENTS, headless=True
    )
    try:
        see_that_it_is_what_it_says(context, third_party_cookies)
        yield context
    finally:
        context.close()


@pytest.fixture
def other_chrome(playwright: Any, chromium: str) -> Iterator[Any]:
    """Somebody else's browser."""
    browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
    yield browser.new_context()
    browser.close()


def see_that_it_is_what_it_says(context: Any, third_party_cookies: str) -> None:
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
