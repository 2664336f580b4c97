"""The page that shows what stands at both apps, and asks for it again and again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

STATIC = Path(__file__).parent / "static"
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'self'; img-src data:; frame-ancestors 'none'",
}


def create_app(state: Callable[[], dict[str, Any]]) -> Starlette:
    """Return the page's app.

    Args:
        state: Tells what the page is to show.
    """

    def page(request: Request) -> Response:
        return FileResponse(STATIC / "dashboard.html", headers=HEADERS)

    def tell(request: Request) -> Response:
        return JSONResponse(state(), headers=HEADERS)

    return Starlette(
        routes=[
            Route("/", page),
            Route("/state", tell),
            Mount("/static", StaticFiles(directory=STATIC)),
        ]
    )
