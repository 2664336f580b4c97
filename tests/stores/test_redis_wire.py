"""`RedisStore` over its client's own connections: what is read off them, and whose answer is whose."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest

from msal_logout_middleware.errors import StoreError
from msal_logout_middleware.stores import Ending, _redis_wire, _resp
from msal_logout_middleware.stores._resp import NotAnsweredError, packed, packed_call, parsed
from msal_logout_middleware.stores.redis import RedisStore

from .servers import Server, new_prefix

BOTH = pytest.mark.parametrize("is_async", [False, True], ids=["plain", "asyncio"])
VALUES: list[tuple[bytes, Any]] = [
    (b":12\r\n", 12),
    (b":-1\r\n", -1),
    (b"$3\r\na\r\n\r\n", b"a\r\n"),
    (b"$0\r\n\r\n", b""),
    (b"$-1\r\n", None),
    (b"_\r\n", None),
    (b"*0\r\n", []),
    (b"*3\r\n:1\r\n*1\r\n$1\r\nx\r\n$-1\r\n", [1, [b"x"], None]),
]


class Scripted:
    """A server that answers what a test says: each `GET` by the next of `answers`, all else by `+OK`.

    `None` is no answer; it comes, with the others, once `late` is set. A tuple is sent piece by piece.
    """

    def __init__(self) -> None:
        self.answers: list[Any] = []
        self.late: threading.Event = threading.Event()
        self.connections = 0
        self.gets: list[int] = []  # on which connection each came
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._listening.getsockname()[1]}?protocol=2"

    def close(self) -> None:
        self.late.set()
        self._listening.close()
        self.hang_up()

    def hang_up(self) -> None:
        """Close all connections."""
        for each in self._open:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        self._open.clear()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(connection)
            threading.Thread(target=self._serve, args=(connection, self.connections), daemon=True).start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        data = b""
        try:
            while more := connection.recv(65_536):
                data += more
                while data:
                    command, end = parsed(data, 0)
                    data = data[end:]
                    self._answer(connection, number, command)
        except OSError:
            return

    def _answer(self, connection: socket.socket, number: int, command: list[bytes]) -> None:
        if command[0] != b"GET":
            connection.sendall(b"+OK\r\n")
            return
        self.gets.append(number)
        answer = self.answers.pop(0)
        if answer is None:
            self.late.wait(20)
            answer = b"$4\r\nlate\r\n"
        for piece in answer if isinstance(answer, tuple) else (answer,):
            connection.sendall(piece)
            if isinstance(answer, tuple):
                threading.Event().wait(0.02)  # so that the pieces come one by one


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    server = Scripted()
    yield server
    server.close()


class Asker:
    """Sends `GET`s, as `RedisStore` does, in one world or the other."""

    def __init__(self, url: str, is_async: bool, **options: Any) -> None:
        self.is_async = is_async
        self._runner = asyncio.Runner() if is_async else None
        module = pytest.importorskip("redis.asyncio" if is_async else "redis")
        options = {"socket_timeout": 0.3, **options}
        self.client = module.Redis.from_url(url, retry=None, **options)
        self.store = RedisStore(self.client, prefix=new_prefix(), timeout_seconds=0.3, wait_seconds=0.1)
        self.server = self.store._server

    def run(self, call: Any) -> Any:
        return self._runner.run(call) if self._runner is not None else call

    def get(self) -> Any:
        return self.run(self.server.drive(self.server.read("GET", "x")))

    def close(self) -> None:
        self.run(self.store.close())
        if self._runner is None:
            self.client.close()
        else:
            self._runner.run(getattr(self.client, "aclose", self.client.close)())
            self._runner.close()

    @property
    def free(self) -> list[Any]:
        return self.server._lines._free


@pytest.fixture
def ask() -> Iterator[Callable[..., Asker]]:
    made: list[Asker] = []

    def ask(*args: Any, **options: Any) -> Asker:
        made.append(Asker(*args, **options))
        return made[-1]

    yield ask
    for each in made:
        each.close()


# Bytes


@pytest.mark.parametrize(("data", "value"), VALUES)
def test_value_is_read_with_where_it_ends(data: bytes, value: Any) -> None:
    assert parsed(b"?" + data + b"more", 1) == (value, 1 + len(data))


@pytest.mark.parametrize(("data", "_value"), VALUES)
def test_value_that_has_not_come_in_whole_is_none(data: bytes, _value: Any) -> None:
    for end in range(len(data)):
        with pytest.raises(_resp._IncompleteError):
            parsed(data[:end])


@pytest.mark.parametrize("data", [b"+OK\r\n", b"%1\r\n:1\r\n:2\r\n", b"#t\r\n", b"!3\r\nERR\r\n", b"\r\n"])
def test_what_nothing_of_ours_is_answered_with_is_for_the_client(data: bytes) -> None:
    with pytest.raises((NotAnsweredError, ValueError, IndexError)):
        parsed(data)


def test_command_is_an_array_of_bulk_strings() -> None:
    assert packed("SET", b"\r\n", 12, "\u00e9") == (
        b"*4\r\n$3\r\nSET\r\n$2\r\n\r\n\r\n$2\r\n12\r\n$2\r\n\xc3\xa9\r\n"
    )
    assert packed_call("sha", (b"k1", b"k2"), ["a", 1]) == packed("EVALSHA", "sha", 2, b"k1", b"k2", "a", 1)


def teach(server: Server) -> None:
    """Have the server know the scripts of who follows and ends something: else the client is asked."""
    store: Any = RedisStore(server.url, prefix=new_prefix())
    store.end(Ending(handles=("h",), expires_at=9e9))
    store.marks_since(0, limit=1)
    store.close()


# Answers


@BOTH
def test_answer_that_comes_in_pieces_is_whole(scripted: Scripted, ask: Any, is_async: bool) -> None:
    asker = ask(scripted.url, is_async)
    scripted.answers = [(b"$6\r", b"\nab\r\nc", b"d\r", b"\n")]
    assert asker.get() == b"ab\r\ncd"
    assert len(asker.free) == 1


@BOTH
def test_calls_go_over_one_connection_one_after_the_other(
    scripted: Scripted, ask: Any, is_async: bool
) -> None:
    asker = ask(scripted.url, is_async)
    scripted.answers = [b"$1\r\n%d\r\n" % number for number in range(5)]
    assert [asker.get() for _ in range(5)] == [b"0", b"1", b"2", b"3", b"4"]
    assert set(scripted.gets) == {1}


@BOTH
def test_answer_that_comes_too_late_is_not_given_to_the_next_call(
    scripted: Scripted, ask: Any, is_async: bool
) -> None:
    asker = ask(scripted.url, is_async)
    scripted.answers = [b"$1\r\na\r\n", None, b"$1\r\nb\r\n"]
    assert asker.get() == b"a"
    with pytest.raises(StoreError, match="in time"):
        asker.get()
    assert asker.free == []
    scripted.late.set()
    assert asker.get() == b"b"
    assert scripted.gets == [1, 1, 2]


def test_answer_to_a_call_that_was_cancelled_is_not_given_to_the_next_one(scripted: Scripted) -> None:
    redis = pytest.importorskip("redis.asyncio")

    async def story() -> None:
        async with redis.Redis.from_url(scripted.url) as client:
            store = RedisStore(client)
            scripted.answers = [b"$1\r\na\r\n", None, b"$1\r\nb\r\n"]
            assert await store._server.read("GET", "x") == b"a"
            call = asyncio.ensure_future(store._server.read("GET", "x"))
            while len(scripted.gets) < 2:
                await asyncio.sleep(0.001)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert store._server._lines._free == []
            scripted.late.set()
            assert await store._server.read("GET", "x") == b"b"
            assert scripted.gets == [1, 1, 2]
            await store.close()

    asyncio.run(story())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # there may be threads
def test_forked_worker_asks_over_a_connection_of_its_own(scripted: Scripted, ask: Any) -> None:
    asker = ask(scripted.url, False)
    scripted.answers = [b"$1\r\na\r\n", b"$1\r\nb\r\n", b"$1\r\nc\r\n"]
    assert asker.get() == b"a"
    child = os.fork()
    if not child:
        status = 1
        try:
            status = int(asker.get() != b"b")
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert asker.get() == b"c"
    before, in_child, after = scripted.gets
    assert in_child != before == after


def test_another_event_loop_asks_over_a_connection_of_its_own(scripted: Scripted, ask: Any) -> None:
    asker = ask(scripted.url, True)
    scripted.answers = [b"$1\r\na\r\n", b"$1\r\nb\r\n"]
    assert asker.get() == b"a"

    async def elsewhere() -> None:
        assert await asker.server.read("GET", "x") == b"b"
        await asker.store.close()
        await asker.client.connection_pool.disconnect(inuse_connections=False)

    asyncio.run(elsewhere())
    before, after = scripted.gets
    assert before != after


def test_another_event_loop_asks_over_no_subscription_of_the_first(server: Server) -> None:
    redis = pytest.importorskip("redis.asyncio")
    teach(server)
    client = redis.Redis.from_url(server.url, protocol=3)
    store: Any = RedisStore(client, prefix=new_prefix())

    async def follow() -> None:
        while store.generation() is None:
            await asyncio.sleep(0.01)

    async def elsewhere() -> None:
        assert (await store.end(Ending(handles=("h",), expires_at=9e9))).claimed
        await store._server._lines.close()
        await client.connection_pool.disconnect(inuse_connections=False)

    async def end(held: Any) -> None:
        for line in held:
            line._transport.abort()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
            await asyncio.wait([task])

    first = asyncio.new_event_loop()
    first.run_until_complete(follow())
    held = set(store._server._lines._held)
    asyncio.run(elsewhere())
    first.run_until_complete(end(held))
    first.close()


@BOTH
def test_second_answer_to_one_call_is_not_given_to_the_next_one(
    scripted: Scripted, ask: Any, is_async: bool
) -> None:
    asker = ask(scripted.url, is_async)
    scripted.answers = [b"$1\r\na\r\n$1\r\n?\r\n", b"$1\r\na\r\n", b"$1\r\nb\r\n"]
    assert asker.get() == b"a"  # by the client
    assert asker.get() == b"b"
    assert scripted.gets[0] not in scripted.gets[1:]


@BOTH
def test_connection_on_which_something_has_begun_does_not_go_back_to_the_apps_pool(
    scripted: Scripted, ask: Any, is_async: bool
) -> None:
    """Where the app's own next command would be answered by the rest of it."""
    asker = ask(scripted.url, is_async)
    scripted.answers = [b"$1\r\na\r\n>2\r\n$6\r\nMOV", b"$1\r\nb\r\n"]
    assert asker.get() == b"a"
    asker.run(asker.server.drive(asker.server._lines.close()))
    assert asker.get() == b"b"
    assert scripted.gets == [1, 2]


