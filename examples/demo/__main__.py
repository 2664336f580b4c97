"""`python -m examples.demo`: start everything and open the page; with `--walk`, do what one would do there."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import warnings
import webbrowser

from ..running import free_or_exit
from .stage import WAYS, Stage
from .walk import walk


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m examples.demo", description=__doc__)
    parser.add_argument(
        "--walk", action="store_true", help="without a browser: sign in and out, look, and end"
    )
    parser.add_argument(
        "--provider",
        choices=tuple(WAYS),
        default="entra",
        help="what the page's provider is like: entra tells apps by iframes, generic by logout tokens "
        "(--walk shows both)",
    )
    parser.add_argument("--no-browser", action="store_true", help="only print the page's URL")
    parser.add_argument("--port", type=int, default=0, help="the page's port; any that is free by default")
    chosen = parser.parse_args(arguments)

    # `response_mode="form_post"` comes back by a cross-site POST, without the apps' Lax cookies.
    warnings.filterwarnings("ignore", message="response_mode='form_post' is recommended")
    if chosen.walk:
        return _walked()
    free_or_exit(chosen.port)
    with Stage(chosen.provider, port=chosen.port) as stage:
        _serve(stage, open_browser=not chosen.no_browser)
    return 0


def _walked() -> int:
    wrong: list[str] = []
    for flavour, way in WAYS.items():
        print(f"\n{way.name.capitalize()}")
        with Stage(flavour) as stage:
            wrong += walk(stage)
    if wrong:
        print(f"\nFAILED: {wrong[0]}" + (f" (and {len(wrong) - 1} more)" if wrong[1:] else ""))
        return 1
    print("\nEach time, no session and no token of Alice was left at either app. Bob is untouched.")
    return 0


def _serve(stage: Stage, *, open_browser: bool) -> None:
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    print(f"The demo is at {stage.url}", *(f"  {app.name:8} {app.url}" for app in stage.apps), sep="\n")
    print("Ctrl-C ends it.", flush=True)
    if open_browser and _has_display():
        webbrowser.open(stage.url)
    while not stop.wait(1):  # a wait without end would not let Windows deliver Ctrl-C
        pass
    print("\nStopped.")


def _has_display() -> bool:
    """Tell whether a browser would have a window; without one, some systems open a text browser in this terminal."""
    return sys.platform in ("darwin", "win32") or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))


if __name__ == "__main__":
    sys.exit(main())
