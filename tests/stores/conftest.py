"""The servers that the tests of this folder share; each test has a prefix of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .servers import Server, clustered, serving


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture(scope="session")
def cluster() -> Iterator[Server]:
    with clustered() as server:
        yield server
