"""A Flask app that signs in with Microsoft's `identity`, and out completely: `python -m examples flask_identity`."""

from __future__ import annotations

from typing import Any

import requests
from cachelib import FileSystemCache
from flask import Flask
from identity.flask import Auth
from markupsafe import Markup

from examples.environment import (
    API_URL,
    AUTHORITY,
    BASE_URL,
    CLIENT_ID,
    CLIENT_SECRET,
    SCOPES,
    SECRET_KEY,
    provider,
)
from msal_logout_middleware import InSession, Logout, SQLiteStore
from msal_logout_middleware.wsgi import LogoutMiddleware

app = Flask(__name__)
app.config.update(
    SECRET_KEY=SECRET_KEY,
    SESSION_COOKIE_NAME="flask_identity",
    SESSION_TYPE="cachelib",  # on the server: tokens are too large for a cookie
    SESSION_CACHELIB=FileSystemCache("flask_identity_sessions"),
)
auth = Auth(
    app,
    client_id=CLIENT_ID,
    client_credential=CLIENT_SECRET,
    redirect_uri=f"{BASE_URL}/redirect",
    **AUTHORITY,
)


@app.get("/")
@auth.login_required  # type: ignore[untyped-decorator]  # identity is not typed
def home(*, context: dict[str, Any]) -> str:
    links = '{} <a href="/api">API</a> <a href="/logout">Sign out</a>'
    return Markup(links).format(context["user"]["name"])


@app.get("/api")
@auth.login_required(scopes=SCOPES)  # type: ignore[untyped-decorator]  # the same
def api(*, context: dict[str, Any]) -> str:
    answer = requests.get(API_URL, headers={"Authorization": f"Bearer {context['access_token']}"}, timeout=10)
    return Markup('The API says: {} <a href="/">Home</a>').format(answer.text)


@app.get("/bye")
def bye() -> str:
    return 'You are signed out. <a href="/">Sign in</a>'


logout = Logout(
    provider=provider(),
    store=SQLiteStore("flask_identity.db"),
    caches=InSession("_token_cache"),  # where identity keeps the tokens
    post_logout_redirect_uri=f"{BASE_URL}/bye",
)
app.wsgi_app = LogoutMiddleware(app.wsgi_app, logout)  # type: ignore[method-assign]  # how Flask is wrapped
