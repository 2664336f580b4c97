"""What every test may rely on: the machine's Chromium, and that nothing is skipped in silence where nothing may be.

`REQUIRE_ALL=1` (the default where `CI` is set) makes a failure of each skip.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator
from pathlib import Path

import pytest

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
REQUIRE_ALL = os.environ.get("REQUIRE_ALL", "1" if os.environ.get("CI") else "0") not in {"", "0"}


def find_chromium() -> str | None:
    """The Chromium to drive: `CHROMIUM`, or the first of its usual names on the `PATH`."""
    chosen = os.environ.get("CHROMIUM")
    if chosen:
        return chosen if Path(chosen).is_file() else None
    return next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of a Chromium; for tests marked `browser`. What one waits for on its pages may take long: CI is slow."""
    from playwright.sync_api import expect

    found = find_chromium()
    assert found, "tests that use Chromium are marked `browser`"
    expect.set_options(timeout=30_000)
    return found


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if find_chromium():
        return
    skip = pytest.mark.skip(
        reason=f"no Chromium: set CHROMIUM, or install one of {', '.join(CHROMIUM_NAMES)}"
    )
    for item in items:
        if item.get_closest_marker("browser"):
            item.add_marker(skip)


def _fail_if_skipped(report: pytest.TestReport | pytest.CollectReport) -> None:
    if not REQUIRE_ALL or not report.skipped or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
    report.outcome = "failed"
    report.longrepr = f"skipped where nothing may be (REQUIRE_ALL): {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _fail_if_skipped(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _fail_if_skipped(report)
    return report
