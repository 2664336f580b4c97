"""All that the demo needs, started and stopped as one: the provider, the two apps, and the page."""

from __future__ import annotations

import gc
import tempfile
import time
from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from msal_logout_middleware.events import (
    Channel,
    Event,
    LogoutEnded,
    LogoutFailed,
    LogoutRefused,
    LogoutStarted,
    SessionRefused,
    SessionUnknowable,
    StoreUnreachable,
)
from msal_logout_middleware.stores.sqlite import SQLiteStore
from msal_logout_middleware.testing import Client, EmbeddedProvider, User

from . import dashboard, fastapi_app, flask_app
from .registration import Registration
from .serving import listening, port_of, serving_asgi, serving_wsgi
from .view import FastAPIView, FlaskView, View

Flavour = Literal["entra", "generic"]


@dataclass(frozen=True)
class Way:
    """How a provider tells apps of a sign-out that began elsewhere."""

    provider: str
    name: str
    how: str


WAYS: dict[Flavour, Way] = {
    "entra": Way(
        "Microsoft Entra ID",
        "front-channel logout",
        "a hidden iframe, without a cookie of the app",
    ),
    "generic": Way(
        "any other OpenID provider", "back-channel logout", "a signed logout token, server to server"
    ),
}
BY: dict[Channel, str] = {
    "rp-initiated": "here",
    "front-channel": "by the provider's iframe",
    "back-channel": "by the provider's logout token",
    "admin": "by a call",
    "sign-in": "as somebody else has signed in",
}


@dataclass(frozen=True)
class App:
    """One app on the stage."""

    name: str
    url: str
    built_on: str
    view: View
    client: Client

    @property
    def home(self) -> str:
        """Where the provider sends the browser after a logout."""
        return f"{self.url}/"


