"""A database server of each kind for the tests of one pytest process, started when the first of them needs it."""

from collections.abc import Iterator

import pytest

from .servers import MariaDB, PostgreSQL, find_mariadb


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
