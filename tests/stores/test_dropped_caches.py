"""A sign-out that a server does in one script or transaction: the session ends, and its token cache goes with it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from msal_logout_middleware.caches import InStore, home_account_id
from msal_logout_middleware.events import LogoutEnded, LogoutFailed
from msal_logout_middleware.stores import Ending, JournalRow, SessionRecord
from msal_logout_middleware.stores.encryption import Encryption
from msal_logout_middleware.stores.memory import MemoryStore
from msal_logout_middleware.stores.redis import RedisStore
from msal_logout_middleware.stores.sqlalchemy import SQLAlchemyStore
from msal_logout_middleware.testing.store_contract import Clock

from ..remote.conftest import nobody_else_tidies as nobody_else_tidies
from ..remote.conftest import signing_in
from ..sites import KINDS, SECRET, Site
from ..tokens import cache_of
from .servers import Server, client, new_prefix

EXPIRES_AT = 9e9
SIGNED_COOKIES = ["flask, signed cookie", "starlette, signed cookie"]


@pytest.fixture
def sent() -> list[str]:
    """What the store sends: commands, or transactions."""
    return []


@pytest.fixture(params=["EVALSHA", "PostgreSQL", pytest.param("MariaDB", marks=pytest.mark.matrix), "SQLite"])
def once(request: pytest.FixtureRequest) -> str:
    """What is sent once, if all is done at once; it names the server."""
    return request.param


@pytest.fixture
def clock() -> Clock:
    return Clock(time.time())


@pytest.fixture
def store(
    once: str, sent: list[str], clock: Clock, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Any]:
    options = {"clock": clock, "token_cache_lifetime_seconds": 60}
    if once == "EVALSHA":
        store: Any = RedisStore(
            counted(request.getfixturevalue("server"), sent), prefix=new_prefix(), **options
        )
        yield store
        store.close()
        return
    if once == "SQLite":
        url = f"sqlite:///{tmp_path / 'shared.db'}"
    else:
        database = request.getfixturevalue(once.lower())
        database.empty("dropped_")
        url = database.url()
    engine = sa.create_engine(url)
    store = SQLAlchemyStore(engine, prefix="dropped_", listens=False, **options)
    store._is_to_sweep = lambda: False
    sa.event.listen(engine, "commit", lambda _: sent.append(once))
    yield store
    store.close()
    engine.dispose()


def counted(server: Server, sent: list[str]) -> Any:
    """A client that notes its commands."""
    counted = client(server.url, socket_timeout=20)
    send = counted.execute_command

    def execute_command(*command: Any, **options: Any) -> Any:
        sent.append(command[0])
        return send(*command, **options)

    counted.execute_command = execute_command
    return counted


@pytest.fixture(params=SIGNED_COOKIES)
def site(request: pytest.FixtureRequest, store: Any, nobody_else_tidies: None) -> Any:
    site = Site(request.param, KINDS[request.param], store=store)
    store.generation = lambda: None  # what keeps a worker in step has commands of its own
    store.end(
        Ending(handles=("nobody's",), expires_at=EXPIRES_AT)
    )  # the script or the tables are there from now on
    return site


def records_of(count: int, cache: str | None = "cache") -> list[SessionRecord]:
    return [
        SessionRecord(f"h{number}", f"s{number}", ("sub",), 1.0, b"data", EXPIRES_AT, cache)
        for number in range(count)
    ]


def end(store: Any, **what: Any) -> Any:
    return store.end(Ending(expires_at=EXPIRES_AT, work=b"work", lease_seconds=0, drops=True, **what))


# Whole sign-outs


def test_front_channel_logout_is_done_at_once(site: Any, store: Any, sent: list[str], once: str) -> None:
    site.build()
    ann, bob = signing_in("ann", sid="anns"), signing_in("bob", sid="bobs")
    at_anns, at_bobs = site.sign_in(ann), site.sign_in(bob)
    sent.clear()
    assert site.front_channel(sid="anns").status == 200
    assert sent == [once]
    assert site.cache(ann) is None
    assert site.cache(bob) is not None
    assert store.open_rows() == 0
    assert site.user(at_anns) is None
    assert site.user(at_bobs) == bob["sub"]


def test_its_event_counts_what_was_removed(site: Any) -> None:
    site.build()
    site.sign_in(signing_in("ann", sid="anns"))
    site.front_channel(sid="anns")
    (ended,) = [event for event in site.events if isinstance(event, LogoutEnded)]
    assert ended.sessions == 1
    assert ended.removed == {"AccessToken": 1, "RefreshToken": 1, "IdToken": 1, "Account": 1}


def test_logout_of_the_app_is_done_at_once(site: Any, store: Any, sent: list[str], once: str) -> None:
    site.build()
    claims = signing_in("ann")
    ann = site.sign_in(claims)
    sent.clear()
    answer = ann.post("/logout")
    assert answer.status == 303
    assert sent == [once]
    assert site.cache(claims) is None
    assert store.open_rows() == 0


def test_id_token_hint_comes_from_the_cache_that_went(site: Any) -> None:
    site.build(id_token_hint=True)
    ann = site.sign_in(signing_in("ann"))
    assert "id_token_hint=" in (ann.post("/logout").location or "")


@pytest.mark.parametrize("there", [True, False], ids=["a later save", "a first save"])
def test_save_that_began_before_it_fails(site: Any, store: Any, *, there: bool) -> None:
    site.build()
    claims = signing_in("ann", sid="anns")
    site.sign_in(claims, cache=there)
    loaded = store.load(home_account_id(claims))
    site.front_channel(sid="anns")
    assert not store.replace(home_account_id(claims), loaded.version, cache_of(claims).encode())
    assert site.cache(claims) is None


def test_cache_that_users_share_keeps_the_others(site: Any, store: Any) -> None:
    ann, bob = signing_in("ann", sid="anns"), signing_in("bob", sid="bobs")
    site.build(caches=InStore(store, cache_key=lambda claims: "everybody"))
    site.sign_in(ann, cache=False)
    site.sign_in(bob, cache=False)
    assert store.replace("everybody", "", cache_of(ann, bob).encode())
    site.front_channel(sid="anns")
    left = store.load("everybody").data
    assert b"at-of-sub-of-bob" in left
    assert b"at-of-sub-of-ann" not in left


def test_cache_in_another_store_is_removed_there(site: Any) -> None:
    elsewhere = MemoryStore()
    site.build(caches=InStore(elsewhere))
    claims = signing_in("ann", sid="anns")
    site.sign_in(claims, cache=False)
    assert elsewhere.replace(home_account_id(claims), "", cache_of(claims).encode())
    site.front_channel(sid="anns")
    assert elsewhere.load(home_account_id(claims)).data is None


def test_app_view_that_follows_has_the_journal_behind_it(site: Any, store: Any) -> None:
    rows = []
    site.does["logout"] = lambda _: rows.append(store.open_rows())
    site.build(app_view=True, logout_path="/does/logout")
    site.sign_in(signing_in("ann")).post("/does/logout")
    assert rows == [1]
    assert store.open_rows() == 0


def test_session_of_a_secret_that_is_not_here_yet_is_done_as_well(site: Any, store: Any) -> None:
    site.build(secret="a newer secret, which only this worker has")
    claims = signing_in("ann", sid="anns")
    site.sign_in(claims)
    newer, door = site.logout, site.door
    site.options["secret"] = [SECRET, "a newer secret, which only this worker has"]
    site.logout, site.door = site.worker()
    site.front_channel(sid="anns")
    assert not [event for event in site.events if isinstance(event, LogoutFailed)]
    assert site.cache(claims) is None
    assert store.open_rows() == 0
    del newer, door


def test_sessions_on_the_server_have_the_journal_until_they_are_deleted(
    store: Any, nobody_else_tidies: None
) -> None:
    site = Site("flask-session", KINDS["flask-session"], store=store)
    site.build()
    assert not site.logout.configuration.drops_caches


# What the store does


def test_cache_of_several_sessions_is_given_once(store: Any) -> None:
    store.replace("cache", "", b"tokens")
    for record in records_of(2):
        store.add(record, sign_in=True)
    ended = end(store, found_by=("sub",))
    assert sorted(ended.dropped) == ["h0", "h1"]
    assert sorted(ended.dropped.values(), key=bool) == [None, b"tokens"]
    assert ended.row is None
    assert store.load("cache").data is None
    assert "tokens" not in repr(ended)


def test_other_caches_stay(store: Any) -> None:
    store.replace("other", "", b"tokens")
    for record in records_of(1):
        store.add(record, sign_in=True)
    end(store, handles=("h0",))
    assert store.load("other").data == b"tokens"


@pytest.mark.parametrize(
    "what",
    [
        {"handles": ("h0", "never recorded")},
        {"handles": ("never recorded",)},
        {"handles": ("h0", "no cache")},
    ],
    ids=["one never recorded", "never recorded", "one without a cache"],
)
def test_row_is_there_if_something_is_left_to_do(store: Any, what: dict[str, Any]) -> None:
    store.add(*records_of(1), sign_in=True)
    store.add(SessionRecord("no cache", "s", ("sub",), 1.0, b"d", EXPIRES_AT), sign_in=True)
    ended = end(store, **what)
    assert ended.row is not None
    (row,) = store.take(limit=1, lease_seconds=1)
    assert isinstance(row, JournalRow)


def test_nothing_goes_that_nobody_asked_for(store: Any) -> None:
    store.replace("cache", "", b"tokens")
    store.add(*records_of(1), sign_in=True)
    ended = store.end(Ending(handles=("h0",), expires_at=EXPIRES_AT, work=b"work"))
    assert ended.row is not None
    assert ended.dropped == {}
    assert store.load("cache").data == b"tokens"


def test_handle_that_joins_has_the_cache_as_well(store: Any) -> None:
    store.replace("cache", "", b"tokens")
    store.add(*records_of(1), sign_in=True)
    store.join(SessionRecord("joined", "s0", ("more",), 1.0, b"data", EXPIRES_AT, "cache"))
    store.join(SessionRecord("joined", "s0", ("still more",), 1.0, b"data", EXPIRES_AT, "cache"))
    ended = end(store, handles=("joined",))
    assert sorted(ended.dropped) == ["h0", "joined"]
    assert ended.row is None


def test_cache_that_has_expired_is_not_given(store: Any, clock: Clock) -> None:
    store.replace("cache", "", b"tokens")
    store.add(*records_of(1), sign_in=True)
    clock.now += 61
    assert end(store, handles=("h0",)).dropped == {"h0": None}


def test_cache_that_is_encrypted_is_given_in_clear(store: Any) -> None:
    store.encryption = Encryption(["a secret of the app, of 32 chars "])
    store.replace("cache", "", b"tokens")
    encryption, store.encryption = store.encryption, None
    assert store.load("cache").data not in (None, b"tokens")
    store.encryption = encryption
    store.add(*records_of(1), sign_in=True)
    assert end(store, handles=("h0",)).dropped == {"h0": b"tokens"}


def test_cache_that_is_not_there_cannot_be_saved_by_who_began_before(store: Any) -> None:
    store.add(*records_of(1), sign_in=True)
    assert end(store, handles=("h0",)).dropped == {"h0": None}
    assert not store.replace("cache", "", b"tokens")
    assert store.replace("cache", store.load("cache").version, b"tokens")


def test_version_of_what_was_removed_comes_but_once(store: Any) -> None:
    """Who has seen one sign-out may be slow, and save after the next."""
    versions = [""]
    for number in range(3):
        assert store.replace("cache", versions[-1], b"tokens")
        store.add(records_of(number + 1)[number], sign_in=True)
        end(store, handles=(f"h{number}",))
        versions.append(store.load("cache").version)
    assert len(set(versions)) == 4
    assert not any(store.replace("cache", version, b"late") for version in versions[:-1])


def test_records_do_not_tell_where_the_cache_is(store: Any) -> None:
    store.add(*records_of(1, cache="cache of ann"), sign_in=True)
    assert store.get("h0").cache in (None, "cache of ann")
    assert [record.cache for record in store.find("sub")] in ([None], ["cache of ann"])
    (record,) = end(store, handles=("h0",)).records
    assert record.cache in (None, "cache of ann")


def test_cluster_and_replicas_that_must_have_it_take_the_longer_way(server: Server, cluster: Server) -> None:
    redis = pytest.importorskip("redis")
    in_cluster: Any = RedisStore(redis.RedisCluster.from_url(cluster.url), prefix=new_prefix())
    with_replicas: Any = RedisStore(server.url, prefix=new_prefix(), wait_replicas=1)
    assert not in_cluster.drops_caches
    assert not with_replicas.drops_caches
    in_cluster.add(*records_of(1), sign_in=True)
    assert end(in_cluster, handles=("h0",)).row is not None
    for store in (in_cluster, with_replicas):
        store.close()


def test_cache_that_goes_is_not_looked_into_where_nobody_is_told_what_went(
    site: Any, store: Any, caplog: pytest.LogCaptureFixture
) -> None:
    site.build(on_event=None)
    claims = signing_in("ann", sid="anns")
    site.sign_in(claims, cache=False)
    assert store.replace(home_account_id(claims), "", b"damaged")
    with caplog.at_level("WARNING", logger="msal_logout_middleware"):
        site.front_channel(sid="anns")
    assert site.cache(claims) is None
    assert caplog.text == ""


def test_damaged_cache_goes_and_is_told(site: Any, store: Any, caplog: pytest.LogCaptureFixture) -> None:
    site.build()
    claims = signing_in("ann", sid="anns")
    site.sign_in(claims, cache=False)
    for damaged in (b"{", b"[1]", b'{"AccessToken": 3}', b"\xff", b'{"a": ' * 100_000):
        loaded = store.load(home_account_id(claims))
        assert store.replace(home_account_id(claims), loaded.version, damaged)
        site.front_channel(sid="anns")
        assert site.cache(claims) is None
        site.sign_in(claims := signing_in("ann", sid="anns"), cache=False)
    assert caplog.text.count("a token cache is damaged") >= 4
