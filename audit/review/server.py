"""Serve the review until it is interrupted: one process, threads for the queries, loopback unless exposed."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import uvicorn

from roclip_audit.audit.decision_log import MAX_REVIEWER, default_reviewer
from roclip_audit.audit.decisions import fold
from roclip_audit.audit.review.app import make_app
from roclip_audit.audit.review.desk import Desk
from roclip_audit.audit.review.guard import Access, is_loopback
from roclip_audit.audit.store import open_readonly
from roclip_audit.core.errors import ConfigError, StoreLockedError
from roclip_audit.core.run import RunFolder


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewSettings:
    """How the page is served; ``port`` 0 takes a free one, ``expose`` allows a host that others can reach."""

    host: str = "127.0.0.1"
    port: int = 0
    expose: bool = False
    reviewer: str | None = None


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise ConfigError(f"cannot listen on {host} port {port} ({error.strerror or error}); use another") from error


def serve(run: RunFolder, settings: ReviewSettings, *, ready: Callable[[str], object]) -> None:
    """Serve the review of a run until the process is interrupted, then copy the decisions into the database file.

    Args:
        run: the run folder.
        settings: where to listen, and as whom to decide.
        ready: called with the URL, token included, before the first request is answered.

    Raises:
        ConfigError: the address cannot be used, or is not loopback and ``expose`` is not set.
        StoreError: the database is missing, damaged, locked or of another version.
    """
    reviewer = default_reviewer() if settings.reviewer is None else settings.reviewer.strip()
    if not 0 < len(reviewer) <= MAX_REVIEWER:
        raise ConfigError(f"a reviewer's name has 1 to {MAX_REVIEWER} characters")
    if not is_loopback(settings.host) and not settings.expose:
        raise ConfigError(
            f"--host {settings.host} can be reached from other machines, without encryption; add --expose if you mean "
            "it, or leave it out and use a tunnel (ssh -L)"
        )
    with open_readonly(run):
        pass  # a database that cannot be read is said now, not in the browser
    desk = Desk(run)
    access = Access(host=settings.host)
    with _listen(settings.host, settings.port) as listener:
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        ready(f"http://{host}:{listener.getsockname()[1]}/?token={access.token}")
        config = uvicorn.Config(
            make_app(desk, access, reviewer=reviewer),
            access_log=False,  # it would hold the token
            log_level="warning",
            server_header=False,
            proxy_headers=False,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=3,
        )
        try:
            with suppress(KeyboardInterrupt):  # the ordinary end
                uvicorn.Server(config).run(sockets=[listener])
        finally:
            desk.close()
            with suppress(StoreLockedError):
                fold(run)
