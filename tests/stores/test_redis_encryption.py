"""`RedisStore` with keys of its own: what anybody can read on the server, and a change of keys while workers write."""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from msal_logout_middleware._drive import run
from msal_logout_middleware.caches import InStore, Removed, home_account_id
from msal_logout_middleware.errors import StoreError
from msal_logout_middleware.events import LogoutEnded
from msal_logout_middleware.stores import Ending, Loaded, SessionRecord
from msal_logout_middleware.stores.encryption import Encryption
from msal_logout_middleware.stores.redis import RedisStore
from msal_logout_middleware.stores.reencryption import Reencrypted, reencrypt
from msal_logout_middleware.testing.store_contract import Clock
from msal_logout_middleware.token_cache import StoredTokenCache
from tests.races.token_endpoint import ANA, BEN, Endpoint, silent
from tests.remote.conftest import have_nobody_tidy, signing_in
from tests.remote.faults import Faulty
from tests.sites import KINDS, Site

from ..stories.servers import until
from .servers import Server, client, new_prefix, serving, watching
from .test_encryption import NEW, OLD
from .test_redis import answers

EXPIRES_AT = 9e9
LONG_SECONDS = 60


@pytest.fixture
def prefix() -> str:
    return new_prefix()


@pytest.fixture
def make(prefix: str) -> Iterator[Callable[..., RedisStore]]:
    """Makes stores of one prefix, each with the keys that it is given; the tests' end closes them."""
    stores: list[RedisStore] = []

    def make(client_or_url: Any, *keys: str | bytes, **options: Any) -> RedisStore:
        encryption = Encryption(keys) if keys else None
        stores.append(RedisStore(client_or_url, **{"prefix": prefix, "encryption": encryption, **options}))
        return stores[-1]

    yield make
    for store in stores:
        store.close()


@pytest.fixture
def cluster_client(primaries: list[Server]) -> Iterator[Any]:
    module = pytest.importorskip("redis.cluster", reason="no client: install redis")
    with module.RedisCluster.from_url(primaries[0].url, socket_timeout=60) as client:
        yield client


def names_of(store: RedisStore, limit: int = 100) -> list[str]:
    page = store.rows(limit=limit)
    names = list(page.names)
    while page.after is not None:
        page = store.rows(page.after, limit=limit)
        names += page.names
    return names


# What stands in clear


@pytest.fixture
def telling_server() -> Iterator[Server]:
    """A server that writes all commands to its disk, and all of them into its slow log."""
    with serving(
        "--appendonly", "yes", "--appendfsync", "always", "--slowlog-log-slower-than", "0"
    ) as server:
        server.admin.config_set("slowlog-max-len", 100_000)
        yield server


def told_by(server: Server) -> dict[str, bytes]:
    """All that somebody sees who reads the server, its disk or its log."""
    read = {
        b"string": server.admin.get,
        b"hash": server.admin.hgetall,
        b"zset": lambda key: server.admin.zrange(key, 0, -1, withscores=True),
    }
    keys = server.admin.keys()
    return {
        "keys": b" ".join(key + bytes_of(read[server.admin.type(key)](key)) for key in keys),
        "disk": b" ".join(f.read_bytes() for f in Path(server._folder.name).rglob("*") if f.is_file()),
        "slow log": bytes_of([entry["command"] for entry in server.admin.slowlog_get(100_000)]),
    }


def bytes_of(value: Any) -> bytes:
    """The bytes of an answer, one after the other."""
    if isinstance(value, dict):
        value = list(value.items())
    if isinstance(value, (list, tuple)):
        return b" ".join(map(bytes_of, value))
    return value if isinstance(value, bytes) else str(value).encode()


