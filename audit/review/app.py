"""The pages and actions of the review; every one of them stands behind ``guard.Guard``.

Everything works as plain pages and forms; ``review.js`` adds the keys and spares reloads.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, quote, unquote

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from roclip_audit.audit.decision_log import MAX_NOTE, MAX_REVIEWER
from roclip_audit.audit.formats import cell_text
from roclip_audit.audit.review.desk import CAPTION_CHARACTERS, Desk, Page
from roclip_audit.audit.review.guard import Access, Guard
from roclip_audit.audit.review.listing import OPERATORS, SHOW, TYPES, Listing, parse_listing
from roclip_audit.audit.review.thumbnails import EDGES, icon, placeholder
from roclip_audit.core.errors import ConfigError, RoclipAuditError
from roclip_audit.core.terminal import printable

STATIC: Final = {"review.css": "text/css; charset=utf-8", "review.js": "text/javascript; charset=utf-8"}
_FOLDER = Path(__file__).parent / "static"
_REVIEWER_COOKIE: Final = "roclip_reviewer"
_FULL_CAPTION = 20_000
_Endpoint = Callable[[Request], Awaitable[Response]]


def _shown(text: object, limit: int = CAPTION_CHARACTERS) -> str:
    """Return text of a shard on one line, with controls and reordering marks as escapes; the template escapes HTML."""
    return "" if text is None else printable(str(text), limit=limit)


def _full(text: object) -> str:
    return _shown(text, _FULL_CAPTION)


def _number(value: object) -> str:
    return "–" if value is None else _shown(cell_text(value), 60)


def _templates() -> Environment:
    pages = Environment(
        loader=PackageLoader("roclip_audit.audit.review"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters |= {"shown": _shown, "full": _full, "number": _number, "count": "{:,}".format}
    pages.globals |= {"SHOW": tuple(SHOW), "TYPES": tuple(TYPES), "OPERATORS": tuple(OPERATORS), "MAX_NOTE": MAX_NOTE}
    return pages


def _own_path(text: str) -> str:
    """Return where to go back to after a form: a page of ours, whatever was asked for."""
    ok = text.startswith("/") and not text.startswith(("//", "/\\")) and text.isprintable() and "\\" not in text
    return text if ok else "/"


class Site:
    """The routes over one desk."""

    def __init__(self, desk: Desk, *, reviewer: str) -> None:
        self._desk = desk
        self._reviewer = reviewer
        self._pages = _templates()

    def routes(self) -> list[Route]:
        """Return all routes."""
        return [
            Route("/", self._page(self.grid)),
            Route("/pair/{uid}", self._page(self.single)),
            Route("/campaigns", self._page(self.campaigns)),
            Route("/count", self._page(self.count)),
            Route("/image/{uid}/{size}", self._page(self.image)),
            Route("/trigger/{campaign:int}", self._page(self.trigger)),
            Route("/static/{name}", self._page(self.static)),
            Route("/icon", self._page(self.icon)),
            Route("/decide", self._action(self.decide), methods=["POST"]),
            Route("/undo", self._action(self.undo), methods=["POST"]),
            Route("/reviewer", self._action(self.rename), methods=["POST"]),
        ]

    def _page(self, answer: Callable[[Request], Response]) -> _Endpoint:
        async def endpoint(request: Request) -> Response:
            try:
                return await run_in_threadpool(answer, request)
            except RoclipAuditError as error:
                return await run_in_threadpool(self._failed, request, error)

        return endpoint

    def _action(self, act: Callable[[Request, dict[str, Any]], Response]) -> _Endpoint:
        async def endpoint(request: Request) -> Response:
            try:
                given = _given(request.headers.get("content-type", ""), await request.body())
                return await run_in_threadpool(act, request, given)
            except RoclipAuditError as error:
                if _wants_json(request):
                    return JSONResponse({"error": printable(str(error), limit=500)}, 400)
                return await run_in_threadpool(self._failed, request, error)

        return endpoint

    def _who(self, request: Request) -> str:
        name = _shown(unquote(request.cookies.get(_REVIEWER_COOKIE, "")), MAX_REVIEWER).strip()
        return name or self._reviewer

    def _render(self, name: str, request: Request, *, status: int = 200, **values: object) -> Response:
        here = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        values = {"listing": Listing(), "error": None} | values
        values |= {
            "progress": self._desk.progress(),
            "reviewer": self._who(request),
            "run": self._desk.name,
            "here": here if request.method == "GET" else "/",
        }
        return HTMLResponse(self._pages.get_template(name).render(values), status)

    def _failed(self, request: Request, error: RoclipAuditError) -> Response:
        if _wants_json(request):
            return JSONResponse({"error": printable(str(error), limit=500)}, 400)
        listing, message = Listing(), printable(str(error), limit=500)
        if request.url.path == "/":
            try:
                listing = parse_listing(request.query_params.multi_items())
            except ConfigError:
                listing = Listing()
        page = Page(cards=(), has_before=False, has_after=False)
        try:
            return self._render("grid.html", request, status=400, listing=listing, page=page, error=message)
        except RoclipAuditError:  # the database itself is out of reach
            return PlainTextResponse(message, 503)

    def grid(self, request: Request) -> Response:
        """Show a page of a list."""
        values = request.query_params
        listing = parse_listing(values.multi_items())
        if values.get("column"):  # the form's fields become one parameter
            return RedirectResponse(f"/?{listing.query()}", 303)
        page = self._desk.page(listing, after=values.get("after", ""), before=values.get("before", ""))
        return self._render("grid.html", request, listing=listing, page=page)

    def single(self, request: Request) -> Response:
        """Show one pair with all its evidence."""
        uid = request.path_params["uid"]
        listing = parse_listing(request.query_params.multi_items())
        report, history, campaigns = self._desk.pair(uid)
        before, after = self._desk.beside(listing, uid) if report.scored else (None, None)
        facts = {fact.name: fact for fact in report.evidence}
        return self._render(
            "single.html", request, listing=listing, pair=report, history=history, campaigns=campaigns, before=before,
            after=after, facts=facts,
        )  # fmt: skip

    def campaigns(self, request: Request) -> Response:
        """Show all campaigns."""
        return self._render("campaigns.html", request, campaigns=self._desk.campaigns())

    def count(self, request: Request) -> Response:
        """Return how many pairs a list has."""
        return JSONResponse({"count": self._desk.count(parse_listing(request.query_params.multi_items()))})

    def image(self, request: Request) -> Response:
        """Return a pair's picture, drawn anew."""
        size = request.path_params["size"]
        if size not in EDGES:
            return PlainTextResponse("No such size.", 404)
        data, note = self._desk.picture(request.path_params["uid"], size)
        return _jpeg(placeholder(note), 404) if data is None else _jpeg(data)

    def trigger(self, request: Request) -> Response:
        """Return what the images of a campaign share, drawn anew."""
        data = self._desk.trigger(request.path_params["campaign"])
        return _jpeg(placeholder("no trigger"), 404) if data is None else _jpeg(data)

    def icon(self, request: Request) -> Response:
        """Return the picture for the browser's tab."""
        return _jpeg(icon())

    def static(self, request: Request) -> Response:
        """Return one of the two files that the pages load."""
        name = request.path_params["name"]
        if name not in STATIC:
            return PlainTextResponse("No such file.", 404)
        return Response((_FOLDER / name).read_bytes(), headers={"content-type": STATIC[name]})

    def decide(self, request: Request, given: dict[str, Any]) -> Response:
        """Write a decision about pairs or a campaign."""
        verdict, note = _text(given, "verdict"), _text(given, "note") or None
        who, campaign = self._who(request), _text(given, "campaign")
        if campaign:
            if not (campaign.isascii() and campaign.isdecimal() and len(campaign) < 10):
                raise ConfigError("no such campaign")
            suspicious = _text(given, "suspicious") == "1"
            n = self._desk.decide_campaign(int(campaign), verdict, suspicious=suspicious, reviewer=who, note=note)
        else:
            n = self._desk.decide(_uids(given), verdict, reviewer=who, note=note)
        return self._done(request, given, {"n": n, "reviewer": who})

    def undo(self, request: Request, given: dict[str, Any]) -> Response:
        """Take back the reviewer's last action."""
        found = self._desk.undo(self._who(request))
        n, left = found or (0, 0)
        return self._done(request, given, {"n": n, "left": left})

    def rename(self, request: Request, given: dict[str, Any]) -> Response:
        """Set the name that decisions are written under from this browser."""
        answer = self._done(request, given, {})
        name = _text(given, "reviewer").strip()[:MAX_REVIEWER]
        answer.set_cookie(_REVIEWER_COOKIE, quote(name), httponly=True, samesite="strict", max_age=365 * 86400)
        return answer

    def _done(self, request: Request, given: dict[str, Any], result: dict[str, Any]) -> Response:
        if not _wants_json(request):
            return RedirectResponse(_own_path(_text(given, "back")), 303)
        progress = self._desk.progress()
        names = ("flagged", "flagged_decided", "kept", "dropped")
        return JSONResponse(result | {"progress": {name: getattr(progress, name) for name in names}})


