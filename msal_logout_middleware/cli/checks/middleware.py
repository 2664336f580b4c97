"""Where the middleware stands: outside of everything that keeps sessions."""

from __future__ import annotations

from collections.abc import Sequence

from ..layers import Layer
from . import Finding

_CHECK = "middleware"
_ADD_LAST = (
    "add LogoutMiddleware last (add_middleware: the last is the outermost), or wrap what wraps it today"
)


def check_middleware(found: Sequence[Layer] | None) -> Finding:
    """Check whether the middleware is around the app once, outside of its sessions.

    Args:
        found: The app's layers from the outside in; `None` if only the `Logout` is known.
    """
    if found is None:
        seen = "not looked at, since the Logout itself was named"
        return Finding(_CHECK, "skipped", seen, "name the app that your server runs instead")
    places = [place for place, layer in enumerate(found) if layer.logout is not None]
    if not places:
        return Finding(
            _CHECK, "error", "no LogoutMiddleware is around the app: nothing is signed out", _ADD_LAST
        )
    if len(places) > 1:
        return Finding(
            _CHECK, "error", "LogoutMiddleware is around the app more than once", "leave one of them"
        )
    outside = [layer for layer in found[: places[0]] if _keeps_sessions(layer)]
    if outside:
        seen = f"{', '.join(layer.name for layer in outside)} is outside of it, and would undo a sign-out"
        return Finding(_CHECK, "error", seen, _ADD_LAST)
    return Finding(
        _CHECK, "ok", "LogoutMiddleware is outside of everything that keeps sessions, as far as can be seen"
    )


def _keeps_sessions(layer: Layer) -> bool:
    """Starlette's, starsessions' and Beaker's are all called so; a subclass may be called otherwise."""
    return any(base.__name__ == "SessionMiddleware" for base in getattr(layer.kind, "__mro__", ()))
