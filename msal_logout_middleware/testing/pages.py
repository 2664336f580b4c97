"""The provider's pages: plain HTML that works without scripts, but for what no browser does without them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape
from typing import Literal
from urllib.parse import urlencode

from .records import Client, User

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --accent: #0b6bcb }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0; min-height: 100vh; display: grid; place-items: center }
main { width: min(26rem, 90vw); border: 1px solid var(--line); border-radius: 12px; padding: 2rem }
h1 { font-size: 1.35rem; margin: 0 0 .25rem } p { margin: .25rem 0 1rem; opacity: .8 }
form { margin: 0 } ul { padding-left: 1.2rem }
button { font: inherit; width: 100%; text-align: left; padding: .7rem 1rem; margin-top: .6rem; cursor: pointer;
  border: 1px solid var(--line); border-radius: 8px; background: none; color: inherit }
button:hover, button:focus-visible { border-color: var(--accent); outline: 1px solid var(--accent) }
button small { display: block; opacity: .7 }
a { color: var(--accent) } footer { margin-top: 1.5rem; font-size: .8rem; opacity: .6 } iframe { display: none }
"""


def _page(title: str, body: str, *, head: str = "") -> str:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'  # so that browsers ask for none
        f"<title>{escape(title)}</title><style>{_STYLE}</style>{head}</head>"
        f"<body><main><h1>{escape(title)}</h1>{body}"
        "<footer>An embedded provider for tests. No password, no secret, no real account.</footer>"
        "</main></body></html>"
    )


@dataclass(frozen=True, slots=True)
class Frame:
    """What a hidden iframe loads.

    Args:
        uri: The client's front-channel logout URI, with what it has of a query.
        parameters: What is sent along.
        method: `GET`, or `POST` for a form.
    """

    uri: str
    parameters: Mapping[str, str]
    method: Literal["GET", "POST"] = "GET"


def choose_user(client: Client, users: Iterable[User], action: str) -> str:
    """Return the page that asks who signs in; each user is a button."""
    buttons = "".join(
        f'<button name="user" value="{escape(user.username)}">{escape(user.name)} '
        f"<small>{escape(user.username)}</small></button>"
        for user in users
    )
    choice = f'<form method="post" action="{escape(action)}">{buttons}</form>'
    return _page(
        "Sign in", f"<p>to {escape(client.client_id)}</p>{choice if buttons else '<p>Nobody can.</p>'}"
    )


def consent(client: Client, user: User, scopes: Iterable[str], action: str) -> str:
    """Return the page that asks the user whether the app may."""
    items = "".join(f"<li>{escape(scope)}</li>" for scope in scopes)
    return _page(
        "Permissions requested",
        f"<p>{escape(client.client_id)} asks {escape(user.name)} for:</p><ul>{items}</ul>"
        f'<form method="post" action="{escape(action)}">'
        '<button name="consent" value="accept">Accept</button>'
        '<button name="consent" value="deny">Cancel</button></form>',
    )


def form_post(uri: str, fields: Mapping[str, str]) -> str:
    """Return the page that posts the authorization response (OAuth 2.0 Form Post Response Mode, 2)."""
    return _page(
        "Signing in",
        f'<form method="post" action="{escape(uri)}">{_hidden(fields)}<button>Continue</button></form>'
        "<script>document.forms[0].submit()</script>",
    )


def signed_out(frames: Iterable[Frame], target: str | None, note: str = "", *, wait_seconds: int = 4) -> str:
    """Return the page after a logout.

    Args:
        frames: What is loaded in hidden iframes (Front-Channel Logout 1.0, 3).
        target: Where the browser goes on to, once all of them are loaded.
        note: Why it does not.
        wait_seconds: How long a browser waits for the iframes at most.
    """
    iframes = "".join(_iframe(f"frame{number}", frame) for number, frame in enumerate(frames))
    if target is None:
        return _page("Signed out", f"<p>You have signed out. {escape(note)}</p>{iframes}")
    return _page(
        "Signing out",
        f'<p>The other apps are told.</p>{iframes}<p><a id="continue" href="{escape(target)}">Continue</a></p>'
        "<script>addEventListener('load', () => location.replace(document.getElementById('continue').href))</script>",
        head=f'<meta http-equiv="refresh" content="{wait_seconds};url={escape(target)}">',
    )


def _iframe(name: str, frame: Frame) -> str:
    if frame.method == "GET":
        return f'<iframe src="{escape(with_query(frame.uri, frame.parameters))}"></iframe>'
    return (
        f'<iframe name="{name}"></iframe>'
        f'<form method="post" action="{escape(frame.uri)}" target="{name}">{_hidden(frame.parameters)}</form>'
        f"<script>document.forms[document.forms.length - 1].submit()</script>"
    )


def _hidden(fields: Mapping[str, str]) -> str:
    return "".join(
        f'<input type="hidden" name="{escape(name)}" value="{escape(value)}">'
        for name, value in fields.items()
    )


def with_query(uri: str, parameters: Mapping[str, str]) -> str:
    """Add parameters to a URI, and keep the query that it has."""
    if not parameters:
        return uri
    return f"{uri}{'&' if '?' in uri else '?'}{urlencode(parameters)}"


def error(title: str, detail: str) -> str:
    """Return a page that says what was wrong with a request."""
    return _page(title, f"<p>{escape(detail)}</p>")
