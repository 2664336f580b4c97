"""`RedisStore` beside its contract: real servers that fail, hang, forget and refuse; two workers that keep in step."""

from __future__ import annotations

import asyncio
import os
import socket
import traceback
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import trustme

from msal_logout_middleware._drive import run, run_beside_loop, settle
from msal_logout_middleware.errors import StoreError
from msal_logout_middleware.stores import Ending, Jti, KeyMark, SessionRecord
from msal_logout_middleware.stores.redis import RedisStore
from msal_logout_middleware.testing.store_contract import Clock

from ..stories.servers import until
from .readers import Reader
from .servers import Server, client, encrypting, new_prefix, serving, watching

EXPIRES_AT = 9e9
DEAD = Ending(handles=("dead",), expires_at=EXPIRES_AT, work=b"work", lease_seconds=0)
PASSWORD = "pass-word-of-the-store"
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
may_warn = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # there may be threads


@pytest.fixture
def prefix() -> str:
    return new_prefix()


@pytest.fixture
def make(prefix: str) -> Iterator[Callable[..., Any]]:
    """Makes stores of one prefix, as each worker has one; the tests' end closes them."""
    stores: list[Any] = []

    def make(client_or_url: Any, **options: Any) -> Any:
        stores.append(RedisStore(client_or_url, **{"prefix": prefix, **options}))
        return stores[-1]

    yield make
    for store in stores:
        store.close()


@pytest.fixture
def store(server: Server, make: Callable[..., Any]) -> Any:
    return make(server.url)


@pytest.fixture
def own_server() -> Iterator[Server]:
    """A server that a test may do anything with; it writes through to its disk."""
    with serving("--appendonly", "yes", "--appendfsync", "always") as server:
        yield server


def unused_url() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"redis://127.0.0.1:{free.getsockname()[1]}"


def end(store: Any, *handles: str) -> Any:
    return store.end(Ending(handles=handles, expires_at=EXPIRES_AT))


def record(handle: str, session: str = "s", **changes: Any) -> SessionRecord:
    values = {"keys": ("sub",), "issued_at": 1.0, "data": b"", "expires_at": EXPIRES_AT, **changes}
    return SessionRecord(handle, session, **values)


def keys_of(server: Server, prefix: str) -> set[str]:
    return {key.decode() for key in server.admin.keys(f"*{prefix}*")}


# What it is made of


@pytest.mark.parametrize("prefix", ["", "a{b", "a}", "a*", "a?", "[a]", "a\\"])
def test_prefix_that_would_name_other_keys_is_refused(prefix: str) -> None:
    with pytest.raises(ValueError, match="prefix"):
        RedisStore(unused_url(), prefix=prefix)


@pytest.mark.parametrize(
    "options",
    [
        {"bound_seconds": 0},
        {"timeout_seconds": 0},
        {"wait_replicas": -1},
        {"wait_seconds": 2.0},
        {"wait_seconds": 0},
    ],
)
def test_number_that_makes_no_sense_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must"):
        RedisStore(unused_url(), **options)


@pytest.mark.parametrize("what", [object(), None, b"redis://localhost"])
def test_what_is_no_client_is_refused(what: Any) -> None:
    with pytest.raises(TypeError, match="client"):
        RedisStore(what)


def test_class_of_a_client_is_refused() -> None:
    with pytest.raises(TypeError, match="client"):
        RedisStore(pytest.importorskip("redis").Redis)


def test_sentinel_itself_is_refused() -> None:
    sentinel = pytest.importorskip("redis.sentinel").Sentinel([("127.0.0.1", 1)])
    with pytest.raises(TypeError, match="master_for"):
        RedisStore(sentinel)


def test_plain_client_of_a_cluster_is_told_so(primaries: list[Server], make: Callable[..., Any]) -> None:
    store = make(primaries[0].url)
    with pytest.raises(StoreError, match="one of a cluster"):
        for number in range(100):
            store.load(f"somebody's {number}")


def test_calls_of_a_plain_client_block_and_those_of_an_asyncio_client_do_not(server: Server) -> None:
    asyncio_redis = pytest.importorskip("redis.asyncio")
    plain, asynchronous = RedisStore(server.url), RedisStore(asyncio_redis.Redis.from_url(server.url))
    assert (plain.is_async, plain.blocking) == (False, True)
    assert (asynchronous.is_async, asynchronous.blocking) == (True, False)


def test_url_of_valkey_is_served_by_its_client(server: Server, make: Callable[..., Any]) -> None:
    store = make(server.url.replace("redis:", "valkey:"))
    assert type(store._server._client).__module__.startswith("valkey.")
    assert store.load("alice") == (None, "")


@pytest.mark.parametrize(
    "url",
    [
        f"redis://user:{PASSWORD}/@host:1x",
        f"redis://user:{PASSWORD}#@host:port",
        f"http://user:{PASSWORD}@host",
        f"redis://user:{PASSWORD}@host:{PASSWORD}",
    ],
)
def test_url_that_cannot_be_read_is_refused_without_being_quoted(url: str) -> None:
    with pytest.raises(ValueError, match="percent-encoded") as caught:
        RedisStore(url)
    assert PASSWORD not in "".join(traceback.format_exception(caught.value))