def whole_life(store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Somebody is signed in, another signs out, and the sign-out of a third is not completed; return what is secret."""
    have_nobody_tidy(monkeypatch)
    faulty = Faulty(store)
    signed_cookies, site = (
        site_of(kind, faulty).build() for kind in ("flask, signed cookie", "flask-session")
    )
    secrets = []
    for name, where in (("ann", signed_cookies), ("bob", signed_cookies), ("cat", site)):
        claims = signing_in(name, f"sid-of-{name}-s-session")
        browser = where.sign_in(claims)
        assert where.user(browser) == claims["sub"]
        secrets += [claims[word] for word in ("sid", "sub", "oid", "nonce", "preferred_username")]
        secrets += [f"rt-of-{claims['sub']}", f"at-of-{claims['sub']}", browser.cookies[where.cookie_name]]
    signed_cookies.front_channel(sid="sid-of-bob-s-session")
    faulty.away.add("finish")
    site.front_channel(sid="sid-of-cat-s-session")
    assert store.open_rows() == 1
    assert site.cache(signing_in("ann")) is not None
    assert site.cache(signing_in("bob")) is None
    return secrets


def site_of(kind: str, store: Any) -> Site:
    return Site(kind, KINDS[kind], store=store)


def test_nothing_of_a_token_cache_or_a_session_can_be_read_on_the_server(
    telling_server: Server, make: Callable[..., RedisStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = whole_life(make(telling_server.url, NEW), monkeypatch)
    for where, told in told_by(telling_server).items():
        for secret in (*secrets, "RefreshToken", "home_account_id"):
            assert secret.encode() not in told, where
            assert base64.b64encode(secret.encode()).rstrip(b"=") not in told, where


def test_without_keys_the_same_look_finds_a_token_cache_everywhere(
    telling_server: Server, make: Callable[..., RedisStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole_life(make(telling_server.url), monkeypatch)
    for where, told in told_by(telling_server).items():
        assert signing_in("ann")["oid"].encode() in told, where


def test_token_cache_that_somebody_writes_into_the_server_is_absent(
    server: Server, make: Callable[..., RedisStore]
) -> None:
    """In clear, or copied from another user's row."""
    store = make(server.url, NEW)
    for key in ("alice", "mallory"):
        store.replace(key, "", b"tokens of " + key.encode())
    alice, mallory = (store._cache(name) for name in names_of(store))
    server.admin.hset(alice, "data", server.admin.hget(mallory, "data"))
    server.admin.hset(mallory, "data", b"tokens of somebody else")
    assert {store.load(key).data for key in ("alice", "mallory")} == {None}


# Keys that change


def account(store: RedisStore, user: Any) -> dict[str, Any] | None:
    """What a request of a user does; `None` if they have to sign in."""
    with StoredTokenCache(store, key=user.home_account_id) as cache:
        return silent(Endpoint().app(cache), user)


def sign_in(store: RedisStore, user: Any) -> None:
    with StoredTokenCache(store) as cache:
        Endpoint().sign_in(cache, user)


def test_nobody_signs_in_again_when_keys_are_rotated(server: Server, make: Callable[..., RedisStore]) -> None:
    sign_in(make(server.url, OLD), ANA)
    sign_in(make(server.url, OLD, NEW), BEN)
    rotating = make(server.url, NEW, OLD)
    assert account(rotating, ANA)
    assert run(reencrypt(rotating, dry_run=True)) == Reencrypted(True, reencrypted=2)
    assert run(reencrypt(rotating)) == Reencrypted(False, reencrypted=2)
    assert run(reencrypt(rotating)) == Reencrypted(False, current=2)
    rotated = make(server.url, NEW)
    assert account(rotated, ANA)
    assert account(rotated, BEN)
    assert account(make(server.url, OLD), ANA) is None


def test_user_whose_key_is_lost_signs_in_again_and_nothing_else_breaks(
    server: Server, make: Callable[..., RedisStore], caplog: pytest.LogCaptureFixture
) -> None:
    before = make(server.url, OLD)
    sign_in(before, ANA)
    sign_in(before, BEN)
    session = SessionRecord("h", "s", ("sub",), 1.0, b"sealed", EXPIRES_AT)
    before.add(session, sign_in=True)

    store = make(server.url, NEW)
    assert account(store, ANA) is None
    sign_in(store, ANA)
    assert account(store, ANA)
    assert run(InStore(store).remove_accounts(BEN.claims, None)) == Removed({})
    assert before.load(BEN.home_account_id).data is None
    assert store.get("h") == session
    ended = store.end(Ending(found_by=("sub",), expires_at=EXPIRES_AT, work=b"sealed", lease_seconds=0))
    assert ended.records == (session,)
    assert [row.data for row in store.take(limit=9, lease_seconds=9)] == [(b"sealed",)]
    (told,) = (
        record for record in caplog.records if "opens with no key of encryption=" in record.getMessage()
    )
    assert told.levelname == "ERROR"
    assert ANA.oid not in caplog.text


@pytest.mark.parametrize(
    ("keys", "removed"),
    [((NEW, OLD), {"AccessToken": 1, "RefreshToken": 1, "IdToken": 1, "Account": 1}), ((NEW,), {})],
    ids=["with its key", "without"],
)
def test_token_cache_that_goes_with_its_session_in_one_script_is_told_of_if_a_key_opens_it(
    server: Server,
    make: Callable[..., RedisStore],
    monkeypatch: pytest.MonkeyPatch,
    keys: tuple[str | bytes, ...],
    removed: dict[str, int],
) -> None:
    have_nobody_tidy(monkeypatch)
    before = make(server.url, OLD)
    site = site_of("flask, signed cookie", before).build()
    claims = signing_in("ann")
    ann = site.sign_in(claims)
    site.logout, site.door = site.worker(store=make(server.url, *keys), id_token_hint=True)
    ann.site = site.door
    answer = ann.post("/logout")
    assert ("id_token_hint=" in (answer.location or "")) is bool(removed)
    assert [event.removed for event in site.events if isinstance(event, LogoutEnded)] == [removed]
    assert before.load(home_account_id(claims)).data is None
    assert before.open_rows() == 0


def test_what_no_key_opens_is_told_and_stays(server: Server, make: Callable[..., RedisStore]) -> None:
    sign_in(make(server.url, OLD), ANA)
    store = make(server.url, NEW)
    (row,) = names_of(store)
    before = store.load_row(row)
    done = run(reencrypt(store))
    assert (done, done.complete) == (Reencrypted(False, unopened=1), False)
    assert store.load_row(row) == before


@pytest.fixture(params=["one server", "cluster"])
def wherever(request: pytest.FixtureRequest) -> Any:
    """What a store is made of: a URL, or a client of a cluster of three."""
    if request.param == "cluster":
        return request.getfixturevalue("cluster_client")
    return request.getfixturevalue("server").url


def test_no_write_is_lost_and_nothing_removed_comes_back_while_keys_change(
    wherever: Any, make: Callable[..., RedisStore]
) -> None:
    """Workers of before and after the deployment count up, and remove, what the command goes over all the time."""
    idle, counted, removed = ([f"{what} {n}" for n in range(5)] for what in ("idle", "counted", "removed"))
    old = make(wherever, OLD)
    for key in (*idle, *counted, *removed):
        assert old.replace(key, "", b"0")
    start = threading.Barrier(5)
    failures: list[BaseException] = []

    def work(store: RedisStore) -> None:
        try:
            start.wait(LONG_SECONDS)
            for _ in range(20):
                for key in counted:
                    while not store.replace(key, *next_count(store.load(key))):
                        pass
            for key in removed:
                while not store.replace(key, store.load(key).version, None):
                    pass
        except BaseException as error:
            failures.append(error)

    def next_count(there: Loaded) -> tuple[str, bytes]:
        assert (
            there.data is not None
        )  # neither the old workers nor the new ones ever meet what they cannot open
        return there.version, str(int(there.data) + 1).encode()

    before_and_after = [(OLD, NEW), (OLD, NEW), (NEW, OLD), (NEW, OLD)]
    workers = [threading.Thread(target=work, args=(make(wherever, *keys),)) for keys in before_and_after]
    for worker in workers:
        worker.start()
    store = make(wherever, NEW, OLD)
    start.wait(LONG_SECONDS)
    done = [run(reencrypt(store, batch=3))]
    while any(worker.is_alive() for worker in workers):
        done.append(run(reencrypt(store, batch=3)))
    assert failures == []
    assert sum(each.reencrypted for each in done) >= len(idle)
    assert sum(each.unopened for each in done) == 0

    assert run(reencrypt(store)).complete
    rotated = make(wherever, NEW)
    assert {rotated.load(key).data for key in idle} == {b"0"}
    assert {rotated.load(key).data for key in counted} == {b"80"}
    assert {rotated.load(key).data for key in removed} == {None}


# Going over the rows


def test_every_primary_of_a_cluster_is_gone_over(
    primaries: list[Server], cluster_client: Any, make: Callable[..., RedisStore], prefix: str
) -> None:
    store = make(cluster_client, OLD)
    for number in range(60):
        store.replace(str(number), "", b"tokens")
    assert all(server.admin.keys(f"{prefix}:cache:*") for server in primaries)
    for limit in (1, 7, 1000):
        names = names_of(store, limit)
        assert (len(names), len(set(names))) == (60, 60)
    assert run(reencrypt(make(cluster_client, NEW, OLD))) == Reencrypted(False, reencrypted=60)


def test_cluster_that_has_other_primaries_than_before_is_gone_over_anew(
    cluster_client: Any, make: Callable[..., RedisStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make(cluster_client, NEW)
    page = store.rows(limit=1)
    two = cluster_client.get_primaries()[:2]
    monkeypatch.setattr(cluster_client, "get_primaries", lambda: two)
    with pytest.raises(StoreError, match="primaries have changed"):
        store.rows(page.after, limit=1)
    assert store.rows(limit=1).after is not None


def test_rows_of_a_server_that_is_down_are_an_error_and_not_none(
    make: Callable[..., RedisStore], cluster_client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving() as gone:
        url = gone.url
    with pytest.raises(StoreError, match="cannot be reached"):
        make(url, NEW).rows(limit=9)

    def fail() -> None:
        raise ConnectionError("what a client says may hold a secret")

    monkeypatch.setattr(cluster_client, "get_primaries", fail)
    with pytest.raises(StoreError, match="cannot be reached") as caught:
        make(cluster_client, NEW).rows(limit=9)
    assert "secret" not in str(caught.value)


def test_rows_are_gone_over_through_sentinel(server: Server, make: Callable[..., RedisStore]) -> None:
    module = pytest.importorskip("redis.sentinel", reason="no client: install redis")
    with watching(server) as port:
        sentinel = module.Sentinel([("127.0.0.1", port)], socket_timeout=20)
        until(lambda: answers(lambda: sentinel.discover_master("primary")))
        with sentinel.master_for("primary", socket_timeout=20) as primary:
            sign_in(make(primary, OLD), ANA)
            assert run(reencrypt(make(primary, NEW, OLD))) == Reencrypted(False, reencrypted=1)
            assert account(make(primary, NEW), ANA)
        for each in sentinel.sentinels:
            each.close()


def test_rows_are_those_of_the_stores_own_prefix(
    server: Server, make: Callable[..., RedisStore], prefix: str
) -> None:
    own, other = make(server.url, NEW), make(server.url, OLD, prefix=f"{prefix}:cache:other")
    own.replace("alice", "", b"1")
    other.replace("alice", "", b"2")
    server.admin.set(f"{prefix}:cache:theirs", "another application's")
    server.admin.set(f"{prefix}:cache:".encode() + b"\xff" * 64, "another application's")
    assert len(names_of(own)) == 1
    assert run(reencrypt(own)) == Reencrypted(False, current=1)
    assert other.load("alice").data == b"2"


@pytest.mark.parametrize("limit", [0, -1])
def test_limit_below_one_is_a_mistake(server: Server, make: Callable[..., RedisStore], limit: int) -> None:
    with pytest.raises(ValueError, match="limit"):
        make(server.url).rows(limit=limit)


def test_row_that_is_encrypted_anew_goes_when_it_would_have_gone(
    server: Server, make: Callable[..., RedisStore]
) -> None:
    clock = Clock(1000.0)
    make(server.url, OLD, clock=clock, token_cache_lifetime_seconds=100).replace("alice", "", b"1")
    store = make(server.url, NEW, OLD, clock=clock)
    (name,) = names_of(store)
    before = server.admin.pexpiretime(store._cache(name))
    clock.advance(50)
    assert run(reencrypt(store)) == Reencrypted(False, reencrypted=1)
    assert server.admin.pexpiretime(store._cache(name)) == before
    assert store.load("alice").data == b"1"
    clock.advance(50)
    assert store.load("alice").data is None
    assert not store.replace_row(name, server.admin.hget(store._cache(name), "version").decode(), b"late")


def test_row_that_is_sent_twice_is_written(server: Server, make: Callable[..., RedisStore]) -> None:
    with client(server.url, socket_timeout=20) as inner:

        class Twice:
            def __getattr__(self, name: str) -> Any:
                return getattr(inner, name)

            def execute_command(self, *command: Any, **options: Any) -> Any:
                inner.execute_command(*command, **options)
                return inner.execute_command(*command, **options)

        store = make(server.url, NEW)
        store.replace("alice", "", b"1")
        (name,) = names_of(store)
        there = store.load_row(name)
        twice = make(Twice())
        assert twice.replace_row(name, there.version, there.data or b"")
        assert not twice.replace_row(name, there.version, there.data or b"")
        assert store.load("alice").data == b"1"
