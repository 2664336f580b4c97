"""`http.py`: requests, responses and cookies as values."""

from __future__ import annotations

from http.cookies import SimpleCookie

import pytest

from msal_logout_middleware.http import Cookie, Request, Response, cookie_pairs, deletes


def request(query: str = "", body: bytes | None = None, **headers: str) -> Request:
    pairs = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return Request("POST", "/logout", query, pairs, body=body)


FORM = "application/x-www-form-urlencoded"


def test_header_is_read_by_its_small_name() -> None:
    assert request(origin="https://app.example.com").header("origin") == "https://app.example.com"
    assert request().header("origin") is None


def test_header_that_is_sent_twice_counts_as_absent() -> None:
    twice = Request("GET", "/", headers=(("origin", "https://a.example"), ("origin", "https://b.example")))
    assert twice.header("origin") is None


def test_cookie_headers_that_http2_split_are_read_as_one() -> None:
    split = Request("GET", "/", headers=(("cookie", "a=1"), ("accept", "*/*"), ("cookie", "b=2; a=3")))
    assert split.cookie_header == "a=1; b=2; a=3"
    assert split.cookies("a") == ("1", "3")
    assert split.cookies("c") == ()


@pytest.mark.parametrize(
    "neighbour",
    ["", ";", "=", "noequals", "bad name=1", 'q="a b', "ü=ö", "b=1=2", "[x]=(y)", "a\\=1", ",=,", "=empty"],
)
@pytest.mark.parametrize("order", ["{0}; session=mine", "session=mine; {0}", "{0};session=mine;{0}"])
def test_malformed_neighbour_does_not_hide_a_cookie(neighbour: str, order: str) -> None:
    header = order.format(neighbour)
    assert [value for name, value in cookie_pairs(header) if name == "session"] == ["mine"]


def test_cookie_value_is_kept_as_it_was_sent() -> None:
    assert list(cookie_pairs('a="x=y"; b=; c==')) == [("a", '"x=y"'), ("b", ""), ("c", "=")]


@pytest.mark.parametrize(
    ("query", "value"),
    [
        ("sid=1", "1"),
        ("sid=", ""),
        ("sid=a%20b+c", "a b c"),
        ("other=2&sid=1", "1"),
        ("sid=1&sid=1", None),
        ("sid=1&%73id=2", None),
        ("SID=1", None),
        ("", None),
    ],
)
def test_query_value_is_decoded_and_refused_if_repeated(query: str, value: str | None) -> None:
    assert request(query).query_value("sid") == value


@pytest.mark.parametrize(
    "content_type", [FORM, f"{FORM}; charset=utf-8", " Application/X-WWW-Form-Urlencoded ;"]
)
def test_form_value_is_read_from_a_urlencoded_body(content_type: str) -> None:
    assert request(body=b"token=a%3Db&x=1", content_type=content_type).form_value("token") == "a=b"


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (None, FORM),
        (b"", FORM),
        (b"token=1&token=1", FORM),
        (b"token=1", "application/json"),
        (b"token=1", "multipart/form-data; boundary=x"),
        (b"token=1", ""),
    ],
)
def test_form_value_is_absent_if_repeated_or_not_urlencoded(body: bytes | None, content_type: str) -> None:
    assert request(body=body, content_type=content_type).form_value("token") is None


def test_bytes_that_are_no_utf8_do_not_raise() -> None:
    assert request(body=b"token=\xff", content_type=FORM).form_value("token") == "\xff"
    assert request("sid=%ff").query_value("sid") == "\ufffd"


def test_repr_of_a_request_shows_no_header_and_no_body() -> None:
    shown = repr(request("", b"logout_token=secret", cookie="session=secret"))
    assert "secret" not in shown


def test_response_is_copied_with_more_headers() -> None:
    plain = Response(200, (("cache-control", "no-store"),), b"done")
    assert plain.with_headers(("location", "/")) == Response(
        200, (("cache-control", "no-store"), ("location", "/")), b"done"
    )
    assert plain.headers == (("cache-control", "no-store"),)


