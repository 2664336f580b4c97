"""The embedded provider: a real server on loopback, with its users, clients, records and faults."""

from __future__ import annotations

import os
import ssl
import tempfile
import time
import uuid
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal
from urllib.parse import parse_qsl

import trustme
from starlette.types import Message, Receive, Scope, Send

from .browser import Browser
from .endpoints import Endpoints, login_hint, post_logout_token
from .faults import Fault, Faults, Hold, answer_plainly
from .flavours import B2C, GRAPH_PATH, Entra, Flavour, Generic, Site
from .records import BackchannelCall, Client, ProviderSession, RecordedRequest, Records, User
from .server import LoopbackServer
from .signing import SigningKeys

LOGOUT_EVENT = "http://schemas.openid.net/event/backchannel-logout"


class EmbeddedProvider:
    """An OpenID provider for tests, in three flavours, that real MSAL signs in against.

    A context manager: it serves between enter and exit. Its URLs are known before.

    Args:
        browser_host: The host of the browser's side, on plain `http`: `localhost`, or any name below it
            such as `idp.localhost`. By default the browser uses the `https` side too, and must trust `ca_file`.
        port: The port of the `https` side; 0 for any that is free.
        browser_port: The port of the plain side; 0 for any that is free.

    Attributes:
        entra: The Entra flavour.
        b2c: The B2C flavour.
        generic: The generic flavour.
        keys: The signing keys.
        records: All that it knows.
        access_token_seconds: The lifetime of access tokens. MSAL refreshes five minutes ahead, so 300 makes
            each silent call a refresh.
        id_token_seconds: The lifetime of ID tokens.
        refresh_tokens: What a refresh does: `added` gives a new refresh token and leaves the old one alive, as
            Entra does; `replaced` revokes the old one; `kept` gives none.
        revoke_on_logout: Whether a logout here revokes the session's refresh tokens. Entra's does not.
        clock_offset_seconds: How far the provider's clock is ahead.
    """

    def __init__(self, *, browser_host: str | None = None, port: int = 0, browser_port: int = 0) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="embedded-provider-")
        authority = trustme.CA()
        self.ca_file = str(Path(self._directory.name) / "ca.pem")
        authority.cert_pem.write_to_path(self.ca_file)
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(
            "localhost", "127.0.0.1", *([browser_host] if browser_host else [])
        ).configure_cert(tls)
        self._server = LoopbackServer(
            self._serve, tls, tls_port=port, plain_port=None if browser_host is None else browser_port
        )
        apps = f"https://localhost:{self._server.ports[0]}"
        self._site = Site(apps, f"http://{browser_host}:{self._server.ports[1]}" if browser_host else apps)
        self.keys = SigningKeys()
        self._faults = Faults()
        self.reset()

    def reset(self) -> None:
        """Forget users, clients, sessions, records, switches and faults; URLs and signing keys stay."""
        self.records = Records()
        self.entra = Entra(self._site, self.records)
        self.b2c = B2C(self._site, self.records)
        self.generic = Generic(self._site, self.records)
        self.access_token_seconds = 3600
        self.id_token_seconds = 3600
        self.refresh_tokens: Literal["added", "replaced", "kept"] = "added"
        self.revoke_on_logout = False
        self.clock_offset_seconds = 0
        self._faults.clear()
        self._endpoints = Endpoints(self)

    def __enter__(self) -> EmbeddedProvider:
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop serving, for good."""
        self._server.cut()
        self._faults.clear()
        self._server.close()
        self._directory.cleanup()

    # Where it is

    @property
    def flavours(self) -> tuple[Flavour, ...]:
        """All flavours."""
        return self.generic, self.b2c, self.entra

    @property
    def url(self) -> str:
        """The origin for apps and MSAL."""
        return self._site.apps

    @property
    def browser_url(self) -> str:
        """The origin for the browser."""
        return self._site.browser

    @property
    def graph_url(self) -> str:
        """A small API that answers with the user of any access token of this provider."""
        return self._site.apps + GRAPH_PATH

    @contextmanager
    def trusted(self) -> Iterator[None]:
        """Have `requests`, and so MSAL and `identity`, trust this provider's certificate, by the environment.

        MSAL's `verify=provider.ca_file` serves as well, but only where the variable is not set.
        """
        before = os.environ.get("REQUESTS_CA_BUNDLE")
        os.environ["REQUESTS_CA_BUNDLE"] = self.ca_file
        try:
            yield
        finally:
            if before is None:
                del os.environ["REQUESTS_CA_BUNDLE"]
            else:
                os.environ["REQUESTS_CA_BUNDLE"] = before

    def browser(self, *, third_party_cookies: bool = False) -> Browser:
        """Return a scripted browser with no cookies yet.

        Args:
            third_party_cookies: Whether it lets cookies into cross-site iframes, as browsers once did.
        """
        return Browser(ca_file=self.ca_file, third_party_cookies=third_party_cookies)

    def now(self) -> int:
        """Return the time by the provider's clock, in seconds since 1970."""
        return int(time.time()) + self.clock_offset_seconds

    # Who is there

    def add_user(
        self,
        username: str,
        *,
        name: str | None = None,
        tenant: str | None = None,
        guest_of: Collection[str] = (),
    ) -> User:
        """Add a user, who can sign in at every flavour.

        Args:
            username: Such as `alice@contoso.example`; two users need two.
            name: By default made from the username.
            tenant: The home tenant's id; by default `entra.tenant_id`.
            guest_of: The tenants that the user is a guest of, with another `oid` in each.
        """
        user = User(
            username=username,
            name=name or username.partition("@")[0].replace(".", " ").title(),
            oid=str(uuid.uuid4()),
            tid=tenant or self.entra.tenant_id,
            sub=uuid.uuid4().hex,
            guest_oids={tid: str(uuid.uuid4()) for tid in guest_of},
        )
        self.records.users[username] = user
        return user

    def add_guest(self, username: str, *, name: str | None = None) -> User:
        """Add a user of some other tenant, who is a guest of `entra.tenant_id`."""
        return self.add_user(username, name=name, tenant=str(uuid.uuid4()), guest_of=[self.entra.tenant_id])

    # What happened

    @property
    def requests(self) -> list[RecordedRequest]:
        """Every request so far, the oldest first."""
        return list(self.records.requests)

    def requests_to(self, endpoint: str) -> list[RecordedRequest]:
        """Return the requests to an endpoint, such as `token`."""
        return [request for request in self.requests if request.endpoint == endpoint]

    @property
    def backchannel_calls(self) -> list[BackchannelCall]:
        """Every logout token that a logout here has posted, and the answers."""
        return list(self.records.backchannel_calls)

    def alive_refresh_tokens(self, user: User | None = None) -> frozenset[str]:
        """Return the refresh tokens that still work, of one user or of all."""
        tokens = self.records.refresh_tokens.copy().items()
        return frozenset(token for token, grant in tokens if user in (None, grant.user))

    def revoke_refresh_tokens(self, user: User) -> None:
        """Revoke all refresh tokens of a user, as an administrator does."""
        for token in self.alive_refresh_tokens(user):
            self.records.refresh_tokens.pop(token, None)

    def sessions(self, user: User | None = None) -> list[ProviderSession]:
        """Return the provider sessions that are not over, of one user or of all."""
        return [each for each in self.records.sessions if not each.ended and user in (None, each.user)]

    # Logout

    def end_session(self, session: ProviderSession) -> None:
        """End a provider session as an administrator does: by back-channel logout, without a browser."""
        flavour = next(flavour for flavour in self.flavours if flavour.name == session.flavour)
        self._server.call(self._endpoints.end_session(flavour, session))

    def logout_token(
        self,
        client: Client,
        *,
        sid: str | None = None,
        sub: str | None = None,
        omit: Collection[str] = (),
        header: Mapping[str, Any] | None = None,
        algorithm: str = "RS256",
        **overrides: Any,
    ) -> str:
        """Return a logout token (Back-Channel Logout 1.0, 2.4), right or as wrong as told.

        Args:
            client: Whom it is for: its `aud`.
            sid: The session; absent if `None`.
            sub: The user; absent if `None`.
            omit: Claims to leave out.
            header: Header members to add or replace; a value of `None` leaves one out.
            algorithm: What it is signed with, see `SigningKeys.sign`.
            overrides: Claims to add or replace, with any JSON value.
        """
        now = self.now()
        flavour = next(flavour for flavour in self.flavours if flavour.name == client.flavour)
        claims: dict[str, Any] = {
            "iss": flavour.issuer(flavour.home_realm, None),
            "aud": client.client_id,
            "iat": now,
            "exp": now + 120,
            "jti": str(uuid.uuid4()),
            "events": {LOGOUT_EVENT: {}},
            **({} if sid is None else {"sid": sid}),
            **({} if sub is None else {"sub": sub}),
            **overrides,
        }
        present = {name: value for name, value in claims.items() if name not in omit}
        return self.keys.sign(present, header={"typ": "logout+jwt", **(header or {})}, algorithm=algorithm)

    def post_logout_token(self, client: Client, token: str) -> BackchannelCall:
        """Post a logout token to a client's `backchannel_logout_uri`, and return the answer."""
        return post_logout_token(client, token, self.ca_file)

    def login_hint(self, user: User) -> str:
        """Return the opaque `login_hint` claim of a user."""
        return login_hint(user)

    def rotate_keys(self, *, keep: bool = True) -> None:
        """Sign with a new key from now on; the earlier ones stay published only if `keep`."""
        self.keys.rotate(keep=keep)

    # Faults

    def slow(self, seconds: float, *endpoints: str) -> None:
        """Let requests, or those to some endpoints, wait before they are answered, until `back`."""
        self._faults.add(Fault(frozenset(endpoints), seconds=seconds, hold=Hold()))

    def fail(self, status: int, *endpoints: str) -> None:
        """Answer requests, or those to some endpoints, with a status and nothing else, until `back`."""
        self._faults.add(Fault(frozenset(endpoints), status=status))

    def hold(self, *endpoints: str) -> Hold:
        """Hold requests, or those to some endpoints, until the hold is released, or `back`."""
        hold = Hold()
        self._faults.add(Fault(frozenset(endpoints), hold=hold))
        return hold

    def gone(self) -> None:
        """Refuse connections and cut those that are open, until `back`."""
        self._server.cut()
        self._faults.clear()
        self._server.stop()

    def back(self) -> None:
        """End all faults, and serve again on the same ports, if it was gone."""
        self._faults.clear()
        self._server.start()

    # Serving

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = b""
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message["type"] == "http.request" and message.get("more_body", False)
        request = _recorded(scope, body)
        self.records.requests.append(request)
        status = await self._faults.befall(request.endpoint)
        if status is not None:
            return await answer_plainly(status, scope, receive, send)

        async def replay() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        return await self._endpoints.app(scope, replay, send)


def _recorded(scope: Scope, body: bytes) -> RecordedRequest:
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    query = scope["query_string"].decode("latin-1")
    urlencoded = headers.get("content-type", "").startswith("application/x-www-form-urlencoded")
    form = parse_qsl(body.decode("latin-1"), keep_blank_values=True) if urlencoded else []
    return RecordedRequest(
        endpoint=_ENDPOINTS.get(scope["path"].rpartition("/")[2], "other"),
        method=scope["method"],
        url=f"{scope['scheme']}://{headers.get('host', '')}{scope['path']}{'?' if query else ''}{query}",
        path=scope["path"],
        query=dict(parse_qsl(query, keep_blank_values=True)),
        form=dict(form),
        headers=headers,
    )


_ENDPOINTS = {
    "openid-configuration": "discovery",
    "keys": "keys",
    "authorize": "authorize",
    "signin": "signin",
    "consent": "consent",
    "token": "token",
    "logout": "logout",
    "me": "graph",
}
