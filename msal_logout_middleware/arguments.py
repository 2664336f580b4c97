"""What `Logout` and its calls may be given: each mistake is told with what to do, and before it can do harm."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import NoneType
from urllib.parse import urlsplit

from .http import Cookie
from .provider import Provider
from .remote import Sought
from .targets import checked_target, origin_of

_STORE_METHODS = (
    *("load", "replace", "add", "join", "get", "find", "end", "take", "finish", "marks_since", "generation"),
    *("open_rows", "close"),
)


def whose(iss: str | None, sub: str | None, sid: str | None, oid: str | None, tid: str | None) -> Sought:
    """Return whose sessions a call means.

    Raises:
        ValueError: It does not say whose.
        TypeError: A claim is no string.
    """
    for name, value in {"iss": iss, "sub": sub, "sid": sid, "oid": oid, "tid": tid}.items():
        if not isinstance(value, (str, NoneType)):
            raise TypeError(
                f"{name}= must be a string, as in the ID token, not of type {type(value).__name__}"
            )
        if value == "":
            raise ValueError(f"{name}= is empty, which names nobody")
    if (oid is None) != (tid is None):
        raise ValueError("oid= and tid= name a user together")
    if sub is not None and iss is None:
        raise ValueError("sub= names a user only together with iss=, the iss of their ID tokens")
    named = [name for name, value in {"sub": sub, "sid": sid, "oid": oid}.items() if value is not None]
    if not named or ("oid" in named and len(named) > 1):
        raise ValueError("say whose sessions: by iss= and sub=, by sid=, or by oid= and tid=")
    return Sought(iss=iss, sub=sub, sid=sid, oid=oid, tid=tid)


def checked_origin(url: str) -> str:
    """Return an origin as browsers write it.

    Raises:
        ValueError: It is none, or more than one.
        TypeError: It is no string.
    """
    parts = urlsplit(checked_target(url, name="origin"))
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError(f"origin={url!r} must end after the host, as in 'https://app.example.com'")
    return origin_of(url)


def check_numbers(**numbers: object) -> None:
    """Check that each is a number from 0 on, and not infinite.

    Raises:
        ValueError: One of them is out of bounds.
        TypeError: One of them is no number.
    """
    for name, number in numbers.items():
        if not isinstance(number, (int, float)) or isinstance(number, bool):
            raise TypeError(f"{name} must be a number, not {number!r} (of a timedelta give .total_seconds())")
        if not 0 <= number < math.inf:
            raise ValueError(f"{name}={number!r} must be finite, and not below 0")


def check_switches(**switches: object) -> None:
    """Check that each is a `bool`.

    Raises:
        TypeError: One of them is something that only counts as one.
    """
    for name, switch in switches.items():
        if not isinstance(switch, bool):  # "false", from the environment, would turn it on
            raise TypeError(f"{name} must be True or False, not {switch!r}")


def check_lists(**lists: object) -> None:
    """Check that none is a single thing in the place of a list.

    Raises:
        TypeError: One of them is.
    """
    for name, value in lists.items():
        if isinstance(value, (str, Cookie)):
            raise TypeError(f"{name} must be a list, such as {name}=[{value!r}]")


def check_paths(paths: Mapping[str, str | None]) -> None:
    """Check the paths that are ours: `None` where one is turned off, which `logout_path` cannot be.

    Raises:
        ValueError: One of them is not as apps route it, or two are the same.
        TypeError: One of them is no string.
    """
    given = {name: path for name, path in paths.items() if path is not None or name == "logout_path"}
    for name, path in given.items():
        if not isinstance(path, str):
            turned_off = "" if name == "logout_path" else ", or None if there is none"
            raise TypeError(f"{name} must be a path, such as '/logout'{turned_off}, not {path!r}")
        if not path.startswith("/") or path.startswith("//") or set("?#%") & set(path):
            raise ValueError(
                f"{name}={path!r} must be a path, decoded and without a query, that begins with one slash, such as "
                "'/logout'"
            )
    if len(set(given.values())) < len(given):
        raise ValueError(f"{', '.join(given)} must be different paths")


def check_secret(secret: object) -> None:
    """Check that a secret is one, or a list of them; whether it is good enough is `Seal`'s to say.

    Raises:
        TypeError: It is something else.
    """
    secrets = [secret] if isinstance(secret, (str, bytes, NoneType)) else secret
    if not isinstance(secrets, Sequence) or not all(
        isinstance(one, (str, bytes, NoneType)) for one in secrets
    ):
        raise TypeError("secret must be str or bytes, or a list of them")


def check_parts(*, provider: object, session: object, store: object, caches: object) -> None:
    """Check that each part can do what it will be asked for; `None` where one is left out.

    Raises:
        TypeError: One of them is something else, such as its class, or a URL.
    """
    if not isinstance(provider, Provider):
        raise TypeError("provider must be a Provider, such as Provider.entra(tenant, client_id)")
    if session is not None:
        _check_methods(
            "session", session, ("read", "load", "delete"), "FlaskSession(app) or ASGISession(app)"
        )
    _check_methods("store", store, _STORE_METHODS, 'SQLiteStore("logout.db")')
    if caches is not None:
        _check_methods("caches", caches, ("cache_key", "remove_accounts"), 'InSession("_token_cache")')


def _check_methods(name: str, part: object, methods: tuple[str, ...], example: str) -> None:
    if type(part).__module__ == "werkzeug.local":  # such as flask.session, which is there in a request only
        raise TypeError(f"{name} must be an object such as {example}, not flask's {name} of one request")
    missing = [method for method in methods if not callable(getattr(part, method, None))]
    if isinstance(part, type):
        raise TypeError(f"{name} must be an object such as {example}, not the class {part.__name__}")
    if missing:  # of a URL nothing is told: it may have a password in it
        raise TypeError(
            f"{name} must be an object such as {example}; a {type(part).__name__} has no {', '.join(missing)}"
        )
