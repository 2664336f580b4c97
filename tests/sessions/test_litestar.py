"""Litestar's sessions pass the contract, and what is Litestar's own."""

from __future__ import annotations

import errno
import time
import unicodedata
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio
import pytest
from litestar import Litestar, Request, post
from litestar.middleware.session import client_side
from litestar.middleware.session.client_side import AAD, CookieBackendConfig
from litestar.middleware.session.server_side import ServerSideSessionConfig
from litestar.security.session_auth import SessionAuth
from litestar.stores.file import FileStore
from litestar.stores.memory import MemoryStore

from msal_logout_middleware import Logout, Provider
from msal_logout_middleware import MemoryStore as OurMemoryStore
from msal_logout_middleware.asgi import LogoutMiddleware
from msal_logout_middleware.errors import StoreError
from msal_logout_middleware.http import cookie_pairs
from msal_logout_middleware.session import Session
from msal_logout_middleware.sessions.litestar import LitestarSession
from msal_logout_middleware.testing.session_contract import (
    CLAIMS,
    CookieSessionContract,
    ServerSideSessionContract,
    SessionSite,
    cookie_header,
)

from ..stores.servers import Server, serving
from .litestar_sites import (
    EVERY_OPTION,
    Site,
    client,
    encrypted,
    in_files,
    in_memory,
    in_redis,
    litestar_app,
    litestar_contents,
    litestar_sign_in,
    litestar_socket_contents,
)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


COOKIES: dict[str, Callable[[], SessionSite]] = {
    "encrypted cookie": encrypted,
    "encrypted cookie, every option": partial(encrypted, **EVERY_OPTION),
}

SERVER_SIDE: dict[str, Site] = {
    "memory": in_memory,
    "memory, every option": partial(in_memory, renew_on_access=True, **EVERY_OPTION),
    "files": in_files,
    "files, renewed": partial(in_files, renew_on_access=True),
    "Redis": in_redis,
    "Redis, renewed": partial(in_redis, renew_on_access=True, max_age=3600),
}


class TestLitestar(CookieSessionContract):
    @pytest.fixture(params=COOKIES.values(), ids=COOKIES)
    def site(self, request: pytest.FixtureRequest) -> SessionSite:
        return request.param()


class TestLitestarServerSide(ServerSideSessionContract):
    @pytest.fixture(params=SERVER_SIDE.values(), ids=SERVER_SIDE)
    def site(self, request: pytest.FixtureRequest, tmp_path: Path, server: Server) -> SessionSite:
        return request.param(tmp_path / "sessions", server)


SECRET = b"a secret".ljust(16)
LONG = {"padding": "x" * 9_000}
OWN_LINK = {"Sec-Fetch-Site": "same-origin"}
ADA = {"user": dict(CLAIMS)}


def sign_in(app: Any, contents: Mapping[str, Any]) -> str:
    async def signed_in() -> str:
        return cookie_header(await litestar_sign_in(app, contents))

    return anyio.run(signed_in)


def read(session: LitestarSession, header: str) -> Session | None:
    return anyio.run(session.read, header)


def test_session_in_chunks_is_read_and_each_chunk_is_known() -> None:
    app = litestar_app(CookieBackendConfig(secret=SECRET))
    header = sign_in(app, ADA | LONG)
    session = LitestarSession(app)
    assert [name for name, _ in cookie_pairs(header)] == [f"session-{n}" for n in range(4)]
    found = read(session, header)
    assert found is not None
    assert found.contents == ADA | LONG
    assert {name for name, _ in cookie_pairs(header)} <= {cookie.name for cookie in session.cookies}
    assert read(session, header.rpartition("; ")[0]) is None


def test_session_of_as_many_chunks_as_litestar_can_read_is_known() -> None:
    app = litestar_app(CookieBackendConfig(secret=SECRET))
    most, too_many = (sign_in(app, ADA | {"padding": "x" * size}) for size in (29_000, 33_000))
    session = LitestarSession(app)
    assert {name for name, _ in cookie_pairs(most)} == {cookie.name for cookie in session.cookies} - {
        "session"
    }
    assert read(session, most) is not None
    assert len(list(cookie_pairs(too_many))) == 11
    assert anyio.run(litestar_contents, app, too_many) == {}
    assert read(session, too_many) is None


