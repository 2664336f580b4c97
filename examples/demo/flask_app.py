"""A Flask app on `identity` and Flask-Session, which keeps the token cache inside the server-side session."""

from __future__ import annotations

import secrets
from pathlib import Path

import requests
from cachelib import FileSystemCache
from flask import Flask, redirect, render_template, session
from identity.flask import Auth
from werkzeug.wrappers import Response

from msal_logout_middleware import InSession, Logout, Provider
from msal_logout_middleware.configuration import OnEvent
from msal_logout_middleware.sessions.flask import FlaskSession
from msal_logout_middleware.stores.sqlite import SQLiteStore
from msal_logout_middleware.wsgi import LogoutMiddleware

from .registration import Registration

NAME = "Flask"
SCOPES = ["User.Read"]


def create_app(
    registration: Registration, folder: Path, store: SQLiteStore, *, on_event: OnEvent | None = None
) -> Flask:
    """Return the app; its sessions are files in `folder/sessions`."""
    app = Flask(__name__)
    app.config.update(
        SECRET_KEY=secrets.token_hex(),
        SESSION_TYPE="cachelib",
        SESSION_CACHELIB=FileSystemCache(str(folder / "sessions")),
        SESSION_COOKIE_SAMESITE="Lax",
    )
    auth = Auth(
        app,
        client_id=registration.client_id,
        client_credential=registration.client_secret,
        redirect_uri=registration.redirect_uri,
        **registration.authority,
    )

    @app.get("/")
    def home() -> str:
        return render_template("app.html", app=NAME, user=session.get("_logged_in_user"))

    @app.get("/favicon.ico")  # the page that `identity` begins a sign-in with names no icon
    def icon() -> tuple[str, int]:
        return "", 204

    @app.get("/login")
    @auth.login_required(scopes=SCOPES)  # type: ignore[untyped-decorator]  # identity is not typed
    def login(*, context: dict[str, str]) -> Response:
        return redirect("/")

    @app.get("/call-api")
    @auth.login_required(scopes=SCOPES)  # type: ignore[untyped-decorator]  # identity is not typed
    def call_api(*, context: dict[str, str]) -> str:
        bearer = {"Authorization": f"Bearer {context['access_token']}"}
        answer = requests.get(registration.api_url, headers=bearer, timeout=10).json()
        return render_template("app.html", app=NAME, user=context["user"], answer=answer)

    # All that is new in this app. Its "Sign out" led to /logout before, too: a view of `identity`. What is
    # registered at the provider for sign-outs that start elsewhere is /logout/front-channel, /logout/back-channel.
    logout = Logout(
        provider=Provider.discover(registration.issuer, registration.client_id, verify=registration.ca_file),
        session=FlaskSession(app),
        store=store,
        caches=InSession("_token_cache"),
        post_logout_redirect_uri=registration.home,
        on_event=on_event,
    )
    app.wsgi_app = LogoutMiddleware(app.wsgi_app, logout)  # type: ignore[method-assign]  # how Flask is wrapped
    return app
