"""`python -m examples.demo --walk` shows a sign-out, and fails where it is not complete."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from examples.demo.__main__ import main
from msal_logout_middleware.caches import InStore, Removed
from msal_logout_middleware.sessions.flask import FlaskSession
from msal_logout_middleware.testing import Browser

ROOT = Path(__file__).parents[2]
QUIET = pytest.mark.filterwarnings("ignore:response_mode='form_post' is recommended:UserWarning")


def test_walk_in_a_fresh_home_leaves_nothing_and_says_each_step(tmp_path):
    ran = subprocess.run(
        [sys.executable, "-m", "examples.demo", "--walk"],
        cwd=ROOT,
        env={"HOME": str(tmp_path), "PATH": "", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stderr == ""
    lines = ran.stdout.splitlines()
    assert [line[:2] for line in lines if line[:1].isdigit()] == ["1.", "2.", "3.", "4.", "5."]
    for app in ("Flask", "FastAPI"):
        start = next(i for i, line in enumerate(lines) if line.endswith(f"signs out of the {app} app"))
        before, after = (
            next(i for i in range(start, len(lines)) if lines[i].startswith(f"    {when}, token cache"))
            for when in ("Before", "After")
        )
        assert [line.split() for line in lines[before + 1 : before + 3]] == [
            ["alice@contoso.example", "1", "1", "1", "1"],
            ["bob@contoso.example", "1", "1", "1", "1"],
        ]
        assert lines[after + 1].split() == ["bob@contoso.example", "1", "1", "1", "1"]
        assert lines[after + 2] == "    Alice"
    assert "[WRONG]" not in ran.stdout
    assert lines[-1] == "No session, token or cookie of Alice is left. Bob is untouched."
    assert list(tmp_path.iterdir()) == []


@QUIET
def test_walk_fails_if_accounts_stay_in_the_token_cache(monkeypatch, capsys):
    async def remove_nothing(self, claims, session, *, key=None):
        return Removed({})

    monkeypatch.setattr(InStore, "remove_accounts", remove_nothing)

    assert main(["--walk"]) == 1

    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("FAILED: FastAPI: it is not so that the token cache has no entry of hers")


@QUIET
def test_walk_fails_if_the_session_stays(monkeypatch, capsys):
    monkeypatch.setattr(FlaskSession, "delete", lambda self, session_id: None)

    assert main(["--walk"]) == 1

    assert capsys.readouterr().out.splitlines()[-1].startswith("FAILED: Flask: it is not so that")


@QUIET
def test_walk_that_cannot_go_on_fails_with_a_sentence(monkeypatch, capsys):
    def click(self, text):
        return self.open("http://127.0.0.1:1/")  # where nobody listens

    monkeypatch.setattr(Browser, "click", click)

    assert main(["--walk"]) == 1

    assert "could not go on" in capsys.readouterr().out.splitlines()[-1]
