"""What is put into a page is escaped, and nothing else runs, loads or frames it."""

import html

import pytest

from msal_logout_middleware import pages

EVIL = """"'><script>alert(1)</script>&amp;"""
PAGES = {
    "confirmation": pages.confirmation(EVIL, token=EVIL),
    "failure": pages.failure(EVIL, token=EVIL, onward_url=EVIL, onward_fields=None),
    "form that posts itself": pages.self_submitting(EVIL, {EVIL: EVIL}),
}
each_page = pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)


@each_page
def test_whatever_is_put_into_a_page_is_text(page):
    text = page.body.decode()
    assert html.escape(EVIL) in text
    assert EVIL not in text
    assert "<script>alert" not in text


@each_page
def test_page_runs_loads_and_is_framed_by_nothing(page):
    headers = dict(page.headers)
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
    assert policy["script-src"].startswith("'sha256-")
    assert policy["style-src"].startswith("'sha256-")
    assert headers["x-frame-options"] == "DENY"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-store"


def test_page_for_when_the_store_is_away_is_one_as_well_and_says_when_to_come_back():
    page = pages.unavailable()
    headers = dict(page.headers)
    assert page.status == 503
    assert "Whether you are signed in cannot be told at the moment" in page.body.decode()
    assert headers["content-type"] == "text/html; charset=utf-8"
    assert (headers["retry-after"], headers["cache-control"]) == ("5", "no-store")
    assert headers["content-security-policy"].startswith("default-src 'none'")