@pytest.mark.parametrize("key", ["shop.session", "a|b", "session*"])
def test_key_that_is_a_pattern_is_refused_where_it_would_read_copies_under_other_names(key: str) -> None:
    with pytest.raises(ValueError, match="for a pattern"):
        _ = LitestarSession(litestar_app(CookieBackendConfig(secret=SECRET, key=key))).cookies
    kept = LitestarSession(litestar_app(ServerSideSessionConfig(key=key)))
    assert [cookie.name for cookie in kept.cookies] == [key]


@pytest.mark.parametrize(
    "forged", [b"A" * 12 + AAD + b"junk", b"A" * 12 + AAD + b"{}", AAD + b'{"expires_at":99999999999}', AAD]
)
def test_cookie_at_which_the_app_fails_is_no_session(forged: bytes) -> None:
    session = LitestarSession(litestar_app(CookieBackendConfig(secret=SECRET)))
    assert read(session, f"session={b64encode(forged).decode()}") is None


def test_expired_cookie_is_no_session(monkeypatch: pytest.MonkeyPatch) -> None:
    app = litestar_app(CookieBackendConfig(secret=SECRET, max_age=3600))
    session, header = LitestarSession(app), sign_in(app, ADA)
    assert read(session, header) is not None
    later = time.time() + 3700
    monkeypatch.setattr(client_side.time, "time", lambda: later)
    assert read(session, header) is None


def test_backend_is_found_in_a_session_auth() -> None:
    async def user(session: dict[str, Any], _connection: Any) -> object:
        return session.get("user")

    @post("/sign-in", exclude_from_auth=True)
    async def sign_in_there(request: Request[Any, Any, Any]) -> None:
        request.set_session(await request.json())

    auth: SessionAuth[Any, Any] = SessionAuth(
        retrieve_user_handler=user, session_backend_config=ServerSideSessionConfig(key="shop")
    )
    app = Litestar([sign_in_there], on_app_init=[auth.on_app_init], openapi_config=None)
    session = LitestarSession(app)
    found = read(session, sign_in(app, ADA))
    assert found is not None
    assert found.claims == CLAIMS
    assert [cookie.name for cookie in session.cookies] == ["shop"]


def test_config_is_given_where_the_app_itself_has_none_or_several() -> None:
    config, other = CookieBackendConfig(secret=SECRET), ServerSideSessionConfig(key="other")
    for middleware in ([], [config.middleware, other.middleware]):
        app = Litestar([], middleware=middleware, openapi_config=None)
        assert repr(LitestarSession(app)) == "LitestarSession()"
        with pytest.raises(ValueError, match="session middlewares; give LitestarSession the config"):
            _ = LitestarSession(app).cookies
        header = sign_in(litestar_app(config), ADA)
        assert read(LitestarSession(app, config=config), header) is not None


def test_what_keeps_the_sessions_and_its_secret_are_told() -> None:
    session = LitestarSession(litestar_app(CookieBackendConfig(secret=SECRET)))
    assert repr(session) == "LitestarSession(ClientSideSessionBackend)"
    assert session.secret == SECRET
    assert session.lifetime_seconds == 14 * 86400
    session = LitestarSession(litestar_app(ServerSideSessionConfig()))
    assert repr(session) == "LitestarSession(ServerSideSessionBackend)"
    assert session.secret is None


def test_what_is_no_litestar_app_is_refused() -> None:
    wrong: Any = CookieBackendConfig(secret=SECRET)
    with pytest.raises(TypeError, match="give LitestarSession the Litestar app itself"):
        LitestarSession(wrong)


