"""RP-initiated logout: the sign-out that starts in this app (OpenID Connect RP-Initiated Logout 1.0).

1. The session ends here first; then the browser is redirected. Nothing depends on its coming back.
2. A request that another site may have caused ends nothing: it gets a page that asks.
3. Where the browser goes is configured. A request's values select a target by equality, or do nothing.
4. What could not be completed is said.
"""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

from . import pages, remote
from ._drive import World, settle
from .configuration import Configuration
from .ending import Outcome, Steps, Target, Work, end_sessions, finish, look_again, others, put_off
from .events import LogoutFailed, LogoutRefused
from .http import Cookie, Header, Request, Response, SameSite
from .provider import end_session_url
from .records import handles
from .session import Claims, Session
from .targets import chosen_target, origin_of

logger = logging.getLogger("msal_logout_middleware")

PAGE_SECONDS = 3600
STATE_SECONDS = 3600

_LOCALES = re.compile(r"[A-Za-z0-9-]{1,35}( [A-Za-z0-9-]{1,35}){0,9}")


class AppView:
    """The app's own logout view is called with the cookie intact; then the session goes.

    Args:
        config: The configuration.
        request: The request that the app is to see.
        outcome: What was done before the call; `None` if nobody was signed in.
        confirmed: The browser has posted the form of our page, which the app does not see.
    """

    def __init__(
        self, config: Configuration, request: Request, outcome: Outcome | None, *, confirmed: bool = False
    ) -> None:
        self.request = request
        self._confirmed = confirmed
        self._config = config
        self._outcome = outcome
        self._finished = outcome is None

    def status(self, status: int) -> int:
        """Return the status to send: a redirect must not have our page's form posted on to the provider."""
        if status in (404, 405):
            logger.warning(
                "app_view=True, but the app has no view for the logout path: it answers %d", status
            )
        return 303 if self._confirmed and status in (307, 308) else status

    async def headers(self, headers: Sequence[Header], world: World) -> Sequence[Header] | Response:
        """Look again, now that the app's headers are ready: delete the session, strip its cookie.

        Returns:
            The headers to send, or the answer to send in the app's place, because something is left to do.
        """
        if self._outcome is None:
            return [*headers, *_page_deletion(self._config, self.request)]
        steps = Steps(self._config, world)
        outcome = await look_again(self._config, self._outcome, steps)
        self._outcome = outcome = await finish(self._config, outcome, steps)
        self._finished = True
        if not outcome.complete and self._config.on_store_error == "page":
            onward = await _onward(self._config, self.request, world, outcome.work.claims, None)
            return _failure(self._config, self.request, outcome.work.as_json(), onward)
        kept = [(name, value) for name, value in headers if not self._config.signs_in(name, value)]
        return [*kept, *_deletions(self._config, self.request)]

    async def instead(self, world: World) -> Response:
        """Return the answer where the app is not called, since whether the session lives cannot be told."""
        result = await self.headers((), world)
        return result if isinstance(result, Response) else pages.unavailable().with_headers(*result)

    async def returned(self, world: World) -> None:
        """Look once more, now that the app has returned: streams and background tasks save late."""
        if self._outcome is None:
            return
        steps = Steps(self._config, world)
        outcome = await look_again(self._config, self._outcome, steps)
        if not self._finished or set(outcome.left) - set(self._outcome.left):
            await finish(self._config, outcome, steps)


async def log_out(config: Configuration, request: Request, world: World) -> Response | AppView:
    """Answer a request on the logout path."""
    if request.method not in config.methods:
        allow = ("allow", ", ".join((*config.methods, "OPTIONS")))
        if request.method == "OPTIONS":
            return Response(204, (allow, *pages.NO_STORE))
        text = "" if request.method == "HEAD" else f"To sign out, use {' or '.join(config.methods)}."
        return pages.plain(405, text).with_headers(allow)
    if _is_prefetch(request):
        return Response(204, pages.NO_STORE)
    if (retry := _retry(config, request)) is not None:
        return await _try_again(config, request, world, retry)

    steps = Steps(config, world)
    session = await steps.do("read", lambda: settle(config.session.read(request.cookie_header)))
    if steps.left:  # who this is cannot be told
        if not _is_own(config, request):
            return _ask(config, request, None)
        return await _unreadable(config, request, world)

    confirmed = _is_confirmed(config, request, session)
    if not confirmed and not _is_own(config, request):
        await config.tell(LogoutRefused("rp-initiated", "not from this app; asking for confirmation"))
        return _ask(config, request, session)

    if config.app_view:
        outcome = None
        if session is not None and session.claims is not None:
            outcome = await _end(config, session, steps, view_follows=True)
        # The page that asked posts a form of ours; the app gets the request that it would have had without it.
        method = "GET" if "GET" in config.methods else config.methods[0]
        seen = replace(request, method=method, body=b"") if confirmed else request
        return AppView(config, seen, outcome, confirmed=confirmed)

    if session is None or session.claims is None:
        logger.info("logout: nobody is signed in, or not where claims= of the session says that claims are")
        return _forward(await _onward(config, request, world, {}, None))
    outcome = await _end(config, session, steps)
    return await _answer(config, request, world, outcome)


