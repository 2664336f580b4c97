"""Where the middleware stands, seen from the sessions: outside of them, and remembering them for long enough."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from datetime import timedelta

from ... import wsgi
from ...layers import Layer, calls_itself
from ...logout import logout_in
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
    places = [place for place, layer in enumerate(found) if logout_in(layer) is not None]
    if not places:
        return Finding(
            _CHECK, "error", "no LogoutMiddleware is around the app: nothing is signed out", _ADD_LAST
        )
    if len(places) > 1:
        return Finding(
            _CHECK, "error", "LogoutMiddleware is around the app more than once", "leave one of them"
        )
    door = found[places[0]]
    if (wrong := _wrong_door(door)) is not None:
        return wrong
    outside = [layer for layer in found[: places[0]] if layer.keeps_sessions]
    if outside:
        seen = f"{', '.join(layer.name for layer in outside)} is outside of it, and would undo a sign-out"
        return Finding(_CHECK, "error", seen, _ADD_LAST)
    return Finding(
        _CHECK, "ok", "LogoutMiddleware is outside of everything that keeps sessions, as far as can be seen"
    )


def _wrong_door(door: Layer) -> Finding | None:
    """Return what keeps the middleware from calling what it is around; `None` if nothing does."""
    if issubclass(door.kind, wsgi.LogoutMiddleware) and not isinstance(door.source, door.kind):
        seen = (
            "the LogoutMiddleware for WSGI apps is added to an ASGI app: every request is answered with 500"
        )
        return Finding(_CHECK, "error", seen, "for an ASGI app use msal_logout_middleware.asgi")
    if (wrong := calls_itself(door.source)) is not None:
        return Finding(_CHECK, "error", *wrong)
    return None


def check_lifetime(found: Sequence[Layer] | None, *, lifetime_seconds: float) -> Finding:
    """Check whether ended marks outlive every session that they end.

    Args:
        found: The app's layers; `None` if only the `Logout` is known.
        lifetime_seconds: For how long ended marks are kept.
    """
    check = "session-lifetime"
    limits = [limit for layer in found or () if (limit := _limit_seconds(layer)) is not None]
    if any(limit == math.inf for limit in limits):
        to_do = "give the session middleware a max_age: without one a copy of a cookie outlives every mark"
        return Finding(check, "error", "the cookies of sessions are good for ever", to_do)
    if not limits:
        return Finding(check, "skipped", "the app does not tell how long its sessions live")
    longest = max(limits)
    seen = f"sessions live for {_days(longest)}, ended marks for {_days(lifetime_seconds)}"
    if longest > lifetime_seconds:
        to_do = f"session_lifetime_seconds={longest:.0f}, or more if sessions are renewed as they are used"
        return Finding(check, "error", f"{seen}: after that a copy of the cookie is good again", to_do)
    return Finding(check, "ok", seen)


def _limit_seconds(layer: Layer) -> float | None:
    """Return how long sessions live by Flask's configuration, or by the options of a session middleware."""
    flask = getattr(layer.source, "permanent_session_lifetime", None)
    if isinstance(flask, timedelta):
        return flask.total_seconds()
    if not layer.keeps_sessions:
        return None
    parameters = inspect.signature(layer.kind).parameters
    given = getattr(layer.source, "kwargs", {})
    for name in ("max_age", "lifetime"):  # Starlette's, starsessions'
        limit = given.get(name, parameters[name].default if name in parameters else None)
        if isinstance(limit, timedelta):
            return limit.total_seconds()
        if limit is None and name == "max_age" and name in parameters:
            return math.inf
        if isinstance(limit, (int, float)) and limit > 0:
            return float(limit)
    return None


def _days(seconds: float) -> str:
    return f"{seconds / 86400:.3g} days"