@BOTH
@pytest.mark.parametrize("answer", [b"what\r\n", b"$x\r\n", b"*1\r\n%0\r\n", b"#t\r\n", b"*9\r\n-\r\n*z\r\n"])
def test_what_cannot_be_read_has_the_client_asked_over_another_connection(
    scripted: Scripted, ask: Any, is_async: bool, answer: bytes
) -> None:
    asker = ask(scripted.url, is_async)
    scripted.answers = [answer, b"$1\r\na\r\n"]
    assert asker.get() == b"a"
    assert len(scripted.gets) == 2
    assert scripted.gets[0] != scripted.gets[1]


@BOTH
def test_error_is_the_clients_to_say_and_its_connection_goes_on(
    scripted: Scripted, ask: Any, is_async: bool
) -> None:
    asker = ask(scripted.url, is_async)
    scripted.answers = [b"-OOM no memory for secret\r\n"] * 2
    with pytest.raises(StoreError, match="no memory left") as caught:
        asker.get()
    assert "secret" not in str(caught.value)
    assert scripted.gets == [1, 1]


@BOTH
def test_connection_that_the_server_has_closed_is_replaced(
    scripted: Scripted, ask: Any, is_async: bool
) -> None:
    asker = ask(scripted.url, is_async)
    scripted.answers = [b"$1\r\na\r\n", b"$1\r\nb\r\n", b"$1\r\nc\r\n"]
    assert asker.get() == b"a"
    scripted.hang_up()
    assert asker.get() == b"b"
    assert asker.get() == b"c"
    assert scripted.gets[1:] in ([2, 2], [2, 3])