def came_back(config: Configuration, request: Request) -> Response | None:
    """Answer the provider's redirect back to us, where it is ours (RP-Initiated Logout 1.0, 3).

    Returns:
        A redirect to where the sign-out was to end; `None` if the app is to answer. A `state` that is missing or
        not the browser's own does nothing.
    """
    state = request.query_value("state")
    cookie = _state_cookie(config)
    values = request.cookies(cookie.name)
    if state is None or not values:
        return None
    for value in values:
        known = config.seal.verify("state", value, max_age_seconds=STATE_SECONDS)
        if isinstance(known, list) and secrets.compare_digest(str(known[0]).encode(), state.encode()):
            target = chosen_target(known[1], config.return_to) or config.post_logout_redirect_uri
            return pages.redirect(target, cookie.delete())
    return None


def _retry(config: Configuration, request: Request) -> dict[str, Any] | None:
    """Return what a page of ours sealed for another try, if this is the browser that was shown the page."""
    sealed = (request.form_value("retry") or "").encode()
    known = config.seal.open("retry", sealed, max_age_seconds=PAGE_SECONDS)
    return known if isinstance(known, dict) and _was_shown(config, request, known["nonce"]) else None


async def _try_again(
    config: Configuration, request: Request, world: World, known: dict[str, Any]
) -> Response:
    steps = Steps(config, world)
    if "cookie" not in known:
        work = Work.from_json(known)
        outcome = await end_sessions(config, work, steps, target=await _others(config, work, steps))
        return await _answer(config, request, world, outcome)
    session = await steps.do("read", lambda: settle(config.session.read(known["cookie"])))
    if steps.left:  # still away
        return await _unreadable(config, request, world, cookie_header=known["cookie"])
    if session is None or session.claims is None:
        return _forward(await _onward(config, request, world, {}, None))
    outcome = await _end(config, session, steps)
    return await _answer(config, request, world, outcome)


async def _end(
    config: Configuration, session: Session, steps: Steps, *, view_follows: bool = False
) -> Outcome:
    work = Work("rp-initiated", (config.known(session),))
    target = await _others(config, work, steps)
    return await end_sessions(config, work, steps, target=target, contents=session, view_follows=view_follows)


async def _others(config: Configuration, work: Work, steps: Steps) -> Target | None:
    """Return the user's other sessions, if they are to end as well; none that is somebody else's by now."""
    target = others(config, work)
    if target is None:
        return None
    taken_over = await steps.do("find", lambda: remote.spared(config, target.found_by))
    if taken_over is None:  # they end later, when it can be told whose they are
        await put_off(config, Work(work.channel), target)
        return None
    return target.sparing(taken_over)


async def _answer(config: Configuration, request: Request, world: World, outcome: Outcome) -> Response:
    onward = await _onward(config, request, world, outcome.work.claims, outcome.removed.id_token)
    if outcome.complete or config.on_store_error == "redirect":
        return _forward(onward)
    return _failure(config, request, outcome.work.as_json(), onward)


class _Onward(NamedTuple):
    """Where the browser goes on to: by a redirect, or by posting fields that are too long for a URL."""

    url: str
    fields: Mapping[str, str] | None
    headers: tuple[Header, ...]


async def _onward(
    config: Configuration, request: Request, world: World, claims: Claims, id_token: str | None
) -> _Onward:
    """Return the way to the provider; to the landing page, if the provider cannot be asked."""
    headers = (*_deletions(config, request), *_clear_site_data(config))
    endpoint = await config.provider.end_session_endpoint(claims, world)
    if endpoint is None:
        return _Onward(config.landing_page, None, headers)
    state = secrets.token_urlsafe(16)
    login_hint = claims.get("login_hint")
    locales = request.query_value("ui_locales") or ""
    parameters = {
        "client_id": config.provider.client_id,
        "post_logout_redirect_uri": config.post_logout_redirect_uri,
        "logout_hint": login_hint if isinstance(login_hint, str) else None,
        "id_token_hint": id_token if config.id_token_hint else None,
        "state": state,
        "ui_locales": locales if _LOCALES.fullmatch(locales) else None,
    }
    return_to = chosen_target(request.query_value("return_to"), config.return_to)
    signed = config.seal.sign("state", [state, return_to])
    headers = (*headers, _state_cookie(config).set(signed, max_age_seconds=STATE_SECONDS))

    url = end_session_url(endpoint, parameters)
    if len(url) > config.max_url_length and parameters["logout_hint"]:
        url = end_session_url(endpoint, parameters | {"id_token_hint": None})
    if len(url) > config.max_url_length:
        fields = {name: value for name, value in parameters.items() if value is not None}
        return _Onward(endpoint, fields, headers)
    return _Onward(url, None, headers)


