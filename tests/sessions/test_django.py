"""Django's engines: what a read leaves as it is, what is no session, and what is an error."""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from django.contrib.sessions.backends import db, signed_cookies
from django.core.cache import caches
from django.core.cache.backends.base import InvalidCacheKey, memcache_key_warnings
from django.db import OperationalError, connection, connections, transaction
from django.http import parse_cookie
from django.test import RequestFactory

from msal_logout_middleware.errors import StoreError
from msal_logout_middleware.sessions.django import DjangoSession
from msal_logout_middleware.testing.session_contract import CLAIMS
from tests import django_project
from tests.django_project import Session, in_force

from . import django_sites

USER = {"user": dict(CLAIMS)}
SESSION = DjangoSession()


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Any]:
    """What puts the settings of an engine in force, and returns what saves a session there."""
    with django_project.databases(), ExitStack() as exits:

        def use(engine: str, **more: Any) -> Any:
            settings = django_sites.ENGINES[engine](tmp_path / "sessions")[0]
            exits.enter_context(in_force(**settings, **more))
            if "cache" in engine and "files" not in engine:
                caches["default"].clear()
            return saved

        yield use


def saved(contents: dict[str, Any] | None = None) -> str:
    """Save a session as the app does, and return its id."""
    store = django_project.engine()()
    store.update(USER if contents is None else contents)
    store.save()
    return store.session_key


def file_of(session_id: str, directory: Path) -> Path:
    return directory / "sessions" / f"sessionid{session_id}"


@contextmanager
def table_away() -> Iterator[None]:
    """Have no table of sessions."""
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE django_session RENAME TO kept")
        yield
        cursor.execute("DROP TABLE IF EXISTS django_session")
        cursor.execute("ALTER TABLE kept RENAME TO django_session")


def in_a_thread(work: Any) -> Any:
    """Do something where nobody has done anything before, as in a thread of ours."""
    done: list[Any] = []
    thread = Thread(target=lambda: done.append(work()))
    thread.start()
    thread.join()
    return done[0]


class TestReading:
    def test_expired_file_is_no_session_and_stays_as_it_is(self, project, tmp_path):
        session_id = project("file")()
        path = file_of(session_id, tmp_path)
        os.utime(path, (0, 0))
        assert SESSION.read(f"sessionid={session_id}") is None
        assert SESSION.load(session_id) is None
        assert [one.name for one in path.parent.iterdir()] == [path.name]

    @pytest.mark.parametrize("content", ["", "damaged", "e30:1:x"])
    def test_damaged_file_is_read_as_the_app_reads_it_and_stays_as_it_is(self, project, tmp_path, content):
        session_id = project("file")()
        path = file_of(session_id, tmp_path)
        path.write_text(content)
        session = SESSION.load(session_id)
        assert (session.id, session.claims, dict(session.contents)) == (session_id, None, {})
        assert [(one.name, one.read_text()) for one in path.parent.iterdir()] == [(path.name, content)]
        SESSION.delete(session_id)
        assert not path.exists()

    def test_damaged_row_is_read_as_the_app_reads_it(self, project):
        session_id = project("db")()
        Session.objects.update(session_data="damaged")
        session = SESSION.load(session_id)
        assert (session.claims, dict(session.contents)) == (None, {})
        SESSION.delete(session_id)
        assert not Session.objects.exists()

    def test_row_that_has_expired_is_no_session_and_is_deleted_all_the_same(self, project):
        session_id = project("db")()
        Session.objects.update(expire_date="2020-01-01T00:00:00Z")
        assert SESSION.load(session_id) is None
        assert Session.objects.count() == 1
        SESSION.delete(session_id)
        assert Session.objects.count() == 0

    def test_cache_in_front_of_the_database_is_not_filled(self, project):
        session_id = project("cached_db")()
        caches["default"].clear()
        assert SESSION.load(session_id).claims == CLAIMS
        assert not caches["default"]._cache

    def test_session_that_only_the_cache_still_has_is_read_since_the_app_reads_it(self, project):
        session_id = project("cached_db")()
        Session.objects.all().delete()
        assert SESSION.load(session_id).claims == CLAIMS

    def test_cookie_that_has_expired_is_no_session(self, project, monkeypatch):
        with in_force(SESSION_ENGINE=f"{django_sites.BACKENDS}.signed_cookies"):
            cookie = f"sessionid={saved()}"
            assert SESSION.read(cookie).claims == CLAIMS
            later = time.time() + 15 * 24 * 3600
            monkeypatch.setattr("django.core.signing.time.time", lambda: later)
            assert SESSION.read(cookie) is None

    def test_no_session_is_in_an_empty_cookie_session(self):
        with in_force(SESSION_ENGINE=f"{django_sites.BACKENDS}.signed_cookies"):
            assert SESSION.read(f"sessionid={saved({})}") is None

    @pytest.mark.parametrize("engine", ["db", "signed_cookies"])
    def test_session_from_before_the_secret_was_changed_is_read(self, project, engine):
        with in_force(SESSION_ENGINE=f"{django_sites.BACKENDS}.{engine}"):
            cookie = f"sessionid={saved()}"
            with in_force(SECRET_KEY="a new secret", SECRET_KEY_FALLBACKS=["a secret of at least 16 bytes"]):
                assert SESSION.read(cookie).claims == CLAIMS
                assert SESSION.secret == ("a new secret", "a secret of at least 16 bytes")
            with in_force(SECRET_KEY="a new secret"):
                session = SESSION.read(cookie)
                assert session is None or session.claims is None

    @pytest.mark.parametrize("blank", ["\u3000", "\xa0", "\x85", "\x1f"], ids=ascii)
    @pytest.mark.parametrize("shape", ["{0}sessionid={1}", "sessionid={0}{1}", "sessionid={1}{0}"])
    @pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
    def test_cookie_is_found_where_either_of_django_s_requests_finds_it(
        self, project, encoding, shape, blank
    ):
        session_id = project("db")()
        sent = shape.format(blank, session_id).encode(encoding, "replace")
        header = sent.decode("latin-1")  # as a server gives it
        wsgi = RequestFactory().get("/", HTTP_COOKIE=header).COOKIES
        asgi = parse_cookie(header)
        found = session_id in (wsgi.get("sessionid"), asgi.get("sessionid"))
        assert (SESSION.read(header) is not None) is found
        assert found or blank in "\u3000\xa0\x85"

    def test_key_of_the_claims_may_be_given(self, project):
        session_id = project("db")({"account": dict(CLAIMS)})
        assert DjangoSession(claims="account").load(session_id).claims == CLAIMS
        with pytest.raises(TypeError, match="claims="):
            DjangoSession(claims=1)  # type: ignore[arg-type]

    def test_engine_that_is_made_from_signed_cookies_is_one(self, monkeypatch):
        class Own(signed_cookies.SessionStore):
            pass

        monkeypatch.setattr(django_project, "SessionStore", Own, raising=False)
        with in_force(SESSION_ENGINE="tests.django_project"):
            assert not SESSION.server_side
            assert not SESSION.blocking
            assert SESSION.read(f"sessionid={saved()}").claims == CLAIMS

    def test_repr_names_the_engine(self):
        assert repr(SESSION) == "DjangoSession(django.contrib.sessions.backends.db)"


