"""The pages that people see: confirmation, failure, and the form that posts itself to the provider.

Everything that is put into a page is escaped here. No page loads anything, and none can be framed.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from functools import lru_cache
from html import escape

from .http import Header, Response

NO_STORE: tuple[Header, ...] = (("cache-control", "no-store"), ("referrer-policy", "no-referrer"))

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:30rem;margin:15vh auto;padding:0 1rem;color:#222}"
    "h1{font-size:1.4rem}button{font:inherit;padding:.5rem 1.2rem;border:1px solid #0067b8;"
    "background:#0067b8;color:#fff;cursor:pointer;text-decoration:none}"
)
_SUBMIT = "document.forms[0].submit()"


def _csp_hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


# No `form-action`: a browser holds it against every redirect that follows the provider's answer, too.
_CSP = (
    f"default-src 'none'; style-src {_csp_hash(_STYLE)}; script-src {_csp_hash(_SUBMIT)}; "
    "base-uri 'none'; frame-ancestors 'none'"
)


def redirect(target: str, *headers: Header) -> Response:
    """Send the browser on (RFC 9110, 15.4.4)."""
    return plain(303, "You are being signed out.").with_headers(("location", target), *headers)


def plain(status: int, text: str) -> Response:
    """Answer in one line."""
    return Response(status, (("content-type", "text/plain; charset=utf-8"), *NO_STORE), text.encode())


@lru_cache(maxsize=16)
def inert(framed_by: tuple[str, ...]) -> Response:
    """Answer in a hidden iframe of the provider's: an empty page (Front-Channel Logout 1.0, 2).

    Args:
        framed_by: The origins that may frame it.
    """
    framing = " ".join(framed_by) or "'none'"
    policy = f"default-src 'none'; frame-ancestors {framing}"
    headers = (("content-type", "text/html; charset=utf-8"), ("content-security-policy", policy))
    return Response(200, (*headers, *NO_STORE))


def unavailable() -> Response:
    """Say that it cannot be told now whether a session has ended."""
    text = "<p>Whether you are signed in cannot be told at the moment.</p>"
    return _page(503, "Please try again in a moment", text).with_headers(("retry-after", "5"))


def confirmation(action: str, *, token: str) -> Response:
    """Ask whether to sign out, since the request may have been another site's idea."""
    return _page(
        200,
        "Sign out?",
        "<p>Another site, or a link, asks to sign you out of this app.</p>"
        + _form(action, {"confirm": token}, "Sign out"),
    )


def failure(action: str, *, token: str, onward_url: str, onward_fields: Mapping[str, str] | None) -> Response:
    """Say that signing out could not be completed, and offer to try again or to go on."""
    words = "Continue to the provider"
    link = f'<p><a href="{escape(onward_url)}">{words}</a></p>'
    onward = link if onward_fields is None else _form(onward_url, onward_fields, words)
    return _page(
        503,
        "Signing out could not be completed",
        "<p>The cookie in this browser is deleted, but some of what the app keeps for you could not be "
        "removed yet. Please try again in a moment.</p>"
        + _form(action, {"retry": token}, "Try again")
        + onward,
    ).with_headers(("retry-after", "5"))


def self_submitting(action: str, fields: Mapping[str, str]) -> Response:
    """Post what is too long for a URL to the provider (RP-Initiated Logout 1.0, 2)."""
    form = _form(action, fields, "Continue")
    return _page(200, "Signing out", f"<p>One moment, please.</p>{form}<script>{_SUBMIT}</script>")


def _form(action: str, fields: Mapping[str, str], button: str) -> str:
    inputs = "".join(
        f'<input type="hidden" name="{escape(name)}" value="{escape(value)}">'
        for name, value in fields.items()
    )
    return (
        f'<form method="post" action="{escape(action)}">{inputs}'
        f'<button type="submit">{escape(button)}</button></form>'
    )


def _page(status: int, title: str, body: str) -> Response:
    html = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>'
        f"<body><h1>{escape(title)}</h1>{body}</body></html>"
    )
    headers: tuple[Header, ...] = (
        ("content-type", "text/html; charset=utf-8"),
        ("content-security-policy", _CSP),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        *NO_STORE,
    )
    return Response(status, headers, html.encode())