def _forward(onward: _Onward) -> Response:
    if onward.fields is None:
        return pages.redirect(onward.url, *onward.headers)
    return pages.self_submitting(onward.url, onward.fields).with_headers(*onward.headers)


def _failure(config: Configuration, request: Request, work: dict[str, Any], onward: _Onward) -> Response:
    nonce = secrets.token_urlsafe(16)
    token = config.seal.seal("retry", work | {"nonce": nonce}).decode()
    page = pages.failure(
        _own_url(config, request), token=token, onward_url=onward.url, onward_fields=onward.fields
    )
    page = page.with_headers(*onward.headers)
    return page.with_headers(_page_cookie(config).set(nonce, max_age_seconds=PAGE_SECONDS))


async def _unreadable(
    config: Configuration, request: Request, world: World, cookie_header: str | None = None
) -> Response:
    await config.tell(LogoutFailed("rp-initiated", "unknown", ("read",)))
    onward = await _onward(config, request, world, {}, None)
    if config.on_store_error == "redirect":
        return _forward(onward)
    if cookie_header is None:
        names = {cookie.name for cookie in config.session.cookies}
        cookie_header = "; ".join(f"{n}={v}" for n in names for v in request.cookies(n))
    return _failure(config, request, {"cookie": cookie_header}, onward)


def _ask(config: Configuration, request: Request, session: Session | None) -> Response:
    nonce = secrets.token_urlsafe(16)
    token = config.seal.sign("confirm", [nonce, _bound_to(config, session)])
    cookie = _page_cookie(config).set(nonce, max_age_seconds=PAGE_SECONDS)
    return pages.confirmation(_own_url(config, request), token=token).with_headers(cookie)


def _is_confirmed(config: Configuration, request: Request, session: Session | None) -> bool:
    """Tell whether the person in this browser was asked about this session, and said yes."""
    token = request.form_value("confirm")
    known = config.seal.verify("confirm", token, max_age_seconds=PAGE_SECONDS)
    if not isinstance(known, list) or known[1] != _bound_to(config, session):  # signed: timing tells nothing
        return False
    return _was_shown(config, request, str(known[0]))


def _was_shown(config: Configuration, request: Request, nonce: str) -> bool:
    """Tell whether a form comes from the page of ours that this browser was shown last.

    An attacker's own form does not do: its nonce must match a cookie that only our answer sets, and that no other
    site's request carries (`SameSite=Strict`). It does once: the answer deletes the cookie.
    """
    cookies = request.cookies(_page_cookie(config).name)
    return any(secrets.compare_digest(value.encode(), nonce.encode()) for value in cookies)


def _bound_to(config: Configuration, session: Session | None) -> str:
    return "".join(handles(config.seal, session)[:1]) if session else ""


def _is_own(config: Configuration, request: Request) -> bool:
    """Tell whether this app, or the person at the address bar, made the request (Fetch Metadata)."""
    sites = [value for name, value in request.headers if name == "sec-fetch-site"]
    if sites:
        # A picture in what one user wrote must not sign out those who read it.
        wanted = request.header("sec-fetch-dest") in (None, "document", "empty")
        return wanted and len(sites) == 1 and sites[0] in ("same-origin", "none")
    said = request.header("origin") or request.header("referer")
    try:
        return said is not None and origin_of(said) in config.origins
    except ValueError:
        return False


def _is_prefetch(request: Request) -> bool:
    """Tell whether a browser asks ahead of a click; nobody wants to sign out yet."""
    return any("prefetch" in (request.header(name) or "") for name in ("sec-purpose", "purpose", "x-moz"))


def _own_url(config: Configuration, request: Request) -> str:
    kept = {name: request.query_value(name) for name in ("return_to", "ui_locales")}
    query = urlencode({name: value for name, value in kept.items() if value is not None})
    # Of slashes in front one is left: two would name another host.
    path = "/" + quote(request.mount + config.logout_path, errors="replace").lstrip("/")
    return path + (f"?{query}" if query else "")


def _deletions(config: Configuration, request: Request) -> tuple[Header, ...]:
    return config.deletion_headers() + _page_deletion(config, request)


def _page_deletion(config: Configuration, request: Request) -> tuple[Header, ...]:
    page = _page_cookie(config)
    return (page.delete(),) if request.cookies(page.name) else ()


def _state_cookie(config: Configuration) -> Cookie:
    return _own_cookie(config, "msal_logout_state", "Lax")


def _page_cookie(config: Configuration) -> Cookie:
    return _own_cookie(config, "msal_logout_page", "Strict")


def _own_cookie(config: Configuration, name: str, same_site: SameSite) -> Cookie:
    secure = config.post_logout_redirect_uri.startswith("https:")
    return Cookie(f"__Host-{name}" if secure else name, secure=secure, same_site=same_site)


def _clear_site_data(config: Configuration) -> tuple[Header, ...]:
    if not config.clear_site_data:
        return ()
    return (("clear-site-data", ", ".join(f'"{kind}"' for kind in config.clear_site_data)),)
