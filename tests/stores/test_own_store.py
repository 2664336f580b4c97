"""The stores of one's own that docs/own_store.md shows: twenty lines that keep the contract, and what breaks it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from msal_logout_middleware.stores import Loaded
from msal_logout_middleware.testing.store_contract import TokenCacheStoreContract

ROOT = Path(__file__).parents[2]


def from_the_docs(name: str) -> str:
    """The block of the page that defines a store."""
    blocks = (ROOT / "docs/own_store.md").read_text().split("```python\n")[1:]
    return next(block.partition("```")[0] for block in blocks if f"class {name}" in block)


def store_of_the_docs(name: str, *arguments: Any) -> Any:
    names: dict[str, Any] = {}
    exec(from_the_docs(name), names)
    return names[name](*arguments)


class TestStoreOfTheDocs(TokenCacheStoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Any:
        return store_of_the_docs("MyStore", tmp_path / "caches.db")


class TestDictStoreOfTheDocs(TokenCacheStoreContract):
    @pytest.fixture
    def store(self) -> Any:
        return store_of_the_docs("DictStore")


@pytest.mark.parametrize("name", ["MyStore", "DictStore"])
def test_store_of_the_docs_is_twenty_lines(name: str) -> None:
    lines = from_the_docs(name).partition(f"class {name}")[2].splitlines()
    assert len([line for line in lines if line.strip()]) <= 20


def test_what_the_docs_say_of_the_contract_names_its_tests() -> None:
    named = re.findall(r"`(test_\w+)`", (ROOT / "docs/own_store.md").read_text())
    assert named
    assert not [name for name in named if not hasattr(TokenCacheStoreContract, name)]


class TokenCaches:
    """Keeps the contract, with a switch for each way to break it."""

    def __init__(self, broken: str) -> None:
        self.broken = broken
        self.rows: dict[str, Loaded] = {}
        self.count = 0

    def load(self, key: str) -> Loaded:
        return self.rows.get(self.name(key), Loaded(None, ""))

    def name(self, key: str) -> str:
        if self.broken == "keys without case":
            return key.lower()
        if self.broken == "keys cut at NUL":
            return key.partition("\0")[0]
        return key

    def replace(self, key: str, expected: str, data: bytes | None) -> bool:
        if self.load(key).version != expected and self.broken != "writes over everything":
            return False
        self.count += 1
        version = str(self.count)
        if self.broken == "version is the content's":
            version = repr(data)
        if self.broken == "data is text" and data:
            data = data.decode("latin-1").strip().encode()
        if data is None and self.broken == "removed rows are deleted":
            self.rows.pop(self.name(key), None)
        elif data is None and self.broken == "removing nothing does nothing" and key not in self.rows:
            pass
        else:
            self.rows[self.name(key)] = Loaded(data, version)
        return True


class TestStoreThatIsNotBroken(TokenCacheStoreContract):
    @pytest.fixture
    def store(self) -> TokenCaches:
        return TokenCaches("")

    # Not for threads, so not judged by them.
    test_of_saves_at_once_only_one_is_written = None  # type: ignore[assignment]
    test_no_write_among_many_is_lost = None  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("broken", "noticed_by"),
    [
        ("writes over everything", "test_save_over_another_save_is_refused"),
        ("writes over everything", "test_save_after_a_removal_is_refused"),
        ("version is the content's", "test_no_version_comes_twice"),
        ("data is text", "test_what_is_written_is_loaded_byte_for_byte"),
        ("removed rows are deleted", "test_first_save_after_another_save_and_its_removal_is_refused"),
        ("removing nothing does nothing", "test_first_save_after_the_removal_of_nothing_is_refused"),
        ("keys without case", "test_keys_that_look_alike_are_kept_apart"),
    ],
)
@pytest.mark.anyio
async def test_contract_notices_a_broken_store(broken: str, noticed_by: str) -> None:
    with pytest.raises(AssertionError):
        await getattr(TokenCacheStoreContract(), noticed_by)(TokenCaches(broken))


@pytest.mark.anyio
async def test_contract_notices_a_key_that_is_taken_for_another() -> None:
    contract = TokenCacheStoreContract()
    with pytest.raises(AssertionError):
        await contract.test_strange_key_is_kept_apart_or_is_a_value_error(
            TokenCaches("keys cut at NUL"), "alice\0bob"
        )


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
