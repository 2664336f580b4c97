"""Encryption at rest: what opens, what does not, and what becomes of it."""

from __future__ import annotations

import base64
import logging
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from hypothesis import given
from hypothesis import strategies as st

from msal_logout_middleware._drive import run
from msal_logout_middleware.caches import InStore, Removed
from msal_logout_middleware.stores import Loaded
from msal_logout_middleware.stores.encryption import Encryption, opened, protected
from msal_logout_middleware.stores.memory import MemoryStore
from msal_logout_middleware.stores.sqlite import SQLiteStore
from msal_logout_middleware.token_cache import StoredTokenCache
from tests.races.token_endpoint import ANA, Endpoint

OLD, NEW = Fernet.generate_key().decode(), b"a secret of the app, of 32 bytes "
KEY = ANA.home_account_id

rows = st.text(st.characters(exclude_categories=["Cs"]))
keys = st.binary(min_size=32, max_size=80)


# What opens


@given(keys=st.lists(keys, min_size=1, max_size=3), row=rows, data=st.binary())
def test_what_is_protected_opens_in_its_row_under_any_of_the_keys(keys, row, data):
    for key in keys:
        protected = Encryption([key]).protect(row, data)
        assert Encryption(keys).open(row, protected) == data


@given(row=rows, other=rows, data=st.binary())
def test_blob_of_another_row_does_not_open(row, other, data):
    encryption = Encryption([OLD, NEW])
    if row != other:
        assert encryption.open(other, encryption.protect(row, data)) is None


@given(key=keys, other=keys, row=rows, data=st.binary())
def test_wrong_key_does_not_open(key, other, row, data):
    if key != other:
        assert Encryption([other]).open(row, Encryption([key]).protect(row, data)) is None


@given(data=st.binary(max_size=100), at=st.integers(min_value=0), bit=st.integers(0, 7))
def test_flipped_bit_does_not_open(data, at, bit):
    encryption = Encryption([OLD])
    blob = bytearray(encryption.protect("row", data))
    blob[at % len(blob)] ^= 1 << bit
    assert encryption.open("row", bytes(blob)) is None


@given(data=st.binary(max_size=100), at=st.integers(min_value=0))
def test_truncated_blob_does_not_open(data, at):
    encryption = Encryption([OLD])
    blob = encryption.protect("row", data)
    assert encryption.open("row", blob[: at % len(blob)]) is None


@given(blob=st.binary(max_size=200), clear=st.sampled_from(["refused", "read", "written"]))
def test_arbitrary_bytes_raise_nothing_and_open_only_as_what_was_in_clear(blob, clear):
    encryption = Encryption([OLD], clear=clear)
    assert encryption.open("row", blob) in ({None} if clear == "refused" else {None, blob})


@pytest.mark.parametrize("clear", ["refused", "read", "written"])
def test_what_no_key_opens_is_never_taken_for_what_was_in_clear(clear):
    blob = Encryption([NEW]).protect("row", b"{}")
    assert Encryption([OLD], clear=clear).open("row", blob) is None


def test_the_same_token_cache_never_looks_the_same():
    encryption = Encryption(OLD)
    assert encryption.protect("row", b"{}") != encryption.protect("row", b"{}")


def test_what_is_added_to_a_token_cache_is_a_hundred_bytes_at_most():
    assert len(Encryption(OLD).protect("row", b"x" * 10_000)) <= 10_100


def test_first_key_encrypts():
    assert Encryption([NEW]).open("row", Encryption([NEW, OLD]).protect("row", b"1")) == b"1"
    assert Encryption([OLD]).open("row", Encryption([NEW, OLD]).protect("row", b"1")) is None


def test_row_of_which_a_token_cache_is_under_the_first_key_is_current():
    assert Encryption([NEW, OLD]).is_current("row", Encryption([NEW]).protect("row", b"1"))
    assert not Encryption([NEW, OLD]).is_current("row", Encryption([OLD]).protect("row", b"1"))
    assert not Encryption([NEW], clear="read").is_current("row", b"{}")


# What stands in clear


