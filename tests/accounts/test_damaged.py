"""Damaged caches are told, and show nothing of what is in them."""

from __future__ import annotations

import base64
import bisect
import json

import pytest

from msal_logout_middleware.accounts import remove_accounts
from msal_logout_middleware.errors import DamagedCache

from .handmade import entra_claims

DEEP = 200_000


@pytest.mark.parametrize(
    ("cache", "trouble"),
    [
        (b"\xff\xfe{\x00}\x00", "is not UTF-8 text"),
        (b'{"AccessToken": {"\xff": {}}}', "is not UTF-8 text"),
        ("\ud800", "is not UTF-8 text"),
        ("hunter2", "is not JSON"),
        ("{", "is not JSON"),
        ('{"AccessToken"', "is not JSON"),
        ('{"AccessToken":', "is not JSON"),
        ('{"AccessToken": {}', "is not JSON"),
        ('{"AccessToken": {},}', "is not JSON"),
        ('{"AccessToken" {}}', "is not JSON"),
        ('{"AccessToken": {} "IdToken": {}}', "is not JSON"),
        ('{"AccessToken": {"k": {"secret": "hunter2}}}', "is not JSON"),
        ('{"AccessToken": {"k": {}, }}', "is not JSON"),
        ('{7: {"k": {}}}', "is not JSON"),
        ("{} hunter2", "is not JSON"),
        ("[] hunter2", "is not JSON"),
        ("[", "is not JSON"),
        (b"{}\x00\x00", "is not JSON"),
        ("[]", "is not a JSON object"),
        ("null", "is not a JSON object"),
        ('"hunter2"', "is not a JSON object"),
        ('{"AccessToken": ["hunter2"]}', "section AccessToken of the token cache is not"),
        ('{"RefreshToken": null}', "section RefreshToken of the token cache is not"),
        ('{"Account": {}, "AppMetadata": "hunter2"}', "section AppMetadata of the token cache is not"),
        ("[" * DEEP, "is nested too deeply"),
        ('{"AccessToken": {"k": ' + '{"a":' * DEEP, "is nested too deeply"),
        ('{"MsalLogoutMiddleware": ' + "[" * DEEP, "is nested too deeply"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_damaged_cache_is_told_without_its_contents(cache, trouble):
    with pytest.raises(DamagedCache, match=trouble) as caught:
        remove_accounts(cache, entra_claims())
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is caught.value.__context__ is None


def test_deep_token_is_no_token():
    payload = base64.urlsafe_b64encode(b"[" * DEEP).decode()
    cache = json.dumps({"IdToken": {"k": {"home_account_id": "x", "secret": f"a.{payload}.c"}}})
    assert remove_accounts(cache, entra_claims()).cache == cache.encode()


def readable(depth: int) -> bool:
    try:
        json.loads("[" * depth + "]" * depth)
    except RecursionError:
        return False
    return True


def test_cache_that_is_almost_too_deep_is_cleaned_or_damaged():
    mine = json.dumps({"home_account_id": "{oid}.{tid}".format(**entra_claims())})
    outcomes = set()
    deepest = (
        bisect.bisect(range(DEEP), False, key=lambda depth: not readable(depth)) - 1
    )  # by Python's version
    for depth in range(deepest - 200, deepest + 10):
        cache = f'{{"AccessToken": {{"k": {"[" * depth}{"]" * depth}, "mine": {mine}}}}}'
        try:
            outcomes.add(str(remove_accounts(cache, entra_claims()).removed))
        except DamagedCache as damaged:
            outcomes.add(str(damaged))
    assert outcomes == {"{'AccessToken': 1}", "the token cache is nested too deeply"}
