"""Who may see what: the gate every route stands behind, and the way through it, a login at the Hub.

Unless they have host names of their own, all learners' notebook servers share the portal's origin, so a script on
``/user/NAME/`` can send requests with the cookie of whoever reads it. Therefore a cookie alone opens only what a
person navigates to; everything else that comes with a cookie must carry the XSRF token, which only the portal's own
pages hold. ``Authorization: token …`` needs none of this: no browser adds it by itself.

With host names of their own, a learner's page can still set cookies for the hosts beside it, and so have somebody use
the portal as the learner. Cookies called ``__Host-…`` cannot be set so. They must have the path ``/``, which is why
they are called that only where nobody else is on the portal's host.
"""

from __future__ import annotations

import re
import secrets
from typing import Annotated

from fastapi import Depends, Form, HTTPException, Request
from fastapi.responses import RedirectResponse
from starlette.concurrency import run_in_threadpool

from gradlab.portal.context import portal_of
from gradlab.portal.hubauth import KEEP_SECONDS, Visitor
from gradlab.portal.sessions import LOGIN_SECONDS, SESSION_SECONDS, PendingLogin

__all__ = [
    "SESSION_COOKIE",
    "ApiInstructor",
    "ApiVisitor",
    "FormVisitor",
    "LoginNeeded",
    "PageInstructor",
    "PageVisitor",
    "StreamInstructor",
    "UnseenVisitor",
    "finish_login",
    "metrics_reader",
    "start_login",
    "still_instructor",
    "xsrf_of",
]

SESSION_COOKIE = "gradlab-portal"
_LOGIN_COOKIE = "gradlab-portal-login-"
_LOGINS_AT_ONCE = 5
# Else the notebooks' questions, one a learner every half minute, would be most of the Hub's work, and a write each.
_UNSEEN_KEEP_SECONDS = 300.0
# What JupyterHub asks for its own metrics.
_METRICS_SCOPE = "read:metrics"
_HUB_SESSION_COOKIE = "jupyterhub-session-id"
_AUTHORIZATION = re.compile(r"(?:token|bearer)\s+(\S+)\s*", re.IGNORECASE)

_NOT_THIS_PAGE = (
    "This page must carry its own XSRF token (the header X-XSRF-Token) to do that. Reload the portal and try again; "
    "programs use the header `Authorization: token …` instead."
)


class LoginNeeded(Exception):
    """A page was asked for by somebody the Hub does not know; the answer is a redirect to the Hub."""


async def page_visitor(request: Request) -> Visitor:
    """Whoever navigates to a page. LoginNeeded without a valid session."""
    token = _header_token(request)
    if token is None:
        _refuse_other_than_navigation(request)
        token = _cookie_token(request)
        if token is None:
            raise LoginNeeded
    try:
        return await _admit(request, token)
    except HTTPException as error:
        if error.status_code == 401:
            raise LoginNeeded from None
        raise


async def api_visitor(request: Request) -> Visitor:
    """Whoever sends a request to the API: 401 without a valid token or session, 403 without the XSRF token."""
    return await _api_visitor(request, request.headers.get("x-xsrf-token", ""))


async def stream_visitor(request: Request, xsrf: str = "") -> Visitor:
    """As ``api_visitor``; EventSource and links cannot send headers, so the XSRF token may be in the query."""
    return await _api_visitor(request, request.headers.get("x-xsrf-token", "") or xsrf)


async def form_visitor(request: Request, xsrf: Annotated[str, Form()] = "") -> Visitor:
    """As ``api_visitor``, for a form of the portal's own pages, which has the XSRF token in a field."""
    return await _api_visitor(request, xsrf)


async def unseen_visitor(request: Request) -> Visitor:
    """As ``api_visitor``, for what programs ask all the time: no sign that the person is here.

    The Hub's word is kept for minutes. So only what harms nobody after the token's end may be answered with it.
    """
    return await _api_visitor(request, request.headers.get("x-xsrf-token", ""), seen=False)


async def _api_visitor(request: Request, xsrf: str, *, seen: bool = True) -> Visitor:
    token = _header_token(request)
    if token is None:
        token = _cookie_token(request)
        if token is None:
            raise HTTPException(
                401, "Who are you? Log in at the portal, or send `Authorization: token …` with a token of the Hub."
            )
        sessions = portal_of(request).sessions
        if not (_is_navigation(request) or sessions.xsrf_matches(token, xsrf)):
            raise HTTPException(403, _NOT_THIS_PAGE)
    return await _admit(request, token, seen=seen)


PageVisitor = Annotated[Visitor, Depends(page_visitor)]
ApiVisitor = Annotated[Visitor, Depends(api_visitor)]
FormVisitor = Annotated[Visitor, Depends(form_visitor)]
UnseenVisitor = Annotated[Visitor, Depends(unseen_visitor)]


def page_instructor(visitor: PageVisitor) -> Visitor:
    return _instructor(visitor)


def api_instructor(visitor: ApiVisitor) -> Visitor:
    return _instructor(visitor)


def stream_instructor(visitor: Annotated[Visitor, Depends(stream_visitor)]) -> Visitor:
    return _instructor(visitor)


PageInstructor = Annotated[Visitor, Depends(page_instructor)]
ApiInstructor = Annotated[Visitor, Depends(api_instructor)]
StreamInstructor = Annotated[Visitor, Depends(stream_instructor)]


