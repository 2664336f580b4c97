"""A scripted browser: it follows redirects, submits forms and loads iframes as a real one does, without scripts."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from types import TracebackType
from urllib.parse import urlencode, urljoin, urlsplit

import requests

from .cookies import CookieJar, origin, site, trustworthy
from .records import User

MAX_HOPS = 30
_REFRESH = re.compile(r"""\s*[\d.]+\s*[;,]\s*url\s*=\s*['"]?(?P<url>[^'"]+)""", re.IGNORECASE)
_AUTO_SUBMIT = re.compile(r"\.submit\(\)")


@dataclass(frozen=True, slots=True)
class Form:
    """A form of a page: where it goes, and what it holds.

    Args:
        method: In capitals.
        action: An absolute URL.
        fields: Its inputs, without its buttons.
        target: The name of the iframe that shows the answer; empty for the page itself.
        buttons: Name and value of each submit button; names may be empty.
        labels: The text on each button.
    """

    method: str
    action: str
    target: str = ""
    fields: dict[str, str] = field(default_factory=dict)
    buttons: list[tuple[str, str]] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Link:
    """A link of a page: an absolute URL and its text."""

    href: str
    text: str


@dataclass(frozen=True, slots=True)
class Page:
    """What the browser shows, or a frame in it.

    Args:
        url: Where it came from, after redirects.
        status: The answer's status.
        headers: The answer's headers, names in small letters.
        text: The answer's body.
        forms: Its forms.
        links: Its links.
        frames: What its iframes loaded.
    """

    url: str
    status: int
    headers: dict[str, str]
    text: str = field(repr=False)
    forms: tuple[Form, ...] = ()
    links: tuple[Link, ...] = ()
    frames: tuple[Page, ...] = ()


@dataclass(frozen=True, slots=True)
class Visit:
    """One request of the browser: of a page, a redirect on the way, or an iframe."""

    method: str
    url: str
    status: int
    cookie_header: str
    framed: bool


