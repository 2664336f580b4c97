"""Front-channel logout: the provider's hidden iframe (OpenID Connect Front-Channel Logout 1.0).

1. Nobody signed the request, so it ends only what it names: the session with its `sid`. It deletes a cookie only if
   that cookie bears the session that ended, since any site can have a browser make the request.
2. The answer is a page that does nothing, whatever was done.
3. No cookie is needed: browsers that block third-party cookies send none.
"""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import urlsplit

from . import pages, remote
from ._drive import World, settle
from .configuration import Configuration
from .ending import Steps
from .events import LogoutRefused
from .http import Header, Request, Response
from .records import handles
from .session import Session
from .targets import origin_of

_METHODS = ("GET", "POST")  # Azure AD B2C posts a form


async def log_out(config: Configuration, request: Request, world: World) -> Response:
    """Answer a request on the front-channel logout path."""
    if request.method not in _METHODS:
        return pages.plain(405, "").with_headers(("allow", ", ".join(_METHODS)))
    done = pages.inert(config.provider.origins())
    parameters = request.parameters()
    sids, issuers = ([value for name, value in parameters if name == wanted] for wanted in ("sid", "iss"))
    if len(sids) > 1 or len(issuers) > 1:
        await config.tell(LogoutRefused("front-channel", "sid or iss is repeated"))
        return done
    sid, iss = "".join(sids) or None, "".join(issuers) or None
    steps = Steps(config, world)
    session = await _cookies_session(config, request, steps)
    tid = (session.claims or {}).get("tid") if session else None
    if iss is not None and config.provider.issued(iss, tid) is False:  # Front-Channel Logout 1.0, 2
        await config.tell(LogoutRefused("front-channel", "iss is not the provider's"))
        return done
    if sid is None and not _may_lack_sid(config, request, session):
        await config.tell(LogoutRefused("front-channel", "no sid"))
        return done

    mine = session is not None and _is_meant(config, session, sid, iss)
    known = (config.known(session),) if mine and session is not None else ()
    if not known:  # anybody can send this: while the store is away it must not hold a thread
        steps = Steps(config, world, retry_seconds=0)
    sought = remote.Sought(iss=iss, sid=sid) if sid else remote.Sought()
    outcome = await remote.end(config, sought, steps, channel="front-channel", known=known)
    if outcome.work.is_empty and outcome.complete:
        await config.tell(LogoutRefused("front-channel", "no session has this sid"))
    ended = {handle for ended in outcome.work.sessions for handle in ended.handles}
    if mine or (session is not None and ended.intersection(handles(config.seal, session))):
        return done.with_headers(*_deletions(config))
    return done


async def _cookies_session(config: Configuration, request: Request, steps: Steps) -> Session | None:
    """Return the session of the request's cookie, in which somebody is signed in."""
    if not request.cookie_header or not any(
        request.cookies(cookie.name) for cookie in config.session.cookies
    ):
        return None
    session = await steps.do("read", lambda: settle(config.session.read(request.cookie_header)))
    return session if session is not None and session.claims is not None else None


def _may_lack_sid(config: Configuration, request: Request, session: Session | None) -> bool:
    """Tell whether a request without `sid` may end the cookie's session: by option, and from the provider's page."""
    if not config.front_channel_without_sid or session is None:
        return False
    referer = request.header("referer") or ""
    try:
        return bool(urlsplit(referer).hostname) and origin_of(referer) in config.provider.origins()
    except ValueError:
        return False


def _is_meant(config: Configuration, session: Session, sid: str | None, iss: str | None) -> bool:
    claims = session.claims or {}
    if sid is not None and claims.get("sid") != sid:
        return False
    if iss is not None:
        return bool(claims.get("iss") == iss)
    # Without `iss` the provider's own sessions are meant.
    return config.provider.issued(str(claims.get("iss")), claims.get("tid")) is not False


def _deletions(config: Configuration) -> tuple[Header, ...]:
    # In an iframe of another site's page browsers heed no other.
    return tuple(replace(cookie, same_site="None", secure=True).delete() for cookie in config.all_cookies)
