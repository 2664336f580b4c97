"""The suite on every Python, and the sessions and examples with every version of every framework.

nox                                         all of it
nox --session suite                         all tests, on each Python
nox --session "frameworks(django-5.2)"      one version of one framework
"""

from __future__ import annotations

import os
from pathlib import Path

import nox

nox.needs_version = ">=2024.4"
nox.options.reuse_venv = "yes"
nox.options.error_on_missing_interpreters = False

# Pythons that pyenv has, and has not put on the PATH.
PYENV = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
os.environ["PATH"] = os.pathsep.join([os.environ["PATH"], *map(str, PYENV.glob("versions/3.*/bin"))])

PYTHONS = ("3.11", "3.12", "3.13")
EXTRAS = ".[flask,redis,sql,starlette,testing]"

# The lowest that is supported, what lies between, and the newest; what another needs besides comes with it.
FRAMEWORKS = {
    "django-5.2": ("django==5.2.*",),
    "django-6.0": ("django==6.0.*",),
    "django-6.1": ("django==6.1.*",),
    "flask-3.0": ("flask==3.0.*", "werkzeug==3.0.*", "quart==0.20.*"),  # which newer Quarts cannot do with
    "flask-3.1": ("flask==3.1.*",),
    "litestar-2.12": ("litestar==2.12.*", "sniffio"),  # which anyio brought then
    "litestar-2": ("litestar==2.*",),
    "pyramid-2.0": ("pyramid==2.0.*", "setuptools<81"),
    "pyramid-2.1": ("pyramid==2.1.*",),
    "quart-0.20": ("quart==0.20.*",),
    "quart": ("quart",),
    "starlette-0.42": ("starlette==0.42.*", "fastapi"),
    "starlette-0.46": ("starlette==0.46.*", "fastapi"),
    "starlette-1": ("starlette==1.*", "fastapi"),
}
NEEDS_PYTHON = {"django-6.0": "3.12", "django-6.1": "3.12"}
TESTS = (
    *("tests/sessions", "tests/examples", "tests/test_django.py"),
    *("tests/remote/test_django.py", "tests/remote/test_remember_cookies.py"),
)


@nox.session(python=PYTHONS)
def suite(session: nox.Session) -> None:
    """Run all tests with the newest of everything."""
    _install(session)
    session.run("python", "-m", "pytest", "-n", "auto", *session.posargs)


@nox.session(python=PYTHONS)
@nox.parametrize("versions", [nox.param(versions, id=name) for name, versions in FRAMEWORKS.items()])
def frameworks(session: nox.Session, versions: tuple[str, ...]) -> None:
    """Run the tests of sessions and the examples with one version of one framework."""
    name = next(name for name, known in FRAMEWORKS.items() if known == versions)
    if str(session.python) < NEEDS_PYTHON.get(name, ""):
        session.skip(f"{name} needs Python {NEEDS_PYTHON[name]}")
    _install(session, *versions)
    session.run("python", "-m", "pytest", "-n", "auto", *TESTS, *session.posargs)


def _install(session: nox.Session, *versions: str) -> None:
    session.install("--upgrade", "pip>=25.1")
    session.install("--editable", EXTRAS, "--group", "test", *versions)
