"""Two machines over one Valkey, or one PostgreSQL: whoever is signed out at one is out of both, within the bound.

With `-s` each test prints how long it took until the last worker refused:

    python -m pytest tests/load/test_machines.py -m soak -k 1000-0 -s
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.load.driver import Person
from tests.load.machines import (
    Measured,
    assert_nothing_is_left_but_of_who_stayed,
    load_of,
    machines,
    watched,
)
from tests.stores.databases import PostgreSQL
from tests.stores.servers import serving

SHORT = [
    ("flask", "valkey", 24, 0),
    ("flask", "postgresql", 24, 2),
    pytest.param("starlette", "valkey", 24, 2, marks=pytest.mark.matrix),
    pytest.param("starlette", "postgresql", 24, 0, marks=pytest.mark.matrix),
]
LONG = [
    pytest.param(kind, store, 1000, kills, marks=pytest.mark.soak)
    for kind in ("flask", "starlette", "starlette-threads")
    for store in ("valkey", "postgresql")
    for kills in (0, 40)
]


@contextmanager
def shared(store: str) -> Iterator[str]:
    """The URL of a server of this test's own."""
    if store == "valkey":
        with serving() as server:
            yield server.url
        return
    database = PostgreSQL()
    try:
        database.start()
        yield database.url().replace("+psycopg", "")
    finally:
        database.remove()


@pytest.mark.parametrize(("kind", "store", "count", "kills"), [*SHORT, *LONG])
def test_who_is_signed_out_at_one_machine_is_out_of_all_and_nobody_else_is(
    kind, store, count, kills, provider
):
    everybody = [Person(number) for number in range(1, count + 1)]
    leaving = everybody[::2]
    quiet, loaded = leaving[: count // 10], leaving[count // 10 :]
    measured = {"quiet": Measured(), "under load": Measured()}
    with shared(store) as url, machines(kind, url, provider) as place:
        load = load_of(place, everybody, kills=kills)
        load.sign_everybody_in()
        for person in quiet:
            with watched(place, person, measured["quiet"]):
                assert load.log_out(person)
        with load.ordinary_requests():
            load.sign_out(loaded, watched=lambda person: watched(place, person, measured["under load"]))
        assert len(load.killed) == kills
        assert_nothing_is_left_but_of_who_stayed(place, load)
    for when, each in measured.items():
        logouts = len(each.from_answer)
        print(f"\n{kind}, {store}, {kills} killed, {when}, {logouts} logouts; the last worker\n{each}")
