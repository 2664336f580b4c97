"""What the benches share: an app to wrap, requests to send it, ways that take turns, and bounds."""

# ruff: noqa: D102, D103, S105
from __future__ import annotations

import argparse
import json
import math
from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping
from statistics import median, stdev
from typing import Any

from itsdangerous import TimestampSigner
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from msal_logout_middleware import Logout, Provider
from msal_logout_middleware.session import Claims
from msal_logout_middleware.sessions.asgi import ASGISession

TENANT, CLIENT_ID = "11111111-1111-1111-1111-111111111111", "22222222-2222-2222-2222-222222222222"
SECRET = "a secret that only the benches know"
SESSION = Middleware(SessionMiddleware, secret_key=SECRET)

# What a browser sends of its own accord.
HEADERS = {
    "Host": "app.example.com",
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "Accept-Language": "en-US,en;q=0.5",
    "Accept-Encoding": "gzip, deflate, br",
    "Sec-Fetch-Dest": "document",
    "Sec-Fetch-Mode": "navigate",
    "Sec-Fetch-Site": "same-origin",
}

AGAIN = " (A/A)"
BROKE_A_BOUND = (
    3  # as the exit status of a bench: 1 and 2 are Python's own, for one that crashed or was called wrongly
)
ASGIApp = Callable[[Any, Any, Any], Awaitable[None]]
Way = Callable[[], float]


def claims_of(number: int) -> dict[str, Any]:
    return {
        "iss": f"https://login.microsoftonline.com/{TENANT}/v2.0",
        "aud": CLIENT_ID,
        "sub": f"subject-of-user-{number:08}",
        "oid": f"aaaaaaaa-0000-0000-0001-{number:012}",
        "tid": TENANT,
        "sid": f"bbbbbbbb-0000-0000-0001-{number:012}",
        "iat": 1_700_000_000 + number,
        "nonce": f"{number:032}",
        "name": f"User Number {number}",
        "preferred_username": f"user{number}@example.com",
        "roles": [f"role-{role}-of-the-app" for role in range(12)],
    }


def session_cookie(claims: Claims) -> str:
    """Return the cookie of Starlette's `SessionMiddleware`, of a bit more than a kilobyte."""
    content = b64encode(json.dumps({"user": claims}).encode())
    return "session=" + TimestampSigner(SECRET).sign(content).decode()


def cookie_header(session: str) -> str:
    """Return twelve cookies, one of which may be a session's."""
    return "; ".join(
        [*(f"first{n}=abcdefgh" for n in range(6)), session, *(f"last{n}=abcdefgh" for n in range(5))]
    )


def logout_of(store: Any, session: Any = None, *, provider: Provider | None = None) -> Logout:
    return Logout(
        provider=provider or Provider.entra(TENANT, CLIENT_ID),
        session=session or ASGISession(SESSION),
        store=store,
        secret=SECRET,
        post_logout_redirect_uri="https://app.example.com/",
    )


def starlette_app() -> Starlette:
    async def home(request: Request) -> Response:
        return PlainTextResponse("hello")

    return Starlette(routes=[Route("/", home)])


class Nothing:
    """A middleware that wraps `send` and does nothing else."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def wrapped(message: Any) -> None:
            await send(message)

        await self.app(scope, receive, wrapped)


def scopes(cookie: str | None, count: int) -> list[dict[str, Any]]:
    """Return requests as a server makes them: each with bytes of its own, which nobody has hashed yet."""
    return [
        {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "https",
            "path": "/",
            "raw_path": b"/",
            "query_string": b"",
            "root_path": "",
            "headers": [
                (name.lower().encode(), value.encode())
                for name, value in (HEADERS | ({"Cookie": cookie} if cookie else {})).items()
            ],
            "client": ("127.0.0.1", 50000),
            "server": ("127.0.0.1", 443),
        }
        for _ in range(count)
    ]


async def receive() -> dict[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}


async def send(message: Any) -> None:
    """Send nowhere."""


def take_turns(ways: Mapping[str, Way], rounds: int) -> dict[str, list[float]]:
    """Measure all ways in each round, each first in its turn."""
    figures: dict[str, list[float]] = {name: [] for name in ways}
    order = list(ways)
    for _ in range(rounds):
        for name in order:
            figures[name].append(ways[name]())
        order = [*order[1:], order[0]]
    return figures


def ratio(figures: Mapping[str, list[float]], name: str, baseline: str) -> float:
    """Return the median, over the rounds, of a way's figure to the baseline's of the same round."""
    return median(one / other for one, other in zip(figures[name], figures[baseline], strict=True))


def added(figures: Mapping[str, list[float]], name: str, baseline: str) -> float:
    """Return the median, over the rounds, of what a way costs more than the baseline in the same round."""
    return median(one - other for one, other in zip(figures[name], figures[baseline], strict=True))


def noise(figures: Mapping[str, list[float]], baseline: str, of: Callable[..., float]) -> float:
    """Return how far a ratio, or what is added, may be off: two standard errors of the A/A row's."""
    pairs = zip(figures[baseline + AGAIN], figures[baseline], strict=True)
    spread = [of({"one": [one], "other": [other]}, "one", "other") for one, other in pairs]
    return 2 * stdev(spread) / math.sqrt(len(spread)) if len(spread) > 1 else 0.0


class Table:
    """Prints figures beside their baseline, and remembers whether every bound was kept.

    A bound is broken by a figure that is above it by more than the noise.

    Args:
        title: What is measured.
        unit: Of the figures.
    """

    def __init__(self, title: str, unit: str) -> None:
        self.kept = True
        print(f"\n{title}\n{'':46}{unit:>12}{'added':>12}{'ratio':>8}")

    def rows(
        self, figures: Mapping[str, list[float]], *, baseline: str, bounds: Mapping[str, Mapping[str, float]]
    ) -> None:
        """Print a row for each way; its bounds are on its `ratio` to the baseline, and on what it has `added`."""
        for name, values in figures.items():
            line = f"{name:46}{median(values):12,.2f}"
            line += f"{added(figures, name, baseline):+12,.2f}{ratio(figures, name, baseline):8.3f}"
            for what, most in bounds.get(name, {}).items():
                of = ratio if what == "ratio" else added
                off = noise(figures, baseline, of)
                line += self._judged(what, of(figures, name, baseline) - off, most)
            if name == baseline + AGAIN:
                line += f"  ratios are within {noise(figures, baseline, ratio):.3f}"
            print(line)

    def row(self, name: str, value: float, *, most: float) -> None:
        """Print a row of one figure, which is bounded itself."""
        print(f"{name:46}{value:12,.2f}{'':20}{self._judged('itself', value, most)}")

    def _judged(self, what: str, value: float, most: float) -> str:
        kept = value <= most
        self.kept = self.kept and kept
        return f"  {what} at most {most:.3g}: {'kept' if kept else 'BROKEN'}"


def status(*, kept: bool) -> int:
    """Return the exit status of a bench that came to its end."""
    return 0 if kept else BROKE_A_BOUND


def is_quick(doc: str | None) -> bool:
    """Read the command line of a bench."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds")
    return bool(parser.parse_args().quick)
