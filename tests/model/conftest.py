"""Event loops that stay open from call to call."""

from __future__ import annotations

import pytest

from tests.model.workers import Loops


@pytest.fixture
def loops():
    loops = Loops()
    yield loops
    loops.close()