def test_client_without_a_timeout_is_told_of(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    RedisStore(client(server.url, socket_timeout=1))
    assert caplog.records == []
    RedisStore(client(server.url, socket_timeout=None))
    assert "socket_timeout" in caplog.text


def test_store_that_is_down_stops_no_app_from_starting(make: Callable[..., Any]) -> None:
    store = make(unused_url())
    assert store.generation() is None
    with pytest.raises(StoreError, match="cannot be reached"):
        store.load("alice")


def test_nothing_is_sent_before_the_first_use(own_server: Server, make: Callable[..., Any]) -> None:
    before = own_server.admin.info("stats")["total_connections_received"]
    make(own_server.url).close()
    assert own_server.admin.info("stats")["total_connections_received"] == before


# Who sees what


def test_password_is_never_shown(own_server: Server, caplog: pytest.LogCaptureFixture) -> None:
    own_server.admin.execute_command("ACL", "SETUSER", "app", "on", f">{PASSWORD}", "allkeys", "+@all")
    url = own_server.url.replace("//", f"//app:{PASSWORD}x@")
    store = RedisStore(url)
    assert PASSWORD not in repr(store)
    with pytest.raises(StoreError, match="refuses the user or the password") as caught:
        store.end(DEAD)
    store.generation()
    until(lambda: "refuses the user" in caplog.text)
    store.close()
    assert PASSWORD not in "".join(traceback.format_exception(caught.value)) + caplog.text


def test_cache_key_does_not_stand_in_the_server(server: Server, store: Any, prefix: str) -> None:
    store.replace("alice@example.com", "", b"1")
    (key,) = keys_of(server, prefix)
    assert key.startswith(f"{prefix}:cache:")
    assert "alice" not in key


def test_stores_of_two_prefixes_do_not_know_each_other(
    server: Server, store: Any, make: Callable[..., Any]
) -> None:
    other = make(server.url, prefix=new_prefix())
    store.replace("alice", "", b"1")
    end(store, "h")
    assert other.load("alice") == (None, "")
    assert list(other.marks_since(0, limit=9).marks) == []


def test_keys_of_the_index_have_one_place_in_a_cluster_and_token_caches_many(
    server: Server, store: Any, prefix: str
) -> None:
    for number in range(9):
        store.replace(str(number), "", b"1")
    store.add(record("h"), sign_in=True)
    store.end(Ending(keys=(KeyMark("k", 1.0),), expires_at=EXPIRES_AT, work=b"", jti=Jti("jti", EXPIRES_AT)))
    index = {key for key in keys_of(server, prefix) if not key.startswith(f"{prefix}:cache:")}
    assert all(key.startswith(f"{{{prefix}}}:") for key in index)
    assert len(keys_of(server, prefix) - index) == 9


# Round trips


class Counting:
    """A client that counts what it is asked, and may send each command twice."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.commands: list[str] = []
        self.sends_twice = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def execute_command(self, *command: Any, **options: Any) -> Any:
        self.commands.append(str(command[0]))
        if self.sends_twice:
            self._inner.execute_command(*command, **options)
        return self._inner.execute_command(*command, **options)


@pytest.fixture
def counting(server: Server) -> Iterator[Counting]:
    with client(server.url, socket_timeout=20) as inner:
        yield Counting(inner)


def call_everything(store: Any) -> list[Any]:
    row = store.end(DEAD).row
    return [
        *(store.load("alice"), store.replace("alice", "", b"1"), store.get("h")),
        *(store.add(record("h"), sign_in=True), store.join(record("h2")), store.find("sub"), row),
        *(
            store.take(limit=9, lease_seconds=9),
            store.open_rows(),
            store.finish(row),
            store.marks_since(0, limit=9),
        ),
    ]


def test_each_method_is_one_round_trip(counting: Counting, make: Callable[..., Any]) -> None:
    call_everything(make(counting, prefix=new_prefix()))  # by which the server learns the scripts
    counting.commands.clear()
    call_everything(make(counting))
    assert len(counting.commands) == 11
    assert set(counting.commands) == {"EVALSHA", "HMGET", "GET"}


def test_scripts_that_the_server_has_forgotten_are_sent_again(server: Server, store: Any) -> None:
    store.end(DEAD)
    server.admin.script_flush()
    assert store.end(DEAD).claimed


# Clients send again what they got no answer to


def test_ending_that_is_sent_twice_is_done_once_and_tells_what_it_did(
    counting: Counting, make: Callable[..., Any], server: Server
) -> None:
    store, other = make(counting), make(server.url)
    records = (record("h1", data=b"1"), record("h2", data=b"2"))
    for each in records:
        store.join(each)
    ending = Ending(
        found_by=("sub",), work=b"work", expires_at=EXPIRES_AT, jti=Jti("jti", EXPIRES_AT), lease_seconds=0
    )
    counting.sends_twice = True
    ended = store.end(ending)
    counting.sends_twice = False
    assert (ended.claimed, ended.records) == (True, records)
    assert [(row.row, row.data) for row in other.take(limit=9, lease_seconds=0)] == [
        (ended.row, (b"1", b"2"))
    ]
    assert other.marks_since(0, limit=9).cursor == ended.sequence
    assert not store.end(ending).claimed


def test_claim_that_is_sent_twice_is_granted(counting: Counting, make: Callable[..., Any]) -> None:
    store = make(counting)
    counting.sends_twice = True
    assert store.end(Ending(found_by=("nobody's",), jti=Jti("jti", EXPIRES_AT))).claimed
    assert not store.end(Ending(found_by=("nobody's",), jti=Jti("jti", EXPIRES_AT))).claimed


def test_save_that_is_sent_twice_is_done(counting: Counting, make: Callable[..., Any]) -> None:
    store = make(counting)
    counting.sends_twice = True
    assert store.replace("alice", "", b"1")
    assert not store.replace("alice", "", b"2")


def test_worker_that_got_no_answer_to_its_ending_is_not_sure_any_more(
    counting: Counting, make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make(counting)
    until(lambda: store.generation() is not None)
    execute = counting._inner.execute_command

    def lose_the_answer(*command: Any, **options: Any) -> Any:
        execute(*command, **options)
        raise ConnectionResetError

    monkeypatch.setattr(counting._inner, "execute_command", lose_the_answer)
    with pytest.raises(StoreError, match="cannot be reached"):
        end(store, "h")
    assert store.generation() is None
    monkeypatch.undo()
    reader = Reader(store)
    assert reader.look() == {"h"}


# Two workers


@pytest.fixture
def workers(own_server: Server, make: Callable[..., Any]) -> tuple[Any, Any]:
    """Two workers that are in step. Nothing but messages tells them anything quickly: the bound is long."""
    return worker(own_server, make), worker(own_server, make)


def worker(server: Server, make: Callable[..., Any], *, bound_seconds: float = 600) -> Any:
    store = make(server.url, bound_seconds=bound_seconds)
    until(lambda: store.generation() is not None)
    return store


def hears(store: Any, *handles: str) -> Callable[[], bool]:
    """Tell whether a worker knows by itself that handles have ended."""

    def has_heard() -> bool:
        if store.generation() is None:
            return False
        return set(handles) <= {mark.value for mark in store.marks_since(0, limit=9999).marks}

    return has_heard


def test_other_worker_hears_of_each_ending(workers: tuple[Any, Any]) -> None:
    one, other = workers
    for number in range(5):
        before = other.generation()
        end(one, f"h{number}")
        assert one.generation() not in (before, None)  # its own worker at once
        until(hears(other, f"h{number}"))
        assert other.generation() == one.generation()


def test_ending_of_more_than_a_message_holds_is_heard_of(workers: tuple[Any, Any]) -> None:
    one, other = workers
    handles = [f"h{number}" for number in range(1200)]
    end(one, *handles)
    until(hears(other, *handles))


def test_worker_whose_subscription_was_cut_is_in_step_again(
    own_server: Server, workers: tuple[Any, Any]
) -> None:
    one, other = workers
    assert own_server.admin.execute_command("CLIENT", "KILL", "TYPE", "pubsub") >= 2
    end(one, "h")
    until(hears(other, "h"))
    end(one, "h2")
    until(hears(other, "h2"))


def test_foreign_message_tells_nothing(own_server: Server, workers: tuple[Any, Any], prefix: str) -> None:
    one, other = workers
    before = other.generation()
    messages = (
        *(b"\xff", b"{}", b"[]", b"[" * 100_000),
        *(b'["e", "1", "x", "2", "y", [["q", "", "", "", ""]]]', b'["e", Infinity, "x", "2", "y", []]'),
    )
    for message in messages:
        own_server.admin.publish(f"{{{prefix}}}:endings", message)
        assert other._hear(message) is None
    assert other.generation() == before
    end(one, "h")
    until(hears(other, "h"))


def test_workers_keep_all_through_a_restart_of_a_server_that_writes_to_its_disk(
    own_server: Server, workers: tuple[Any, Any]
) -> None:
    one, other = workers
    end(one, "before")
    epoch, _, _ = other.marks_since(0, limit=9).epoch.partition(".")
    own_server.stop()
    until(lambda: one.generation() is None and other.generation() is None)
    with pytest.raises(StoreError, match="cannot be reached"):
        end(one, "h")
    own_server.start()
    until(hears(other, "before"))
    end(one, "h")
    until(hears(other, "h"))
    assert other.marks_since(0, limit=9).epoch.startswith(f"{epoch}.")


def test_worker_of_a_server_that_hangs_is_not_vouched_for_and_goes_on_when_it_does(
    own_server: Server, make: Callable[..., Any]
) -> None:
    store = make(own_server.url, bound_seconds=0.2, timeout_seconds=0.3, wait_seconds=0.1)
    until(lambda: store.generation() is not None)
    with own_server.paused():
        until(lambda: store.generation() is None, timeout_seconds=2)
        with pytest.raises(StoreError, match="did not answer in time"):
            store.load("alice")
    until(lambda: store.generation() is not None)
    assert store.load("alice") == (None, "")


def test_worker_of_a_server_that_was_emptied_reads_it_anew(
    own_server: Server, make: Callable[..., Any]
) -> None:
    store = worker(own_server, make, bound_seconds=0.2)
    reader = Reader(store)
    end(store, "h")
    assert reader.look() == {"h"}
    own_server.admin.flushall()
    until(lambda: reader.look() == set())
    end(store, "h2")
    assert reader.look() == {"h2"}


def test_closed_store_leaves_no_connection_and_opens_anew(
    own_server: Server, make: Callable[..., Any]
) -> None:
    store = worker(own_server, make)
    store.close()
    until(lambda: len(own_server.admin.client_list()) == 1)
    end(store, "h")
    until(hears(store, "h"))


def test_given_client_is_left_open(server: Server, make: Callable[..., Any]) -> None:
    with client(server.url, socket_timeout=20) as given:
        store = make(given)
        store.end(DEAD)
        before = server.admin.info("stats")["total_connections_received"]
        store.close()
        given.ping()
        assert server.admin.info("stats")["total_connections_received"] == before


@forks
@may_warn
def test_forked_worker_has_connections_and_a_follower_of_its_own(workers: tuple[Any, Any]) -> None:
    one, other = workers
    end(one, "before")
    child = os.fork()
    if not child:
        status = 1
        try:
            until(hears(one, "before"))
            end(one, "child's")
            until(hears(one, "parent's"))
            status = 0
        finally:
            os._exit(status)
    until(hears(other, "child's"))
    end(other, "parent's")
    assert os.waitpid(child, 0)[1] == 0
    until(hears(one, "parent's"))


# On an event loop


def asyncio_client(server: Server, **options: Any) -> Any:
    return pytest.importorskip("redis.asyncio", reason="no client: install redis").Redis.from_url(
        server.url, **options
    )


async def until_on_loop(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


def test_asynchronous_workers_hear_of_each_other(server: Server, prefix: str) -> None:
    async def story() -> None:
        async with asyncio_client(server) as first, asyncio_client(server) as second:
            one, other = (RedisStore(each, prefix=prefix, bound_seconds=600) for each in (first, second))
            await until_on_loop(lambda: one.generation() == other.generation() is not None)
            ended = await end(one, "h")
            await until_on_loop(hears(other, "h"))
            assert one.generation() == other.generation()
            assert other.marks_since(0, limit=9).cursor == ended.sequence
            for store in (one, other):
                await store.close()

    asyncio.run(story())


def test_asynchronous_cluster_client_without_messages_hears_within_the_bound(
    cluster: Server, prefix: str
) -> None:
    module = pytest.importorskip("valkey.asyncio.cluster", reason="no client: install valkey")

    async def story() -> None:
        async with module.ValkeyCluster.from_url(cluster.url) as client:
            one, other = (RedisStore(client, prefix=prefix) for _ in range(2))
            await until_on_loop(lambda: other.generation() is not None)
            await end(one, "h")
            await until_on_loop(hears(other, "h"))
            for store in (one, other):
                await store.close()

    asyncio.run(story())


def test_asynchronous_cluster_client_hears_from_the_first_on(
    cluster: Server, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    module = pytest.importorskip("redis.asyncio.cluster", reason="no client: install redis")

    async def story() -> None:
        client = module.RedisCluster.from_url(cluster.url)  # which knows no server before its first command
        store = RedisStore(client, prefix=prefix)
        await until_on_loop(lambda: store.generation() is not None)
        await store.close()
        await getattr(client, "aclose", client.close)()

    asyncio.run(story())
    assert "broken" not in caplog.text


@pytest.mark.parametrize("way", [{}, {"max_connections": 3}], ids=["directly", "by the client"])
def test_call_of_an_asyncio_client_waits_for_its_timeout_at_most(
    own_server: Server, prefix: str, way: dict[str, Any]
) -> None:
    async def story() -> None:
        async with asyncio_client(own_server, socket_timeout=None, **way) as client:
            store = RedisStore(client, prefix=prefix, timeout_seconds=0.2, wait_seconds=0.1)
            assert await store.load("alice") == (None, "")
            async with asyncio.timeout(20):
                with own_server.paused(), pytest.raises(StoreError, match="did not answer in time"):
                    await store.end(DEAD)
            assert (await store.end(DEAD)).claimed
            await store.close()

    asyncio.run(story())


def test_asynchronous_store_is_asked_from_a_thread_beside_its_loop(server: Server, prefix: str) -> None:
    async def flow(store: Any) -> Any:
        await settle(store.end(DEAD))
        return await settle(store.marks_since(0, limit=9))

    async def story() -> None:
        async with asyncio_client(server) as client:
            store = RedisStore(client, prefix=prefix)
            marks = await run_beside_loop(flow(store))
            assert [mark.value for mark in marks.marks] == ["dead"]
            await store.close()

    asyncio.run(story())


# Replicas


@pytest.fixture
def replica(own_server: Server) -> Iterator[Server]:
    with serving("--replicaof", "127.0.0.1", str(own_server.port)) as server:
        until(lambda: server.admin.info("replication")["master_link_status"] == "up")
        yield server


def test_server_that_is_no_primary_any_more_is_not_vouched_for(
    own_server: Server, make: Callable[..., Any]
) -> None:
    """It answers still, and knows no new ending; nobody has cut its connections."""
    store = worker(own_server, make, bound_seconds=1)
    end(store, "h")
    until(hears(store, "h"))
    own_server.admin.execute_command("REPLICAOF", "127.0.0.1", 1)  # where nobody is
    until(lambda: store.generation() is None)
    with pytest.raises(StoreError, match="is a replica"):
        store.marks_since(0, limit=9)
    own_server.admin.execute_command("REPLICAOF", "NO", "ONE")
    until(hears(store, "h"))


def test_asyncio_worker_does_not_vouch_for_a_server_that_is_no_primary_any_more(
    own_server: Server, prefix: str
) -> None:
    async def story() -> None:
        async with asyncio_client(own_server) as client:
            store: Any = RedisStore(client, prefix=prefix)
            while store.generation() is None:
                await asyncio.sleep(0.01)
            own_server.admin.execute_command("REPLICAOF", "127.0.0.1", 1)
            while store.generation() is not None:
                await asyncio.sleep(0.01)
            own_server.admin.execute_command("REPLICAOF", "NO", "ONE")
            while store.generation() is None:
                await asyncio.sleep(0.01)
            await store.close()

    asyncio.run(asyncio.wait_for(story(), 60))


def test_sign_out_that_a_replica_has_is_finished(
    own_server: Server, replica: Server, make: Callable[..., Any]
) -> None:
    store = make(own_server.url, wait_replicas=1)
    ended = store.end(DEAD)
    store.finish(ended.row)
    assert store.open_rows() == 0
    assert replica.admin.hget(store._index[0], "tip") is not None
    assert end(store, "h").claimed


def test_sign_out_that_too_few_replicas_have_is_not_finished_and_can_be_later(
    own_server: Server, make: Callable[..., Any]
) -> None:
    store = make(own_server.url, wait_replicas=1, wait_seconds=0.05)
    ended = store.end(DEAD)
    for _ in range(2):
        with pytest.raises(StoreError, match="0 of the 1 replicas"):
            store.finish(ended.row)
        assert store.open_rows() == 1
    with serving("--replicaof", "127.0.0.1", str(own_server.port)) as server:
        until(lambda: server.admin.info("replication")["master_link_status"] == "up")
        until(lambda: answers(lambda: store.finish(ended.row) is None))
    assert store.open_rows() == 0


def test_ending_without_work_that_too_few_replicas_have_is_an_error(
    own_server: Server, make: Callable[..., Any]
) -> None:
    store = make(own_server.url, wait_replicas=1, wait_seconds=0.05)
    with pytest.raises(StoreError, match="0 of the 1 replicas"):
        end(store, "h")
    assert store.end(Ending(found_by=("nobody's",), jti=Jti("jti", EXPIRES_AT))).claimed  # nothing to be lost


def test_replicas_are_waited_for_on_an_event_loop_as_well(
    own_server: Server, replica: Server, prefix: str
) -> None:
    async def story() -> None:
        async with asyncio_client(own_server) as client:
            store = RedisStore(client, prefix=prefix, wait_replicas=1)
            await store.finish((await store.end(DEAD)).row)
            assert await store.open_rows() == 0
            await store.close()
            store = RedisStore(client, prefix=prefix, wait_replicas=2, wait_seconds=0.05)
            with pytest.raises(StoreError, match="1 of the 2 replicas"):
                await store.finish((await store.end(DEAD)).row)
            await store.close()

    asyncio.run(story())


def test_replicas_cannot_be_waited_for_in_a_cluster(cluster: Server) -> None:
    module = pytest.importorskip("redis.cluster", reason="no client: install redis")
    with (
        module.RedisCluster.from_url(cluster.url, socket_timeout=20) as client,
        pytest.raises(ValueError, match="Cluster"),
    ):
        RedisStore(client, wait_replicas=1)


def test_replica_that_was_promoted_without_the_last_endings_is_read_anew(
    own_server: Server, replica: Server, make: Callable[..., Any]
) -> None:
    store = worker(own_server, make, bound_seconds=0.2)
    reader = Reader(store)
    end(store, "h")
    assert reader.look() == {"h"}
    until(lambda: replica.admin.hget(store._index[0], "tip") == own_server.admin.hget(store._index[0], "tip"))
    replica.admin.execute_command("REPLICAOF", "NO", "ONE")
    end(store, "lost")
    assert reader.look() == {"h", "lost"}
    own_server.stop()
    own_server.port, replica.port = replica.port, own_server.port
    run(store._server._lines.close())
    store._server._client.connection_pool.connection_kwargs["port"] = own_server.port
    store._server._client.connection_pool.reset()
    end(store, "new")
    until(lambda: reader.look() == {"h", "new"})


def test_server_that_was_started_anew_without_the_last_sessions_is_another_life(
    make: Callable[..., Any],
) -> None:
    with serving() as server:
        store = worker(server, make)
        end(store, "h")
        life, before = store.marks_since(0, limit=9).epoch, store.generation()
        server.admin.save()
        assert store.add(record("lost"), sign_in=True)
        server.stop()
        server.start()
        until(lambda: answers(lambda: store.marks_since(0, limit=9).epoch != life))
        assert store.get("lost") is None
        assert store.generation() not in (before, None)
        assert [mark.value for mark in store.marks_since(0, limit=9).marks] == ["h"]


def test_replica_that_was_promoted_without_the_last_sessions_is_another_life(
    own_server: Server, replica: Server, make: Callable[..., Any]
) -> None:
    store = worker(own_server, make, bound_seconds=0.2)
    end(store, "h")
    until(lambda: replica.admin.hget(store._index[0], "tip") == own_server.admin.hget(store._index[0], "tip"))
    life = store.marks_since(0, limit=9).epoch
    replica.admin.execute_command("REPLICAOF", "NO", "ONE")
    assert store.add(record("lost"), sign_in=True)
    own_server.stop()
    own_server.port, replica.port = replica.port, own_server.port
    run(store._server._lines.close())
    store._server._client.connection_pool.connection_kwargs["port"] = own_server.port
    store._server._client.connection_pool.reset()
    until(lambda: answers(lambda: store.marks_since(0, limit=9).epoch != life))
    assert store.get("lost") is None


def test_server_that_does_not_say_which_it_is_is_asked_all_the_same(
    own_server: Server, make: Callable[..., Any]
) -> None:
    own_server.admin.execute_command("ACL", "SETUSER", "app", "on", ">word", "~*", "&*", "+@all", "-info")
    store = make(own_server.url.replace("//", "//app:word@"))
    end(store, "h")
    until(lambda: store.generation() is not None)
    assert [mark.value for mark in store.marks_since(0, limit=9).marks] == ["h"]


def test_sentinel_leads_to_the_primary_and_after_a_failover_to_the_new_one(
    own_server: Server, replica: Server, make: Callable[..., Any]
) -> None:
    module = pytest.importorskip("redis.sentinel", reason="no client: install redis")
    with watching(own_server) as port:
        sentinel = module.Sentinel([("127.0.0.1", port)], socket_timeout=1)
        until(lambda: answers(lambda: sentinel.discover_slaves("primary")))
        with sentinel.master_for("primary", socket_timeout=1) as primary:
            store = make(primary, bound_seconds=0.5)
            reader = Reader(store)
            end(store, "h")
            assert reader.look() == {"h"}
            tip = own_server.admin.hget(store._index[0], "tip")
            until(lambda: replica.admin.hget(store._index[0], "tip") == tip)
            own_server.stop()
            until(lambda: answers(lambda: end(store, "h2")))
            until(lambda: answers(lambda: reader.look() == {"h", "h2"} and store.generation() is not None))
            store.close()
        for client in sentinel.sentinels:
            client.close()


def answers(call: Callable[[], Any]) -> Any:
    """Return what a call comes to; nothing, if there is nobody to answer."""
    try:
        return call()
    except Exception:
        return None


# What a server may refuse


def test_replica_is_not_written(own_server: Server, replica: Server, make: Callable[..., Any]) -> None:
    with pytest.raises(StoreError, match="is a replica"):
        make(replica.url).end(DEAD)


def test_server_without_memory_changes_nothing_and_goes_on_when_it_has_some(
    own_server: Server, make: Callable[..., Any]
) -> None:
    store = make(own_server.url)
    store.add(record("h"), sign_in=True)
    own_server.admin.config_set("maxmemory", 1)
    for call in (
        lambda: store.end(Ending(handles=("h",), work=b"w" * 1000, expires_at=EXPIRES_AT)),
        lambda: store.replace("alice", "", b"1"),
    ):
        with pytest.raises(StoreError, match="has no memory left"):
            call()
    own_server.admin.config_set("maxmemory", 0)
    assert store.get("h")
    assert list(store.marks_since(0, limit=9).marks) == []
    assert store.load("alice") == (None, "")
    assert end(store, "h").claimed


@pytest.mark.parametrize(
    ("requirepass", "said"), [(PASSWORD, "refuses the user or the password"), (None, "cannot be reached")]
)
def test_what_an_asyncio_client_tries_again_for_is_told(
    own_server: Server, prefix: str, requirepass: str | None, said: str
) -> None:
    url = own_server.url if requirepass else unused_url()
    if requirepass:
        own_server.admin.config_set("requirepass", requirepass)

    async def story() -> None:
        client = pytest.importorskip("redis.asyncio").Redis.from_url(url, password="another")
        store = RedisStore(client, prefix=prefix, timeout_seconds=0.5, wait_seconds=0.1)
        with pytest.raises(StoreError, match=said):
            await store.load("alice")
        await store.close()
        await getattr(client, "aclose", client.close)()

    asyncio.run(story())


def test_database_that_the_server_does_not_have_is_told_of(server: Server, make: Callable[..., Any]) -> None:
    with pytest.raises(StoreError, match="no database of that number"):
        make(f"{server.url}/99").load("alice")


def test_another_applications_keys_are_told_of(server: Server, store: Any, prefix: str) -> None:
    server.admin.set(f"{{{prefix}}}:state", "theirs")
    with pytest.raises(StoreError, match="another application's keys"):
        store.end(DEAD)


ACL = [  # as docs/stores.md has it
    *(
        "-@all",
        "+eval",
        "+evalsha",
        "+get",
        "+set",
        "+del",
        "+exists",
        "+pexpire",
        "+pttl",
        "+publish",
        "+subscribe",
    ),
    *(
        "+unsubscribe",
        "+hget",
        "+hmget",
        "+hset",
        "+hdel",
        "+hexists",
        "+hincrby",
        "+zadd",
        "+zcard",
        "+zrange",
    ),
    *("+zrangebyscore", "+zrem", "+zremrangebyrank", "+zscore", "+wait", "+scan", "+ping", "+info"),
]


def test_user_who_may_do_what_the_documentation_says_is_served(
    own_server: Server, make: Callable[..., Any], prefix: str
) -> None:
    patterns = [f"~{{{prefix}}}:*", f"~{prefix}:cache:*", f"&{{{prefix}}}:endings"]
    own_server.admin.execute_command("ACL", "SETUSER", "app", "reset", "on", f">{PASSWORD}", *patterns, *ACL)
    url = own_server.url.replace("//", f"//app:{PASSWORD}@")
    store = make(url, wait_replicas=0, clock=Clock(1000.0))
    call_everything(store)
    ending = Ending(
        found_by=("sub",),
        keys=(KeyMark("k", 1.0),),
        work=b"1",
        expires_at=9999.0,
        jti=Jti("j", 2.0),
        lease_seconds=0,
    )
    store.end(ending)
    store.end(ending)
    (row,) = store.rows(limit=100).names
    assert store.replace_row(row, store.load_row(row).version, b"2")
    store.replace("alice", store.load("alice").version, None)
    store.take(limit=9, lease_seconds=1)
    store.sweep()
    until(lambda: store.generation() is not None)
    end(store, "h")
    stranger = make(url, prefix="other")
    with pytest.raises(StoreError, match=r"does not allow its user.*a key: is the prefix"):
        stranger.load("alice")
    own_server.admin.execute_command("ACL", "SETUSER", "app", "-hmget")
    with pytest.raises(StoreError, match=r"does not allow its user.*the command hmget"):
        store.load("alice")
    with pytest.raises(StoreError, match="does not allow its user"):
        stranger.end(DEAD)


def test_documentation_says_what_the_user_must_be_allowed() -> None:
    page = (Path(__file__).parents[2] / "docs/stores.md").read_text()
    block = next(block for block in page.split("```") if "ACL SETUSER" in block)
    assert {word for word in block.split() if word.startswith(("+", "-@"))} == set(ACL)


def test_connection_is_encrypted_where_the_url_says_so(
    server: Server, make: Callable[..., Any], tmp_path: Path
) -> None:
    authority, stranger = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    stranger.cert_pem.write_to_path(tmp_path / "stranger.pem")
    with encrypting(authority.issue_cert("localhost"), server) as port:
        store = make(f"rediss://localhost:{port}?ssl_ca_certs={tmp_path / 'ca.pem'}")
        assert store.end(DEAD).claimed
        with pytest.raises(StoreError, match="cannot be reached"):
            make(f"rediss://localhost:{port}?ssl_ca_certs={tmp_path / 'stranger.pem'}").load("alice")
        store.close()


# What expires


def test_all_that_is_written_expires_by_itself_but_what_must_not(
    server: Server, store: Any, prefix: str
) -> None:
    store.replace("alice", "", b"1")
    store.replace("bob", "", None)
    store.join(record("h"))
    store.end(
        Ending(
            found_by=("sub",),
            keys=(KeyMark("k", 1.0),),
            work=b"",
            expires_at=EXPIRES_AT,
            jti=Jti("jti", EXPIRES_AT),
        )
    )
    store.join(record("h2", "s2"))
    lasting = {key for key in keys_of(server, prefix) if server.admin.pttl(key) == -1}
    assert {key.partition(":")[2].partition(":")[0] for key in lasting} == {"state", "tips", "row", "leased"}


def test_server_keeps_things_an_hour_longer_than_they_live(server: Server, make: Callable[..., Any]) -> None:
    store = make(server.url, clock=Clock(1000.0), removed_row_seconds=10, token_cache_lifetime_seconds=20)
    store.replace("alice", "", b"1")
    store.replace("bob", "", None)
    store.add(record("h", expires_at=1030.0), sign_in=True)
    store.end(Ending(handles=("x",), expires_at=1040.0, jti=Jti("jti", 1050.0)))
    kept = {
        store._cache(sha256(b"alice").hexdigest()): 20,
        store._cache(sha256(b"bob").hexdigest()): 10,
        store._base + b"record:h": 30,
        store._base + b"session:s": 30,
        store._base + b"key:sub": 30,
        store._base + b"marks": 40,
        store._base + b"expiry": 40,
        store._base + b"jti:jti": 50,
    }
    for key, seconds in kept.items():
        assert 3600 + seconds - 5 < server.admin.pttl(key) / 1000 <= 3600 + seconds


def test_what_lives_longer_is_not_cut_short_by_what_comes_later(
    server: Server, make: Callable[..., Any]
) -> None:
    store = make(server.url, clock=Clock(1000.0))
    store.end(Ending(keys=(KeyMark("a", 1.0),), expires_at=9000.0))
    store.join(record("h", expires_at=9000.0))
    store.end(Ending(keys=(KeyMark("b", 1.0),), expires_at=1001.0))
    store.join(record("h2", expires_at=1001.0))
    for name in ("marks", "expiry", "before", "session:s", "key:sub"):
        assert server.admin.pttl(store._base + name.encode()) > 8_000_000 + 3_600_000 - 60_000


def test_write_sweeps_a_bounded_number_of_marks(server: Server, make: Callable[..., Any]) -> None:
    clock = Clock(1000.0)
    store = make(server.url, clock=clock)
    for number in range(60):
        store.end(Ending(keys=(KeyMark(f"k{number}", 1.0),), expires_at=2000.0))
    clock.now = 2000.0 + 3600
    left = [60]
    for number in range(2):
        store.add(record(f"h{number}"), sign_in=True)
        left.append(server.admin.zcard(store._base + b"marks"))
    assert left == [60, 40, 20]
    assert store.sweep() == 20
    for name in ("marks", "expiry", "before"):
        assert server.admin.exists(store._base + name.encode()) == 0


def test_user_who_signs_in_for_years_leaves_no_growing_list(server: Server, make: Callable[..., Any]) -> None:
    clock = Clock(1000.0)
    store = make(server.url, clock=clock)
    for number in range(50):
        store.add(record(f"h{number}", f"s{number}", expires_at=clock.now + 10), sign_in=True)
        clock.advance(5)
    assert server.admin.zcard(store._base + b"key:sub") <= 3
    assert len(server.admin.keys(store._base + b"record:*")) <= 3


def test_sweep_deletes_records_that_have_expired_and_nothing_else(
    server: Server, make: Callable[..., Any], prefix: str
) -> None:
    clock = Clock(1000.0)
    store = make(server.url, clock=clock)
    for number in range(600):
        store.add(
            record(f"old {number}", f"s{number}", keys=(f"k{number}",), expires_at=2000.0), sign_in=True
        )
    store.add(record("new"), sign_in=True)
    assert store.sweep() == 0
    clock.now = 2000.0
    assert store.sweep() == 600
    assert store.get("new")
    assert {key.partition(":")[2] for key in keys_of(server, prefix)} == {
        "state",
        "record:new",
        "session:s",
        "key:sub",
    }


def test_handle_that_the_server_forgot_and_that_is_another_users_now_is_not_found_by_its_old_keys(
    server: Server, make: Callable[..., Any]
) -> None:
    store = make(server.url, clock=Clock(1000.0))
    store.add(record("h", "old", keys=("old",)), sign_in=True)
    server.admin.delete(store._base + b"record:h")  # as if its time were over
    new = record("h", "new", keys=("new",))
    store.add(new, sign_in=True)
    assert store.find("old") == []
    store.end(Ending(found_by=("old",), sessions=("old",), expires_at=EXPIRES_AT))
    assert store.get("h") == new


def test_only_the_last_tips_are_kept(server: Server, store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(30):
        end(store, f"h{number}")
    assert server.admin.zcard(store._base + b"tips") == 31  # with the one before the first
    server.admin.eval("for n = 1, 10000 do redis.call('ZADD', KEYS[1], -n, n) end", 1, store._base + b"tips")
    end(store, "h")
    assert server.admin.zcard(store._base + b"tips") == 10_000


def test_leases_of_a_clock_that_was_set_back_are_void_and_others_are_not(
    server: Server, make: Callable[..., Any]
) -> None:
    clock = Clock(100_000.0)
    store = make(server.url, clock=clock)
    ended = [store.end(Ending(handles=("h",), work=b"1", expires_at=EXPIRES_AT))]
    clock.now = 90_000.0
    ended.append(store.end(Ending(handles=("h",), work=b"2", expires_at=EXPIRES_AT)))
    assert [row.row for row in store.take(limit=9, lease_seconds=9)] == [ended[0].row]
    assert store.take(limit=9, lease_seconds=9) == []
    assert store.open_rows() == 2


def test_lone_surrogate_is_a_mistake_wherever_it_stands(store: Any) -> None:
    for call in (
        lambda: store.load("\ud800"),
        lambda: store.replace("\ud800", "", b"1"),
        lambda: store.load_row("\ud800"),
        lambda: store.get("\ud800"),
        lambda: store.find("\ud800"),
        lambda: store.add(record("h", keys=("\ud800",)), sign_in=True),
        lambda: store.end(Ending(handles=("\ud800",))),
    ):
        with pytest.raises(ValueError, match="surrogate"):
            call()


@pytest.mark.parametrize("decodes", [False, True])
def test_settings_by_which_a_server_forgets_sign_outs_are_known(
    own_server: Server, make: Callable[..., Any], decodes: bool
) -> None:
    store = make(client(own_server.url, decode_responses=decodes))
    assert list(store.weaknesses()) == []
    own_server.admin.config_set("maxmemory-policy", "allkeys-lru")
    own_server.admin.config_set("appendonly", "no")
    policy, disk = store.weaknesses()
    assert policy == ("the server's maxmemory-policy is allkeys-lru", "set it to noeviction")
    assert disk.to_do == "set appendonly yes"


def test_settings_of_a_server_that_does_not_say_are_a_store_error(
    own_server: Server, make: Callable[..., Any]
) -> None:
    own_server.admin.execute_command("ACL", "SETUSER", "app", "on", ">word", "~*", "&*", "+@all", "-info")
    store = make(own_server.url.replace("redis://", "redis://app:word@"))
    with pytest.raises(StoreError, match="does not allow"):
        store.weaknesses()
