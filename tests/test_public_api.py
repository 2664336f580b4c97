"""What the package's modules offer: every public name says what it is."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import msal_logout_middleware

ROOT = Path(msal_logout_middleware.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))
Public = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def public_names(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, Public]]:
    """The public classes, functions and methods of a module, with their dotted names; a test's name says all."""
    for node in body:
        if isinstance(node, Public) and not node.name.startswith(("_", "test_")):
            yield prefix + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from public_names(node.body, f"{prefix}{node.name}.")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_module_opens_with_one_sentence_and_its_public_names_have_docstrings(path: Path) -> None:
    module = ast.parse(path.read_bytes())
    assert ast.get_docstring(module)
    bare = [name for name, node in public_names(module.body) if not ast.get_docstring(node)]
    assert not bare


def test_names_of_the_package_root_exist_and_are_sorted() -> None:
    names = getattr(msal_logout_middleware, "__all__", [])
    assert names == sorted(names)
    for name in names:
        assert getattr(msal_logout_middleware, name).__doc__


def test_sql_store_is_at_the_root_and_nothing_else_is_that_is_not_there() -> None:
    from msal_logout_middleware.stores.sqlalchemy import SQLAlchemyStore

    assert msal_logout_middleware.SQLAlchemyStore is SQLAlchemyStore


def test_who_looks_for_the_middleware_in_the_root_is_told_where_it_is() -> None:
    with pytest.raises(ImportError, match=r"in msal_logout_middleware\.wsgi, for Flask"):
        from msal_logout_middleware import LogoutMiddleware  # noqa: F401
    with pytest.raises(AttributeError, match="no attribute 'SQLStore'"):
        msal_logout_middleware.SQLStore  # noqa: B018 - it is asked for


def test_package_says_that_it_is_typed() -> None:
    assert (ROOT / "py.typed").is_file()
