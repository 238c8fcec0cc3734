"""What stands before every page: who may ask, from where, and what the browser may do with the answer.

A request needs the cookie that only the printed URL gives (its token is compared in constant time and leaves the
address bar at once). ``Host`` must be a name that cannot be somebody else's domain, or a page elsewhere could be
rebound to this address. What changes something must come from a page of ours (``Origin``). Answers carry a policy under
which no script but ours runs, wherever a caption may have got to.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS: Final[Mapping[str, str]] = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
MAX_BODY: Final = 1 << 20
_SAFE: Final = frozenset({"GET", "HEAD"})


def is_loopback(host: str) -> bool:
    """Tell whether an address that a server binds to can be reached from this machine only."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Who may ask.

    Attributes:
        host: the address that the server binds to.
        token: what the printed URL holds.
        session: what the cookie holds; not the token, which people paste.
    """

    host: str = "127.0.0.1"
    token: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    session: str = field(default_factory=lambda: secrets.token_urlsafe(32))

    def knows_host(self, host: str) -> bool:
        """Tell whether a ``Host`` header names us: an address is nobody's domain, and of the names only our own are.

        The port may be another one: that of a tunnel.
        """
        name = urlsplit(f"//{host}").hostname or ""
        if name in {"localhost", self.host.lower()}:
            return True
        return is_loopback(name) if is_loopback(self.host) else _is_address(name)


def _cookie(headers: Headers, name: str) -> str:
    for part in headers.get("cookie", "").split(";"):
        key, _, value = part.strip().partition("=")
        if key == name:
            return value
    return ""


def _same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode(), expected.encode())


def _foreign(scope: Scope, headers: Headers) -> bool:
    """Tell whether a page that is not ours made the browser ask.

    Under ``no-referrer`` a form of ours sends ``Origin: null``; then ``Sec-Fetch-Site``, which no page can set,
    decides.
    """
    site = headers.get("sec-fetch-site", "")
    if scope["method"] in _SAFE:
        return site in {"cross-site", "same-site"} and headers.get("sec-fetch-mode") != "navigate"
    origin = headers.get("origin", "null")
    if origin == "null":
        return site != "same-origin"
    return origin not in {f"{scheme}://{headers.get('host', '')}" for scheme in ("http", "https")}


class Guard:
    """ASGI middleware that lets through what ``Access`` allows, and puts HEADERS on every answer."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # no websockets here
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                headers.setdefault("cache-control", "no-store")
            await send(message)

        refusal = self._refusal(scope)
        await (refusal or self._app)(scope, receive, send_guarded)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        if not self._access.knows_host(headers.get("host", "")):
            return PlainTextResponse("Unknown host. Open the address that roclip-audit review printed.", 421)
        if scope["method"] not in {*_SAFE, "POST"}:
            return PlainTextResponse("Only GET and POST are answered.", 405)
        if _foreign(scope, headers):
            return PlainTextResponse("This request came from another page.", 403)
        if not headers.get("content-length", "0").isdecimal() or int(headers.get("content-length", "0")) > MAX_BODY:
            return PlainTextResponse("Too much at once.", 413)
        cookie = f"roclip_review_{scope['server'][1] if scope.get('server') else 0}"
        values = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        token = next((value for name, value in values if name == "token"), None)
        if token is not None and scope["method"] in _SAFE and _same(token, self._access.token):
            rest = urlencode([(name, value) for name, value in values if name != "token"])
            # One slash: two would lead to another host.
            path = "/" + scope["path"].lstrip("/\\")
            answer = RedirectResponse(path + (f"?{rest}" if rest else ""), 303)
            answer.set_cookie(cookie, self._access.session, httponly=True, samesite="strict", path="/")
            return answer
        if not _same(_cookie(headers, cookie), self._access.session):
            return PlainTextResponse("Open the address with the token that roclip-audit review printed.", 403)
        return None
