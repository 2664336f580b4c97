"""Measures what stores on another machine cost, beside the bare operations of their engines, and counts round trips.

    python -m bench.engines [--quick]

The servers are real ones, on loopback, with plain clients. A figure is the time that a caller waits: on one machine
nothing is gained by taking the client's and the server's work apart. First a token cache and the ending of a session,
each beside one bare operation on as many bytes; all take turns, and the A/A row shows what the figures are worth. Then
whole sign-outs, called by `sid`, among more and more signed-in users. Ends with 3 if these grow beyond the bound.
"""

# ruff: noqa: D102, D103
from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from itertools import count, islice
from typing import Any

import redis
import sqlalchemy as sa

from bench.many_users import others
from bench.measuring import AGAIN, Table, Way, claims_of, is_quick, logout_of, status, take_turns
from bench.shared_cache import signed_in
from msal_logout_middleware import Logout
from msal_logout_middleware.caches import home_account_id
from msal_logout_middleware.session import Session
from msal_logout_middleware.stores import Ending, SessionRecord
from msal_logout_middleware.stores.redis import RedisStore
from msal_logout_middleware.stores.sqlalchemy import SQLAlchemyStore, Tables
from tests.stores.databases import PostgreSQL
from tests.stores.servers import serving

CALLS = 20  # in each turn
FILLED_AT_ONCE = 5_000
GROWTH = {"ratio": 1.1}
LONG_SECONDS = 1e6
BLOB = signed_in(1).serialize().encode()
NUMBERS = count(10_000_000)

Call = Callable[[], object]


class Redis:
    """A Valkey server, by redis-py; and what one does there without a store."""

    name = "RedisStore"
    _SCRIPT = "return redis.call('HSET', KEYS[1], 'field', ARGV[1])"

    def __init__(self, url: str) -> None:
        self._client = redis.Redis.from_url(url, socket_timeout=60)
        self._client.set("bare", BLOB)
        sha, record = self._client.script_load(self._SCRIPT), BLOB[:500]
        self.load: tuple[str, Call] = ("one GET", lambda: self._client.get("bare"))
        self.save: tuple[str, Call] = ("one SET", lambda: self._client.set("bare", BLOB))
        self.end: tuple[str, Call] = ("one EVALSHA", lambda: self._client.evalsha(sha, 1, "one", record))
        self.sent = {"round trips": 0}
        send = self._client.execute_command

        def counted(*command: Any, **options: Any) -> Any:
            self.sent["round trips"] += 1
            return send(*command, **options)

        self._client.execute_command = counted

    def store(self, prefix: str) -> RedisStore:
        return RedisStore(self._client, prefix=prefix)

    def size(self) -> int:
        """Return the bytes that the server holds."""
        return int(self._client.info("memory")["used_memory"])

    def fill(self, prefix: str, records: Iterator[SessionRecord]) -> None:
        """Record sessions; many scripts in one message, since a million messages would take minutes."""
        pipeline = self._client.pipeline(transaction=False)

        class Queue:
            """A client that sends nothing yet."""

            def execute_command(self, *command: Any, **_: Any) -> int:
                pipeline.execute_command(*command)
                return 1

            connection_pool = self._client.connection_pool

        self.store(prefix).add(next(records), sign_in=True)  # the server knows the script from now on
        store = RedisStore(Queue(), prefix=prefix)
        while some := list(islice(records, FILLED_AT_ONCE)):
            for record in some:
                store.add(record, sign_in=True)
            pipeline.execute()


