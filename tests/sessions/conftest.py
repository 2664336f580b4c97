"""A server for the tests whose sessions are kept on one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from msal_logout_middleware.testing.session_contract import SessionContract

from ..stores.servers import Server, serving


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


_TABLES = {"forge", "header", "session_id", "value"}  # of the contract: what may stand in a cookie


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave four rows of five of the contract's tables to `make matrix`: others for each kind of session."""
    for item in items:
        kind = getattr(item, "cls", None)
        if not (isinstance(kind, type) and issubclass(kind, SessionContract)):
            continue
        indices = dict(item.callspec.indices) if hasattr(item, "callspec") else {}
        if _TABLES & indices.keys() and sum(indices.values()) % 5:
            item.add_marker(pytest.mark.matrix)
