"""The servers that the tests of this folder share; each test has a prefix of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .databases import MariaDB, PostgreSQL, find_mariadb
from .servers import Server, clustered, redis_binary, serving


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture(scope="session")
def cluster() -> Iterator[Server]:
    with clustered() as (server,):
        yield server


@pytest.fixture(scope="session")
def primaries() -> Iterator[list[Server]]:
    """Those of a cluster of three."""
    with clustered(3) as servers:
        yield servers


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Server]:
    """Redis itself."""
    with serving(program=redis_binary()) as server:
        yield server


@pytest.fixture(scope="session")
def redis_primaries() -> Iterator[list[Server]]:
    """Those of a cluster of three of Redis itself."""
    with clustered(3, program=redis_binary()) as servers:
        yield servers


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    server = PostgreSQL()
    server.start()
    yield server
    server.remove()


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDB]:
    if find_mariadb() is None:
        pytest.skip("no MariaDB: install mariadb-server")
    server = MariaDB()
    server.start()
    yield server
    server.remove()