async def metrics_reader(request: Request) -> None:
    """Prometheus with a token that may read metrics, or an instructor."""
    token = _header_token(request)
    if token is not None and await portal_of(request).hub.holds(token, _METRICS_SCOPE):
        return
    _instructor(await api_visitor(request))


async def still_instructor(request: Request) -> bool:
    """Whether the login behind a long stream is still an instructor's."""
    token = _header_token(request) or _cookie_token(request)
    try:
        return token is not None and (await _admit(request, token)).instructor
    except HTTPException as error:
        return error.status_code == 503  # the Hub restarts: that is no reason to stop watching


def xsrf_of(request: Request) -> str:
    """The XSRF token for the page that answers this request."""
    token = _header_token(request) or _cookie_token(request)
    return "" if token is None else portal_of(request).sessions.xsrf(token)


def start_login(request: Request) -> RedirectResponse:
    """Send the browser to the Hub, and let it remember where it wanted to go.

    Each login has a cookie of its own, so that two tabs can log in at once; unfinished ones are cleared away.
    """
    portal = portal_of(request)
    target = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    login = PendingLogin(state=secrets.token_urlsafe(24), verifier=secrets.token_urlsafe(48), target=target)
    response = RedirectResponse(portal.hub.authorize_url(login.state, login.verifier), status_code=302)
    unfinished = [name for name in request.cookies if name.startswith(_named(request, _LOGIN_COOKIE))]
    for name in unfinished if len(unfinished) >= _LOGINS_AT_ONCE else ():
        _set_cookie(request, response, name, "", 0)
    cookie = _login_cookie(request, login.state)
    _set_cookie(request, response, cookie, portal.sessions.seal_login(login), LOGIN_SECONDS)
    return response


async def finish_login(request: Request, code: str, state: str) -> RedirectResponse:
    """Trade the code for a token, keep it in the session cookie, and open the page that was wanted."""
    portal = portal_of(request)
    _refuse_other_than_navigation(request)
    cookie = _login_cookie(request, state)
    login = portal.sessions.open_login(request.cookies.get(cookie, ""))
    if login is None or not secrets.compare_digest(login.state.encode(), state.encode("utf-8", "replace")):
        raise HTTPException(
            400, "This login was begun in another browser, or more than ten minutes ago. Open the portal again."
        )
    token = await portal.hub.token_for_code(code, login.verifier)
    await _admit(request, token)
    response = RedirectResponse(login.target, status_code=302)
    _set_cookie(request, response, cookie, "", 0)
    _set_cookie(request, response, _named(request, SESSION_COOKIE), portal.sessions.seal(token), SESSION_SECONDS)
    return response


async def _admit(request: Request, token: str, *, seen: bool = True) -> Visitor:
    portal = portal_of(request)
    keep = KEEP_SECONDS if seen else _UNSEEN_KEEP_SECONDS
    visitor = await portal.hub.identify(token, request.cookies.get(_HUB_SESSION_COOKIE, ""), keep=keep)
    if portal.presence.due(visitor) and seen:
        await run_in_threadpool(portal.presence.write, visitor)
    return visitor


def _instructor(visitor: Visitor) -> Visitor:
    if not visitor.instructor:
        raise HTTPException(
            403,
            f"This is for instructors, and {visitor.name!r} is logged in as a learner. Your work is on the labs page.",
        )
    return visitor


def _header_token(request: Request) -> str | None:
    given = request.headers.get("authorization")
    if given is None:
        return None
    match = _AUTHORIZATION.fullmatch(given)
    if match is None:
        raise HTTPException(401, "The Authorization header must read `token …`, with a token of the Hub.")
    return match[1]


def _cookie_token(request: Request) -> str | None:
    cookie = request.cookies.get(_named(request, SESSION_COOKIE))
    return None if cookie is None else portal_of(request).sessions.open(cookie)


def _is_navigation(request: Request) -> bool:
    """A person opens this address in a window of its own; the browser vouches for it."""
    headers = request.headers
    return (
        request.method in ("GET", "HEAD")
        and headers.get("sec-fetch-mode") == "navigate"
        and headers.get("sec-fetch-dest") == "document"
    )


def _refuse_other_than_navigation(request: Request) -> None:
    """Browsers leave these headers out on plain http to another machine; everywhere else they cannot be forged."""
    mode = request.headers.get("sec-fetch-mode", "navigate")
    target = request.headers.get("sec-fetch-dest", "document")
    if mode != "navigate" or target != "document":
        raise HTTPException(403, "The portal's pages open in a browser window, not in a frame or from a script.")


def _named(request: Request, name: str) -> str:
    """A cookie's name, with which no other host can set it where the portal has one of its own."""
    return f"__Host-{name}" if portal_of(request).hub.public else name


def _login_cookie(request: Request, state: str) -> str:
    return _named(request, _LOGIN_COOKIE) + re.sub(r"[^A-Za-z0-9]", "", state)[:12]


def _set_cookie(request: Request, response: RedirectResponse, name: str, value: str, seconds: int) -> None:
    """Of no seconds, to delete it: a browser heeds that only with the attributes that the name demands."""
    portal = portal_of(request)
    # A proxy in front says how the browser came; the nearest one appends to the list.
    scheme = request.headers.get("x-forwarded-proto", request.url.scheme).split(",")[0].strip()
    response.set_cookie(
        name,
        value,
        max_age=seconds,
        path="/" if portal.hub.public else portal.prefix,
        httponly=True,
        samesite="lax",
        secure=portal.settings.secure or scheme == "https",
    )