class TestIdsThatAreAlike:
    """As with MySQL, whose usual collations tell neither capitals nor accents apart."""

    @pytest.fixture(autouse=True)
    def table_that_cannot_tell(self, project):
        project("cached_db")
        with table_away(), connection.cursor() as cursor:
            cursor.execute(
                "CREATE TABLE django_session (session_key varchar(40) COLLATE NOCASE PRIMARY KEY, "
                "session_data text NOT NULL, expire_date datetime NOT NULL)"
            )
            yield

    def test_session_has_one_id_however_its_cookie_is_spelt(self):
        session_id = saved()
        session = SESSION.read(f"sessionid={session_id.upper()}")
        assert (session.id, session.claims) == (session_id, CLAIMS)

    def test_copy_in_the_cache_under_another_spelling_is_not_believed(self):
        session_id = saved()
        assert django_project.engine()(session_id.upper())["user"] == CLAIMS  # the app has it cached now
        SESSION.delete(session_id)
        with pytest.raises(StoreError, match="under an id that its database does not know"):
            SESSION.read(f"sessionid={session_id.upper()}")


class TestWhatCannotBeAsked:
    @pytest.mark.parametrize("error", [ConnectionError("away"), OSError("timed out"), RuntimeError("?")])
    def test_failure_that_django_takes_for_an_absent_session_is_an_error(self, project, monkeypatch, error):
        session_id = project("cache, memory")()

        def fail(*_: Any, **__: Any) -> None:
            raise error

        monkeypatch.setattr(caches["default"], "get", fail)
        assert not dict(django_project.engine()(session_id).items())
        with pytest.raises(type(error)):
            SESSION.load(session_id)

    @pytest.mark.parametrize("error", [pickle.UnpicklingError("?"), AttributeError("?"), ImportError("?")])
    def test_record_that_nobody_can_read_is_no_session_and_can_be_deleted(self, project, monkeypatch, error):
        session_id = project("cache, memory")()
        cache, get = caches["default"], caches["default"].get

        def fail(*_: Any, **__: Any) -> None:
            raise error

        monkeypatch.setattr(cache, "get", fail)
        assert SESSION.load(session_id) is None
        SESSION.delete(session_id)
        monkeypatch.setattr(cache, "get", get)
        assert not cache._cache

    def test_id_that_memcached_cannot_have_is_no_session(self, project, monkeypatch):
        session_id = project("cache, memory")()

        def validate_key(key: str) -> None:
            for warning in memcache_key_warnings(key):
                raise InvalidCacheKey(warning)

        monkeypatch.setattr(caches["default"], "validate_key", validate_key)
        assert SESSION.load(session_id).claims == CLAIMS
        assert SESSION.load("x" * 300) is None
        assert SESSION.read(f"sessionid={'x' * 300}") is None
        SESSION.delete("x" * 300)

    def test_database_stands_in_for_a_cache_that_is_away_as_it_does_for_the_app(self, project, monkeypatch):
        session_id = project("cached_db")()

        def fail(*_: Any, **__: Any) -> None:
            raise ConnectionError("away")

        for method in ("get", "delete"):
            monkeypatch.setattr(caches["default"], method, fail)
        assert SESSION.load(session_id).claims == CLAIMS
        assert SESSION.load("0" * 32) is None
        with pytest.raises(ConnectionError):
            SESSION.delete(session_id)

    def test_file_that_is_there_and_cannot_be_read_is_an_error(self, project, tmp_path):
        session_id = project("file")()
        path = file_of(session_id, tmp_path)
        path.unlink()
        path.mkdir()  # opening it fails as it does without the right to
        assert not dict(django_project.engine()(session_id).items())
        with pytest.raises(StoreError, match="cannot be read"):
            SESSION.load(session_id)
        with pytest.raises(StoreError, match="still has a session"):
            SESSION.delete(session_id)

    @pytest.mark.parametrize("engine", ["file", "cache, files"])
    def test_directory_that_is_out_of_reach_is_an_error(self, project, tmp_path, engine):
        session_id = project(engine)()
        assert SESSION.load(session_id).claims == CLAIMS
        (tmp_path / "sessions").rename(tmp_path / "elsewhere")
        for ask in (SESSION.load, SESSION.delete):
            with pytest.raises(StoreError, match="directory"):
                ask(session_id)

    def test_session_that_is_still_there_after_its_deletion_is_an_error(self, project, monkeypatch):
        session_id = project("db")()
        monkeypatch.setattr(db.SessionStore, "delete", lambda self, session_key=None: None)
        with pytest.raises(StoreError, match="still has a session"):
            SESSION.delete(session_id)


