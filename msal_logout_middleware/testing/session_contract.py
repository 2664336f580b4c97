"""The contract of sessions: what every `SessionReader` must do, as tests that run against a real app.

Subclass `ServerSideSessionContract` or `CookieSessionContract` and give it a `site` fixture. Each test runs in
an event loop of its own, so a reader may be sync or async.
"""

# ruff: noqa: S101, D102 - these are tests: assertions are their checks, and their names are the sentences

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

import anyio
import anyio.to_thread
import pytest

from .._drive import MaybeAwaitable, is_async, settle
from ..http import Cookie
from ..session import Session, SessionReader

__all__ = [
    "CLAIMS",
    "CookieSessionContract",
    "ServerSideSessionContract",
    "SessionContract",
    "SessionSite",
    "cookie_header",
]

T = TypeVar("T")

CLAIMS: Mapping[str, Any] = {
    "iss": "https://provider.example/v2.0",
    "sub": "ada",
    "sid": "s-1",
    "iat": 1700000000,
}


@dataclass(frozen=True, kw_only=True)
class SessionSite:
    """A real app with sessions, as the contract drives it.

    Args:
        session: The reader of the app's sessions. It finds claims at the key `user`.
        sign_in: Puts contents into a new session, by a request to the app; returns the response's `Set-Cookie` values.
        contents: Returns what the app itself finds in its session when a request brings a `Cookie` header.
        foreign: As `sign_in`, at an app with the same cookie name, another secret and another storage.
        stored: Returns the storage of server-side sessions, by record.
        outage: Makes that storage unreachable while it is entered; `None`: it is always there.
    """

    session: SessionReader
    sign_in: Callable[[Mapping[str, Any]], MaybeAwaitable[Sequence[str]]]
    contents: Callable[[str], MaybeAwaitable[Mapping[str, Any]]]
    foreign: Callable[[Mapping[str, Any]], MaybeAwaitable[Sequence[str]]]
    stored: Callable[[], MaybeAwaitable[Mapping[str, object]]] = dict
    outage: Callable[[], AbstractContextManager[object]] | None = None

    async def visit(self, contents: Mapping[str, Any]) -> str:
        """Sign in, and return the `Cookie` header that a browser would send from then on."""
        return cookie_header(await settle(self.sign_in(contents)))

    async def records(self) -> Mapping[str, object]:
        """Return the storage's records; none where sessions are in cookies."""
        return await settle(self.stored())


def cookie_header(set_cookies: Sequence[str]) -> str:
    """Return the `Cookie` header of a browser that has got these `Set-Cookie` values."""
    return "; ".join(value.partition(";")[0].strip() for value in set_cookies)


