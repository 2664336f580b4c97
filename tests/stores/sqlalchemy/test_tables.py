"""The tables: made once, by the store or by a migration; and refused if they are not as they should be."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.operations import Operations as Alembic
from sqlalchemy import create_engine

from msal_logout_middleware.errors import StoreError
from msal_logout_middleware.stores import Ending, Jti
from msal_logout_middleware.stores.sqlalchemy import SQLAlchemyStore, Tables, migration
from tests.stories.servers import until

from ..databases import Database, MariaDB, PostgreSQL
from .conftest import DEAD, LONG_SECONDS, Make


def test_workers_that_start_at_once_make_the_tables_once(
    database: Database, threads: ThreadPoolExecutor, make: Make
) -> None:
    start = threading.Barrier(8)

    def begin(store: SQLAlchemyStore) -> str:
        start.wait(LONG_SECONDS)
        return store.marks_since(0, limit=1).epoch

    stores = [make(database.url()) for _ in range(8)]
    assert len(set(threads.map(begin, stores))) == 1


def test_tables_that_a_worker_left_unfinished_are_completed(
    mariadb: MariaDB, make: Make, prefix: str
) -> None:
    make(mariadb.url()).load("alice")
    mariadb.execute(f"DROP INDEX {prefix}marks_value ON logout.{prefix}marks")
    mariadb.execute(f"DROP TABLE logout.{prefix}jtis")
    mariadb.execute(f"DELETE FROM logout.{prefix}meta")
    store = make(mariadb.url())
    assert store.end(Ending(handles=("h",), expires_at=9e9, jti=Jti("jti", 9e9))).claimed
    assert mariadb.execute(f"SHOW INDEX FROM logout.{prefix}marks WHERE key_name = '{prefix}marks_value'")


@pytest.mark.parametrize("database", ["postgresql", "mariadb", "sqlite"])
def test_migration_makes_the_tables_that_the_store_makes(
    database: str, request: pytest.FixtureRequest, tmp_path: Path, make: Make, prefix: str
) -> None:
    url = (
        f"sqlite:///{tmp_path}/logout.db" if database == "sqlite" else request.getfixturevalue(database).url()
    )
    engine = create_engine(url)
    with engine.begin() as connection:
        context = MigrationContext.configure(connection)
        for statement in migration(1, prefix=prefix):
            Alembic(context).execute(statement)
    store = make(url, create_tables=False)
    assert store.end(DEAD).sequence == 1
    make(url, prefix=f"{prefix}own_").end(DEAD)
    with engine.begin() as connection:
        for made in (prefix, f"{prefix}own_"):
            options = {"include_name": lambda name, kind, _: kind != "table" or name.startswith(made)}  # noqa: B023
            context = MigrationContext.configure(connection, opts={**options, "compare_type": True})
            differences = compare_metadata(context, Tables(made).metadata)
            assert [each for each in differences if made != prefix or not each[0].startswith("remove")] == []
    engine.dispose()


def test_migration_can_be_printed(postgresql: PostgreSQL) -> None:
    printed: list[str] = []

    class Buffer:
        def write(self, said: str) -> None:
            printed.append(said)

        def flush(self) -> None:
            pass

    context = MigrationContext.configure(
        dialect_name="postgresql", opts={"as_sql": True, "output_buffer": Buffer(), "literal_binds": True}
    )
    for statement in migration(1):
        Alembic(context).execute(statement)
    assert "INSERT INTO msal_logout_meta (one, version, epoch, sequence, tip) VALUES (1, 1, '" in "".join(
        printed
    )


def test_migration_to_a_version_that_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match="version 1"):
        migration(2)


def test_store_that_makes_no_tables_says_that_there_are_none(make: Make, prefix: str) -> None:
    with pytest.raises(StoreError, match="run your migration"):
        make(create_tables=False).load("alice")


def test_tables_of_a_newer_version_are_refused(
    store: SQLAlchemyStore, other: SQLAlchemyStore, postgresql: PostgreSQL, prefix: str
) -> None:
    store.load("alice")
    postgresql.execute(f"UPDATE {prefix}meta SET version = 2")
    with pytest.raises(StoreError, match=r"version 2.*upgrade"):
        other.load("alice")


def test_tables_that_were_dropped_are_made_anew_as_another_life(
    store: SQLAlchemyStore, postgresql: PostgreSQL, prefix: str
) -> None:
    before = store.marks_since(0, limit=1).epoch
    for table in Tables(prefix).metadata.tables:
        postgresql.execute(f"DROP TABLE {table}")
    with pytest.raises(StoreError, match="does not have the store's tables"):
        store.load("alice")
    assert store.load("alice") == (None, "")
    until(lambda: store.marks_since(0, limit=1).epoch != before)
