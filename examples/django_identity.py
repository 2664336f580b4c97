"""A Django project that signs in with Microsoft's `identity`, and out completely: `python -m examples django_identity`.

A whole project in one file, behind ASGI; the comments name the files that its parts are in otherwise.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import django
import requests
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path
from django.utils.html import format_html
from identity.django import Auth

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
from msal_logout_middleware.asgi import LogoutMiddleware

# settings.py
SESSIONS = Path("django_identity_sessions")
SESSIONS.mkdir(exist_ok=True)
settings.configure(
    ALLOWED_HOSTS=["*"],
    INSTALLED_APPS=["django.contrib.sessions", "identity"],
    MIDDLEWARE=["django.contrib.sessions.middleware.SessionMiddleware"],
    ROOT_URLCONF=__name__,
    SECRET_KEY=SECRET_KEY,
    SESSION_COOKIE_NAME="django_identity",
    SESSION_ENGINE="django.contrib.sessions.backends.file",  # on the server: tokens are too large for a cookie
    SESSION_FILE_PATH=str(SESSIONS.resolve()),
    TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}],
)
django.setup()
auth = Auth(CLIENT_ID, client_credential=CLIENT_SECRET, redirect_uri=f"{BASE_URL}/redirect", **AUTHORITY)


# views.py
@auth.login_required  # type: ignore[untyped-decorator]  # identity is not typed
def home(_request: HttpRequest, *, context: dict[str, Any]) -> HttpResponse:
    links = '{} <a href="/api">API</a> <a href="/logout">Sign out</a>'
    return HttpResponse(format_html(links, context["user"]["name"]))


@auth.login_required(scopes=SCOPES)  # type: ignore[untyped-decorator]  # the same
def api(_request: HttpRequest, *, context: dict[str, Any]) -> HttpResponse:
    answer = requests.get(API_URL, headers={"Authorization": f"Bearer {context['access_token']}"}, timeout=10)
    return HttpResponse(format_html('The API says: {} <a href="/">Home</a>', answer.text))


def bye(_request: HttpRequest) -> HttpResponse:
    return HttpResponse('You are signed out. <a href="/">Sign in</a>')


# urls.py
urlpatterns = [path("", home), path("api", api), path("bye", bye), auth.urlpattern]

# asgi.py
logout = Logout(
    provider=provider(),
    store=SQLiteStore("django_identity.db"),
    caches=InSession("_token_cache"),  # where identity keeps the tokens
    post_logout_redirect_uri=f"{BASE_URL}/bye",
)
app = LogoutMiddleware(get_asgi_application(), logout)
