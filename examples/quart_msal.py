"""A Quart app that signs in with MSAL, and out completely: `python -m examples quart_msal`."""

from __future__ import annotations

import asyncio
from typing import Any

import msal
import requests
from markupsafe import Markup
from quart import Quart, redirect, request, session
from werkzeug.wrappers import Response

from examples.environment import API_URL, BASE_URL, SCOPES, SECRET_KEY, msal_arguments, provider
from msal_logout_middleware import Logout, SQLiteStore
from msal_logout_middleware.asgi import LogoutMiddleware

app = Quart(__name__)
app.config.update(SECRET_KEY=SECRET_KEY, SESSION_COOKIE_NAME="quart_msal")


@app.get("/")
async def home() -> str:
    if "user" not in session:
        return '<a href="/login">Sign in</a>'
    return Markup('{} <a href="/api">API</a> <a href="/logout">Sign out</a>').format(session["user"]["name"])


@app.get("/login")
async def login() -> Response:
    session["flow"] = await asyncio.to_thread(new_flow)
    return redirect(session["flow"]["auth_uri"])


@app.get("/redirect")
async def signed_in() -> Response | tuple[str, int]:
    result = await asyncio.to_thread(tokens_of, session.pop("flow", {}), dict(request.args))
    if "error" in result:  # such as access_denied, where the user cancels
        return f"You are not signed in: {Markup.escape(result['error'])}.", 400
    session["user"] = result["id_token_claims"]
    return redirect("/")


@app.get("/api")
async def api() -> Response | str:
    said = await asyncio.to_thread(ask_api, session["user"]) if "user" in session else None
    if said is None:  # nobody is signed in, or the tokens went with a sign-out elsewhere
        return redirect("/login")
    return Markup('The API says: {} <a href="/">Home</a>').format(said)


# MSAL waits for the network, so these run in threads. None of them sees the request or the session.


def client(token_cache: msal.TokenCache | None = None) -> Any:
    return msal.ConfidentialClientApplication(token_cache=token_cache, **msal_arguments())


def new_flow() -> dict[str, Any]:
    flow: dict[str, Any] = client().initiate_auth_code_flow(SCOPES, redirect_uri=f"{BASE_URL}/redirect")
    return flow


def tokens_of(flow: dict[str, Any], answer: dict[str, str]) -> dict[str, Any]:
    with logout.token_cache() as token_cache:
        result: dict[str, Any] = client(token_cache).acquire_token_by_auth_code_flow(flow, answer)
    return result


def ask_api(user: dict[str, Any]) -> str | None:
    with logout.token_cache(user) as token_cache:
        accounts = client(token_cache).get_accounts()
        found = client(token_cache).acquire_token_silent(SCOPES, account=accounts[0]) if accounts else None
    if not found or "access_token" not in found:
        return None
    bearer = {"Authorization": f"Bearer {found['access_token']}"}
    return requests.get(API_URL, headers=bearer, timeout=10).text


logout = Logout(
    provider=provider(),
    store=SQLiteStore("quart_msal.db"),
    post_logout_redirect_uri=f"{BASE_URL}/",
)
app.asgi_app = LogoutMiddleware(app.asgi_app, logout)  # type: ignore[method-assign]  # how Quart is wrapped
