"""Which of an app's layers keeps the sessions, and what reads them.

1. The first layer that is known decides, from the outside in; what stands in mounts is not looked at.
2. A framework is known by the name of its class, so nothing of it is imported before it is there.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import Any

from ..layers import Layer, layers
from ..session import SessionReader
from .presets import ClaimsAt

logger = logging.getLogger("msal_logout_middleware")

# Each reader's module and class, and the apps that it is for; what it is given beside `claims` is the app.
_READERS = (
    ("flask", "FlaskSession", ("flask.app.Flask",)),
    ("quart", "QuartSession", ("quart.app.Quart",)),
    ("litestar", "LitestarSession", ("litestar.app.Litestar",)),
    ("pyramid", "PyramidSession", ("pyramid.router.Router",)),
    ("asgi", "ASGISession", ("starlette.applications.Starlette",)),
)
_DJANGO = (
    *("django.core.handlers.wsgi.WSGIHandler", "django.core.handlers.asgi.ASGIHandler"),
    *("msal_logout_middleware.django.WSGIProject", "msal_logout_middleware.django.ASGIProject"),
)


def find_session(app: object, *, claims: ClaimsAt = None) -> SessionReader:
    """Return a reader of an app's sessions.

    Args:
        app: What a middleware wraps.
        claims: Where the ID token claims are: a key, a callable, or `None` for the known places.

    Raises:
        TypeError: No layer is one whose sessions are known, or `claims` is none of these.
        ValueError: The app has several session middlewares.
    """
    seen = list(layers(app))
    for layer in seen:
        reader = _reader_for(layer, claims)
        if reader is not None:
            logger.info("sessions are read by %s, which was found in the app", reader)
            return reader
    names = ", ".join(layer.name for layer in seen) or f"a {type(app).__name__}"
    raise TypeError(
        f"no sessions were found in the app ({names}): give Logout session=, such as FlaskSession(app), "
        "ASGISession(app), DjangoSession() or CallableSession(...). Inside of a session middleware none is seen: "
        "LogoutMiddleware must be added last, so that it is outermost"
    )


def _reader_for(layer: Layer, claims: ClaimsAt) -> SessionReader | None:
    for module, name, classes in _READERS:
        if layer.is_of(*classes) and not isinstance(layer.source, type):
            return _made(module, name, layer.source, claims=claims)
    if layer.is_of(*_DJANGO):
        return _made("django", "DjangoSession", claims=claims)
    is_instance = type(layer.source) is layer.kind  # not what one will be made from
    if layer.keeps_sessions and is_instance and not layer.is_of("beaker.middleware.SessionMiddleware"):
        return _made("asgi", "ASGISession", layer.source, claims=claims)
    return None


def _made(module: str, name: str, *app: object, claims: ClaimsAt) -> SessionReader:
    kind: Any = getattr(import_module(f"{__package__}.{module}"), name)
    reader: SessionReader = kind(*app, claims=claims)
    return reader
