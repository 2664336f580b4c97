"""A server for the tests whose sessions are kept on one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ..stores.servers import Server, serving


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    with serving() as server:
        yield server
