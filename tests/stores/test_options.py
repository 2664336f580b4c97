"""What a store may be given: a mistake is told when it is made, and shows no key."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from msal_logout_middleware.stores.memory import MemoryStore
from msal_logout_middleware.stores.redis import RedisStore
from msal_logout_middleware.stores.sqlalchemy import SQLAlchemyStore
from msal_logout_middleware.stores.sqlite import SQLiteStore

KEY = "a key of at least 32 bytes, which no error shows"
MAKERS = {
    "memory": MemoryStore,
    "sqlite": lambda **options: SQLiteStore("never-made.db", **options),
    "redis": lambda **options: RedisStore("redis://127.0.0.1:1", **options),
    "sql": lambda **options: SQLAlchemyStore("sqlite:///never-made.db", **options),
}


@pytest.fixture(params=MAKERS)
def make(request: pytest.FixtureRequest) -> Callable[..., Any]:
    return MAKERS[request.param]


def test_key_in_the_place_of_its_encryption_is_refused_without_being_shown(make: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match=r"Encryption\(\[KEY\]\), not of type str") as raised:
        make(encryption=KEY)
    assert KEY not in str(raised.value)


@pytest.mark.parametrize("option", ["token_cache_lifetime_seconds", "removed_row_seconds"])
@pytest.mark.parametrize("seconds", [0, -5, float("nan")])
def test_what_is_kept_for_no_time_is_refused(make: Callable[..., Any], option: str, seconds: float) -> None:
    with pytest.raises(ValueError, match=f"{option}=.* must be more than 0"):
        make(**{option: seconds})


@pytest.mark.parametrize("seconds", ["3600", None, True])
def test_what_is_no_number_is_refused(make: Callable[..., Any], seconds: Any) -> None:
    with pytest.raises(TypeError, match="removed_row_seconds must be a number"):
        make(removed_row_seconds=seconds)


@pytest.mark.parametrize("shared", ["redis", "sql"])
@pytest.mark.parametrize("option", ["bound_seconds", "timeout_seconds"])
def test_bounds_from_the_environment_are_no_numbers(shared: str, option: str) -> None:
    with pytest.raises(TypeError, match=f"{option} must be a number, not '1'"):
        MAKERS[shared](**{option: "1"})


@pytest.mark.parametrize("shared", ["redis", "sql"])
def test_prefix_that_is_no_text_is_refused(shared: str) -> None:
    with pytest.raises(TypeError, match="prefix must be a string"):
        MAKERS[shared](prefix=5)


@pytest.mark.parametrize("what", [None, 5, b"postgresql://host/db"])
def test_what_is_neither_url_nor_engine_is_refused(what: Any) -> None:
    with pytest.raises(TypeError, match="SQLAlchemyStore needs"):
        SQLAlchemyStore(what)


@pytest.mark.parametrize("seconds", [-1, float("nan")])
def test_file_that_is_waited_for_less_than_not_at_all_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match=r"busy_timeout_seconds=.* must not be less than 0"):
        SQLiteStore("never-made.db", busy_timeout_seconds=seconds)