class OfPostgreSQL:
    """A PostgreSQL server, by psycopg; and what one does there without a store."""

    name = "SQLAlchemyStore, PostgreSQL"

    def __init__(self, database: PostgreSQL) -> None:
        self._engine = sa.create_engine(database.url("psycopg"), isolation_level="READ COMMITTED")
        columns = sa.Column("id", sa.Integer, primary_key=True), sa.Column("data", sa.LargeBinary)
        bare = sa.Table("bare", sa.MetaData(), *columns)
        bare.metadata.create_all(self._engine)
        select = sa.select(bare.c.data).where(bare.c.id == 1)
        update = sa.update(bare).where(bare.c.id == 1)
        with self._engine.begin() as connection:
            connection.execute(sa.insert(bare), {"id": 1, "data": BLOB})

        def read() -> object:
            with self._engine.connect() as connection:
                return connection.execute(select).scalar_one()

        def write(data: bytes) -> None:
            with self._engine.begin() as connection:
                connection.execute(update, {"data": data})

        self.load: tuple[str, Call] = ("one SELECT", read)
        self.save: tuple[str, Call] = ("one UPDATE", lambda: write(BLOB))
        self.end: tuple[str, Call] = ("one UPDATE", lambda: write(BLOB[:500]))
        self.sent = {"statements": 0, "commits": 0}

        def counted(what: str) -> Callable[..., None]:
            def add(*_: object) -> None:
                self.sent[what] += 1

            return add

        sa.event.listen(self._engine, "before_cursor_execute", counted("statements"))
        sa.event.listen(self._engine, "commit", counted("commits"))

    def store(self, prefix: str) -> SQLAlchemyStore:
        return SQLAlchemyStore(self._engine, prefix=prefix, listens=False)

    def size(self) -> int:
        """Return the bytes of the tables and their indexes, without what the next VACUUM gives back."""
        with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as db:
            db.execute(sa.text("VACUUM FULL"))
            return int(db.execute(sa.text("SELECT pg_database_size(current_database())")).scalar_one())

    def fill(self, prefix: str, records: Iterator[SessionRecord]) -> None:
        """Record sessions by COPY."""
        store, tables = self.store(prefix), Tables(prefix)
        store.add(next(records), sign_in=True)  # makes the tables
        with closing(self._engine.raw_connection()) as connection:
            while some := list(islice(records, FILLED_AT_ONCE)):
                rows = [
                    (r.handle, r.session, "[]", r.issued_at, r.data, r.expires_at, _row(r.cache))
                    for r in some
                ]
                keys = [(key, record.handle) for record in some for key in record.keys]
                for table, lines in ((tables.records, rows), (tables.record_keys, keys)):
                    with connection.cursor() as cursor, cursor.copy(f"COPY {table.name} FROM STDIN") as copy:  # type: ignore[attr-defined]  # psycopg's
                        for line in lines:
                            copy.write_row(line)
            connection.commit()
        with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as db:
            db.execute(sa.text("VACUUM ANALYZE"))  # as the server does by itself, at a time of its own


def _row(key: str | None) -> str | None:
    return None if key is None else hashlib.sha256(key.encode()).hexdigest()


Engine = Redis | OfPostgreSQL


@contextmanager
def engines() -> Iterator[tuple[Engine, ...]]:
    database = PostgreSQL()
    try:
        database.start()
        with serving() as server:
            yield Redis(server.url), OfPostgreSQL(database)
    finally:
        database.remove()


class Site:
    """An app where so many users are signed in."""

    def __init__(self, engine: Engine, prefix: str, users: int) -> None:
        self.store: Any = engine.store(prefix)
        self.logout: Logout = logout_of(self.store)
        engine.fill(prefix, others(self.logout, users))

    def sign_in(self) -> tuple[SessionRecord, Mapping[str, Any]]:
        """Sign one more user in."""
        number = next(NUMBERS)
        claims = claims_of(number)
        config = self.logout.configuration
        known = config.known(Session(None, claims, {}))
        record = known.record(
            config.seal,
            session=known.handles[0],
            expires_at=time.time() + LONG_SECONDS,
            has_own_cache=config.drops_caches,
        )
        self.store.add(record, sign_in=True)
        self.store.replace(home_account_id(claims), "", signed_in(number).serialize().encode())
        return record, claims

    def sign_out(self, claims: Mapping[str, Any]) -> None:
        ended = self.logout.end_sessions(sid=claims["sid"], iss=claims["iss"])
        if ended.sessions != 1 or not ended.removed or ended.left:
            raise SystemExit(f"a sign-out did something else: {ended}")


