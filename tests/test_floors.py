"""The floors of the house: imports go down only, and an extra is imported only where it is needed."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import msal_logout_middleware

PACKAGE = "msal_logout_middleware"
ROOT = Path(msal_logout_middleware.__file__).parent

# From the ground up. A new room gets its place here and its sentence in CONTRIBUTING.md.
FLOORS: dict[str, set[str]] = {
    "ground": {"_drive", "cookies", "errors", "events", "http", "layers", "session"},
    "knowledge": {
        "account_index",
        "accounts",
        "app_cache",
        "caches",
        "django_cache",
        "fetch",
        "grants",
        "keys",
        "logout_token",
        "mark_filter",
        "marks",
        "pages",
        "provider",
        "records",
        "routes",
        "seal",
        "sessions",
        "shared_cache",
        "stores",
        "targets",
        "token_cache",
        "trust",
    },
    "flow": {
        "arguments",
        "back_channel",
        "configuration",
        "ending",
        "exchange",
        "front_channel",
        "gate",
        "learning",
        "logout",
        "memory",
        "remote",
        "rp_initiated",
        "upkeep",
    },
    "doors": {"", "asgi", "wsgi"},  # "" is the package's root, which only names what is below it
    "a framework's own door": {"django"},  # which drives those
    "around the house": {"cli", "testing"},
}
HEIGHT = {room: height for height, rooms in enumerate(FLOORS.values()) for room in rooms}

CORE = {"anyio", "cryptography", "itsdangerous", "jwt", "msal", "requests"}
EXTRAS: dict[str, set[str]] = {
    "sessions.flask": {"flask", "werkzeug"},
    "django": {"asgiref", "django"},
    "django_cache": {"django"},
    "sessions.django": {"django"},
    "sessions.asgi": {"starlette", "starsessions"},
    "sessions.pyramid": {"pyramid", "webob"},
    "sessions.litestar": {"litestar"},
    "sessions.quart": {"hypercorn", "quart", "werkzeug"},
    "stores._redis_server": {"redis", "valkey"},
    "stores.sqlalchemy": {"sqlalchemy"},
    "testing": {"cryptography", "jwt", "multipart", "pytest", "starlette", "trustme", "uvicorn"},
}


def module_name(path: Path) -> str:
    """The dotted name of a module below the package: `stores.memory`; the root's is empty."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix("__init__").removesuffix(".")


MODULES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}


def room(module: str) -> str:
    return module.partition(".")[0]


def nodes(tree: ast.AST, *, types_too: bool) -> Iterator[ast.AST]:
    """All nodes of a module; those that only type checkers see only if asked for."""
    if not types_too and isinstance(tree, ast.If) and ast.unparse(tree.test) == "TYPE_CHECKING":
        return
    yield tree
    for child in ast.iter_child_nodes(tree):
        yield from nodes(child, types_too=types_too)


def absolute_imports(module: str, *, types_too: bool = True) -> Iterator[str]:
    """The dotted names that a module imports anywhere in it, functions included."""
    path = MODULES[module]
    package = [PACKAGE, *path.relative_to(ROOT).parent.parts]
    for node in nodes(ast.parse(path.read_bytes()), types_too=types_too):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = [*base, node.module] if node.module else base
            yield from (".".join([*base, alias.name]) for alias in node.names)


def inner_imports(module: str, *, types_too: bool = True) -> set[str]:
    """The modules of the package that a module imports."""
    found = set()
    for name in absolute_imports(module, types_too=types_too):
        if room(name) != PACKAGE:
            continue
        inner = name.removeprefix(PACKAGE).removeprefix(".")
        while inner and inner not in MODULES:  # a name inside a module
            inner = inner.rpartition(".")[0]
        found.add(inner)
    return found - {module}


def outer_imports(module: str) -> set[str]:
    """The packages outside the standard library that a module imports; `_typeshed` is there for type checkers only."""
    return (
        {room(name) for name in absolute_imports(module)} - sys.stdlib_module_names - {PACKAGE, "_typeshed"}
    )


def allowed_extras(module: str) -> set[str]:
    return {
        extra
        for prefix, extras in EXTRAS.items()
        for extra in extras
        if f"{module}.".startswith(f"{prefix}.")
    }


