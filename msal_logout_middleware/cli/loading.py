"""The app's `Logout`, found by its import path."""

from __future__ import annotations

import importlib
import sys
import traceback
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from ..logout import Logout
from .errors import CommandError
from .layers import leads_to_logout, logout_of


@dataclass(frozen=True, slots=True)
class Loaded:
    """What `module:name` names.

    Args:
        name: The import path, as given.
        logout: The `Logout`.
        app: The app or middleware that leads to it; `None` if the `Logout` itself is named.
    """

    name: str
    logout: Logout
    app: object | None


def load(name: str) -> Loaded:
    """Import what an import path names, and find the `Logout` in it.

    Args:
        name: `module:name`; `name` may be dotted, and may end in `()`: then it is called, as gunicorn does. What
            the app prints meanwhile goes to standard error.

    Raises:
        CommandError: There is no such thing, it cannot be imported, or it leads to no `Logout`.
    """
    module_name, _, path = name.partition(":")
    if not module_name or not path:
        raise CommandError(f"{name!r} must be module:name, such as shop.web:app")
    if module_name.endswith(".py") or "/" in module_name:
        dotted = module_name.removesuffix(".py").strip("./").replace("/", ".")
        raise CommandError(f"{module_name} is a file; name the module: {dotted}:{path}")
    sys.path.insert(0, str(Path.cwd()))
    with redirect_stdout(sys.stderr):
        module = _module(module_name)
        found = _found(module, path, name)
    logout = logout_of(found)
    if logout is None:
        raise CommandError(
            f"{name} is of type {type(found).__name__} and leads to no Logout; wrap it in LogoutMiddleware, or name"
            f" the Logout itself{_instead(module)}"
        )
    app = None if found is logout else found
    if not logout.is_complete:
        _complete(logout, app or _app_of(module, logout), name)
    return Loaded(name, logout, app)


def _complete(logout: Logout, app: object, name: str) -> None:
    """Have the sessions found that a server would find when it starts the app."""
    if app is None:
        raise CommandError(
            f"{name} has no session=, and {name.partition(':')[0]} has no app to find it in; name the app instead"
        )
    try:
        logout.serve(app)
    except (TypeError, ValueError) as error:
        raise CommandError(f"{name}: {error}") from error


def _app_of(module: ModuleType, logout: Logout) -> object:
    """Return what in a module leads to its `Logout`; proxies are not touched."""
    candidates = [
        value for value in vars(module).values() if not type(value).__module__.startswith("werkzeug.")
    ]
    return next(
        (value for value in candidates if value is not logout and logout_of(value) is logout),
        None,
    )


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and f"{name}.".startswith(f"{error.name}."):
            raise CommandError(
                f"there is no module {error.name} in {Path.cwd()} or on Python's path"
            ) from error
        raise CommandError(_sentence(f"importing {name}", error)) from error
    except (Exception, SystemExit) as error:  # the app's own code may raise anything
        raise CommandError(_sentence(f"importing {name}", error)) from error


def _found(module: ModuleType, path: str, name: str) -> object:
    found: object = module
    for part in path.removesuffix("()").split("."):
        if not hasattr(found, part):
            where = module.__name__ if found is module else type(found).__name__
            raise CommandError(f"{where} has no {part}{_instead(module)}")
        found = getattr(found, part)
    if not path.endswith("()"):
        return found
    if not callable(found):
        raise CommandError(f"{name}: a {type(found).__name__} cannot be called; leave out the ()")
    try:
        return found()
    except (Exception, SystemExit) as error:  # the same
        raise CommandError(_sentence(f"calling {path}", error)) from error


def _instead(module: ModuleType) -> str:
    """Say what could be named instead, if the module has it."""
    names = [name for name, value in vars(module).items() if leads_to_logout(value)]
    return f"; {module.__name__} has {', '.join(names)}" if names else ""


def _sentence(doing: str, error: BaseException) -> str:
    """Say what was raised, and where in the app's own code."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(Path.cwd())]
    where = f" ({Path(own[-1].filename).relative_to(Path.cwd())}, line {own[-1].lineno})" if own else ""
    said = f": {error}" if str(error) else ""
    return f"{doing} failed with {type(error).__name__}{said}{where}"
