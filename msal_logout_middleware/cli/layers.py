"""Where in an app's layers its `Logout` is."""

from __future__ import annotations

from .. import asgi, wsgi
from ..layers import layers
from ..logout import Logout, logout_in

_DOORS = (asgi.LogoutMiddleware, wsgi.LogoutMiddleware)


def logout_of(named: object) -> Logout | None:
    """Return the `Logout` that an object is or leads to; `None` if it leads to none."""
    if isinstance(named, Logout):
        return named
    found = next((logout for layer in layers(named) if (logout := logout_in(layer)) is not None), None)
    # Where Starlette's documentation puts such things.
    beside = getattr(getattr(named, "state", None), "logout", None)
    return found or (beside if isinstance(beside, Logout) else None)


def leads_to_logout(value: object) -> bool:
    """Tell whether a value is a `Logout` or one of our middlewares, without touching it: it may be a proxy."""
    return issubclass(type(value), (Logout, *_DOORS))
