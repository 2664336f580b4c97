"""Apps on loopback for the tests of the embedded provider."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from msal_logout_middleware.testing import Browser

from .apps import App, serving


@pytest.fixture
def browser(scripted_browser: Browser) -> Browser:
    return scripted_browser


@pytest.fixture
def app() -> Iterator[App]:
    with serving() as app:
        yield app


@pytest.fixture
def other_app() -> Iterator[App]:
    with serving() as app:
        yield app
