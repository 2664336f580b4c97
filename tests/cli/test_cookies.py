"""Which session cookies browsers refuse, and which let a session out."""

import pytest

from msal_logout_middleware import Cookie
from msal_logout_middleware.cli.checks.cookies import check_cookies

GOOD = Cookie("session", secure=True, same_site="Lax")
URL = "https://shop.example.com"


def found(*cookies, url=URL, logout_path="/logout"):
    findings = check_cookies(cookies, url=url, logout_path=logout_path)
    return {finding.check: finding for finding in findings}


@pytest.mark.parametrize(
    ("cookies", "url"),
    [
        ([GOOD], URL),
        ([Cookie("session", secure=True, same_site="None", partitioned=True)], URL),
        ([Cookie("session")], "http://localhost:5000"),
        ([Cookie("__Host-session", secure=True)], URL),
        ([Cookie("__Secure-session", secure=True, path="/shop")], f"{URL}/shop"),
        ([Cookie("session", secure=True, domain="shop.example.com")], URL),
        ([Cookie("session", secure=True, path="/shop/")], f"{URL}/shop/"),
        ([GOOD, GOOD], URL),
    ],
)
def test_cookie_that_browsers_take_and_keep_to_the_app_is_fine(cookies, url):
    findings = found(*cookies, url=url)
    assert {finding.level for finding in findings.values()} == {"ok"}
    assert len(findings) == 6


@pytest.mark.parametrize(
    ("check", "level", "cookie", "sees"),
    [
        ("cookie-secure", "warning", Cookie("session"), "over plain http as well"),
        ("cookie-secure", "error", Cookie("session", partitioned=True), "Partitioned without Secure"),
        ("cookie-http-only", "warning", Cookie("session", http_only=False), "any script"),
        ("cookie-same-site", "error", Cookie("session", same_site="None"), "SameSite=None without Secure"),
        ("cookie-same-site", "warning", Cookie("session", same_site="Strict"), "when the provider redirects"),
        ("cookie-prefix", "error", Cookie("__Host-session"), "must have Secure:"),
        ("cookie-prefix", "error", Cookie("__host-session"), "must have Secure:"),
        ("cookie-prefix", "error", Cookie("__Secure-session"), "must have Secure:"),
        ("cookie-prefix", "error", Cookie("__Host-s", secure=True, path="/shop"), "must have Path=/:"),
        ("cookie-prefix", "error", Cookie("__Host-s", secure=True, domain="example.com"), "have no Domain:"),
        (
            "cookie-domain",
            "warning",
            Cookie("session", domain=".example.com"),
            "every host below example.com",
        ),
        ("cookie-domain", "error", Cookie("session", domain="example.org"), "for example.org, where"),
        ("cookie-domain", "error", Cookie("session", domain="op.example.com"), "for op.example.com, where"),
        ("cookie-domain", "error", Cookie("session", domain="com"), "for all of com"),
        ("cookie-path", "warning", Cookie("session", path="/shop"), "not sent to /logout"),
        ("cookie-path", "warning", Cookie("session", path="/log"), "not sent to /logout"),
    ],
    ids=lambda value: repr(value) if isinstance(value, Cookie) else None,
)
def test_cookie_that_browsers_refuse_or_let_out_is_found(check, level, cookie, sees):
    finding = found(GOOD, cookie)[check]
    assert finding.level == level
    assert sees in finding.seen
    assert finding.to_do