@BOTH
def test_what_the_server_says_of_its_own_accord_is_no_answer_and_ends_the_connection(
    scripted: Scripted, ask: Any, is_async: bool
) -> None:
    asker = ask(scripted.url, is_async)
    scripted.answers = [b">2\r\n$6\r\nMOVING\r\n:1\r\n$1\r\na\r\n", b"$1\r\nb\r\n"]
    assert asker.get() == b"a"
    assert asker.get() == b"b"
    assert scripted.gets == [1, 2]


# Whose connections they are


@BOTH
def test_connections_go_back_to_their_pool_after_a_while_and_at_the_end(
    scripted: Scripted, ask: Any, is_async: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asker = ask(scripted.url, is_async)
    released: list[Any] = []
    release = asker.client.connection_pool.release
    monkeypatch.setattr(
        asker.client.connection_pool, "release", lambda c: (released.append(c), release(c))[1]
    )
    scripted.answers = [b"$1\r\na\r\n"] * 4
    asker.get()
    asker.get()
    assert released == []
    asker.free[0] = (0.0, asker.free[0][1])  # its time is over
    asker.get()
    assert len(released) == 1
    asker.run(asker.store.close())
    assert len(released) == 2
    assert released[0] is released[1]  # the pool has it checked, and gave it again
    asker.get()
    assert scripted.connections == 1


@BOTH
def test_many_calls_at_once_hold_a_quarter_of_the_pool_at_most(server: Server, is_async: bool) -> None:
    module = pytest.importorskip("redis.asyncio" if is_async else "redis")
    client = module.Redis.from_url(server.url, max_connections=8)
    store: Any = RedisStore(client, prefix=new_prefix(), timeout_seconds=60)

    def call(number: int) -> None:
        with suppress(StoreError):  # too many connections, by the client
            store.get(f"h{number}")

    async def story() -> None:
        calls = (store.get(f"h{number}") for number in range(8))
        await asyncio.gather(*calls, return_exceptions=True)
        assert len(store._server._lines._held) == 2
        assert await client.ping()
        await store.close()
        await getattr(client, "aclose", client.close)()

    if is_async:
        asyncio.run(story())
        return
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(call, range(64)))
    assert len(store._server._lines._held) <= 2
    assert client.ping()
    store.close()
    client.close()