def _story(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(self: object, **fixtures: Any) -> None:
        anyio.run(functools.partial(test, self, **fixtures))

    return run


async def _read(site: SessionSite, header: str) -> Session | None:
    return await _asked(site, site.session.read, header)


async def _load(site: SessionSite, session_id: str) -> Session | None:
    return await _asked(site, site.session.load, session_id)


async def _delete(site: SessionSite, session_id: str) -> None:
    await _asked(site, site.session.delete, session_id)


async def _asked(site: SessionSite, method: Callable[[str], MaybeAwaitable[T]], what: str) -> T:
    """Ask a reader as the doors do: one that waits is asked in a thread."""
    if is_async(site.session, "read") or not getattr(site.session, "blocking", True):
        return await settle(method(what))
    return await settle(await anyio.to_thread.run_sync(method, what))


async def _session_id(site: SessionSite, header: str) -> str:
    """Return the id of the session that a `Cookie` header leads to."""
    session = await _read(site, header)
    assert session is not None
    assert session.id
    return session.id


def _own(contents: Mapping[str, Any]) -> dict[str, Any]:
    """Leave what the app put there: without the frameworks' own keys."""
    return {key: value for key, value in contents.items() if not key.startswith("_")}


class SessionContract:
    """What every kind of session must pass, wherever it is kept."""

    @pytest.fixture
    def site(self) -> SessionSite:
        """Return the app under test."""
        raise NotImplementedError("give the contract a `site` fixture")

    @_story
    async def test_signed_in_session_is_read_with_its_claims(self, site: SessionSite) -> None:
        session = await _read(site, await site.visit({"user": dict(CLAIMS), "theme": "dark"}))
        assert session is not None
        assert session.claims == CLAIMS
        assert _own(session.contents) == {"user": CLAIMS, "theme": "dark"}

    @_story
    async def test_anonymous_session_is_read_without_claims(self, site: SessionSite) -> None:
        session = await _read(site, await site.visit({"theme": "dark"}))
        assert session is not None
        assert session.claims is None
        assert _own(session.contents) == {"theme": "dark"}

    @_story
    async def test_session_does_not_show_its_id_or_contents(self, site: SessionSite) -> None:
        session = await _read(site, await site.visit({"user": dict(CLAIMS)}))
        assert repr(session) == "Session()"

    @_story
    async def test_no_cookie_is_no_session(self, site: SessionSite) -> None:
        assert await _read(site, "") is None
        assert await _read(site, "theme=dark") is None

    @pytest.mark.parametrize(
        "forge",
        [
            lambda value: ("A" if value[0] != "A" else "B") + value[1:],
            lambda value: value[: len(value) // 2] + value[len(value) // 2 + 1 :],
            lambda value: value[: len(value) // 2],
            lambda value: value + "A",
            lambda value: value + ".A",
            lambda value: "." + value,
        ],
        ids=["first character", "one missing", "half", "one more", "one part more", "empty part"],
    )
    @_story
    async def test_forged_cookie_is_no_session(self, site: SessionSite, forge: Callable[[str], str]) -> None:
        contents = {"user": dict(CLAIMS)}
        name, _, value = (await site.visit(contents)).partition("=")
        forged = f"{name}={forge(value)}"
        app_reads = _own(await settle(site.contents(forged)))
        assert app_reads in ({}, contents)  # some encodings pass over what is not of them
        session = await _read(site, forged)
        assert (_own(session.contents) if session else {}) == app_reads

    @_story
    async def test_cookie_of_another_app_is_no_session(self, site: SessionSite) -> None:
        foreign = cookie_header(await settle(site.foreign({"user": dict(CLAIMS)})))
        assert foreign.partition("=")[0] == site.session.cookies[0].name
        assert await _read(site, foreign) is None

    @pytest.mark.parametrize(
        "value",
        [
            "", " ", '"', '""', "''", "null", "=", "==;", ".", "..", "...", "e30.e30.e30", ".eJw.x.x", "{}", "%00",
            "\x00", "\\777", '"\\000"', "\x7f\x80\xff", "é", "\N{GRINNING FACE}", "\ud800", "-" * 10_000, "." * 10_000,
            "../../etc/passwd", "' OR 1=1 --", "session:*", "\r\n",
        ],
        ids=repr,
    )  # fmt: skip
    @_story
    async def test_garbage_is_no_session(self, site: SessionSite, value: str) -> None:
        await site.visit({"user": dict(CLAIMS)})
        before = await site.records()
        assert await _read(site, f"{site.session.cookies[0].name}={value}") is None
        assert await site.records() == before

    @pytest.mark.parametrize(
        "header",
        [
            "foo; {}", '="x; bad"; {}', 'foo="unbalanced; {}', '{}; foo="unbalanced', "a=b=c; ;; =; {}", ";{};",
            'json={{"a":1,"b":[2]}}; {}', "bad name=1; {}", "ü=é; {}", "x=\u0001\u007f; {}", "x=\u00e2\u0082; {}",
            "x=%; {}", "session2=x; {}; xsession=x", "{}  ;", "$Version=1; {}; $Path=/",
        ],
    )  # fmt: skip
    @_story
    async def test_malformed_neighbour_hides_no_session_that_the_app_reads(
        self, site: SessionSite, header: str
    ) -> None:
        cookies = header.format(await site.visit({"user": dict(CLAIMS)}))
        app_reads = _own(await settle(site.contents(cookies)))
        session = await _read(site, cookies)
        assert (_own(session.contents) if session else {}) == app_reads

    @_story
    async def test_header_of_100_kilobytes_hides_no_session(self, site: SessionSite) -> None:
        own = await site.visit({"user": dict(CLAIMS)})
        for cookies in (f"x={'y' * 100_000}; {own}", "; ".join(["a=b"] * 20_000 + [own])):
            session = await _read(site, cookies)
            assert session is not None
            assert session.claims == CLAIMS

    @_story
    async def test_of_a_repeated_cookie_that_one_is_read_which_the_app_reads(self, site: SessionSite) -> None:
        first = await site.visit({"user": {**CLAIMS, "sub": "first"}})
        second = await site.visit({"user": {**CLAIMS, "sub": "second"}})
        name = site.session.cookies[0].name
        for cookies in (
            f"{first}; {second}",
            f"{second}; {first}",
            f"{first}; {name}=x",
            f"{name}=x; {first}",
        ):
            app_reads = _own(await settle(site.contents(cookies)))
            session = await _read(site, cookies)
            assert (_own(session.contents) if session else {}) == app_reads

    @_story
    async def test_contents_are_kept_whatever_characters_they_have(self, site: SessionSite) -> None:
        contents = {"user": {**CLAIMS, "name": 'Ada "λ" Łovelace;\r\n,\N{GRINNING FACE}'}}
        session = await _read(site, await site.visit(contents))
        assert session is not None
        assert session.claims == contents["user"]

    @_story
    async def test_reading_and_loading_change_nothing_in_the_storage(self, site: SessionSite) -> None:
        header = await site.visit({"user": dict(CLAIMS)})
        before = await site.records()
        session = await _read(site, header)
        await _read(site, "theme=dark")
        assert session is not None
        if session.id:
            await _load(site, session.id)
        await _load(site, "no-such-session")
        assert site.session.cookies
        assert await site.records() == before

    @_story
    async def test_cookies_are_known_as_the_app_sets_them(self, site: SessionSite) -> None:
        set_cookies = await settle(site.sign_in({"user": dict(CLAIMS)}))
        for set_cookie in set_cookies:
            (cookie,) = [each for each in site.session.cookies if each == _sent(set_cookie)]
            assert cookie.is_set_by(set_cookie)

    @_story
    async def test_many_reads_at_once_see_each_their_own_session(self, site: SessionSite) -> None:
        headers = {f"user-{n}": await site.visit({"user": {**CLAIMS, "sub": f"user-{n}"}}) for n in range(8)}
        found: list[tuple[str, object]] = []

        async def look(sub: str, header: str) -> None:
            session = await _read(site, header)
            found.append((sub, session and session.claims and session.claims["sub"]))

        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                for sub, header in headers.items():
                    tasks.start_soon(look, sub, header)
        assert len(found) == 40
        assert all(sub == seen for sub, seen in found)

    def test_methods_are_all_sync_or_all_async(self, site: SessionSite) -> None:
        assert len({is_async(site.session, method) for method in ("read", "load", "delete")}) == 1


class ServerSideSessionContract(SessionContract):
    """What every kind of session must pass that is kept on the server and found by an id."""

    @_story
    async def test_session_is_loaded_by_its_id_alone(self, site: SessionSite) -> None:
        header = await site.visit({"user": dict(CLAIMS)})
        loaded = await _load(site, await _session_id(site, header))
        assert loaded == await _read(site, header)

    @pytest.mark.parametrize("session_id", ["no-such-session", "", "a b", 'a"b;c\\', "é", "x" * 10_000])
    @_story
    async def test_unknown_id_leads_to_nothing(self, site: SessionSite, session_id: str) -> None:
        header = await site.visit({"user": dict(CLAIMS)})
        before = await site.records()
        assert await _load(site, session_id) is None
        await _delete(site, session_id)
        assert await _load(site, session_id) is None
        assert set(await site.records()) == set(before)
        assert await _read(site, header) is not None

    @_story
    async def test_deleted_session_is_gone_and_the_others_are_not(self, site: SessionSite) -> None:
        other = await site.visit({"user": {**CLAIMS, "sub": "grace"}})
        before = await site.records()
        header = await site.visit({"user": dict(CLAIMS)})
        session_id = await _session_id(site, header)
        assert len(await site.records()) == len(before) + 1
        await _delete(site, session_id)
        assert set(await site.records()) == set(before)
        assert await _load(site, session_id) is None
        assert await _read(site, header) is None
        assert "user" not in await settle(site.contents(header))
        kept = await _read(site, other)
        assert kept is not None
        assert kept.claims == {**CLAIMS, "sub": "grace"}

    @_story
    async def test_session_is_deleted_twice_without_an_error(self, site: SessionSite) -> None:
        session_id = await _session_id(site, await site.visit({"user": dict(CLAIMS)}))
        await _delete(site, session_id)
        await _delete(site, session_id)
        assert await _load(site, session_id) is None

    @_story
    async def test_storage_that_cannot_be_asked_is_an_error_and_not_an_absent_session(
        self, site: SessionSite
    ) -> None:
        header = await site.visit({"user": dict(CLAIMS)})
        session_id = await _session_id(site, header)
        if site.outage is None:
            return  # it is always there
        with site.outage():
            with pytest.raises(Exception):  # noqa: B017, PT011 - each engine has its own
                await _read(site, header)
            with pytest.raises(Exception):  # noqa: B017, PT011
                await _load(site, session_id)
            with pytest.raises(Exception):  # noqa: B017, PT011
                await _delete(site, session_id)
        assert await _read(site, header) is not None


class CookieSessionContract(SessionContract):
    """What every kind of session must pass that is all in its cookie."""

    @_story
    async def test_session_has_no_id(self, site: SessionSite) -> None:
        session = await _read(site, await site.visit({"user": dict(CLAIMS)}))
        assert session is not None
        assert session.id is None

    @_story
    async def test_session_in_a_cookie_is_neither_loaded_nor_deleted(self, site: SessionSite) -> None:
        header = await site.visit({"user": dict(CLAIMS)})
        value = header.partition("=")[2]
        assert await _load(site, value) is None
        await _delete(site, value)
        assert await _read(site, header) is not None


def _sent(set_cookie: str) -> Cookie:
    """Return what a browser makes of a `Set-Cookie` value."""
    pair, *parts = (part.strip() for part in set_cookie.split(";"))
    attributes = {name.lower(): value for name, _, value in (part.partition("=") for part in parts)}
    same_site: Any = attributes.get("samesite", "").capitalize() or None
    return Cookie(
        name=pair.partition("=")[0],
        path=attributes.get("path", "/"),
        domain=attributes.get("domain"),
        secure="secure" in attributes,
        http_only="httponly" in attributes,
        same_site=same_site,
        partitioned="partitioned" in attributes,
    )