class Browser:
    """A browser with one cookie jar for all hosts; a context manager.

    It runs no scripts. A page whose script submits its form is submitted, a page that goes on by itself is
    followed. Names below `localhost` are loopback, as in real browsers. Cookies, `Sec-Fetch-Site`, `Origin`
    and `Referer` are what Chromium sends.

    Args:
        ca_file: The certificate authority to trust for `https`.
        third_party_cookies: Whether cookies go into cross-site iframes.
        timeout_seconds: For each request.

    Attributes:
        cookies: The cookie jar.
        history: Every request so far.
        page: What the browser shows.
    """

    def __init__(
        self, *, ca_file: str | None = None, third_party_cookies: bool = False, timeout_seconds: float = 30
    ) -> None:
        self.cookies = CookieJar(third_party_cookies=third_party_cookies)
        self.history: list[Visit] = []
        self.page: Page | None = None
        self._timeout_seconds = timeout_seconds
        self._http = requests.Session()
        self._http.trust_env = False
        self._http.verify = ca_file or True

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close connections; cookies stay."""
        self._http.close()

    def open(self, url: str) -> Page:
        """Go to a URL as if the user had typed it, and on to where it leads."""
        self.page = self._navigate("GET", url, None, initiator=None)
        return self.page

    def click(self, text: str) -> Page:
        """Follow the link, or press the button, that has a text.

        Raises:
            LookupError: The page has none.
        """
        page = self._shown()
        for link in page.links:
            if link.text == text:
                self.page = self._navigate("GET", link.href, None, initiator=page.url)
                return self.page
        for form in page.forms:
            if text in form.labels:
                return self.submit(form, form.buttons[form.labels.index(text)])
        raise LookupError(f"{page.url} has neither a link nor a button {text!r}")

    def follow(self, url: str) -> Page:
        """Go to a URL as if a link of the page that is shown led there."""
        self.page = self._navigate("GET", urljoin(self._shown().url, url), None, initiator=self._shown().url)
        return self.page

    def submit(self, form: Form, button: tuple[str, str] | None = None, **fields: str) -> Page:
        """Submit a form of the page that is shown, with fields filled in and, if it matters, by a button."""
        values = {**form.fields, **fields}
        if button and button[0]:
            values[button[0]] = button[1]
        self.page = self._submit(form, values, self._shown().url)
        return self.page

    def sign_in(self, url: str, user: User) -> Page:
        """Go to a URL that asks the user to sign in, sign in, and consent if asked; return where it ends.

        Within a provider session the provider does not ask again, and neither is that needed here.

        Raises:
            LookupError: The provider's page does not offer the user.
        """
        page = self.open(url)
        if choice := _form_with_button(page, "user"):
            if ("user", user.username) not in choice.buttons:
                raise LookupError(f"{user.username} cannot sign in at {page.url}")
            page = self.submit(choice, ("user", user.username))
        if consent := _form_with_button(page, "consent"):
            page = self.submit(consent, ("consent", "accept"))
        return page

    def _shown(self) -> Page:
        if self.page is None:
            raise LookupError("the browser shows no page yet")
        return self.page

    def _submit(self, form: Form, values: dict[str, str], initiator: str) -> Page:
        if form.method == "POST":
            return self._navigate("POST", form.action, values, initiator=initiator)
        url = form.action.partition("?")[0]
        return self._navigate("GET", f"{url}?{urlencode(values)}", None, initiator=initiator)

    def _navigate(
        self, method: str, url: str, fields: dict[str, str] | None, *, initiator: str | None
    ) -> Page:
        """Go on until a page stays."""
        for _ in range(MAX_HOPS):
            page, refresh, auto_submit = self._load(method, url, fields, initiator=initiator)
            initiator = page.url
            if auto_submit:
                form = page.forms[0]
                method, url, fields = form.method, form.action, form.fields
            elif refresh:
                method, url, fields = "GET", refresh, None
            else:
                return page
        raise LookupError(f"the browser was led on {MAX_HOPS} times, last to {url}")

    def _load(
        self,
        method: str,
        url: str,
        fields: dict[str, str] | None,
        *,
        initiator: str | None,
        framed_by: str | None = None,
    ) -> tuple[Page, str | None, bool]:
        """Request a page with its redirects and its iframes; return it, and how it goes on by itself."""
        chain = [url]
        for _ in range(MAX_HOPS):
            answer = self._request(method, chain, fields, initiator, framed_by)
            location = answer.headers.get("location")
            if location is None or not 300 <= answer.status_code < 400:
                break
            if answer.status_code in (301, 302, 303):
                method, fields = "GET", None
            chain.append(urljoin(chain[-1], location))
        else:
            raise LookupError(f"redirected {MAX_HOPS} times, last to {chain[-1]}")
        answer.encoding = answer.encoding or "utf-8"
        headers = {name.lower(): value for name, value in answer.headers.items()}
        page = Page(chain[-1], answer.status_code, headers, answer.text)
        if "html" not in headers.get("content-type", ""):
            return page, None, False
        parser = _Parser(page.url)
        parser.feed(answer.text)
        submits = bool(_AUTO_SUBMIT.search(parser.scripts))
        loads: list[tuple[str, str, dict[str, str] | None]] = [
            ("GET", source, None) for source in parser.frames
        ]
        if submits:
            loads += [(form.method, form.action, form.fields) for form in parser.forms if form.target]
        top = framed_by or page.url
        frames = [self._load(*load, initiator=page.url, framed_by=top)[0] for load in loads]
        page = Page(
            page.url, page.status, headers, page.text, tuple(parser.forms), tuple(parser.links), tuple(frames)
        )
        auto_submit = submits and len(parser.forms) == 1 and not parser.forms[0].target
        return page, parser.refresh, auto_submit

    def _request(
        self,
        method: str,
        chain: list[str],
        fields: dict[str, str] | None,
        initiator: str | None,
        framed_by: str | None,
    ) -> requests.Response:
        url = chain[-1]
        target = urlsplit(url)
        cookie_header = self.cookies.header(url, method=method, initiator=initiator, framed_by=framed_by)
        headers = {"Host": target.netloc, "Accept": "text/html,*/*;q=0.8", "User-Agent": "scripted browser"}
        if cookie_header:
            headers["Cookie"] = cookie_header
        if trustworthy(target):
            headers["Sec-Fetch-Site"] = _fetch_site(chain, initiator)
            headers["Sec-Fetch-Mode"] = "navigate"
            headers["Sec-Fetch-Dest"] = "document" if framed_by is None else "iframe"
        if initiator:
            same_origin = origin(initiator) == origin(url)
            headers["Referer"] = initiator if same_origin else f"{origin(initiator)}/"
        if method == "POST":
            headers["Origin"] = origin(initiator) if initiator and len(chain) == 1 else "null"
        # What a name below localhost is, is the browser's to say, not the resolver's (RFC 6761, 6.3).
        host = target.hostname or ""
        netloc = target.netloc.replace(host, "127.0.0.1", 1) if host.endswith(".localhost") else target.netloc
        answer = self._http.request(
            method,
            target._replace(netloc=netloc, fragment="").geturl(),
            data=fields,
            headers=headers,
            timeout=self._timeout_seconds,
            allow_redirects=False,
        )
        self._http.cookies.clear()  # our jar knows better
        self.history.append(Visit(method, url, answer.status_code, cookie_header, framed_by is not None))
        for set_cookie in answer.raw.headers.getlist("set-cookie"):
            self.cookies.store(url, set_cookie, framed_by=framed_by)
        return answer


def _fetch_site(chain: list[str], initiator: str | None) -> str:
    """Return `Sec-Fetch-Site` (Fetch Metadata, 2.2): the farthest that the chain has been from the initiator."""
    if initiator is None:
        return "none"
    if any(site(url) != site(initiator) for url in chain):
        return "cross-site"
    if any(origin(url) != origin(initiator) for url in chain):
        return "same-site"
    return "same-origin"


def _form_with_button(page: Page, name: str) -> Form | None:
    return next((form for form in page.forms if any(button[0] == name for button in form.buttons)), None)


class _Parser(HTMLParser):
    """Finds forms, links, iframes, scripts and what a page refreshes to."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url
        self.forms: list[Form] = []
        self.links: list[Link] = []
        self.frames: list[str] = []
        self.refresh: str | None = None
        self.scripts = ""
        self._open_form: Form | None = None
        self._text: list[str] | None = None
        self._in_script = False
        self._href = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form":
            method = given.get("method", "get").upper()
            self._open_form = Form(
                method, urljoin(self._url, given.get("action", "")), given.get("target", "")
            )
            self.forms.append(self._open_form)
        elif tag == "input" and self._open_form and given.get("name") and given.get("type") != "submit":
            self._open_form.fields[given["name"]] = given.get("value", "")
        elif tag == "button" or (tag == "input" and given.get("type") == "submit"):
            self._button(tag, given)
        elif tag == "a" and "href" in given:
            self._href, self._text = urljoin(self._url, given["href"]), []
        elif tag == "iframe" and given.get("src"):
            self.frames.append(urljoin(self._url, given["src"]))
        elif tag == "script":
            self._in_script = True
        elif tag == "body":
            self.scripts += given.get("onload", "")
        elif tag == "meta" and given.get("http-equiv", "").lower() == "refresh":
            refresh = _REFRESH.match(given.get("content", ""))
            self.refresh = urljoin(self._url, refresh["url"]) if refresh else None

    def _button(self, tag: str, given: dict[str, str]) -> None:
        if self._open_form is None or given.get("type", "submit") != "submit":
            return
        self._open_form.buttons.append((given.get("name", ""), given.get("value", "")))
        if tag == "input":
            self._open_form.labels.append(given.get("value", ""))
        else:
            self._text = []

    def handle_endtag(self, tag: str) -> None:
        text = " ".join("".join(self._text or []).split())
        if tag == "form":
            self._open_form = None
        elif tag == "script":
            self._in_script = False
        elif tag == "button" and self._text is not None and self._open_form:
            self._open_form.labels.append(text)
            self._text = None
        elif tag == "a" and self._text is not None:
            self.links.append(Link(self._href, text))
            self._text = None

    def handle_data(self, data: str) -> None:
        if self._in_script:
            self.scripts += data
        elif self._text is not None:
            self._text.append(data)
