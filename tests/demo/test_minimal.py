"""The two small examples start, and sign out without asking anybody."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TENANT = "11111111-1111-4111-8111-111111111111"
PROGRAM = """
from tests.doors import {door}, Browser
from examples.{name} import app
browser = Browser({door}(app))
home = browser.get("/")
assert home.status == 200 and "Sign in" in home.text, home
print(browser.get("/logout").location)
"""


@pytest.mark.parametrize(
    ("name", "door", "home"),
    [
        ("flask_minimal", "WsgiDoor", "http%3A%2F%2Flocalhost%3A5000%2F"),
        ("fastapi_minimal", "AsgiDoor", "http%3A%2F%2Flocalhost%3A8000%2F"),
    ],
)
def test_example_starts_and_signs_out_at_the_provider(tmp_path, name, door, home):
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM.format(name=name, door=door)],
        cwd=tmp_path,
        env={
            "HOME": str(tmp_path),
            "PATH": "",
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "TENANT_ID": TENANT,
            "CLIENT_ID": "22222222-2222-4222-8222-222222222222",
            "CLIENT_SECRET": "secret",
            "SECRET_KEY": "a secret of the app",
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith(f"https://login.microsoftonline.com/{TENANT}/oauth2/v2.0/logout?")
    assert f"post_logout_redirect_uri={home}" in ran.stdout
