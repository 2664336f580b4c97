"""A FastAPI app that signs in with MSAL, and out completely: `python -m examples fastapi_msal`."""

from __future__ import annotations

from html import escape
from typing import Any

import msal
import requests
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.middleware.sessions import SessionMiddleware

from examples.environment import API_URL, BASE_URL, SCOPES, SECRET_KEY, msal_arguments, provider
from msal_logout_middleware import Logout, SQLiteStore
from msal_logout_middleware.asgi import LogoutMiddleware

app = FastAPI()
app.add_middleware(SessionMiddleware, secret_key=SECRET_KEY, session_cookie="fastapi_msal")
logout = Logout(
    provider=provider(),
    store=SQLiteStore("fastapi_msal.db"),
    post_logout_redirect_uri=f"{BASE_URL}/",
)
app.add_middleware(LogoutMiddleware, logout=logout)  # added last: outermost


def client(token_cache: msal.TokenCache | None = None) -> Any:
    return msal.ConfidentialClientApplication(token_cache=token_cache, **msal_arguments())


# MSAL waits for the network, so these are `def` views, which FastAPI calls in threads.


@app.get("/")
def home(request: Request) -> HTMLResponse:
    user = request.session.get("user")
    if user is None:
        return HTMLResponse('<a href="/login">Sign in</a>')
    links = '<a href="/api">API</a> <a href="/logout">Sign out</a>'
    return HTMLResponse(f"{escape(user['name'])} {links}")


@app.get("/login")
def login(request: Request) -> RedirectResponse:
    flow = client().initiate_auth_code_flow(SCOPES, redirect_uri=f"{BASE_URL}/redirect")
    request.session["flow"] = flow
    return RedirectResponse(flow["auth_uri"])


@app.get("/redirect")
def signed_in(request: Request) -> Response:
    flow, answer = request.session.pop("flow", {}), dict(request.query_params)
    with logout.token_cache() as token_cache:
        result = client(token_cache).acquire_token_by_auth_code_flow(flow, answer)
    if "error" in result:  # such as access_denied, where the user cancels
        return PlainTextResponse(f"You are not signed in: {result['error']}.", status_code=400)
    request.session["user"] = result["id_token_claims"]
    return RedirectResponse("/")


@app.get("/api")
def api(request: Request) -> Response:
    user = request.session.get("user")
    token = token_for(user) if user else None
    if token is None:  # nobody is signed in, or the tokens went with a sign-out elsewhere
        return RedirectResponse("/login")
    answer = requests.get(API_URL, headers={"Authorization": f"Bearer {token}"}, timeout=10)
    return HTMLResponse(f'The API says: {escape(answer.text)} <a href="/">Home</a>')


def token_for(user: dict[str, Any]) -> str | None:
    with logout.token_cache(user) as token_cache:
        accounts = client(token_cache).get_accounts()
        found = client(token_cache).acquire_token_silent(SCOPES, account=accounts[0]) if accounts else None
    return found["access_token"] if found and "access_token" in found else None
