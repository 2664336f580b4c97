"""Fixtures for test suites: `provider`, and the `scripted_browser` that goes with it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .browser import Browser
    from .provider import EmbeddedProvider


@pytest.fixture(scope="session")
def embedded_provider() -> Iterator[EmbeddedProvider]:
    """Serve the one provider of a test run; ask for `provider`, which is it with nothing left of earlier tests."""
    try:
        from .provider import EmbeddedProvider  # noqa: PLC0415 - suites that do not use it do not pay for it
    except ImportError as error:
        pytest.fail(f"{error}; install msal-logout-middleware[testing]", pytrace=False)
    with EmbeddedProvider(browser_host="idp.localhost") as provider:
        yield provider


@pytest.fixture
def provider(embedded_provider: EmbeddedProvider) -> Iterator[EmbeddedProvider]:
    """Give a running provider with no users and no clients yet, whose certificate `requests` and MSAL trust."""
    embedded_provider.back()
    embedded_provider.reset()
    with embedded_provider.trusted():
        yield embedded_provider
    embedded_provider.back()


@pytest.fixture
def scripted_browser(provider: EmbeddedProvider) -> Iterator[Browser]:
    """Give a scripted browser that blocks third-party cookies."""
    with provider.browser() as browser:
        yield browser
