"""All that the demo needs, started and stopped as one: the provider, the two apps, and the page."""

from __future__ import annotations

import socket
import tempfile
import time
from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from msal_logout_middleware import LogoutEnded, LogoutFailed, LogoutRefused, LogoutStarted
from msal_logout_middleware.events import Event
from msal_logout_middleware.stores.sqlite import SQLiteStore
from msal_logout_middleware.testing import EmbeddedProvider

from . import dashboard, fastapi_app, flask_app
from .registration import Registration
from .serving import listening, port_of, serving_asgi, serving_wsgi
from .view import FastAPIView, FlaskView, View


@dataclass(frozen=True)
class App:
    """One app on the stage."""

    name: str
    url: str
    built_on: str
    view: View

    @property
    def home(self) -> str:
        """Where the provider sends the browser after a logout."""
        return f"{self.url}/"


class Stage:
    """A context manager: everything serves between enter and exit.

    Args:
        port: The page's port; 0 for any that is free.
    """

    def __init__(self, *, port: int = 0) -> None:
        self._port = port
        self._open = ExitStack()
        self.events: deque[dict[str, str]] = deque(maxlen=50)

    def __enter__(self) -> Stage:
        with ExitStack() as opening:
            folder = Path(opening.enter_context(tempfile.TemporaryDirectory(prefix="logout-demo-")))
            page = listening(self._port)
            opening.callback(page.close)
            self.url = f"http://localhost:{port_of(page)}/"
            self.provider = opening.enter_context(EmbeddedProvider(browser_host="idp.localhost"))
            opening.enter_context(self.provider.trusted())
            self.alice = self.provider.add_user("alice@contoso.example")
            self.bob = self.provider.add_user("bob@contoso.example")

            # Two sites, as Chromium sees it: a cookie of one is a third party's at the other.
            flask_listener, fastapi_listener = listening(), listening()
            flask = self._registered("demo-flask", f"http://localhost:{port_of(flask_listener)}")
            fastapi = self._registered("demo-fastapi", f"http://127.0.0.1:{port_of(fastapi_listener)}")
            flask_view = FlaskView(*_storage(folder / "flask"))
            fastapi_view = FastAPIView(*_storage(folder / "fastapi"))
            self.apps = (
                App("Flask", flask.url, "identity and Flask-Session", flask_view),
                App("FastAPI", fastapi.url, "MSAL and SessionMiddleware", fastapi_view),
            )
            for app in self.apps:
                opening.callback(app.view.store.close)
            opening.enter_context(self._serving_flask(flask, flask_view, flask_listener))
            opening.enter_context(self._serving_fastapi(fastapi, fastapi_view, fastapi_listener))
            opening.enter_context(serving_asgi(dashboard.create_app(self.state), page))
            self._open = opening.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def state(self) -> dict[str, Any]:
        """Return what the page shows, as JSON."""
        users = list(self.provider.records.users.values())
        return {
            "apps": [_shown(app, users) for app in self.apps],
            "provider": {
                "url": self.provider.browser_url,
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

    def _registered(self, name: str, url: str) -> Registration:
        client = self.provider.entra.register(
            name,
            redirect_uris=[f"{url}/redirect"],
            post_logout_redirect_uris=[f"{url}/"],
            optional_claims=["sid", "login_hint"],
        )
        return Registration(
            url=url,
            authority=self.provider.entra.authority,
            client_id=client.client_id,
            client_secret=client.client_secret or "",
            api_url=self.provider.graph_url,
            ca_file=self.provider.ca_file,
        )

    def _serving_flask(self, registration: Registration, view: FlaskView, listener: socket.socket) -> Any:
        app = flask_app.create_app(
            registration, view.folder, view.store, on_event=partial(self._note, "Flask")
        )
        return serving_wsgi(app, listener)

    def _serving_fastapi(self, registration: Registration, view: FastAPIView, listener: socket.socket) -> Any:
        app = fastapi_app.create_app(registration, view.store, on_event=partial(self._note, "FastAPI"))
        return serving_asgi(app, listener)

    def _note(self, app: str, event: Event) -> None:
        self.events.appendleft({"time": time.strftime("%H:%M:%S"), "app": app, "text": told(event)})


def _storage(folder: Path) -> tuple[Path, SQLiteStore]:
    folder.mkdir()
    return folder, SQLiteStore(folder / "logout.db")


def told(event: Event) -> str:
    """Return an event in words."""
    match event:
        case LogoutStarted():
            return "A sign-out begins."
        case LogoutEnded(removed=removed):
            counts = ", ".join(f"{count} {kind}" for kind, count in removed.items())
            return f"Signed out; removed {counts or 'nothing: there were no tokens'}."
        case LogoutRefused(reason=reason):
            return f"Refused: {reason}."
        case LogoutFailed(left=left):
            return f"Could not be completed; left to do: {', '.join(left)}."


def _shown(app: App, users: list[Any]) -> dict[str, Any]:
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
