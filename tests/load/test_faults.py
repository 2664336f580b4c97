"""What befalls the server that all workers share, while people are at work: who sees what, and for how long.

Each test tells a whole life: one fault after the other, over the same workers, which recover by themselves.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from tests.load.driver import Load, Person, Trouble
from tests.load.faults import (
    OF_POSTGRESQL,
    OF_SENTINEL,
    OF_VALKEY,
    FailedOver,
    Fault,
    Flushed,
    Full,
    Paused,
    Restored,
    Silent,
)
from tests.load.machines import (
    Machines,
    Measured,
    assert_nothing_is_left_but_of_who_stayed,
    load_of,
    machines,
    watched,
)
from tests.load.proxy import proxied
from tests.stores.databases import PostgreSQL
from tests.stores.servers import serving, watching

SHORT_TIMES = {"bound_seconds": 0.5, "timeout_seconds": 1.0, "retry_seconds": 0.3}
SHORT = [
    ("flask", "valkey", (Paused, Full), 1, 0.5),
    ("starlette", "valkey", (Flushed, FailedOver), 1, 0.5),
    pytest.param("flask", "postgresql", (Paused,), 1, 0.5, marks=pytest.mark.matrix),
    pytest.param("starlette", "postgresql", (Restored, Silent), 1, 0.5, marks=pytest.mark.matrix),
    pytest.param("flask", "sentinel", OF_SENTINEL, 1, 0.5, marks=pytest.mark.matrix),
    pytest.param("starlette", "sentinel", OF_SENTINEL, 1, 0.5, marks=pytest.mark.matrix),
]
LONG = [
    pytest.param(kind, store, (fault,), 8, 10.0, marks=pytest.mark.soak)
    for kind in ("flask", "starlette", "starlette-threads")
    for store, faults in (("valkey", OF_VALKEY), ("sentinel", OF_SENTINEL), ("postgresql", OF_POSTGRESQL))
    for fault in faults
]


def name_of(value: Any) -> str | None:
    return "-".join(fault.__name__.lower() for fault in value) if isinstance(value, tuple) else None


@contextmanager
def own_server(store: str) -> Iterator[tuple[Any, int, str]]:
    """A server that a test may do anything with, the port to come to it by, and the URL of such a port."""
    if store in ("valkey", "sentinel"):
        with serving("--appendonly", "yes", "--appendfsync", "always") as server:
            if store == "valkey":
                yield server, server.port, "redis://127.0.0.1:{port}"
                return
            with watching(server) as port:
                yield server, port, "sentinel://127.0.0.1:{port}"
        return
    database = PostgreSQL()
    try:
        database.start()
        yield database, database.port, "postgresql://postgres@127.0.0.1:{port}/postgres"
    finally:
        database.remove()


@pytest.mark.parametrize(("kind", "store", "faults", "each", "seconds"), [*SHORT, *LONG], ids=name_of)
def test_fault_serves_nobody_who_is_out_and_refuses_others_for_no_longer_than_it_lasts(
    kind, store, faults, each, seconds, provider
):
    everybody = [Person(number) for number in range(1, 2 * len(faults) * 3 * each + 1)]
    leaving = iter(everybody[::2])
    times = SHORT_TIMES if seconds < 10 else {}
    with ExitStack() as servers:
        server, port, url = servers.enter_context(own_server(store))
        proxy = servers.enter_context(proxied(port))
        place = servers.enter_context(machines(kind, url.format(port=proxy.port), provider, **times))
        load = load_of(place, everybody, kills=0, survives=True, clients=3)
        load.sign_everybody_in()
        with load.ordinary_requests():
            for kind_of_fault in faults:
                fault = kind_of_fault(server, proxy, load, seconds)
                servers.enter_context(fault.left)
                people = [[next(leaving) for _ in range(each)] for _ in range(3)]
                befall(fault, place, load, *people)
        load.ask_everybody()
        assert_nothing_is_left_but_of_who_stayed(place, load)


def befall(
    fault: Fault,
    place: Machines,
    load: Load,
    before: Sequence[Person],
    during: Sequence[Person],
    after: Sequence[Person],
) -> None:
    """Have something befall the server, and people signed out before, during and after it."""
    began_at, told = time.monotonic(), len(load.troubles)
    fault.prepare()
    sign_out(place, load, before)
    load.keeps_tokens &= fault.keeps_tokens
    begun_at = time.monotonic()
    with ExitStack() as watching:
        watchings = [watching.enter_context(place.watchers.on(person.cookies[0])) for person in during]
        with fault.befall():
            done = [load.log_out(person) for person in during]
        ended_at = time.monotonic()
        refusals = [
            each.until_refused() for each in watchings
        ]  # what was not done, the workers do by themselves
    print(
        f"\n{type(fault).__name__}: {ended_at - begun_at:.1f} s, {sum(done)} of {len(done)} signed out meanwhile"
    )
    assert not (fault.refuses_sign_outs and any(done)), "a sign-out was told as done that could not be"

    measured = Measured()
    for person, was_done, seen in zip(during, done, refusals, strict=True):
        if was_done:
            measured.add(begun_at, person, seen)
    if any(done):
        print(f"  {measured}")
    for person in before:  # every worker knew: whatever the server has lost, they go on refusing
        for refusal in refusals_of(place, person):
            assert refusal.served_at < 0, f"{person} is served again by {refusal.pid}"
    for person, was_done, seen in zip(during, done, refusals, strict=True):
        for refusal in seen:
            late = refusal.served_at - person.out_at
            assert late <= place.setting.bound_seconds, f"{person} was served {late} s after the answer"
        if not was_done:
            assert load.log_out(person), f"{person} cannot be signed out after the fault"
    sign_out(place, load, after)
    judge(fault, load.troubles[told:], began_at, ended_at, place)


def sign_out(place: Machines, load: Load, people: Sequence[Person]) -> None:
    measured = Measured()
    for person in people:
        with watched(place, person, measured):
            load.wait_until(lambda: load.log_out(person))  # noqa: B023 - it is over before the next one
    print(f"  {len(people)} signed out, the last worker\n{measured}")


def refusals_of(place: Machines, person: Person) -> Any:
    with place.watchers.on(person.cookies[0]) as watching:
        return watching.until_refused()


def judge(
    fault: Fault, troubles: Sequence[Trouble], began_at: float, ended_at: float, place: Machines
) -> None:
    """See that those who stayed were refused while the server could not be had, and no longer."""
    setting = place.setting
    until = ended_at + setting.timeout_seconds + setting.bound_seconds
    strange = [trouble for trouble in troubles if trouble.ended_at < began_at or trouble.began_at > until]
    assert not strange, f"{type(fault).__name__} does not explain {strange}"
    if fault.serves_who_is_known:
        assert not [trouble for trouble in troubles if "/call" not in trouble.what]
    if troubles:
        last = max(trouble.began_at for trouble in troubles) - ended_at
        print(f"  {len(troubles)} requests were not served; the last was made {last:.2f} s after the fault")
