"""What comes back into a cache without compare-and-swap, counted; and that nothing does where there is one."""

from __future__ import annotations

import multiprocessing
import threading
from pathlib import Path
from typing import get_args

import pytest

from .app_caches import How, Race, in_workers

ROUNDS = [10, pytest.param(1_000, marks=pytest.mark.soak)]


@pytest.mark.parametrize("rounds", ROUNDS)
@pytest.mark.parametrize("between", ["threads", "processes"])
def test_what_comes_back_is_counted_and_is_nothing_where_it_is_refused_or_removed_again(
    between: str, rounds: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spawn = multiprocessing.get_context("spawn")
    came_back: dict[How, int] = {}
    for how in get_args(How):
        race = Race(how, rounds)
        parties = race.workers + 1
        barrier = threading.Barrier(parties) if between == "threads" else spawn.Barrier(parties)
        start = threading.Thread if between == "threads" else spawn.Process
        came_back[how] = in_workers(race, tmp_path, barrier, start)
        with capsys.disabled():
            print(f"\n{between}, {how}: tokens are there in {came_back[how]} of {rounds} rounds", end="")
    assert came_back["removed again when the requests return"] == 0
    assert came_back["refused by compare-and-swap"] == 0
