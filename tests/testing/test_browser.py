"""The scripted browser sends what Chromium sends, and goes where it goes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from msal_logout_middleware.testing import Browser, CookieJar

COOKIES = (
    "lax=1; SameSite=Lax",
    "strict=1; SameSite=Strict",
    "none=1; SameSite=None; Secure",
    "unset=1",
)


class Web:
    """Pages by path, on one port of loopback; hosts are told apart by name."""

    def __init__(self) -> None:
        self.pages: dict[str, tuple[int, dict[str, str], str]] = {}
        self.seen: list[tuple[str, dict[str, str], str]] = []
        self.port = 0

    def url(self, host: str, path: str) -> str:
        return f"http://{host}:{self.port}{path}"

    def page(self, path: str, html: str = "", status: int = 200, **headers: str) -> None:
        self.pages[path] = (status, {"content-type": "text/html", **headers}, html)

    def headers(self, path: str) -> dict[str, str]:
        """Of the last request to a path."""
        return next(headers for seen, headers, _ in reversed(self.seen) if seen == path)

    def body(self, path: str) -> str:
        return next(body for seen, _, body in reversed(self.seen) if seen == path)

    def cookies(self, path: str) -> set[str]:
        sent = self.headers(path).get("cookie", "")
        return {pair.partition("=")[0] for pair in sent.split("; ") if pair}


@contextmanager
def serving() -> Iterator[Web]:
    class RequestHandler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            headers = {name.lower(): value for name, value in self.headers.items()}
            web.seen.append((self.path, headers, self.rfile.read(length).decode()))
            status, answer, html = web.pages.get(self.path, (200, {"content-type": "text/html"}, ""))
            self.send_response(status)
            for name, value in answer.items():
                self.send_header(name, value)
            if self.path == "/cookies":
                for cookie in COOKIES:
                    self.send_header("set-cookie", cookie)
            self.send_header("content-length", str(len(html.encode())))
            self.end_headers()
            self.wfile.write(html.encode())

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *args: object) -> None:
            pass

    web = Web()
    with ThreadingHTTPServer(("127.0.0.1", 0), RequestHandler) as server:
        web.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield web
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def web() -> Iterator[Web]:
    with serving() as web:
        yield web


@pytest.fixture(params=[False, True], ids=["third party cookies blocked", "third party cookies allowed"])
def tolerant(request) -> bool:
    return request.param


@pytest.fixture
def browser(tolerant) -> Iterator[Browser]:
    with Browser(third_party_cookies=tolerant) as browser:
        yield browser


def link(href: str) -> str:
    return f'<a href="{href}">go</a>'


def form(action: str, method: str = "post", more: str = "") -> str:
    fields = f'<input name="a" value="1 &amp; 2">{more}<button>go</button>'
    return f'<form method="{method}" action="{action}">{fields}</form>'


def test_typed_url_takes_all_cookies_along(web, browser):
    browser.open(web.url("localhost", "/cookies"))
    browser.open(web.url("localhost", "/b"))
    assert web.cookies("/b") == {"lax", "strict", "none", "unset"}
    assert web.headers("/b")["sec-fetch-site"] == "none"
    assert "referer" not in web.headers("/b")


def test_link_from_another_site_leaves_strict_cookies_behind(web, browser):
    browser.open(web.url("localhost", "/cookies"))
    web.page("/a", link(web.url("127.0.0.1", "/away")) + link(web.url("localhost", "/b")))
    browser.open(web.url("127.0.0.1", "/a"))
    browser.follow(web.url("localhost", "/b"))
    assert web.cookies("/b") == {"lax", "none", "unset"}
    assert web.headers("/b")["sec-fetch-site"] == "cross-site"
    assert web.headers("/b")["referer"] == web.url("127.0.0.1", "/")


def test_form_from_another_site_takes_only_none_and_fresh_unset_cookies(web, browser):
    browser.open(web.url("localhost", "/cookies"))
    web.page("/a", form(web.url("localhost", "/b")))
    browser.open(web.url("127.0.0.1", "/a"))
    browser.click("go")
    assert web.cookies("/b") == {"none", "unset"}
    assert web.headers("/b")["origin"] == web.url("127.0.0.1", "")
    assert web.body("/b") == "a=1+%26+2"


def test_redirect_of_a_cross_site_form_is_cross_site_still(web, browser):
    browser.open(web.url("localhost", "/cookies"))
    web.page("/a", form(web.url("localhost", "/b")))
    web.page("/b", status=303, location="/c")
    browser.open(web.url("127.0.0.1", "/a"))
    browser.click("go")
    assert web.cookies("/c") == {"lax", "none", "unset"}
    assert web.headers("/c")["sec-fetch-site"] == "cross-site"
    assert web.body("/c") == ""


def test_redirect_307_posts_again(web, browser):
    web.page("/a", form("/b"))
    web.page("/b", status=307, location="/c")
    browser.open(web.url("localhost", "/a"))
    browser.click("go")
    assert web.body("/c") == "a=1+%26+2"
    assert web.headers("/c")["origin"] == "null"


@pytest.mark.parametrize(
    ("host", "relation"),
    [("localhost", "same-origin"), ("a.localhost", "cross-site"), ("127.0.0.1", "cross-site")],
)
def test_site_is_what_chromium_takes_it_for(web, browser, host, relation):
    web.page("/a", link("/b"))
    browser.open(web.url("localhost", "/a"))
    browser.follow(web.url(host, "/b"))
    assert web.headers("/b")["sec-fetch-site"] == relation
    assert web.headers("/b")["host"] == f"{host}:{web.port}"


def test_port_makes_another_origin_but_not_another_site(web, browser):
    with serving() as other:
        browser.open(web.url("localhost", "/cookies"))
        web.page("/a", link(other.url("localhost", "/b")))
        browser.open(web.url("localhost", "/a"))
        browser.click("go")
        assert other.headers("/b")["sec-fetch-site"] == "same-site"
        assert other.cookies("/b") == {"lax", "strict", "none", "unset"}


def test_cookie_reaches_a_foreign_iframe_only_where_third_parties_may(web, browser, tolerant):
    browser.open(web.url("localhost", "/cookies"))
    web.page("/a", f'<iframe src="{web.url("localhost", "/b")}"></iframe>')
    page = browser.open(web.url("127.0.0.1", "/a"))
    assert web.cookies("/b") == ({"none"} if tolerant else set())
    assert web.headers("/b")["sec-fetch-dest"] == "iframe"
    assert [frame.url for frame in page.frames] == [web.url("localhost", "/b")]


def test_cookie_of_a_foreign_iframe_is_kept_only_where_third_parties_may(web, browser, tolerant):
    web.page("/a", f'<iframe src="{web.url("localhost", "/cookies")}"></iframe>')
    browser.open(web.url("127.0.0.1", "/a"))
    assert {cookie.name for cookie in browser.cookies} == ({"none"} if tolerant else set())


def test_iframe_of_the_same_site_has_its_cookies(web, browser):
    browser.open(web.url("localhost", "/cookies"))
    web.page("/a", '<iframe src="/b"></iframe>')
    browser.open(web.url("localhost", "/a"))
    assert web.cookies("/b") == {"lax", "strict", "none", "unset"}


@pytest.mark.parametrize(
    "script", ["<script>document.forms[0].submit()</script>", ""], ids=["script", "body onload"]
)
def test_form_that_submits_itself_is_submitted(web, browser, script):
    body = "<body>" if script else '<body onload="document.forms[0].submit()">'
    web.page("/a", body + form("/b") + script)
    assert browser.open(web.url("localhost", "/a")).url == web.url("localhost", "/b")


def test_form_by_get_puts_its_fields_into_the_query(web, browser):
    web.page("/a", form("/b?old=1", "get"))
    browser.open(web.url("localhost", "/a"))
    assert browser.click("go").url == web.url("localhost", "/b?a=1+%26+2")


def test_button_is_sent_by_name_and_fields_can_be_filled_in(web, browser):
    web.page(
        "/a",
        form("/b", more='<input type="submit" name="do" value="Do it"><button type="button">no</button>'),
    )
    browser.open(web.url("localhost", "/a"))
    browser.click("Do it")
    assert web.body("/b") == "a=1+%26+2&do=Do+it"
    page = browser.open(web.url("localhost", "/a"))
    browser.submit(page.forms[0], a="3")
    assert web.body("/b") == "a=3"


def test_page_that_refreshes_is_followed(web, browser):
    web.page("/a", '<meta http-equiv="refresh" content="4; URL=/b">')
    web.page("/c", '<meta http-equiv="refresh" content="4">')
    assert browser.open(web.url("localhost", "/a")).url == web.url("localhost", "/b")
    assert browser.open(web.url("localhost", "/c")).url == web.url("localhost", "/c")


def test_endless_redirects_and_refreshes_come_to_an_end(web, browser):
    web.page("/a", status=302, location="/a")
    web.page("/b", '<meta http-equiv="refresh" content="0;url=/b">')
    for path in ("/a", "/b"):
        with pytest.raises(LookupError, match="30 times"):
            browser.open(web.url("localhost", path))


def test_page_without_the_link_says_so(web, browser):
    with pytest.raises(LookupError, match="no page"):
        browser.click("go")
    browser.open(web.url("localhost", "/a"))
    with pytest.raises(LookupError, match="'go'"):
        browser.click("go")


def test_what_is_no_html_is_not_parsed(web, browser):
    web.page("/a", link("/b"), **{"content-type": "text/plain"})
    assert browser.open(web.url("localhost", "/a")).links == ()


def jar(*cookies: str, url: str = "https://app.example.com/a/b") -> CookieJar:
    jar = CookieJar()
    for cookie in cookies:
        jar.store(url, cookie)
    return jar


@pytest.mark.parametrize(
    ("cookie", "url", "sent"),
    [
        ("c=1", "https://app.example.com/a/", True),
        ("c=1", "https://app.example.com/", False),
        ("c=1; Path=/", "https://app.example.com/", True),
        ("c=1; Path=/a", "https://app.example.com/ab", False),
        ("c=1; Path=nowhere", "https://app.example.com/a", True),
        ("c=1; Path=/", "https://sub.app.example.com/", False),
        ("c=1; Path=/; Domain=example.com", "https://other.example.com/", True),
        ("c=1; Path=/; Domain=.example.com", "https://example.com/", True),
        ("c=1; Path=/; Domain=other.example", "https://app.example.com/", False),
        ("c=1; Path=/; Secure", "http://app.example.com/", False),
        ("c=1; Path=/; SameSite=None", "https://app.example.com/", False),
        ("c=1; Path=/; Max-Age=60", "https://app.example.com/", True),
        ("c=1; Path=/; Max-Age=0", "https://app.example.com/", False),
        ("c=1; Path=/; Expires=Thu, 01 Jan 1970 00:00:00 GMT", "https://app.example.com/", False),
        ("c=1; Path=/; Expires=Thu, 01 Jan 2970 00:00:00 GMT", "https://app.example.com/", True),
    ],
)
def test_cookie_is_sent_where_it_belongs(cookie, url, sent):
    assert jar(cookie).header(url, method="GET", initiator=None) == ("c=1" if sent else "")


@pytest.mark.parametrize(("url", "kept"), [("http://app.example.com/", False), ("http://localhost/", True)])
def test_secure_cookie_is_kept_on_tls_and_loopback_only(url, kept):
    assert (jar("c=1; Secure", url=url).value("c", url) == "1") == kept


def test_deletion_needs_the_same_path_and_domain():
    cookies = jar("c=1; Path=/")
    cookies.store("https://app.example.com/", "c=; Path=/a; Max-Age=0")
    cookies.store("https://app.example.com/", "c=; Path=/; Domain=app.example.com.evil; Max-Age=0")
    assert cookies.value("c", "https://app.example.com/") == "1"
    cookies.store("https://app.example.com/", "c=; Path=/; Max-Age=0")
    assert cookies.value("c", "https://app.example.com/") is None


def test_longer_path_comes_first():
    cookies = jar("c=outer; Path=/", "c=inner; Path=/a")
    assert cookies.header("https://app.example.com/a", method="GET", initiator=None) == "c=inner; c=outer"
