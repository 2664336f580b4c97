"""Where below its mount a path leads behind ASGI: each framework takes the mount off, and routes, in its own way."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

from .layers import layers

Route = Callable[[str, str], str]

_SLASHES = re.compile("//+")
_DJANGO = ("django.core.handlers.asgi.ASGIHandler", "msal_logout_middleware.django.ASGIProject")


def route_of(app: object) -> Route:
    """Return what tells the path below a mount, as an app's router sees it."""
    for layer in layers(app):
        for classes, route in _ROUTES:
            if layer.is_of(*classes):
                return route
    return by_starlette


def mount_of(app: object) -> Callable[[str], str]:
    """Return what tells where an app is mounted, from where its server says that it is."""
    if any(layer.is_of(*_DJANGO) for layer in layers(app)):
        return _django_mount
    return str


def by_starlette(path: str, mount: str) -> str:
    """Return the path below the mount, whether or not the server leaves the mount in it (ASGI allows both)."""
    if mount and (path == mount or path.startswith(f"{mount}/")):
        return path[len(mount) :]
    return path


def _by_django(path: str, mount: str) -> str:
    return by_starlette(path, mount) if _is_django_6_1() else path.removeprefix(mount)


def _by_werkzeug(path: str, mount: str) -> str:
    return f"/{path.removeprefix(mount).lstrip('/')}"  # slashes before a path are one


def _by_litestar(path: str, mount: str) -> str:
    below = path.split(mount, maxsplit=1)[-1] if mount else path
    return _SLASHES.sub("/", f"/{below.strip('/')}")


def _django_mount(mount: str) -> str:
    settings: Any = import_module("django.conf").settings  # which is there: so is an app of Django's
    mount = str(settings.FORCE_SCRIPT_NAME or mount)
    return mount.rstrip("/") if _is_django_6_1() else mount


@cache
def _is_django_6_1() -> bool:
    """Tell whether Django takes a mount off where it ends at a slash: before, it took off what merely began so."""
    return bool(import_module("django").VERSION >= (6, 1))


_ROUTES: tuple[tuple[tuple[str, ...], Route], ...] = (
    (("litestar.app.Litestar",), _by_litestar),
    (("quart.app.Quart", "flask.app.Flask"), _by_werkzeug),
    (_DJANGO, _by_django),
)
