"""A Django project that signs in with MSAL, and out completely: `python -m examples django_msal`.

A whole project in one file; the comments name the files that its parts are in otherwise.
"""

from __future__ import annotations

from typing import Any

import django
import msal
import requests
from django.conf import settings
from django.core.management import call_command
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse, HttpResponseBadRequest, HttpResponseRedirect
from django.urls import path
from django.utils.html import format_html

from examples.environment import API_URL, BASE_URL, SCOPES, SECRET_KEY, msal_arguments, provider
from msal_logout_middleware import Logout, SQLiteStore

# settings.py
settings.configure(
    ALLOWED_HOSTS=["*"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "django_msal.sqlite3"}},
    INSTALLED_APPS=["django.contrib.sessions"],  # in the database, as Django has it by default
    MIDDLEWARE=[
        "msal_logout_middleware.django.LogoutMiddleware",  # before all others
        "django.contrib.sessions.middleware.SessionMiddleware",
    ],
    MSAL_LOGOUT=f"{__name__}:logout",
    ROOT_URLCONF=__name__,
    SECRET_KEY=SECRET_KEY,
    SESSION_COOKIE_NAME="django_msal",
    USE_TZ=True,
)
django.setup()
call_command("migrate", verbosity=0)


# views.py
def client(token_cache: msal.TokenCache | None = None) -> Any:
    return msal.ConfidentialClientApplication(token_cache=token_cache, **msal_arguments())


def home(request: HttpRequest) -> HttpResponse:
    user = request.session.get("user")
    if user is None:
        return HttpResponse('<a href="/login">Sign in</a>')
    links = '{} <a href="/api">API</a> <a href="/logout">Sign out</a>'
    return HttpResponse(format_html(links, user["name"]))


def login(request: HttpRequest) -> HttpResponse:
    flow = client().initiate_auth_code_flow(SCOPES, redirect_uri=f"{BASE_URL}/redirect")
    request.session["flow"] = flow
    return HttpResponseRedirect(flow["auth_uri"])


def signed_in(request: HttpRequest) -> HttpResponse:
    with logout.token_cache() as token_cache:
        flow = request.session.pop("flow", {})
        result = client(token_cache).acquire_token_by_auth_code_flow(flow, request.GET.dict())
    if "error" in result:  # such as access_denied, where the user cancels
        return HttpResponseBadRequest(format_html("You are not signed in: {}.", result["error"]))
    request.session.cycle_key()  # a new id for whoever was a visitor until now
    request.session["user"] = result["id_token_claims"]
    return HttpResponseRedirect("/")


def api(request: HttpRequest) -> HttpResponse:
    user = request.session.get("user")
    token = token_for(user) if user else None
    if token is None:  # nobody is signed in, or the tokens went with a sign-out elsewhere
        return HttpResponseRedirect("/login")
    answer = requests.get(API_URL, headers={"Authorization": f"Bearer {token}"}, timeout=10)
    return HttpResponse(format_html('The API says: {} <a href="/">Home</a>', answer.text))


def token_for(user: dict[str, Any]) -> str | None:
    with logout.token_cache(user) as token_cache:
        accounts = client(token_cache).get_accounts()
        found = client(token_cache).acquire_token_silent(SCOPES, account=accounts[0]) if accounts else None
    return found["access_token"] if found and "access_token" in found else None


# urls.py
urlpatterns = [path("", home), path("login", login), path("redirect", signed_in), path("api", api)]

# logout.py
logout = Logout(
    provider=provider(),
    store=SQLiteStore("django_msal.db"),
    post_logout_redirect_uri=f"{BASE_URL}/",
)

# wsgi.py
app = get_wsgi_application()
