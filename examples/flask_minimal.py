"""A Flask app that signs in with `identity` and out completely: `flask --app examples.flask_minimal run`.

Install it first, in a clone: `pip install ".[flask]" identity "flask-session[cachelib]"`.
Set TENANT_ID, CLIENT_ID, CLIENT_SECRET and SECRET_KEY in the environment, and
register http://localhost:5000/redirect and http://localhost:5000/ as its redirect URIs.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from cachelib import FileSystemCache
from flask import Flask
from identity.flask import Auth

from msal_logout_middleware import InSession, Logout, Provider
from msal_logout_middleware.sessions.flask import FlaskSession
from msal_logout_middleware.stores.sqlite import SQLiteStore
from msal_logout_middleware.wsgi import LogoutMiddleware

if missing := {"TENANT_ID", "CLIENT_ID", "CLIENT_SECRET", "SECRET_KEY"} - os.environ.keys():
    sys.exit(f"set {', '.join(sorted(missing))} in the environment; the head of this file says more")
TENANT_ID, CLIENT_ID = os.environ["TENANT_ID"], os.environ["CLIENT_ID"]

app = Flask(__name__)
app.config.update(
    SECRET_KEY=os.environ["SECRET_KEY"],
    SESSION_TYPE="cachelib",
    SESSION_CACHELIB=FileSystemCache("flask_sessions"),
)
auth = Auth(
    app,
    authority=f"https://login.microsoftonline.com/{TENANT_ID}",
    client_id=CLIENT_ID,
    client_credential=os.environ["CLIENT_SECRET"],
    redirect_uri="http://localhost:5000/redirect",
)


@app.get("/")
def home() -> str:
    return '<a href="/me">Sign in</a>'


@app.get("/me")
@auth.login_required  # type: ignore[untyped-decorator]  # identity is not typed
def me(*, context: dict[str, Any]) -> str:
    return f'{context["user"]["oid"]} <a href="/logout">Sign out</a>'


logout = Logout(
    provider=Provider.entra(TENANT_ID, CLIENT_ID),
    session=FlaskSession(app),
    store=SQLiteStore("flask_minimal.db"),
    caches=InSession("_token_cache"),
    post_logout_redirect_uri="http://localhost:5000/",
)
app.wsgi_app = LogoutMiddleware(app.wsgi_app, logout)  # type: ignore[method-assign]  # how Flask is wrapped
