"""What `secret=` does."""

import pytest
from itsdangerous import TimestampSigner

from msal_logout_middleware import seal
from msal_logout_middleware.seal import Seal

OLD, NEW = "o" * 32, "n" * 32


def hash_of(seal, *parts):
    (only,) = seal.hashes(*parts)
    return only


def test_hash_depends_on_the_secret_the_purpose_and_every_part():
    seal = Seal([NEW])
    hashes = {
        hash_of(seal, "sid", "iss", "a"),
        hash_of(seal, "sub", "iss", "a"),
        hash_of(seal, "sid", "issa", ""),
        hash_of(seal, "sid", "iss", "b"),
        hash_of(Seal([OLD]), "sid", "iss", "a"),
    }
    assert len(hashes) == 5


def test_hash_does_not_depend_on_the_order_of_claims():
    seal = Seal([NEW])
    assert hash_of(seal, "claims", {"iss": 1, "sub": 2}) == hash_of(seal, "claims", {"sub": 2, "iss": 1})


def test_each_secret_hashes_the_first_first():
    both = Seal([NEW, OLD]).hashes("sid", "x")
    assert both == (*Seal([NEW]).hashes("sid", "x"), *Seal([OLD]).hashes("sid", "x"))


def test_sealed_value_opens_and_shows_nothing():
    sealed = Seal([NEW]).seal("work", {"id": "live-credential"})
    assert b"live-credential" not in sealed
    assert Seal([NEW]).open("work", sealed) == {"id": "live-credential"}


def test_value_sealed_under_a_former_secret_opens_and_under_another_does_not():
    sealed = Seal([OLD]).seal("work", "x")
    assert Seal([NEW, OLD]).open("work", sealed) == "x"
    assert Seal([NEW]).open("work", sealed) is None


def test_value_sealed_for_another_purpose_does_not_open():
    assert Seal([NEW]).open("retry", Seal([NEW]).seal("journal", "x")) is None


@pytest.mark.parametrize("sealed", [b"", b"garbage", "ünïcode".encode(), b"\x00" * 100])
def test_garbage_does_not_open(sealed):
    assert Seal([NEW]).open("work", sealed) is None


def test_sealed_value_grows_too_old(monkeypatch):
    seal = Seal([NEW])
    sealed = seal.seal("work", "x")
    monkeypatch.setattr("time.time", lambda: 4_000_000_000.0)
    assert seal.open("work", sealed, max_age_seconds=60) is None
    assert seal.open("work", sealed) == "x"


def test_token_verifies_for_its_purpose_only():
    seal = Seal([NEW])
    token = seal.sign("state", ["abc", None])
    assert seal.verify("state", token, max_age_seconds=60) == ["abc", None]
    assert seal.verify("confirm", token, max_age_seconds=60) is None
    assert seal.verify("state", token + "x", max_age_seconds=60) is None
    assert seal.verify("state", None, max_age_seconds=60) is None


def test_token_signed_under_a_former_secret_verifies_and_the_first_secret_signs():
    token = Seal([OLD]).sign("state", 1)
    both = Seal([NEW, OLD])
    assert both.verify("state", token, max_age_seconds=60) == 1
    assert Seal([NEW]).verify("state", both.sign("state", 2), max_age_seconds=60) == 2


def test_token_grows_too_old(monkeypatch):
    seal = Seal([NEW])
    token = seal.sign("state", 1)
    monkeypatch.setattr(TimestampSigner, "get_timestamp", lambda self: 4_000_000_000)
    assert seal.verify("state", token, max_age_seconds=60) is None


def test_what_is_kept_at_hand_is_bounded_and_the_oldest_goes_first(monkeypatch):
    monkeypatch.setattr(seal, "_AT_HAND", 2)
    one = Seal([b"a secret of these tests"])
    for number in range(3):
        one.keep_at_hand(bytes([number]), number)
    assert [one.at_hand(bytes([number])) for number in range(3)] == [None, 1, 2]


def test_no_secret_is_a_mistake_that_says_what_to_give():
    with pytest.raises(ValueError, match="give secret="):
        Seal([])


def test_short_secret_is_a_mistake():
    with pytest.raises(ValueError, match="16 bytes"):
        Seal(["short"])
