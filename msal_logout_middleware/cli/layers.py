"""An app's layers, from the outside in: what is called first comes first."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any, NamedTuple

from .. import asgi, wsgi
from ..logout import Logout

_DOORS = (asgi.LogoutMiddleware, wsgi.LogoutMiddleware)

# Where apps and middlewares keep what they call: Flask, Quart, most others, asgiref.
_INNER = ("wsgi_app", "asgi_app", "app", "application", "wsgi_application")


class Layer(NamedTuple):
    """One layer.

    Args:
        kind: The class of the app or of the middleware.
        source: The app or the middleware; or Starlette's `Middleware`, from which one will be made.
        logout: The `Logout` that it was given, if it is a `LogoutMiddleware`.
    """

    kind: Any
    source: Any
    logout: Logout | None

    @property
    def name(self) -> str:
        """The name of its class."""
        return str(getattr(self.kind, "__name__", self.kind))

    @property
    def keeps_sessions(self) -> bool:
        """Whether it is a session middleware: Starlette's, starsessions' or Beaker's, or of a class made from one."""
        return any(base.__name__ == "SessionMiddleware" for base in getattr(self.kind, "__mro__", ()))


def layers(app: object) -> Iterator[Layer]:
    """Yield the layers of an app, as far as they can be seen.

    Starlette's and FastAPI's middlewares are listed in the app, the outermost first; others hold what they wrap.
    """
    seen: set[int] = set()
    while app is not None and id(app) not in seen and not inspect.isroutine(app):
        seen.add(id(app))
        yield Layer(type(app), app, app.logout if isinstance(app, _DOORS) else None)
        for options in getattr(app, "user_middleware", ()):
            yield Layer(options.cls, options, _given_logout(options))
        app = next((inner for name in _INNER if (inner := getattr(app, name, None)) is not None), None)


def logout_of(named: object) -> Logout | None:
    """Return the `Logout` that an object is or leads to; `None` if it leads to none."""
    if isinstance(named, Logout):
        return named
    found = next((layer.logout for layer in layers(named) if layer.logout is not None), None)
    beside = getattr(
        getattr(named, "state", None), "logout", None
    )  # where Starlette's documentation puts such things
    return found or (beside if isinstance(beside, Logout) else None)


def leads_to_logout(value: object) -> bool:
    """Tell whether a value is a `Logout` or one of our middlewares, without touching it: it may be a proxy."""
    return issubclass(type(value), (Logout, *_DOORS))


def _given_logout(options: Any) -> Logout | None:
    given = (options.kwargs.get("logout"), *getattr(options, "args", ()))
    return next((value for value in given if isinstance(value, Logout)), None)
