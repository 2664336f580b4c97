"""The text of a cache: what stays of it stays byte for byte, whatever wrote it."""

from __future__ import annotations

import json
import re
import time

import pytest

from msal_logout_middleware.accounts import BOOKKEEPING, remove_accounts

from .handmade import BOB, cache_of, entra_claims, entry

OURS = re.compile(rf',?\s*"{BOOKKEEPING}":\s*{{\s*"incarnations":\s*{{[^}}]*}}\s*}}')
STYLES = {
    "MSAL Python": lambda value: json.dumps(value, indent=4),
    "compact": lambda value: json.dumps(value, separators=(",", ":")),
    "default": json.dumps,
    "two spaces": lambda value: json.dumps(value, indent=2, ensure_ascii=False),
    "tabs": lambda value: json.dumps(value, indent="\t"),
    "no indentation": lambda value: json.dumps(value, indent=0),
    "Windows": lambda value: json.dumps(value, indent=2).replace("\n", "\r\n"),
    "indented, tight": lambda value: json.dumps(value, indent=4, separators=(",", ":")),
    "byte order mark": lambda value: "\ufeff" + json.dumps(value, indent=2),
    "final newline": lambda value: json.dumps(value, indent=2) + "\n",
}
styles = pytest.mark.parametrize("write", STYLES.values(), ids=STYLES)


@pytest.fixture(autouse=True)
def _time_stands_still(monkeypatch):
    """MSAL notes the second at which it writes an entry."""
    monkeypatch.setattr(time, "time", lambda: 1_800_000_000.0)


@styles
@pytest.mark.parametrize("alice_signs_in", [0, 1, 2])
def test_what_stays_is_written_as_its_writer_wrote_it(write, alice_signs_in):
    others = [entra_claims(BOB), entra_claims("c0ffee00-0000-4000-8000-000000000001", name="Zoë")]
    cache = cache_of(*others[:alice_signs_in], entra_claims(), *others[alice_signs_in:])
    cache["Ünknown"] = {"Zoë": ["kept"]}

    after = remove_accounts(write(cache).encode(), entra_claims()).cache.decode()

    assert after == write(json.loads(after.removeprefix("\ufeff")))
    assert OURS.sub("", after) == write({**cache_of(*others), "Ünknown": {"Zoë": ["kept"]}})


@styles
def test_cache_without_the_user_comes_back_as_it_was(write):
    data = write(cache_of(entra_claims(BOB))).encode()
    assert remove_accounts(data, entra_claims()).cache is data
    assert remove_accounts(data.decode(), entra_claims()).cache == data


@styles
def test_second_removal_changes_nothing(write):
    cache = cache_of(entra_claims(), entra_claims(BOB))
    once = remove_accounts(write(cache), entra_claims()).cache
    assert remove_accounts(once, entra_claims()).cache is once


def test_bookkeeping_stays_where_it_stands():
    cache = {BOOKKEEPING: {"incarnations": {"x": "y"}}, **cache_of(entra_claims(), entra_claims(BOB))}
    for write in STYLES.values():
        after = remove_accounts(write(cache), entra_claims()).cache.decode()
        assert after == write(json.loads(after.removeprefix("\ufeff")))
        assert next(iter(json.loads(after.removeprefix("\ufeff")))) == BOOKKEEPING


@pytest.mark.parametrize(
    "kept",
    [
        r'{"secret":"\u002B\/\u00e9\ud83d\ude00"}',
        '{ "n" :1.0,"m":-0,"e":1E+5 , "huge":' + "9" * 5000 + ',"NaN":NaN}',
        '{"lone":"\\ud800","é":"\U0001f600"}',
        '{"nested":' + "[" * 200 + "]" * 200 + "}",
        '{"same":1,"same":2}',
        '"text"',
        "null",
        "-62135596800",
    ],
)
def test_entry_that_stays_is_not_written_anew(kept):
    mine = json.dumps(entry(f"{entra_claims()['oid']}.{entra_claims()['tid']}"))
    for section in (
        f'"k":{kept} ,"a":{mine}',
        f'"a":{mine}, "k":{kept}',
        f'"a":{mine},"k":{kept},"b":{mine}',
    ):
        after = remove_accounts(f'{{"AccessToken":{{{section}}}}}', entra_claims()).cache.decode()
        assert OURS.sub("", after) == f'{{"AccessToken":{{"k":{kept}}}}}'


def test_repeated_members_are_all_looked_at():
    mine = json.dumps(entry(f"{entra_claims()['oid']}.{entra_claims()['tid']}"))
    cache = f'{{"AccessToken":{{"k":{mine},"k":7}},"AccessToken":{{"k":{mine},"j":8}},"IdToken":{{}}}}'
    removal = remove_accounts(cache, entra_claims())
    assert (
        OURS.sub("", removal.cache.decode()) == '{"AccessToken":{"k":7},"AccessToken":{"j":8},"IdToken":{}}'
    )
    assert removal.removed == removal.left == {"AccessToken": 2}
