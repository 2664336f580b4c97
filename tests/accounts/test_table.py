"""What stays of a user in caches that real MSAL made: nothing by us, the rest by MSAL's own `remove_account`."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import jwt
import pytest

from msal_logout_middleware.accounts import BOOKKEEPING, remove_accounts

from .rows import ROWS, belongs_to

PAGE = Path(__file__).parents[2] / "docs" / "accounts.md"
rows = pytest.mark.parametrize("build", ROWS.values(), ids=[build.__name__ for build in ROWS.values()])


def entries(cache):
    return {
        (kind, key): entry
        for kind, section in json.loads(cache).items()
        if kind not in {"AppMetadata", BOOKKEEPING}
        for key, entry in section.items()
    }


def is_of(user, key, entry):
    """Tell whether an entry is a user's, by knowing the user, who names themselves in every token here."""
    names = [key, entry.get("home_account_id") or ""]
    if entry.get("secret", "").count(".") == 2:
        names.append(json.dumps(jwt.decode(entry["secret"], options={"verify_signature": False})))
    return bool(belongs_to(user).search(" ".join(names)))


def of(user, cache):
    return {place: entry for place, entry in entries(cache).items() if is_of(user, place[1], entry)}


@rows
def test_nothing_of_the_user_is_left_and_everything_else_is(world, build):
    signed = build(world)
    before = world.cache.serialize()
    hers = of(world.alice, before)
    others = {place: entry for place, entry in entries(before).items() if place not in hers}
    assert hers
    assert any(entry.get("home_account_id") is None for entry in others.values())  # app-only
    assert of(world.bob, before).items() <= others.items()

    removal = remove_accounts(before, signed.claims)

    after = removal.cache.decode()
    assert entries(after) == others
    assert json.loads(after)["AppMetadata"] == json.loads(before)["AppMetadata"]
    assert removal.removed == Counter(kind for kind, _ in hers)
    assert Counter(kind for kind, _ in others).items() <= removal.left.items()
    assert {entry.get("home_account_id") for entry in hers.values()} - {None} == removal.home_account_ids
    assert not [token for token in world.provider.alive_refresh_tokens(world.alice) if token in after]
    assert json.dumps(json.loads(after), indent=4) == after  # what stays is the text that MSAL wrote
    world.cache.deserialize(after)
    world.silently(world.at_entra(), world.bob.home_account_id, "Mail.Read")
    for account in signed.client.get_accounts():
        assert belongs_to(world.bob).search(account["home_account_id"])


def remove_by_msal(signed):
    """Do what the samples do, with the right account: the one of this sign-in, which no username tells."""
    local = signed.claims.get("oid") or signed.claims["sub"]
    found = (account for account in signed.client.get_accounts() if account["local_account_id"] == local)
    if account := next(found, None):
        signed.client.remove_account(account)


@rows
def test_the_page_says_what_msal_leaves(world, build):
    signed = build(world)
    remove_by_msal(signed)

    left = Counter(
        "extended AccessToken" if entry.get("ext_cache_key") else kind
        for (kind, _), entry in of(world.alice, world.cache.serialize()).items()
    )

    said = ", ".join(f"{count} {kind}" for kind, count in sorted(left.items())) or "nothing"
    assert f"| {build.__doc__.rstrip('.')} | {said} | nothing |" in PAGE.read_text().splitlines()


def test_the_page_has_every_row_and_no_other():
    table = [line for line in PAGE.read_text().splitlines() if line.endswith("| nothing |")]
    assert [line.split(" | ")[0].removeprefix("| ") for line in table] == list(ROWS)