def test_connection_that_a_call_is_on_goes_back_though_the_store_is_closed_meanwhile(
    scripted: Scripted,
) -> None:
    redis = pytest.importorskip("redis.asyncio")

    async def story() -> None:
        async with redis.Redis.from_url(scripted.url) as client:
            store: Any = RedisStore(client, timeout_seconds=60)
            scripted.answers = [None]
            call = asyncio.ensure_future(store._server.read("GET", "x"))
            while not scripted.gets:
                await asyncio.sleep(0.001)
            await store.close()
            scripted.late.set()
            assert await call == b"late"
            assert (store._server._lines._free, store._server._lines._held) == ([], set())

    asyncio.run(story())


@BOTH
def test_connection_that_somebody_closes_at_once_does_not_end_direct_calls_for_good(
    scripted: Scripted, ask: Any, is_async: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asker = ask(scripted.url, is_async)
    pool = asker.client.connection_pool
    take = pool.get_connection

    async def take_async(*args: Any, **options: Any) -> Any:
        connection = await take(*args, **options)
        await connection.disconnect()
        return connection

    def take_plain(*args: Any, **options: Any) -> Any:
        connection = take(*args, **options)
        connection.disconnect()
        return connection

    scripted.answers = [b"$1\r\na\r\n", b"$1\r\nb\r\n"]
    with monkeypatch.context() as patched:
        patched.setattr(pool, "get_connection", take_async if is_async else take_plain)
        assert asker.get() == b"a"  # by the client
    assert asker.free == []
    assert asker.get() == b"b"
    assert len(asker.free) == 1


def test_client_that_caches_what_it_reads_is_refused() -> None:
    redis = pytest.importorskip("redis")
    cache = pytest.importorskip("redis.cache")
    client = redis.Redis(protocol=3, cache_config=cache.CacheConfig())
    with pytest.raises(TypeError, match="without cache_config"):
        RedisStore(client)


@BOTH
def test_small_pool_is_left_to_the_app(scripted: Scripted, ask: Any, is_async: bool) -> None:
    asker = ask(scripted.url, is_async, max_connections=3)
    scripted.answers = [b"$1\r\na\r\n"]
    assert asker.get() == b"a"
    assert asker.free == []


@BOTH
@pytest.mark.parametrize("what", ["wrapped", "unknown"])
def test_client_that_is_not_the_librarys_own_or_has_other_connections_is_used_as_it_is(
    scripted: Scripted, ask: Any, is_async: bool, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if what == "wrapped":
        module = pytest.importorskip("redis.asyncio" if is_async else "redis")

        class Own(module.Redis):
            def execute_command(self, *args: Any, **options: Any) -> Any:
                return super().execute_command(*args, **options)

        monkeypatch.setattr(module, "Redis", Own)
    else:
        # As in a version that calls them otherwise.
        monkeypatch.setattr(_redis_wire, "_LoopLine" if is_async else "_PlainLine", Unknown)
    asker = ask(scripted.url, is_async)
    scripted.answers = [b"$1\r\na\r\n"] * 2
    assert [asker.get(), asker.get()] == [b"a", b"a"]
    assert asker.free == []
    assert scripted.connections == 1


class Unknown:
    def __init__(self, _connection: Any) -> None:
        raise AttributeError


def test_threads_are_given_their_own_answers(server: Server) -> None:
    store: Any = RedisStore(server.url, prefix=new_prefix(), timeout_seconds=60)
    for number in range(40):
        store.replace(f"key {number}", "", b"%d" % number)
    with ThreadPoolExecutor(40) as pool:
        for _ in range(20):
            found = pool.map(lambda number: store.load(f"key {number}").data, range(40))
            assert list(found) == [b"%d" % number for number in range(40)]
    store.close()


def test_tasks_are_given_their_own_answers(server: Server) -> None:
    redis = pytest.importorskip("redis.asyncio")

    async def story() -> None:
        async with redis.Redis.from_url(server.url) as client:
            store: Any = RedisStore(client, prefix=new_prefix(), timeout_seconds=60)
            for number in range(40):
                await store.replace(f"key {number}", "", b"%d" % number * 20_000)
            for _ in range(5):
                found = await asyncio.gather(*(store.load(f"key {number}") for number in range(40)))
                assert [row.data for row in found] == [b"%d" % number * 20_000 for number in range(40)]
            await store.close()

    asyncio.run(story())


# Subscriptions


@BOTH
def test_message_that_follows_is_taken_in_and_no_store_is_asked(server: Server, is_async: bool) -> None:
    """As other workers hear of an ending: between two beats."""
    prefix = new_prefix()
    other: Any = RedisStore(server.url, prefix=prefix, bound_seconds=400)
    first = other.end(Ending(handles=("h1",), expires_at=9e9)).sequence

    async def story() -> None:
        redis = pytest.importorskip("redis.asyncio")
        client = redis.Redis.from_url(server.url) if is_async else server.url
        store: Any = RedisStore(client, prefix=prefix, bound_seconds=400)
        while store.generation() is None:
            await asyncio.sleep(0.01)
        before = store.generation()
        calls = asked(server)
        await asyncio.to_thread(other.end, Ending(handles=("h2",), expires_at=9e9))
        while store.generation() == before:
            await asyncio.sleep(0.01)
        assert store.generation() is not None
        assert [mark.value for mark in store.marks_since(first, limit=9).marks] == ["h2"]
        assert asked(server) == calls + 1  # the ending itself
        if is_async:
            await store.close()
            await getattr(client, "aclose", client.close)()
        else:
            store.close()

    asyncio.run(story())
    other.close()


def asked(server: Server) -> int:
    found: int = server.admin.info("commandstats")["cmdstat_evalsha"]["calls"]
    return found


@BOTH
def test_subscription_that_speaks_no_known_language_is_made_anew(is_async: bool) -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)

    class Connection:
        pass

    async def story() -> None:
        connection: Any = Connection()
        if is_async:
            _, connection._writer = await asyncio.open_connection(sock=ours)
            listener: Any = _redis_wire._LoopListener(connection, lambda message: message)
        else:
            connection._sock = ours
            listener = _redis_wire._PlainListener(connection, lambda message: message)

        async def following() -> Any:
            found = listener.next(5.0)
            return await found if is_async else found

        theirs.sendall(b"*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\na\r\n*3\r\n$7\r\nmess")
        assert await following() == b"a"
        theirs.sendall(b"age\r\n$1\r\nc\r\n$1\r\nb\r\n>3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nc\r\n")
        assert [await following(), await following()] == [b"b", b"c"]
        theirs.sendall(b"what?\r\n")
        with pytest.raises((NotAnsweredError, ValueError)):
            await following()
        theirs.close()
        with pytest.raises((ConnectionError, NotAnsweredError, ValueError)):
            await following()
        if is_async:
            connection._writer.close()

    asyncio.run(story())
    ours.close()


@pytest.mark.parametrize(("protocol", "count"), [(3, 1), (2, 2)])
def test_messages_come_over_the_connection_that_is_asked_if_it_can_bear_both(
    server: Server, protocol: int, count: int
) -> None:
    redis = pytest.importorskip("redis.asyncio")
    name = new_prefix()
    teach(server)

    async def story() -> None:
        options = {"client_name": name, "protocol": protocol}
        async with redis.Redis.from_url(server.url, **options) as client:
            store: Any = RedisStore(client, prefix=name)
            while store.generation() is None:
                await asyncio.sleep(0.01)
            before = store.generation()
            assert (await store.end(Ending(handles=("h",), expires_at=9e9))).claimed
            assert store.generation() not in (None, before)
            assert connections(server, name) == count
            await store.close()
            while subscribed(server, name):
                await asyncio.sleep(0.001)

    asyncio.run(story())


def connections(server: Server, name: str) -> int:
    return sum(each["name"] == name for each in server.admin.client_list())


def subscribed(server: Server, name: str) -> bool:
    return any(int(each["sub"]) for each in server.admin.client_list() if each["name"] == name)


class OneLine:
    """A connection that is asked and subscribed, and what a test answers on it."""

    def __init__(self) -> None:
        self._ours, self.theirs = socket.socketpair()
        self._ours.setblocking(False)
        self.theirs.settimeout(20)
        self.heard: list[bytes] = []

    async def open(self) -> Any:
        connection: Any = type("Connection", (), {"disconnect": lambda *_, **__: None})()
        _, connection._writer = await asyncio.open_connection(sock=self._ours)
        self._writer = connection._writer
        self.line: Any = _redis_wire.HearingLine(connection, self.heard.append)
        return self

    async def ask(self, seconds: float = 20.0) -> Any:
        return await self.line.ask(b"?", asyncio.get_running_loop().time() + seconds)

    async def answered(self, *pieces: bytes) -> Any:
        """Ask, and return what comes of it, once the pieces are there one by one."""
        call = asyncio.ensure_future(self.ask())
        await asyncio.sleep(0)
        for piece in pieces:
            self.theirs.sendall(piece)
            await asyncio.sleep(0.01)
        return await call

    def close(self) -> None:
        self._writer.transport.abort()
        self.theirs.close()


def message(text: bytes) -> bytes:
    return b">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$%d\r\n%b\r\n" % (len(text), text)


def on_one_line(story: Callable[[OneLine], Any]) -> None:
    async def run() -> None:
        one = await OneLine().open()
        try:
            await story(one)
        finally:
            one.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    "pieces",
    [
        (message(b"m") + b"$1\r\na\r\n",),
        (b"$1\r\na\r\n" + message(b"m"),),
        (message(b"m")[:5], message(b"m")[5:] + b"$1\r", b"\na\r\n"),
        (b"$1\r\na\r\n" + message(b"m")[:9], message(b"m")[9:]),
    ],
)
def test_answer_and_message_come_in_any_order(pieces: tuple[bytes, ...]) -> None:
    async def story(one: OneLine) -> None:
        assert await one.answered(*pieces) == b"a"
        assert one.heard == [b"m"]
        assert one.line.is_idle

    on_one_line(story)


