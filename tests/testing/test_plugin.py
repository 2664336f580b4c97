"""The pytest plugin: there in every suite, in nobody's way."""

from __future__ import annotations

import subprocess
import sys

import pytest

from msal_logout_middleware import testing

WITHOUT_THE_EXTRA = """
import sys
for name in ("starlette", "trustme", "uvicorn"):
    sys.modules[name] = None
import pytest
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "--rootdir", sys.argv[1], sys.argv[1]]))
"""


def run_suite(path, test):
    (path / "test_it.py").write_text(test)
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_THE_EXTRA, str(path)], capture_output=True, text=True, check=False
    )


def test_suite_without_the_extra_runs(tmp_path):
    ran = run_suite(tmp_path, "def test_it(): pass\n")
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_fixture_without_the_extra_says_what_to_install(tmp_path):
    ran = run_suite(tmp_path, "def test_it(provider): pass\n")
    assert "install msal-logout-middleware[testing]" in ran.stdout


def test_fixture_begins_with_nothing(provider):
    assert (provider.records.users, provider.requests) == ({}, [])
    provider.add_user("alice@contoso.example")


def test_fixture_begins_with_nothing_of_the_test_before(provider, embedded_provider):
    assert (provider.records.users, provider) == ({}, embedded_provider)


@pytest.mark.parametrize("name", testing.__all__)
def test_every_public_name_is_there(name):
    assert getattr(testing, name).__name__ == name


def test_other_names_are_not():
    with pytest.raises(AttributeError, match="nothing"):
        testing.nothing  # noqa: B018


def test_provider_without_its_extra_says_what_to_install():
    command = (
        "import runpy, sys; sys.modules['trustme'] = None; "
        "runpy.run_module('msal_logout_middleware.testing', run_name='__main__')"
    )
    ran = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert ran.stderr.splitlines()[-1] == (
        "msal_logout_middleware.testing needs trustme: pip install 'msal-logout-middleware[testing]'"
    )