def _wants_json(request: Request) -> bool:
    return "application/json" in request.headers.get("accept", "")


def _given(kind: str, body: bytes) -> dict[str, Any]:
    """Read a form or a JSON object.

    Raises:
        ConfigError: it is neither.
    """
    try:
        if kind.startswith("application/x-www-form-urlencoded"):
            pairs = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=10_000)
            return dict(pairs) | {"uids": [value for name, value in pairs if name == "uid"]}
        if kind.startswith("application/json"):
            value = json.loads(body)
            if isinstance(value, dict):
                return value
    except (ValueError, RecursionError) as error:
        raise ConfigError("a form or a JSON object was expected") from error
    raise ConfigError("a form or a JSON object was expected")


def _text(given: dict[str, Any], name: str) -> str:
    value = given.get(name)
    return value if isinstance(value, str) else ""


def _uids(given: dict[str, Any]) -> list[str]:
    value = given.get("uids")
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []


def _jpeg(data: bytes, status: int = 200) -> Response:
    age = "private, max-age=3600" if status == 200 else "no-store"
    return Response(data, status, headers={"content-type": "image/jpeg", "cache-control": age})


def make_app(desk: Desk, access: Access, *, reviewer: str) -> Guard:
    """Return the whole application, guarded.

    Args:
        desk: the run under review.
        access: who may ask.
        reviewer: name for decisions from browsers that did not give one.
    """
    return Guard(Starlette(routes=Site(desk, reviewer=reviewer).routes()), access)
