"""A Django project for the tests. Its settings are a process's own, so there is one, and `in_force` changes some."""

from __future__ import annotations

import atexit
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import django
from django.conf import settings

DIRECTORY = tempfile.TemporaryDirectory(prefix="django-")
atexit.register(DIRECTORY.cleanup)
LOCMEM = {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}


def database(name: str) -> dict[str, Any]:
    path = Path(DIRECTORY.name) / name
    path.mkdir()
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": str(path / "db.sqlite3"),
        "OPTIONS": {"init_command": "PRAGMA synchronous=OFF"},
    }


settings.configure(
    ALLOWED_HOSTS=["*"],
    CACHES={"default": LOCMEM, "tokens": {**LOCMEM, "LOCATION": "tokens"}},
    DATABASES={"default": database("own"), "foreign": database("foreign")},
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions"],
    LOGGING_CONFIG=None,
    AUTHENTICATION_BACKENDS=["django.contrib.auth.backends.ModelBackend"],
    MIDDLEWARE=[
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
    ],
    ROOT_URLCONF=__name__,
    SECRET_KEY="a secret of at least 16 bytes",
    USE_TZ=True,
)
django.setup()

from django.contrib.auth import get_user_model, login, logout  # noqa: E402 - Django's settings come first
from django.contrib.sessions.backends import file  # noqa: E402 - Django's settings come first
from django.contrib.sessions.models import Session  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db import connections  # noqa: E402
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse  # noqa: E402
from django.test import override_settings  # noqa: E402
from django.urls import path  # noqa: E402


class Foreign:
    """A router that leads to the database of another project."""

    def db_for_read(self, model: Any, **_hints: Any) -> str:
        return "foreign"

    db_for_write = db_for_read


@contextmanager
def in_force(**changed: Any) -> Iterator[None]:
    """Run with other settings."""
    with override_settings(**changed):
        _forget_directory()
        yield
    _forget_directory()


def _forget_directory() -> None:
    """Have the file engine look at its settings again: it keeps what it found in its class."""
    if "_storage_path" in vars(file.SessionStore):
        del file.SessionStore._storage_path


def engine() -> Any:
    """The engine of the settings in force, as Django's middleware has it."""
    return import_module(settings.SESSION_ENGINE).SessionStore


@contextmanager
def databases() -> Iterator[None]:
    """Have both databases, with nothing in them; at the end nobody is connected."""
    for alias in ("default", "foreign"):
        tables = connections[alias].introspection.table_names()
        if not tables:
            call_command("migrate", database=alias, verbosity=0)
            call_command("createcachetable", "cached_sessions", database=alias, verbosity=0)
        if tables and Session.objects.using(alias).exists():
            Session.objects.using(alias).all().delete()
    connections.close_all()
    yield
    connections.close_all()


# Its views

SITE: Any = None  # the site of `tests.sites` whose app this is at the moment


def sign_in(request: HttpRequest) -> HttpResponse:
    if "claims" in request.POST:
        request.session["user"] = json.loads(request.POST["claims"])
    else:
        request.session.update(json.loads(request.body))
    return HttpResponse()


def log_in(request: HttpRequest) -> HttpResponse:
    """Sign in as Django's own authentication does: under a new id."""
    claims = json.loads(request.POST["claims"])
    user, _ = get_user_model().objects.get_or_create(username=claims["sub"])
    login(request, user)
    request.session["user"] = claims
    return HttpResponse()


def contents(request: HttpRequest) -> HttpResponse:
    return JsonResponse(dict(request.session.items()))


def me(request: HttpRequest) -> HttpResponse:
    return JsonResponse({"user": request.session.get("user")})


def does(request: HttpRequest, name: str) -> HttpResponse:
    return JsonResponse(SITE.does[name](request.session) or {})


def stream(_request: HttpRequest, name: str) -> HttpResponse:
    return StreamingHttpResponse(SITE.does[name](None))


def logout_view(request: HttpRequest) -> HttpResponse:
    SITE.calls.append(f"{request.method} {(request.session.get('user') or {}).get('sub')}")
    logout(request)
    return HttpResponse("the app's own")


def index(request: HttpRequest) -> HttpResponse:
    return JsonResponse({"query": request.META["QUERY_STRING"], "form": request.body.decode("latin-1")})


urlpatterns = [
    path("sign-in", sign_in),
    path("log-in", log_in),
    path("contents", contents),
    path("me", me),
    path("does/<name>", does),
    path("stream/<name>", stream),
    path("logout", logout_view),
    path("", index),
]