@pytest.mark.parametrize(
    ("clear", "opened", "encrypts"),
    [("refused", None, True), ("read", b"{}", True), ("written", b"{}", False)],
)
def test_what_becomes_of_what_is_in_clear_is_as_asked_for(clear, opened, encrypts):
    encryption = Encryption([OLD], clear=clear)
    assert encryption.open("row", b"{}") == opened
    assert (encryption.protect("row", b"{}") != b"{}") is encrypts
    assert encryption.is_current("row", b"{}") is not encrypts
    assert encryption.open("row", Encryption([OLD]).protect("row", b"1")) == b"1"


# Keys that are none


@pytest.mark.parametrize(
    ("keys", "error", "said"),
    [
        ([], ValueError, "needs a key"),
        ([""], ValueError, "32 bytes"),
        ([OLD, "short"], ValueError, "32 bytes"),
        (b"x" * 31, ValueError, "32 bytes"),
        ([None], TypeError, "str or bytes"),
        ([Fernet(OLD)], TypeError, "str or bytes"),
    ],
)
def test_key_that_is_none_is_refused_with_a_sentence(keys, error, said):
    with pytest.raises(error, match=said) as refused:
        Encryption(keys)
    assert "Fernet.generate_key()" in str(refused.value)
    assert OLD not in str(refused.value)


def test_clear_is_one_of_three_words():
    with pytest.raises(ValueError, match="'refused', 'read', 'written'"):
        Encryption(OLD, clear=True)  # type: ignore[arg-type]


def test_keys_are_not_shown():
    assert OLD not in repr(Encryption(OLD))


# In a store


def test_store_without_encryption_keeps_what_it_is_given():
    assert protected(None, "row", b"1") == b"1"
    assert opened(None, "row", Loaded(b"1", "v")) == Loaded(b"1", "v")


def test_what_is_absent_stays_absent():
    encryption = Encryption(OLD)
    assert protected(encryption, "row", None) is None
    assert opened(encryption, "row", Loaded(None, "v")) == Loaded(None, "v")


def test_what_no_key_opens_is_logged_once_as_what_to_do_without_naming_anybody(caplog):
    store = MemoryStore(encryption=Encryption(OLD))
    for key in ("alice", "bob"):
        store.replace(key, "", b"content")
    store.encryption = Encryption(NEW)
    for key in ("alice", "bob", "alice"):
        assert store.load(key).data is None
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "add it behind the first" in record.getMessage()
    for secret in ("alice", "bob", "content", NEW.decode()):
        assert secret not in caplog.text


def sign_in(store: MemoryStore | SQLiteStore) -> dict[str, str]:
    with StoredTokenCache(store) as cache:
        result: dict[str, str] = Endpoint().sign_in(cache, ANA)
        return result


def test_user_whose_key_is_lost_signs_in_again_and_nothing_else_breaks():
    store = MemoryStore(encryption=Encryption(OLD))
    sign_in(store)
    store.encryption = Encryption(NEW)
    with StoredTokenCache(store, key=KEY) as cache:
        assert Endpoint().app(cache).get_accounts() == []
    sign_in(store)
    with StoredTokenCache(store, key=KEY) as cache:
        assert len(Endpoint().app(cache).get_accounts()) == 1


def test_sign_out_removes_what_no_key_opens():
    store = MemoryStore(encryption=Encryption(OLD))
    sign_in(store)
    store.encryption = Encryption(NEW)
    assert run(InStore(store).remove_accounts(ANA.claims, None)) == Removed({})
    assert store.load_row(KEY).data is None


def content_of_the_files(path: Path) -> bytes:
    return b"".join(file.read_bytes() for file in path.parent.glob(f"{path.name}*"))


def test_no_byte_of_a_token_is_in_the_files_of_an_encrypted_sqlite_store(tmp_path: Path):
    path = tmp_path / "logout.db"
    store = SQLiteStore(path, encryption=Encryption(OLD))
    result = sign_in(store)
    with_log = content_of_the_files(path)
    store.close()
    for content in (with_log, content_of_the_files(path)):
        for secret in (result["access_token"], result["refresh_token"], result["id_token"], KEY, ANA.sub):
            assert secret.encode() not in content
            assert base64.b64encode(secret.encode()).rstrip(b"=") not in content
        assert b"RefreshToken" not in content
