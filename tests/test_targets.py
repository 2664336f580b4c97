"""Where a browser may be sent."""

import pytest

from msal_logout_middleware.targets import checked_target, chosen_target, is_loopback, origin_of

ATTACKS = [
    "",
    "javascript:alert(1)",
    "data:text/html,x",
    "http://app.example.com/",
    "ftp://app.example.com/",
    "https:///path",
    "https:app.example.com",
    "https://",
    "//evil.example",
    "///evil.example",
    "/\\evil.example",
    "\\\\evil.example",
    "https:\\\\evil.example",
    "https://app.example.com\\@evil.example",
    "https://app.example.com@evil.example/",
    "https://app.example.com%40evil.example/",
    "https://user:secret@app.example.com/",
    "https://app.example.com/\r\nSet-Cookie: a=b",
    "https://app.example.com/%0d%0aSet-Cookie:%20a=b",
    "https://app.example.com/\t",
    "https://app.example.com/ x",
    "https://app.example.com/%00",
    "https://app.example.com/%5c",
    "https://äpp.example.com/",
    "https://app.example.com/ä",
    "/%2fevil.example",
    "/%5cevil.example",
    "/\tevil.example",
    "/ä",
    "relative",
    "?query",
    "#fragment",
]


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("url", ATTACKS)
def test_url_that_browsers_may_read_otherwise_is_a_mistake(url, relative):
    with pytest.raises(ValueError, match="name="):
        checked_target(url, name="name", relative=relative)


@pytest.mark.parametrize(
    "url",
    [
        "https://app.example.com/",
        "https://app.example.com:8443/bye?x=1",
        "http://localhost:5000/",
        "http://app.localhost/",
        "http://127.0.0.1:8000/",
        "http://[::1]:8000/",
    ],
)
def test_plain_url_is_a_target(url):
    assert checked_target(url, name="x") == url


def test_path_is_a_target_only_where_it_may_be_one():
    assert checked_target("/bye?x=1", name="x", relative=True) == "/bye?x=1"
    with pytest.raises(ValueError, match="absolute https"):
        checked_target("/bye", name="x")


def test_request_chooses_by_equality_of_the_whole_string():
    allowed = ("/bye", "https://app.example.com/x")
    assert chosen_target("/bye", allowed) == "/bye"
    for other in (
        "/bye/",
        "/BYE",
        "/bye?x",
        "",
        None,
        "/by",
        " /bye",
        "//evil.example",
        "https://evil.example/bye",
    ):
        assert chosen_target(other, allowed) is None


def test_origin_is_written_as_browsers_write_it():
    assert origin_of("https://App.Example.com:8443/x?y") == "https://app.example.com:8443"
    assert origin_of("https://app.example.com:443/") == "https://app.example.com"
    assert origin_of("http://localhost:80/") == "http://localhost"


def test_loopback_hosts_are_known():
    assert all(map(is_loopback, ("localhost", "idp.localhost", "127.0.0.1", "127.1.2.3", "::1")))
    assert not any(map(is_loopback, (None, "", "localhost.example.com", "10.0.0.1", "example.com")))
