"""Where claims are looked for, and what counts as claims."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import pytest

from msal_logout_middleware.sessions import presets
from msal_logout_middleware.sessions.presets import claims_finder, claims_in_token_cache

ADA = {"iss": "https://provider.example/v2.0", "sub": "ada", "name": "Ada"}
BOB = {**ADA, "sub": "bob"}
NOT_CLAIMS = [
    {"name": "Ada"},
    {"sub": "ada"},
    {"iss": "https://provider.example/v2.0"},
    {**ADA, "sub": ""},
    {**ADA, "iss": ""},
    {**ADA, "sub": 7},
    {**ADA, "iss": None},
    "ada",
    7,
    ["ada"],
]


@pytest.fixture(autouse=True)
def _nothing_told_yet() -> Iterator[None]:
    for tell in (presets._tell_once, presets._tell_of_other_place):
        tell.cache_clear()
    yield
    for tell in (presets._tell_once, presets._tell_of_other_place):
        tell.cache_clear()


@pytest.mark.parametrize("key", ["_logged_in_user", "user", "id_token_claims"])
def test_claims_are_found_at_each_known_place(key: str) -> None:
    assert claims_finder(None)({key: ADA, "theme": "dark"}) == ADA


def test_places_of_sign_in_libraries_come_first() -> None:
    assert claims_finder(None)({"id_token_claims": BOB, "user": BOB, "_logged_in_user": ADA}) == ADA
    assert claims_finder(None)({"id_token_claims": BOB, "user": ADA}) == ADA


def test_known_place_that_holds_no_claims_is_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    assert claims_finder(None)({"user": {"name": "Ada"}, "id_token_claims": ADA}) == ADA
    assert not caplog.records


def test_claims_are_found_at_the_key_that_is_given_and_nowhere_else() -> None:
    assert claims_finder("account")({"account": ADA, "user": BOB}) == ADA
    assert claims_finder("account")({"user": BOB}) is None


def test_claims_are_found_by_a_callable() -> None:
    assert claims_finder(lambda contents: contents["auth"]["claims"])({"auth": {"claims": ADA}}) == ADA


def test_callable_may_add_what_the_app_left_out() -> None:
    def find(contents: Mapping[str, Any]) -> Mapping[str, Any] | None:
        return contents.get("user") and {"iss": "https://provider.example/v2.0", **contents["user"]}

    assert claims_finder(find)({"user": {"sub": "ada"}}) == {"iss": ADA["iss"], "sub": "ada"}
    assert claims_finder(find)({}) is None


def test_any_mapping_may_be_claims() -> None:
    claims = MappingProxyType(ADA)
    assert claims_finder(None)({"user": claims}) is claims


@pytest.mark.parametrize("at", [None, "user", lambda contents: contents["user"]])
@pytest.mark.parametrize("value", NOT_CLAIMS)
def test_what_lacks_issuer_or_subject_is_nobody_and_is_told_once(
    at: Any, value: object, caplog: pytest.LogCaptureFixture
) -> None:
    find = claims_finder(at)
    assert find({"user": value}) is None
    assert find({"user": value}) is None
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "claims=" in record.getMessage()
    assert "ada" not in record.getMessage()


@pytest.mark.parametrize(
    ("contents", "argument"),
    [
        ({"account": ADA}, "claims='account'"),
        ({"tokens": {"id_token_claims": ADA}}, "claims=lambda session: session.get('tokens'"),
    ],
)
def test_claims_under_another_name_are_told_once_with_the_argument_to_give(
    contents: Mapping[str, Any], argument: str, caplog: pytest.LogCaptureFixture
) -> None:
    find = claims_finder(None)
    assert find(contents) is None
    assert find(contents) is None
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert argument in record.getMessage()
    assert ADA["sub"] not in record.getMessage()
    given = eval(record.getMessage().partition("claims=")[2].removesuffix("."))
    assert claims_finder(given)(contents) == ADA


@pytest.mark.parametrize("at", [None, "user", lambda contents: contents.get("user")])
@pytest.mark.parametrize("contents", [{}, {"user": None}, {"user": {}}, {"user": ""}])
def test_nobody_signed_in_is_not_worth_telling(
    at: Any, contents: Mapping[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    assert claims_finder(at)(contents) is None
    assert not caplog.records


def test_error_of_a_callable_is_passed_on_with_a_note() -> None:
    with pytest.raises(KeyError) as caught:
        claims_finder(lambda contents: contents["user"])({})
    assert caught.value.__notes__ == [
        "raised by the callable given as claims=; where nobody is signed in it returns None"
    ]


def test_other_things_than_key_and_callable_are_refused() -> None:
    with pytest.raises(TypeError, match=r"claims= is a key of the session, a callable or None, not list"):
        claims_finder(["user"])  # type: ignore[arg-type]


def cached(*claims: Mapping[str, Any]) -> str:
    def token(of: Mapping[str, Any]) -> str:
        payload = base64.urlsafe_b64encode(json.dumps(of).encode()).decode().rstrip("=")
        return f"e30.{payload}.c2ln"

    return json.dumps({"IdToken": {str(n): {"secret": token(of)} for n, of in enumerate(claims)}})


def test_claims_are_found_in_a_token_cache_of_the_session() -> None:
    find = claims_in_token_cache()
    older, newer = {**ADA, "iat": 1700000000, "name": "old"}, {**ADA, "iat": 1700003600, "name": "new"}
    assert find({"token_cache": cached(newer, older)}) == newer
    assert find({"token_cache": cached(older, newer)}) == newer
    assert claims_in_token_cache("_cache")({"_cache": cached(older)}) == older


@pytest.mark.parametrize(
    "cache",
    [None, "", "{}", "no json", "[]", "3", 7, '{"IdToken": 3}',
     '{"IdToken": {"x": {}}}', '{"IdToken": {"x": {"secret": "y"}}}',
     '{"IdToken": {"x": {"secret": 7}}}', cached({"sub": "ada"})],
)  # fmt: skip
def test_token_cache_without_an_id_token_signs_nobody_in(cache: Any) -> None:
    assert claims_in_token_cache()({"token_cache": cache}) is None
    assert claims_in_token_cache()({}) is None