@pytest.mark.parametrize("module", MODULES)
def test_every_room_has_its_floor(module: str) -> None:
    assert room(module) in HEIGHT, f"give {room(module)} a floor here and a sentence in CONTRIBUTING.md"


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down_only(module: str) -> None:
    above = {inner for inner in inner_imports(module) if HEIGHT[room(inner)] > HEIGHT[room(module)]}
    assert not above, f"{module} imports from a floor above it"


def test_rooms_of_one_floor_do_not_import_each_other_in_a_circle() -> None:
    graph = {module: inner_imports(module, types_too=False) for module in MODULES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"modules import each other: {' -> '.join(error.args[1])}")


def test_doors_and_what_is_around_the_house_do_not_import_each_other() -> None:
    for floor in ("doors", "around the house"):
        rooms = FLOORS[floor] - {""}
        for module in MODULES:
            if room(module) in rooms:
                others = {room(inner) for inner in inner_imports(module)} & rooms - {room(module)}
                assert not others, f"{module} imports its neighbours"


@pytest.mark.parametrize("module", MODULES)
def test_extra_is_imported_only_by_the_module_that_needs_it(module: str) -> None:
    foreign = outer_imports(module) - CORE - allowed_extras(module)
    assert not foreign, f"{module} imports what is neither a dependency of the core nor its own extra"


def import_without(extras: set[str], modules: list[str]) -> None:
    """Import modules in a process of their own, where the extras are as good as not installed."""
    program = "\n".join(
        [
            "import importlib, sys",
            f"sys.modules.update(dict.fromkeys({sorted(extras)!r}))  # None makes an import of it fail",
            f"for name in {modules!r}: importlib.import_module(name)",
        ]
    )
    imported = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False
    )
    assert imported.returncode == 0, imported.stderr


ALL_EXTRAS = set().union(*EXTRAS.values()) - CORE


def test_whatever_needs_no_extra_is_imported_without_any() -> None:
    plain = [f"{PACKAGE}.{module}".removesuffix(".") for module in MODULES if not allowed_extras(module)]
    import_without(ALL_EXTRAS, plain)


@pytest.mark.parametrize(
    ("needs_it", "package", "extra"),
    [
        ("from {}.sessions.flask import FlaskSession", "flask", "flask"),
        ("from {}.sessions.quart import QuartSession", "quart", "quart"),
        ("from {}.sessions.litestar import LitestarSession", "litestar", "litestar"),
        ("from {}.sessions.pyramid import PyramidSession", "pyramid", "pyramid"),
        ("from {}.sessions.django import DjangoSession", "django", "django"),
        ("from {}.django_cache import InDjangoCache", "django", "django"),
        ("import {}.django", "django", "django"),
        ("import {}.django", "asgiref", "django"),
        ("from {} import SQLAlchemyStore", "sqlalchemy", "sql"),
    ],
)
def test_what_needs_an_extra_says_what_to_install(needs_it: str, package: str, extra: str) -> None:
    program = f"import sys; sys.modules[{package!r}] = None; {needs_it.format(PACKAGE)}"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    name = needs_it.format(PACKAGE).split()[-1]
    said = (
        rf"ModuleNotFoundError: {name} needs {package}[.\w]*: pip install 'msal-logout-middleware\[{extra}\]'"
    )
    assert re.fullmatch(said, ran.stderr.splitlines()[-1])


def test_package_imports_no_engine_before_it_is_asked_for() -> None:
    program = f"import sys, {PACKAGE}; print({{'redis', 'valkey', 'sqlalchemy'}} & set(sys.modules))"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert said == "set()\n"


def test_redis_store_is_imported_without_a_client() -> None:
    import_without(ALL_EXTRAS, [f"{PACKAGE}.stores.redis"])


def test_pytest_starts_without_the_testing_extra() -> None:
    # pytest imports every plugin that is installed, wanted or not: a failure would break all suites of an environment.
    import_without(ALL_EXTRAS - {"pytest"}, [f"{PACKAGE}.testing.pytest_plugin"])


def test_names_of_testing_are_imported_when_they_are_asked_for() -> None:
    testing = importlib.import_module(f"{PACKAGE}.testing")
    assert {getattr(testing, name).__name__ for name in testing.__all__} == set(testing.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = testing.no_such_name
