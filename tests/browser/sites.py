"""Two wrapped apps of one user's, on two sites, at one provider on a third; and pages that tell what sites are."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import anyio
from fastapi import WebSocket
from fastapi.responses import HTMLResponse

from examples.demo.serving import listening, port_of, serving_asgi, serving_wsgi
from msal_logout_middleware import InSession, Logout, asgi, wsgi
from msal_logout_middleware.caches import home_account_id
from msal_logout_middleware.sessions.asgi import ASGISession
from msal_logout_middleware.sessions.flask import FlaskSession
from msal_logout_middleware.testing import EmbeddedProvider, User
from tests.stories.apps import Setting, fastapi_app, flask_app
from tests.stories.conftest import parts_of

PROVIDER_HOST = "idp.localhost"
FLASK_HOST = "localhost"
FASTAPI_HOST = "127.0.0.1"

TOKENS = ("AccessToken", "RefreshToken", "IdToken")

LIVE = """<!doctype html><title>Live</title><p id="state">connecting</p><script>
const state = document.getElementById("state");
const socket = new WebSocket(`ws://${location.host}/live`);
socket.onmessage = (message) => { state.textContent = `open for ${message.data}` };
socket.onclose = (event) => { state.textContent = `closed with ${event.code}` };
</script>"""


@dataclass(frozen=True)
class TokenCache:
    """What one user's token cache holds.

    Args:
        entries: By MSAL's name for each kind, such as `AccessToken`.
        load: Returns the whole of it, as it is by then; `None` if nothing is left.
    """

    entries: dict[str, dict[str, Any]]
    load: Callable[[], Any]

    @property
    def tokens(self) -> set[str]:
        """Its access, refresh and ID tokens."""
        return {entry["secret"] for kind in TOKENS for entry in self.entries[kind].values()}


@dataclass
class Site:
    """One app.

    Args:
        url: Its origin.
        directory: All that it keeps.
        frames: The `Cookie` header of each front-channel request that it was sent.
        logout: Its own.
    """

    url: str
    directory: Path
    frames: list[str] = field(default_factory=list)
    logout: Logout | None = None

    @property
    def home(self) -> str:
        return f"{self.url}/"

    def found(self, tokens: set[str]) -> set[str]:
        """Which of some tokens stand, at least in part, in any of the app's files."""
        contents = [path.read_bytes() for path in self.directory.rglob("*") if path.is_file()]
        return {
            token
            for token in tokens
            if any(part in content for part in parts_of(token) for content in contents)
        }

    def token_cache(self, cookie_header: str) -> TokenCache:
        """The token cache of who is signed in under a cookie."""
        assert self.logout is not None
        config, store = self.logout.configuration, self.logout.store
        session = read(config.session, cookie_header)
        if "_token_cache" in session.contents:
            kept: Any = session.contents["_token_cache"]
            return TokenCache(json.loads(kept), lambda: config.session.load(session.id))
        key = home_account_id(session.claims)
        return TokenCache(json.loads(store.load(key).data), lambda: store.load(key).data)


def read(session: Any, cookie_header: str) -> Any:
    """Read a session, of either world, beside the loop that drives the browser."""
    if isinstance(session, FlaskSession):
        return session.read(cookie_header)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(anyio.run, session.read, cookie_header).result()


@dataclass
class Town:
    """Both apps, and who lives there."""

    provider: EmbeddedProvider
    alice: User
    flask: Site
    fastapi: Site


@contextmanager
def town(flavour: str, directory: Path) -> Iterator[Town]:
    """Serve all of it.

    Args:
        flavour: `entra`, which tells apps by iframes, or `generic`, which posts logout tokens to them.
        directory: For what the apps keep.
    """
    with ExitStack() as exits:
        provider = exits.enter_context(EmbeddedProvider(browser_host=PROVIDER_HOST))
        exits.enter_context(provider.trusted())
        alice = provider.add_user("alice@contoso.example")
        flask_socket, fastapi_socket = listening(), listening()
        flask = _site(FLASK_HOST, flask_socket, directory)
        fastapi = _site(FASTAPI_HOST, fastapi_socket, directory)
        # Its cookie is for iframes, too, as far as the browser lets it; Flask's is Lax, by the browser's default.
        live = _live_app(_registered(provider, flavour, fastapi, response_mode="form_post"), fastapi)
        exits.enter_context(
            serving_wsgi(_wrapped_flask(_registered(provider, flavour, flask), flask), flask_socket)
        )
        exits.enter_context(serving_asgi(live, fastapi_socket))
        yield Town(provider, alice, flask, fastapi)


