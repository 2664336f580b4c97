"""The servers of the stores that processes race over."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.stores.conftest import mariadb as mariadb
from tests.stores.conftest import postgresql as postgresql
from tests.stores.conftest import redis_server as redis_server
from tests.stores.conftest import server as server


@pytest.fixture
def url(store: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where the store of that name is."""
    if store == "sqlite":
        return str(tmp_path / "logout.db")
    found = request.getfixturevalue({"valkey": "server", "redis": "redis_server"}.get(store, store))
    return found.url if store in {"valkey", "redis"} else found.url()
