"""What comes back into a cache without compare-and-swap, counted; and that nothing does where there is one."""

from __future__ import annotations

import multiprocessing
import threading
from pathlib import Path

import pytest

from .app_caches import InOurStore, Race, in_cachelibs_files, in_djangos_files, in_workers
from .test_silent_calls import ALL_STORES, BETWEEN_PROCESSES

ROUNDS = [10, pytest.param(1_000, marks=pytest.mark.soak)]


def came_back(race: Race, between: str) -> int:
    """Run a race, and return in how many rounds tokens are there at the end."""
    spawn = multiprocessing.get_context("spawn")
    parties = race.workers + 1
    barrier = threading.Barrier(parties) if between == "threads" else spawn.Barrier(parties)
    return in_workers(race, barrier, threading.Thread if between == "threads" else spawn.Process)


@pytest.mark.parametrize("rounds", ROUNDS)
@pytest.mark.parametrize("between", ["threads", "processes"])
@pytest.mark.parametrize("place", [in_cachelibs_files, in_djangos_files])
def test_what_comes_back_into_an_apps_cache_is_counted_and_is_nothing_where_it_is_removed_again(
    place, between: str, rounds: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = str(tmp_path)
    once, again = (
        came_back(Race(place, where, rounds, removes_again=removes_again), between)
        for removes_again in (False, True)
    )
    with capsys.disabled():
        print(
            f"\n{between}, {place.__name__}: of {rounds} rounds tokens are there in {once}, "
            f"and in {again} if they are removed again when the requests return",
            end="",
        )
    assert again == 0


@pytest.mark.parametrize("rounds", ROUNDS)
def test_nothing_comes_back_into_an_sqlite_store_of_threads(rounds: int, tmp_path: Path) -> None:
    assert came_back(Race(InOurStore, str(tmp_path / "logout.db"), rounds), "threads") == 0


@pytest.mark.parametrize(
    ("store", "rounds"),
    [*BETWEEN_PROCESSES, *(pytest.param(store, 1_000, marks=pytest.mark.soak) for store in ALL_STORES)],
)
def test_nothing_comes_back_into_a_store_of_processes(
    store: str, rounds: int, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = came_back(Race(InOurStore, url, rounds), "processes")
    with capsys.disabled():
        print(f"\nprocesses, {store}: tokens are there in {found} of {rounds} rounds", end="")
    assert found == 0
