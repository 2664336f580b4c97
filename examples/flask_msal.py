"""A Flask app that signs in with MSAL, and out completely: `python -m examples flask_msal`."""

from __future__ import annotations

from typing import Any

import msal
import requests
from flask import Flask, Response, redirect, request, session
from markupsafe import Markup

from examples.environment import API_URL, BASE_URL, SCOPES, SECRET_KEY, msal_arguments, provider
from msal_logout_middleware import Logout, SQLiteStore
from msal_logout_middleware.wsgi import LogoutMiddleware

app = Flask(__name__)
app.config.update(SECRET_KEY=SECRET_KEY, SESSION_COOKIE_NAME="flask_msal")


def client(token_cache: msal.TokenCache | None = None) -> Any:
    return msal.ConfidentialClientApplication(token_cache=token_cache, **msal_arguments())


@app.get("/")
def home() -> str:
    if "user" not in session:
        return '<a href="/login">Sign in</a>'
    return Markup('{} <a href="/api">API</a> <a href="/logout">Sign out</a>').format(session["user"]["name"])


@app.get("/login")
def login() -> Response:
    session["flow"] = client().initiate_auth_code_flow(SCOPES, redirect_uri=f"{BASE_URL}/redirect")
    return redirect(session["flow"]["auth_uri"])


@app.get("/redirect")
def signed_in() -> Response | tuple[str, int]:
    with logout.token_cache() as token_cache:
        flow = session.pop("flow", {})
        result = client(token_cache).acquire_token_by_auth_code_flow(flow, request.args)
    if "error" in result:  # such as access_denied, where the user cancels
        return f"You are not signed in: {Markup.escape(result['error'])}.", 400
    session["user"] = result["id_token_claims"]
    return redirect("/")


@app.get("/api")
def api() -> Response | str:
    token = token_for(session["user"]) if "user" in session else None
    if token is None:  # nobody is signed in, or the tokens went with a sign-out elsewhere
        return redirect("/login")
    answer = requests.get(API_URL, headers={"Authorization": f"Bearer {token}"}, timeout=10)
    return Markup('The API says: {} <a href="/">Home</a>').format(answer.text)


def token_for(user: dict[str, Any]) -> str | None:
    with logout.token_cache(user) as token_cache:
        accounts = client(token_cache).get_accounts()
        found = client(token_cache).acquire_token_silent(SCOPES, account=accounts[0]) if accounts else None
    return found["access_token"] if found and "access_token" in found else None


logout = Logout(
    provider=provider(),
    store=SQLiteStore("flask_msal.db"),
    post_logout_redirect_uri=f"{BASE_URL}/",
)
app.wsgi_app = LogoutMiddleware(app.wsgi_app, logout)  # type: ignore[method-assign]  # how Flask is wrapped