def test_session_that_is_still_there_after_its_deletion_is_an_error() -> None:
    class Deaf(MemoryStore):
        async def delete(self, key: str) -> None:
            pass

    app = litestar_app(ServerSideSessionConfig(), sessions=Deaf())
    session = LitestarSession(app)
    found = read(session, sign_in(app, ADA))
    assert found is not None
    with pytest.raises(StoreError, match="still has a session"):
        anyio.run(session.delete, found.id)


class Failing(MemoryStore):
    """A store of files whose disk answers with an error, as `FileStore` passes it on."""

    error = 0

    async def get(self, key: str, renew_for: Any = None) -> bytes | None:
        if self.error:
            raise OSError(self.error, "what the disk says")
        return await super().get(key, renew_for)

    async def delete(self, key: str) -> None:
        if self.error:
            raise OSError(self.error, "what the disk says")
        await super().delete(key)


def test_id_that_no_file_can_be_named_by_is_no_session() -> None:
    store = Failing()
    app = litestar_app(ServerSideSessionConfig(), sessions=store)
    session = LitestarSession(app)
    header = sign_in(app, ADA)
    store.error = errno.ENAMETOOLONG
    assert read(session, header) is None
    assert anyio.run(session.load, "x") is None
    anyio.run(session.delete, "x")


def test_disk_that_fails_is_an_error_and_no_absent_session() -> None:
    store = Failing()
    app = litestar_app(ServerSideSessionConfig(), sessions=store)
    session = LitestarSession(app)
    header = sign_in(app, ADA)
    found = read(session, header)
    assert found is not None
    store.error = errno.EIO
    with pytest.raises(OSError, match="what the disk says"):
        read(session, header)
    store.get = MemoryStore().get  # type: ignore[method-assign]  # what was not deleted is not seen either
    with pytest.raises(OSError, match="what the disk says"):
        anyio.run(session.delete, found.id)


def test_cookie_that_is_encoded_leads_to_the_id_that_the_app_reads() -> None:
    app = litestar_app(ServerSideSessionConfig())
    session = LitestarSession(app)
    header = sign_in(app, ADA)
    name, _, value = header.partition("=")
    encoded = f'{name}="%{ord(value[0]):02x}{value[1:]}"'
    assert anyio.run(litestar_contents, app, encoded) == ADA
    assert read(session, encoded) == read(session, header)


class OldFileStore(FileStore):
    """Names files as Litestar does before 2.20."""

    def _path_from_key(self, key: str) -> Any:
        name = unicodedata.normalize("NFKD", key)
        return self.path / "".join(c if c.isalnum() else str(ord(c)) for c in name)


@pytest.mark.parametrize("store", [FileStore, OldFileStore])
def test_session_in_a_file_has_one_id_however_its_cookie_is_spelt(
    store: type[FileStore], tmp_path: Path
) -> None:
    sessions = store(tmp_path)
    app = litestar_app(ServerSideSessionConfig(), sessions=sessions)
    session = LitestarSession(app)
    name, _, session_id = sign_in(app, ADA).partition("=")
    spelt = session_id.translate(str.maketrans("123a", "¹²³ª"))
    cookie = f"{name}={quote(spelt)}"
    is_old = sessions._path_from_key(spelt) == sessions._path_from_key(session_id)
    assert is_old or store is FileStore
    assert anyio.run(litestar_contents, app, cookie) == (ADA if is_old else {})
    found = read(session, cookie)  # Litestar keeps an unknown id
    assert found is not None
    assert found.id == (session_id if is_old else spelt)
    assert read(session, f"{name}={session_id}") == anyio.run(session.load, session_id)


# Through the middleware


def ours() -> Logout:
    return Logout(
        provider=Provider.entra("contoso.onmicrosoft.com", "00001111-aaaa-2222-bbbb-3333cccc4444"),
        store=OurMemoryStore(),
        post_logout_redirect_uri="https://app.example/",
        secret="a secret of at least 16 bytes",
    )


def wrapped(config: Any) -> Any:
    return LogoutMiddleware(litestar_app(config), ours())