class TestConnections:
    def tells_whether_it_works(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Have SQLite tell it, as the databases do that are servers."""

        def is_usable() -> bool:
            try:
                connection.connection.execute("SELECT 1")
            except Exception:
                return False
            return True

        monkeypatch.setattr(connections["default"], "is_usable", is_usable)

    def test_connection_that_was_opened_for_a_call_is_closed_after_it(self, project):
        session_id = project("db")()

        def call() -> list[Any]:
            opened = []
            for ask in (SESSION.load, SESSION.delete):
                ask(session_id)
                opened += [one for one in connections.all(initialized_only=True) if one.connection]
            return opened

        assert in_a_thread(call) == []

    def test_connection_is_closed_after_a_failure_as_well(self, project, monkeypatch):
        session_id = project("db")()
        monkeypatch.setattr(db.SessionStore, "exists", lambda self, session_key: True)

        def call() -> Any:
            with pytest.raises(StoreError):
                SESSION.delete(session_id)
            return connection.connection

        assert in_a_thread(call) is None

    def test_open_connection_of_a_request_is_left_as_it_is(self, project):
        session_id = project("db")()
        raw = connection.connection
        assert raw is not None
        assert SESSION.load(session_id).claims == CLAIMS
        assert connection.connection is raw

    def test_transaction_that_is_open_is_used_and_goes_on(self, project):
        project("db")
        with transaction.atomic():
            session_id = saved()
            assert SESSION.load(session_id).claims == CLAIMS
            SESSION.delete(session_id)
            assert SESSION.load(session_id) is None
            assert connection.in_atomic_block
            transaction.set_rollback(True)
        assert not Session.objects.exists()

    def test_connection_that_the_server_has_dropped_is_made_anew(self, project, monkeypatch):
        session_id = project("db")()
        self.tells_whether_it_works(monkeypatch)
        connection.connection.close()  # behind Django's back
        assert SESSION.load(session_id).claims == CLAIMS
        connection.connection.close()
        SESSION.delete(session_id)
        assert not Session.objects.exists()

    def test_connection_that_is_of_use_is_not_made_anew_for_a_failure(self, project):
        session_id = project("db")()
        raw = connection.connection
        with table_away(), pytest.raises(OperationalError, match="no such table"):
            SESSION.load(session_id)
        assert connection.connection is raw

    def test_broken_connection_within_a_transaction_is_left_to_whoever_began_it(self, project, monkeypatch):
        session_id = project("db")()
        self.tells_whether_it_works(monkeypatch)
        with pytest.raises(RuntimeError, match="what the app makes of it"), transaction.atomic():
            raw = connection.connection
            raw.close()
            with pytest.raises(Exception, match="closed"):
                SESSION.load(session_id)
            assert connection.connection is raw
            assert not connection.closed_in_transaction
            raise RuntimeError("what the app makes of it")
        connection.close()