def _site(host: str, socket: Any, directory: Path) -> Site:
    own = directory / host
    own.mkdir()
    return Site(f"http://{host}:{port_of(socket)}", own)


def _registered(
    provider: EmbeddedProvider, flavour: str, site: Site, *, response_mode: str = "query"
) -> Setting:
    registration: dict[str, Any] = {
        "redirect_uris": [f"{site.url}/redirect"],
        "post_logout_redirect_uris": [site.home],
        "optional_claims": ["sid"],
    }
    if flavour == "entra":
        authority = {"authority": provider.entra.authority}
        discovery = f"{provider.entra.authority}/v2.0"
        client = provider.entra.register(
            **registration, frontchannel_logout_uri=f"{site.url}/logout/front-channel"
        )
    else:
        authority = {"oidc_authority": provider.generic.oidc_authority}
        discovery = provider.generic.oidc_authority
        client = provider.generic.register(
            **registration, backchannel_logout_uri=f"{site.url}/logout/back-channel"
        )
    return Setting(
        url=site.url,
        client_id=client.client_id,
        client_secret=client.client_secret or "",
        authority=authority,
        discovery=discovery,
        graph_url=provider.graph_url,
        ca_file=provider.ca_file,
        directory=str(site.directory),
        response_mode=response_mode,
    )


def _wrapped_flask(setting: Setting, site: Site) -> Any:
    app = flask_app(setting)
    site.logout = logout = setting.logout(FlaskSession(app), caches=InSession("_token_cache"))
    wrapped = wsgi.LogoutMiddleware(app.wsgi_app, logout)

    def heard(environ: Any, start_response: Any) -> Any:
        if environ["PATH_INFO"] == "/logout/front-channel":
            site.frames.append(environ.get("HTTP_COOKIE", ""))
        return wrapped(environ, start_response)

    return heard


def _live_app(setting: Setting, site: Site) -> Any:
    app = fastapi_app(setting)

    @app.get("/open")
    def page() -> HTMLResponse:
        return HTMLResponse(LIVE)

    @app.websocket("/live")
    async def live(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text(socket.session["user"]["name"])
        async for _ in socket.iter_text():
            pass

    app.state.logout = site.logout = logout = setting.logout(ASGISession(app))
    app.add_middleware(asgi.LogoutMiddleware, logout=logout)

    async def heard(scope: Any, receive: Any, send: Any) -> None:
        if scope.get("path") == "/logout/front-channel":
            site.frames.append(dict(scope["headers"]).get(b"cookie", b"").decode())
        await app(scope, receive, send)

    return heard


@dataclass
class Control:
    """A WSGI app that sets two cookies, frames a URL, and tells of each framed request what it bore."""

    framed: list[tuple[str, str]] = field(default_factory=list)

    def __call__(self, environ: Any, start_response: Any) -> list[bytes]:
        path, query = environ["PATH_INFO"], parse_qs(environ["QUERY_STRING"])
        headers, body = [("Content-Type", "text/html")], "<p>here</p>"
        if path == "/set":
            headers += [
                ("Set-Cookie", "none=1; SameSite=None; Secure"),
                ("Set-Cookie", "lax=1; SameSite=Lax"),
            ]
        elif path == "/frame":
            body = f'<p>here</p><iframe src="{query["url"][0]}"></iframe>'
        elif path == "/framed":
            self.framed.append((environ["HTTP_SEC_FETCH_SITE"], environ.get("HTTP_COOKIE", "")))
        start_response("200 OK", headers)
        return [body.encode()]
