"""What collided, or whose commit was not answered, is tried again: it is done once, and told as it was done."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from sqlalchemy import create_engine

from msal_logout_middleware.errors import StoreError
from msal_logout_middleware.stores import Ending, Jti
from msal_logout_middleware.stores import sqlalchemy as sqlalchemy_module
from msal_logout_middleware.stores.sqlalchemy import SQLAlchemyStore
from msal_logout_middleware.stores.sqlalchemy._operations import Pending

from ..databases import MariaDB, PostgreSQL
from .conftest import DEAD, Make, a_record, fail_on, in_step

# Collisions


@pytest.mark.parametrize("code", ["40P01", "40001"])
def test_deadlock_is_tried_again_from_the_start(
    code: str, store: SQLAlchemyStore, postgresql: PostgreSQL, prefix: str
) -> None:
    store.load("alice")
    fail_on(postgresql, "journal", prefix, code, 3)
    ended = store.end(Ending(handles=("h",), expires_at=9e9, work=b"work", jti=Jti("jti", 9e9)))
    assert ended.claimed
    assert ended.sequence == 1
    assert store.open_rows() == 1


@pytest.mark.parametrize("code", [1020, 1213])
def test_collision_in_mariadb_is_tried_again_from_the_start(
    code: int, mariadb: MariaDB, make: Make, prefix: str
) -> None:
    store = make(mariadb.url())
    store.load("alice")
    mariadb.execute(f"CREATE SEQUENCE logout.{prefix}tries")
    mariadb.execute(
        f"""CREATE TRIGGER logout.{prefix}fail BEFORE INSERT ON logout.{prefix}journal FOR EACH ROW
            IF NEXTVAL(logout.{prefix}tries) <= 3 THEN
                SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = {code};
            END IF"""
    )
    ended = store.end(Ending(handles=("h",), expires_at=9e9, work=b"work", jti=Jti("jti", 9e9)))
    assert (ended.claimed, ended.sequence, store.open_rows()) == (True, 1, 1)


def test_deadlocks_without_end_are_an_error_and_change_nothing(
    store: SQLAlchemyStore, postgresql: PostgreSQL, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlalchemy_module, "_FIRST_WAIT_SECONDS", 0.0)
    store.load("alice")
    fail_on(postgresql, "journal", prefix, "40P01", 1000)
    with pytest.raises(StoreError, match="again and again"):
        store.end(Ending(handles=("h",), expires_at=9e9, work=b"work", jti=Jti("jti", 9e9)))
    assert postgresql.execute(f"SELECT last_value FROM {prefix}tries") == [(8,)]
    assert list(store.marks_since(0, limit=9).marks) == []
    postgresql.execute(f"DROP TRIGGER fail ON {prefix}journal")
    assert store.end(Ending(handles=("h",), expires_at=9e9, jti=Jti("jti", 9e9))).claimed


def test_what_collides_is_not_tried_again_when_its_time_is_over(
    postgresql: PostgreSQL, make: Make, prefix: str
) -> None:
    engine = create_engine(postgresql.url())
    store = make(engine, timeout_seconds=1e-9)
    store.load("alice")
    fail_on(postgresql, "journal", prefix, "40P01", 1)
    ending = Ending(handles=("h",), expires_at=9e9, work=b"work")
    with pytest.raises(StoreError, match="again and again"):
        store.end(ending)
    assert store.end(ending).row is not None
    store.close()
    engine.dispose()


# Commits without an answer


def lose_commits(monkeypatch: pytest.MonkeyPatch, store: SQLAlchemyStore, times: int = 1) -> None:
    """Let the connection break when each of the first commits is done, before its answer comes."""
    dialect = store._engine.dialect
    commit, losses = dialect.do_commit, iter([True] * times)

    def do_commit(connection: Any) -> None:
        commit(connection)
        if next(losses, False):
            connection.dbapi_connection.close()
            raise psycopg.OperationalError("lost")

    monkeypatch.setattr(dialect, "do_commit", do_commit)


def test_ending_whose_commit_was_not_answered_is_not_taken_for_another_s(
    store: SQLAlchemyStore, postgresql: PostgreSQL, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.add(a_record(), sign_in=True)
    lose_commits(monkeypatch, store)
    ended = store.end(Ending(handles=("h",), expires_at=9e9, work=b"work", jti=Jti("jti", 9e9)))
    assert ended.claimed
    assert [record.handle for record in ended.records] == ["h"]
    assert store.open_rows() == 1
    assert postgresql.execute(f"SELECT name FROM {prefix}journal") == [(ended.row,)]
    assert postgresql.execute(f"SELECT count(*) FROM {prefix}tips") == [(1,)]


def test_ending_by_a_key_whose_commit_was_not_answered_tells_what_it_has_ended(
    store: SQLAlchemyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.add(a_record(), sign_in=True)
    lose_commits(monkeypatch, store)
    ended = store.end(Ending(found_by=("sub",), expires_at=9e9, work=b"work"))
    assert [record.handle for record in ended.records] == ["h"]
    assert ended.row is not None


def test_worker_that_got_no_answer_to_its_ending_is_not_sure_any_more(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlalchemy_module, "_FIRST_WAIT_SECONDS", 0.0)
    store = make(listens=False, bound_seconds=120, beat_seconds=60)
    in_step(store)
    lose_commits(monkeypatch, store, 8)
    with pytest.raises(StoreError, match="closed the connection"):
        store.end(DEAD)
    assert store.generation() is None
    assert [mark.value for mark in store.marks_since(0, limit=9).marks] == ["h"]


def test_jti_whose_claim_was_not_answered_is_not_taken_for_a_replay(
    store: SQLAlchemyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.load("alice")
    lose_commits(monkeypatch, store)
    ending = Ending(found_by=("nobody's",), expires_at=9e9, jti=Jti("jti", 9e9))
    assert store.end(ending).claimed
    assert not store.end(ending).claimed


def test_ending_that_others_followed_before_it_was_asked_for_again_is_known(
    store: SQLAlchemyStore, other: SQLAlchemyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.load("alice")
    pending = Pending(DEAD)
    with store._transactions.begin() as connection:
        done = store._operations.end(connection, pending)
    other.end(Ending(handles=("h2",), expires_at=9e9))
    with store._transactions.begin() as connection:
        assert store._operations.end(connection, pending) == done
    assert len(other.marks_since(0, limit=9).marks) == 2