def test_answer_that_looks_like_a_message_is_an_answer() -> None:
    async def story(one: OneLine) -> None:
        assert await one.answered(message(b"m").replace(b">", b"*")) == [b"message", b"c", b"m"]
        assert one.heard == []

    on_one_line(story)


def test_call_that_is_cancelled_leaves_the_subscription_and_its_answer_is_nobodys() -> None:
    async def story(one: OneLine) -> None:
        call = asyncio.ensure_future(one.ask())
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert not one.line.is_idle  # so nobody asks
        one.theirs.sendall(b"$4\r\nlate\r\n")
        while not one.line.is_idle:
            await asyncio.sleep(0.001)
        assert await one.answered(b"$1\r\na\r\n") == b"a"
        one.theirs.sendall(message(b"m"))
        while one.heard != [b"m"]:
            await asyncio.sleep(0.001)

    on_one_line(story)


def test_call_that_is_made_when_the_subscription_is_ended_is_for_the_client() -> None:
    async def story(one: OneLine) -> None:
        call = asyncio.ensure_future(one.ask())
        await asyncio.sleep(0)
        one.line.cut()
        with pytest.raises(NotAnsweredError):
            await asyncio.wait_for(call, 20)

    on_one_line(story)


def test_connection_is_closed_whose_subscription_nobody_waited_for(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would go back to the app's pool, and what it hears would be taken for the app's."""
    redis = pytest.importorskip("redis.asyncio")
    name = new_prefix()
    end = _redis_wire.HearingLine._end
    following: list[asyncio.Task[Any]] = []

    def end_and_cancel(line: Any, answer: Any) -> None:
        end(line, answer)
        if following:
            following.pop().cancel()  # which does not know the answer yet

    monkeypatch.setattr(_redis_wire.HearingLine, "_end", end_and_cancel)

    async def story() -> None:
        async with redis.Redis.from_url(server.url, client_name=name, protocol=3) as client:
            store: Any = RedisStore(client, prefix=name)
            task = asyncio.ensure_future(store._server.subscribe(b"c", print))
            following.append(task)
            with pytest.raises(asyncio.CancelledError):
                await task
            while subscribed(server, name):
                await asyncio.sleep(0.001)
            assert store._server._lines._held == set()

    asyncio.run(asyncio.wait_for(story(), 20))


def test_subscription_by_a_client_that_hangs_is_given_up_in_time(server: Server) -> None:
    redis = pytest.importorskip("redis.asyncio")

    class Never:
        async def subscribe(self, *_: Any) -> None:
            await asyncio.Event().wait()

        async def aclose(self) -> None:
            """Close nothing."""

    class Own(redis.Redis):
        def pubsub(self, **_: Any) -> Any:
            return Never()

    async def story() -> None:
        async with Own.from_url(server.url, max_connections=3) as client:
            store: Any = RedisStore(client, timeout_seconds=0.2, wait_seconds=0.1)
            with pytest.raises(StoreError, match="in time"):
                await store._server.subscribe(b"c", print)

    asyncio.run(asyncio.wait_for(story(), 20))


@pytest.mark.parametrize("is_cancelled", [False, True])
def test_call_without_an_answer_ends_the_subscription(is_cancelled: bool) -> None:
    async def story(one: OneLine) -> None:
        call = asyncio.ensure_future(one.ask(0.05))
        await asyncio.sleep(0)
        if is_cancelled:
            call.cancel()
        with pytest.raises(asyncio.CancelledError if is_cancelled else TimeoutError):
            await call
        with pytest.raises(ConnectionError):
            await one.line.next(20)

    on_one_line(story)


@pytest.mark.parametrize(
    "said",
    [b"$1\r\n?\r\n", b"+OK\r\n", b">0\r\n", b"-READONLY You can't write against a read only replica.\r\n"],
)
def test_subscription_ends_with_what_nobody_has_asked_for(said: bytes) -> None:
    async def story(one: OneLine) -> None:
        one.theirs.sendall(said)
        with pytest.raises(ConnectionError):
            await one.line.next(20)
        with pytest.raises(NotAnsweredError):
            await one.ask()

    on_one_line(story)


def test_subscription_ends_where_the_server_is_no_primary_any_more() -> None:
    async def story(one: OneLine) -> None:
        answer = await one.answered(b"-READONLY You can't write against a read only replica.\r\n")
        assert answer.code == b"READONLY"
        with pytest.raises(ConnectionError):
            await one.line.next(20)

    on_one_line(story)


def test_subscription_goes_on_after_another_error() -> None:
    async def story(one: OneLine) -> None:
        answer = await one.answered(b"-OOM command not allowed\r\n")
        assert answer.code == b"OOM"
        assert one.line.is_idle

    on_one_line(story)


def test_app_goes_on_with_its_client_when_the_store_is_closed(server: Server) -> None:
    redis = pytest.importorskip("redis.asyncio")

    async def story() -> None:
        async with redis.Redis.from_url(server.url) as client:
            store: Any = RedisStore(client, prefix=new_prefix())
            await store.end(Ending(handles=("h",), expires_at=9e9))
            await store.close()
            assert await client.ping()
            await store.end(Ending(handles=("h",), expires_at=9e9))
            await client.connection_pool.disconnect()  # those of the store as well
            assert (await store.end(Ending(handles=("h",), expires_at=9e9))).claimed
            await store.close()

    asyncio.run(story())
