"""An app's layers, from the outside in: what is called first comes first."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any, NamedTuple

# Where apps and middlewares keep what they call: Flask, Quart, most others, asgiref, Litestar, Werkzeug, OpenTelemetry,
# and Django with its middlewares.
_INNER = (
    *("wsgi_app", "asgi_app", "app", "application", "wsgi_application"),
    *("asgi_handler", "_app", "wsgi", "_middleware_chain", "__wrapped__", "get_response"),
)
# What the `__call__` of Flask, Quart and Litestar calls, and what their users put a middleware around.
_REPLACED = ("wsgi_app", "asgi_app", "asgi_handler")  # Litestar's last
_MOST = 100


class Layer(NamedTuple):
    """One layer.

    Args:
        kind: The class of the app or of the middleware.
        source: The app or the middleware; or Starlette's `Middleware`, from which one will be made.
    """

    kind: Any
    source: Any

    @property
    def name(self) -> str:
        """The name of its class."""
        return str(getattr(self.kind, "__name__", self.kind))

    @property
    def keeps_sessions(self) -> bool:
        """Whether it is a session middleware: Starlette's, starsessions' or Beaker's, or of a class made from one."""
        return keeps_sessions(self.kind)

    def is_of(self, *classes: str) -> bool:
        """Tell whether it is of a class, given by its module and name, or of one made from it."""
        return any(f"{base.__module__}.{base.__qualname__}" in classes for base in _bases(self.kind))


def keeps_sessions(kind: object) -> bool:
    """Tell whether a class is a session middleware's: Starlette's, starsessions' and Beaker's are all called so."""
    return any(base.__name__ == "SessionMiddleware" for base in _bases(kind))


def layers(app: object) -> Iterator[Layer]:
    """Yield the layers of an app, as far as they can be seen.

    Starlette's and FastAPI's middlewares are listed in the app, the outermost first; others hold what they wrap. A
    method stands for the app that it is of: `app.wsgi_app`, before it was replaced.
    """
    seen: set[int] = set()
    for each in _called(app):
        seen.add(id(each))
        if not inspect.ismethod(each):
            yield from () if inspect.isroutine(each) else _with_listed(each)
        elif id(each.__self__) not in seen:
            yield from _with_listed(each.__self__)


def calls_back(app: object, middleware: object) -> str | None:
    """Return the attribute by which an app calls the very middleware that is around it; `None` if it does not.

    Of what is inside only `asgi_handler` is not asked: Litestar's router knows its app, and does not call it.
    """
    for number, each in enumerate(_called(app)):
        for name in () if inspect.ismethod(each) else _REPLACED[: -1 if number else None]:
            if any(layer.source is middleware for layer in layers(getattr(each, name, None))):
                return name
    return None


def _called(app: object) -> Iterator[Any]:
    """Yield what calls what, up to the first method of an app."""
    seen: set[int] = set()
    while app is not None and id(app) not in seen and len(seen) < _MOST:
        seen.add(id(app))
        yield app
        if inspect.ismethod(app):
            return
        app = next((inner for name in _INNER if (inner := getattr(app, name, None)) is not None), None)


def _with_listed(app: object) -> Iterator[Layer]:
    yield Layer(type(app), app)
    for options in getattr(app, "user_middleware", ()):
        yield Layer(options.cls, options)


def _bases(kind: object) -> tuple[Any, ...]:
    return tuple(getattr(kind, "__mro__", ()))
