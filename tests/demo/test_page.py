"""The demo's page in a real browser: what one signs out of empties while one watches."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest
from playwright.sync_api import expect, sync_playwright

from examples.demo.stage import Stage

ROOT = Path(__file__).parents[2]
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--no-first-run",
    "--disable-component-update",
    "--disable-sync",
]
QUIET = pytest.mark.filterwarnings("ignore:response_mode='form_post' is recommended:UserWarning")


@pytest.fixture(params=["entra", pytest.param("generic", marks=pytest.mark.matrix)])
def stage(request):
    with Stage(request.param) as stage:
        yield stage


@pytest.fixture
def chrome(chromium):
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield browser
        browser.close()


class Part:
    """One app's part of the page."""

    def __init__(self, page, name):
        self.sessions = page.locator(f"#app-{name.lower()} .sessions ul")
        self.tokens = page.locator(f"#app-{name.lower()} .tokens tbody")
        self.link = page.locator(f"#app-{name.lower()} a.button")


@QUIET
@pytest.mark.browser
def test_both_parts_of_the_page_empty_when_one_signs_out_of_one_app(stage, chrome, tmp_path):
    context = chrome.new_context()
    broken = []
    context.on("weberror", lambda error: broken.append(str(error.error)))
    # Of the apps' and the provider's pages as well.
    context.on(
        "console", lambda said: broken.append((said.text, said.location)) if said.type == "error" else None
    )
    page = context.new_page()
    page.goto(stage.url)
    expect(page.locator("#tells")).to_contain_text(stage.way.name)
    parts = {app.name: Part(page, app.name) for app in stage.apps}
    tabs = {}
    for app in stage.apps:
        with context.expect_page() as opened:
            parts[app.name].link.click()
        tabs[app.name] = opened.value

    flask, fastapi = stage.apps
    for here, there in ((flask, fastapi), (fastapi, flask)):
        for app in (here, there):
            tab = tabs[app.name]
            tab.goto(app.home)
            tab.get_by_text("Sign in").click()
            if app is here:  # at the second app the provider does not ask again
                tab.get_by_text(stage.alice.username).click()
            expect(tab.get_by_role("heading", name="Hello, Alice")).to_be_visible()
            tab.get_by_text("Call an API").click()
            expect(tab.get_by_text("The API answers")).to_be_visible()
            expect(parts[app.name].tokens).to_have_text(f"{stage.alice.username}1111")
        expect(parts["Flask"].sessions).to_have_text(stage.alice.username)
        page.screenshot(path=tmp_path / f"signed-in-{here.name}.png", full_page=True)

        tabs[here.name].get_by_text("Sign out").click()

        expect(tabs[here.name].get_by_text("Nobody is signed in here.")).to_be_visible()
        assert tabs[here.name].url == here.home
        for app in stage.apps:
            expect(parts[app.name].tokens).to_have_text("Nothing here")
            expect(parts[app.name].sessions).to_have_text("Nothing on the server")
        # The FastAPI app's tab has a WebSocket open, and need not be asked.
        expect(tabs["FastAPI"].get_by_text("Nobody is signed in here.")).to_be_visible()
        page.screenshot(path=tmp_path / f"signed-out-{here.name}.png", full_page=True)
        assert context.cookies(here.home) == []
        told = "iframe" if stage.way.name == "front-channel logout" else "logout token"
        ended = page.locator(
            "#events li", has_text=f"Signed out, by the provider's {told}; removed 1 AccessToken"
        )
        expect(ended.filter(has_text=there.name)).to_have_count(1)

    assert broken == []


@QUIET
@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1280])
def test_no_column_of_the_page_is_cut_off(chrome, width):
    with Stage() as stage, stage.provider.browser() as browser:
        browser.sign_in(f"{stage.apps[1].url}/login", stage.alice)
        page = chrome.new_page(viewport={"width": width, "height": 900})
        page.goto(stage.url)
        expect(Part(page, "FastAPI").tokens).to_have_text(f"{stage.alice.username}1111")

        cells = page.locator("#app-fastapi th, #app-fastapi td").all()
        cut_off = [
            cell.inner_text() for cell in cells if cell.evaluate("it => it.scrollWidth > it.clientWidth")
        ]

        assert cut_off == []
        if width > 1000:  # the user's name is in one line, as the counts are
            heights = {cell.bounding_box()["height"] for cell in page.locator("#app-fastapi td").all()}
            assert len(heights) == 1
            assert heights.pop() < 40


@QUIET
def test_page_is_told_counts_and_users_but_no_token(stage):
    with stage.provider.browser() as browser:
        app = stage.apps[1]
        browser.sign_in(f"{app.url}/login", stage.alice)
        tokens = app.view.kept_for(stage.alice).secrets()

    with urlopen(f"{stage.url}state") as answer:
        told = answer.read()

    assert json.loads(told)["apps"][1]["tokens"] == [
        {
            "user": stage.alice.username,
            "counts": {"AccessToken": 1, "RefreshToken": 1, "IdToken": 1, "Account": 1},
        }
    ]
    assert len(tokens) == 3
    assert not any(token in told for token in tokens)


@pytest.mark.skipif(sys.platform == "win32", reason="sends a signal")
def test_demo_prints_its_url_and_stops_on_ctrl_c(tmp_path):
    environment = {
        "HOME": str(tmp_path),
        "PATH": os.environ.get("PATH", ""),
        "TMPDIR": str(tmp_path),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    with subprocess.Popen(
        [sys.executable, "-m", "examples.demo"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        url = running.stdout.readline().split()[-1]
        with urlopen(url) as answer:
            assert b"Sign out, and see that nothing stays" in answer.read()
        running.send_signal(signal.SIGINT)
        _, errors = running.communicate(timeout=30)
    assert running.returncode == 0
    assert errors == ""
    assert list(tmp_path.iterdir()) == []