def signed_out(app: Any, contents: Mapping[str, Any]) -> str:
    """The cookies of a session that has ended since."""
    header = sign_in(app, contents)

    async def story() -> None:
        assert await litestar_contents(app, header) == contents
        async with client(app) as browser:
            answer = await browser.get("/logout", headers={"Cookie": header, **OWN_LINK})
        assert answer.headers["location"].startswith("https://login.microsoftonline.com/")
        deleted = {value.partition("=")[0] for value in answer.headers.get_list("Set-Cookie")}
        assert {name for name, _ in cookie_pairs(header)} <= deleted
        assert await litestar_contents(app, header) == {}

    anyio.run(story)
    return header


@pytest.mark.parametrize("config", [CookieBackendConfig(secret=SECRET), ServerSideSessionConfig()])
@pytest.mark.parametrize("contents", [ADA, ADA | LONG])
def test_user_signs_out_and_the_cookies_are_refused_and_deleted(
    config: Any, contents: Mapping[str, Any]
) -> None:
    signed_out(wrapped(config), contents)


@pytest.mark.parametrize("name", ["session-00", "session-7", "session-10", "session-987654321"])
def test_copied_cookie_is_refused_as_a_chunk_of_any_number(name: str) -> None:
    app = wrapped(CookieBackendConfig(secret=SECRET))
    value = signed_out(app, ADA).partition("=")[2]
    for header in (f"{name}={value}", f"theme=dark; {name}={value}"):
        assert anyio.run(litestar_contents, app, header) == {}
    live = sign_in(app, {"user": {**CLAIMS, "iat": 1700000001}})
    for header in (f"{live}; {name}={value}", f"{name}={value}; {live}"):
        assert anyio.run(litestar_contents, app, header).get("user") in (None, {**CLAIMS, "iat": 1700000001})
    assert anyio.run(litestar_contents, app, live) != {}


def test_copied_chunks_are_refused_by_web_sockets_whatever_a_second_cookie_header_puts_to_them() -> None:
    app = litestar_app(CookieBackendConfig(secret=SECRET))
    protected = LogoutMiddleware(app, ours())
    copied = signed_out(protected, ADA | LONG)

    async def story() -> None:
        assert await litestar_socket_contents(app, copied, "session=x") == ADA | LONG
        assert not await litestar_socket_contents(protected, copied)
        assert not await litestar_socket_contents(protected, copied, "session=x")

    anyio.run(story)


def test_session_that_outgrows_or_fits_one_cookie_again_is_the_same_session() -> None:
    """Litestar deletes the cookies that are too many by the value `null`."""
    app = wrapped(CookieBackendConfig(secret=SECRET))

    async def story() -> None:
        async with client(app) as browser:
            for contents in (ADA, ADA | LONG, ADA | {"padding": ""}, ADA | LONG):
                answer = await browser.post("/sign-in", json=contents)
                assert answer.status_code == 201
                assert (await browser.get("/contents")).json()["user"] == CLAIMS
            copy = "; ".join(f"{name}={value}" for name, value in browser.cookies.items())
            await browser.get("/logout", headers=OWN_LINK)
        assert await litestar_contents(app, copy) == {}

    anyio.run(story)


@pytest.mark.parametrize("theme", ["", "x", "xx"])  # base64 pads one of them less than the others
def test_sign_in_whose_answer_deletes_chunks_is_seen(theme: str) -> None:
    """So it is alive, although all sessions of the user were ended just before it."""
    logout = ours()
    app = LogoutMiddleware(litestar_app(CookieBackendConfig(secret=SECRET)), logout)

    async def story() -> None:
        async with client(app) as browser:
            await browser.post("/sign-in", json=LONG)
            await logout.aend_sessions(iss=CLAIMS["iss"], sub=CLAIMS["sub"])
            answer = await browser.post("/sign-in", json=ADA | {"padding": theme})
            assert "session-3=null" in str(answer.headers)
            assert (await browser.get("/contents")).json()["user"] == CLAIMS

    anyio.run(story)
