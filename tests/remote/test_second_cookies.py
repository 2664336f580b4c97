"""Two session cookies in one request: what it leads to belongs to the session that the framework takes."""

from __future__ import annotations

import pytest

from tests.doors import Browser
from tests.remote.conftest import signing_in


def cookie_set_by(site, cookie_header, path):
    """The session cookie that an answer sets."""
    answer = site.door.call("GET", path, [("cookie", cookie_header)], b"")
    assert answer.status == 200
    values = [value.removeprefix(f"{site.cookie_name}=") for value in answer.all("set-cookie")]
    return values[0].partition(";")[0] if values else ""


def beside_another(site):
    """Ann's browser, and a header with a copy of her cookie, which the framework takes, beside one of Mallory's own."""
    claims = signing_in("ann")
    ann, mallory = site.sign_in(claims), site.sign_in(signing_in("mallory", "another"))
    pairs = [f"{site.cookie_name}={browser.cookies[site.cookie_name]}" for browser in (ann, mallory)]
    renewed = claims | {"iat": claims["iat"] + 1, "nonce": "refreshed"}
    site.does["refresh"] = lambda session: session.update(user=renewed)
    return ann, in_order(site, *pairs)


def in_order(site, taken, other):
    """Flask takes the first of two cookies, Starlette the last."""
    return f"{taken}; {other}" if "flask" in site.kind else f"{other}; {taken}"


def test_cookie_that_was_renewed_beside_another_session_dies_with_its_own(either_door):
    site = either_door.build()
    ann, both = beside_another(site)
    renewed = Browser(site.door, {site.cookie_name: cookie_set_by(site, both, "/does/refresh")})
    assert site.user(renewed) == "sub-of-ann"
    assert ann.get("/logout").status == 303
    assert site.user(renewed) is None


@pytest.mark.parametrize("way", ["logout", "front-channel", "admin"])
def test_request_that_runs_beside_another_session_brings_nothing_back(either_door, way):
    site = either_door.build()
    ann, both = beside_another(site)
    refresh = site.does["refresh"]

    def slow(session):
        refresh(session)
        if way == "logout":
            assert ann.get("/logout").status == 303
        elif way == "front-channel":
            site.front_channel(sid="a-session")
        else:
            site.logout.end_sessions(sid="a-session")

    site.does["slow"] = slow
    renewed = cookie_set_by(site, both, "/does/slow")
    assert not renewed or site.user(Browser(site.door, {site.cookie_name: renewed})) is None


def test_record_that_is_saved_late_beside_another_cookie_is_deleted_again(server_side_site):
    site = server_side_site.build()
    ann = site.sign_in(signing_in("ann"))
    before = dict(site.records)

    def late(_session):
        site.front_channel(sid="a-session")
        site.records.update(before)

    site.does["late"] = late
    header = in_order(
        site, f"{site.cookie_name}={ann.cookies[site.cookie_name]}", f"{site.cookie_name}=of-nobody"
    )
    site.door.call("GET", "/late/late", [("cookie", header)], b"")
    assert "sub-of-ann" not in repr(dict(site.records))