class Stage:
    """A context manager: everything serves between enter and exit.

    Args:
        flavour: The provider: `entra`, or `generic` for any other OpenID provider.
        port: The page's port; 0 for any that is free.
    """

    def __init__(self, flavour: Flavour = "entra", *, port: int = 0) -> None:
        self.way = WAYS[flavour]
        self._flavour = flavour
        self._port = port
        self._open = ExitStack()
        self.events: deque[dict[str, str]] = deque(maxlen=50)

    def __enter__(self) -> Stage:
        with ExitStack() as opening:
            folder = Path(opening.enter_context(tempfile.TemporaryDirectory(prefix="logout-demo-")))
            opening.callback(
                gc.collect
            )  # the upkeep of the apps' sign-outs ends with them, before their folder
            page = listening(self._port)
            opening.callback(page.close)
            self.url = f"http://localhost:{port_of(page)}/"
            self.provider = opening.enter_context(EmbeddedProvider(browser_host="idp.localhost"))
            opening.enter_context(self.provider.trusted())
            self.alice = self.provider.add_user("alice@contoso.example")
            self.bob = self.provider.add_user("bob@contoso.example")
            self.apps = (self._flask(folder / "flask", opening), self._fastapi(folder / "fastapi", opening))
            opening.enter_context(serving_asgi(dashboard.create_app(self.state), page))
            self._open = opening.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def tell(self, app: App) -> int:
        """Have the provider tell one app that Alice's session is over, though there it goes on.

        Returns:
            The status of the app's answer.
        """
        (session,) = self.provider.sessions(self.alice)
        if self._flavour == "entra":
            with self.provider.browser() as iframe:  # a browser without cookies
                return iframe.open(f"{app.client.frontchannel_logout_uri}?sid={session.sid}").status
        token = self.provider.logout_token(app.client, sid=session.sid, sub=self.alice.sub)
        return self.provider.post_logout_token(app.client, token).status or 0

    def state(self) -> dict[str, Any]:
        """Return what the page shows, as JSON."""
        users = list(self.provider.records.users.values())
        return {
            "apps": [_shown(app, users) for app in self.apps],
            "provider": {
                "url": self.provider.browser_url,
                "tells": f"{self.way.how} ({self.way.name})",
                "users": [
                    {
                        "user": user.username,
                        "sessions": len(self.provider.sessions(user)),
                        "refresh_tokens": len(self.provider.alive_refresh_tokens(user)),
                    }
                    for user in users
                ],
            },
            "events": list(self.events),
        }

    # Two sites, as Chromium sees it: a cookie of one is a third party's at the other, and at the provider.

    def _flask(self, folder: Path, opening: ExitStack) -> App:
        listener, store = listening(), _store(folder, opening)
        registration, client = self._register("demo-flask", f"http://localhost:{port_of(listener)}")
        app = flask_app.create_app(registration, folder, store, on_event=partial(self._note, "Flask"))
        opening.enter_context(serving_wsgi(app, listener))
        view = FlaskView(folder, store)
        return App("Flask", registration.url, "identity and Flask-Session", view, client)

    def _fastapi(self, folder: Path, opening: ExitStack) -> App:
        listener, store = listening(), _store(folder, opening)
        registration, client = self._register("demo-fastapi", f"http://127.0.0.1:{port_of(listener)}")
        app = fastapi_app.create_app(registration, store, on_event=partial(self._note, "FastAPI"))
        opening.enter_context(serving_asgi(app, listener))
        view = FastAPIView(folder, store, self._home_account_id)
        return App("FastAPI", registration.url, "MSAL and SessionMiddleware", view, client)

    def _register(self, name: str, url: str) -> tuple[Registration, Client]:
        provider, entra = self.provider, self._flavour == "entra"
        front_channel, back_channel = f"{url}/logout/front-channel", f"{url}/logout/back-channel"
        client = (provider.entra if entra else provider.generic).register(
            name,
            redirect_uris=[f"{url}/redirect"],
            post_logout_redirect_uris=[f"{url}/"],
            frontchannel_logout_uri=front_channel if entra else None,
            backchannel_logout_uri=None if entra else back_channel,
            optional_claims=["sid", "login_hint"],
        )
        oidc = provider.generic.oidc_authority
        registration = Registration(
            url=url,
            authority={"authority": provider.entra.authority} if entra else {"oidc_authority": oidc},
            issuer=f"{provider.entra.authority}/v2.0" if entra else oidc,
            client_id=client.client_id,
            client_secret=client.client_secret or "",
            api_url=provider.graph_url,
            ca_file=provider.ca_file,
        )
        return registration, client

    def _home_account_id(self, user: User) -> str:
        return user.home_account_id if self._flavour == "entra" else user.sub

    def _note(self, app: str, event: Event) -> None:
        self.events.appendleft({"time": time.strftime("%H:%M:%S"), "app": app, "text": told(event)})


def _store(folder: Path, opening: ExitStack) -> SQLiteStore:
    folder.mkdir()
    store = SQLiteStore(folder / "logout.db")
    opening.callback(store.close)
    return store


def told(event: Event) -> str:
    """Return an event in words."""
    match event:
        case LogoutStarted(channel=channel):
            return f"A sign-out begins, {BY[channel]}."
        case LogoutEnded(channel=channel, removed=removed):
            counts = ", ".join(f"{count} {kind}" for kind, count in removed.items())
            return f"Signed out, {BY[channel]}; removed {counts or 'nothing: there were no tokens'}."
        case LogoutRefused(reason=reason):
            return f"Refused: {reason}."
        case LogoutFailed(left=left):
            return f"Could not be completed; left to do: {', '.join(left)}."
        case SessionRefused():
            return "A cookie of a session that has ended was refused."
        case SessionUnknowable():
            return "A session cannot be told from other sign-ins: its claims have no iat, nonce or uti."
        case StoreUnreachable(error=error):
            return f"The store could not be asked: {error}."


def _shown(app: App, users: list[User]) -> dict[str, Any]:
    standing = app.view.standing(users)
    return {
        "name": app.name,
        "url": app.url,
        "built_on": app.built_on,
        "session_store": app.view.session_store,
        "token_cache": app.view.token_cache,
        "sessions": list(standing.sessions),
        "tokens": [{"user": each.user, "counts": each.counts} for each in standing.tokens],
        "marks": standing.marks,
        "unfinished": standing.unfinished,
    }