def timed(calls: list[Call]) -> float:
    """Return the microseconds that each call took."""
    started = time.perf_counter()
    for call in calls:
        call()
    return (time.perf_counter() - started) / len(calls) * 1e6


def same(call: Call) -> Way:
    return lambda: timed([call] * CALLS)


def beside_bare_operations(engine: Engine, rounds: int) -> None:
    """Print a table for each of what a store does most."""
    site = Site(engine, "bare", 1_000)
    store = site.store

    def saves() -> float:
        keys = [home_account_id(site.sign_in()[1]) for _ in range(CALLS)]
        versions = [store.load(key).version for key in keys]
        return timed(
            [
                lambda key=key, version=version: store.replace(key, version, BLOB)
                for key, version in zip(keys, versions, strict=True)
            ]
        )

    def ends() -> float:
        records = [site.sign_in()[0] for _ in range(CALLS)]
        endings = [
            Ending(found_by=record.keys[:1], expires_at=record.expires_at, work=b"w" * 300)
            for record in records
        ]
        return timed([lambda ending=ending: store.end(ending) for ending in endings])

    key = home_account_id(site.sign_in()[1])
    for what, (bare, does), ours in (
        ("load", engine.load, same(lambda: store.load(key))),
        ("replace", engine.save, saves),
        ("end", engine.end, ends),
    ):
        ways = {bare: same(does), bare + AGAIN: same(does), what: ours}
        take_turns(ways, 2)  # everything is warm from now on
        table = Table(f"{engine.name}: us for `{what}`, beside the bare operation", "us")
        table.rows(take_turns(ways, rounds), baseline=bare, bounds={})


def round_trips(engine: Engine, does: Call) -> str:
    before = dict(engine.sent)
    does()
    return ", ".join(f"{engine.sent[what] - before[what]} {what}" for what in before)


def among_many_users(engine: Engine, sizes: tuple[int, ...], rounds: int) -> bool:
    """Print what a sign-out takes among so many users, and return whether it stays what it is."""
    baseline = f"{sizes[0]:,} users"
    named = [*((f"{users:,} users", users) for users in sizes), (baseline + AGAIN, sizes[0])]
    sites = {name: Site(engine, f"s{number}", users) for number, (name, users) in enumerate(named)}

    def way(site: Site) -> Way:
        def sign_out() -> float:
            users = [site.sign_in()[1] for _ in range(CALLS)]
            return timed([lambda claims=claims: site.sign_out(claims) for claims in users])

        return sign_out

    ways = {name: way(site) for name, site in sites.items()}
    take_turns(ways, 3)  # everything is warm from now on
    table = Table(f"{engine.name}: us for a sign-out by `sid`, with its token cache", "us")
    figures = take_turns(ways, rounds)
    table.rows(figures, baseline=baseline, bounds={name: GROWTH for name, _ in named[1:-1]})
    site = sites[baseline]
    user = site.sign_in()[1]
    print(f"a sign-out makes {round_trips(engine, lambda: site.sign_out(user))}")
    for each in sites.values():
        each.store.close()
    return table.kept


def main() -> int:
    """Measure, print, and tell by the exit status whether the bounds were kept."""
    quick = is_quick(__doc__)
    sizes, rounds = ((10, 1_000), 10) if quick else ((10, 1_000, 100_000, 1_000_000), 60)
    kept = []
    with engines() as every:
        for engine in every:
            beside_bare_operations(engine, rounds)
            kept.append(among_many_users(engine, sizes, rounds))
    return status(kept=all(kept))


if __name__ == "__main__":
    sys.exit(main())