COOKIES = [
    Cookie("session"),
    Cookie("__Host-session", secure=True, same_site="None", partitioned=True),
    Cookie("s", path="/app", domain="example.com", http_only=False, same_site="Strict"),
]


@pytest.mark.parametrize("cookie", COOKIES, ids=lambda cookie: cookie.name)
def test_deletion_repeats_every_attribute_that_the_cookie_is_set_with(cookie: Cookie) -> None:
    _, when_set = cookie.set("value", max_age_seconds=60)
    _, when_deleted = cookie.delete()
    attributes = set(when_set.split("; ")[2:])
    assert attributes == set(when_deleted.split("; ")[3:])
    assert ("Secure" in attributes, "HttpOnly" in attributes) == (cookie.secure, cookie.http_only)
    assert ("Partitioned" in attributes) == cookie.partitioned
    assert f"Path={cookie.path}" in attributes


@pytest.mark.parametrize("cookie", COOKIES, ids=lambda cookie: cookie.name)
def test_cookie_is_known_by_the_header_that_sets_it(cookie: Cookie) -> None:
    set_cookie = cookie.set("a=b", max_age_seconds=60)[1]
    assert Cookie.set_by(set_cookie) == cookie
    assert Cookie.set_by(f" {set_cookie.lower()}").same_site == cookie.same_site


def test_deleted_cookie_is_empty_and_long_expired() -> None:
    parsed = SimpleCookie(Cookie("session", same_site="Lax").delete()[1])["session"]
    assert (parsed.value, parsed["max-age"], parsed["samesite"]) == ("", "0", "Lax")
    assert parsed["expires"].endswith("1970 00:00:00 GMT")


def test_cookie_lives_for_the_seconds_given() -> None:
    name, value = Cookie("state").set("signed", max_age_seconds=600)
    assert name == "set-cookie"
    assert SimpleCookie(value)["state"]["max-age"] == "600"


@pytest.mark.parametrize(
    ("set_cookie", "ours"),
    [
        ("session=1; Path=/", True),
        (" session =1", True),
        ("session=; Max-Age=0", True),
        ("session2=1", False),
        ("Session=1", False),
        ("other=session=1", False),
    ],
)
def test_set_cookie_header_is_recognised_by_its_name(set_cookie: str, ours: bool) -> None:
    assert Cookie("session").is_set_by(set_cookie) is ours


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("session", True),
        ("session-0", True),
        ("session-007", True),
        ("session-", False),
        ("session-x", False),
        ("session-1-2", False),
        ("session1", False),
        ("session-\u0661", False),
        ("sess", False),
        ("xsession-0", False),
    ],
)
def test_chunk_of_any_number_is_of_a_cookie_in_chunks(name: str, ours: bool) -> None:
    assert Cookie("session", chunked=True).is_named(name) is ours
    assert Cookie("session", chunked=True).is_set_by(f"{name}=x; Path=/") is ours
    assert Cookie("session").is_named(name) is (name == "session")


@pytest.mark.parametrize(
    ("set_cookie", "gone"),
    [
        ("session=x", False),
        ("session=x; Path=/", False),
        ("session=", True),
        ('session=""; Path=/', True),
        ("session=x; Max-Age=0", True),
        ("session=x; max-age=-1", True),
        ("session=x; Max-Age=60", False),
        ("session=x; Max-Age=60; Expires=Thu, 01 Jan 1970 00:00:00 GMT", False),
        ("session=x; Max-Age=; Expires=Thu, 01 Jan 1970 00:00:00 GMT", True),
        ("session=null; expires=Thu, 01 Jan 1970 00:00:00 GMT", True),
        ("session=x; Expires=Fri, 31 Dec 9998 23:59:59 GMT", False),
        ("session=x; Expires=soon", False),
        ("session=x; Expires=", False),
    ],
)
def test_cookie_is_deleted_by_an_empty_value_or_by_a_time_that_is_over(set_cookie: str, gone: bool) -> None:
    assert deletes(set_cookie) is gone
